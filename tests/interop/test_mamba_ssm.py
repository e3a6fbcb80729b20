"""The wrappers against the documented formulas of mamba_ssm and causal_conv1d, as plain loops in float64."""

import inspect
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.interop import mamba_ssm
from baby_mamba.interop.mamba_ssm import (
    InferenceParams,
    Mamba,
    causal_conv1d_fn,
    causal_conv1d_update,
    layer_norm_fn,
    mamba_inner_fn,
    rms_norm_fn,
    selective_scan_fn,
    selective_scan_ref,
    selective_state_update,
)

SIGNATURES = {
    "selective_scan_fn": "u delta A B C D=None z=None delta_bias=None delta_softplus=False return_last_state=False",
    "selective_scan_ref": "u delta A B C D=None z=None delta_bias=None delta_softplus=False return_last_state=False",
    "mamba_inner_fn": "xz conv1d_weight conv1d_bias x_proj_weight delta_proj_weight out_proj_weight out_proj_bias A "
    "B=None C=None D=None delta_bias=None B_proj_bias=None C_proj_bias=None delta_softplus=True checkpoint_lvl=1 "
    "b_rms_weight=None c_rms_weight=None dt_rms_weight=None b_c_dt_rms_eps=1e-06",
    "selective_state_update": "state x dt A B C D=None z=None dt_bias=None dt_softplus=False state_batch_indices=None",
    "causal_conv1d_fn": "x weight bias=None seq_idx=None initial_states=None return_final_states=False "
    "final_states_out=None activation=None",
    "causal_conv1d_update": "x conv_state weight bias=None activation=None cache_seqlens=None conv_state_indices=None",
    "Mamba": "d_model d_state=16 d_conv=4 expand=2 dt_rank='auto' dt_min=0.001 dt_max=0.1 dt_init='random' "
    "dt_scale=1.0 dt_init_floor=0.0001 conv_bias=True bias=False use_fast_path=True layer_idx=None device=None "
    "dtype=None",
}
generator = torch.Generator()


@pytest.fixture(autouse=True)
def _seed() -> None:
    generator.manual_seed(0)
    torch.manual_seed(0)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_official_signature(name: str) -> None:
    parameters = inspect.signature(getattr(mamba_ssm, name)).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    written = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in positional]
    assert " ".join(written) == SIGNATURES[name]


