"""Discretisation against scipy's, against mpmath near zero, and against the order of error that each rule has."""

import mpmath
import numpy as np
import pytest
import scipy.signal
import torch

from baby_mamba.errors import ShapeError
from baby_mamba.theory import bilinear, euler, hippo_legs, mamba_rule, phi_1, s4d_lin, zero_order_hold

RULES = {"zoh": zero_order_hold, "bilinear": bilinear, "euler": euler}


def random_system(n: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    A = torch.randn(n, n, dtype=dtype, generator=generator) - 2 * torch.eye(n)
    return A, torch.randn(n, dtype=dtype, generator=generator)


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_full_matrices_agree_with_scipy(method: str, dtype: torch.dtype) -> None:
    A, B = random_system(5, dtype)
    system = (A.numpy(), B[:, None].numpy(), np.ones((1, 5)), np.zeros((1, 1)))
    A_bar, B_bar, *_ = scipy.signal.cont2discrete(system, dt=0.3, method=method)
    got = RULES[method](A, B, 0.3)
    np.testing.assert_allclose(got.A_bar.numpy(), A_bar, atol=1e-12)
    np.testing.assert_allclose(got.B_bar.numpy(), B_bar[:, 0], atol=1e-12)


@pytest.mark.parametrize("rule", [*RULES.values(), mamba_rule])
def test_a_diagonal_is_that_of_its_matrix_at_every_step_size(rule) -> None:
    A, B = s4d_lin(4), torch.arange(1, 5).to(torch.complex128)
    delta = torch.tensor([[1e-9, 1e-3, 0.2], [1.0, 3.0, 0.0]], dtype=torch.float64)
    diagonal, full = rule(A, B, delta), rule(torch.diag(A), B, delta)
    assert diagonal.A_bar.shape == diagonal.B_bar.shape == (2, 3, 4)
    assert full.A_bar.shape == (2, 3, 4, 4)
    torch.testing.assert_close(torch.diag_embed(diagonal.A_bar), full.A_bar, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(diagonal.B_bar, full.B_bar, rtol=1e-12, atol=1e-14)


def test_a_singular_matrix_has_no_singular_B_bar() -> None:
    """An integrator, h' = u, and a double one, h'' = u: A has no inverse, B-bar is delta, and (delta^2 / 2, delta)."""
    assert zero_order_hold(torch.zeros(1, 1), torch.ones(1), 0.25).B_bar.item() == 0.25
    A, B = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(zero_order_hold(A, B, 0.5).B_bar, torch.tensor([0.125, 0.5]))


@pytest.mark.parametrize("direction", [1.0, -1.0, 1j, -0.6 + 0.8j])
def test_phi_1_and_its_slope_at_every_scale(direction: complex) -> None:
    """Against mpmath, from 1e-20 to 10, on both sides of where the series takes over."""
    mpmath.mp.dps = 80
    sizes = [0.0, 1e-20, 1e-9, 1e-4, 0.01, 0.4999, 0.5001, 1.0, 10.0]
    x = torch.tensor([size * direction for size in sizes], dtype=torch.complex128, requires_grad=True)
    y = phi_1(x)
    slope = torch.autograd.grad(y, x, torch.ones_like(y))[0].conj()
    for point, value, derivative in zip(x.tolist(), y.tolist(), slope.tolist(), strict=True):
        z = mpmath.mpc(point)
        expected = (mpmath.exp(z) - 1) / z if z else mpmath.mpf(1)
        expected_slope = (mpmath.exp(z) * (z - 1) + 1) / z**2 if z else mpmath.mpf(1) / 2
        assert abs(value - complex(expected)) < 1e-14 * abs(expected)
        assert abs(derivative - complex(expected_slope)) < 1e-14 * abs(expected_slope)


def test_phi_1_in_float32() -> None:
    x = torch.tensor([0.0, -1e-30, 1e-5, -0.4999, -0.5001, -50.0])
    torch.testing.assert_close(phi_1(x), phi_1(x.double()).float(), rtol=3e-7, atol=0)


@pytest.mark.parametrize(("rule", "order"), [(euler, 2), (bilinear, 3), (mamba_rule, 2)])
def test_the_error_of_one_step_falls_with_the_order_of_the_rule(rule, order: int) -> None:
    A, B = random_system(4)

    def error(delta: float) -> float:
        step, exact = rule(A, B, delta), zero_order_hold(A, B, delta)
        return (step.A_bar - exact.A_bar).norm().item() + (step.B_bar - exact.B_bar).norm().item()

    measured = np.log2(error(1e-3) / error(5e-4))
    assert abs(measured - order) < 0.02


def test_which_rules_are_stable_at_large_steps() -> None:
    A, B = hippo_legs(8)

    def radius(rule) -> float:
        return torch.linalg.eigvals(rule(A, B, 10.0).A_bar).abs().max().item()

    assert radius(zero_order_hold) < 1
    assert radius(mamba_rule) < 1
    assert radius(bilinear) < 1
    assert radius(euler) > 1


@pytest.mark.parametrize("rule", [*RULES.values(), mamba_rule])
@pytest.mark.parametrize("diagonal", [True, False])
def test_gradients(rule, diagonal: bool) -> None:
    A, B = random_system(3)
    A = A.diagonal().clone() if diagonal else A
    delta = torch.tensor([0.1, 0.7], dtype=torch.float64)
    arguments = [x.requires_grad_() for x in (A, B, delta)]
    assert torch.autograd.gradcheck(lambda *args: tuple(rule(*args)), arguments)


def test_errors_say_what_was_got() -> None:
    with pytest.raises(ShapeError, match=r"A is \(2, 3\).*expected the diagonal \(n,\) or the matrix \(n, n\)"):
        zero_order_hold(torch.zeros(2, 3), torch.zeros(2), 0.1)
    with pytest.raises(ShapeError, match=r"B is \(3,\).*expected \(2,\)"):
        euler(torch.zeros(2), torch.zeros(3), 0.1)
    with pytest.raises(ShapeError, match=r"B is \(2,\) torch.float32; expected \(2,\) torch.float64"):
        bilinear(torch.zeros(2).double(), torch.zeros(2), 0.1)
