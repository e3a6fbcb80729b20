import itertools
import math

import pytest

from baby_mamba.config import TrainerConfig
from baby_mamba.training.schedule import learning_rate

PEAK, LOWEST, WARMUP, TOTAL = 1e-3, 1e-4, 10, 100


def config(schedule: str, **changes: float) -> TrainerConfig:
    keys = {"learning_rate": PEAK, "min_learning_rate": LOWEST, "warmup_steps": WARMUP, "decay_fraction": 0.2}
    return TrainerConfig(schedule=schedule, **{**keys, **changes})


def rates(schedule: str, **changes: float) -> list[float]:
    return [learning_rate(step, TOTAL, config(schedule, **changes)) for step in range(TOTAL + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warm_up_is_a_straight_line_to_the_peak(schedule: str) -> None:
    assert rates(schedule)[: WARMUP + 1] == pytest.approx([PEAK * (n + 1) / 11 for n in range(11)])


@pytest.mark.parametrize(("schedule", "end"), [("cosine", LOWEST), ("wsd", LOWEST), ("constant", PEAK)])
def test_end(schedule: str, end: float) -> None:
    assert rates(schedule)[TOTAL] == pytest.approx(end)
    assert learning_rate(TOTAL + 50, TOTAL, config(schedule)) == pytest.approx(end)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_continuous_and_never_rising_after_the_warm_up(schedule: str) -> None:
    steps = [b - a for a, b in itertools.pairwise(rates(schedule)[WARMUP:])]
    assert all(-0.06 * PEAK < step <= 1e-12 for step in steps)


def test_cosine_is_half_way_in_the_middle() -> None:
    assert rates("cosine")[WARMUP + (TOTAL - WARMUP) // 2] == pytest.approx((PEAK + LOWEST) / 2)
    assert rates("cosine")[40] == pytest.approx(LOWEST + (PEAK - LOWEST) * (1 + math.cos(math.pi / 3)) / 2)


def test_wsd_is_flat_and_then_straight() -> None:
    assert rates("wsd")[WARMUP:81] == pytest.approx([PEAK] * 71)
    assert rates("wsd")[90] == pytest.approx((PEAK + LOWEST) / 2)
    assert rates("wsd", decay_fraction=1.0)[WARMUP] == pytest.approx(PEAK)  # the decay never begins in the warm-up


def test_no_warm_up_starts_at_the_peak() -> None:
    assert rates("cosine", warmup_steps=0)[0] == pytest.approx(PEAK)


def test_warm_up_longer_than_the_run_ends_with_it() -> None:
    short = [learning_rate(step, 5, config("cosine", warmup_steps=50)) for step in range(5)]
    assert short == pytest.approx([PEAK * n / 6 for n in range(1, 6)])


def test_the_clock_takes_over_when_it_is_further_on() -> None:
    cosine = config("cosine")
    assert learning_rate(20, TOTAL, cosine, elapsed=0.1) == learning_rate(20, TOTAL, cosine)
    assert learning_rate(20, TOTAL, cosine, elapsed=0.6) == learning_rate(60, TOTAL, cosine)
    assert learning_rate(20, TOTAL, cosine, elapsed=1.5) == pytest.approx(LOWEST)
    assert learning_rate(0, TOTAL, cosine, elapsed=0.6) < learning_rate(60, TOTAL, cosine) / 10  # still warming up
