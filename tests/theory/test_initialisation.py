"""Initial diagonals against the eigenvalues that they are said to be."""

import numpy as np
import torch

from baby_mamba.theory import bilinear, convolution_kernel, hippo_legs, s4d_inv, s4d_legs, s4d_lin, s4d_real


def test_s4d_real_is_the_spectrum_of_hippo() -> None:
    """For a small n, that is: the eigenvectors of HiPPO-LegS are so ill-conditioned that a large n has no numbers."""
    eigenvalues = np.linalg.eigvals(hippo_legs(6)[0].numpy())
    np.testing.assert_allclose(np.sort(eigenvalues.real), s4d_real(6).numpy()[::-1], atol=1e-8)
    np.testing.assert_allclose(eigenvalues.imag, 0, atol=1e-8)


def test_s4d_legs_is_the_spectrum_of_the_normal_part() -> None:
    A, B = (x.numpy() for x in hippo_legs(20))
    normal = A + np.outer(B, B) / 2
    np.testing.assert_allclose(normal @ normal.T, normal.T @ normal, atol=1e-10)
    eigenvalues = np.linalg.eigvals(normal)
    upper = eigenvalues[eigenvalues.imag > 0]
    np.testing.assert_allclose(s4d_legs(10).numpy(), upper[upper.imag.argsort()], atol=1e-10)


def test_s4d_inv_is_close_to_s4d_legs() -> None:
    inverse, spectrum = s4d_inv(32).imag.flip(0).numpy(), s4d_legs(32).imag.numpy()
    np.testing.assert_allclose(inverse, spectrum, rtol=0.25)
    np.testing.assert_allclose(inverse[-1], spectrum[-1], rtol=0.02)
    assert (s4d_inv(32).real == -0.5).all()


def test_s4d_lin() -> None:
    np.testing.assert_allclose(s4d_lin(4).numpy(), [-0.5, -0.5 + 3.14159265j, -0.5 + 6.2831853j, -0.5 + 9.42477796j])


def test_s4d_legs_answers_as_hippo_does() -> None:
    """S4D, theorem 3: as n grows, the normal part with half of B answers an impulse as the whole matrix does."""

    def difference(n: int) -> float:
        A, B = hippo_legs(n)
        normal = A + torch.outer(B, B) / 2
        C = torch.zeros(n, dtype=torch.float64)
        C[0] = 1
        delta, length = 0.02, 50
        whole = convolution_kernel(*bilinear(A, B, delta), C, length)
        part = convolution_kernel(*bilinear(normal, B / 2, delta), C, length)
        return ((whole - part).norm() / whole.norm()).item()

    assert difference(128) < 0.6 * difference(16)
