"""One system in three ways, to 1e-5; scipy's solver as a fourth; and selection, which is no convolution."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import toeplitz

from baby_mamba import selective_scan
from baby_mamba.errors import ShapeError
from baby_mamba.theory import (
    continuous,
    convolution_kernel,
    convolve,
    hippo_legs,
    mixing_matrix,
    recurrent,
    s4d_lin,
    s4d_real,
    zero_order_hold,
)

DELTA, LENGTH = 0.05, 60
GENERATOR = torch.Generator().manual_seed(3)
U = torch.randn(LENGTH, dtype=torch.float64, generator=GENERATOR)


def system(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    A = {"hippo": hippo_legs(8)[0], "real diagonal": s4d_real(8), "complex diagonal": s4d_lin(8)}[name]
    B, C = torch.randn(2, 8, dtype=A.dtype, generator=torch.Generator().manual_seed(4))
    return A, B, C


@pytest.mark.parametrize("name", ["hippo", "real diagonal", "complex diagonal"])
def test_the_three_views_agree(name: str) -> None:
    A, B, C = system(name)
    discrete = zero_order_hold(A, B, DELTA)
    stepped = recurrent(*discrete, C, U)
    assert stepped.abs().max() > 0.1
    torch.testing.assert_close(continuous(A, B, C, U, DELTA), stepped, rtol=0, atol=1e-5)
    kernel = convolution_kernel(*discrete, C, LENGTH)
    torch.testing.assert_close(convolve(U, kernel.real), stepped.real, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["hippo", "complex diagonal"])
def test_the_continuous_view_is_scipys(name: str) -> None:
    A, B, C = (x.numpy() for x in system(name))
    matrix = A if A.ndim == 2 else np.diag(A)
    h, expected = np.zeros_like(B), []
    for sample in U.numpy()[:20]:
        solved = solve_ivp(lambda t, h, u=sample: matrix @ h + B * u, (0, DELTA), h, rtol=1e-10, atol=1e-12)
        h = solved.y[:, -1]
        expected.append(C @ h)
    np.testing.assert_allclose(continuous(*system(name), U[:20], DELTA).numpy(), expected, atol=1e-6)


def test_the_kernel_is_the_answer_to_an_impulse() -> None:
    for name in ("hippo", "real diagonal"):
        A, B, C = system(name)
        discrete = zero_order_hold(A, B, DELTA)
        impulse = torch.zeros(LENGTH, dtype=torch.float64)
        impulse[0] = 1
        torch.testing.assert_close(convolution_kernel(*discrete, C, LENGTH), recurrent(*discrete, C, impulse))


@pytest.mark.parametrize("length", [0, 1, 2, 63, 100])
def test_fft_convolution_is_numpys(length: int) -> None:
    u, kernel = torch.randn(2, length, dtype=torch.float64, generator=GENERATOR)
    expected = np.convolve(u.numpy(), kernel.numpy())[:length] if length else np.zeros(0)
    np.testing.assert_allclose(convolve(u, kernel).numpy(), expected, atol=1e-12)


def time_varying(selective: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    A = s4d_real(4)
    delta = torch.rand(LENGTH, dtype=torch.float64, generator=GENERATOR) if selective else torch.full((LENGTH,), DELTA)
    delta = delta.double()
    B, C = torch.randn(2, LENGTH if selective else 1, 4, dtype=torch.float64, generator=GENERATOR)
    return A, delta, B.expand(LENGTH, 4), C.expand(LENGTH, 4)


@pytest.mark.parametrize("selective", [True, False])
def test_the_mixing_matrix_is_the_selective_scan(selective: bool) -> None:
    A, delta, B, C = time_varying(selective)
    M = mixing_matrix(torch.exp(delta[:, None] * A), delta[:, None] * B, C)
    y = selective_scan(
        U[None, :, None], delta[None, :, None], A[None], B[None], C[None], backend="reference"
    )  # fmt: skip
    torch.testing.assert_close(M @ U, y[0, :, 0], rtol=0, atol=1e-12)
    assert torch.equal(M, M.tril())


def test_selection_is_no_convolution() -> None:
    """A fixed system's matrix is scipy's Toeplitz matrix of its kernel; a selective one's has no kernel."""
    A, delta, B, C = time_varying(selective=False)
    discrete = torch.exp(delta[:, None] * A), delta[:, None] * B
    kernel = convolution_kernel(discrete[0][0], discrete[1][0], C[0], LENGTH)
    np.testing.assert_allclose(mixing_matrix(*discrete, C).numpy(), toeplitz(kernel, np.zeros(LENGTH)), atol=1e-13)

    A, delta, B, C = time_varying(selective=True)
    M = mixing_matrix(torch.exp(delta[:, None] * A), delta[:, None] * B, C)
    assert (M[1:, 1:] - M[:-1, :-1]).abs().max() > 0.1


def test_no_steps_give_no_outputs() -> None:
    A, B, C = system("hippo")
    none = torch.zeros(0, dtype=torch.float64)
    assert continuous(A, B, C, none, DELTA).shape == (0,)
    assert recurrent(A, B, C, none).shape == (0,)
    assert convolution_kernel(A, B, C, 0).shape == (0,)
    assert mixing_matrix(*torch.zeros(3, 0, 2)).shape == (0, 0)


def test_errors() -> None:
    A, B, C = system("hippo")
    with pytest.raises(ShapeError, match=r"C is \(3,\).*expected \(8,\)"):
        recurrent(A, B, C[:3], U)
    with pytest.raises(ShapeError, match=r"C is \(8,\).*float32; expected \(8,\) torch.float64"):
        continuous(A, B, C.float(), U, DELTA)
    with pytest.raises(ShapeError, match=r"C \(4,\); expected one shape \(length, n\)"):
        mixing_matrix(torch.zeros(5, 4), torch.zeros(5, 4), torch.zeros(4))
