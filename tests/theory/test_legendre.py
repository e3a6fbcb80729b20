"""Legendre polynomials against numpy's and scipy's, and Gram-Schmidt against both."""

import numpy as np
import pytest
import scipy.special
import torch
from numpy.polynomial import legendre as numpy_legendre

from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.theory import gram_schmidt, legendre_polynomials, monomial_inner_products


@pytest.mark.parametrize("degree", [0, 1, 2, 10, 60])
def test_values_are_scipys(degree: int) -> None:
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    expected = scipy.special.eval_legendre(np.arange(degree + 1), x.numpy()[:, None])
    got = legendre_polynomials(x, degree)
    assert got.shape == (101, degree + 1)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-13)


def test_they_are_orthogonal() -> None:
    nodes, weights = map(torch.from_numpy, numpy_legendre.leggauss(12))  # exact up to degree 23
    P = legendre_polynomials(nodes, 11)
    norms = 2 / (2 * torch.arange(12, dtype=torch.float64) + 1)
    torch.testing.assert_close(P.T @ (weights[:, None] * P), torch.diag(norms), rtol=0, atol=1e-14)


def test_values_are_differentiable_and_keep_shape_and_dtype() -> None:
    x = torch.linspace(-0.9, 0.9, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: legendre_polynomials(x, 5), x)
    assert legendre_polynomials(torch.zeros(2, 3), 4).shape == (2, 3, 5)
    assert legendre_polynomials(torch.zeros(2, 3), 4).dtype == torch.float32


def test_monomial_inner_products_are_integrals() -> None:
    nodes, weights = numpy_legendre.leggauss(8)
    powers = nodes[:, None] ** np.arange(6)
    np.testing.assert_allclose(monomial_inner_products(5).numpy(), powers.T @ (weights[:, None] * powers), atol=1e-14)


def test_gram_schmidt_leads_from_monomials_to_legendre() -> None:
    """On coefficients, with exact integrals; numpy has the coefficients of the Legendre polynomials."""
    q = gram_schmidt(torch.eye(9, dtype=torch.float64), monomial_inner_products(8))
    expected = [numpy_legendre.leg2poly([0] * n + [1]) * np.sqrt((2 * n + 1) / 2) for n in range(9)]
    np.testing.assert_allclose(q.numpy(), [np.pad(row, (0, 9 - len(row))) for row in expected], atol=1e-10)


def test_gram_schmidt_is_the_qr_decomposition() -> None:
    vectors = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, r = torch.linalg.qr(vectors.T)
    torch.testing.assert_close(gram_schmidt(vectors, torch.eye(7).double()), (q * r.diagonal().sign()).T)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="degree is -1; expected at least 0"):
        legendre_polynomials(torch.zeros(2), -1)
    with pytest.raises(ShapeError, match=r"vector 2 has nothing left.*linearly independent"):
        gram_schmidt(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.3, 0.4]]), torch.eye(2))
