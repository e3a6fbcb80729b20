"""The `cpu` backend of the selective scan against the reference in float64."""

import importlib
import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from baby_mamba.ops import selective_scan
from baby_mamba.ops.selective_scan.cpu import CHUNK

DIFFERENTIABLE = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
reference = importlib.import_module("baby_mamba.ops.selective_scan.reference").selective_scan


def make_arguments(
    batch: int = 2,
    length: int = 2 * CHUNK + 3,
    channels: int = 21,
    d_state: int = 5,
    *,
    B: str = "varying",
    C: str = "varying",
    groups: tuple[int, int] = (1, 1),
    absent: tuple[str, ...] = (),
    softplus: bool = True,
    packed: bool = False,
    seed: int = 0,
) -> dict:
    """Arguments in float64; `groups` are B's and C's where these are "grouped"."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def matrix(kind: str, groups: int) -> Tensor:
        varying = (batch, length, d_state) if kind == "varying" else (batch, length, groups, d_state)
        return normal(channels, d_state) if kind == "constant" else normal(*varying)

    def step_sizes(*shape: int) -> Tensor:
        return normal(*shape) if softplus else 0.1 * normal(*shape).abs()  # negative ones would make the state explode

    ids = (torch.rand(batch, length, generator=generator) < 0.15).cumsum(1)
    arguments = {
        "u": normal(batch, length, channels),
        "delta": step_sizes(batch, length, channels),
        "A": -normal(channels, d_state).exp(),
        "B": matrix(B, groups[0]),
        "C": matrix(C, groups[1]),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": step_sizes(channels),
        "delta_softplus": softplus,
        "initial_state": normal(batch, channels, d_state),
        "sequence_ids": ids if packed else None,
    }
    return arguments | dict.fromkeys(absent)


def run(arguments: dict, backend: str, dtype: torch.dtype, layout=lambda tensor: tensor) -> dict[str, Tensor]:
    """y, the final state, and the gradients of a random-looking scalar of both."""
    leaves = {name: arguments[name].to(dtype) for name in DIFFERENTIABLE if arguments[name] is not None}
    leaves = {name: layout(tensor).detach().requires_grad_() for name, tensor in leaves.items()}
    inputs = arguments | leaves
    A, B, C, D, u, delta = (inputs.pop(name) for name in ("A", "B", "C", "D", "u", "delta"))
    y, state = selective_scan(u, delta, A, B, C, D, **inputs, return_final_state=True, backend=backend)
    weights = torch.linspace(1, 3, y.numel() + state.numel(), dtype=torch.float64).sin().to(dtype)
    loss = (y * weights[: y.numel()].view_as(y)).sum() + (state * weights[y.numel() :].view_as(state)).sum()
    if not loss.requires_grad:  # no steps and no initial state
        gradients = [torch.zeros_like(leaf) for leaf in leaves.values()]
    else:
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "state": state} | dict(zip(leaves, gradients, strict=True))


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Root mean square of the error, relative to that of the exact value."""
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


@pytest.mark.parametrize(
    ("length", "channels", "d_state"),
    [(0, 5, 3), (1, 1, 1), (1, 40, 16), (31, 16, 64), (63, 37, 16), (100, 33, 33), (257, 48, 2), (2 * CHUNK, 32, 1)],
)
@pytest.mark.parametrize("packed", [False, True])
def test_odd_sizes(length, channels, d_state, packed):
    assert_agrees(make_arguments(length=length, channels=channels, d_state=d_state, packed=packed))


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_cut_into_slabs(groups):
    assert_agrees(make_arguments(length=70, channels=290, B="grouped", C="grouped", groups=(groups, groups)))


@pytest.mark.parametrize("absent", ["D", "z", "delta_bias", "initial_state"])
def test_each_option_may_be_absent(absent):
    assert_agrees(make_arguments(absent=(absent,)))


