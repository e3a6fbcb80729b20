"""Synthetic tasks that tell a model which selects from one that cannot (Mamba, arXiv 2312.00752, sections 3.1 and 4.1).

    task = SelectiveCopying(length=4096, n_data_tokens=16, vocab_size=16)
    train_set = TaskDataset(task, n_held_out=512)
    input_ids, labels = train_set.batch(step=0, batch_size=64, seed=1337)  # (64, 4096) each

    selective copying, 3 tokens of data      . . 7 . . . 2 . 5 . . | | | |      read
                                                                     7 2 5      to be written
    induction heads                          4 1 9 * 3 8 1 1 5 9 2 *            read
                                                                     3          to be written

Both are endless: every example is a function of (seed, number of the example), and training never sees one twice. The
labels are -100 but where an answer stands. A model scores its output at a position against the label of the next one,
as everywhere in this library, so a row ends with its last answer, which the model predicts but does not read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from baby_mamba.config import DatasetConfig
from baby_mamba.errors import DataError

IGNORE_INDEX = -100  # a label of this value is not scored

_TRAINING, _HELD_OUT = 0, 1  # two streams of examples that have none in common


class LabelledBatch(NamedTuple):
    """Rows to read and what is to be predicted in them; both are int64, (batch, length)."""

    input_ids: Tensor
    labels: Tensor  # of the positions themselves, not shifted; -100 where nothing is scored

    def to(self, device: str | torch.device) -> LabelledBatch:
        """Both on a device; the copy does not wait where it starts from pinned memory."""
        input_ids = self.input_ids.to(device, non_blocking=True)
        is_one = self.labels is self.input_ids  # as `labelled` makes it of a text
        return LabelledBatch(input_ids, input_ids if is_one else self.labels.to(device, non_blocking=True))


def labelled(batch: Tensor | LabelledBatch) -> LabelledBatch:
    """A batch of any dataset with its labels: a text's are its own tokens, because every next token is predicted."""
    return batch if isinstance(batch, LabelledBatch) else LabelledBatch(batch, batch)


@dataclass(frozen=True)
class Task(ABC):
    """A synthetic task: how an example is drawn.

    Args:
        length: tokens in a row, the answers included.
        vocab_size: ids are in [0, vocab_size), those of special tokens included.

    Raises:
        DataError: the rows are too short for the task, or the vocabulary is too small.
    """

    length: int
    vocab_size: int

    def __post_init__(self) -> None:
        if self.vocab_size < 4:
            raise DataError(
                f"a vocabulary of {self.vocab_size} has fewer than two ordinary tokens beside the special ones; "
                "expected at least 4, so raise dataset.task_vocab_size"
            )
        if self.length < self.shortest:
            raise DataError(
                f"rows of {self.length} tokens are too short for {type(self).__name__}; expected at least "
                f"{self.shortest}, so raise model_config.block_size"
            )

    @property
    @abstractmethod
    def shortest(self) -> int:
        """The smallest length that leaves something to choose."""

    @abstractmethod
    def example(self, random: np.random.Generator) -> tuple[Int64[np.ndarray, " length"], Int64[np.ndarray, " length"]]:
        """Draw a row: (input_ids, labels), both (length,)."""


@dataclass(frozen=True)
class SelectiveCopying(Task):
    """Remember the tokens of data among noise, whose places differ from row to row, and write them down at the end.

    A model whose dynamics do not depend on the input can copy from fixed places by keeping track of time, but it cannot
    tell data from noise (Mamba, section 3.1 and figure 2; section 4.1.1; Jing et al., 2019, arXiv 1706.02761).

    Where the paper leaves a choice open:

    - the vocabulary of 16 includes the noise token, says the paper; here also the marker, which leaves 14 for data;
    - the length of 4096 is that of the whole row: context, markers and answers;
    - the answers are not read: every answer is asked for by a marker, and none helps with the next one;
    - the places are drawn without replacement, all sets of places being as likely, and the data with replacement.

    Args:
        length, vocab_size: see `Task`.
        n_data_tokens: tokens to remember.
    """

    n_data_tokens: int = 16

    @property
    def shortest(self) -> int:
        """Data, as much noise, and the markers."""
        return 3 * self.n_data_tokens + 1

    def example(self, random: np.random.Generator) -> tuple[Int64[np.ndarray, " length"], Int64[np.ndarray, " length"]]:
        """See `Task.example`. 0 is noise and the last token of the vocabulary is the marker."""
        noise, marker, n = 0, self.vocab_size - 1, self.n_data_tokens
        n_context = self.length - n - 1  # one marker more than answers: the marker before an answer is what asks for it
        data = random.integers(1, marker, n)
        input_ids = np.full(self.length, marker, dtype=np.int64)
        input_ids[:n_context] = noise
        input_ids[np.sort(random.choice(n_context, n, replace=False))] = data
        labels = np.full(self.length, IGNORE_INDEX, dtype=np.int64)
        labels[-n:] = data
        return input_ids, labels


