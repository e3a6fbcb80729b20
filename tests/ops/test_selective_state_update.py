"""A decoding step against its equation written out for every number, and against the scan."""

import math

import pytest
import torch
from torch import Tensor

from baby_mamba.errors import BackendUnavailableError, ShapeError
from baby_mamba.ops import selective_scan, selective_state_update

BACKENDS = ("cpu", "parallel", "reference")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def random_arguments(
    batch: int = 3, channels: int = 6, d_state: int = 5, groups: int | None = None, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch + 10 * channels + 100 * d_state)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    selection = (batch, d_state) if groups is None else (batch, groups, d_state)
    return {
        "state": normal(batch, channels, d_state),
        "u": normal(batch, channels),
        "delta": normal(batch, channels),
        "A": -normal(channels, d_state).abs() - 0.1,
        "B": normal(*selection),
        "C": normal(*selection),
        "D": normal(channels),
        "z": normal(batch, channels),
        "delta_bias": normal(channels),
    }


def by_hand(
    state: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = True,
    state_indices: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y, state after the step), one number at a time in Python's floats."""
    (batch, channels), d_state = u.shape, A.shape[1]
    y, after = torch.zeros(batch, channels, dtype=torch.float64), state.double().clone()
    for b in range(batch):
        slot = b if state_indices is None else int(state_indices[b])
        if slot < 0:
            continue
        for d in range(channels):
            B_row, C_row = (M[b] if M.ndim == 2 else M[b, d * M.shape[1] // channels] for M in (B, C))
            step = float(delta[b, d]) + (0 if delta_bias is None else float(delta_bias[d]))
            if delta_softplus:
                step = math.log1p(math.exp(step))
            total = 0.0
            for n in range(d_state):
                h = math.exp(step * float(A[d, n])) * float(state[slot, d, n]) + step * float(B_row[n]) * float(u[b, d])
                after[slot, d, n] = h
                total += float(C_row[n]) * h
            if D is not None:
                total += float(D[d]) * float(u[b, d])
            if z is not None:
                total *= float(z[b, d]) / (1 + math.exp(-float(z[b, d])))
            y[b, d] = total
    return y, after


def check(arguments: dict[str, Tensor], backend: str, **options) -> None:
    expected_y, expected_state = by_hand(**arguments, **options)
    state = arguments["state"].clone()
    y = selective_state_update(**{"delta_softplus": True, **arguments, **options, "state": state}, backend=backend)
    tolerance = TOLERANCE[y.dtype]
    assert y.shape == arguments["u"].shape
    assert y.dtype == arguments["u"].dtype
    torch.testing.assert_close(y.double(), expected_y, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(state.double(), expected_state, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [None, 1, 2, 6])
def test_equals_the_equation(backend: str, groups: int | None) -> None:
    check(random_arguments(groups=groups), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_by_index_with_padding(backend: str) -> None:
    arguments = random_arguments(batch=4)
    arguments["state"] = random_arguments(batch=7)["state"]
    arguments["u"][1] = torch.nan  # what padding holds does not matter
    for dtype in (torch.int32, torch.int64):
        check(arguments, backend, state_indices=torch.tensor([5, -1, 0, 2], dtype=dtype))
    check(arguments, backend, state_indices=torch.tensor([-1, -1, -7, -1]))


def test_options_left_out() -> None:
    arguments = random_arguments()
    few = {name: arguments[name] for name in ("state", "u", "delta", "A", "B", "C")}
    check({**few, "delta": few["delta"].abs()}, "auto", delta_softplus=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtypes(dtype: torch.dtype) -> None:
    arguments = random_arguments(dtype=dtype)
    check(arguments, "auto")
    for name in ("state", "A", "D", "delta_bias"):  # as in a model under autocast
        arguments[name] = arguments[name].float()
    check(arguments, "auto")


def test_states_may_lie_anywhere() -> None:
    arguments = random_arguments()
    pool = torch.zeros(5, 3, 6, 3, dtype=torch.float64)
    state = pool.permute(3, 2, 0, 1)[:, :, :, 1]  # (3, 6, 5), no axis contiguous
    state.copy_(arguments["state"])
    odd = {name: t.transpose(0, -1).contiguous().transpose(0, -1) for name, t in arguments.items()}
    y = selective_state_update(**{**odd, "state": state}, delta_softplus=True)
    expected_y, expected_state = by_hand(**arguments)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(state, expected_state)
    assert not pool[:, [0, 2]].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_the_scan(backend: str) -> None:
    torch.manual_seed(0)
    u, delta, z = torch.randn(3, 2, 7, 4)
    A, B, C = -torch.rand(4, 3), torch.randn(2, 7, 2, 3), torch.randn(2, 7, 3)
    state = torch.zeros(2, 4, 3)
    steps = [
        selective_state_update(
            state, u[:, t], delta[:, t], A, B[:, t], C[:, t], z=z[:, t], delta_softplus=True, backend=backend
        )
        for t in range(7)
    ]
    y, final = selective_scan(u, delta, A, B, C, z=z, delta_softplus=True, return_final_state=True, backend="reference")
    torch.testing.assert_close(torch.stack(steps, dim=1), y)
    torch.testing.assert_close(state, final)


def test_no_rows() -> None:
    arguments = random_arguments(batch=0)
    assert selective_state_update(**arguments).shape == (0, 6)


def test_a_gradient_is_refused_rather_than_lost() -> None:
    arguments = random_arguments()
    y = selective_state_update(**{**arguments, "u": arguments["u"].requires_grad_()})
    assert not arguments["state"].requires_grad
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        y.sum().backward()


def test_a_backward_pass_that_needs_the_states_before_is_refused() -> None:
    arguments = random_arguments()
    scale = torch.ones_like(arguments["state"], requires_grad=True)
    loss = (scale * arguments["state"]).sum()
    with torch.no_grad():
        selective_state_update(**arguments)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_mode() -> None:
    arguments = random_arguments()
    expected = arguments["state"].clone()
    y = selective_state_update(**{**arguments, "state": expected})
    with torch.inference_mode():
        torch.testing.assert_close(selective_state_update(**arguments), y)
    torch.testing.assert_close(arguments["state"], expected)


def test_registered_as_it_should_be() -> None:
    arguments = random_arguments(dtype=torch.float32)
    for indices in (None, torch.tensor([2, -1, 0])):
        torch.library.opcheck(
            torch.ops.baby_mamba.selective_state_update.default, (*arguments.values(), True, indices, "reference")
        )


def test_compiles_without_a_graph_break() -> None:
    arguments = random_arguments(dtype=torch.float32)

    def two_steps(state: Tensor, state_indices: Tensor) -> Tensor:
        given = {**arguments, "state": state, "state_indices": state_indices}
        return selective_state_update(**given) + selective_state_update(**given)

    indices = torch.tensor([2, -1, 0])
    state = arguments["state"].clone()
    compiled_state = state.clone()
    y = torch.compile(two_steps, fullgraph=True, backend="aot_eager")(compiled_state, indices)
    torch.testing.assert_close(y, two_steps(state, indices))
    torch.testing.assert_close(compiled_state, state)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"u": torch.zeros(3, 1, 6)}, r"u is \(3, 1, 6\) float32 on cpu; expected \(batch, channels\)"),
        ({"delta": torch.zeros(3, 5)}, r"delta is \(3, 5\) .* expected \(3, 6\)"),
        ({"A": torch.zeros(5, 5)}, "A is .* channels = 6"),
        ({"state": torch.zeros(2, 6, 5)}, r"state is \(2, 6, 5\) .* expected \(3, 6, 5\)"),
        ({"state": torch.zeros(9, 6, 4), "state_indices": torch.zeros(3).int()}, r"expected \(slots, 6, 5\)"),
        ({"B": torch.zeros(3, 6)}, r"B is \(3, 6\)"),
        ({"C": torch.zeros(3, 4, 5)}, "C is .* groups dividing 6"),
        ({"D": torch.zeros(3)}, "D is"),
        ({"z": torch.zeros(3)}, "z is"),
        ({"delta_bias": torch.zeros(1, 6)}, "delta_bias is"),
        ({"state_indices": torch.zeros(2, dtype=torch.int32)}, r"state_indices is .* expected \(3,\)"),
        ({"state_indices": torch.zeros(3)}, "state_indices is .* expected integers"),
        ({"A": torch.zeros(6, 5, dtype=torch.complex64)}, "A is .* use selective_scan"),
        ({"u": torch.zeros(3, 6, dtype=torch.int32)}, "u is .* real floating-point"),
        ({"D": torch.zeros(6, device="meta")}, r"D is .* on meta; expected a tensor on cpu"),
    ],
)
def test_wrong_arguments_are_named(changed: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        selective_state_update(**{**random_arguments(), **changed})


def test_triton_needs_a_gpu() -> None:
    with pytest.raises(BackendUnavailableError, match="'triton' runs on cuda"):
        selective_state_update(**random_arguments(), backend="triton")
