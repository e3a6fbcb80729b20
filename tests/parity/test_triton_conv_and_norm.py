"""The Triton convolution and norm, run by Triton's interpreter on the CPU at small odd shapes, against float64."""

import importlib
import os

import pytest
import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops import causal_conv1d, rms_norm
from baby_mamba.ops.causal_conv1d import reference as conv_reference
from baby_mamba.ops.rms_norm import reference as norm_reference

if torch.cuda.is_available():
    pytest.skip("compiled kernels are tested in tests/gpu", allow_module_level=True)
os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it decides there
pytest.importorskip("triton")
conv = importlib.import_module("baby_mamba.ops.causal_conv1d.triton")
norm = importlib.import_module("baby_mamba.ops.rms_norm.triton")

OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
# The interpreter cuts bfloat16 off where a GPU rounds, so its errors are twice as large.
LIMIT = {torch.float32: 1e-5, torch.float16: 5e-4, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def results(op, leaves: dict[str, Tensor], names: tuple[str, str], dtypes: list[torch.dtype]) -> dict[str, Tensor]:
    """Both results and every gradient, for a random cotangent of both, rounded to the dtypes of the results."""
    both = op(leaves)
    generator = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(r.shape, generator=generator).to(d).to(r.dtype) for r, d in zip(both, dtypes, strict=True)
    ]
    gradients = torch.autograd.grad(both, list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True)
    return dict(zip(names, both, strict=True)) | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}


def compare(kernel, reference, arguments: dict[str, Tensor], names: tuple[str, str], dtypes: list[torch.dtype]) -> None:
    """Results and gradients of kernel(leaves) and reference(float64 leaves); `dtypes` are the results'."""
    leaves = {name: t.detach().requires_grad_() for name, t in arguments.items()}
    wide = {name: t.detach().double().requires_grad_() for name, t in arguments.items()}
    got, expected = results(kernel, leaves, names, dtypes), results(reference, wide, names, dtypes)
    expected_dtypes = dict(zip(names, dtypes, strict=True)) | {f"d{name}": t.dtype for name, t in arguments.items()}
    for name, value in expected.items():
        assert (got[name].shape, got[name].dtype) == (value.shape, expected_dtypes[name]), name
        error = (got[name].double() - value).norm() / value.norm().clamp(min=1e-30)
        assert error <= LIMIT[got[name].dtype], f"{name}: relative error {error:.1e}"


GARBAGE = 77  # beside the numbers of a tensor that is not contiguous


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def every_other(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.full_like(tensor, GARBAGE)], dim=-1).flatten(-2)[..., ::2]


def upper_half(tensor: Tensor) -> Tensor:
    """As one half of in_proj's output lies in memory."""
    return torch.cat([torch.full_like(tensor, GARBAGE), tensor], dim=-1).chunk(2, dim=-1)[1]


LAYOUTS = [transposed, every_other, upper_half]


# ------------------------------------------------------------------------------------------------------- convolution


def conv_arguments(
    batch: int = 2, length: int = 5, channels: int = 3, width: int = 4, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length + 7 * channels)
    shapes = {
        "x": (batch, length, channels),
        "weight": (channels, width),
        "bias": (channels,),
        "initial_state": (batch, width - 1, channels),
    }
    arguments = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    return {name: t.to(dtype) if name in ("x", "initial_state") else t for name, t in arguments.items()}


def check_conv(arguments: dict[str, Tensor], activation: str | None = "silu", ids: Tensor | None = None) -> None:
    def run(op):
        def call(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            bias, initial_state = leaves.get("bias"), leaves.get("initial_state")
            return op(leaves["x"], leaves["weight"], bias, activation, initial_state, ids)

        return call

    dtype = arguments["x"].dtype
    compare(
        run(conv.causal_conv1d), run(conv_reference.causal_conv1d), arguments, ("y", "final_state"), [dtype, dtype]
    )  # fmt: skip


def packed(length: int, *rows: list[int]) -> Tensor:
    """Sequence ids that change at the given steps of each row."""
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    for row, changes in zip(ids, rows, strict=True):
        row[changes] = 1
    return ids.cumsum(1) % 2  # an id that comes back is another sequence


@pytest.mark.parametrize(
    ("width", "length"), [(1, 0), (1, 5), (2, 1), (3, 10), (4, 0), (4, 1), (4, 2), (4, 17), (8, 3), (11, 1), (11, 12)]
)
def test_conv_widths_and_lengths(width: int, length: int) -> None:
    check_conv(conv_arguments(length=length, width=width))


@pytest.mark.parametrize("width", [1, 4, 10])
def test_conv_of_packed_sequences(width: int) -> None:
    check_conv(conv_arguments(length=21, width=width), ids=packed(21, [1, 2, 9, 20], [15, 18]))


def test_conv_over_several_programs_and_tiles() -> None:
    arguments = conv_arguments(batch=1, length=70, channels=35)
    for numbers, limit, ahead in ((8, 64, 0), (16, 32, 3)):  # forward, backward
        assert conv.Plan(arguments["x"], numbers, limit, ahead).grid == (2 * 2,)
    check_conv(arguments)
    check_conv(arguments, ids=packed(70, [13, 16, 17, 48, 64, 65, 69]))


def test_conv_of_wide_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "FEW_WARPS", 0)
    arguments = conv_arguments(batch=1, length=17, channels=130)
    assert conv.Plan(arguments["x"], 8, 64, 0).block == 128
    check_conv(arguments)


