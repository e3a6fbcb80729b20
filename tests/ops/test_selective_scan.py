"""The reference against loops in NumPy and against finite differences; `parallel` against the reference."""

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor

from baby_mamba.errors import BackendUnavailableError, ShapeError
from baby_mamba.ops import selective_scan
from baby_mamba.ops.selective_scan.parallel import CHUNK, associative_scan


def random_arguments(
    batch: int = 2,
    length: int = 5,
    channels: int = 4,
    d_state: int = 3,
    *,
    B_shape: str = "input",
    C_shape: str = "input",
    is_complex: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Arguments of a scan with every option on; all floats require gradients."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    def numbers(*shape: int) -> Tensor:
        return torch.complex(normal(*shape), normal(*shape)) if is_complex else normal(*shape)

    shapes = {
        "input": (batch, length, d_state),
        "grouped": (batch, length, 2, d_state),
        "constant": (channels, d_state),
    }
    A = -torch.rand(channels, d_state, dtype=dtype) - 0.1
    arguments = {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels),
        "A": torch.complex(A, normal(channels, d_state)) if is_complex else A,
        "B": numbers(*shapes[B_shape]),
        "C": numbers(*shapes[C_shape]),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels),
        "initial_state": numbers(batch, channels, d_state),
    }
    return {name: tensor.requires_grad_() for name, tensor in arguments.items()}


