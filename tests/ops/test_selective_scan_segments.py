import pytest

from baby_mamba.ops.selective_scan.segments import SCHEDULERS, Pass, choose_segments

MAIN, FIRST = Pass(64, 8, 2, 2, 1, 0.5, 0.8, 0.1), Pass(64, 8, 4, 4, 2, 0.6, 0.5, 0.1)


def choose(length: int, warps: int, unit: int = 8) -> tuple[int, int, int]:
    return choose_segments(length, unit, warps, warps, 1000, MAIN, FIRST, 256)


@pytest.mark.parametrize(
    ("length", "warps", "segments"),
    [
        (2048, 4 * SCHEDULERS, 1),  # two waves without a cut
        (2048, SCHEDULERS // 2, 4),  # these four fill the GPU once
        (32768, 24, 88),  # these twice
        (256, 1, 1),  # too short for two
        (32, 1, 1),
    ],
)
def test_segments_fill_the_gpu(length: int, warps: int, segments: int) -> None:
    assert choose(length, warps)[1] == segments


@pytest.mark.parametrize("unit", [8, 32])
@pytest.mark.parametrize("warps", [1, 24, 192, 5000])
@pytest.mark.parametrize("length", [32, 224, 416, 2048, 3200, 32768, 1048576])
def test_segments_cover_the_sequence(length: int, warps: int, unit: int) -> None:
    steps, segments, parts = choose(length, warps, unit)
    assert steps * segments >= length > steps * (segments - 1)
    assert steps % unit == 0
    assert steps % (parts * FIRST.tile) == 0
    assert segments == 1 or steps >= 256


def test_a_wave_that_is_not_full_takes_less_but_not_nothing() -> None:
    full, half = MAIN.microseconds(2 * SCHEDULERS, 10), MAIN.microseconds(SCHEDULERS, 10)
    assert full == pytest.approx(10 * 0.5 * 1.1)
    assert half == pytest.approx(10 * 0.5 * 0.9)
    assert MAIN.microseconds(2 * SCHEDULERS + 1, 10) == pytest.approx(10 * 0.5 * 1.9)


def test_warps_that_come_together_also_end_a_wave_together() -> None:
    assert FIRST.microseconds(SCHEDULERS + 1, 10) == FIRST.microseconds(2 * SCHEDULERS, 10)
    assert FIRST.microseconds(2 * SCHEDULERS + 1, 10) == FIRST.microseconds(4 * SCHEDULERS, 10)
