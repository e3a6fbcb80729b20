"""baby_mamba."""
