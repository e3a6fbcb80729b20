r"""One linear time-invariant system, computed in three ways (S4, arXiv 2111.00396, section 2 and figure 1).

| view          | computes                                      | good for                                          |
|---------------|-----------------------------------------------|---------------------------------------------------|
| continuous    | h' = A h + B u,  y = C h                      | thinking: irregular samples, other sampling rates |
| recurrent     | h_k = A-bar h_{k-1} + B-bar u_k,  y_k = C h_k | generating: constant work and memory per step     |
| convolutional | y = K * u,  K_j = C A-bar^j B-bar             | training: no loop over time, O(length log length) |

The third needs the same A-bar, B-bar and C at every step. With selection the answer to an input depends on when it
comes, not only on how long ago it was: there is one kernel per step, and `mixing_matrix` shows them. What is left for
training is the recurrence, computed as an associative scan: `theory.scan`.

A is (n, n), or (n,) for a diagonal one; B and C are (n,); the input u is one channel, (length,).
"""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.theory.discretisation import check_system


def continuous(
    A: Tensor, B: Tensor, C: Tensor, u: Float[Tensor, " length"], delta: float, *, substeps: int = 32
) -> Inexact[Tensor, " length"]:
    r"""Integrate h' = A h + B u from h = 0, with u held during each step, and read y = C h at the end of each step.

    The solver is the classical Runge-Kutta method of order 4, which knows nothing of exponentials:

        h(t + s) ~ h + s/6 (k_1 + 2 k_2 + 2 k_3 + k_4)

    Args:
        A: (n, n) or (n,).
        B: (n,).
        C: (n,).
        u: (length,).
        delta: duration of a step.
        substeps: steps of the solver in each of them; it is stable where delta |A| / substeps is below about 2.8.

    Returns:
        y, (length,), in A's dtype.

    Raises:
        ShapeError: A, B and C do not fit each other.
    """
    check_system(A, B, C)
    s = delta / substeps
    h, outputs = torch.zeros_like(B), []
    for sample in u:
        for _ in range(substeps):
            k1 = _times(A, h) + B * sample
            k2 = _times(A, h + s / 2 * k1) + B * sample
            k3 = _times(A, h + s / 2 * k2) + B * sample
            k4 = _times(A, h + s * k3) + B * sample
            h = h + s / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        outputs.append(C @ h)
    return torch.stack(outputs) if outputs else B.new_zeros(0)


def recurrent(A_bar: Tensor, B_bar: Tensor, C: Tensor, u: Float[Tensor, " length"]) -> Inexact[Tensor, " length"]:
    r"""Step h_k = A-bar h_{k-1} + B-bar u_k from h = 0 and read y_k = C h_k. Errors as in `continuous`."""
    check_system(A_bar, B_bar, C)
    h, outputs = torch.zeros_like(B_bar), []
    for sample in u:
        h = _times(A_bar, h) + B_bar * sample
        outputs.append(C @ h)
    return torch.stack(outputs) if outputs else B_bar.new_zeros(0)


def convolution_kernel(A_bar: Tensor, B_bar: Tensor, C: Tensor, length: int) -> Inexact[Tensor, " length"]:
    r"""K_j = C A-bar^j B-bar for j = 0 ... length - 1: the answer to a single input of 1 (S4, eq. 5).

    For a diagonal A that is one product with a Vandermonde matrix (S4D, arXiv 2206.11893, section 3). For a full one
    the powers are taken in turn here; S4's contribution is to avoid that. Errors as in `continuous`.
    """
    check_system(A_bar, B_bar, C)
    if A_bar.ndim == 1:
        return (C * B_bar) @ A_bar[:, None] ** torch.arange(length, device=A_bar.device)
    response, kernel = B_bar, []
    for _ in range(length):
        kernel.append(C @ response)
        response = A_bar @ response
    return torch.stack(kernel) if kernel else B_bar.new_zeros(0)


def convolve(u: Float[Tensor, " length"], kernel: Float[Tensor, " length"]) -> Float[Tensor, " length"]:
    r"""y_k = sum_{j=0..k} K_j u_{k-j} by FFT: a product of spectra, O(length log length).

    The FFT's convolution is circular, so both are padded with zeros to twice their length: the end of the signal must
    not wrap round into its beginning.
    """
    length = u.shape[0]
    if length == 0:
        return u
    spectrum = torch.fft.rfft(u, 2 * length) * torch.fft.rfft(kernel, 2 * length)
    return torch.fft.irfft(spectrum, 2 * length)[:length]


def mixing_matrix(A_bar: Tensor, B_bar: Tensor, C: Tensor) -> Inexact[Tensor, "length length"]:
    r"""The matrix M with y = M u of a diagonal system that changes from step to step, as Mamba does.

        M_ts = C_t A-bar_t A-bar_{t-1} ... A-bar_{s+1} B-bar_s   for s <= t, else 0

    With the same A-bar, B-bar and C at every step it depends on t - s alone: every diagonal is constant (a Toeplitz
    matrix), which is what a convolution means. With selection it is any lower triangular matrix of this form.

    Args:
        A_bar: (length, n), of a diagonal system.
        B_bar: (length, n).
        C: (length, n).

    Raises:
        ShapeError: the three do not have one shape (length, n).
    """
    if C.ndim != 2 or not A_bar.shape == B_bar.shape == C.shape:
        raise ShapeError(
            f"A_bar is {tuple(A_bar.shape)}, B_bar {tuple(B_bar.shape)}, C {tuple(C.shape)}; expected one shape "
            "(length, n): expand what is the same at every step"
        )
    length, n = C.shape
    responses = C.new_zeros(0, n)  # what each input so far has left in the state
    matrix = C.new_zeros(length, length)
    for t in range(length):
        responses = torch.cat([responses * A_bar[t], B_bar[t, None]])
        matrix[t, : t + 1] = responses @ C[t]
    return matrix


def _times(A: Tensor, h: Tensor) -> Tensor:
    """A h, for a matrix A or the diagonal of one."""
    return A * h if A.ndim == 1 else A @ h
