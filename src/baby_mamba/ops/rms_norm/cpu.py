r"""Root-mean-square normalisation as loops that numba compiles: the residual sum and the norm in one pass over memory.

With r the sum and s = 1 / sqrt(mean(r^2) + epsilon), y = weight r s, and for gradients dy and dsum of the two results

    dr      = dsum + s (weight dy - r s^2 mean(weight dy r))
    dweight = sum over rows of dy r s

A unit of work is `ROWS` rows; each writes its own sum for dweight, and these are then added in a fixed order.
"""

import numpy as np
import torch
from torch import Tensor

from baby_mamba.ops.lanes import LANES, clear, empty_lanes, lane_sum, load, store, zero_like
from baby_mamba.ops.numba_support import Kernel, absent, converted, register, rows_to_numpy

ROWS = 128  # in a unit of work


def rms_norm(
    x: Tensor, weight: Tensor, epsilon: float, residual: Tensor | None, residual_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Fused loops over rows; arguments and results as `ops.rms_norm`."""
    return _operator(x, weight, epsilon, residual, residual_dtype)


@Kernel
def _forward(first, last, x, residual, weight, epsilon, y, total):
    _, rows, width = x.shape
    blocks = -(-width // LANES)
    for row in range(first * ROWS, min(last * ROWS, rows)):
        squares = zero_like(x)
        for k in range(blocks):
            start, count = k * LANES, min(LANES, width - k * LANES)
            r = load(x, 0, row, start, count)
            if residual.size > 0:
                r += load(residual, 0, row, start, count)
            store(total, 0, row, start, count, r)
            squares += r * r
        scale = 1.0 / np.sqrt(lane_sum(squares) / width + epsilon)
        for k in range(blocks):
            start, count = k * LANES, min(LANES, width - k * LANES)
            r = load(total, 0, row, start, count)
            store(y, 0, row, start, count, load(weight, 0, 0, start, count) * (r * scale))


@Kernel
def _backward(first, last, total, weight, epsilon, grad_y, grad_total, grad_r, grad_weight):
    _, rows, width = total.shape
    blocks = -(-width // LANES)
    dweight = empty_lanes((blocks,), total.dtype)
    for unit in range(first, last):
        clear(dweight)
        for row in range(unit * ROWS, min((unit + 1) * ROWS, rows)):
            squares, products = zero_like(total), zero_like(total)
            for k in range(blocks):
                start, count = k * LANES, min(LANES, width - k * LANES)
                r = load(total, 0, row, start, count)
                squares += r * r
                products += load(weight, 0, 0, start, count) * load(grad_y, 0, row, start, count) * r
            scale = 1.0 / np.sqrt(lane_sum(squares) / width + epsilon)
            slope = scale * scale * (lane_sum(products) / width)
            for k in range(blocks):
                start, count = k * LANES, min(LANES, width - k * LANES)
                r = load(total, 0, row, start, count)
                dy = load(grad_y, 0, row, start, count)
                dr = scale * (load(weight, 0, 0, start, count) * dy - slope * r)
                if grad_total.size > 0:
                    dr += load(grad_total, 0, row, start, count)
                store(grad_r, 0, row, start, count, dr)
                dweight[k] += dy * (r * scale)
        for k in range(blocks):
            store(grad_weight, 0, unit, k * LANES, min(LANES, width - k * LANES), dweight[k])


# --------------------------------------------------------------------------------------------------------- operators

_INPUTS = "Tensor x, Tensor weight, float epsilon, Tensor? residual, ScalarType residual_dtype"
torch.library.define("baby_mamba::rms_norm_cpu", f"({_INPUTS}) -> (Tensor y, Tensor total)")
torch.library.define(
    "baby_mamba::rms_norm_cpu_backward",
    "(Tensor? grad_y, Tensor? grad_total, Tensor total, Tensor weight, float epsilon) -> (Tensor total, Tensor weight)",
)


def _rows(tensor, dtype):
    """(..., width) as an array (1, rows, width)."""
    array = rows_to_numpy(tensor, dtype)
    return array.reshape(1, -1, array.shape[-1])


def _run_forward(x, weight, epsilon, residual, residual_dtype):
    dtype = torch.promote_types(residual_dtype, torch.float32)
    summand = converted(x, residual_dtype)
    if residual is not None and residual_dtype is not dtype:  # what is normalised is the rounded sum
        summand, residual = summand + residual.to(residual_dtype), None
    y, total = torch.empty(*x.shape, dtype=dtype), torch.empty(*x.shape, dtype=dtype)
    units = -(-(x.numel() // max(weight.shape[0], 1)) // ROWS)
    _forward(
        dtype, units, x.numel(), _rows(summand, dtype),
        absent(dtype, 3) if residual is None else _rows(residual, dtype),
        _rows(weight, dtype), epsilon, _rows(y, dtype), _rows(total, dtype),
    )  # fmt: skip
    return converted(y, x.dtype), converted(total, residual_dtype)


@torch.library.register_fake("baby_mamba::rms_norm_cpu")
def _(x, weight, epsilon, residual, residual_dtype):
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=residual_dtype)


def _run_backward(grad_y, grad_total, total, weight, epsilon):
    dtype = torch.promote_types(total.dtype, torch.float32)
    units = -(-(total.numel() // max(weight.shape[0], 1)) // ROWS)
    grad_y = torch.zeros(total.shape, dtype=dtype) if grad_y is None else grad_y
    grad_r = torch.empty(total.shape, dtype=dtype)
    grad_weight = torch.empty((units, weight.shape[0]), dtype=dtype)
    _backward(
        dtype, units, total.numel(), _rows(total, dtype), _rows(weight, dtype), epsilon, _rows(grad_y, dtype),
        absent(dtype, 3) if grad_total is None else _rows(grad_total, dtype),
        _rows(grad_r, dtype), _rows(grad_weight, dtype),
    )  # fmt: skip
    return grad_r, grad_weight.sum(0).to(weight.dtype)


@torch.library.register_fake("baby_mamba::rms_norm_cpu_backward")
def _(grad_y, grad_total, total, weight, epsilon):
    return total.new_empty(total.shape, dtype=torch.promote_types(total.dtype, torch.float32)), torch.empty_like(weight)


def _save_for_backward(ctx, inputs, output):
    x, weight, ctx.epsilon, residual, _ = inputs
    ctx.x_dtype, ctx.residual_dtype = x.dtype, None if residual is None else residual.dtype
    ctx.save_for_backward(output[1], weight)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_total):
    total, weight = ctx.saved_tensors
    dr, dweight = torch.ops.baby_mamba.rms_norm_cpu_backward.default(grad_y, grad_total, total, weight, ctx.epsilon)
    dresidual = None if ctx.residual_dtype is None else dr.to(ctx.residual_dtype)
    return dr.to(ctx.x_dtype), dweight, None, dresidual, None


_operator = register("rms_norm", _run_forward, _run_backward, _save_for_backward, _differentiate)
