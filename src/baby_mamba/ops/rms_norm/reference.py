"""Root-mean-square normalisation in plain PyTorch."""

import torch
from torch import Tensor


def rms_norm(
    x: Tensor, weight: Tensor, epsilon: float, residual: Tensor | None, residual_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Add, then divide by the root of the mean square; arguments and results as `ops.rms_norm`."""
    residual = x.to(residual_dtype) if residual is None else residual.to(residual_dtype) + x.to(residual_dtype)
    wide = residual.to(torch.promote_types(residual_dtype, torch.float32))
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight.to(wide.dtype)
    return y.to(x.dtype), residual
