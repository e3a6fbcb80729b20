"""Hides tokens of a text, so that a model learns to find them again: masked language modelling.

    train_set = MaskedDataset(windows, mask_id=tokenizer.mask_id, fraction=0.15)
    input_ids, labels = train_set.batch(step=0, batch_size=16, seed=1337)  # (16, 256) each

    the text             T h e   s n a k e   i s   q u i c k .
    to be found again        e             e               c
    what is read         T h # _ s n a k t   i s   q u i c k .      # is the mask

The rule is BERT's (arXiv 1810.04805, section 3.1, task 1, and appendix A.1). Of the tokens that are to be found again,
80 % are read as the mask, 10 % as a random token and 10 % as themselves: so a model may trust no token blindly, and
its vectors mean something also in a text without masks. As in RoBERTa (arXiv 1907.11692, section 4.1), each epoch hides
other tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from baby_mamba.data.tasks import IGNORE_INDEX, LabelledBatch
from baby_mamba.errors import DataError

if TYPE_CHECKING:
    from baby_mamba.data.dataset import TokenDataset

_TRAINING, _HELD_OUT = 0, 1  # two streams of random numbers that have none in common
_MASKED, _REPLACED = 0.8, 0.1  # of the tokens that are to be found again; the rest is left as it is


def mask_tokens(
    tokens: Int64[np.ndarray, " length"], random: np.random.Generator, *, mask_id: int, fraction: float
) -> tuple[Int64[np.ndarray, " length"], Int64[np.ndarray, " length"]]:
    """Choose the tokens of one window that are to be found again, and hide most of them.

    Args:
        tokens: ids in [0, mask_id).
        random: where the choice comes from.
        mask_id: the mask, which is the last id of the vocabulary.
        fraction: how many are chosen, of all: this share, rounded, and at least one.

    Returns:
        (input_ids, labels), both (length,): what is read; and the chosen tokens where they stand, -100 elsewhere.
    """
    chosen = random.choice(len(tokens), max(1, round(fraction * len(tokens))), replace=False)
    fate = random.random(len(chosen))
    masked, replaced = chosen[fate < _MASKED], chosen[fate >= 1 - _REPLACED]
    input_ids, labels = tokens.copy(), np.full_like(tokens, IGNORE_INDEX)
    labels[chosen] = tokens[chosen]
    input_ids[masked] = mask_id
    input_ids[replaced] = random.integers(0, mask_id, len(replaced))
    return input_ids, labels


class MaskedDataset:
    """The windows of a `TokenDataset` with hidden tokens, equally many in each, and labels that say what they were.

    The labels stand at the positions of the hidden tokens themselves, as `MambaForMaskedLM` takes them.

    Args:
        windows: the text.
        mask_id: the mask, which is the last id of the vocabulary: `MaskTokenizer.mask_id`.
        fraction: share of the tokens that are to be found again.
        evaluation_seed: which tokens are hidden in evaluation; the mean over several seeds is more exact.

    Raises:
        DataError: the fraction is not between 0 and 1.
    """

    def __init__(
        self, windows: TokenDataset, *, mask_id: int, fraction: float = 0.15, evaluation_seed: int = 0
    ) -> None:
        if not 0 < fraction < 1:
            raise DataError(f"fraction = {fraction} of the tokens cannot be masked; expected a share between 0 and 1")
        self.windows, self.mask_id, self.fraction = windows, mask_id, fraction
        self.evaluation_seed = evaluation_seed

    @property
    def block_size(self) -> int:
        """Tokens in a window."""
        return self.windows.block_size

    @property
    def n_tokens(self) -> int:
        """Tokens in the text."""
        return self.windows.n_tokens

    def steps_per_epoch(self, batch_size: int, world_size: int = 1) -> int:
        """As `TokenDataset.steps_per_epoch`."""
        return self.windows.steps_per_epoch(batch_size, world_size)

    def batch(self, step: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> LabelledBatch:
        """The windows that a rank trains on at a step, and what is hidden in them: a function of the arguments alone.

        Arguments and errors are those of `TokenDataset.batch`.
        """
        windows = self.windows.batch(step, batch_size, seed=seed, rank=rank, world_size=world_size)
        return self._mask(windows, seed, _TRAINING, first=(step * world_size + rank) * batch_size)

    def evaluation_batches(self, batch_size: int) -> Iterator[LabelledBatch]:
        """The whole text in order, as `TokenDataset.evaluation_batches`; always the same tokens are hidden."""
        first = 0
        for windows in self.windows.evaluation_batches(batch_size):
            yield self._mask(windows, self.evaluation_seed, _HELD_OUT, first)
            first += len(windows)

    def _mask(self, windows: Int64[Tensor, "batch length"], seed: int, stream: int, first: int) -> LabelledBatch:
        input_ids, labels = zip(
            *(
                mask_tokens(
                    window,
                    np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream, number)))),
                    mask_id=self.mask_id,
                    fraction=self.fraction,
                )
                for number, window in enumerate(windows.numpy(), start=first)
            ),
            strict=True,
        )
        return LabelledBatch(torch.from_numpy(np.stack(input_ids)), torch.from_numpy(np.stack(labels)))
