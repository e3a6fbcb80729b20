"""Serves windows of a long row of tokens that lies on disk.

    train_set = TokenDataset.build(tokenizer.encode(corpus.train), Path("train.npy"), block_size=256)
    input_ids = train_set.batch(step=0, batch_size=16, seed=1337)  # (16, 256)

Training reads every window once per epoch, in random order: the row is cut into a grid of windows, and each epoch
shifts the grid and shuffles the windows anew. Shift and order are drawn from (seed, epoch), so the batch at a step is a
function of (seed, step, rank), and a run goes on after a stop without replaying anything.

    epoch 0   ..[ 4  ][ 1  ][ 3  ][ 2  ].....
    epoch 1   .....[ 2  ][ 3  ][ 1  ][ 4  ]..

Evaluation reads the whole row in order. Its windows share one token, because a window's first token has nothing before
it in the window and is not scored: so every token but the very first is scored exactly once.

    [ a b c d ]
            [ d e f g ]
                    [ g h i ]
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor
from torch.utils.data import DataLoader

from baby_mamba.config import DatasetConfig
from baby_mamba.data.corpus import Corpus, load_corpus
from baby_mamba.data.masking import MaskedDataset
from baby_mamba.data.tasks import LabelledBatch, TaskDataset
from baby_mamba.data.tokenizer import Tokenizer, fit_tokenizer
from baby_mamba.errors import CheckpointError, DataError

logger = logging.getLogger("baby_mamba")


class TokenDataset:
    """A row of tokens and the length of the windows in which it is read.

    The file is an .npy of uint16 or uint32, mapped into memory rather than read, so it may be larger than memory.
    A pickled dataset holds the file's path, and the process that unpickles it maps the file itself.

    Args:
        path: a file that `build` wrote.
        block_size: tokens in a window, at least 2.

    Raises:
        DataError: the file is missing or damaged, or holds fewer than 2 tokens.
    """

    def __init__(self, path: str | Path, block_size: int) -> None:
        self.path: Path | None = Path(path).absolute()
        self.block_size = block_size
        self._tokens = _open(self.path)
        _check(self._tokens, block_size)

    @classmethod
    def from_array(cls, tokens: Integer[np.ndarray, " tokens"], block_size: int) -> TokenDataset:
        """A dataset in memory, for notebooks and tests.

        Raises:
            DataError: there are fewer than 2 tokens.
        """
        _check(tokens, block_size)
        dataset = cls.__new__(cls)
        dataset.path = None
        dataset.block_size = block_size
        dataset._tokens = tokens
        return dataset

    @classmethod
    def build(cls, tokens: Integer[np.ndarray, " tokens"], path: str | Path, block_size: int) -> TokenDataset:
        """Write tokens to `path`, an .npy file, and open it. What was there is replaced at once or, on failure, kept.

        Raises:
            DataError: there are fewer than 2 tokens.
            CheckpointError: the file cannot be written.
        """
        _check(tokens, block_size)
        path = Path(path)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")  # other processes may write the same one
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("wb") as file:
                    np.save(file, tokens.astype(np.uint16 if tokens.max() < 2**16 else np.uint32))
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"tokens cannot be written to {path}: {error.strerror or error}; free space or choose a folder "
                "that you may write to (training_config.ckpt_path)"
            ) from error
        return cls(path, block_size)

    @property
    def n_tokens(self) -> int:
        """Tokens in the row."""
        return len(self._tokens)

    @property
    def n_scored_tokens(self) -> int:
        """Tokens that `evaluation_batches` gives something to be predicted from: all but the first."""
        return self.n_tokens - 1

    def __len__(self) -> int:
        """Windows in an epoch of training: as many as fit at any shift of the grid."""
        return (self.n_tokens - self._n_shifts + 1) // self.block_size

    def steps_per_epoch(self, batch_size: int, world_size: int = 1) -> int:
        """Batches in an epoch, each of `batch_size` windows on each of `world_size` ranks; the rest is dropped.

        Raises:
            DataError: the row is shorter than a window, or an epoch is smaller than a batch.
        """
        if len(self) == 0:
            raise _too_short(self.n_tokens, self.block_size)
        n_steps = len(self) // (batch_size * world_size)
        if n_steps == 0:
            ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
            raise DataError(
                f"a batch of {batch_size} windows{ranks} is larger than an epoch, which has {len(self)}; lower "
                "training_config.train_batch_size or model_config.block_size, or use a longer text"
            )
        return n_steps

    def batch(
        self, step: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> Int64[Tensor, "batch block_size"]:
        """The windows that a rank trains on at a step: a function of the arguments alone.

        Together, the ranks get the windows that one rank would get in a batch of batch_size * world_size.

        Args:
            step: counts from 0 and on through the epochs.
            batch_size: windows for this rank.
            seed: at least 0; decides shift and order in every epoch.
            rank: of this process, in [0, world_size).
            world_size: processes that train together.

        Returns:
            int64 token ids, (batch_size, block_size).

        Raises:
            DataError: as `steps_per_epoch`, or the rank is out of range.
        """
        if not 0 <= rank < world_size:
            raise DataError(
                f"rank {rank} is out of range; expected 0 to {world_size - 1}, as world_size = {world_size}"
            )
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch(batch_size, world_size))
        shift, order = _shift_and_order(seed, epoch, self._n_shifts, len(self))
        first = (step_in_epoch * world_size + rank) * batch_size
        return self._windows(shift + order[first : first + batch_size] * self.block_size, self.block_size)

    def evaluation_batches(self, batch_size: int) -> Iterator[Int64[Tensor, "batch length"]]:
        """The whole row in order, in windows that share one token with the window before.

        With labels = input_ids, which the model shifts by one, every token but the first is scored exactly once.

        Args:
            batch_size: windows in a batch, at most.

        Yields:
            int64 token ids, (at most batch_size, block_size); a last batch has the one window that is shorter, if any.
        """
        stride = self.block_size - 1
        n_windows, n_left = divmod(self.n_scored_tokens, stride)
        starts = np.arange(n_windows) * stride
        for first in range(0, n_windows, batch_size):
            yield self._windows(starts[first : first + batch_size], self.block_size)
        if n_left:
            yield self._windows(np.array([n_windows * stride]), n_left + 1)

    @property
    def _n_shifts(self) -> int:
        """Places for the first window. Fewer than block_size if so many would leave a short row without a window."""
        return max(1, min(self.block_size, self.n_tokens - self.block_size + 1))

    def _windows(self, starts: np.ndarray, length: int) -> Tensor:
        positions = starts[:, None] + np.arange(length)  # (batch, length)
        return torch.from_numpy(self._tokens[positions].astype(np.int64))

    def __getstate__(self) -> dict[str, Any]:
        # NumPy would pickle a mapped file as a copy of all it holds.
        return self.__dict__ if self.path is None else {**self.__dict__, "_tokens": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is not None:
            self._tokens = _open(self.path)


Dataset = TokenDataset | MaskedDataset | TaskDataset


def loader(
    train_set: Dataset,
    batch_size: int,
    *,
    start_step: int,
    n_steps: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Int64[Tensor, "batch block_size"] | LabelledBatch]:
    """`train_set.batch(step, ...)` for `n_steps` steps from `start_step` on, prepared ahead by `num_workers` processes.

    Raises:
        DataError: as `TokenDataset.batch`.
    """
    train_set.steps_per_epoch(batch_size, world_size)  # complain here rather than in a worker
    return DataLoader(
        range(start_step, start_step + n_steps),  # type: ignore[arg-type]  # a row of steps, each made into its batch
        batch_size=None,
        collate_fn=partial(train_set.batch, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size),
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # otherwise each iteration would draw from the global one
    )


def prepare_datasets(
    config: DatasetConfig, block_size: int, folder: str | Path, *, tokenizer: Tokenizer | None = None
) -> tuple[Tokenizer, TokenDataset, TokenDataset, Corpus]:
    """From a configuration to tokens on disk: load the corpus, fit the tokenizer on its training split, encode both.

    Args:
        config: names corpus and tokenizer.
        block_size: tokens in a window.
        folder: where train.npy and validation.npy are written.
        tokenizer: use this one, for instance that of a checkpoint, rather than fit one.

    Returns:
        (tokenizer, training split, validation split, corpus).

    Raises:
        DataError: the corpus or the tokenizer cannot be read, a split is too short, or the task is a synthetic one;
            nothing is written then.
        CheckpointError: the folder cannot be written to.
    """
    if config.task != "text":
        raise DataError(
            f"dataset.task = {config.task} has no text; expected task = text, or use TaskDataset.from_config"
        )
    corpus = load_corpus(config)
    tokenizer = tokenizer or fit_tokenizer(config, corpus.train)
    logger.info(
        "corpus %s: %d characters to train on, %d held out; tokenizer %s: vocabulary of %d",
        *(corpus.name, len(corpus.train), len(corpus.validation), tokenizer.kind, tokenizer.vocab_size),
    )
    unknown = tokenizer.unknown_characters(corpus.validation)
    if unknown:
        most_frequent = sorted(unknown, key=unknown.__getitem__, reverse=True)[:10]
        logger.warning(
            "%d of the %d held-out characters are unknown to the tokenizer, which reads them as one token: %s%s",
            *(sum(unknown.values()), len(corpus.validation)),
            *(" ".join(map(repr, most_frequent)), " ..." if len(unknown) > 10 else ""),
        )
    train, validation = tokenizer.encode(corpus.train), tokenizer.encode(corpus.validation)
    if len(train) < block_size:
        raise _too_short(len(train), block_size)
    folder = Path(folder)
    # The validation split first: it is the one that may still turn out to be too short.
    validation_set = TokenDataset.build(validation, folder / "validation.npy", block_size)
    train_set = TokenDataset.build(train, folder / "train.npy", block_size)
    return tokenizer, train_set, validation_set, corpus


@lru_cache(maxsize=2)
def _shift_and_order(seed: int, epoch: int, n_shifts: int, n_windows: int) -> tuple[int, np.ndarray]:
    """Where the grid of an epoch begins, and a permutation of its windows, (n_windows,) int64."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch,))))
    return int(generator.integers(n_shifts)), generator.permutation(n_windows)