@pytest.mark.parametrize("B", ["varying", "grouped", "constant"])
@pytest.mark.parametrize("C", ["varying", "grouped", "constant"])
def test_every_kind_of_B_and_C(B, C):
    assert_agrees(make_arguments(channels=24, B=B, C=C, groups=(2, 3), packed=True))


@pytest.mark.parametrize("kind", ["grouped", "constant"])
def test_float64_is_computed_in_float64(kind):
    assert_agrees(make_arguments(channels=24, B=kind, C=kind, groups=(2, 4)), torch.float64, 1e-13)


def chunked(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor], dim=-1).chunk(2, dim=-1)[1]


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def every_other(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1).flatten(-2)[..., ::2]


@pytest.mark.parametrize("layout", [chunked, transposed, every_other])
def test_any_strides(layout):
    assert_agrees(make_arguments(channels=35), layout=layout)


def test_expanded_tensors():
    arguments = make_arguments(channels=35)
    one_row = {name: arguments[name][:1, :1] for name in ("u", "delta", "B", "C", "z")}
    expanded = arguments | {name: row.expand_as(arguments[name]) for name, row in one_row.items()}
    assert_agrees(expanded)


def test_an_expanded_gradient():
    arguments = {n: a.float() if n in DIFFERENTIABLE else a for n, a in make_arguments(channels=35).items()}
    A, B, C, D, u, delta = (arguments.pop(name) for name in ("A", "B", "C", "D", "u", "delta"))
    y = selective_scan(u.requires_grad_(), delta, A, B, C, D, **arguments, backend="cpu")
    ones = torch.ones(1, 1, 1).expand_as(y)
    (expanded,) = torch.autograd.grad(y, u, ones, retain_graph=True)
    (dense,) = torch.autograd.grad(y, u, ones.contiguous())
    assert torch.equal(expanded, dense)


layouts = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "length": st.sampled_from([0, 1, 2, 3, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5]),
        "channels": st.sampled_from([6, 12, 18, 24, 36]),
        "d_state": st.integers(1, 9),
        "B": st.sampled_from(["varying", "grouped", "constant"]),
        "C": st.sampled_from(["varying", "grouped", "constant"]),
        "groups": st.tuples(st.sampled_from([1, 2, 3, 6]), st.sampled_from([1, 2, 3, 6])),
        "absent": st.lists(st.sampled_from(["D", "z", "delta_bias", "initial_state"]), unique=True).map(tuple),
        "softplus": st.booleans(),
        "packed": st.booleans(),
        "seed": st.integers(0, 9),
    }
)


@hypothesis.settings(max_examples=500, deadline=None, derandomize=True, database=None)
@hypothesis.given(layouts, st.sampled_from([lambda tensor: tensor, chunked, transposed, every_other]))
def test_any_layout(layout_of_arguments, strides):
    assert_agrees(make_arguments(**layout_of_arguments), layout=strides)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_are_computed_in_float32(dtype):
    arguments = make_arguments(channels=35)
    arguments = {n: a.to(dtype).double() if n in DIFFERENTIABLE else a for n, a in arguments.items()}  # rounded
    results, exact = run(arguments, "cpu", dtype), run(arguments, "reference", torch.float64)
    assert results["y"].dtype == dtype
    assert results["state"].dtype == torch.float32
    assert all(results[name].dtype == dtype for name in DIFFERENTIABLE)
    assert relative_error(results["state"], exact["state"]) < 1e-5
    limit = 2 * torch.finfo(dtype).eps  # one rounding of the result; the weights of the loss are rounded, too
    assert max(relative_error(results[name], exact[name]) for name in exact) < limit


@pytest.mark.parametrize("name", ["u", "delta", "z", "initial_state"])
def test_nan_stays_in_its_row_and_channel(name):
    arguments = make_arguments(channels=37)
    position = (1, 20, 2) if name == "initial_state" else (1, 40, 20)
    arguments[name][position] = torch.nan
    results = run(arguments, "cpu", torch.float32)
    assert results["y"].isnan().any()
    for result in ("y", "state", "u", "delta", "z", "initial_state"):
        elsewhere = results[result].isnan().movedim(1 if result in ("state", "initial_state") else 2, 0)
        elsewhere[20, 1] = False
        assert not elsewhere.any(), result
    assert results["A"].isnan().any(1).nonzero().tolist() == [[20]]


