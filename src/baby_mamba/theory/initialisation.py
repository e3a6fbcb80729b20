r"""Where a diagonal A starts: what is left of HiPPO once the matrix has to be diagonal (S4D, arXiv 2206.11893).

A diagonal A costs n rather than n^2 multiplications per step, but HiPPO-LegS cannot be brought to a diagonal in
floating point: its eigenvectors grow exponentially with n (S4, lemma 3.2). Ways out, each (n,):

| function | A_n                                                     | what it keeps of HiPPO                          |
|----------|---------------------------------------------------------|-------------------------------------------------|
| s4d_real | -(n + 1)                                                | the eigenvalues of LegS: n speeds of forgetting |
| s4d_legs | -1/2 + i w_n, the eigenvalues of the normal part of LegS | as n grows, the response of LegS               |
| s4d_inv  | -1/2 + i (N / pi) (N / (2n + 1) - 1), N = 2 d_state     | a formula that follows s4d_legs, within 25 %    |
| s4d_lin  | -1/2 + i pi n                                           | a damped Fourier series, as HiPPO-FouT          |

A complex A_n stands for itself and its conjugate. Mamba's A is real, with which text is modelled as well (Mamba,
sections 3.6 and 4.6): `MambaConfig.a_init` offers `s4d_real` and the real part of `s4d_lin`, which is also that of
`s4d_legs`. `ops.selective_scan` takes a complex A, too, for experiments.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from baby_mamba.theory.hippo import hippo_legs


def s4d_real(d_state: int) -> Float[Tensor, " n"]:
    r"""A_n = -(n + 1): S4D-Real, Mamba's own, and the eigenvalues of HiPPO-LegS. In float64."""
    return -torch.arange(1, d_state + 1, dtype=torch.float64)


def s4d_inv(d_state: int) -> Complex[Tensor, " n"]:
    r"""A_n = -1/2 + i (N / pi) (N / (2n + 1) - 1) with N = 2 d_state: S4D-Inv (S4D, section 4). In complex128."""
    n = torch.arange(d_state, dtype=torch.float64)
    size = 2 * d_state
    return torch.complex(torch.full_like(n, -0.5), size / math.pi * (size / (2 * n + 1) - 1))


def s4d_lin(d_state: int) -> Complex[Tensor, " n"]:
    r"""A_n = -1/2 + i pi n: S4D-Lin (S4D, section 4). In complex128."""
    n = torch.arange(d_state, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def s4d_legs(d_state: int) -> Complex[Tensor, " n"]:
    r"""S4D-LegS: half of the eigenvalues of the normal part of HiPPO-LegS of size 2n, by rising frequency.

    A + P P^T with P_n = sqrt(n + 1/2) is -1/2 plus a skew-symmetric matrix (S4, theorem 1), so its eigenvalues are
    -1/2 + i w in conjugate pairs; the one of each pair with w > 0 is returned. In complex128.
    """
    A, B = hippo_legs(2 * d_state)
    skew = A + torch.outer(B, B) / 2 + torch.eye(2 * d_state) / 2  # P P^T = B B^T / 2
    frequency = torch.linalg.eigvalsh(-1j * skew)[d_state:]  # ascending: the negative half comes first
    return torch.complex(torch.full_like(frequency, -0.5), frequency)
