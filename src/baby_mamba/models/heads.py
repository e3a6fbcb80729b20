"""Models for a task: a head on the backbone, and the loss."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.errors import ShapeError
from baby_mamba.layers import MambaState
from baby_mamba.models.backbone import MambaBackbone
from baby_mamba.shapes import AttentionMask, Logits, SequenceIds, TokenIds

IGNORE_INDEX = -100  # a label of this value is not scored, as in torch and transformers


class MambaOutput(NamedTuple):
    """What a Mamba returns."""

    logits: Logits  # (batch, length, vocab_size): scores of the token that comes next
    loss: Tensor | None  # scalar, mean nats per scored token; None without labels
    state: MambaState  # pass it to the next call to go on from here


class Mamba(nn.Module):
    """The language model: backbone and a head that shares the embedding's weights.

        model = Mamba(MambaConfig(vocab_size=256))
        logits, loss, state = model(input_ids, labels=input_ids)

    Args:
        config: shape, initialisation and backend; vocab_size must be set.

    Raises:
        ConfigError: vocab_size is not set.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = MambaBackbone(config)
        self.lm_head = nn.Linear(config.d_model, self.backbone.embeddings.num_embeddings, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight
        else:
            nn.init.normal_(self.lm_head.weight, std=config.initializer_range)

    def forward(
        self,
        input_ids: TokenIds,
        labels: TokenIds | None = None,
        *,
        state: MambaState | None = None,
        attention_mask: AttentionMask | None = None,
        sequence_ids: SequenceIds | None = None,
    ) -> MambaOutput:
        """Score the next token at every position.

        Args:
            input_ids: (batch, length).
            labels: usually input_ids itself, (batch, length): shifted by one in here, so that the logits at t are
                scored against the label at t + 1. Labels of -100, padding, and the first token of each packed
                sequence are not scored.
            state: what an earlier call returned; None starts afresh.
            attention_mask: (batch, length), 0 where a row is padded on the left.
            sequence_ids: integers (batch, length); a change of id starts a new sequence within a row.

        Raises:
            ShapeError: an argument does not fit input_ids.
        """
        hidden, state = self.backbone(input_ids, state=state, attention_mask=attention_mask, sequence_ids=sequence_ids)
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            if labels.shape != input_ids.shape:
                raise ShapeError(
                    f"labels has shape {tuple(labels.shape)}; expected input_ids', {tuple(input_ids.shape)} "
                    "(they are shifted by one inside the model)"
                )
            targets = next_token_targets(labels, attention_mask, sequence_ids)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE_INDEX)
        return MambaOutput(logits, loss, state)

    def num_parameters(self) -> int:
        """Number of trainable numbers, the shared embedding counted once."""
        return sum(p.numel() for p in self.parameters())


def next_token_targets(
    labels: Tensor, attention_mask: Tensor | None = None, sequence_ids: Tensor | None = None
) -> Tensor:
    """What the logits at 0 ... length - 2 are scored against, (batch, length - 1).

    That is labels[:, 1:], with -100 where the step from t to t + 1 starts at padding or crosses into another sequence.
    """
    targets = labels[:, 1:]
    if attention_mask is not None:
        targets = targets.masked_fill(attention_mask[:, :-1] == 0, IGNORE_INDEX)
    if sequence_ids is not None:
        targets = targets.masked_fill(sequence_ids[:, 1:] != sequence_ids[:, :-1], IGNORE_INDEX)
    return targets
