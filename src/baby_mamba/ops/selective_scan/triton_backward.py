r"""The backward pass of the selective scan as Triton kernels.

With a_t = exp(delta_t A), and dy_t what reaches y_t before the gate, the adjoint g_t of h_t runs back in time:

    g_t = C_t dy_t + q_{t+1},  q_t = a_t g_t

and every gradient is a sum over it:

    dB_t = sum over channels of delta_t u_t g_t            dC_t = sum over channels of dy_t h_t
    dx_t = sum over states of B_t g_t                      (x_t = delta_t u_t)
    ds_t = sum over states of A q_t h_{t-1}                (through a_t)
    du_t = delta_t dx_t + D dy_t                           ddelta_t = ds_t + u_t dx_t
    dA   = sum over batch and time of delta_t q_t h_{t-1}

Lanes own channels, as in the forward pass. h is not kept: a program goes through its chunks from the last to the first,
and within a chunk first forward from the stored state, leaving the state before each tile of `TILE` steps in scratch
memory (which stays in the L2 cache), then back tile by tile with the tile's states and factors in registers, `STATES`
of the d_state at a time.

The sums over channels run across lanes. Adding them with shuffles would take as long as all the rest, so the tensor
cores add them (`add_over_channels`). Each block of channels writes its own sum, and these are added in a fixed order
afterwards: no atomics.
"""

import triton
import triton.language as tl

from baby_mamba.ops.selective_scan.triton_forward import (
    LOG2E,
    bring_inputs_near,
    bring_rows_near,
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
    store_rows,
    store_states,
    unpacked,
    zero_states,
)


@triton.jit
def add_over_channels(sums, term, i, STATES: tl.constexpr, PRECISION: tl.constexpr):
    """Add `term`, (32 channels, one a lane; STATES), at step i to `sums`: row (i, n), column c // 4 for channel c.

    A matrix product is a sum over lanes: channels 4 c ... 4 c + 3 of a state make four rows of the right factor, and
    the left factor has ones where these rows belong to the state of its row. The lanes already hold what the tensor
    cores want from them, so nothing is moved.
    """
    matrix = tl.reshape(tl.permute(tl.reshape(term, (8, 4, STATES)), (2, 1, 0)), (STATES * 4, 8))
    owner = i * STATES + tl.arange(0, STATES * 4) // 4
    selector = (tl.arange(0, 16)[:, None] == owner[None, :]).to(tl.float32)
    return tl.dot(selector, matrix, sums, input_precision=PRECISION)


