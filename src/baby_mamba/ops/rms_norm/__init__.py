r"""Root-mean-square normalisation (Zhang and Sennrich, 2019, arXiv 1910.07467, eq. 4), after a residual sum.

    r = residual + x
    y = weight * r / sqrt(mean(r^2) + epsilon)

The sum r is the residual stream; returning it with y lets a fused backend read and write it once.
"""

from typing import Any

import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.backend import choose_backend
from baby_mamba.ops.rms_norm.reference import rms_norm as _reference


def _triton(*arguments: Any) -> tuple[Tensor, Tensor]:
    from baby_mamba.ops.rms_norm.triton import rms_norm

    return rms_norm(*arguments)


def _cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    from baby_mamba.ops.rms_norm.cpu import rms_norm

    return rms_norm(*arguments)


_IN_PLAIN_PYTORCH = {"parallel": _reference, "reference": _reference}
_IMPLEMENTATIONS = {"triton": _triton, "cpu": _cpu, **_IN_PLAIN_PYTORCH}  # as "auto" prefers them


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    epsilon: float = 1e-5,
    residual: Tensor | None = None,
    residual_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Add x to the residual stream and normalise the sum over the last dimension.

    Differentiable in x, weight and residual, through both results. The mean is taken in float32 or wider.

    Args:
        x: (..., d_model), floating point.
        weight: (d_model,).
        epsilon: added to the mean square.
        residual: what x is added to, of x's shape; None counts as zero.
        residual_dtype: dtype of the sum that is returned; None keeps residual's, or x's without a residual.
        backend: "auto", "reference", "parallel", "cpu" or "triton"; see `baby_mamba.ops.backend`.

    Returns:
        (y, residual + x): y in x's dtype, the sum in `residual_dtype`, both of x's shape.

    Raises:
        ShapeError: a shape, dtype or device does not fit.
        BackendUnavailableError: the backend asked for by name cannot run here.
    """
    if weight.shape != x.shape[-1:]:
        raise ShapeError(f"rms_norm: weight has shape {tuple(weight.shape)}; expected {tuple(x.shape[-1:])}, as x ends")
    if residual is not None and residual.shape != x.shape:
        raise ShapeError(f"rms_norm: residual has shape {tuple(residual.shape)}; expected x's, {tuple(x.shape)}")
    for name, tensor in (("weight", weight), ("residual", residual)):
        if tensor is not None and tensor.device != x.device:
            raise ShapeError(f"rms_norm: {name} is on {tensor.device}; move it to {x.device}, where x is")
    if residual_dtype is None:
        residual_dtype = x.dtype if residual is None else residual.dtype
    implementations = _IMPLEMENTATIONS
    if backend == "auto" and x.is_cuda:
        # Triton's kernels compute in float32: asked for by name they refuse float64, and "auto" passes them over.
        dtypes = [residual_dtype, *(t.dtype for t in (x, weight, residual) if t is not None)]
        implementations = _IN_PLAIN_PYTORCH if torch.float64 in dtypes else _IMPLEMENTATIONS
    implementation = implementations[choose_backend("rms_norm", backend, x.device, implementations)]
    return implementation(x, weight, epsilon, residual, residual_dtype)
