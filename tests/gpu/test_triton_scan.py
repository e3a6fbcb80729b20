"""The compiled Triton scan against the float64 reference, and what only a GPU can show."""

import importlib

import pytest
import torch
from torch import Tensor

from baby_mamba.ops import selective_scan

pytestmark = pytest.mark.gpu
triton_scan = importlib.import_module("baby_mamba.ops.selective_scan.triton")

LIMIT = {torch.float32: 1e-5, torch.float16: 5e-4, torch.bfloat16: 4e-3}
# Twice the reference's error is allowed, or this. 16-bit inputs are scanned with the hardware's exponentials.
RESOLUTION = {torch.float32: 2.4e-7, torch.float16: 1e-6, torch.bfloat16: 1e-6}


def random_arguments(
    batch: int, length: int, channels: int, d_state: int = 16, dtype: torch.dtype = torch.float32, options: bool = True
) -> dict[str, Tensor]:
    generator = torch.Generator("cuda").manual_seed(length + 7 * channels)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator).to(dtype)

    arguments = {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels),
        "A": -torch.rand(channels, d_state, device="cuda", generator=generator) * 2 - 0.1,
        "B": normal(batch, length, d_state),
        "C": normal(batch, length, d_state),
        "D": normal(channels, dtype=torch.float32),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels, dtype=torch.float32) - 1,
    }
    if options:
        arguments["initial_state"] = normal(batch, channels, d_state, dtype=torch.float32)
    return arguments


def results(
    arguments: dict[str, Tensor], backend: str, dtype: torch.dtype | None = None, ids: Tensor | None = None
) -> dict[str, Tensor]:
    """y, the final state, and every gradient, for a random cotangent of both; computed on `dtype` copies."""
    leaves = {name: t.to(dtype or t.dtype).detach().requires_grad_() for name, t in arguments.items()}
    y, state = selective_scan(**leaves, delta_softplus=True, sequence_ids=ids, return_final_state=True, backend=backend)
    generator = torch.Generator("cuda").manual_seed(1)
    dy = torch.randn(y.shape, device="cuda", generator=generator).to(arguments["u"].dtype).to(y.dtype)
    dstate = torch.randn(state.shape, device="cuda", generator=generator).to(state.dtype)
    gradients = torch.autograd.grad([y, state], list(leaves.values()), [dy, dstate])
    return {"y": y, "state": state, **{f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}}


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).norm() / expected.norm()).item()


def check(arguments: dict[str, Tensor], ids: Tensor | None = None) -> None:
    """Everything within the limits of its dtype, and at most twice as far off as the reference in float32."""
    dtype = arguments["u"].dtype
    got = results(arguments, "triton", ids=ids)
    reference = results(arguments, "reference", torch.float32, ids)
    expected = results(arguments, "reference", torch.float64, ids)
    for name, value in expected.items():
        error, its_error = (relative_error(r[name].to(got[name].dtype), value) for r in (got, reference))
        assert error <= LIMIT[dtype], f"{name}: relative error {error:.1e}"
        assert error <= max(2 * its_error, RESOLUTION[dtype]), f"{name}: error {error:.1e}, reference's {its_error:.1e}"


@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize(("length", "channels"), [(64, 128), (63, 70), (512, 128)])
def test_accuracy(dtype: torch.dtype, length: int, channels: int) -> None:
    check(random_arguments(2, length, channels, dtype=dtype))


@pytest.mark.parametrize("packed", [False, True])
def test_segments(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_scan, "MIN_SEGMENT", triton_scan.CHUNK)
    ids = torch.arange(200, device="cuda").div(70, rounding_mode="floor").expand(2, -1) if packed else None
    check(random_arguments(2, 200, 64), ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [256, 200])
def test_programs_of_several_warps(dtype: torch.dtype, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_scan, "MIN_SEGMENT", triton_scan.CHUNK)
    monkeypatch.setattr(triton_scan, "SCHEDULERS", 0)
    check(random_arguments(2, length, 512, dtype=dtype))


@pytest.mark.parametrize("d_state", [1, 5, 32, 40])
def test_numbers_of_states(d_state: int) -> None:
    check(random_arguments(1, 33, 40, d_state))


def test_gradients_repeat_bit_by_bit() -> None:
    arguments = random_arguments(4, 512, 256, dtype=torch.bfloat16)
    first = results(arguments, "triton")
    for _ in range(20):
        for name, value in results(arguments, "triton").items():
            assert torch.equal(value, first[name]), name


def test_more_elements_than_an_int32_can_count() -> None:
    """The last batch entry lies beyond 2^31 elements; it has to agree with the same entry alone."""
    batch, length, channels = 9, 65536, 4096
    last = random_arguments(1, length, channels, 4, torch.bfloat16, options=False)
    many = {name: t.expand(batch, *t.shape[1:]) if t.ndim == 3 else t for name, t in last.items()}
    many["u"] = many["u"].contiguous()
    with torch.no_grad():
        y = selective_scan(**many, delta_softplus=True, backend="triton")
        alone = selective_scan(**last, delta_softplus=True, backend="triton")
    assert y.numel() > 2**31
    assert relative_error(y[-1], alone[0].double()) <= LIMIT[torch.bfloat16]


def test_compiles_without_a_graph_break() -> None:
    arguments = random_arguments(1, 64, 64, dtype=torch.bfloat16, options=False)
    leaves = {name: t.requires_grad_() for name, t in arguments.items()}

    def step(**tensors: Tensor) -> Tensor:
        return selective_scan(**tensors, delta_softplus=True, backend="triton").float().square().sum()

    eager = torch.autograd.grad(step(**leaves), list(leaves.values()))
    compiled = torch.autograd.grad(torch.compile(step, fullgraph=True)(**leaves), list(leaves.values()))
    for name, a, b in zip(leaves, compiled, eager, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, n=name: f"{n}: {m}")


def test_captured_in_a_cuda_graph() -> None:
    arguments = random_arguments(1, 64, 64, dtype=torch.bfloat16, options=False)
    with torch.no_grad():
        expected = selective_scan(**arguments, delta_softplus=True, backend="triton")
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = selective_scan(**arguments, delta_softplus=True, backend="triton")
        y.fill_(torch.nan)
        graph.replay()
    assert torch.equal(y, expected)


def test_memory_kept_for_the_backward() -> None:
    """Beside its inputs, at most half of u, delta and z; with them, at most 1.5 times as much."""
    arguments = {
        name: t.requires_grad_() for name, t in random_arguments(2, 1024, 512, 16, torch.bfloat16, False).items()
    }
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        selective_scan(**arguments, delta_softplus=True, backend="triton")
    assert sum(kept.values()) <= 1.5 * sum(arguments[name].nbytes for name in ("u", "delta", "z"))
