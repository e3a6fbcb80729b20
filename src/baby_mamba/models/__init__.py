"""Models, in reading order.

1. `backbone`, `heads`: the language model, which reads from left to right.
2. `encoder`, `masked_lm`, `token_classification`: what reads in both directions.
3. `transformer`, `language_model`: what to compare with, and the model that a configuration names.
"""

from baby_mamba.models.backbone import MambaBackbone
from baby_mamba.models.encoder import MambaEncoder
from baby_mamba.models.heads import Mamba, MambaOutput
from baby_mamba.models.language_model import LanguageModel, Model, ModelState, build_model
from baby_mamba.models.masked_lm import MambaForMaskedLM, MaskedLMOutput
from baby_mamba.models.token_classification import MambaForTokenClassification, TokenClassifierOutput
from baby_mamba.models.transformer import Transformer

__all__ = [
    "LanguageModel",
    "Mamba",
    "MambaBackbone",
    "MambaEncoder",
    "MambaForMaskedLM",
    "MambaForTokenClassification",
    "MambaOutput",
    "MaskedLMOutput",
    "Model",
    "ModelState",
    "TokenClassifierOutput",
    "Transformer",
    "build_model",
]
