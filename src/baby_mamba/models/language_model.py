"""The language model that a configuration names, whatever its architecture."""

from baby_mamba.config import MambaConfig
from baby_mamba.layers import MambaState
from baby_mamba.models.heads import Mamba
from baby_mamba.models.transformer import Transformer, TransformerState

LanguageModel = Mamba | Transformer
ModelState = MambaState | TransformerState


def build_model(config: MambaConfig) -> LanguageModel:
    """The model of `config.architecture`, with random weights.

    Raises:
        ConfigError: there is no such architecture, or it cannot be built in this size.
    """
    return Mamba(config) if config.architecture == "mamba" else Transformer(config)