def _open(path: Path) -> np.ndarray:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"token file {path} does not exist; write it with TokenDataset.build") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"token file {path} cannot be read ({error}); expected an .npy file, so write it anew with "
            "TokenDataset.build"
        ) from error
    if not (isinstance(tokens, np.ndarray) and tokens.dtype in (np.uint16, np.uint32) and tokens.ndim == 1):
        raise DataError(f"token file {path} holds no row of uint16 or uint32; write it anew with TokenDataset.build")
    return tokens


def _check(tokens: np.ndarray, block_size: int) -> None:
    if block_size < 2:
        raise DataError(f"block_size = {block_size} leaves nothing to predict; expected at least 2")
    if len(tokens) < 2:
        raise DataError(
            f"a split has {len(tokens)} tokens; expected at least 2: use a longer text or change "
            "dataset.validation_fraction"
        )
    if np.issubdtype(tokens.dtype, np.signedinteger) and tokens.min() < 0:
        raise DataError(f"token id {tokens.min()} is negative; expected what Tokenizer.encode returns")


def _too_short(n_tokens: int, block_size: int) -> DataError:
    return DataError(
        f"a training window is a sequence of {block_size} tokens, the corpus has {n_tokens} tokens to train on; "
        "lower model_config.block_size or use a longer text"
    )