def results_and_gradients(arguments: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """y, the final state, and the gradient of every argument for one random-looking scalar of both."""
    y, state = selective_scan(**arguments, **options, return_final_state=True)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
    loss = loss + (state.abs().square() * torch.linspace(-1, 1, state.numel(), dtype=y.dtype).view_as(state)).sum()
    gradients = torch.autograd.grad(loss, list(arguments.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "state": state, **{f"d{name}": g for name, g in zip(arguments, gradients, strict=True)}}


def in_numpy(
    u: np.ndarray,
    delta: np.ndarray,
    A: np.ndarray,
    B: np.ndarray,
    C: np.ndarray,
    D: np.ndarray,
    z: np.ndarray,
    delta_bias: np.ndarray,
    initial_state: np.ndarray,
    sequence_ids: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The definition, number by number; B and C are (batch, length, channels, d_state)."""
    batch, length, channels = u.shape
    y, h = np.zeros(u.shape), initial_state.copy()
    for b in range(batch):
        for d in range(channels):
            for t in range(length):
                if t > 0 and sequence_ids[b, t] != sequence_ids[b, t - 1]:
                    h[b, d] = 0
                step = np.log1p(np.exp(delta[b, t, d] + delta_bias[d]))
                for n in range(A.shape[1]):
                    h[b, d, n] = np.exp(step * A[d, n]) * h[b, d, n] + step * B[b, t, d, n] * u[b, t, d]
                read = (C[b, t, d] * h[b, d]).sum()
                read = 2 * read.real if np.iscomplexobj(read) else read
                y[b, t, d] = (read + D[d] * u[b, t, d]) * z[b, t, d] / (1 + np.exp(-z[b, t, d]))
    return y, h


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(("B_shape", "C_shape"), [("input", "constant"), ("grouped", "input"), ("constant", "grouped")])
def test_reference_is_the_definition(is_complex: bool, B_shape: str, C_shape: str) -> None:
    torch.manual_seed(0)
    arguments = random_arguments(B_shape=B_shape, C_shape=C_shape, is_complex=is_complex)
    sequence_ids = torch.tensor([[0, 0, 1, 1, 0], [7, 7, 7, 7, 2]])
    y, state = selective_scan(
        **arguments, delta_softplus=True, sequence_ids=sequence_ids, return_final_state=True, backend="reference"
    )
    plain = {name: tensor.detach().numpy() for name, tensor in arguments.items()}
    for name in "BC":
        M = arguments[name].detach()
        M = {2: lambda M: M[None, None], 3: lambda M: M[:, :, None], 4: lambda M: M.repeat_interleave(2, 2)}[M.ndim](M)
        plain[name] = M.expand(2, 5, 4, 3).numpy()
    expected_y, expected_state = in_numpy(**plain, sequence_ids=sequence_ids.numpy())
    np.testing.assert_allclose(y.detach().numpy(), expected_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.detach().numpy(), expected_state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "parallel"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_gradcheck(backend: str, is_complex: bool) -> None:
    torch.manual_seed(1)
    arguments = random_arguments(1, 4, 2, 2, B_shape="grouped", is_complex=is_complex)
    names = list(arguments)

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(
            **dict(zip(names, tensors, strict=True)),
            delta_softplus=True,
            sequence_ids=torch.tensor([[0, 0, 0, 1]]),
            return_final_state=True,
            backend=backend,
        )

    assert torch.autograd.gradcheck(scan, list(arguments.values()))


@pytest.mark.parametrize("length", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("is_complex", [False, True])
def test_parallel_agrees_with_reference(length: int, is_complex: bool) -> None:
    torch.manual_seed(length)
    arguments = random_arguments(length=length, B_shape="grouped", is_complex=is_complex)
    for sequence_ids in (None, torch.arange(length).div(4, rounding_mode="floor").expand(2, length)):
        options = {"delta_softplus": True, "sequence_ids": sequence_ids}
        expected = results_and_gradients(arguments, **options, backend="reference")
        got = results_and_gradients(arguments, **options, backend="parallel")
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("backend", ["reference", "parallel"])
def test_options_left_out(backend: str) -> None:
    torch.manual_seed(2)
    full = random_arguments(length=6)
    neutral = {"D": torch.zeros(4), "delta_bias": torch.zeros(4), "initial_state": torch.zeros(2, 4, 3)}
    few = {name: full[name] for name in ("u", "delta", "A", "B", "C")}
    y = selective_scan(**few, delta_softplus=True, backend=backend)
    torch.testing.assert_close(y, selective_scan(**few, **neutral, delta_softplus=True, backend=backend))
    positive = {**few, "delta": torch.nn.functional.softplus(few["delta"])}
    torch.testing.assert_close(y, selective_scan(**positive, backend=backend))


@pytest.mark.parametrize("backend", ["reference", "parallel"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_inputs_are_computed_in_float32(backend: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    wide = {name: t.detach() for name, t in random_arguments(length=40, dtype=torch.float32).items()}
    narrow = {name: t.to(dtype) if name in ("u", "delta", "B", "C", "z") else t for name, t in wide.items()}
    rounded = {name: t.double() for name, t in narrow.items()}
    y, state = selective_scan(**narrow, delta_softplus=True, return_final_state=True, backend=backend)
    expected, expected_state = selective_scan(
        **rounded, delta_softplus=True, return_final_state=True, backend="reference"
    )
    assert y.dtype == dtype
    assert state.dtype == torch.float32
    torch.testing.assert_close(state.double(), expected_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "parallel"])
def test_strides_do_not_matter(backend: str) -> None:
    torch.manual_seed(4)
    arguments = random_arguments(length=9)
    odd = {
        name: torch.stack([t, torch.full_like(t, torch.nan)], dim=-1)[..., 0]
        .transpose(0, -1)
        .contiguous()
        .transpose(0, -1)
        for name, t in arguments.items()
    }
    expected = selective_scan(**arguments, backend=backend)
    torch.testing.assert_close(selective_scan(**odd, backend=backend), expected)


def test_a_nan_stays_in_its_sequence() -> None:
    arguments = random_arguments(length=6)
    arguments["u"] = arguments["u"].detach().index_fill(1, torch.tensor([1]), torch.nan)
    sequence_ids = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)
    y = selective_scan(**arguments, sequence_ids=sequence_ids, backend="reference")
    assert y[:, 1:3].isnan().all()
    assert not y[:, [0, 3, 4, 5]].isnan().any()


def test_parallel_keeps_no_state_of_every_step_for_the_backward() -> None:
    arguments = random_arguments(1, 8 * CHUNK, 8, 16, dtype=torch.float32)
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        selective_scan(**arguments, delta_softplus=True, backend="parallel")
    every_state = 8 * CHUNK * 8 * 16
    assert sum(saved.values()) < every_state


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_associative_scan(length: int) -> None:
    torch.manual_seed(length)
    a, b = torch.randn(2, 3, length, 2, dtype=torch.float64)
    h, expected = torch.zeros(3, 2, dtype=torch.float64), []
    for t in range(length):
        h = a[:, t] * h + b[:, t]
        expected.append(h)
    torch.testing.assert_close(associative_scan(a, b), torch.stack(expected, dim=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("u", torch.zeros(2, 5)),
        ("u", torch.zeros(2, 5, 4, dtype=torch.long)),
        ("delta", torch.zeros(2, 4, 4)),
        ("A", torch.zeros(3, 3)),
        ("A", torch.zeros(4, 3, dtype=torch.cfloat)),
        ("B", torch.zeros(2, 5, 2)),
        ("B", torch.zeros(2, 5, 3, 3)),
        ("B", torch.zeros(2, 5, 0, 3)),
        ("C", torch.zeros(3, 3)),
        ("C", torch.zeros(2, 5, 3, dtype=torch.cfloat)),
        ("D", torch.zeros(3)),
        ("z", torch.zeros(2, 5, 3)),
        ("delta_bias", torch.zeros(1)),
        ("initial_state", torch.zeros(2, 3, 4)),
        ("sequence_ids", torch.zeros(2, 4, dtype=torch.long)),
        ("sequence_ids", torch.zeros(2, 5)),
        ("z", torch.zeros(2, 5, 4, device="meta")),
    ],
)
def test_wrong_arguments_are_named(name: str, value: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"selective_scan: (A|B|C|D|u|z|\w+) is \(.*expected") as caught:
        selective_scan(**{**random_arguments(dtype=torch.float32), name: value})
    blamed = str(caught.value).split()[1]
    assert blamed == name or (name == "A" and blamed == "B") or name == "u"


def test_unknown_backend() -> None:
    with pytest.raises(BackendUnavailableError, match="backend 'cuda' does not exist here; choose auto"):
        selective_scan(**random_arguments(), backend="cuda")


def test_a_wrong_parallel_scan_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("baby_mamba.ops.selective_scan.parallel")
    monkeypatch.setattr(module, "associative_scan", lambda a, b: associative_scan(a * (1 + 1e-6), b))
    torch.manual_seed(5)
    arguments = random_arguments(length=40)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            selective_scan(**arguments, backend="parallel"),
            selective_scan(**arguments, backend="reference"),
            rtol=1e-10,
            atol=1e-10,
        )
