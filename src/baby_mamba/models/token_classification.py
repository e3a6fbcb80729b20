"""A label for every token, from what stands on both sides of it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.data import IGNORE_INDEX
from baby_mamba.errors import ConfigError
from baby_mamba.models.encoder import MambaEncoder, own_targets
from baby_mamba.shapes import AttentionMask, Logits, TokenIds


class TokenClassifierOutput(NamedTuple):
    """What a MambaForTokenClassification returns."""

    logits: Logits | None  # (batch, length, n_labels): scores of each token's label; None if not asked for
    loss: Tensor | None  # scalar, mean nats per labelled token; None without labels


class MambaForTokenClassification(nn.Module):
    """The bidirectional encoder with a linear layer that scores the labels of each token.

        model = MambaForTokenClassification(MambaConfig(vocab_size=256, n_labels=7))
        logits, loss = model(input_ids, labels=labels)

    Args:
        config: shape, initialisation and backend; vocab_size and n_labels must be set.

    Raises:
        ConfigError: vocab_size or n_labels is not set, or the architecture is another one.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        if config.n_labels is None:
            raise ConfigError(
                "model_config.n_labels is not set; give the number of labels, e.g. replace(config, n_labels=7), or "
                "build a language model with Mamba(config)"
            )
        self.config = config
        self.encoder = MambaEncoder(config)
        self.classifier = nn.Linear(config.d_model, config.n_labels)

    def forward(
        self,
        input_ids: TokenIds,
        labels: TokenIds | None = None,
        *,
        attention_mask: AttentionMask | None = None,
        return_logits: bool = True,
    ) -> TokenClassifierOutput:
        """Score the labels of every token.

        Args:
            input_ids: (batch, length).
            labels: of the tokens themselves, (batch, length) in [0, n_labels); -100 is not scored.
            attention_mask: (batch, length), 0 where a row is padded, on either side; padding is not scored.
            return_logits: False leaves the logits out.

        Raises:
            ShapeError: an argument does not fit input_ids.
        """
        logits = self.classifier(self.encoder(input_ids, attention_mask=attention_mask))
        loss = None
        if labels is not None:
            targets = own_targets(input_ids, labels, attention_mask)
            wide = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(wide, targets.flatten(), ignore_index=IGNORE_INDEX)
        return TokenClassifierOutput(logits if return_logits else None, loss)

    def num_parameters(self) -> int:
        """Number of trainable numbers."""
        return sum(p.numel() for p in self.parameters())
