"""The model that finds hidden tokens again, from what stands on both sides of them."""

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.models.backbone import vocabulary_head
from baby_mamba.models.encoder import MambaEncoder, own_targets
from baby_mamba.models.heads import next_token_loss
from baby_mamba.shapes import AttentionMask, Logits, TokenIds


class MaskedLMOutput(NamedTuple):
    """What a MambaForMaskedLM returns."""

    logits: Logits | None  # (batch, length, vocab_size): scores of what each token is; None if not asked for
    loss: Tensor | None  # scalar, mean nats per scored token; None without labels


class MambaForMaskedLM(nn.Module):
    """The bidirectional encoder and a head that shares the embedding's weights: BERT's objective with Mamba inside.

        model = MambaForMaskedLM(MambaConfig(vocab_size=tokenizer.vocab_size))
        logits, loss = model(input_ids, labels=labels)

    A text in which `MaskTokenizer.mask_id` stands for the unknown is what it was trained on (arXiv 1810.04805).

    Args:
        config: shape, initialisation and backend; vocab_size, the mask included, must be set.

    Raises:
        ConfigError: vocab_size is not set, or the architecture is another one.

    Attributes:
        config: with objective = masked, so that a checkpoint says what is in it.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = replace(config, objective="masked", n_labels=None)
        self.encoder = MambaEncoder(self.config)
        self.lm_head = vocabulary_head(config, self.encoder.embeddings)

    def forward(
        self,
        input_ids: TokenIds,
        labels: TokenIds | None = None,
        *,
        attention_mask: AttentionMask | None = None,
        return_logits: bool = True,
    ) -> MaskedLMOutput:
        """Score what every token is, hidden or not.

        Args:
            input_ids: (batch, length).
            labels: (batch, length), -100 but where a token is to be found again. They are not shifted: the logits at t
                are scored against the label at t. Padding is not scored.
            attention_mask: (batch, length), 0 where a row is padded, on either side.
            return_logits: False leaves the logits out, and those of all tokens are then never held at once.

        Raises:
            ShapeError: an argument does not fit input_ids.
        """
        hidden = self.encoder(input_ids, attention_mask=attention_mask)
        logits = self.lm_head(hidden) if return_logits else None
        loss = None
        if labels is not None:
            targets = own_targets(input_ids, labels, attention_mask)
            loss = next_token_loss(hidden, logits, targets, self.lm_head, backend=self.config.backend)
        return MaskedLMOutput(logits, loss)

    def num_parameters(self) -> int:
        """Number of trainable numbers, what is shared counted once."""
        return sum(p.numel() for p in self.parameters())