@dataclass(frozen=True)
class InductionHeads(Task):
    """A special token stands somewhere among random ones, and when it comes again, say what came after it.

    The recall that Transformers learn as induction heads (Olsson et al., 2022, arXiv 2209.11895), in the form of Mamba,
    section 4.1.2: trained at one length and tested at others, up to 2^20. The other lengths are what counts: at the
    length of the training, blocks without selection solve it, too, because their short convolution sees the pair.

    Where the paper leaves a choice open:

    - the vocabulary of 16 includes the special token, which leaves 15 others, drawn uniformly;
    - the first special token is as likely at every place that leaves room for its follower before the second one;
    - only the answer is scored: all else in a row is random, and predicting it can teach nothing;
    - the length is that of the whole row: the answer is its last token, and the second special token stands before it.
    """

    @property
    def shortest(self) -> int:
        """Two places for the pair, the special token, and the answer."""
        return 5

    def example(self, random: np.random.Generator) -> tuple[Int64[np.ndarray, " length"], Int64[np.ndarray, " length"]]:
        """See `Task.example`. The last token of the vocabulary is the special one."""
        special = self.vocab_size - 1
        input_ids = random.integers(0, special, self.length)
        first = random.integers(self.length - 3)
        input_ids[[first, -2]] = special
        input_ids[-1] = input_ids[first + 1]
        labels = np.full(self.length, IGNORE_INDEX, dtype=np.int64)
        labels[-1] = input_ids[-1]
        return input_ids, labels


class TaskDataset:
    """Batches of a task, in place of the windows of a `TokenDataset`: for training without end, and held-out ones.

    Args:
        task: draws the examples.
        n_held_out: examples that evaluation sees, always the same ones whatever the seed.
    """

    STEPS_PER_EPOCH = 8192  # there are no epochs in what never repeats; the paper calls so many steps one

    def __init__(self, task: Task, n_held_out: int) -> None:
        self.task = task
        self.n_held_out = n_held_out

    @classmethod
    def from_config(cls, config: DatasetConfig, block_size: int) -> TaskDataset:
        """The task that `config.task` names, in rows of `block_size` tokens.

        Raises:
            DataError: the task is a text, or does not fit into such rows.
        """
        task: Task
        if config.task == "selective_copying":
            task = SelectiveCopying(block_size, config.task_vocab_size, config.task_data_tokens)
        elif config.task == "induction_heads":
            task = InductionHeads(block_size, config.task_vocab_size)
        else:
            raise DataError(
                f"dataset.task = {config.task} is no synthetic task; expected selective_copying or induction_heads, "
                "and prepare_datasets reads a text"
            )
        return cls(task, config.task_held_out)

    @property
    def block_size(self) -> int:
        """Tokens in a row."""
        return self.task.length

    @property
    def n_tokens(self) -> int:
        """Tokens in the held-out rows."""
        return self.n_held_out * self.task.length

    def steps_per_epoch(self, batch_size: int, world_size: int = 1) -> int:
        """What `max_epoch` counts, whatever the size of a batch."""
        return self.STEPS_PER_EPOCH

    def batch(self, step: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> LabelledBatch:
        """The rows that a rank trains on at a step: a function of the arguments alone.

        Together, the ranks get the rows that one rank would get in a batch of batch_size * world_size.

        Args:
            step: counts from 0.
            batch_size: rows for this rank.
            seed: at least 0.
            rank: of this process, in [0, world_size).
            world_size: processes that train together.

        Raises:
            DataError: the rank is out of range.
        """
        if not 0 <= rank < world_size:
            raise DataError(
                f"rank {rank} is out of range; expected 0 to {world_size - 1}, as world_size = {world_size}"
            )
        first = (step * world_size + rank) * batch_size
        return self._rows(seed, _TRAINING, range(first, first + batch_size))

    def evaluation_batches(self, batch_size: int) -> Iterator[LabelledBatch]:
        """The held-out rows, at most `batch_size` at once."""
        for first in range(0, self.n_held_out, batch_size):
            yield self._rows(0, _HELD_OUT, range(first, min(first + batch_size, self.n_held_out)))

    def _rows(self, seed: int, stream: int, numbers: range) -> LabelledBatch:
        input_ids, labels = zip(
            *(
                self.task.example(np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))))
                for key in ((stream, number) for number in numbers)
            ),
            strict=True,
        )
        return LabelledBatch(torch.from_numpy(np.stack(input_ids)), torch.from_numpy(np.stack(labels)))
