"""Models, in reading order: backbone, then heads."""

from baby_mamba.models.backbone import MambaBackbone
from baby_mamba.models.heads import Mamba, MambaOutput

__all__ = ["Mamba", "MambaBackbone", "MambaOutput"]
