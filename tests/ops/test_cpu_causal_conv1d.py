"""The `cpu` backend of the causal convolution against the reference in float64."""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from baby_mamba.ops import causal_conv1d
from baby_mamba.ops.causal_conv1d.cpu import SEGMENT


def make_arguments(
    batch: int = 2,
    length: int = 2 * SEGMENT + 3,
    channels: int = 21,
    width: int = 4,
    *,
    activation: str | None = "silu",
    bias: bool = True,
    initial_state: bool = True,
    packed: bool = False,
    seed: int = 0,
) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(batch, length, channels),
        "weight": normal(channels, width),
        "bias": normal(channels) if bias else None,
        "initial_state": normal(batch, width - 1, channels) if initial_state else None,
        "activation": activation,
        "sequence_ids": (torch.rand(batch, length, generator=generator) < 0.3).cumsum(1) if packed else None,
    }


def run(arguments: dict, backend: str, dtype: torch.dtype, layout=lambda tensor: tensor) -> dict[str, Tensor]:
    """y, the final state, and the gradients of a random-looking scalar of both."""
    names = ("x", "weight", "bias", "initial_state")
    leaves = {name: arguments[name] for name in names if arguments[name] is not None}
    leaves = {name: layout(tensor.to(dtype)).detach().requires_grad_() for name, tensor in leaves.items()}
    y, state = causal_conv1d(**(arguments | leaves), return_final_state=True, backend=backend)
    weights = torch.linspace(1, 3, y.numel() + state.numel(), dtype=torch.float64).sin().to(dtype)
    loss = (y * weights[: y.numel()].view_as(y)).sum() + (state * weights[y.numel() :].view_as(state)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "state": state} | dict(zip(leaves, gradients, strict=True))


def relative_error(value: Tensor, exact: Tensor) -> float:
    exact = exact.detach().double()
    error = torch.linalg.vector_norm(value.detach().double() - exact)
    return float(error / torch.linalg.vector_norm(exact)) if exact.any() else float(error)


def assert_agrees(arguments: dict, dtype=torch.float32, limit: float = 1e-5, layout=lambda tensor: tensor) -> None:
    results, exact = run(arguments, "cpu", dtype, layout), run(arguments, "reference", torch.float64)
    errors = {name: relative_error(results[name], exact[name]) for name in exact}
    assert max(errors.values()) <= limit, errors
    for name, result in results.items():
        assert result.shape == exact[name].shape
        assert result.dtype == dtype


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 11])
@pytest.mark.parametrize("length", [1, 2, 10, SEGMENT, 3 * SEGMENT + 5])
@pytest.mark.parametrize("packed", [False, True])
def test_any_width_and_length(width, length, packed):
    assert_agrees(make_arguments(width=width, length=length, packed=packed))


def test_no_steps():
    arguments = make_arguments(length=0)
    results = run(arguments, "cpu", torch.float32)
    assert results["y"].shape == (2, 0, 21)
    assert torch.equal(results["state"], arguments["initial_state"].float())
    assert_agrees(arguments)


def chunked(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor], dim=-1).chunk(2, dim=-1)[1]


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def every_other(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1).flatten(-2)[..., ::2]


layouts = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "length": st.sampled_from([1, 2, 3, 5, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 5]),
        "channels": st.sampled_from([3, 15, 16, 17, 40]),
        "width": st.integers(1, 6),
        "activation": st.sampled_from([None, "silu"]),
        "bias": st.booleans(),
        "initial_state": st.booleans(),
        "packed": st.booleans(),
        "seed": st.integers(0, 9),
    }
)


@hypothesis.settings(max_examples=500, deadline=None, derandomize=True, database=None)
@hypothesis.given(layouts, st.sampled_from([lambda tensor: tensor, chunked, transposed, every_other]))
def test_any_layout(layout_of_arguments, strides):
    assert_agrees(make_arguments(**layout_of_arguments), layout=strides)


def test_float64_is_computed_in_float64():
    assert_agrees(make_arguments(packed=True), torch.float64, 1e-13)


def test_bfloat16_is_computed_in_float32():
    arguments = {
        name: value.bfloat16().double() if isinstance(value, Tensor) else value
        for name, value in make_arguments().items()
    }
    results, exact = run(arguments, "cpu", torch.bfloat16), run(arguments, "reference", torch.float64)
    assert all(result.dtype == torch.bfloat16 for result in results.values())
    assert max(relative_error(results[name], exact[name]) for name in exact) < 2 * torch.finfo(torch.bfloat16).eps


def test_nan_reaches_the_next_steps_of_its_channel_only():
    arguments = make_arguments()
    arguments["x"][1, 10, 20] = torch.nan
    y = run(arguments, "cpu", torch.float32)["y"]
    assert y.isnan().nonzero().tolist() == [[1, t, 20] for t in range(10, 14)]


def test_another_sequence_does_not_see_nan():
    arguments = make_arguments(batch=1, length=20)
    arguments["sequence_ids"] = (torch.arange(20) >= 12).long()[None]
    arguments["x"][0, 11, 3] = torch.nan
    results = run(arguments, "cpu", torch.float32)
    assert results["y"].isnan().nonzero().tolist() == [[0, 11, 3]]


def test_gradients_do_not_depend_on_threads():
    arguments = make_arguments(batch=3, length=150, channels=150)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(arguments, "cpu", torch.float32))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in other)


@pytest.mark.parametrize("options", [{"packed": True}, {"bias": False, "initial_state": False, "activation": None}])
def test_registered_for_autograd_and_compilation(options):
    values = make_arguments(length=5, channels=3, **options)
    x, weight, bias, state = (
        None if values[name] is None else values[name].float().requires_grad_()
        for name in ("x", "weight", "bias", "initial_state")
    )
    silu = values["activation"] == "silu"
    torch.library.opcheck(
        torch.ops.baby_mamba.causal_conv1d_cpu.default, (x, weight, bias, silu, state, values["sequence_ids"])
    )