def test_conv_of_long_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "WARPS", 0)
    monkeypatch.setattr(conv, "MAX_STEPS", 64)
    arguments = conv_arguments(batch=1, length=45)
    assert conv.Plan(arguments["x"], 8, 64, 0).steps == 64
    check_conv(arguments, ids=packed(45, [3, 30]))


@pytest.mark.parametrize(
    ("left_out", "activation", "ids"),
    [
        (["bias"], None, None),
        (["bias"], "silu", packed(9, [2], [5, 8])),
        (["initial_state"], "silu", None),
        (["bias", "initial_state"], None, packed(9, [2], [5, 8])),
    ],
)
def test_conv_options_left_out(left_out: list[str], activation: str | None, ids: Tensor | None) -> None:
    arguments = {name: t for name, t in conv_arguments(length=9).items() if name not in left_out}
    check_conv(arguments, activation, ids)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conv_of_narrow_inputs(dtype: torch.dtype) -> None:
    check_conv(conv_arguments(length=11, dtype=dtype))
    check_conv({name: t.to(dtype) for name, t in conv_arguments(length=11).items()})


def test_conv_state_of_another_dtype() -> None:
    arguments = conv_arguments(length=3)
    arguments["initial_state"] = arguments["initial_state"].bfloat16()
    leaves = {name: t.requires_grad_() for name, t in arguments.items()}
    y, state = conv.causal_conv1d(*(leaves[n] for n in ("x", "weight", "bias")), "silu", leaves["initial_state"], None)
    (dstate,) = torch.autograd.grad(y.sum() + state.sum(), leaves["initial_state"])
    assert (y.dtype, state.dtype, dstate.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    check_conv(arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_conv_layout_does_not_matter(layout) -> None:
    check_conv({name: layout(t) for name, t in conv_arguments(length=6).items()}, ids=layout(packed(6, [2], [5])))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_conv_ids_of_any_integers(dtype: torch.dtype) -> None:
    check_conv(conv_arguments(length=5), ids=packed(5, [2, 3], [4]).to(dtype))


def test_conv_ids_shared_by_a_batch() -> None:
    check_conv(conv_arguments(length=5), ids=packed(5, [2, 3]).expand(2, -1))


@pytest.mark.parametrize("which", [0, 1])
def test_conv_gradient_through_one_result(which: int) -> None:
    arguments = conv_arguments(length=2)

    def gradients(op, dtype: torch.dtype) -> list[Tensor]:
        leaves = {name: t.to(dtype).detach().requires_grad_() for name, t in arguments.items()}
        result = op(leaves["x"], leaves["weight"], leaves["bias"], "silu", leaves["initial_state"], None)[which]
        weights = torch.arange(1.0, 1 + result.numel(), dtype=dtype).view_as(result)
        loss = (result * weights).sum()
        return list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True))

    got = gradients(conv.causal_conv1d, torch.float32)
    expected = gradients(conv_reference.causal_conv1d, torch.float64)
    torch.testing.assert_close([g.double() for g in got], expected, rtol=1e-5, atol=1e-5)


def test_conv_stepped_equals_the_whole() -> None:
    a = conv_arguments(length=6)
    whole, final = conv.causal_conv1d(*(a[n] for n in ("x", "weight", "bias")), "silu", a["initial_state"], None)
    state, pieces = a["initial_state"], []
    for x in a["x"].split(1, dim=1):
        y, state = conv.causal_conv1d(x, a["weight"], a["bias"], "silu", state, None)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    assert torch.equal(state, final)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 5, 0)])
