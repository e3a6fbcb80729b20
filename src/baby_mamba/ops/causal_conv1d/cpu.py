r"""The causal depthwise convolution as loops that numba compiles: bias, taps and SiLU in one pass over memory.

With p_t = bias + sum_k weight_k x_{t-(width-1)+k} and y_t = silu(p_t), the backward pass computes p again, and

    g_t       = silu'(p_t) dy_t
    dx_s      = sum_k weight_k g_{s+(width-1)-k}
    dweight_k = sum_t g_t x_{t-(width-1)+k},  dbias = sum_t g_t

A unit of work is one batch entry and a segment of `SEGMENT` steps. It writes its own sums for weight and bias, which
are then added in a fixed order, so gradients do not depend on the number of threads.
"""

import numpy as np
import torch
from torch import Tensor

from baby_mamba.ops.lanes import (
    LANES,
    clear,
    empty_lanes,
    helper,
    load,
    read_rows,
    sigmoid,
    store,
    write_rows,
    zero_like,
)
from baby_mamba.ops.numba_support import Kernel, absent, converted, register, rows_to_numpy, to_numpy

SEGMENT = 32  # steps in a unit of work


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Fused loops over time; arguments and results as `ops.causal_conv1d`."""
    return _operator(x, weight, bias, activation == "silu", initial_state, sequence_ids)


# ------------------------------------------------------------------------------------------------------------- loops
#
# Index i counts batch entries, t and s steps, and k blocks of LANES channels. Tensors that are absent are empty arrays.
# past[j] is the input of step start - (width - 1) + j, so that tap `tap` of step t looks at past[t - start + tap].


@Kernel
def _forward(first, last, x, weight, bias, initial_state, sequence_ids, silu, y, final_state):
    _, length, channels = x.shape
    width = weight.shape[1]
    blocks = -(-channels // LANES)
    segments = max(-(-length // SEGMENT), 1)
    taps = empty_lanes((blocks, width), x.dtype)
    shift = empty_lanes((blocks, 1), x.dtype)
    past = empty_lanes((SEGMENT + width - 1, blocks), x.dtype)
    read_rows(weight, 1.0, taps)
    read_rows(bias, 1.0, shift)

    for unit in range(first, last):
        i, start = unit // segments, unit % segments * SEGMENT
        stop = min(start + SEGMENT, length)
        _read_inputs(x, initial_state, i, start - (width - 1), stop, past)
        for t in range(start, stop):
            first_tap = _first_tap(sequence_ids, i, t, width)
            for k in range(blocks):
                p = shift[k, 0]
                for tap in range(first_tap, width):
                    p += taps[k, tap] * past[t - start + tap, k]
                if silu:
                    p *= sigmoid(p)
                store(y, i, t, k * LANES, min(LANES, channels - k * LANES), p)
        if stop == length:
            first_tap = _first_tap(sequence_ids, i, length - 1, width)
            for j in range(width - 1):  # what is tap j of the step to come is tap j + 1 of the last step
                for k in range(blocks):
                    kept = past[stop - start + j, k] if j + 1 >= first_tap else zero_like(x)
                    store(final_state, i, j, k * LANES, min(LANES, channels - k * LANES), kept)


@Kernel
def _backward(
    first, last, x, weight, bias, initial_state, sequence_ids, silu, grad_y, grad_final_state,
    grad_x, grad_weight, grad_bias, grad_initial_state,
):  # fmt: skip
    _, length, channels = x.shape
    width = weight.shape[1]
    blocks = -(-channels // LANES)
    segments = max(-(-length // SEGMENT), 1)
    taps = empty_lanes((blocks, width), x.dtype)
    shift = empty_lanes((blocks, 1), x.dtype)
    past = empty_lanes((SEGMENT + 2 * (width - 1), blocks), x.dtype)
    g = empty_lanes((SEGMENT + width - 1, blocks), x.dtype)
    first_taps = np.empty(SEGMENT + width - 1, np.int64)
    dtaps = empty_lanes((blocks, width), x.dtype)
    dshift = empty_lanes((blocks, 1), x.dtype)
    read_rows(weight, 1.0, taps)
    read_rows(bias, 1.0, shift)

    for unit in range(first, last):
        i, start = unit // segments, unit % segments * SEGMENT
        stop = min(start + SEGMENT, length)
        reach = min(stop + width - 1, length)  # steps from here on do not see the segment
        clear(dtaps)
        clear(dshift)

        _read_inputs(x, initial_state, i, start - (width - 1), reach, past)
        for t in range(start, reach):
            first_tap = first_taps[t - start] = _first_tap(sequence_ids, i, t, width)
            for k in range(blocks):
                g_t = load(grad_y, i, t, k * LANES, min(LANES, channels - k * LANES))
                if silu:
                    p = shift[k, 0]
                    for tap in range(first_tap, width):
                        p += taps[k, tap] * past[t - start + tap, k]
                    s = sigmoid(p)
                    g_t *= s * (1.0 + p * (1.0 - s))
                g[t - start, k] = g_t
                if t < stop:
                    dshift[k, 0] += g_t
                    for tap in range(first_tap, width):
                        dtaps[k, tap] += g_t * past[t - start + tap, k]

        last_first_tap = _first_tap(sequence_ids, i, length - 1, width)
        # Inputs before step 0 are the initial state; the first segment sees to their gradient.
        for s in range(start if start > 0 else 1 - width, stop):
            j = s - (length - (width - 1))  # row of the final state
            is_kept = j >= 0 and j + 1 >= last_first_tap
            for k in range(blocks):
                channel, count = k * LANES, min(LANES, channels - k * LANES)
                dx = load(grad_final_state, i, j, channel, count) if is_kept else zero_like(x)
                for t in range(max(s, 0), min(s + width, length)):
                    tap = s - t + width - 1
                    if tap >= first_taps[t - start]:
                        dx += taps[k, tap] * g[t - start, k]
                if s >= 0:
                    store(grad_x, i, s, channel, count, dx)
                elif initial_state.size > 0:
                    store(grad_initial_state, i, s + width - 1, channel, count, dx)
        write_rows(dtaps, grad_weight[unit])
        write_rows(dshift, grad_bias[unit])


@helper
def _read_inputs(x, initial_state, i, start, stop, past):
    """Read the inputs of steps start ... stop - 1; those before 0 are the initial state."""
    channels = x.shape[2]
    for s in range(start, stop):
        for k in range(past.shape[1]):
            channel, count = k * LANES, min(LANES, channels - k * LANES)
            if s >= 0:
                past[s - start, k] = load(x, i, s, channel, count)
            elif initial_state.size > 0:
                past[s - start, k] = load(initial_state, i, s + initial_state.shape[1], channel, count)
            else:
                past[s - start, k] = zero_like(x)


@helper
def _first_tap(sequence_ids, i, t, width):
    """The first tap of step t that looks at an input of t's own sequence."""
    if sequence_ids.size > 0:
        for s in range(t, max(t - (width - 1), 0), -1):
            if sequence_ids[i, s] != sequence_ids[i, s - 1]:
                return s - t + width - 1
    return 0


