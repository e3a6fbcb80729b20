r"""The selective scan as loops that numba compiles: the states never leave the cache.

Forward, for one batch entry and `LANES` channels at once (names as in `ops.selective_scan`):

    h   = exp(delta_t A) h + delta_t u_t B_t
    y_t = C_t . h

Every `CHUNK` steps the state is kept. The backward pass walks back chunk by chunk: it runs a chunk forward again from
the state kept at its start, and then follows the gradient of the state, g, from its end. With q_t = exp(delta_t A) g_t,
which is the gradient that flows on to h_{t-1},

    g_t          = C_t dy_t + q_{t+1}
    dC_t         = dy_t h_t                summed over channels
    dB_t         = delta_t u_t g_t         summed over channels
    d(delta_t u) = B_t . g_t
    d(delta_t A) = q_t h_{t-1}             so d(delta) gets A . q_t h_{t-1}, and dA gets delta_t q_t h_{t-1}

Work is cut into units of one batch entry and a slab of channels. Each unit writes its own sums, which are then added in
a fixed order, so gradients do not depend on the number of threads.
"""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from baby_mamba.ops.lanes import (
    LANES,
    as_lanes,
    exp2,
    lane_sum,
    load,
    sigmoid,
    softplus,
    store,
    zero_like,
)
from baby_mamba.ops.numba_support import Kernel, rows_to_numpy, to_numpy
from baby_mamba.ops.selective_scan import computing_dtype

CHUNK = 16  # steps between two states that are kept for the backward pass
UNITS = 32  # cut a scan into about this many units of work, if it is large enough
LN2 = math.log(2)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Fused loops over time; arguments and results as `ops.selective_scan`."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    keep_states = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y, final_state, _ = torch.ops.baby_mamba.selective_scan_cpu.default(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, sequence_ids, keep_states
    )
    return y, final_state


# ------------------------------------------------------------------------------------------------------------- loops