def test_conv_of_nothing(shape: tuple[int, int, int]) -> None:
    arguments = conv_arguments(*shape)
    leaves = {name: t.requires_grad_() for name, t in arguments.items()}
    y, state = conv.causal_conv1d(*(leaves[n] for n in ("x", "weight", "bias")), None, leaves["initial_state"], None)
    assert (y.shape, state.shape) == (shape, (shape[0], 3, shape[2]))
    gradients = torch.autograd.grad(y.sum() + state.sum(), list(leaves.values()))
    assert all(g.shape == leaf.shape and not g.any() for g, leaf in zip(gradients, leaves.values(), strict=True))


def test_conv_does_not_see_a_nan_of_another_sequence() -> None:
    a = conv_arguments(batch=1, length=20)
    a["x"][0, 11, 2] = torch.nan
    x = a["x"].requires_grad_()
    y, state = conv.causal_conv1d(x, a["weight"], a["bias"], "silu", None, packed(20, [12]))
    assert y.isnan().nonzero().tolist() == [[0, 11, 2]]
    assert not state.isnan().any()
    (dx,) = torch.autograd.grad(y.nan_to_num().sum(), x)
    assert not dx[:, 12:].isnan().any()
    assert not dx[..., :2].isnan().any()


def test_conv_refuses_fractional_ids() -> None:
    a = conv_arguments()
    with pytest.raises(ShapeError, match=r"sequence_ids are torch.float32; expected integers"):
        causal_conv1d(a["x"], a["weight"], sequence_ids=torch.zeros(2, 5))


def test_conv_refuses_float64() -> None:
    a = {name: t.double() for name, t in conv_arguments().items()}
    with pytest.raises(ShapeError, match=r"float32 and got a float64 argument; use \.float"):
        conv.causal_conv1d(a["x"], a["weight"], a["bias"], None, a["initial_state"], None)


@pytest.mark.parametrize("few", [False, True])
def test_conv_is_registered_for_autograd_and_compilation(few: bool) -> None:
    a = {name: t.requires_grad_() for name, t in conv_arguments(length=5).items()}
    options = (None, True, None, None) if few else (a["bias"], False, a["initial_state"], packed(5, [1], [4]))
    torch.library.opcheck(conv._forward, (a["x"], a["weight"], *options), test_utils=OPCHECKS)


# -------------------------------------------------------------------------------------------------------------- norm


def norm_arguments(
    shape: tuple[int, ...] = (2, 3, 37), dtype: torch.dtype = torch.float32, residual: torch.dtype | None = None
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    arguments = {
        "x": torch.randn(*shape, generator=generator).to(dtype),
        "weight": torch.randn(shape[-1], generator=generator),
    }
    if residual is not None:
        arguments["residual"] = torch.randn(*shape, generator=generator).to(residual)
    return arguments


def check_norm(arguments: dict[str, Tensor], epsilon: float = 1e-5, total: torch.dtype = torch.float32) -> None:
    def run(op, total: torch.dtype):
        return lambda leaves: op(leaves["x"], leaves["weight"], epsilon, leaves.get("residual"), total)

    compare(
        run(norm.rms_norm, total), run(norm_reference.rms_norm, torch.float64), arguments, ("y", "total"),
        [arguments["x"].dtype, total],
    )  # fmt: skip


@pytest.mark.parametrize("residual", [None, torch.float32])
@pytest.mark.parametrize("shape", [(2,), (7, 1), (5, 2, 33), (3, 1, 100), (2, 4100), (1, 16384), (3, 0, 8), (0, 5)])
def test_norm_shapes(shape: tuple[int, ...], residual: torch.dtype | None) -> None:
    check_norm(norm_arguments(shape, residual=residual))


def test_norm_of_many_rows_for_each_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "WARPS", 0)
    monkeypatch.setattr(norm, "MULTIPROCESSORS", 2)
    check_norm(norm_arguments((11, 300), residual=torch.float32))  # one row at once
    check_norm(norm_arguments((11, 100), residual=torch.float32))  # four


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("residual", [None, torch.float32])
def test_norm_of_narrow_inputs(dtype: torch.dtype, residual: torch.dtype | None) -> None:
    check_norm(norm_arguments(dtype=dtype, residual=residual))


