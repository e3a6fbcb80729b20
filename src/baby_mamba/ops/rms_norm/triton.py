r"""Root-mean-square normalisation on CUDA: residual sum and norm in one pass over memory, as two Triton kernels.

With r the sum and s = 1 / sqrt(mean(r^2) + epsilon), y = weight r s, and for gradients dy and dsum of the two results

    dr      = dsum + s (weight dy - r s^2 mean(weight dy r))
    dweight = sum over rows of dy r s

A program holds whole rows in registers: several narrow ones, each in one warp, or one wide row over many warps. The
backward pass has only as many programs as run at once. Each goes through many rows and writes one sum for dweight;
these are then added in a fixed order, so gradients repeat bit by bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.triton_support import launch

TILE = 512  # elements of a warp: 16 a lane, so that 128 registers are enough
MAX_WARPS = 32  # of a program; a lane of these has more elements where rows are wider than 16,384
MULTIPROCESSORS = 132  # of an H100
WARPS = 16 * MULTIPROCESSORS  # of the backward pass: as many as run at once with 128 registers a lane
OPTIONS = {"num_stages": 1}  # Triton's own pipelining would copy rows through shared memory


def rms_norm(
    x: Tensor, weight: Tensor, epsilon: float, residual: Tensor | None, residual_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """One fused kernel for each direction; arguments and results as `ops.rms_norm`, but not float64."""
    dtypes = [residual_dtype, *(t.dtype for t in (x, weight, residual) if t is not None)]
    if torch.float64 in dtypes:
        raise ShapeError(
            "rms_norm: the triton backend computes in float32 and got a float64 argument; "
            "use .float() on it, or backend='reference'"
        )
    return _forward(x, weight, epsilon, residual, residual_dtype)


# ----------------------------------------------------------------------------------------------------------- kernels
#
# Tensors are (ROWS, BLOCK), a block as wide as a row or wider; all that depends on the row is (ROWS, 1).


@triton.jit
def inverse_root_mean_square(r, width, epsilon):
    """1 / sqrt(mean(r^2) + epsilon) of each row."""
    return tl.rsqrt(tl.sum(r * r, 1, keep_dims=True) / width + epsilon)


@triton.jit(do_not_specialize=["rows"])
def normalise(
    x_ptr, residual_ptr, weight_ptr, y_ptr, total_ptr, rows, width, epsilon, x_row, residual_row,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y and the sum."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    dtype = total_ptr.dtype.element_ty
    total = tl.load(x_ptr + row * x_row + column, inside, 0.0).to(dtype)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + row * residual_row + column, inside, 0.0).to(dtype)
        total = (residual.to(tl.float32) + total.to(tl.float32)).to(dtype)
    weight = tl.load(weight_ptr + column, column < width, 0.0).to(tl.float32)
    r = total.to(tl.float32)  # what is normalised is the rounded sum
    y = weight * (r * inverse_root_mean_square(r, width, epsilon))
    tl.store(total_ptr + row * width + column, total, inside)
    tl.store(y_ptr + row * width + column, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["rows"])
def normalise_backward(
    total_ptr, weight_ptr, dy_ptr, dtotal_ptr, dx_ptr, dresidual_ptr, shares_ptr, rows, width, epsilon,
    dy_row, dtotal_row,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dr, in x's dtype and in the residual's, and the program's share of dweight."""
    column = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_ptr + column, column < width, 0.0).to(tl.float32)
    dweight = tl.zeros((1, BLOCK), tl.float32)
    program = tl.program_id(0).to(tl.int64)
    for first in range(program * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < width)
        r = tl.load(total_ptr + row * width + column, inside, 0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_row + column, inside, 0.0).to(tl.float32)
        if dtotal_ptr is not None:
            dtotal = tl.load(dtotal_ptr + row * dtotal_row + column, inside, 0.0)
        scale = tl.where(row < rows, inverse_root_mean_square(r, width, epsilon), 0.0)
        wdy = weight * dy
        slope = scale * scale * (tl.sum(wdy * r, 1, keep_dims=True) / width)
        dr = scale * (wdy - slope * r)
        if dtotal_ptr is not None:
            dr += dtotal.to(tl.float32)
        dweight += tl.sum(dy * (r * scale), 0, keep_dims=True)
        tl.store(dx_ptr + row * width + column, dr.to(dx_ptr.dtype.element_ty), inside)
        if dresidual_ptr is not None:
            tl.store(dresidual_ptr + row * width + column, dr.to(dresidual_ptr.dtype.element_ty), inside)
    tl.store(shares_ptr + program * width + column, dweight, column < width)


