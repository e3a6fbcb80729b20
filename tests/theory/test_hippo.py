"""HiPPO-LegS against an ODE solver, and its state against the projection that it claims to be."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre as numpy_legendre
from scipy.integrate import solve_ivp

from baby_mamba.errors import ShapeError
from baby_mamba.theory import hippo_legs, legs_states, reconstruct


def project(f, until: float, d_state: int, breaks: np.ndarray) -> np.ndarray:
    """c_n = 1/t int_0^t f(s) sqrt(2n+1) P_n(2s/t - 1) ds, by Gauss's rule on each interval in which f is smooth."""
    nodes, weights = numpy_legendre.leggauss(d_state)
    c = np.zeros(d_state)
    for begin, end in pairwise(breaks):
        s = begin + (end - begin) * (nodes + 1) / 2
        basis = numpy_legendre.legvander(2 * s / until - 1, d_state - 1) * np.sqrt(2 * np.arange(d_state) + 1)
        c += (weights * f(s)) @ basis * (end - begin) / 2
    return c / until


def test_matrices_of_size_three_by_hand() -> None:
    A, B = hippo_legs(3)
    root = torch.tensor([1.0, 3.0, 5.0]).double().sqrt()
    torch.testing.assert_close(B, root)
    expected = [[-1, 0, 0], [-(3**0.5), -2, 0], [-(5**0.5), -(15**0.5), -3]]
    torch.testing.assert_close(A, torch.tensor(expected, dtype=torch.float64))


def test_the_equation_follows_the_projection() -> None:
    """scipy integrates c' = (A c + B f) / t from the projection at t = 1 to that at t = 4."""
    A, B = (x.numpy() for x in hippo_legs(6))

    def f(s):
        return np.sin(3 * s) + 0.3 * s

    begin, end = (project(f, t, 6, np.linspace(0, t, 40)) for t in (1.0, 4.0))
    solution = solve_ivp(lambda t, c: (A @ c + B * f(t)) / t, (1.0, 4.0), begin, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solution.y[:, -1], end, atol=1e-8)


@pytest.mark.parametrize("d_state", [1, 7, 64])
def test_the_state_is_the_projection_of_the_held_signal(d_state: int) -> None:
    signal = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    states = legs_states(signal, d_state)
    assert states.shape == (40, d_state)

    def held(s):
        return signal.numpy()[s.astype(int)]

    for t in (1, 2, 17, 40):
        np.testing.assert_allclose(states[t - 1].numpy(), project(held, t, d_state, np.arange(t + 1)), atol=1e-9)


def test_enough_states_give_the_history_back() -> None:
    time = torch.arange(200, dtype=torch.float64)
    signal = torch.sin(time / 10) + 0.5 * torch.cos(time / 17)
    position = (time + 0.5) / 200  # the middle of each held sample
    errors = [(reconstruct(legs_states(signal, n)[-1], position) - signal).abs().max().item() for n in (4, 20)]
    assert errors[0] > 0.5
    assert errors[1] < 0.01


def test_a_polynomial_is_remembered_exactly() -> None:
    """A quadratic through three coefficients: its own, by numpy's change of basis."""
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    c = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    plain = numpy_legendre.Legendre((c * torch.tensor([1.0, 3.0, 5.0]).double().sqrt()).numpy(), domain=[0, 1])
    np.testing.assert_allclose(reconstruct(c, x).numpy(), plain(x.numpy()), atol=1e-14)
    batch = torch.stack([c, 2 * c])
    torch.testing.assert_close(reconstruct(batch, x)[1], 2 * reconstruct(c, x))


def test_an_empty_signal_has_no_states() -> None:
    assert legs_states(torch.zeros(0), 5).shape == (0, 5)


def test_positions_outside_the_history() -> None:
    with pytest.raises(ShapeError, match=r"positions go from 0 to 40; expected fractions.*divide"):
        reconstruct(torch.ones(3).double(), torch.tensor([0.0, 40.0]))
