r"""Discretisation: from h'(t) = A h(t) + B u(t) to h_k = A-bar h_{k-1} + B-bar u_k, one step of time delta later.

A is a matrix (n, n), or (n,), the diagonal of one. B is (n,), for an input of one channel. delta is a number or a
tensor of any shape (...): one step size for each step, channel or token, which is all that makes Mamba selective.

| rule            | A-bar                                    | B-bar                               | error of a step |
|-----------------|------------------------------------------|-------------------------------------|-----------------|
| zero_order_hold | exp(delta A)                             | A^-1 (exp(delta A) - 1) B           | none if u holds |
| bilinear        | (1 - delta/2 A)^-1 (1 + delta/2 A)       | (1 - delta/2 A)^-1 delta B          | delta^3         |
| euler           | 1 + delta A                              | delta B                             | delta^2         |
| mamba_rule      | exp(delta A)                             | delta B                             | delta^2         |

The errors are those of one step, for an input that holds during it. h_k has seen u_k, as in Mamba.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from baby_mamba.errors import ShapeError


class Discrete(NamedTuple):
    """A recurrence h_k = A_bar h_{k-1} + B_bar u_k."""

    A_bar: Tensor  # what is kept of the state: (..., n) if A is diagonal, else (..., n, n); ... is delta's shape
    B_bar: Tensor  # how a sample of the input enters: (..., n)


def zero_order_hold(A: Tensor, B: Tensor, delta: float | Tensor) -> Discrete:
    r"""Solve the equation exactly for an input that is held during each step (Mamba, arXiv 2312.00752, eq. 4).

        A-bar = exp(delta A)        B-bar = (delta A)^-1 (exp(delta A) - 1) delta B

    There is nothing singular about delta A = 0: (exp(x) - 1) / x goes to 1, so B-bar goes to delta B. A diagonal A
    uses `phi_1`. A full one uses that both results are blocks of one exponential, which needs no inverse
    (Van Loan, 1978, theorem 1):

        exp(delta [[A, B], [0, 0]]) = [[A-bar, B-bar], [0, 1]]

    Args:
        A: (n,) or (n, n), real or complex.
        B: (n,), of A's dtype.
        delta: step size, a number or a tensor (...).

    Raises:
        ShapeError: A is neither a diagonal nor a square matrix, or B does not fit it.
    """
    check_system(A, B)
    delta = _as_tensor(delta, A)
    if A.ndim == 1:
        x = delta[..., None] * A
        return Discrete(torch.exp(x), phi_1(x) * delta[..., None] * B)
    n = len(B)
    block = torch.cat([torch.cat([A, B[:, None]], dim=1), A.new_zeros(1, n + 1)])
    exponential = torch.linalg.matrix_exp(delta[..., None, None] * block)
    return Discrete(exponential[..., :n, :n], exponential[..., :n, n])


def phi_1(x: Tensor) -> Tensor:
    r"""(exp(x) - 1) / x, and 1 at x = 0; real or complex, elementwise, with the right slope near zero, too.

    Written as it stands, it loses half of its digits at x = 1e-8 and is 0 / 0 at x = 0. expm1 mends the value but not
    autograd's slope, the difference of two large numbers. So near zero it is the series 1 + x/2! + x^2/3! + ...
    """
    near = x.abs() < 0.5
    away = torch.where(near, 1, x)  # so that no 0 / 0 enters the gradient
    series = torch.ones_like(x)
    for k in range(16, 1, -1):  # x^15 / 16! is beyond the last digit of float64
        series = 1 + x * series / k
    return torch.where(near, series, torch.expm1(away) / away)


def bilinear(A: Tensor, B: Tensor, delta: float | Tensor) -> Discrete:
    r"""Take the mean of the slopes at both ends of the step, also known as Tustin's rule (S4, arXiv 2111.00396, eq. 3).

        A-bar = (1 - delta/2 A)^-1 (1 + delta/2 A)        B-bar = (1 - delta/2 A)^-1 delta B

    It is stable wherever A is: it maps the left half of the complex plane onto the unit disc. Arguments, result and
    errors as in `zero_order_hold`.
    """
    check_system(A, B)
    delta = _as_tensor(delta, A)
    if A.ndim == 1:
        half = delta[..., None] * A / 2
        return Discrete((1 + half) / (1 - half), delta[..., None] * B / (1 - half))
    identity = torch.eye(len(B), dtype=A.dtype, device=A.device)
    half = delta[..., None, None] * A / 2
    scaled_B = delta[..., None] * B
    return Discrete(
        torch.linalg.solve(identity - half, identity + half),
        torch.linalg.solve(identity - half, scaled_B[..., None])[..., 0],
    )


def euler(A: Tensor, B: Tensor, delta: float | Tensor) -> Discrete:
    r"""Follow the slope at the start of the step (the first terms of the exponential's series).

        A-bar = 1 + delta A        B-bar = delta B

    It is unstable where delta |A| > 2, however fast the true state decays. Arguments, result and errors as in
    `zero_order_hold`.
    """
    check_system(A, B)
    delta = _as_tensor(delta, A)
    if A.ndim == 1:
        return Discrete(1 + delta[..., None] * A, delta[..., None] * B)
    identity = torch.eye(len(B), dtype=A.dtype, device=A.device)
    return Discrete(identity + delta[..., None, None] * A, delta[..., None] * B)


def mamba_rule(A: Tensor, B: Tensor, delta: float | Tensor) -> Discrete:
    r"""What Mamba computes: A by zero-order hold, B by Euler (the released code, and `ops.selective_scan`).

        A-bar = exp(delta A)        B-bar = delta B

    The exponential keeps the state stable at every step size. The error that is left in B-bar is a factor
    `phi_1(delta A)` on the input, which B can learn to undo. Arguments, result and errors as in `zero_order_hold`.
    """
    return Discrete(zero_order_hold(A, B, delta).A_bar, euler(A, B, delta).B_bar)


def check_system(A: Tensor, B: Tensor, C: Tensor | None = None) -> None:
    """Raise ShapeError unless A is (n,) or (n, n), and B and C are (n,)."""
    if A.ndim not in (1, 2) or A.shape[0] != A.shape[-1] or not (A.is_floating_point() or A.is_complex()):
        raise ShapeError(
            f"A is {tuple(A.shape)} {A.dtype}; expected the diagonal (n,) or the matrix (n, n) of a state space model, "
            "real or complex"
        )
    for name, vector in (("B", B), ("C", C)):
        if vector is not None and (vector.shape != A.shape[:1] or vector.dtype != A.dtype):
            raise ShapeError(
                f"{name} is {tuple(vector.shape)} {vector.dtype}; expected {tuple(A.shape[:1])} {A.dtype}, as A has"
            )


def _as_tensor(delta: float | Tensor, A: Tensor) -> Tensor:
    return torch.as_tensor(delta, dtype=A.real.dtype, device=A.device)