# --------------------------------------------------------------------------------------------------------- operators


def _plan(x: Tensor) -> tuple[int, int, dict[str, int]]:
    """(rows, tiles of rows, compile-time arguments) for a tensor (..., width)."""
    width = x.shape[-1]
    rows = x.numel() // max(width, 1)
    block = 1 << max(width - 1, 0).bit_length()  # the next power of two
    warps = min(max(block // TILE, 1), MAX_WARPS)
    rows_at_once = max(1, TILE * warps // block)
    tiles = -(-rows // rows_at_once)
    return rows, tiles, {"ROWS": rows_at_once, "BLOCK": block, "num_warps": warps, **OPTIONS}


def _rows(tensor: Tensor | None) -> tuple[Tensor | None, int]:
    """(..., width) with contiguous rows, and the distance from one row to the next; a copy only if there is none."""
    if tensor is None:
        return None, 0
    tensor = tensor.reshape(-1, tensor.shape[-1])
    if tensor.stride(1) != 1:
        tensor = tensor.contiguous()
    return tensor, tensor.stride(0)


@torch.library.custom_op("baby_mamba::rms_norm_triton", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, epsilon: float, residual: Tensor | None, residual_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(y, sum), contiguous."""
    y, total = x.new_empty(x.shape), x.new_empty(x.shape, dtype=residual_dtype)
    if x.numel() == 0:
        return y, total
    rows, tiles, options = _plan(x)
    (x, x_row), (residual, residual_row) = _rows(x), _rows(residual)
    launch(
        normalise, (tiles,),
        x, residual, weight.contiguous(), y, total, rows, x.shape[1], epsilon, x_row, residual_row, **options,
    )  # fmt: skip
    return y, total


@_forward.register_fake
def _(x, weight, epsilon, residual, residual_dtype):
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=residual_dtype)


@torch.library.custom_op("baby_mamba::rms_norm_triton_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    weight: Tensor,
    epsilon: float,
    dtype: torch.dtype,
    residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dr in `dtype`, dr in `residual_dtype` or nothing if that is the same, dweight in float32)."""
    dx = total.new_empty(total.shape, dtype=dtype)
    dresidual = total.new_empty(0 if dtype == residual_dtype else total.shape, dtype=residual_dtype)
    rows, tiles, options = _plan(total)
    programs = min(tiles, max(WARPS // options["num_warps"], MULTIPROCESSORS))
    shares = total.new_empty(programs, weight.shape[0], dtype=torch.float32)
    if total.numel() == 0:
        return dx, dresidual, shares.sum(0)
    (dy, dy_row), (dtotal, dtotal_row) = _rows(dy), _rows(dtotal)
    launch(
        normalise_backward, (programs,),
        total, weight.contiguous(), dy, dtotal, dx, dresidual if dresidual.numel() else None, shares,
        rows, weight.shape[0], epsilon, dy_row, dtotal_row, **options,
    )  # fmt: skip
    return dx, dresidual, shares.sum(0)


@_backward.register_fake
def _(dy, dtotal, total, weight, epsilon, dtype, residual_dtype):
    return (
        total.new_empty(total.shape, dtype=dtype),
        total.new_empty(0 if dtype == residual_dtype else total.shape, dtype=residual_dtype),
        total.new_empty(weight.shape, dtype=torch.float32),
    )


def _save(ctx, inputs, output):
    x, weight, ctx.epsilon, residual, _ = inputs
    ctx.x_dtype, ctx.residual_dtype = x.dtype, None if residual is None else residual.dtype
    ctx.save_for_backward(output[1], weight)
    ctx.set_materialize_grads(False)


def _gradients(ctx, dy, dtotal):
    total, weight = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(total)
    dx, dresidual, dweight = _backward(
        dy, dtotal, total, weight, ctx.epsilon, ctx.x_dtype, ctx.residual_dtype or ctx.x_dtype
    )
    if ctx.residual_dtype is None:
        dresidual = None
    elif ctx.residual_dtype == ctx.x_dtype:
        dresidual = dx
    return dx, dweight.to(weight.dtype), None, dresidual, None


_forward.register_autograd(_gradients, setup_context=_save)