@Kernel
def _forward(
    first, last, u, delta, A, B, C, D, z, delta_bias, initial_state, sequence_ids, delta_softplus, groups, slabs,
    y, final_state, kept_states,
):  # fmt: skip
    batch, length, channels = u.shape
    d_state = A.shape[1]
    slab_blocks = _blocks_in_slab(channels // groups, slabs)
    chunks = -(-length // CHUNK)

    A_floats = np.empty((slab_blocks, d_state, LANES), u.dtype)
    B_floats, C_floats, h_floats = np.empty_like(A_floats), np.empty_like(A_floats), np.empty_like(A_floats)
    D_floats, bias_floats = np.empty((slab_blocks, 1, LANES), u.dtype), np.empty((slab_blocks, 1, LANES), u.dtype)
    log2_decay, constant_B, constant_C, h = as_lanes(A_floats), as_lanes(B_floats), as_lanes(C_floats), as_lanes(h_floats)
    skip, bias = as_lanes(D_floats), as_lanes(bias_floats)
    B_chunk, C_chunk = np.empty((CHUNK, d_state), u.dtype), np.empty((CHUNK, d_state), u.dtype)
    delta_chunk = as_lanes(np.empty((CHUNK, LANES), u.dtype))
    delta_u = as_lanes(np.empty((CHUNK, LANES), u.dtype))
    y_chunk = as_lanes(np.empty((CHUNK, LANES), u.dtype))

    for unit in range(first, last):
        i, group, slab = unit // (groups * slabs), unit // slabs % groups, unit % slabs
        begin, end = _channels_of_slab(group, slab, channels // groups, slab_blocks)
        _rows_to_blocks(A[begin:end], A_floats, 1 / LN2)
        _rows_to_blocks(D[begin:end], D_floats, 1.0)
        _rows_to_blocks(delta_bias[begin:end], bias_floats, 1.0)
        if B.ndim == 2:
            _rows_to_blocks(B[begin:end], B_floats, 1.0)
        if C.ndim == 2:
            _rows_to_blocks(C[begin:end], C_floats, 1.0)
        h_floats[:] = 0
        if initial_state.size > 0:
            _rows_to_blocks(initial_state[i, begin:end], h_floats, 1.0)

        start = 0
        while start < length:
            stop = _end_of_chunk(sequence_ids, i, start, length)
            if _starts_sequence(sequence_ids, i, start):
                h_floats[:] = 0
            if B.ndim == 4:
                B_chunk[: stop - start] = B[i, start:stop, group * B.shape[2] // groups]
            if C.ndim == 4:
                C_chunk[: stop - start] = C[i, start:stop, group * C.shape[2] // groups]
            for k in range(-(-(end - begin) // LANES)):
                channel = begin + k * LANES
                count = min(LANES, end - channel)
                if kept_states.size > 0 and start % CHUNK == 0:
                    for n in range(d_state):
                        store(kept_states, i * chunks + start // CHUNK, n, channel, count, h[k, n])
                for t in range(stop - start):
                    delta_t = load(delta, i, start + t, channel, count) + bias[k, 0]
                    if delta_softplus:
                        delta_t = softplus(delta_t)
                    delta_chunk[t] = delta_t
                    delta_u[t] = delta_t * load(u, i, start + t, channel, count)
                for t in range(stop - start):
                    delta_t, delta_u_t = delta_chunk[t], delta_u[t]
                    y_t = zero_like(h)
                    for n in range(d_state):
                        if B.ndim == 2:
                            B_t = constant_B[k, n]
                        else:
                            B_t = B_chunk[t, n]
                        if C.ndim == 2:
                            C_t = constant_C[k, n]
                        else:
                            C_t = C_chunk[t, n]
                        h_t = exp2(delta_t * log2_decay[k, n]) * h[k, n] + delta_u_t * B_t
                        y_t += h_t * C_t
                        h[k, n] = h_t
                    y_chunk[t] = y_t
                for t in range(stop - start):
                    y_t = y_chunk[t]
                    if D.size > 0:
                        y_t += skip[k, 0] * load(u, i, start + t, channel, count)
                    if z.size > 0:
                        gate = load(z, i, start + t, channel, count)
                        y_t *= gate * sigmoid(gate)
                    store(y, i, start + t, channel, count, y_t)
            start = stop
        _blocks_to_rows(h_floats, final_state[i, begin:end], 1.0)


@Kernel
def _backward(
    first, last, u, delta, A, B, C, D, z, delta_bias, initial_state, sequence_ids, delta_softplus, groups, slabs,
    kept_states, grad_y, grad_final_state,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_initial_state,
):  # fmt: skip
    batch, length, channels = u.shape
    d_state = A.shape[1]
    slab_blocks = _blocks_in_slab(channels // groups, slabs)
    chunks = -(-length // CHUNK)

    A_floats = np.empty((slab_blocks, d_state, LANES), u.dtype)
    B_floats, C_floats, q_floats = np.empty_like(A_floats), np.empty_like(A_floats), np.empty_like(A_floats)
    D_floats, bias_floats = np.empty((slab_blocks, 1, LANES), u.dtype), np.empty((slab_blocks, 1, LANES), u.dtype)
    log2_decay, constant_B, constant_C, q = as_lanes(A_floats), as_lanes(B_floats), as_lanes(C_floats), as_lanes(q_floats)
    skip, bias = as_lanes(D_floats), as_lanes(bias_floats)
    B_chunk, C_chunk = np.empty((d_state, CHUNK), u.dtype), np.empty((d_state, CHUNK), u.dtype)
    # Sums over time, of a unit.
    dA_floats, dB_floats, dC_floats = np.empty_like(A_floats), np.empty_like(A_floats), np.empty_like(A_floats)
    dD_floats, dbias_floats = np.empty_like(D_floats), np.empty_like(D_floats)
    dA, constant_dB, constant_dC = as_lanes(dA_floats), as_lanes(dB_floats), as_lanes(dC_floats)
    dD, dbias = as_lanes(dD_floats), as_lanes(dbias_floats)
    # Sums over the blocks of a slab, of a chunk.
    dB_chunk_floats, dC_chunk_floats = np.empty((d_state, CHUNK, LANES), u.dtype), np.empty((d_state, CHUNK, LANES), u.dtype)
    dB_chunk, dC_chunk = as_lanes(dB_chunk_floats), as_lanes(dC_chunk_floats)
    # The steps of a chunk, for one block.
    delta_chunk = as_lanes(np.empty((CHUNK, LANES), u.dtype))
    delta_u = as_lanes(np.empty((CHUNK, LANES), u.dtype))
    dy = as_lanes(np.empty((CHUNK, LANES), u.dtype))  # before the gate
    y = as_lanes(np.empty((CHUNK, LANES), u.dtype))  # before the skip connection
    d_delta_u = as_lanes(np.empty((CHUNK, LANES), u.dtype))
    d_delta = as_lanes(np.empty((CHUNK, LANES), u.dtype))
    # The same for one n.
    decay = as_lanes(np.empty((CHUNK, LANES), u.dtype))
    h_before = as_lanes(np.empty((CHUNK, LANES), u.dtype))

    for unit in range(first, last):
        i, group, slab = unit // (groups * slabs), unit // slabs % groups, unit % slabs
        begin, end = _channels_of_slab(group, slab, channels // groups, slab_blocks)
        _rows_to_blocks(A[begin:end], A_floats, 1 / LN2)
        _rows_to_blocks(D[begin:end], D_floats, 1.0)
        _rows_to_blocks(delta_bias[begin:end], bias_floats, 1.0)
        if B.ndim == 2:
            _rows_to_blocks(B[begin:end], B_floats, 1.0)
        if C.ndim == 2:
            _rows_to_blocks(C[begin:end], C_floats, 1.0)
        _rows_to_blocks(grad_final_state[i, begin:end], q_floats, 1.0)
        dA_floats[:] = 0
        dB_floats[:] = 0
        dC_floats[:] = 0
        dD_floats[:] = 0
        dbias_floats[:] = 0

        stop = length
        while stop > 0:
            start = _start_of_chunk(sequence_ids, i, stop)
            steps = stop - start
            new_sequence = _starts_sequence(sequence_ids, i, start)
            dB_chunk_floats[:] = 0
            dC_chunk_floats[:] = 0
            for t in range(steps):
                for n in range(d_state):
                    if B.ndim == 4:
                        B_chunk[n, t] = B[i, start + t, group * B.shape[2] // groups, n]
                    if C.ndim == 4:
                        C_chunk[n, t] = C[i, start + t, group * C.shape[2] // groups, n]
            for k in range(-(-(end - begin) // LANES)):
                channel = begin + k * LANES
                count = min(LANES, end - channel)
                for t in range(steps):
                    delta_t = load(delta, i, start + t, channel, count) + bias[k, 0]
                    if delta_softplus:
                        delta_t = softplus(delta_t)
                    dy_t = load(grad_y, i, start + t, channel, count)
                    if z.size > 0:
                        gate = load(z, i, start + t, channel, count)
                        dy_t *= gate * sigmoid(gate)
                    delta_chunk[t] = delta_t
                    delta_u[t] = delta_t * load(u, i, start + t, channel, count)
                    dy[t] = dy_t
                    y[t] = d_delta_u[t] = d_delta[t] = zero_like(q)

                for n in range(d_state):
                    A_n = log2_decay[k, n]
                    h = zero_like(q)
                    if not new_sequence:
                        h = load(kept_states, i * chunks + start // CHUNK, n, channel, count)
                    for t in range(steps):
                        if B.ndim == 2:
                            B_t = constant_B[k, n]
                        else:
                            B_t = B_chunk[n, t]
                        decay_t = exp2(delta_chunk[t] * A_n)
                        decay[t] = decay_t
                        h_before[t] = h
                        h = decay_t * h + delta_u[t] * B_t

                    q_n = q[k, n]
                    dA_n = zero_like(q)
                    for t in range(steps - 1, -1, -1):
                        if B.ndim == 2:
                            B_t = constant_B[k, n]
                        else:
                            B_t = B_chunk[n, t]
                        if C.ndim == 2:
                            C_t = constant_C[k, n]
                        else:
                            C_t = C_chunk[n, t]
                        g = dy[t] * C_t + q_n
                        if C.ndim == 2:
                            constant_dC[k, n] += dy[t] * h
                        else:
                            dC_chunk[n, t] += dy[t] * h
                        if B.ndim == 2:
                            constant_dB[k, n] += delta_u[t] * g
                        else:
                            dB_chunk[n, t] += delta_u[t] * g
                        y[t] += h * C_t
                        d_delta_u[t] += g * B_t
                        h = h_before[t]
                        q_n = decay[t] * g
                        d_exponent = q_n * h
                        d_delta[t] += d_exponent * A_n
                        dA_n += d_exponent * delta_chunk[t]
                    dA[k, n] += dA_n
                    q[k, n] = zero_like(q) if new_sequence else q_n

                for t in range(steps):
                    u_t = load(u, i, start + t, channel, count)
                    du_t = delta_chunk[t] * d_delta_u[t]
                    d_delta_t = d_delta[t] * LN2 + u_t * d_delta_u[t]
                    y_t = y[t]
                    if D.size > 0:
                        du_t += skip[k, 0] * dy[t]
                        dD[k, 0] += u_t * dy[t]
                        y_t += skip[k, 0] * u_t
                    if delta_softplus:
                        d_delta_t *= sigmoid(load(delta, i, start + t, channel, count) + bias[k, 0])
                    dbias[k, 0] += d_delta_t
                    if z.size > 0:
                        gate = load(z, i, start + t, channel, count)
                        s = sigmoid(gate)
                        slope = s * (1.0 + gate * (1.0 - s))  # of silu
                        store(grad_z, i, start + t, channel, count, load(grad_y, i, start + t, channel, count) * y_t * slope)
                    store(grad_u, i, start + t, channel, count, du_t)
                    store(grad_delta, i, start + t, channel, count, d_delta_t)

            for t in range(steps):
                for n in range(d_state):
                    if B.ndim == 4:
                        grad_B[slab, i, start + t, group, n] = lane_sum(dB_chunk[n, t])
                    if C.ndim == 4:
                        grad_C[slab, i, start + t, group, n] = lane_sum(dC_chunk[n, t])
            stop = start

        _blocks_to_rows(dA_floats, grad_A[i, begin:end], 1.0)
        if B.ndim == 2:
            _blocks_to_rows(dB_floats, grad_B[i, begin:end], 1.0)
        if C.ndim == 2:
            _blocks_to_rows(dC_floats, grad_C[i, begin:end], 1.0)
        _blocks_to_rows(dD_floats, grad_D[i, begin:end], 1.0)
        _blocks_to_rows(dbias_floats, grad_bias[i, begin:end], 1.0)
        _blocks_to_rows(q_floats, grad_initial_state[i, begin:end], 1.0)


@njit
def _blocks_in_slab(channels, slabs):
    """Vectors that the channels of one slab fill."""
    return -(-(-(-channels // LANES)) // slabs)


@njit
def _channels_of_slab(group, slab, channels, slab_blocks):
    """(begin, end) of the channels of a slab of a group of `channels` channels."""
    begin = min(slab * slab_blocks * LANES, channels)
    end = min(begin + slab_blocks * LANES, channels)
    return group * channels + begin, group * channels + end


@njit
def _rows_to_blocks(rows, blocks, scale):
    """Spread scale * rows (channels, n) over blocks (k, n, lane); lanes without a channel become 0."""
    blocks[:] = 0
    for channel in range(rows.shape[0]):
        for n in range(rows.shape[1]):
            blocks[channel // LANES, n, channel % LANES] = rows[channel, n] * scale


@njit
def _blocks_to_rows(blocks, rows, scale):
    """The inverse of `_rows_to_blocks`."""
    for channel in range(rows.shape[0]):
        for n in range(rows.shape[1]):
            rows[channel, n] = blocks[channel // LANES, n, channel % LANES] * scale


@njit
def _starts_sequence(sequence_ids, i, t):
    """Whether a sequence other than the first of the row starts at step t."""
    return sequence_ids.size > 0 and t > 0 and sequence_ids[i, t] != sequence_ids[i, t - 1]


@njit
def _end_of_chunk(sequence_ids, i, start, length):
    """The first step after `start` at which a chunk or a sequence starts, or the end."""
    stop = min((start // CHUNK + 1) * CHUNK, length)
    for t in range(start + 1, stop):
        if _starts_sequence(sequence_ids, i, t):
            return t
    return stop


@njit
def _start_of_chunk(sequence_ids, i, stop):
    """The last step before `stop` at which a chunk or a sequence starts."""
    start = (stop - 1) // CHUNK * CHUNK
    for t in range(stop - 1, start, -1):
        if _starts_sequence(sequence_ids, i, t):
            return t
    return start


# --------------------------------------------------------------------------------------------------------- operators


def _arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, sequence_ids):
    """(dtype, variant, units, work, arguments) for a kernel; empty arrays stand for absent tensors."""
    batch, length, channels = u.shape
    dtype = computing_dtype(u, delta, A, B, C, delta_bias, initial_state)
    # A unit reads one group of B and one of C.
    groups = math.lcm(*(M.shape[2] if M.ndim == 4 else 1 for M in (B, C)))
    blocks = -(-channels // (groups * LANES))
    slabs = max(1, min(UNITS // max(batch * groups, 1), blocks // 2))
    arguments = (
        rows_to_numpy(u, dtype),
        rows_to_numpy(delta, dtype),
        to_numpy(A, dtype),
        to_numpy(B.unsqueeze(2) if B.ndim == 3 else B, dtype),
        to_numpy(C.unsqueeze(2) if C.ndim == 3 else C, dtype),
        _ABSENT[dtype][:, :, 0] if D is None else to_numpy(D.unsqueeze(1), dtype),
        _ABSENT[dtype] if z is None else rows_to_numpy(z, dtype),
        _ABSENT[dtype][:, :, 0] if delta_bias is None else to_numpy(delta_bias.unsqueeze(1), dtype),
        _ABSENT[dtype] if initial_state is None else to_numpy(initial_state, dtype),
        _NO_IDS if sequence_ids is None else to_numpy(sequence_ids, torch.int64),
        delta_softplus,
        groups,
        slabs,
    )
    variant = (dtype, B.ndim == 2, C.ndim == 2)
    return dtype, variant, batch * groups * slabs, u.numel() * A.shape[1], arguments


_ABSENT = {torch.float32: np.empty((0, 0, 1), np.float32), torch.float64: np.empty((0, 0, 1), np.float64)}
_NO_IDS = np.empty((0, 0), np.int64)

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, Tensor? initial_state, Tensor? sequence_ids"
)
torch.library.define(
    "baby_mamba::selective_scan_cpu",
    f"({_INPUTS}, bool keep_states) -> (Tensor y, Tensor final_state, Tensor kept_states)",
)
torch.library.define(
    "baby_mamba::selective_scan_cpu_backward",
    f"(Tensor grad_y, Tensor? grad_final_state, Tensor kept_states, {_INPUTS}) -> "
    "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias, Tensor initial_state)",
)


def _run_forward(*inputs_and_keep):
    *inputs, keep_states = inputs_and_keep
    u, A = inputs[0], inputs[2]
    (batch, length, channels), d_state = u.shape, A.shape[1]
    dtype, variant, units, work, arguments = _arguments(*inputs)
    y = torch.empty(batch, length, channels, dtype=dtype)
    final_state = torch.empty(batch, channels, d_state, dtype=dtype)
    chunks = -(-length // CHUNK) if keep_states else 0
    kept_states = torch.empty(batch * chunks, d_state, channels, dtype=dtype)
    _forward(variant, units, work, *arguments, y.numpy(), final_state.numpy(), kept_states.numpy())
    return y.to(u.dtype), final_state, kept_states


@torch.library.register_fake("baby_mamba::selective_scan_cpu")
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, sequence_ids, keep_states):
    (batch, length, channels), d_state = u.shape, A.shape[1]
    dtype = computing_dtype(u, delta, A, B, C, delta_bias, initial_state)
    chunks = -(-length // CHUNK) if keep_states else 0
    return (
        u.new_empty(u.shape),
        u.new_empty((batch, channels, d_state), dtype=dtype),
        u.new_empty((batch * chunks, d_state, channels), dtype=dtype),
    )


def _run_backward(grad_y, grad_final_state, kept_states, *inputs):
    u, delta, A, B, C, D, z, delta_bias, _, initial_state, _ = inputs
    (batch, length, channels), d_state = u.shape, A.shape[1]
    dtype, variant, units, work, arguments = _arguments(*inputs)
    groups, slabs = arguments[-2:]
    if grad_final_state is None:
        grad_final_state = torch.zeros(batch, channels, d_state, dtype=dtype)

    def empty(*shape):
        return torch.empty(shape, dtype=dtype)

    def unsummed(M):
        """Room for the sums of every unit over B or C."""
        return empty(batch, *M.shape) if M.ndim == 2 else empty(slabs, batch, length, groups, d_state)

    grads = (
        grad_u := empty(batch, length, channels),
        grad_delta := empty(batch, length, channels),
        grad_A := empty(batch, channels, d_state),
        grad_B := unsummed(B),
        grad_C := unsummed(C),
        grad_D := empty(batch, channels, 1),
        grad_z := empty(batch, length, channels if z is not None else 0),
        grad_bias := empty(batch, channels, 1),
        grad_initial_state := empty(batch, channels, d_state),
    )
    _backward(
        variant, units, work, *arguments,
        to_numpy(kept_states, dtype), rows_to_numpy(grad_y, dtype), to_numpy(grad_final_state, dtype),
        *(g.numpy() for g in grads),
    )  # fmt: skip

    def summed(M, grad):
        if M.ndim == 2:
            return grad.sum(0)
        groups_of_M = M.shape[2] if M.ndim == 4 else 1
        return grad.view(slabs, batch, length, groups_of_M, groups // groups_of_M, d_state).sum((0, 4)).view(M.shape)

    sums = (
        (u, grad_u),
        (delta, grad_delta),
        (A, grad_A.sum(0)),
        (B, summed(B, grad_B)),
        (C, summed(C, grad_C)),
        (D, grad_D.sum(0).squeeze(1)),
        (z, grad_z),
        (delta_bias, grad_bias.sum(0).squeeze(1)),
        (initial_state, grad_initial_state),
    )
    return tuple(grad_y.new_empty(0) if tensor is None else grad.to(tensor.dtype) for tensor, grad in sums)


@torch.library.register_fake("baby_mamba::selective_scan_cpu_backward")
def _(grad_y, grad_final_state, kept_states, *inputs):
    u, delta, A, B, C, D, z, delta_bias, _, initial_state, _ = inputs
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return tuple(grad_y.new_empty(0) if t is None else t.new_empty(t.shape) for t in tensors)


def _save_for_backward(ctx, inputs, output):
    *inputs, keep_states = inputs
    ctx.delta_softplus = inputs.pop(8)
    ctx.save_for_backward(output[2], *inputs)
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_final_state, _):
    kept_states, *inputs = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(inputs[0])
    *before, initial_state, sequence_ids = inputs
    grads = torch.ops.baby_mamba.selective_scan_cpu_backward.default(
        grad_y, grad_final_state, kept_states, *before, ctx.delta_softplus, initial_state, sequence_ids
    )
    grads = [None if tensor is None else grad for tensor, grad in zip((*before, initial_state), grads, strict=True)]
    return *grads[:8], None, grads[8], None, None


torch.library.impl("baby_mamba::selective_scan_cpu", "CPU", _run_forward)
torch.library.impl("baby_mamba::selective_scan_cpu_backward", "CPU", _run_backward)
torch.library.register_autograd("baby_mamba::selective_scan_cpu", _differentiate, setup_context=_save_for_backward)