@pytest.mark.parametrize("residual", [None, torch.float32, torch.float16])
@pytest.mark.parametrize("total", [torch.float32, torch.float16])
def test_norm_rounds_the_sum_as_the_reference(residual: torch.dtype | None, total: torch.dtype) -> None:
    a = norm_arguments(dtype=torch.float16, residual=residual)
    a["weight"] = a["weight"].half()
    given = (a["x"], a["weight"], 1e-5, a.get("residual"), total)
    y, got = norm.rms_norm(*given)
    expected_y, expected = norm_reference.rms_norm(*given)
    assert torch.equal(got, expected)
    torch.testing.assert_close(y, expected_y, rtol=torch.finfo(torch.float16).eps, atol=0)


@pytest.mark.parametrize("residual", [torch.float32, torch.float16])
def test_norm_gradients_have_their_inputs_dtypes(residual: torch.dtype) -> None:
    arguments = norm_arguments(dtype=torch.float16, residual=residual)
    arguments["weight"] = arguments["weight"].half()

    def gradients(op) -> list[Tensor]:
        leaves = {name: t.detach().requires_grad_() for name, t in arguments.items()}
        y, total = op(leaves["x"], leaves["weight"], 1e-5, leaves["residual"], residual)
        return list(torch.autograd.grad(y.float().square().sum() + total.float().sum(), list(leaves.values())))

    for got, expected, argument in zip(
        gradients(norm.rms_norm), gradients(norm_reference.rms_norm), arguments.values(), strict=True
    ):
        assert got.dtype == argument.dtype
        assert (got.double() - expected.double()).norm() <= 2e-3 * expected.double().norm()


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # 1 / sqrt(0) in lanes that hold no row
@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_norm_epsilon(epsilon: float) -> None:
    check_norm({name: 0.1 * t for name, t in norm_arguments((3, 20), residual=torch.float32).items()}, epsilon)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_norm_layout_does_not_matter(layout) -> None:
    check_norm({name: layout(t) for name, t in norm_arguments(residual=torch.float32).items()})


@pytest.mark.parametrize("which", [0, 1])
def test_norm_gradient_through_one_result(which: int) -> None:
    arguments = norm_arguments((3, 5), residual=torch.float32)

    def gradients(op, dtype: torch.dtype) -> list[Tensor]:
        leaves = {name: t.to(dtype).detach().requires_grad_() for name, t in arguments.items()}
        result = op(leaves["x"], leaves["weight"], 1e-5, leaves["residual"], dtype)[which]
        loss = (result * torch.arange(1.0, 1 + result.numel(), dtype=dtype).view_as(result)).sum()
        return list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True))

    got = gradients(norm.rms_norm, torch.float32)
    expected = gradients(norm_reference.rms_norm, torch.float64)
    torch.testing.assert_close([g.double() for g in got], expected, rtol=1e-5, atol=1e-5)


def test_norm_sum_is_not_the_input_itself() -> None:
    x = torch.randn(3, 8)
    _, total = norm.rms_norm(x, torch.ones(8), 1e-5, None, torch.float32)
    total.zero_()
    assert x.any()


def test_norm_nan_stays_in_its_row() -> None:
    a = norm_arguments((3, 20), residual=torch.float32)
    a["x"][1, 4] = torch.nan
    y, _ = norm.rms_norm(a["x"], a["weight"], 1e-5, a["residual"], torch.float32)
    assert y.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["weight", "residual"])
def test_norm_refuses_tensors_elsewhere(name: str) -> None:
    a = norm_arguments(residual=torch.float32)
    a[name] = a[name].to("meta")
    with pytest.raises(ShapeError, match=f"{name} is on meta; move it to cpu"):
        rms_norm(**a)


@pytest.mark.parametrize("name", ["x", "weight", "residual"])
def test_norm_refuses_float64(name: str) -> None:
    a = norm_arguments(residual=torch.float32)
    a[name] = a[name].double()
    with pytest.raises(ShapeError, match=r"float32 and got a float64 argument; use \.float"):
        norm.rms_norm(a["x"], a["weight"], 1e-5, a["residual"], torch.float32)


@pytest.mark.parametrize("residual", [None, torch.float32, torch.bfloat16])
def test_norm_is_registered_for_autograd_and_compilation(residual: torch.dtype | None) -> None:
    a = {n: t.requires_grad_() for n, t in norm_arguments(dtype=torch.bfloat16, residual=residual).items()}
    inputs = (a["x"], a["weight"], 1e-5, a.get("residual"), torch.float32)
    torch.library.opcheck(norm._forward, inputs, test_utils=OPCHECKS)
