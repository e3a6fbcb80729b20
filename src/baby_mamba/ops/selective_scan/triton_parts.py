r"""The first pass over a sequence that is cut into segments: with what state each begins, or ends in the backward pass.

For every part of a segment `part_states` computes what it by itself adds to the state at its end,

    local = sum_t 2^(A log2 e (delta_{t+1} + ... + delta_end)) delta_t u_t B_t,

walking back from the end, where the factor is 1; `part_adjoints` is its mirror. Then `carry_states` takes the state
from part to part, h <- decay h + local. Parts are shorter than segments where that lets more programs run side by side.

Tensors come as in `triton_forward`.
"""

import triton
import triton.language as tl

from baby_mamba.ops.selective_scan.triton_forward import (
    LOG2E,
    bring_inputs_near,
    exp2,
    input_pointer,
    input_row,
    input_rows_pointer,
    load_rows,
    load_states,
    locate,
    of_states,
    per_channel,
    sigmoid,
    step_size,
    store_states,
    unpacked,
    zero_states,
)
from baby_mamba.ops.triton_support import let_next_kernel_start, wait


@triton.jit
def store_part(
    decay_ptr, local_ptr, local, A, passed, alive, part, batch, groups, channels, channel, mask,
    D_STATE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Write what a part does to a state: `local`, in blocks of (BLOCK, STATES), and the factor of its steps.

    Both go into (part, batch, d_state, channels).
    """
    COUNT: tl.constexpr = D_STATE // STATES
    decay = ()
    for j in tl.static_range(COUNT):
        decay += (tl.where(alive != 0, exp2((passed * LOG2E)[:, None] * A[j], EXACT), 0.0),)
    batches = tl.num_programs(0) // (groups * tl.cdiv(channels // groups, BLOCK))
    offset = (part * batches + batch) * D_STATE * channels
    store_states(of_states(decay_ptr + offset, channels, channel, STATES), channels, mask, decay, COUNT, STATES)
    store_states(of_states(local_ptr + offset, channels, channel, STATES), channels, mask, local, COUNT, STATES)


@triton.jit(do_not_specialize=[
    "length", "padded_length", "groups", "zero", "part_length",
])  # fmt: skip
def part_states(
    u_ptr, delta_ptr, A_ptr, B_ptr, bias_ptr, starts_ptr, decay_ptr, local_ptr,
    length, padded_length, channels: tl.constexpr, groups, zero, part_length,
    u_batch, u_row: tl.constexpr, delta_batch, delta_row: tl.constexpr,
    D_STATE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONSTANT: tl.constexpr, FULL: tl.constexpr, EXACT: tl.constexpr, NEAR: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """For each part `local`, the state at its end had it begun with 0, and `decay`, the factor of its first state.

    Both are (part, batch, d_state, channels).
    """
    COUNT: tl.constexpr = D_STATE // STATES
    batch, group, channel, inside = locate(channels, groups, zero, BLOCK, PAIRS=FULL)
    part = tl.program_id(1).to(tl.int64)
    begin = part * part_length
    end = tl.minimum(begin + part_length, padded_length)
    mask = None if FULL else inside[:, None]
    bias = per_channel(bias_ptr, channel, inside)
    A = load_states(of_states(A_ptr, channels, channel, STATES), channels, mask, COUNT, STATES)
    B_rows = input_rows_pointer(B_ptr, batch, group, groups, padded_length, D_STATE)
    B_ptr = input_pointer(B_ptr, batch, group, groups, padded_length, channels, channel, D_STATE, STATES, B_CONSTANT)
    u_ptr += batch * u_batch + channel
    delta_ptr += batch * delta_batch + channel

    local = zero_states(BLOCK, COUNT, STATES)
    passed = tl.zeros((BLOCK,), tl.float32)  # sum of delta from the next step to the end
    alive = 1  # no packed sequence has started between the step at hand and the end
    t = end - TILE
    us = load_rows(u_ptr + t * u_row, u_row, length - t, inside, TILE, FULL)
    raws = load_rows(delta_ptr + t * delta_row, delta_row, length - t, inside, TILE, FULL)
    going = True
    while going:
        ahead = tl.maximum(t - TILE, begin)  # the last tile loads itself again
        if NEAR and not B_CONSTANT:
            bring_inputs_near(B_rows, ahead, D_STATE, TILE)
        us_ahead = load_rows(u_ptr + ahead * u_row, u_row, length - ahead, inside, TILE, FULL)
        raws_ahead = load_rows(delta_ptr + ahead * delta_row, delta_row, length - ahead, inside, TILE, FULL)
        for k in tl.static_range(TILE):
            delta = step_size(raws[TILE - 1 - k], bias, inside & (t + TILE - 1 - k < length), SOFTPLUS, FULL)
            x = delta * us[TILE - 1 - k].to(tl.float32)
            if starts_ptr is not None:
                x = tl.where(alive != 0, x, 0.0)
            total = ()
            for j in tl.static_range(COUNT):
                B = unpacked(input_row(B_ptr, t, TILE - 1 - k, j, channels, D_STATE, STATES, B_CONSTANT))
                total += (local[j] + exp2((passed * LOG2E)[:, None] * A[j], EXACT) * (x[:, None] * B),)
            local = total
            passed += delta
            if starts_ptr is not None:
                alive = tl.where(tl.load(starts_ptr + batch * padded_length + t + TILE - 1 - k) != 0, 0, alive)
        us = us_ahead
        raws = raws_ahead
        t -= TILE
        going = (t >= begin) & (alive != 0)
    # Not before: the kernels that follow would take the place of programs of this one that have yet to begin.
    let_next_kernel_start(OVERLAP)
    store_part(
        decay_ptr, local_ptr, local, A, passed, alive, part, batch, groups, channels, channel, mask,
        D_STATE, STATES, BLOCK, EXACT,
    )  # fmt: skip


@triton.jit(do_not_specialize=[
    "length", "padded_length", "groups", "zero", "skipped", "part_length",
])  # fmt: skip
def part_adjoints(
    delta_ptr, A_ptr, C_ptr, z_ptr, bias_ptr, starts_ptr, dout_ptr, decay_ptr, local_ptr,
    length, padded_length, channels: tl.constexpr, groups, zero, skipped, part_length,
    delta_batch, delta_row: tl.constexpr, z_batch, z_row: tl.constexpr, dout_batch, dout_row: tl.constexpr,
    D_STATE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SOFTPLUS: tl.constexpr, C_CONSTANT: tl.constexpr, FULL: tl.constexpr, EXACT: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """The mirror of `part_states`: q at the start of each part if the one at its end were 0, and its factor.

    local = sum_t exp(A (delta_begin + ... + delta_t)) C_t dy_t.
    """
    COUNT: tl.constexpr = D_STATE // STATES
    batch, group, channel, inside = locate(channels, groups, zero, BLOCK, PAIRS=FULL)
    part = tl.program_id(1).to(tl.int64)
    t = (part + skipped) * part_length
    end = tl.minimum(t + part_length, padded_length)
    mask = None if FULL else inside[:, None]
    bias = per_channel(bias_ptr, channel, inside)
    A = load_states(of_states(A_ptr, channels, channel, STATES), channels, mask, COUNT, STATES)
    C_rows = input_rows_pointer(C_ptr, batch, group, groups, padded_length, D_STATE)
    C_ptr = input_pointer(C_ptr, batch, group, groups, padded_length, channels, channel, D_STATE, STATES, C_CONSTANT)
    delta_ptr += batch * delta_batch + channel
    dout_ptr += batch * dout_batch + channel
    if z_ptr is not None:
        z_ptr += batch * z_batch + channel

    local = zero_states(BLOCK, COUNT, STATES)
    passed = tl.zeros((BLOCK,), tl.float32)  # sum of delta from the first step to the one at hand
    alive = 1  # no packed sequence has started since the first step
    raws = load_rows(delta_ptr + t * delta_row, delta_row, length - t, inside, TILE, FULL)
    douts = load_rows(dout_ptr + t * dout_row, dout_row, length - t, inside, TILE, FULL)
    zs = douts
    if z_ptr is not None:
        zs = load_rows(z_ptr + t * z_row, z_row, length - t, inside, TILE, FULL)
    going = True
    while going:
        ahead = tl.minimum(t + TILE, end - TILE)  # the last tile loads itself again
        if NEAR and not C_CONSTANT:
            bring_inputs_near(C_rows, ahead, D_STATE, TILE)
        raws_ahead = load_rows(delta_ptr + ahead * delta_row, delta_row, length - ahead, inside, TILE, FULL)
        douts_ahead = load_rows(dout_ptr + ahead * dout_row, dout_row, length - ahead, inside, TILE, FULL)
        zs_ahead = douts_ahead
        if z_ptr is not None:
            zs_ahead = load_rows(z_ptr + ahead * z_row, z_row, length - ahead, inside, TILE, FULL)
        for i in tl.static_range(TILE):
            passed += step_size(raws[i], bias, inside & (t + i < length), SOFTPLUS, FULL)
            dy = douts[i].to(tl.float32)
            if z_ptr is not None:
                z = zs[i].to(tl.float32)
                dy *= z * sigmoid(z, EXACT)
            if starts_ptr is not None:
                alive = tl.where(tl.load(starts_ptr + batch * padded_length + t + i) != 0, 0, alive)
                dy = tl.where(alive != 0, dy, 0.0)
            total = ()
            for j in tl.static_range(COUNT):
                C = unpacked(input_row(C_ptr, t, i, j, channels, D_STATE, STATES, C_CONSTANT))
                total += (local[j] + exp2((passed * LOG2E)[:, None] * A[j], EXACT) * (dy[:, None] * C),)
            local = total
        raws = raws_ahead
        douts = douts_ahead
        zs = zs_ahead
        t += TILE
        going = (t < end) & (alive != 0)
    store_part(
        decay_ptr, local_ptr, local, A, passed, alive, part, batch, groups, channels, channel, mask,
        D_STATE, STATES, BLOCK, EXACT,
    )  # fmt: skip


@triton.jit
def load_parts(pointer, size, start, parts, inside, BACK: tl.constexpr, COUNT: tl.constexpr):
    """One number a lane from each of `COUNT` parts, from the `start`-th on as they are carried; 0 after the last."""
    numbers = ()
    for i in tl.static_range(COUNT):
        part = parts - 1 - start - i if BACK else start + i
        numbers += (tl.load(pointer + part.to(tl.int64) * size, inside & (start + i < parts), 0.0),)
    return numbers


@triton.jit(do_not_specialize=["parts", "parts_of_segment", "size"])
def carry_states(
    decay_ptr, local_ptr, first_ptr, carried_ptr, parts, parts_of_segment, size,
    BACK: tl.constexpr, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """What enters each segment, (segment, size), from what its parts do: state <- decay state + local.

    A lane carries one number through all parts, in the order of time, or with `BACK` against it; `size` is how many
    numbers the states of all batch entries and channels are.
    """
    let_next_kernel_start(OVERLAP)
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < size
    decay_ptr += number
    local_ptr += number
    carried_ptr += number
    state = tl.zeros((BLOCK,), tl.float32)
    if first_ptr is not None:
        state = tl.load(first_ptr + number, inside, 0.0)
    first_segment = tl.cdiv(parts, parts_of_segment) if BACK else 0
    tl.store(carried_ptr + first_segment.to(tl.int64) * size if BACK else carried_ptr, state, inside)
    wait(OVERLAP)
    decays = load_parts(decay_ptr, size, 0, parts, inside, BACK, AT_ONCE)
    locals = load_parts(local_ptr, size, 0, parts, inside, BACK, AT_ONCE)
    for start in range(0, parts, AT_ONCE):
        next_decays = load_parts(decay_ptr, size, start + AT_ONCE, parts, inside, BACK, AT_ONCE)
        next_locals = load_parts(local_ptr, size, start + AT_ONCE, parts, inside, BACK, AT_ONCE)
        for i in tl.static_range(AT_ONCE):
            state = decays[i] * state + locals[i]
            done = start + i + 1
            segment = (parts - done) // parts_of_segment if BACK else done // parts_of_segment
            ends = (parts - done if BACK else done) % parts_of_segment == 0
            tl.store(carried_ptr + segment.to(tl.int64) * size, state, inside & ends & (done <= parts))
        decays = next_decays
        locals = next_locals
