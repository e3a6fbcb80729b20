"""The Triton scan, run by Triton's interpreter on the CPU at small odd shapes, against the float64 reference."""

import importlib
import os

import pytest
import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.selective_scan import reference

if torch.cuda.is_available():
    pytest.skip("compiled kernels are tested in tests/gpu", allow_module_level=True)
os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it decides there
pytest.importorskip("triton")
triton_scan = importlib.import_module("baby_mamba.ops.selective_scan.triton")

LIMIT = {torch.float32: 1e-5, torch.float16: 5e-4, torch.bfloat16: 4e-3}
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_arguments(
    batch: int,
    length: int,
    channels: int,
    d_state: int,
    B_shape: str = "input",
    C_shape: str = "input",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    shapes = {
        "input": (batch, length, d_state),
        "grouped": (batch, length, 2, d_state),
        "each": (batch, length, channels, d_state),
        "constant": (channels, d_state),
    }
    generator = torch.Generator().manual_seed(length + 7 * channels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "u": normal(batch, length, channels).to(dtype),
        "delta": normal(batch, length, channels).to(dtype),
        "A": -2 * torch.rand(channels, d_state, generator=generator) - 0.1,
        "B": normal(*shapes[B_shape]).to(dtype),
        "C": normal(*shapes[C_shape]).to(dtype),
        "D": normal(channels),
        "z": normal(batch, length, channels).to(dtype),
        "delta_bias": normal(channels) - 1,
        "initial_state": normal(batch, channels, d_state),
    }


def results(scan, arguments: dict[str, Tensor], softplus: bool, ids: Tensor | None, wide: bool) -> dict[str, Tensor]:
    """y, the final state, and every gradient, for a random cotangent of both."""
    leaves = {name: (t.double() if wide else t).detach().requires_grad_() for name, t in arguments.items()}
    given = {name: leaves.get(name) for name in NAMES}
    initial_state = given.pop("initial_state")
    y, state = scan(*given.values(), softplus, initial_state, ids)
    generator = torch.Generator().manual_seed(1)
    loss = (y * torch.randn(y.shape, generator=generator).to(arguments["u"].dtype)).sum()
    loss = loss + (state * torch.randn(state.shape, generator=generator)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "state": state, **{f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}}


def check(arguments: dict[str, Tensor], softplus: bool = True, ids: Tensor | None = None) -> None:
    limit = LIMIT[arguments["u"].dtype]
    got = results(triton_scan.selective_scan, arguments, softplus, ids, wide=False)
    expected = results(reference.selective_scan, arguments, softplus, ids, wide=True)
    for name, value in expected.items():
        error = (got[name].double() - value).norm() / value.norm().clamp(min=1e-30)
        assert error <= limit, f"{name}: relative error {error:.1e}"
    for name, tensor in arguments.items():
        assert got[f"d{name}"].dtype == tensor.dtype
    assert got["y"].dtype == arguments["u"].dtype


@pytest.fixture
def many_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of two chunks, each in two parts."""
    monkeypatch.setattr(triton_scan, "choose_segments", lambda length, *_: (64, -(-length // 64), 2))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of one chunk, each in four parts, which then begin within a chunk."""
    monkeypatch.setattr(triton_scan, "choose_segments", lambda length, *_: (32, length // 32, 4))


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of five units: in the forward pass they begin within a chunk."""
    monkeypatch.setattr(
        triton_scan, "choose_segments", lambda length, unit, *_: (5 * unit, -(-length // (5 * unit)), 1)
    )


@pytest.mark.parametrize(("batch", "length", "channels", "d_state"), [(2, 1, 3, 1), (1, 5, 3, 5), (1, 33, 66, 16)])
def test_odd_shapes(batch: int, length: int, channels: int, d_state: int) -> None:
    check(random_arguments(batch, length, channels, d_state))


@pytest.mark.usefixtures("many_segments")
def test_segments() -> None:
    check(random_arguments(1, 150, 2, 3))  # the last segment has a single part


@pytest.mark.usefixtures("small_parts")
def test_parts_within_a_chunk() -> None:
    check(random_arguments(1, 90, 2, 3))


@pytest.mark.usefixtures("small_segments")
def test_segments_within_a_chunk() -> None:
    check(random_arguments(1, 180, 2, 3))


@pytest.mark.usefixtures("many_segments")
def test_programs_of_several_warps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_scan, "SCHEDULERS", 0)
    check(random_arguments(1, 65, 2 * triton_scan.FORWARD.block, 1))
    check(random_arguments(1, 64, 2 * triton_scan.FORWARD.block, 1))


@pytest.mark.usefixtures("many_segments")
def test_segments_of_packed_sequences() -> None:
    ids = torch.tensor([[0] * 13 + [1] * 50 + [2] * 20, [0] * 32 + [1] * 32 + [0] * 19])
    check(random_arguments(2, 83, 3, 2), ids=ids)


@pytest.mark.parametrize(("B_shape", "C_shape"), [("grouped", "constant"), ("constant", "each")])
def test_grouped_and_constant_inputs(B_shape: str, C_shape: str) -> None:
    check(random_arguments(1, 9, 4, 2, B_shape, C_shape))


def test_options_left_out() -> None:
    arguments = random_arguments(1, 6, 2, 4)
    few = {name: arguments[name] for name in ("u", "delta", "A", "B", "C")}
    check({**few, "delta": few["delta"].abs()}, softplus=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_tiles_and_blocks(dtype: torch.dtype) -> None:
    check(random_arguments(1, triton_scan.CHUNK, triton_scan.FORWARD.block, 4, dtype=dtype))


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_parts_and_blocks(dtype: torch.dtype) -> None:
    check(random_arguments(1, 2 * triton_scan.CHUNK, 2 * triton_scan.PART_STATES.block, 4, "grouped", dtype=dtype))


def test_steps_of_any_size() -> None:
    """Factors e^(delta A) from 0 over 1 to 1e4: the arithmetic that float32 inputs get covers them all."""
    arguments = random_arguments(1, 8, 3, 4)
    arguments["delta"][0, :, 0] = torch.tensor([0.0, 1e-6, 40.0, 90.0, 1e3, 1e6, 0.5, 0.0])
    arguments["A"][1] = torch.tensor([0.0, 0.1, 1.0, 2.0])
    check({**arguments, "delta": arguments["delta"].abs()}, softplus=False)


@pytest.mark.parametrize(("dtype", "d_state"), [(torch.float16, 4), (torch.bfloat16, 4), (torch.bfloat16, 1)])
def test_narrow_inputs(dtype: torch.dtype, d_state: int) -> None:
    check(random_arguments(1, 11, 3, d_state, dtype=dtype))


def test_many_states() -> None:
    check(random_arguments(1, 3, 2, triton_scan.MAX_STATES + 3))


def test_no_steps() -> None:
    check(random_arguments(2, 0, 3, 4))


def test_strides_do_not_matter() -> None:
    arguments = random_arguments(2, 5, 3, 4)
    odd = {name: t.transpose(0, -1).contiguous().transpose(0, -1) for name, t in arguments.items()}
    check(odd)


def test_a_nan_stays_in_its_sequence() -> None:
    arguments = random_arguments(1, 6, 2, 2)
    arguments["u"][:, 1] = torch.nan
    given = [arguments[name] for name in NAMES[:-1]]
    y, state = triton_scan.selective_scan(*given, True, None, torch.tensor([[0, 0, 0, 1, 1, 1]]))
    assert y[:, 1:3].isnan().all()
    assert not y[:, [0, 3, 4, 5]].isnan().any()
    assert not state.isnan().any()


def test_a_nan_among_the_factors_shows() -> None:
    arguments = random_arguments(1, 6, 2, 2)
    arguments["A"][1, 0] = torch.nan
    y, state = triton_scan.selective_scan(*(arguments[name] for name in NAMES[:-1]), True, None, None)
    assert y[..., 1].isnan().any()
    assert state[:, 1, 0].isnan().all()
    assert not y[..., 0].isnan().any()


def test_float64_is_refused() -> None:
    arguments = random_arguments(1, 2, 2, 2)
    given = [arguments[name].double() for name in NAMES[:-1]]
    with pytest.raises(ShapeError, match=r"float32 and got a float64 argument; use \.float"):
        triton_scan.selective_scan(*given, True, None, None)


def test_fake_kernels_agree_with_the_real_ones() -> None:
    arguments = random_arguments(1, 5, 2, 3)
    given = [arguments[name].requires_grad_() for name in NAMES[:-1]]
    inputs = (*given, True, arguments["initial_state"], None, True)
    torch.library.opcheck(triton_scan._forward, inputs, test_utils=("test_schema", "test_faketensor"))
