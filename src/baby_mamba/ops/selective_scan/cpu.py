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

import torch
from torch import Tensor

from baby_mamba.errors import BackendUnavailableError
from baby_mamba.ops.lanes import (
    LANES,
    clear,
    empty_lanes,
    exp2,
    helper,
    lane_sum,
    load,
    read_rows,
    sigmoid,
    softplus,
    store,
    write_rows,
    zero_like,
)
from baby_mamba.ops.numba_support import SERIAL_WORK, Kernel, absent, converted, register, rows_to_numpy, to_numpy
from baby_mamba.ops.selective_scan.reference import computing_dtype

CHUNK = 32  # steps between two states that are kept for the backward pass
UNITS = 16  # cut a large scan into about this many units of work
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
    y, final_state, _ = _operator(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, sequence_ids, keep_states
    )
    return y, final_state


# ------------------------------------------------------------------------------------------------------------- loops
#
# Index i counts batch entries, k blocks of LANES channels within a slab, t steps, and n the numbers of a state. Arrays
# of Lanes are indexed [k, n] if they hold for a whole unit, and by steps since the start of the chunk if for a chunk.
# Tensors that are absent are empty arrays. B and C have two dimensions where they are constant in time.


@Kernel
def _forward(
    first, last, u, delta, A, B, C, D, z, delta_bias, initial_state, sequence_ids, delta_softplus, groups, slabs,
    y, final_state, kept_states,
):  # fmt: skip
    _, length, channels = u.shape
    d_state = A.shape[1]
    slab_blocks = _blocks_in_slab(channels // groups, slabs)
    chunks = -(-length // CHUNK)

    rate = empty_lanes((slab_blocks, d_state), u.dtype)  # A / ln 2, so that exp(delta A) = 2^(delta rate)
    constant_B = empty_lanes((slab_blocks, d_state), u.dtype)
    constant_C = empty_lanes((slab_blocks, d_state), u.dtype)
    h = empty_lanes((slab_blocks, d_state), u.dtype)
    skip = empty_lanes((slab_blocks, 1), u.dtype)
    bias = empty_lanes((slab_blocks, 1), u.dtype)
    step_size = empty_lanes((CHUNK,), u.dtype)
    delta_u = empty_lanes((CHUNK,), u.dtype)
    y_chunk = empty_lanes((CHUNK,), u.dtype)

    for unit in range(first, last):
        i, group, begin, end = _place(unit, channels, groups, slabs, slab_blocks)
        B_group, C_group = _group_of(B, group, groups), _group_of(C, group, groups)
        read_rows(A[begin:end], 1 / LN2, rate)
        read_rows(D[begin:end], 1.0, skip)
        read_rows(delta_bias[begin:end], 1.0, bias)
        if B.ndim == 2:
            read_rows(B[begin:end], 1.0, constant_B)
        if C.ndim == 2:
            read_rows(C[begin:end], 1.0, constant_C)
        if initial_state.size > 0:
            read_rows(initial_state[i, begin:end], 1.0, h)
        else:
            clear(h)

        start = 0
        while start < length:
            stop = _end_of_chunk(sequence_ids, i, start, length)
            steps = stop - start
            if _starts_sequence(sequence_ids, i, start):
                clear(h)
            for k in range(-(-(end - begin) // LANES)):
                channel, count = begin + k * LANES, min(LANES, end - begin - k * LANES)
                if kept_states.size > 0 and start % CHUNK == 0:
                    for n in range(d_state):
                        store(kept_states, i * chunks + start // CHUNK, n, channel, count, h[k, n])

                # Three loops, so that the long chains of softplus and sigmoid overlap from step to step.
                for t in range(steps):
                    x = load(delta, i, start + t, channel, count) + bias[k, 0]
                    step_size[t] = softplus(x) if delta_softplus else x
                    delta_u[t] = step_size[t] * load(u, i, start + t, channel, count)
                for t in range(steps):
                    delta_t, delta_u_t, y_t = step_size[t], delta_u[t], zero_like(h)
                    for n in range(d_state):
                        B_t = _at(B, constant_B, i, start + t, B_group, k, n)
                        C_t = _at(C, constant_C, i, start + t, C_group, k, n)
                        h_t = exp2(delta_t * rate[k, n]) * h[k, n] + delta_u_t * B_t
                        y_t += C_t * h_t
                        h[k, n] = h_t
                    y_chunk[t] = y_t
                for t in range(steps):
                    y_t = y_chunk[t]
                    if D.size > 0:
                        y_t += skip[k, 0] * load(u, i, start + t, channel, count)
                    if z.size > 0:
                        gate = load(z, i, start + t, channel, count)
                        y_t *= gate * sigmoid(gate)
                    store(y, i, start + t, channel, count, y_t)
            start = stop
        write_rows(h, final_state[i, begin:end])


@Kernel
def _backward(
    first, last, u, delta, A, B, C, D, z, delta_bias, initial_state, sequence_ids, delta_softplus, groups, slabs,
    kept_states, grad_y, grad_final_state,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_initial_state,
):  # fmt: skip
    _, length, channels = u.shape
    d_state = A.shape[1]
    slab_blocks = _blocks_in_slab(channels // groups, slabs)
    chunks = -(-length // CHUNK)

    rate = empty_lanes((slab_blocks, d_state), u.dtype)  # A / ln 2
    constant_B = empty_lanes((slab_blocks, d_state), u.dtype)
    constant_C = empty_lanes((slab_blocks, d_state), u.dtype)
    q = empty_lanes((slab_blocks, d_state), u.dtype)  # the gradient that flows on to the step before
    skip = empty_lanes((slab_blocks, 1), u.dtype)
    bias = empty_lanes((slab_blocks, 1), u.dtype)
    # The steps of a chunk, for one block.
    step_size = empty_lanes((CHUNK,), u.dtype)
    delta_u = empty_lanes((CHUNK,), u.dtype)
    dy = empty_lanes((CHUNK,), u.dtype)  # before the gate
    y = empty_lanes((CHUNK,), u.dtype)  # before the skip connection
    d_delta = empty_lanes((CHUNK,), u.dtype)  # through the decay alone, and for A / ln 2
    d_delta_u = empty_lanes((CHUNK,), u.dtype)
    decay = empty_lanes((CHUNK, d_state), u.dtype)
    h = empty_lanes((CHUNK + 1, d_state), u.dtype)  # h[t] before step t of the chunk, h[t + 1] after it
    # Sums over channels for the steps of a chunk, and sums over time. Time is summed chunk by chunk: a running sum of
    # thousands of steps would lose digits.
    dB_chunk = empty_lanes((CHUNK, d_state), u.dtype)
    dC_chunk = empty_lanes((CHUNK, d_state), u.dtype)
    dA_chunk = empty_lanes((d_state,), u.dtype)
    dA = empty_lanes((slab_blocks, d_state), u.dtype)
    constant_dB = empty_lanes((slab_blocks, d_state), u.dtype)
    constant_dC = empty_lanes((slab_blocks, d_state), u.dtype)
    dD = empty_lanes((slab_blocks, 1), u.dtype)
    dbias = empty_lanes((slab_blocks, 1), u.dtype)

    for unit in range(first, last):
        i, group, begin, end = _place(unit, channels, groups, slabs, slab_blocks)
        B_group, C_group = _group_of(B, group, groups), _group_of(C, group, groups)
        read_rows(A[begin:end], 1 / LN2, rate)
        read_rows(D[begin:end], 1.0, skip)
        read_rows(delta_bias[begin:end], 1.0, bias)
        if B.ndim == 2:
            read_rows(B[begin:end], 1.0, constant_B)
        if C.ndim == 2:
            read_rows(C[begin:end], 1.0, constant_C)
        read_rows(grad_final_state[i, begin:end], 1.0, q)
        clear(dA)
        clear(dD)
        clear(dbias)
        clear(constant_dB)
        clear(constant_dC)

        stop = length
        while stop > 0:
            start = _start_of_chunk(sequence_ids, i, stop)
            steps = stop - start
            starts_sequence = _starts_sequence(sequence_ids, i, start)
            clear(dB_chunk)
            clear(dC_chunk)
            for k in range(-(-(end - begin) // LANES)):
                channel, count = begin + k * LANES, min(LANES, end - begin - k * LANES)
                for t in range(steps):
                    x = load(delta, i, start + t, channel, count) + bias[k, 0]
                    step_size[t] = softplus(x) if delta_softplus else x
                    delta_u[t] = step_size[t] * load(u, i, start + t, channel, count)
                    dy_t = load(grad_y, i, start + t, channel, count)
                    if z.size > 0:
                        gate = load(z, i, start + t, channel, count)
                        dy_t *= gate * sigmoid(gate)
                    dy[t] = dy_t

                # Forward again, from the state before the chunk.
                for n in range(d_state):
                    dA_chunk[n] = h[0, n] = zero_like(q)
                    if not starts_sequence:
                        h[0, n] = load(kept_states, i * chunks + start // CHUNK, n, channel, count)
                for t in range(steps):
                    delta_t, delta_u_t = step_size[t], delta_u[t]
                    for n in range(d_state):
                        B_t = _at(B, constant_B, i, start + t, B_group, k, n)
                        decay_t = exp2(delta_t * rate[k, n])
                        h[t + 1, n] = decay_t * h[t, n] + delta_u_t * B_t
                        decay[t, n] = decay_t

                # Back, with the equations at the top of this file.
                for t in range(steps - 1, -1, -1):
                    delta_t, delta_u_t, dy_t = step_size[t], delta_u[t], dy[t]
                    y_t = d_delta_t = d_delta_u_t = zero_like(q)
                    for n in range(d_state):
                        B_t = _at(B, constant_B, i, start + t, B_group, k, n)
                        C_t = _at(C, constant_C, i, start + t, C_group, k, n)
                        h_t = h[t + 1, n]
                        g_t = C_t * dy_t + q[k, n]
                        q_t = decay[t, n] * g_t
                        d_exponent = q_t * h[t, n]  # of delta_t A
                        y_t += C_t * h_t
                        d_delta_t += rate[k, n] * d_exponent
                        d_delta_u_t += B_t * g_t
                        dA_chunk[n] += delta_t * d_exponent
                        if B.ndim == 2:
                            constant_dB[k, n] += delta_u_t * g_t
                        else:
                            dB_chunk[t, n] += delta_u_t * g_t
                        if C.ndim == 2:
                            constant_dC[k, n] += dy_t * h_t
                        else:
                            dC_chunk[t, n] += dy_t * h_t
                        q[k, n] = q_t
                    y[t], d_delta[t], d_delta_u[t] = y_t, d_delta_t, d_delta_u_t
                for n in range(d_state):
                    dA[k, n] += dA_chunk[n]
                    if starts_sequence:
                        q[k, n] = zero_like(q)

                # What surrounds the recurrence: softplus, skip connection, gate.
                dD_chunk = dbias_chunk = zero_like(q)
                for t in range(steps):
                    u_t = load(u, i, start + t, channel, count)
                    y_t = y[t]
                    du_t = step_size[t] * d_delta_u[t]
                    if D.size > 0:
                        y_t += skip[k, 0] * u_t
                        du_t += skip[k, 0] * dy[t]
                        dD_chunk += u_t * dy[t]
                    store(grad_u, i, start + t, channel, count, du_t)
                    dx = LN2 * d_delta[t] + u_t * d_delta_u[t]
                    if delta_softplus:
                        dx *= sigmoid(load(delta, i, start + t, channel, count) + bias[k, 0])
                    dbias_chunk += dx
                    store(grad_delta, i, start + t, channel, count, dx)
                    if z.size > 0:
                        gate = load(z, i, start + t, channel, count)
                        s = sigmoid(gate)
                        dsilu = s * (1.0 + gate * (1.0 - s))
                        dy_t = load(grad_y, i, start + t, channel, count)
                        store(grad_z, i, start + t, channel, count, dy_t * y_t * dsilu)
                dD[k, 0] += dD_chunk
                dbias[k, 0] += dbias_chunk

            for t in range(steps):
                for n in range(d_state):
                    if B.ndim == 4:
                        grad_B[unit % slabs, i, start + t, group, n] = lane_sum(dB_chunk[t, n])
                    if C.ndim == 4:
                        grad_C[unit % slabs, i, start + t, group, n] = lane_sum(dC_chunk[t, n])
            stop = start

        write_rows(dA, grad_A[i, begin:end])
        write_rows(dD, grad_D[i, begin:end])
        write_rows(dbias, grad_bias[i, begin:end])
        write_rows(q, grad_initial_state[i, begin:end])
        if B.ndim == 2:
            write_rows(constant_dB, grad_B[i, begin:end])
        if C.ndim == 2:
            write_rows(constant_dC, grad_C[i, begin:end])


@helper
def _blocks_in_slab(channels, slabs):
    """Vectors that a slab fills, where `channels` channels are cut into `slabs` slabs."""
    blocks = -(-channels // LANES)
    return -(-blocks // slabs)


@helper
def _place(unit, channels, groups, slabs, slab_blocks):
    """(batch entry, group, first channel, end of channels) of a unit of work."""
    i, group, slab = unit // (groups * slabs), unit // slabs % groups, unit % slabs
    group_channels = channels // groups
    begin = min(slab * slab_blocks * LANES, group_channels)
    end = min(begin + slab_blocks * LANES, group_channels)
    return i, group, group * group_channels + begin, group * group_channels + end


@helper
def _group_of(M, group, groups):
    """The group of B or C that the `group`-th of `groups` groups of channels reads."""
    if M.ndim == 2:
        return 0
    return group * M.shape[2] // groups


@helper
def _at(M, constant, i, t, group, k, n):
    """B or C of a step: a number for all channels of a group, or Lanes where it is constant in time."""
    if M.ndim == 2:
        return constant[k, n]
    return M[i, t, group, n]


@helper
def _starts_sequence(sequence_ids, i, t):
    """Whether a sequence other than the first of the row starts at step t."""
    return sequence_ids.size > 0 and t > 0 and sequence_ids[i, t] != sequence_ids[i, t - 1]


@helper
def _end_of_chunk(sequence_ids, i, start, length):
    """The first step after `start` at which a chunk or a sequence starts, or the end."""
    stop = min((start // CHUNK + 1) * CHUNK, length)
    for t in range(start + 1, stop):
        if _starts_sequence(sequence_ids, i, t):
            return t
    return stop


@helper
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
    # A unit of work reads one group of B and one of C.
    groups = math.lcm(B.shape[2] if B.ndim == 4 else 1, C.shape[2] if C.ndim == 4 else 1)
    blocks = -(-channels // (groups * LANES))
    work = batch * length * channels * A.shape[1]
    slabs = max(1, min(UNITS // max(batch * groups, 1), blocks // 4)) if work > SERIAL_WORK else 1
    arguments = (
        rows_to_numpy(u, dtype),
        rows_to_numpy(delta, dtype),
        to_numpy(A, dtype),
        _grouped(to_numpy(B, dtype)),
        _grouped(to_numpy(C, dtype)),
        absent(dtype, 2) if D is None else to_numpy(D, dtype)[:, None],
        absent(dtype, 3) if z is None else rows_to_numpy(z, dtype),
        absent(dtype, 2) if delta_bias is None else to_numpy(delta_bias, dtype)[:, None],
        absent(dtype, 3) if initial_state is None else to_numpy(initial_state, dtype),
        absent(torch.int64, 2) if sequence_ids is None else to_numpy(sequence_ids, torch.int64),
        delta_softplus,
        groups,
        slabs,
    )
    variant = (dtype, B.ndim == 2, C.ndim == 2)
    return dtype, variant, batch * groups * slabs, work, arguments


def _grouped(M):
    """Give B and C that vary in time their dimension of groups."""
    return M[:, :, None] if M.ndim == 3 else M


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
    "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias, Tensor state)",
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
    return converted(y, u.dtype), final_state, kept_states


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
    if not keep_states:
        raise BackendUnavailableError("selective_scan_cpu: gradients need keep_states=True")
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


_operator = register("selective_scan", _run_forward, _run_backward, _save_for_backward, _differentiate)
