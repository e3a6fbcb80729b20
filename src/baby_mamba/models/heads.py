"""Models for a task: a head on the backbone, and the loss."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.data import IGNORE_INDEX, Tokenizer
from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.interop import hugging_face
from baby_mamba.layers import MambaState
from baby_mamba.models.backbone import MambaBackbone, vocabulary_head
from baby_mamba.ops import linear_cross_entropy
from baby_mamba.shapes import AttentionMask, Hidden, Logits, SequenceIds, TokenIds


class MambaOutput(NamedTuple):
    """What a Mamba returns."""

    logits: Logits | None  # (batch, length, vocab_size): scores of the token that comes next; None if not asked for
    loss: Tensor | None  # scalar, mean nats per scored token; None without labels
    state: MambaState  # pass it to the next call to go on from here


class Mamba(nn.Module):
    """The language model: backbone and a head that shares the embedding's weights.

        model = Mamba(MambaConfig(vocab_size=256))
        logits, loss, state = model(input_ids, labels=input_ids)

    Args:
        config: shape, initialisation and backend; vocab_size must be set.

    Raises:
        ConfigError: vocab_size is not set, or architecture or objective is another one.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        if config.architecture != "mamba":
            raise ConfigError(
                f"model_config.architecture = {config.architecture} is no Mamba; build it with build_model(config)"
            )
        if config.objective != "next_token":
            raise ConfigError(
                f"model_config.objective = {config.objective} is not what a Mamba learns, which reads from left to "
                "right; build MambaForMaskedLM(config) or build_model(config)"
            )
        self.config = config
        self.backbone = MambaBackbone(config)
        self.lm_head = vocabulary_head(config, self.backbone.embeddings)

    def forward(
        self,
        input_ids: TokenIds,
        labels: TokenIds | None = None,
        *,
        state: MambaState | None = None,
        attention_mask: AttentionMask | None = None,
        sequence_ids: SequenceIds | None = None,
        return_logits: bool = True,
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
            return_logits: False leaves the logits out. The loss is then computed without ever holding those of all
                tokens, which with a large vocabulary saves most of the memory of a training step.

        Raises:
            ShapeError: an argument does not fit input_ids.
        """
        hidden, state = self.backbone(input_ids, state=state, attention_mask=attention_mask, sequence_ids=sequence_ids)
        logits = self.lm_head(hidden) if return_logits else None
        loss = None
        if labels is not None:
            if labels.shape != input_ids.shape:
                raise ShapeError(
                    f"labels has shape {tuple(labels.shape)}; expected input_ids', {tuple(input_ids.shape)} "
                    "(they are shifted by one inside the model)"
                )
            targets = next_token_targets(labels, attention_mask, sequence_ids)
            loss = next_token_loss(hidden, logits, targets, self.lm_head, backend=self.config.backend)
        return MambaOutput(logits, loss, state)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        backend: str = "auto",
    ) -> "Mamba":
        """Build the model of a published checkpoint, in evaluation mode.

        The original format (state-spaces/mamba-130m ... 2.8b) and transformers' (mamba, falcon_mamba) are read;
        `baby_mamba.interop.hugging_face` says how, and how text becomes ids. Only tensors are loaded, never code.

        Args:
            name: a folder, or the name of a repository on the Hugging Face hub, of which only config.json and the
                weights are downloaded, to be kept in the hub's cache.
            revision: branch, tag or commit of the repository.
            dtype: of the parameters; A_log and D stay in float32 where this is narrower.
            device: where to put them.
            backend: implementation of the operations.

        Raises:
            CheckpointError: it cannot be found or downloaded, is not of a Mamba, is damaged, or its tensors do not
                fit its config.json; the message names what is missing, unknown or of another shape.
        """
        return hugging_face.load_pretrained(cls, name, revision=revision, dtype=dtype, device=device, backend=backend)

    def save_pretrained(self, folder: str | Path, tokenizer: Tokenizer | None = None) -> None:
        """Write what transformers' `AutoModelForCausalLM.from_pretrained` and `from_pretrained` here load.

        Args:
            folder: made if it is missing; gets config.json, generation_config.json and model.safetensors.
            tokenizer: written beside them for AutoTokenizer, which `pipeline("text-generation")` and lm-eval need, and
                for `load_tokenizer`. char, byte and bpe have no token for the end of a text or for padding; one that
                no text has takes that place, U+FFFD in char and the byte 0 in the others.

        Raises:
            CheckpointError: the folder cannot be written, the tokenizer has more tokens than the model, or not all of
                Delta, B and C are selective or inputs are expanded in Legendre polynomials, for which the format has
                no place.
        """
        hugging_face.save_pretrained(self, self.config, folder, tokenizer)

    def num_parameters(self) -> int:
        """Number of trainable numbers, the shared embedding counted once."""
        return sum(p.numel() for p in self.parameters())


def next_token_loss(hidden: Hidden, logits: Logits | None, targets: Tensor, head: nn.Linear, *, backend: str) -> Tensor:
    """The mean of -log p(target) in nats, over all targets but -100.

    Args:
        hidden: what the head reads, (batch, length, d_model).
        logits: what it makes of that, if it is there; otherwise the logits of all tokens are never held at once.
        targets: (batch, length), as `next_token_targets` makes them.
        head: without a bias, unless the logits are given.
        backend: implementation of the operation.
    """
    if logits is None:
        return linear_cross_entropy(hidden, head.weight, targets, ignore_index=IGNORE_INDEX, backend=backend)
    wide = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets.flatten(), ignore_index=IGNORE_INDEX)


def next_token_targets(
    labels: Tensor, attention_mask: Tensor | None = None, sequence_ids: Tensor | None = None
) -> Tensor:
    """What the logits at each position are scored against, (batch, length).

    That is the label of the next position, and -100 at the last one and where the step to the next position starts at
    padding or crosses into another sequence.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    if attention_mask is not None:
        targets = targets.masked_fill(attention_mask == 0, IGNORE_INDEX)
    if sequence_ids is not None:
        crosses = sequence_ids != sequence_ids.roll(-1, dims=1)  # the last position is not scored anyway
        targets = targets.masked_fill(crosses, IGNORE_INDEX)
    return targets
