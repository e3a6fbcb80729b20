"""What starts the Triton kernels."""

import logging
from collections.abc import Callable

import pytest
import torch

triton = pytest.importorskip("triton")
from baby_mamba.ops import triton_support  # noqa: E402  # after the check that Triton is there


class Recorder(triton.JITFunction):
    """A kernel that runs nothing."""

    def __init__(self) -> None:
        self.fn, self.calls = test_arguments_reach_the_kernel, []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: self.calls.append((grid, arguments, options))


def test_arguments_reach_the_kernel() -> None:
    kernel, tensor = Recorder(), torch.zeros(3)
    triton_support.launch(kernel, (2, 3), tensor, 4, BLOCK=5)
    assert kernel.calls == [((2, 3), (tensor, 4), {"BLOCK": 5})]


@pytest.mark.parametrize(("seconds", "told"), [(2.5, ["compiled test_arguments_reach_the_kernel in 2.5 s"]), (0.1, [])])
def test_a_compilation_is_told(
    seconds: float, told: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 10.0 + seconds])
    monkeypatch.setattr(triton_support.time, "perf_counter", lambda: next(times))
    with caplog.at_level(logging.INFO, logger="baby_mamba"):
        triton_support.launch(Recorder(), (1,), torch.zeros(1))
    assert [message.split(",")[0] for message in caplog.messages] == told
