"""The Triton decoding step, interpreted on the CPU at small odd shapes, against the float64 reference."""

import importlib
import os

import pytest
import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops import selective_state_update

if torch.cuda.is_available():
    pytest.skip("compiled kernels are tested in tests/gpu", allow_module_level=True)
os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it decides there
pytest.importorskip("triton")
triton_update = importlib.import_module("baby_mamba.ops.selective_state_update.triton")

LIMIT = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
INPUTS = ("u", "delta", "B", "C", "z")  # the rest stays float32


def random_arguments(
    batch: int, channels: int, d_state: int, B_groups: int = 0, C_groups: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch + 10 * channels + 100 * d_state)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    arguments = {
        "state": normal(batch, channels, d_state),
        "u": normal(batch, channels),
        "delta": normal(batch, channels),
        "A": -2 * torch.rand(channels, d_state, generator=generator) - 0.1,
        "B": normal(batch, B_groups, d_state) if B_groups else normal(batch, d_state),
        "C": normal(batch, C_groups, d_state) if C_groups else normal(batch, d_state),
        "D": normal(channels),
        "z": normal(batch, channels),
        "delta_bias": normal(channels) - 1,
    }
    return {name: t.to(dtype) if name in INPUTS else t for name, t in arguments.items()}


def update(
    state: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    z: Tensor | None = None, delta_bias: Tensor | None = None, softplus: bool = True, indices: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return triton_update.selective_state_update(state, u, delta, A, B, C, D, z, delta_bias, softplus, indices)


def check(arguments: dict[str, Tensor], softplus: bool = True, indices: Tensor | None = None) -> None:
    wide = {name: t.double() for name, t in arguments.items()}
    expected = selective_state_update(**wide, delta_softplus=softplus, state_indices=indices, backend="reference")
    before = arguments["state"].clone()
    y = update(**arguments, softplus=softplus, indices=indices)
    assert y.dtype == arguments["u"].dtype
    limit = LIMIT[y.dtype]
    for name, got, value in (("y", y, expected), ("state", arguments["state"], wide["state"])):
        error = (got.double() - value).norm() / value.norm().clamp(min=1e-30)
        assert error <= limit, f"{name}: relative error {error:.1e}"
    untouched = before == wide["state"].float()  # rows that the reference left alone are equal bit by bit
    assert torch.equal(arguments["state"][untouched], before[untouched])


@pytest.mark.parametrize(("batch", "channels", "d_state"), [(1, 1, 1), (2, 3, 5), (1, 70, 16), (1, 9, 200)])
def test_odd_shapes(batch: int, channels: int, d_state: int) -> None:
    check(random_arguments(batch, channels, d_state))


@pytest.mark.parametrize(("B_groups", "C_groups"), [(2, 0), (0, 3), (1, 6)])
def test_groups(B_groups: int, C_groups: int) -> None:
    check(random_arguments(2, 6, 4, B_groups, C_groups))


def test_options_left_out() -> None:
    arguments = random_arguments(1, 3, 4)
    few = {name: arguments[name] for name in ("state", "u", "delta", "A", "B", "C")}
    check({**few, "delta": few["delta"].abs()}, softplus=False)


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_rows_by_index_with_padding(index_dtype: torch.dtype) -> None:
    arguments = random_arguments(4, 5, 3)
    arguments["state"] = random_arguments(7, 5, 3)["state"]
    for name in ("u", "delta", "B", "C", "z"):
        arguments[name][1] = torch.nan  # what padding holds does not matter
    indices = torch.tensor([5, -1, 0, 2], dtype=index_dtype)
    before = arguments["state"].clone()
    check(arguments, indices=indices)
    assert torch.equal(arguments["state"][[1, 3, 4, 6]], before[[1, 3, 4, 6]])
    check(arguments, indices=torch.stack([indices, indices], dim=1)[:, 0])  # with a stride


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_inputs(dtype: torch.dtype) -> None:
    check(random_arguments(2, 5, 4, dtype=dtype))


def test_a_narrow_state_is_widened_and_rounded_once() -> None:
    arguments = random_arguments(2, 5, 4)
    arguments["state"] = arguments["state"].bfloat16()
    wide = {**arguments, "state": arguments["state"].float()}
    torch.testing.assert_close(update(**arguments), update(**wide))
    torch.testing.assert_close(
        arguments["state"].float(), wide["state"], rtol=2**-7, atol=0
    )  # cut off when interpreted


@pytest.mark.parametrize("transposed", [("state", "u", "B", "z"), ("delta", "A", "C", "z")])
def test_strides_do_not_matter(transposed: tuple[str, ...]) -> None:
    arguments = random_arguments(3, 5, 4, B_groups=5, C_groups=1)
    for name in transposed:
        arguments[name] = arguments[name].transpose(0, -1).contiguous().transpose(0, -1)
    for name in ("D", "delta_bias"):
        arguments[name] = torch.stack([arguments[name], torch.full((5,), torch.nan)], dim=1)[:, 0]
    check(arguments)


def test_no_rows() -> None:
    check(random_arguments(0, 5, 4))


def test_float64_is_refused() -> None:
    arguments = {name: t.double() for name, t in random_arguments(1, 2, 2).items()}
    with pytest.raises(ShapeError, match=r"float32 and got a float64 argument; use \.float"):
        update(**arguments)


def test_a_backward_pass_that_needs_the_states_before_is_refused() -> None:
    arguments = random_arguments(3, 4, 2)
    scale = torch.ones_like(arguments["state"], requires_grad=True)
    loss = (scale * arguments["state"]).sum()
    update(**arguments)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        update(**random_arguments(3, 4, 2))


def test_registered_as_it_should_be() -> None:
    arguments = random_arguments(3, 4, 2)
    torch.library.opcheck(
        torch.ops.baby_mamba.selective_state_update.default,
        (*arguments.values(), True, torch.tensor([2, -1, 0]), "triton"),
        test_utils=("test_schema", "test_faketensor"),
    )
