"""RMSNorm with the residual sum before it."""

import torch
from torch import nn

from baby_mamba.ops import rms_norm
from baby_mamba.shapes import Hidden


class RMSNorm(nn.Module):
    """y = weight * r / sqrt(mean(r^2) + epsilon) with r = residual + x (arXiv 1910.07467, eq. 4).

    Args:
        d_model: width of the last dimension.
        epsilon: added to the mean square.
        residual_in_fp32: keep r in float32 even when x is narrower.
        backend: see `baby_mamba.ops.backend`.
    """

    def __init__(
        self, d_model: int, *, epsilon: float = 1e-5, residual_in_fp32: bool = True, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.residual_in_fp32 = residual_in_fp32
        self.backend = backend
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Hidden, residual: Hidden | None = None) -> tuple[Hidden, Hidden]:
        """Return (y, r), each (batch, length, d_model): y in x's dtype, r the residual stream."""
        residual_dtype = torch.promote_types(x.dtype, torch.float32) if self.residual_in_fp32 else x.dtype
        return rms_norm(
            x,
            self.weight,
            epsilon=self.epsilon,
            residual=residual,
            residual_dtype=residual_dtype,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.weight.shape[0]}, epsilon={self.epsilon}"
