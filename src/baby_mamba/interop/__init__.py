"""Other libraries' ways: `hugging_face` for checkpoint files, `mamba_ssm` for names, layouts and signatures."""
