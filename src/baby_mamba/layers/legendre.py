"""Legendre polynomials of a block's inputs: more shapes of each input for the same projection to choose from."""

import torch
from torch import nn

from baby_mamba.shapes import Hidden
from baby_mamba.theory.legendre import legendre_polynomials


class LegendreExpansion(nn.Module):
    """x + W [P_1(s), ..., P_order(s)] + b with s = tanh(x): each token's own features, bent and mixed.

    The polynomials are orthogonal on [-1, 1], into which tanh brings the inputs; outside they grow as x^order. P_0 = 1
    needs no weights of its own: it is the bias. W and b start at zero, so a new block computes what it would without.

    This is not part of Mamba, whose published results do without it. What it brings, and what it costs, is measured by
    `benchmarks/ablation.py`.

    Args:
        d_model: width of the input and of the output.
        order: the highest degree, at least 1. W has order * d_model^2 numbers.
    """

    def __init__(self, d_model: int, order: int) -> None:
        super().__init__()
        self.order = order
        self.mix = nn.Linear(order * d_model, d_model)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Hidden) -> Hidden:
        """Of x's shape and dtype."""
        # At least float32: each polynomial is made from two before it, and their errors add up.
        s = x.to(torch.promote_types(x.dtype, torch.float32)).tanh()
        shapes = legendre_polynomials(s, self.order)[..., 1:]  # (batch, length, d_model, order)
        return x + self.mix(shapes.flatten(-2).to(x.dtype))