# --------------------------------------------------------------------------------------------------------- operators


def _arguments(x, weight, bias, silu, initial_state, sequence_ids):
    """(dtype, units, work, arguments) for a kernel; empty arrays stand for absent tensors."""
    batch, length, _ = x.shape
    dtype = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
    arguments = (
        rows_to_numpy(x, dtype),
        to_numpy(weight, dtype),
        absent(dtype, 2) if bias is None else to_numpy(bias, dtype)[:, None],
        absent(dtype, 3) if initial_state is None else rows_to_numpy(initial_state, dtype),
        absent(torch.int64, 2) if sequence_ids is None else to_numpy(sequence_ids, torch.int64),
        silu,
    )
    return dtype, batch * max(-(-length // SEGMENT), 1), x.numel() * weight.shape[1], arguments


_INPUTS = "Tensor x, Tensor weight, Tensor? bias, bool silu, Tensor? initial_state, Tensor? sequence_ids"
torch.library.define("baby_mamba::causal_conv1d_cpu", f"({_INPUTS}) -> (Tensor y, Tensor final_state)")
torch.library.define(
    "baby_mamba::causal_conv1d_cpu_backward",
    f"(Tensor? grad_y, Tensor? grad_final_state, {_INPUTS}) -> (Tensor x, Tensor weight, Tensor bias, Tensor state)",
)


def _run_forward(x, weight, *others):
    dtype, units, work, arguments = _arguments(x, weight, *others)
    (batch, length, channels), width = x.shape, weight.shape[1]
    y = torch.empty(batch, length, channels, dtype=dtype)
    final_state = torch.empty(batch, width - 1, channels, dtype=dtype)
    _forward(dtype, units, work, *arguments, y.numpy(), final_state.numpy())
    return converted(y, x.dtype), converted(final_state, x.dtype)


@torch.library.register_fake("baby_mamba::causal_conv1d_cpu")
def _(x, weight, *others):
    return x.new_empty(x.shape), x.new_empty((x.shape[0], weight.shape[1] - 1, x.shape[2]))


def _run_backward(grad_y, grad_final_state, x, weight, bias, silu, initial_state, sequence_ids):
    (batch, _, channels), width = x.shape, weight.shape[1]
    dtype, units, work, arguments = _arguments(x, weight, bias, silu, initial_state, sequence_ids)
    grad_y = torch.zeros(x.shape, dtype=dtype) if grad_y is None else grad_y
    state_shape = (batch, width - 1, channels)
    grad_final_state = torch.zeros(state_shape, dtype=dtype) if grad_final_state is None else grad_final_state
    grad_x = torch.empty(x.shape, dtype=dtype)
    grad_weight = torch.empty((units, channels, width), dtype=dtype)
    grad_bias = torch.empty((units, channels, 1), dtype=dtype)
    grad_initial_state = torch.empty(state_shape if initial_state is not None else (0, 0, 0), dtype=dtype)
    _backward(
        dtype, units, work, *arguments, rows_to_numpy(grad_y, dtype), rows_to_numpy(grad_final_state, dtype),
        grad_x.numpy(), grad_weight.numpy(), grad_bias.numpy(), grad_initial_state.numpy(),
    )  # fmt: skip
    return (
        grad_x.to(x.dtype),
        grad_weight.sum(0).to(weight.dtype),
        grad_x.new_empty(0) if bias is None else grad_bias.sum(0).squeeze(1).to(bias.dtype),
        grad_x.new_empty(0) if initial_state is None else grad_initial_state.to(initial_state.dtype),
    )


@torch.library.register_fake("baby_mamba::causal_conv1d_cpu_backward")
def _(grad_y, grad_final_state, x, weight, bias, silu, initial_state, sequence_ids):
    return tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, weight, bias, initial_state))


def _save_for_backward(ctx, inputs, output):
    x, weight, bias, ctx.silu, initial_state, sequence_ids = inputs
    ctx.save_for_backward(x, weight, bias, initial_state, sequence_ids)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_final_state):
    x, weight, bias, initial_state, sequence_ids = ctx.saved_tensors
    dx, dweight, dbias, dstate = torch.ops.baby_mamba.causal_conv1d_cpu_backward.default(
        grad_y, grad_final_state, x, weight, bias, ctx.silu, initial_state, sequence_ids
    )
    return dx, dweight, None if bias is None else dbias, None, None if initial_state is None else dstate, None


_operator = register("causal_conv1d", _run_forward, _run_backward, _save_for_backward, _differentiate)
