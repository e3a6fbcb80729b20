"""Models, in reading order: backbone, heads, and then what to compare with, transformer and language_model."""

from baby_mamba.models.backbone import MambaBackbone
from baby_mamba.models.heads import Mamba, MambaOutput
from baby_mamba.models.language_model import LanguageModel, ModelState, build_model
from baby_mamba.models.transformer import Transformer

__all__ = ["LanguageModel", "Mamba", "MambaBackbone", "MambaOutput", "ModelState", "Transformer", "build_model"]
