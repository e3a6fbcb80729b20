import pytest

from baby_mamba.ops.selective_scan.segments import SCHEDULERS, Pass, choose_segments

MAIN, FIRST = Pass(64, 8, 2, 16.0, 0.8, 0.1), Pass(64, 8, 4, 20.0, 0.5, 0.1)


def choose(chunks: int, programs: int) -> tuple[int, int, int]:
    return choose_segments(chunks, programs, programs, 1000, MAIN, FIRST, 8, 8)


@pytest.mark.parametrize(
    ("chunks", "programs", "segments"),
    [
        (64, 4 * SCHEDULERS, 1),  # two waves without a cut
        (64, SCHEDULERS // 2, 4),  # these four fill the GPU once
        (1024, 24, 128),  # these three times
        (8, 1, 1),  # too short for two
        (1, 1, 1),
    ],
)
def test_segments_fill_the_gpu(chunks: int, programs: int, segments: int) -> None:
    assert choose(chunks, programs)[1] == segments


@pytest.mark.parametrize("programs", [1, 24, 192, 5000])
@pytest.mark.parametrize("chunks", [1, 7, 13, 64, 100, 1024, 32768])
def test_segments_cover_the_sequence(chunks: int, programs: int) -> None:
    length, segments, parts = choose(chunks, programs)
    assert length * segments >= chunks > length * (segments - 1)
    assert length * 8 % parts == 0
    assert segments == 1 or length >= 8


def test_a_wave_that_is_not_full_takes_less_but_not_nothing() -> None:
    full, half = MAIN.microseconds(2 * SCHEDULERS, 10), MAIN.microseconds(SCHEDULERS, 10)
    assert full == pytest.approx(10 * 16.0 * 1.1)
    assert half == pytest.approx(10 * 16.0 * 0.9)
    assert MAIN.microseconds(2 * SCHEDULERS + 1, 10) == pytest.approx(10 * 16.0 * 1.9)
