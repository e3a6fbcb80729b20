"""The model that a configuration names, whatever its architecture and its objective."""

from baby_mamba.config import MambaConfig
from baby_mamba.layers import MambaState
from baby_mamba.models.heads import Mamba
from baby_mamba.models.masked_lm import MambaForMaskedLM
from baby_mamba.models.token_classification import MambaForTokenClassification
from baby_mamba.models.transformer import Transformer, TransformerState

LanguageModel = Mamba | Transformer  # predicts the next token, so it can score and write text
Model = LanguageModel | MambaForMaskedLM | MambaForTokenClassification  # what can be trained
ModelState = MambaState | TransformerState


def build_model(config: MambaConfig) -> Model:
    """The model of `config.architecture` and `config.objective`, with random weights; with n_labels, a classifier.

    Raises:
        ConfigError: there is no such architecture, or it cannot be built in this size.
    """
    if config.n_labels is not None:
        return MambaForTokenClassification(config)
    if config.objective == "masked":
        return MambaForMaskedLM(config)
    return Mamba(config) if config.architecture == "mamba" else Transformer(config)
