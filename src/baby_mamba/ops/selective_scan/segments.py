"""Into how many segments of time the Triton kernels cut a sequence: an estimate of what takes least.

More segments keep a GPU busy, but for all but one of them a first pass has to find the state they begin with.
"""

import functools
import math
from dataclasses import dataclass

SCHEDULERS = 528  # of an H100: four in each of 132 multiprocessors
CARRIED_AT_ONCE = 16  # parts whose states are loaded before the first of them is used
CARRY_STEP = 1.1  # microseconds until such loads have come
BYTES = 2.5e6  # that the memory moves in a microsecond


@dataclass(frozen=True)
class Pass:
    """How a kernel fills the GPU; measured on an H100 (docs/kernel_log.md).

    Attributes:
        block: channels of a program; it is one warp.
        tile: steps at once.
        warps: that run at once on each scheduler.
        chunk: microseconds that these take for a chunk of time.
        alone: share of `chunk` that a single one takes: it waits for itself.
        tail: share of `chunk` by which the last ones end later.
    """

    block: int
    tile: int
    warps: int
    chunk: float
    alone: float
    tail: float

    def microseconds(self, programs: int, chunks: float) -> float:
        """For so many programs, each over so many chunks: whole waves, and one that does not fill the GPU."""
        waves, rest = divmod(programs, self.warps * SCHEDULERS)
        last = max(self.alone, math.ceil(rest / SCHEDULERS) / self.warps) if rest else 0.0
        return chunks * self.chunk * (waves + last + self.tail)


@functools.cache
def choose_segments(
    chunks: int, programs: int, first_programs: int, states: int, main: Pass, first: Pass, shortest: int, pieces: int
) -> tuple[int, int, int]:
    """(chunks of a segment, segments, parts of a segment) for which the estimate is least.

    Args:
        chunks: length of the sequence.
        programs, first_programs: that each segment needs in the main pass, and each part in the first pass.
        states: numbers that are carried from part to part.
        main, first: the two passes.
        shortest: chunks that a segment has at least.
        pieces: of a chunk, at which parts may begin.
    """

    def estimate(length: int, segments: int, parts: int) -> float:
        total = main.microseconds(programs * segments, length + 0.5)
        if segments > 1:
            carried = (segments - 1) * parts
            total += first.microseconds(first_programs * carried, length / parts + 0.3)
            total += max(math.ceil(carried / CARRIED_AT_ONCE) * CARRY_STEP, 8 * carried * states / BYTES)
        return total

    most = min(chunks // shortest, math.ceil(8 * main.warps * SCHEDULERS / programs))
    lengths = dict.fromkeys(math.ceil(chunks / count) for count in range(1, max(most, 1) + 1))
    choices = (
        (length, math.ceil(chunks / length), parts)
        for length in lengths
        for parts in (1, 2, 4, 8)
        if length * pieces % parts == 0
    )
    return min(choices, key=lambda choice: estimate(*choice))