def test_a_reset_stops_nan():
    arguments = make_arguments(batch=1, length=40, absent=("initial_state",))
    arguments["sequence_ids"] = (torch.arange(40) >= 20).long()[None]
    arguments["u"][0, 10, 3] = torch.nan
    results = run(arguments, "cpu", torch.float32)
    assert results["y"][0, 10:20, 3].isnan().all()
    assert not results["y"][0, 20:].isnan().any()
    assert not results["state"].isnan().any()


def test_extreme_decays():
    one = torch.ones(1, 3, 1)
    options = {"initial_state": torch.ones(1, 1, 1), "return_final_state": True, "backend": "cpu"}
    none = torch.zeros(1, 3, 1)
    for A, expected in ((-1e4, 0.0), (-1e30, 0.0), (0.0, 1.0), (50.0, torch.inf), (-torch.inf, 0.0)):
        _, state = selective_scan(none, one, torch.tensor([[A]]), none, one, **options)
        assert state.item() == expected
    _, state = selective_scan(none, one, torch.tensor([[2.0]]), none, one, **options)
    assert state.item() == pytest.approx(math.exp(6), rel=1e-6)


def test_slow_decays_are_as_good_as_float32_allows():
    # Thousands of equal factors just below 1: whatever is wrong with one adds up.
    length = 4096
    u, delta = torch.zeros(1, length, 1), torch.full((1, length, 1), 1e-4)
    rates = -torch.rand(1, 64, generator=torch.Generator().manual_seed(0))
    M = torch.zeros(1, length, 64)
    exact = (rates.double() * delta.double().sum()).exp()
    errors = {}
    for backend in ("cpu", "reference"):
        options = {"initial_state": torch.ones(1, 1, 64), "return_final_state": True, "backend": backend}
        errors[backend] = relative_error(selective_scan(u, delta, rates, M, M, **options)[1][0], exact)
    assert errors["cpu"] < 1.5 * errors["reference"], errors


def test_gradients_do_not_depend_on_threads():
    arguments = make_arguments(batch=3, length=100, channels=150, d_state=8)
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


@pytest.mark.parametrize("options", [{}, {"B": "constant", "absent": ("D", "z", "delta_bias", "initial_state")}])
def test_registered_for_autograd_and_compilation(options):
    arguments = make_arguments(length=5, channels=3, d_state=2, **options)
    inputs = [value.float().requires_grad_() if isinstance(value, Tensor) else value for value in arguments.values()]
    selective_scan(*inputs[:6], backend="cpu")  # registers the operators
    torch.library.opcheck(torch.ops.baby_mamba.selective_scan_cpu.default, (*inputs, True))


def test_no_graph_break():
    scan = importlib.import_module("baby_mamba.ops.selective_scan.cpu").selective_scan
    inputs = [v.float() if isinstance(v, Tensor) else v for v in make_arguments().values()]
    inputs[0].requires_grad_()
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    for eager, traced in zip(scan(*inputs), compiled(*inputs), strict=True):
        assert torch.equal(eager, traced)


def test_memory_is_a_small_multiple_of_inputs_and_outputs():
    arguments = make_arguments(batch=1, length=2048, channels=128, d_state=16)
    run(arguments, "cpu", torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        results = run(arguments, "cpu", torch.float32)
    size = sum(arguments[name].numel() * 4 for name in DIFFERENTIABLE) + results["y"].nbytes
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < size / 2  # never a (batch, length, channels, d_state) tensor: that is 3.6 times as much
    fresh = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events() if event.name == "aten::empty")
    assert fresh < 3 * size
