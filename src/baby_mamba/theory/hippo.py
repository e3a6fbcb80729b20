r"""HiPPO-LegS: the linear system whose state is the best polynomial summary of all that it has read.

At time t the history f(s), 0 <= s <= t, is approximated by a polynomial of degree n - 1, and the state c(t) holds its
coefficients in Legendre polynomials stretched over [0, t]. As t grows, c follows a linear differential equation
(HiPPO, arXiv 2008.07669, theorem 2; the matrices as in S4, arXiv 2111.00396, eq. 2):

    f(s) ~ sum_n c_n(t) sqrt(2n + 1) P_n(2 s/t - 1)             d/dt c(t) = 1/t (A c(t) + B f(t))
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.theory.discretisation import zero_order_hold
from baby_mamba.theory.legendre import legendre_polynomials


def hippo_legs(d_state: int) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    r"""The matrices A (n, n) and B (n,) of HiPPO-LegS, in float64.

        A_nk = -sqrt(2n + 1) sqrt(2k + 1) if n > k,    -(n + 1) if n = k,    0 if n < k            B_n = sqrt(2n + 1)

    A is lower triangular, so that its eigenvalues stand on the diagonal: -1, -2, ..., -n.
    """
    n = torch.arange(d_state, dtype=torch.float64)
    B = torch.sqrt(2 * n + 1)
    A = -torch.tril(B[:, None] * B, diagonal=-1) - torch.diag(n + 1)
    return A, B


def legs_states(signal: Float[Tensor, " length"], d_state: int) -> Float[Tensor, "length n"]:
    r"""The state c after each sample of a signal, in float64; exact for a signal that is held between samples.

    In s = log t the equation has no 1/t: dc/ds = A c + B f. One step of time from k to k + 1 is a step in s of

        delta_k = log((k + 1) / k)

    so `zero_order_hold` solves it without error. Delta shrinks as the history grows: each new sample is a smaller part
    of it. The first sample alone is a constant history, c = (f_0, 0, ..., 0).

    Args:
        signal: (length,), one sample per unit of time.
        d_state: number of coefficients n.
    """
    A, B = hippo_legs(d_state)
    c = torch.zeros_like(B)
    states = []
    for k, sample in enumerate(signal.double()):
        if k == 0:
            c[0] = sample
        else:
            A_bar, B_bar = zero_order_hold(A, B, math.log1p(1 / k))
            c = A_bar @ c + B_bar * sample
        states.append(c.clone())
    return torch.stack(states) if states else B.new_zeros(0, d_state)


def reconstruct(
    states: Float[Tensor, "*shape n"], position: Float[Tensor, " points"]
) -> Float[Tensor, "*shape points"]:
    r"""Read the history back from states: sum_n c_n sqrt(2n + 1) P_n(2 x - 1) at positions x.

    Args:
        states: (..., n), as `legs_states` returns them.
        position: where in the history, from 0, its beginning, to 1, now.

    Raises:
        ShapeError: a position is outside [0, 1], where the polynomials say nothing about the signal.
    """
    if position.numel() and not (position.min() >= 0 and position.max() <= 1):
        raise ShapeError(
            f"positions go from {position.min():g} to {position.max():g}; expected fractions of the history from 0 "
            "(its beginning) to 1 (now), so divide times by the length of the history"
        )
    n = states.shape[-1]
    scale = torch.sqrt(2 * torch.arange(n, dtype=states.dtype) + 1)
    basis = scale * legendre_polynomials(2 * position.to(states.dtype) - 1, n - 1)  # (points, n)
    return states @ basis.T
