"""Labelling characters of CVs as a task, in rows that a trainer takes.

dataset = TaskDataset(CVExtraction(length=1024), n_held_out=256)
input_ids, labels = dataset.batch(step=0, batch_size=16, seed=1337)  # (16, 1024) each
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from baby_mamba.data import IGNORE_INDEX
from baby_mamba.data.tasks import Task
from baby_mamba.extraction.generator import as_read, draw_cv
from baby_mamba.extraction.names import chance, pick
from baby_mamba.extraction.spans import ALPHABET, encode, to_labels

_ON_EDUCATION = 0.75  # share of the rows that are chosen to have a value in them


@dataclass(frozen=True)
class CVExtraction(Task):
    """Say of each character of a CV whether it belongs to an institution, a degree or a year, and whether it begins it.

    A row is a piece of one CV, mostly one with a value in it; a CV that is shorter than the row is filled up with line
    breaks, whose labels are -100. The CVs are in the layouts to train on, also those that evaluation sees; those of
    `draw_cv(random, held_out=True)` are left for a test.

    Args:
        length: characters in a row.
        vocab_size: of `encode`.
    """

    vocab_size: int = ALPHABET

    @property
    def shortest(self) -> int:
        """Room for an entry of a CV and its heading."""
        return 64

    def example(self, random: np.random.Generator) -> tuple[Int64[np.ndarray, " length"], Int64[np.ndarray, " length"]]:
        """See `Task.example`."""
        labelled = as_read(draw_cv(random).labelled(), random)
        last = max(0, len(labelled.text) - self.length)  # where a row can begin at the latest
        first = int(random.integers(last + 1))
        if labelled.spans and chance(random, _ON_EDUCATION):
            place = pick(random, labelled.spans).start
            first = int(np.clip(random.integers(place - self.length + 1, place + 1), 0, last))
        here = slice(first, first + self.length)
        ids, labels = encode(labelled.text)[here], to_labels(labelled)[here]
        n_left = self.length - len(ids)
        ids = np.pad(ids, (0, n_left), constant_values=ord("\f"))
        return ids, np.pad(labels, (0, n_left), constant_values=IGNORE_INDEX)
