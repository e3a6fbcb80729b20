"""The `cpu` backend of RMSNorm against the reference in float64."""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from baby_mamba.ops import rms_norm
from baby_mamba.ops.rms_norm.cpu import ROWS


def make_arguments(shape: tuple[int, ...] = (2, 7, 37), residual: bool = True, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": shape, "weight": shape[-1:]} | ({"residual": shape} if residual else {})
    return {name: torch.randn(*s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}


def run(arguments: dict[str, Tensor], backend: str, dtype: torch.dtype, layout=lambda tensor: tensor, **options):
    """y, the sum, and the gradients of a random-looking scalar of both."""
    leaves = {name: layout(tensor.to(dtype)).detach().requires_grad_() for name, tensor in arguments.items()}
    y, total = rms_norm(**leaves, **options, backend=backend)
    weights = torch.linspace(1, 3, 2 * y.numel(), dtype=torch.float64).sin().to(dtype)
    loss = (y * weights[: y.numel()].view_as(y)).sum() + (total * weights[y.numel() :].view_as(y)).sum()
    return {"y": y, "total": total} | dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def relative_error(value: Tensor, exact: Tensor) -> float:
    exact = exact.detach().double()
    error = torch.linalg.vector_norm(value.detach().double() - exact)
    return float(error / torch.linalg.vector_norm(exact)) if exact.any() else float(error)


def assert_agrees(arguments, dtype=torch.float32, limit: float = 1e-5, **options) -> None:
    results = run(arguments, "cpu", dtype, **options)
    options.pop("layout", None)
    exact = run(arguments, "reference", torch.float64, **options)
    errors = {name: relative_error(results[name], exact[name]) for name in exact}
    assert max(errors.values()) <= limit, errors
    for name, result in results.items():
        assert result.shape == exact[name].shape
        assert result.dtype == dtype


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def every_other(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1).flatten(-2)[..., ::2]


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    st.lists(st.integers(0, 5), max_size=3),
    st.sampled_from([1, 2, 15, 16, 17, 64, 100]),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from([lambda tensor: tensor, transposed, every_other]),
)
def test_any_layout(leading, width, residual, seed, layout):
    hypothesis.assume(leading or width > 1)
    assert_agrees(make_arguments((*leading, width), residual, seed), layout=layout)


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS, 3 * ROWS + 5])
def test_many_rows(rows):
    assert_agrees(make_arguments((rows, 40)))


def test_float64_is_computed_in_float64():
    assert_agrees(make_arguments(), torch.float64, 1e-14)


def test_epsilon():
    arguments = {name: 1e-3 * value for name, value in make_arguments().items()}
    assert_agrees(arguments, epsilon=1e-2)


@pytest.mark.parametrize("residual_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("residual", [True, False])
def test_bfloat16(residual, residual_dtype):
    arguments = {name: value.bfloat16().double() for name, value in make_arguments(residual=residual).items()}
    results = run(arguments, "cpu", torch.bfloat16, residual_dtype=residual_dtype)
    expected = run(arguments, "reference", torch.bfloat16, residual_dtype=residual_dtype)
    for name, result in results.items():
        assert result.dtype == expected[name].dtype
        assert relative_error(result, expected[name]) < 2 * torch.finfo(torch.bfloat16).eps, name
    assert torch.equal(results["total"], expected["total"])


def test_the_sum_is_not_the_input_itself():
    x = torch.randn(3, 8)
    _, total = rms_norm(x, torch.ones(8), backend="cpu")
    total.zero_()
    assert x.any()


def test_nan_stays_in_its_row():
    arguments = make_arguments((3, 20))
    arguments["x"][1, 4] = torch.nan
    results = run(arguments, "cpu", torch.float32)
    for name in ("y", "x", "residual"):
        assert results[name].isnan().any(1).tolist() == [False, True, False]


def test_gradients_do_not_depend_on_threads():
    arguments = make_arguments((10 * ROWS + 3, 128))
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


@pytest.mark.parametrize("residual", [True, False])
def test_registered_for_autograd_and_compilation(residual):
    values = {name: value.float().requires_grad_() for name, value in make_arguments(residual=residual).items()}
    arguments = (values["x"], values["weight"], 1e-5, values.get("residual"), torch.float32)
    torch.library.opcheck(torch.ops.baby_mamba.rms_norm_cpu.default, arguments)
