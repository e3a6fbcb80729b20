r"""Legendre polynomials: shapes on [-1, 1] that do not overlap, so that each can be measured without the others."""

import torch
from jaxtyping import Float
from torch import Tensor

from baby_mamba.errors import ConfigError, ShapeError


def legendre_polynomials(x: Float[Tensor, "*shape"], degree: int) -> Float[Tensor, "*shape order"]:
    r"""P_0(x), ..., P_degree(x) by Bonnet's recurrence; differentiable.

        P_0 = 1,    P_1 = x,    (n + 1) P_{n+1} = (2n + 1) x P_n - n P_{n-1}

    They are orthogonal on [-1, 1]: the integral of P_n P_m is 0 where n != m and 2 / (2n + 1) where n = m. There they
    stay within [-1, 1]; outside they grow as x^n.

    Args:
        x: any shape.
        degree: the last degree, at least 0.

    Returns:
        x's shape with one more axis of degree + 1.

    Raises:
        ConfigError: degree is negative.
    """
    if degree < 0:
        raise ConfigError(f"degree is {degree}; expected at least 0, since P_0 = 1 is the first Legendre polynomial")
    values = [torch.ones_like(x), x]
    for n in range(1, degree):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
    return torch.stack(values[: degree + 1], dim=-1)


def gram_schmidt(
    vectors: Float[Tensor, "count dim"], inner_products: Float[Tensor, "dim dim"]
) -> Float[Tensor, "count dim"]:
    r"""Take from each vector what the ones before it already say, and scale the rest to length 1.

        w_n = v_n - sum_{m<n} <v_n, q_m> q_m,        q_n = w_n / sqrt(<w_n, w_n>)

    Applied to the polynomials 1, x, x^2, ... on [-1, 1] it gives the Legendre polynomials, up to scale:

        q = gram_schmidt(torch.eye(degree + 1).double(), monomial_inner_products(degree))

    Each projection is taken from what is left of the vector rather than from the vector itself: the same on paper, but
    errors of rounding do not add up (modified Gram-Schmidt).

    Args:
        vectors: the rows v_n, as coefficients in some basis; linearly independent.
        inner_products: <e_i, e_j> of that basis: symmetric and positive definite.

    Returns:
        The rows q_n.

    Raises:
        ShapeError: a row is a combination of the rows before it.
    """
    basis: list[Tensor] = []
    for n, vector in enumerate(vectors):
        rest = vector
        for q in basis:
            rest = rest - (rest @ inner_products @ q) * q
        squared = rest @ inner_products @ rest
        if not squared > torch.finfo(rest.dtype).eps ** 2 * (vector @ inner_products @ vector):
            raise ShapeError(
                f"vector {n} has nothing left once the {n} before it are taken from it; expected linearly independent "
                "vectors, so leave it out (or, for many monomials, compute in float64)"
            )
        basis.append(rest / squared.sqrt())
    return torch.stack(basis) if basis else vectors


def monomial_inner_products(degree: int) -> Float[Tensor, "order order"]:
    r"""<x^i, x^j> on [-1, 1] for i, j = 0 ... degree: 2 / (i + j + 1) where i + j is even, else 0. In float64."""
    power = torch.arange(degree + 1)
    total = power[:, None] + power
    return torch.where(total % 2 == 0, 2 / (total + 1).double(), 0)