# ------------------------------------------------------------------------------------------------ the selective scan


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def row(M: Tensor, b: int, d: int, t: int, channels: int, packed: bool) -> Tensor:
    """The d_state numbers of B or C that channel d of batch entry b sees at step t, from any of the official shapes."""
    if M.ndim == 2:
        return M[d]
    M = M[b] if M.ndim == 3 else M[b, d * M.shape[1] // channels]
    return torch.complex(M[:, 2 * t], M[:, 2 * t + 1]) if packed else M[:, t]


def scan_by_loops(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, channels, length = u.shape
    ys, last = [], []
    for b in range(batch):
        for d in range(channels):
            h = torch.zeros_like(A[d])
            for t in range(length):
                step = delta[b, d, t] if delta_bias is None else delta[b, d, t] + delta_bias[d]
                step = softplus(step) if delta_softplus else step
                h = torch.exp(step * A[d]) * h + step * u[b, d, t] * row(B, b, d, t, channels, A.is_complex())
                y = (h * row(C, b, d, t, channels, A.is_complex())).sum()
                y = 2 * y.real if A.is_complex() else y
                y = y if D is None else y + D[d] * u[b, d, t]
                ys.append(y if z is None else y * silu(z[b, d, t]))
            last.append(h)
    return torch.stack(ys).view(batch, channels, length), torch.stack(last).view(batch, channels, -1)


def scan_arguments(B_shape: str = "input", C_shape: str = "input", complex_A: bool = False) -> dict[str, Tensor]:
    batch, channels, length, d_state = 2, 4, 5, 3
    steps = 2 * length if complex_A else length
    constant = torch.complex128 if complex_A else torch.float64
    shapes = {
        "constant": lambda: normal(channels, d_state, dtype=constant),
        "input": lambda: normal(batch, d_state, steps),
        "grouped": lambda: normal(batch, 2, d_state, steps),
    }
    A = -normal(channels, d_state).exp()
    return {
        "u": normal(batch, channels, length),
        "delta": normal(batch, channels, length),
        "A": torch.complex(A, normal(channels, d_state)) if complex_A else A,
        "B": shapes[B_shape](),
        "C": shapes[C_shape](),
        "D": normal(channels),
        "z": normal(batch, channels, length),
        "delta_bias": normal(channels),
    }


def results(scan, arguments: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """y, the last state and the gradients of all arguments, for a fixed cotangent of both results."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in arguments.items()}
    y, state = scan(**leaves, **options)
    weights = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(t.shape, generator=weights, dtype=t.dtype) for t in (y, state)]
    gradients = torch.autograd.grad([y, state], list(leaves.values()), cotangents)
    return {"y": y, "state": state, **{f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}}


@pytest.mark.parametrize("scan", [selective_scan_fn, selective_scan_ref])
@pytest.mark.parametrize(
    ("B_shape", "C_shape", "complex_A"),
    [
        ("input", "input", False),
        ("grouped", "constant", False),
        ("constant", "grouped", False),
        ("input", "grouped", True),
        ("constant", "input", True),
    ],
)
def test_scan_and_its_gradients(scan, B_shape: str, C_shape: str, complex_A: bool) -> None:
    arguments = scan_arguments(B_shape, C_shape, complex_A)
    expected = results(scan_by_loops, arguments, delta_softplus=True)
    got = results(scan, arguments, delta_softplus=True, return_last_state=True)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_scan_without_options() -> None:
    arguments = {name: t for name, t in scan_arguments().items() if name in ("u", "delta", "A", "B", "C")}
    arguments["delta"] = arguments["delta"].abs()
    y = selective_scan_fn(**arguments)
    assert isinstance(y, Tensor)
    torch.testing.assert_close(y, scan_by_loops(**arguments)[0])


def test_scan_of_complex_numbers_that_are_complex() -> None:
    arguments = scan_arguments(complex_A=True)
    expected = selective_scan_fn(**arguments)
    for name in ("B", "C"):
        arguments[name] = torch.view_as_complex(arguments[name].unflatten(-1, (-1, 2)))
    torch.testing.assert_close(selective_scan_fn(**arguments), expected)


def test_scan_in_bfloat16() -> None:
    arguments = scan_arguments()
    expected, _ = scan_by_loops(**arguments, delta_softplus=True)
    narrow = {n: t.bfloat16() if n in ("u", "delta", "B", "C", "z") else t.float() for n, t in arguments.items()}
    y, state = selective_scan_fn(**narrow, delta_softplus=True, return_last_state=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert (y.double() - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"u": torch.zeros(4, 5)}, r"u has shape \(4, 5\); expected \(batch, channels, length\)"),
        ({"z": torch.zeros(2, 5, 4)}, r"z has shape \(2, 5, 4\); expected u's"),
        ({"B": torch.zeros(2, 5, 3)}, r"B has shape \(2, 5, 3\).*\(2, 3, 5\)"),
        ({"C": torch.zeros(2, 2, 3, 4)}, r"C has shape"),
        ({"A": -torch.ones(4, 3, dtype=torch.complex64)}, r"B has shape .*doubled because A is complex"),
    ],
)
def test_wrong_scan_arguments_are_named(changed: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        selective_scan_fn(**{**scan_arguments(), **changed})


# ------------------------------------------------------------------------------------------------- the decoding step


def step_arguments() -> dict[str, Tensor]:
    return {
        "state": normal(2, 6, 3),
        "x": normal(2, 6),
        "dt": normal(2, 6),
        "A": -normal(6, 3).exp(),
        "B": normal(2, 3),
        "C": normal(2, 3),
        "D": normal(6),
        "z": normal(2, 6),
        "dt_bias": normal(6),
    }


def test_state_update() -> None:
    a = step_arguments()
    dt = softplus(a["dt"] + a["dt_bias"])
    h = torch.exp(dt[:, :, None] * a["A"]) * a["state"] + (dt * a["x"])[:, :, None] * a["B"][:, None]
    y = ((h * a["C"][:, None]).sum(-1) + a["D"] * a["x"]) * silu(a["z"])
    torch.testing.assert_close(selective_state_update(**a, dt_softplus=True), y)
    torch.testing.assert_close(a["state"], h)


def test_state_update_with_heads_and_indices() -> None:
    a = step_arguments()
    a["B"] = normal(2, 3, 3)  # a group for each head
    pool, indices = normal(5, 6, 3), torch.tensor([4, -1], dtype=torch.int32)
    expected_pool = pool.clone()
    expected = selective_state_update(**{**a, "state": expected_pool}, dt_softplus=True, state_batch_indices=indices)
    headed = {n: t.unflatten(-2 if n == "A" else -1, (3, 2)) for n, t in a.items() if n not in ("B", "C", "state")}
    state = pool.view(5, 3, 2, 3)
    y = selective_state_update(
        state, **headed, B=a["B"], C=a["C"], dt_softplus=True, state_batch_indices=indices
    )  # fmt: skip
    torch.testing.assert_close(y, expected.view(2, 3, 2))
    torch.testing.assert_close(pool, expected_pool)
    assert not y[1].any()
    with pytest.raises(ShapeError, match=r"make one axis.*contiguous"):
        selective_state_update(torch.zeros(2, 2, 3, 3).transpose(1, 2), **headed, B=a["B"], C=a["C"])


# --------------------------------------------------------------------------------------------------- the convolution


def convolve_by_loops(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None, activation: str | None = None,
) -> Tensor:  # fmt: skip
    (batch, channels, length), width = x.shape, weight.shape[1]
    ys = []
    for b in range(batch):
        for d in range(channels):
            for t in range(length):
                y = torch.zeros((), dtype=x.dtype) if bias is None else bias[d]
                for k in range(width):
                    s = t - (width - 1) + k
                    first = seq_idx is None or seq_idx[b, t] == seq_idx[b, 0]
                    if s >= 0 and (seq_idx is None or seq_idx[b, s] == seq_idx[b, t]):
                        y = y + weight[d, k] * x[b, d, s]
                    elif s < 0 and first and initial_states is not None:
                        y = y + weight[d, k] * initial_states[b, d, s]  # negative: counted from its end
                y = silu(y) if activation in ("silu", "swish") else y
                ys.append(y if seq_idx is None or seq_idx[b, t] >= 0 else 0 * y)
    return torch.stack(ys).view(x.shape)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("activation", [None, "silu", "swish"])
def test_convolution_and_its_gradients(width: int, activation: str | None) -> None:
    arguments = {"x": normal(2, 3, 6), "weight": normal(3, width), "bias": normal(3)}
    arguments["initial_states"] = normal(2, 3, width - 1)

    def by_loops(**given: Tensor) -> tuple[Tensor, Tensor]:
        past = torch.cat([given["initial_states"], given["x"]], dim=-1)
        return convolve_by_loops(**given, activation=activation), past[..., 6:]

    def wrapped(**given: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d_fn(**given, activation=activation, return_final_states=True)

    expected = results(by_loops, arguments)
    for name, value in results(wrapped, arguments).items():
        torch.testing.assert_close(value, expected[name], msg=lambda m, n=name: f"{n}: {m}")


def test_convolution_of_packed_sequences_with_padding() -> None:
    x, weight, bias, initial = normal(2, 3, 7), normal(3, 4), normal(3), normal(2, 3, 3)
    seq_idx = torch.tensor([[3, 3, 4, 4, 4, -1, 5], [0, 1, 1, 1, 1, 1, 1]], dtype=torch.int32)
    for options in ({}, {"initial_states": initial}):
        y = causal_conv1d_fn(x, weight, bias, seq_idx, activation="silu", **options)
        expected = convolve_by_loops(x, weight, bias, seq_idx=seq_idx, activation="silu", **options)
        torch.testing.assert_close(y, expected)
    assert not y[0, :, 5].any()


def test_final_states_are_written_where_asked() -> None:
    x, weight, out = normal(2, 3, 7), normal(3, 4), torch.zeros(2, 3, 3, dtype=torch.float64)
    y, states = causal_conv1d_fn(x, weight, return_final_states=True, final_states_out=out)
    assert states is out
    torch.testing.assert_close(out, x[..., 4:])
    torch.testing.assert_close(y, convolve_by_loops(x, weight))


@pytest.mark.parametrize("columns", [3, 4, 6])
def test_convolution_update(columns: int) -> None:
    x, weight, bias, state = normal(2, 3, 12), normal(3, 4), normal(3), normal(2, 3, columns)
    history = torch.cat([state, x], dim=-1)
    whole = convolve_by_loops(x, weight, bias, initial_states=state[..., columns - 3 :], activation="silu")
    pieces = [causal_conv1d_update(x[..., 0], state, weight, bias, "silu").unsqueeze(-1)]
    for start, stop in pairwise([1, 3, 3, 4, 12]):  # 2, 0, 1 and 8 inputs
        pieces.append(causal_conv1d_update(x[..., start:stop], state, weight, bias, "silu"))
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole)
    torch.testing.assert_close(state, history[..., -columns:])


@pytest.mark.parametrize("columns", [3, 4, 6])
def test_convolution_update_of_a_ring(columns: int) -> None:
    x, weight = normal(2, 3, 20), normal(3, 4)
    whole = convolve_by_loops(x, weight)
    state, read = torch.zeros(2, 3, columns, dtype=torch.float64), torch.tensor([0, 0], dtype=torch.int32)
    for lengths in ([1, 1], [2, 2], [1, 3], [7, 1], [2, 8]):  # the two rows advance by their own lengths
        for b, count in enumerate(lengths):
            rows = slice(b, b + 1)
            start = int(read[b])
            y = causal_conv1d_update(
                x[rows, :, start : start + count], state[rows], weight, cache_seqlens=read[rows]
            )  # fmt: skip
            torch.testing.assert_close(y, whole[rows, :, start : start + count])
            read[b] += count
    for b in range(2):
        for i in range(int(read[b]) - columns, int(read[b])):
            torch.testing.assert_close(state[b, :, i % columns], x[b, :, i])
    rest = torch.stack([x[b, :, int(read[b])] for b in range(2)])  # both rows at once, at different places of the ring
    y = causal_conv1d_update(rest, state, weight, cache_seqlens=read)
    torch.testing.assert_close(y, torch.stack([whole[b, :, int(read[b])] for b in range(2)]))


def test_convolution_update_of_chosen_rows() -> None:
    x, weight, pool = normal(4, 3, 2), normal(3, 4), normal(6, 3, 4)
    before = pool.clone()
    x[1] = torch.nan  # what padding holds does not matter
    for indices in (torch.tensor([0, -1, 5, -1], dtype=torch.int32), torch.tensor([-1, -1, -1, -1])):
        expected = before.clone()
        y = causal_conv1d_update(x, pool, weight, conv_state_indices=indices)
        for b, slot in enumerate(indices.tolist()):
            if slot < 0:
                assert not y[b].any()
                continue
            row = before[slot : slot + 1].clone()
            torch.testing.assert_close(y[b : b + 1], causal_conv1d_update(x[b : b + 1], row, weight))
            expected[slot] = row[0]
        assert torch.equal(pool, expected)
        before = pool.clone()


def test_functions_compile_without_a_graph_break() -> None:
    a = scan_arguments()
    weight, pool, indices = normal(4, 3), normal(5, 4, 3), torch.tensor([3, -1])

    def run(pool: Tensor, u: Tensor) -> Tensor:
        u = causal_conv1d_fn(u, weight, activation="silu")
        u = causal_conv1d_update(u, pool, weight, conv_state_indices=indices)
        return selective_scan_fn(**{**a, "u": u}, delta_softplus=True)

    compiled_pool = pool.clone()
    y = torch.compile(run, fullgraph=True, backend="aot_eager")(compiled_pool, a["u"])
    torch.testing.assert_close(y, run(pool, a["u"]))
    torch.testing.assert_close(compiled_pool, pool)


def test_wrong_convolution_arguments_are_named() -> None:
    x, weight = torch.zeros(2, 3, 5), torch.zeros(3, 4)
    with pytest.raises(ShapeError, match=r"x has shape \(2, 3\); expected \(batch, channels, length\)"):
        causal_conv1d_fn(x[..., 0], weight)
    with pytest.raises(ShapeError, match=r"conv_state \(2, 3, 2\); expected .*\(batch, channels, 3 or more\)"):
        causal_conv1d_update(x, torch.zeros(2, 3, 2), weight)
    with pytest.raises(ShapeError, match="activation is 'relu'"):
        causal_conv1d_fn(x, weight, activation="relu")


# ---------------------------------------------------------------------------------------------------------- the norms


@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_norms(rms: bool, with_residual: bool) -> None:
    x, weight, bias = normal(2, 3, 8).bfloat16(), normal(8).float(), normal(8).float()
    residual = normal(2, 3, 8).float() if with_residual else None
    total = x.double() if residual is None else x.double() + residual.double()
    centred = total if rms else total - total.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-4).sqrt() * weight + bias
    options = {"eps": 1e-4, "prenorm": True, "residual_in_fp32": True}
    y, stream = layer_norm_fn(x, weight, bias, residual, is_rms_norm=rms, **options)
    torch.testing.assert_close(y.double(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(stream.double(), total)
    assert (y.dtype, stream.dtype) == (torch.bfloat16, torch.float32)
    if rms:
        assert torch.equal(rms_norm_fn(x, weight, bias, residual, **options)[0], y)
    assert torch.equal(layer_norm_fn(x, weight, bias, residual, eps=1e-4, is_rms_norm=rms, residual_in_fp32=True), y)
    for given in ({"residual_in_fp32": False}, {"residual_in_fp32": True, "residual": x}):
        _, stream = layer_norm_fn(x, weight, bias, is_rms_norm=rms, prenorm=True, **given)
        assert stream.dtype == torch.bfloat16


# ----------------------------------------------------------------------------------------------------------- the block


def block_by_loops(xz: Tensor, w: dict[str, Tensor], A: Tensor, norms: dict[str, Tensor] | None = None) -> Tensor:
    """What follows in_proj, from the formulas above: (batch, 2 channels, length) to (batch, length, d_model)."""
    channels, dt_rank = w["dt_proj.weight"].shape
    d_state = A.shape[1] * (2 if A.is_complex() else 1)
    x = convolve_by_loops(xz[:, :channels], w["conv1d.weight"][:, 0], w.get("conv1d.bias"), activation="silu")
    dt, B, C = torch.einsum("rd,bdl->brl", w["x_proj.weight"], x).split([dt_rank, d_state, d_state], dim=1)
    delta = torch.einsum("dr,brl->bdl", w["dt_proj.weight"], dt)
    if norms is not None:
        B, C = B + norms["B_bias"][:, None], C + norms["C_bias"][:, None]
        B, C, delta = (
            t / (t.square().mean(1, keepdim=True) + norms["eps"]).sqrt() * norms[name][:, None]
            for name, t in (("B", B), ("C", C), ("delta", delta))
        )
    if A.is_complex():  # (batch, (n two), length) -> (batch, n, (length two))
        B, C = (t.unflatten(1, (-1, 2)).transpose(2, 3).flatten(2) for t in (B, C))
    y, _ = scan_by_loops(x, delta, A, B, C, w["D"], xz[:, channels:], w["dt_proj.bias"], delta_softplus=True)
    y = torch.einsum("md,bdl->blm", w["out_proj.weight"], y)
    return y + w["out_proj.bias"] if "out_proj.bias" in w else y


def official_shapes(d_model: int, d_state: int, d_conv: int, expand: int, dt_rank: int) -> dict[str, tuple[int, ...]]:
    d_inner = expand * d_model
    return {
        "A_log": (d_inner, d_state),
        "D": (d_inner,),
        "in_proj.weight": (2 * d_inner, d_model),
        "in_proj.bias": (2 * d_inner,),
        "conv1d.weight": (d_inner, 1, d_conv),
        "conv1d.bias": (d_inner,),
        "x_proj.weight": (dt_rank + 2 * d_state, d_inner),
        "dt_proj.weight": (d_inner, dt_rank),
        "dt_proj.bias": (d_inner,),
        "out_proj.weight": (d_model, d_inner),
        "out_proj.bias": (d_model,),
    }


@pytest.mark.parametrize("complex_A", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_inner_function_and_its_gradients(complex_A: bool, normed: bool) -> None:
    shapes = official_shapes(d_model=3, d_state=4, d_conv=3, expand=1, dt_rank=2)
    w = {name: normal(*shape) for name, shape in shapes.items() if name not in ("A_log", "in_proj.weight")}
    A = -normal(3, 2 if complex_A else 4).exp()
    A = torch.complex(A, normal(3, 2)) if complex_A else A
    norms = {"B": normal(4), "C": normal(4), "delta": normal(3), "B_bias": normal(4), "C_bias": normal(4), "eps": 1e-3}
    xz = normal(2, 6, 4)
    leaves = [xz, A, w["conv1d.weight"], w["x_proj.weight"], w["dt_proj.weight"], w["D"]]
    leaves += [t for t in norms.values() if isinstance(t, Tensor)] if normed else []
    leaves = [t.requires_grad_() for t in leaves]
    options = {
        "B_proj_bias": norms["B_bias"],
        "C_proj_bias": norms["C_bias"],
        "b_rms_weight": norms["B"],
        "c_rms_weight": norms["C"],
        "dt_rms_weight": norms["delta"],
        "b_c_dt_rms_eps": norms["eps"],
    }
    y = mamba_inner_fn(
        xz, w["conv1d.weight"], w["conv1d.bias"], w["x_proj.weight"], w["dt_proj.weight"], w["out_proj.weight"],
        w["out_proj.bias"], A, None, None, w["D"], delta_bias=w["dt_proj.bias"], **(options if normed else {}),
    )  # fmt: skip
    expected = block_by_loops(xz, w, A, norms if normed else None)
    torch.testing.assert_close(y, expected)
    cotangent = normal(*y.shape)
    for got, value in zip(
        torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(got, value)


def test_inner_function_with_given_B_and_C() -> None:
    w = {"conv": normal(3, 1, 3), "x_proj": normal(2, 3), "dt": normal(3, 2), "out": normal(5, 3)}
    A, B, C, xz = -normal(3, 4).exp(), normal(3, 4), normal(2, 4, 6), normal(2, 6, 6)
    y = mamba_inner_fn(xz, w["conv"], None, w["x_proj"], w["dt"], w["out"], None, A, B, C)
    x = convolve_by_loops(xz[:, :3], w["conv"][:, 0], activation="silu")
    delta = w["dt"] @ (w["x_proj"] @ x)
    scanned, _ = scan_by_loops(x, delta, A, B, C, z=xz[:, 3:], delta_softplus=True)
    torch.testing.assert_close(y, scanned.mT @ w["out"].T)


def random_block(bias: bool = True, **options) -> tuple[Mamba, dict[str, Tensor]]:
    """A block that has loaded an official state_dict, and that state_dict."""
    shapes = official_shapes(d_model=4, d_state=3, d_conv=4, expand=2, dt_rank=2)
    weights = {name: 0.5 * normal(*shape) for name, shape in shapes.items()}
    if not bias:
        weights = {name: t for name, t in weights.items() if name not in ("in_proj.bias", "out_proj.bias")}
    block = Mamba(4, d_state=3, dt_rank=2, bias=bias, **options).double()
    block.load_state_dict(weights, strict=True)
    return block, weights


@pytest.mark.parametrize("bias", [False, True])
def test_block(bias: bool) -> None:
    block, w = random_block(bias)
    x = normal(2, 5, 4).requires_grad_()
    xz = torch.einsum("em,blm->bel", w["in_proj.weight"], x)
    xz = xz + w["in_proj.bias"][:, None] if bias else xz
    expected = block_by_loops(xz, w, -torch.exp(w["A_log"]))
    y = block(x)
    torch.testing.assert_close(y, expected)
    cotangent = normal(*y.shape)
    got, value = (torch.autograd.grad(result, x, cotangent) for result in (y, expected))
    torch.testing.assert_close(got, value)


def test_block_in_training_is_the_inner_function() -> None:
    block, _ = random_block()
    x = normal(2, 5, 4)
    y = mamba_inner_fn(
        block.in_proj(x).mT, block.conv1d.weight, block.conv1d.bias, block.x_proj.weight, block.dt_proj.weight,
        block.out_proj.weight, block.out_proj.bias, block.A, D=block.D, delta_bias=block.dt_proj.bias,
    )  # fmt: skip
    torch.testing.assert_close(block(x), y)


def test_decoding_equals_the_whole() -> None:
    """A prompt, a piece and single tokens through InferenceParams, and single tokens from the first on."""
    block, _ = random_block(layer_idx=7)
    x = normal(2, 9, 4)
    whole = block(x)
    for lengths in ([4, 3, 1, 1], [1] * 9, [9]):
        params, pieces = InferenceParams(max_seqlen=9, max_batch_size=2), []
        for piece in x.split(lengths, dim=1):
            pieces.append(block(piece, inference_params=params))
            params.seqlen_offset += piece.shape[1]
        # The states are float32, as everywhere in this library.
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-5, atol=1e-5)
    params.reset(9, 2)
    torch.testing.assert_close(block(x, params), whole)
    with pytest.raises(ShapeError, match="batch of 1 and inference_params holds states for 2"):
        block(x[:1], params)


def test_step_updates_the_given_states() -> None:
    block, _ = random_block()
    x = normal(2, 6, 4)
    conv_state, ssm_state = block.allocate_inference_cache(2, max_seqlen=6, dtype=torch.float64)
    assert (conv_state.shape, ssm_state.shape) == ((2, 8, 4), (2, 8, 3))
    assert (conv_state.dtype, ssm_state.dtype) == (torch.float64, torch.float32)
    ssm_state = ssm_state.double()
    steps = []
    for token in x.split(1, dim=1):
        y, *states = block.step(token, conv_state, ssm_state)
        assert states[0] is conv_state
        assert states[1] is ssm_state
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, dim=1), block(x))
    torch.testing.assert_close(conv_state, F.linear(x, block.in_proj.weight, block.in_proj.bias)[:, 2:, :8].mT)
    with pytest.raises(ShapeError, match=r"2 tokens long; expected 1: give more to forward\(\)"):
        block.step(x[:, :2], conv_state, ssm_state)


def test_states_carry_no_graph() -> None:
    block, _ = random_block(layer_idx=0)
    params = InferenceParams(max_seqlen=5, max_batch_size=1)
    y = block(normal(1, 4, 4).requires_grad_(), params)
    assert y.requires_grad
    params.seqlen_offset = 4
    assert not block(normal(1, 1, 4).requires_grad_(), params).requires_grad
    assert not any(state.requires_grad for state in params.key_value_memory_dict[0])


def test_initialisation() -> None:
    block = Mamba(64, dt_min=0.01, dt_max=0.02, dt_rank=3)
    torch.testing.assert_close(block.A, -torch.arange(1.0, 17.0).expand(128, 16))
    step_sizes = F.softplus(block.dt_proj.bias)
    assert step_sizes.min() >= 0.0099
    assert step_sizes.max() <= 0.0201
    assert block.dt_proj.weight.shape == (128, 3)
    assert block.out_proj.weight.abs().max() > 0.99 / 128**0.5  # nn.Linear's own: no rescaling by depth


def test_dtype_leaves_A_and_D_alone() -> None:
    block = Mamba(8, dtype=torch.bfloat16, device="cpu", use_fast_path=False)
    wide = {name for name, p in block.named_parameters() if p.dtype == torch.float32}
    assert wide == {"A_log", "D"}
    x = torch.randn(1, 3, 8, dtype=torch.bfloat16)
    assert block(x).dtype == torch.bfloat16
    states = block.allocate_inference_cache(1, 3)
    assert block.step(x[:, :1], *states)[0].dtype == torch.bfloat16


def test_wrong_block_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="d_state"):
        Mamba(4, d_state=0)
    with pytest.raises(ConfigError, match=r"layer_idx is None; .*Mamba\(layer_idx=0\)"):
        Mamba(4)(torch.zeros(1, 2, 4), InferenceParams(2, 1))
