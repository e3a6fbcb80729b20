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
        block: channels of a warp.
        tile: steps at once.
        exact_tile: the same where exponentials are computed by arithmetic.
        warps: that run at once on each scheduler.
        together: of these that come and go at once, as those of one program.
        step: microseconds that these take for a step of time.
        alone: share of `step` that a single one takes: it waits for itself.
        tail: share of the whole by which the last ones end later.
    """

    block: int
    tile: int
    exact_tile: int
    warps: int
    together: int
    step: float
    alone: float
    tail: float

    def microseconds(self, warps: int, steps: float) -> float:
        """For so many warps, each over so many steps: whole waves, and one that does not fill the GPU."""
        waves, rest = divmod(warps, self.warps * SCHEDULERS)
        together = self.together if warps > SCHEDULERS else 1
        last = max(self.alone, math.ceil(rest / (together * SCHEDULERS)) * together / self.warps) if rest else 0.0
        return steps * self.step * (waves + last + self.tail)


@functools.cache
def choose_segments(
    length: int, unit: int, warps: int, first_warps: int, states: int, main: Pass, first: Pass, shortest: int
) -> tuple[int, int, int]:
    """(steps of a segment, segments, parts of a segment) for which the estimate is least.

    Args:
        length: of the sequence in steps.
        unit: steps of which a segment is a multiple, itself one of the tiles of both passes.
        warps, first_warps: that each segment needs in the main pass, and each part in the first pass.
        states: numbers that are carried from part to part.
        main, first: the two passes.
        shortest: steps that a segment has at least.
    """

    def estimate(steps: int, segments: int, parts: int) -> float:
        total = main.microseconds(warps * segments, steps + 16)
        if segments > 1:
            carried = (segments - 1) * parts
            total += first.microseconds(first_warps * carried, steps / parts + 10)
            total += max(math.ceil(carried / CARRIED_AT_ONCE) * CARRY_STEP, 8 * carried * states / BYTES)
        return total

    most = min(length // shortest, math.ceil(8 * main.warps * SCHEDULERS / warps))
    steps_of_segments = dict.fromkeys(unit * math.ceil(length / unit / count) for count in range(1, max(most, 1) + 1))
    choices = (
        (steps, math.ceil(length / steps), parts)
        for steps in steps_of_segments
        for parts in (1, 2, 4, 8)
        if steps % (parts * first.tile) == 0
    )
    return min(choices, key=lambda choice: estimate(*choice))