@triton.jit
def store_channel_sums(
    C_ptr, B_ptr, C_sums, B_sums,
    D_STATE: tl.constexpr, STATES: tl.constexpr, B_CONSTANT: tl.constexpr, C_CONSTANT: tl.constexpr,
):  # fmt: skip
    """Write the finished sums of a block of states, (steps, STATES) with 16 of them, at `C_ptr` and at `B_ptr`.

    Of what is constant there is nothing to write. Both together are a number for each lane, and one store.
    """
    row = tl.arange(0, 16)
    if B_CONSTANT and not C_CONSTANT:
        tl.store(C_ptr + row // STATES * D_STATE + row % STATES, C_sums)
    elif C_CONSTANT and not B_CONSTANT:
        tl.store(B_ptr + row // STATES * D_STATE + row % STATES, B_sums)
    elif not B_CONSTANT:
        lane = tl.arange(0, 32)
        row = lane // 2
        pointer = tl.where(lane % 2 == 0, C_ptr, B_ptr) + row // STATES * D_STATE + row % STATES
        tl.store(pointer, tl.reshape(tl.join(C_sums, B_sums), (32,)))


@triton.jit
def time_rows(
    pointer, t, j, channels, COUNT: tl.constexpr, D_STATE: tl.constexpr, STATES: tl.constexpr, CONSTANT: tl.constexpr
):
    """Block j of B or C at `COUNT` steps from t on."""
    rows = ()
    for i in tl.static_range(COUNT):
        rows += (unpacked(input_row(pointer, t, i, j, channels, D_STATE, STATES, CONSTANT)),)
    return rows


@triton.jit(do_not_specialize=[
    "length", "padded_length", "groups", "zero", "segment_length",
    "u_batch", "delta_batch", "z_batch", "dout_batch",
])  # fmt: skip
def scan_backward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, starts_ptr, saved_ptr, dout_ptr, dfinal_ptr,
    scratch_ptr,
    du_ptr, ddelta_ptr, dz_ptr, dA_ptr, dB_ptr, dC_ptr, dD_ptr, dbias_ptr, dinitial_ptr,
    length, padded_length, channels: tl.constexpr, groups, zero, segment_length,
    u_batch, u_row: tl.constexpr, delta_batch, delta_row: tl.constexpr,
    z_batch, z_row: tl.constexpr, dout_batch, dout_row: tl.constexpr,
    D_STATE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONSTANT: tl.constexpr, C_CONSTANT: tl.constexpr, FULL: tl.constexpr,
    PRECISION: tl.constexpr, EXACT: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """All gradients. Those of A, D, bias (and a constant B or C) are this program's share, (segment, batch, ...); those
    of B and C are its channels' share, (block of channels, batch, padded length, d_state).
    """
    COUNT: tl.constexpr = D_STATE // STATES
    batch, group, channel, inside = locate(channels, groups, zero, BLOCK)
    segments = tl.num_programs(1)
    segment = tl.program_id(1).to(tl.int64)
    begin = segment * segment_length
    end = tl.minimum(begin + segment_length, padded_length)
    blocks = groups * tl.cdiv(channels // groups, BLOCK)
    batches = tl.num_programs(0) // blocks
    program = tl.program_id(0).to(tl.int64)
    state_of_batch = batch * D_STATE * channels
    mask = None if FULL else inside[:, None]
    bias = per_channel(bias_ptr, channel, inside)
    D = per_channel(D_ptr, channel, inside)
    A = load_states(of_states(A_ptr, channels, channel, STATES), channels, mask, COUNT, STATES)
    B_rows_ptr = input_rows_pointer(B_ptr, batch, group, groups, padded_length, D_STATE)
    C_rows_ptr = input_rows_pointer(C_ptr, batch, group, groups, padded_length, D_STATE)
    B_ptr = input_pointer(B_ptr, batch, group, groups, padded_length, channels, channel, D_STATE, STATES, B_CONSTANT)
    C_ptr = input_pointer(C_ptr, batch, group, groups, padded_length, channels, channel, D_STATE, STATES, C_CONSTANT)
    u_ptr += batch * u_batch + channel
    delta_ptr += batch * delta_batch + channel
    dout_ptr += batch * dout_batch + channel
    if z_ptr is not None:
        z_ptr += batch * z_batch + channel
    row: tl.constexpr = channels
    first_row = batch * length * row + channel
    saved_ptr += batch * (padded_length // CHUNK) * D_STATE * channels
    saved_ptr = of_states(saved_ptr, channels, channel, STATES)
    scratch_ptr += (program * segments + segment) * (CHUNK // TILE * D_STATE * BLOCK)
    scratch_ptr = of_states(scratch_ptr, BLOCK, tl.arange(0, BLOCK) + zero, STATES)
    sums_row = ((program % blocks) * batches + batch) * padded_length * D_STATE

    if dfinal_ptr is not None:
        dfinal_ptr += segment * batches * D_STATE * channels + state_of_batch
        q = load_states(of_states(dfinal_ptr, channels, channel, STATES), channels, mask, COUNT, STATES)
    else:
        q = zero_states(BLOCK, COUNT, STATES)
    dA = zero_states(BLOCK, COUNT, STATES)
    if B_CONSTANT:
        dB = zero_states(BLOCK, COUNT, STATES)
    if C_CONSTANT:
        dC = zero_states(BLOCK, COUNT, STATES)
    dD = tl.zeros((BLOCK,), tl.float32)
    dbias = tl.zeros((BLOCK,), tl.float32)

    for chunk in range((end - begin) // CHUNK):
        first = end - (chunk + 1) * CHUNK
        last = first + CHUNK - TILE
        chunk_dD = tl.zeros((BLOCK,), tl.float32)
        chunk_dbias = tl.zeros((BLOCK,), tl.float32)
        # forward through the chunk but for its last tile, which is only done below
        h = load_states(saved_ptr + first // CHUNK * D_STATE * channels, channels, mask, COUNT, STATES)
        if NEAR:
            bring_rows_near(dout_ptr + last * dout_row, dout_row, BLOCK, TILE)
            if z_ptr is not None:
                bring_rows_near(z_ptr + last * z_row, z_row, BLOCK, TILE)
            if not C_CONSTANT:
                bring_inputs_near(C_rows_ptr, last, D_STATE, TILE)
        us = load_rows(u_ptr + first * u_row, u_row, length - first, inside, TILE, FULL)
        raws = load_rows(delta_ptr + first * delta_row, delta_row, length - first, inside, TILE, FULL)
        for tile in range(1, CHUNK // TILE):
            t = first + (tile - 1) * TILE
            ahead = t + TILE
            if NEAR:
                bring_rows_near(u_ptr + ahead * u_row, u_row, BLOCK, TILE)
                bring_rows_near(delta_ptr + ahead * delta_row, delta_row, BLOCK, TILE)
                if not B_CONSTANT:
                    bring_inputs_near(B_rows_ptr, ahead, D_STATE, TILE)
            store_states(scratch_ptr + (tile - 1) * (D_STATE * BLOCK), BLOCK, None, h, COUNT, STATES)
            for i in tl.static_range(TILE):
                delta = step_size(raws[i], bias, inside & (t + i < length), SOFTPLUS, FULL)
                x = delta * us[i].to(tl.float32)
                if starts_ptr is not None:
                    carry = tl.load(starts_ptr + batch * padded_length + t + i) == 0
                after = ()
                for j in tl.static_range(COUNT):
                    before = h[j]
                    if starts_ptr is not None:
                        before = tl.where(carry, before, 0.0)
                    B = unpacked(input_row(B_ptr, t, i, j, channels, D_STATE, STATES, B_CONSTANT))
                    after += (exp2((delta * LOG2E)[:, None] * A[j], EXACT) * before + x[:, None] * B,)
                h = after
            us = load_rows(u_ptr + ahead * u_row, u_row, length - ahead, inside, TILE, FULL)
            raws = load_rows(delta_ptr + ahead * delta_row, delta_row, length - ahead, inside, TILE, FULL)
        store_states(scratch_ptr + (CHUNK // TILE - 1) * (D_STATE * BLOCK), BLOCK, None, h, COUNT, STATES)
        # back through the chunk
        state_first = h[0]
        douts = load_rows(dout_ptr + last * dout_row, dout_row, length - last, inside, TILE, FULL)
        zs = douts
        if z_ptr is not None:
            zs = load_rows(z_ptr + last * z_row, z_row, length - last, inside, TILE, FULL)
        # + zero: if it knows the trip count, ptxas copies the first pass in front of the loop: 80 kB of code, not 44.
        for back in range(CHUNK // TILE + zero):
            tile = CHUNK // TILE - 1 - back
            t = first + tile * TILE
            tile_ahead = tl.maximum(tile - 1, 0)
            ahead = first + tile_ahead * TILE
            if NEAR:
                # after the first tile of this chunk comes that of the next one
                near = ahead if tile > 0 else tl.maximum(first - CHUNK, begin)
                bring_rows_near(u_ptr + near * u_row, u_row, BLOCK, TILE)
                bring_rows_near(delta_ptr + near * delta_row, delta_row, BLOCK, TILE)
                bring_rows_near(dout_ptr + near * dout_row, dout_row, BLOCK, TILE)
                if z_ptr is not None:
                    bring_rows_near(z_ptr + near * z_row, z_row, BLOCK, TILE)
                if not B_CONSTANT:
                    bring_inputs_near(B_rows_ptr, near, D_STATE, TILE)
                if not C_CONSTANT:
                    bring_inputs_near(C_rows_ptr, near, D_STATE, TILE)
            deltas = ()
            xs = ()
            dys = ()
            ys = ()
            dxs = ()
            dss = ()
            for i in tl.static_range(TILE):
                delta = step_size(raws[i], bias, inside & (t + i < length), SOFTPLUS, FULL)
                dy = douts[i].to(tl.float32)
                if z_ptr is not None:
                    z = zs[i].to(tl.float32)
                    dy *= z * sigmoid(z, EXACT)
                deltas += (delta,)
                xs += (delta * us[i].to(tl.float32),)
                dys += (dy,)
                ys += (D * us[i].to(tl.float32),)
                dxs += (tl.zeros((BLOCK,), tl.float32),)
                dss += (tl.zeros((BLOCK,), tl.float32),)
            new_q = ()
            new_dA = ()
            new_dB = ()
            new_dC = ()
            for j in tl.static_range(COUNT):
                B_rows = time_rows(B_ptr, t, j, channels, TILE, D_STATE, STATES, B_CONSTANT)
                C_rows = time_rows(C_ptr, t, j, channels, TILE, D_STATE, STATES, C_CONSTANT)
                if j + 1 < COUNT:
                    state_next = tl.load(scratch_ptr + tile * (D_STATE * BLOCK) + (j + 1) * STATES * BLOCK)
                else:
                    state_next = tl.load(scratch_ptr + tile_ahead * (D_STATE * BLOCK))
                # The sums of the block before are only stored below the loads: the compiler moves no load past a store.
                if j > 0:
                    here = sums_row + t * D_STATE + (j - 1) * STATES
                    store_channel_sums(
                        dC_ptr + here, dB_ptr + here, C_sums, B_sums, D_STATE, STATES, B_CONSTANT, C_CONSTANT
                    )
                # forward through the tile
                state = state_first
                befores = ()
                factors = ()
                new_ys = ()
                C_sum = tl.zeros((16, 8), tl.float32)
                B_sum = tl.zeros((16, 8), tl.float32)
                if C_CONSTANT:
                    dCj = dC[j]
                if B_CONSTANT:
                    dBj = dB[j]
                for i in tl.static_range(TILE):
                    factor = exp2((deltas[i] * LOG2E)[:, None] * A[j], EXACT)
                    if starts_ptr is not None:
                        carry = tl.load(starts_ptr + batch * padded_length + t + i) == 0
                        state = tl.where(carry, state, 0.0)
                        factor = tl.where(carry, factor, 0.0)  # no gradient crosses a reset
                    befores += (state,)
                    factors += (factor,)
                    state = factor * state + xs[i][:, None] * B_rows[i]
                    new_ys += (ys[i] + tl.sum(state * C_rows[i], 1),)
                    C_term = state * dys[i][:, None]
                    if C_CONSTANT:
                        dCj += C_term
                    else:
                        C_sum = add_over_channels(C_sum, C_term, i, STATES, PRECISION)
                ys = new_ys
                if C_CONSTANT:
                    new_dC += (dCj,)
                C_sums = tl.sum(C_sum, 1)
                # back through the tile
                qj = q[j]
                dAj = dA[j]
                new_dxs = ()
                new_dss = ()
                for k in tl.static_range(TILE):
                    g = dys[TILE - 1 - k][:, None] * C_rows[TILE - 1 - k] + qj
                    B_term = g * xs[TILE - 1 - k][:, None]
                    if B_CONSTANT:
                        dBj += B_term
                    else:
                        B_sum = add_over_channels(B_sum, B_term, TILE - 1 - k, STATES, PRECISION)
                    new_dxs = (dxs[TILE - 1 - k] + tl.sum(g * B_rows[TILE - 1 - k], 1),) + new_dxs  # noqa: RUF005 - Triton knows no starred tuples
                    qj = factors[TILE - 1 - k] * g
                    through_factor = qj * befores[TILE - 1 - k]
                    new_dss = (dss[TILE - 1 - k] + tl.sum(through_factor * A[j], 1),) + new_dss  # noqa: RUF005
                    dAj += through_factor * deltas[TILE - 1 - k][:, None]
                dxs = new_dxs
                dss = new_dss
                new_q += (qj,)
                new_dA += (dAj,)
                if B_CONSTANT:
                    new_dB += (dBj,)
                B_sums = tl.sum(B_sum, 1)
                state_first = state_next
            q = new_q
            dA = new_dA
            if B_CONSTANT:
                dB = new_dB
            if C_CONSTANT:
                dC = new_dC
            here = sums_row + t * D_STATE + (COUNT - 1) * STATES
            store_channel_sums(dC_ptr + here, dB_ptr + here, C_sums, B_sums, D_STATE, STATES, B_CONSTANT, C_CONSTANT)
            dus = ()
            ddeltas = ()
            dzs = ()
            for i in tl.static_range(TILE):
                u = us[i].to(tl.float32)
                ddelta = dss[i] + u * dxs[i]
                if SOFTPLUS:
                    ddelta *= sigmoid(raws[i].to(tl.float32) + bias, EXACT)
                if not FULL:
                    ddelta = tl.where(inside & (t + i < length), ddelta, 0.0)
                chunk_dD += dys[i] * u
                chunk_dbias += ddelta
                dus += ((D * dys[i] + deltas[i] * dxs[i]).to(du_ptr.dtype.element_ty),)
                ddeltas += (ddelta.to(ddelta_ptr.dtype.element_ty),)
                if z_ptr is not None:
                    z = zs[i].to(tl.float32)
                    gate = sigmoid(z, EXACT)
                    dz = douts[i].to(tl.float32) * ys[i] * (gate + z * gate * (1 - gate))
                    dzs += (dz.to(dz_ptr.dtype.element_ty),)
            to = first_row + t * row
            store_rows(du_ptr + to, row, dus, length - t, inside, TILE, FULL)
            store_rows(ddelta_ptr + to, row, ddeltas, length - t, inside, TILE, FULL)
            if z_ptr is not None:
                store_rows(dz_ptr + to, row, dzs, length - t, inside, TILE, FULL)
            us = load_rows(u_ptr + ahead * u_row, u_row, length - ahead, inside, TILE, FULL)
            raws = load_rows(delta_ptr + ahead * delta_row, delta_row, length - ahead, inside, TILE, FULL)
            douts = load_rows(dout_ptr + ahead * dout_row, dout_row, length - ahead, inside, TILE, FULL)
            zs = douts
            if z_ptr is not None:
                zs = load_rows(z_ptr + ahead * z_row, z_row, length - ahead, inside, TILE, FULL)
        dD += chunk_dD
        dbias += chunk_dbias

    share = segment * batches + batch
    shares = share * D_STATE * channels
    store_states(of_states(dA_ptr + shares, channels, channel, STATES), channels, mask, dA, COUNT, STATES)
    if B_CONSTANT:
        store_states(of_states(dB_ptr + shares, channels, channel, STATES), channels, mask, dB, COUNT, STATES)
    if C_CONSTANT:
        store_states(of_states(dC_ptr + shares, channels, channel, STATES), channels, mask, dC, COUNT, STATES)
    tl.store(dD_ptr + share * channels + channel, dD, inside)
    tl.store(dbias_ptr + share * channels + channel, dbias, inside)
    if dinitial_ptr is not None and segment == 0:
        store_states(
            of_states(dinitial_ptr + state_of_batch, channels, channel, STATES), channels, mask, q, COUNT, STATES
        )
