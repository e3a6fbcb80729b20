r"""The forward pass of the selective scan as Triton kernels.

A program runs `BLOCK` channels of one batch entry over one segment of time, 64 channels to each of its warps. A lane
owns two channels (in the backward pass one): their states stay in registers, consecutive lanes read consecutive
channels, and lanes never exchange anything. Step by step, with log2(e) folded into A so that the hardware's base-2
exponential serves,

    delta_t = softplus(delta_t + delta_bias)
    h_t     = 2^(delta_t A log2 e) h_{t-1} + delta_t u_t B_t
    y_t     = (C_t . h_t + D u_t) silu(z_t)

Every `CHUNK` steps the state is stored: the backward pass starts its recomputation there.

Time is cut into segments when batch times channels do not fill the GPU. The states with which they begin then come from
the kernels in `triton_parts`.

How tensors come: u, delta, z with their own strides but contiguous channels; A transposed to (d_state, channels); B and
C as (batch, groups, length, d_state), the length padded to whole chunks, in float32, or bfloat16 two to an int32, or
constant as A; states as (..., d_state, channels). d_state is padded to a power of two: a padded state has B = C = 0 and
stays 0.

docs/how_the_kernel_works.md leads here, with figures.
"""

import triton
import triton.language as tl

from baby_mamba.ops.triton_support import wait

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def softplus(x):
    """log(1 + e^x) to full relative accuracy: max(x, 0) + log(1 + e) with e = e^-|x| <= 1.

    log(1 + e) / e is a polynomial with an error of at most 3e-8: as many instructions as with a logarithm or a
    reciprocal, and one less of those that the special-function units carry out.
    """
    e = tl.exp2(-tl.abs(x) * LOG2E)
    p = 0.07822595212 + e * (-0.02950523893 + e * 0.005232694303)
    p = 0.3331909681 + e * (-0.2484298222 + e * (0.1910600677 + e * (-0.1366324581 + e * p)))
    return tl.maximum(x, 0.0) + e * (0.9999999699 + e * (-0.4999949314 + e * p))


@triton.jit
def sigmoid(x, EXACT: tl.constexpr = False):
    """1 / (1 + e^-x); 1 / x is rsqrt(x)^2, one instruction and a product; `EXACT` adds a step of Newton's method."""
    d = 1 + tl.exp2(-x * LOG2E)
    r = tl.rsqrt(d)
    r = r * r
    if EXACT:
        r += r * (1 - tl.minimum(d, 1e30) * r)
    return r


@triton.jit
def exp2(x, EXACT: tl.constexpr):
    """2^x; with `EXACT` by arithmetic, to the last bit or two. The hardware's has two to three times the error."""
    if EXACT:
        x = tl.maximum(x, -126.0, propagate_nan=tl.PropagateNan.ALL)
        x = tl.minimum(x, 128.0, propagate_nan=tl.PropagateNan.ALL)
        t = x + 12582912.0  # 1.5 2^23: the lowest bits are now the nearest whole number, and f what is left
        f = x - (t - 12582912.0)
        # a polynomial of the sixth degree between -1/2 and 1/2, off by 3e-9 at most
        p = 0.009618488957 + f * (0.001339993122 + f * 0.0001534581202)
        p = 1.0 + f * (0.6931472057 + f * (0.2402264689 + f * (0.05550328777 + f * p)))
        return (p.to(tl.int32, bitcast=True) + (t.to(tl.int32, bitcast=True) << 23)).to(tl.float32, bitcast=True)
    else:
        return tl.exp2(x)


@triton.jit
def step_size(raw, bias, valid, SOFTPLUS: tl.constexpr, FULL: tl.constexpr):
    """Delta from what was loaded; 0 outside of the sequence, where the state then stays as it is."""
    delta = raw.to(tl.float32) + bias
    if SOFTPLUS:
        delta = softplus(delta)
    if not FULL:
        delta = tl.where(valid, delta, 0.0)
    return delta


@triton.jit
def locate(channels, groups, zero, BLOCK: tl.constexpr, PAIRS: tl.constexpr = False):
    """(batch entry, group, channel of each lane, whether the lane has one); no block of channels straddles groups.

    `zero` is 0, which the compiler does not know: it hides that the first channel is aligned. Otherwise a thread would
    be given four neighbouring channels, and the states of a channel would be spread over lanes. With `PAIRS` (two
    channels to a lane, all there) an alignment of two is left: they are neighbours, which one instruction loads.
    """
    channels_per_group = channels // groups
    blocks = tl.cdiv(channels_per_group, BLOCK)
    program = tl.program_id(0)
    group = (program // blocks) % groups
    first = group * channels_per_group
    if PAIRS:
        first = tl.multiple_of(first, BLOCK)
    lane = (program % blocks) * BLOCK + tl.arange(0, BLOCK) + zero * (2 if PAIRS else 1)
    return (program // (blocks * groups)).to(tl.int64), group, first + lane, lane < channels_per_group


@triton.jit
def per_channel(pointer, channel, inside):
    """One float32 for each lane's channel; 0 if there is no such parameter."""
    if pointer is None:
        return tl.zeros(channel.shape, tl.float32)
    else:
        return tl.load(pointer + channel, inside, 0.0).to(tl.float32)


@triton.jit
def load_rows(pointer, stride, steps_left, inside, COUNT: tl.constexpr, FULL: tl.constexpr):
    """`COUNT` consecutive time steps, one number a lane each; zeros outside of the sequence."""
    rows = ()
    for i in tl.static_range(COUNT):
        if FULL:
            rows += (tl.load(pointer + i * stride),)
        else:
            rows += (tl.load(pointer + i * stride, inside & (i < steps_left), 0.0),)
    return rows


@triton.jit
def store_rows(pointer, stride, rows, steps_left, inside, COUNT: tl.constexpr, FULL: tl.constexpr):
    """The reverse of `load_rows`."""
    for i in tl.static_range(COUNT):
        if FULL:
            tl.store(pointer + i * stride, rows[i])
        else:
            tl.store(pointer + i * stride, rows[i], inside & (i < steps_left))


@triton.jit
def once_here(x, rows, zero, COUNT: tl.constexpr):
    """x in float32, but not before `COUNT` rows have come from memory; `zero` is 0, which the compiler does not know.

    A load signals through one of six scoreboards. Who waits for a row waits for all loads that share its scoreboard,
    also for those that have just begun; so rows are waited for while nothing else is under way.
    """
    bits = tl.zeros(rows[0].shape, tl.int32)
    for i in tl.static_range(COUNT):
        bits |= rows[i].to(tl.int16 if rows[i].dtype.primitive_bitwidth == 16 else tl.int32, bitcast=True).to(tl.int32)
    return (x.to(tl.int32, bitcast=True) | (bits & zero)).to(tl.float32, bitcast=True)


@triton.jit
def bring_near(pointer):
    """Let what is there come into the L1 cache; nobody waits for it."""
    tl.inline_asm_elementwise(
        "prefetch.global.L1 [$1]; mov.b32 $0, 0;", "=r,l", [pointer.to(tl.int64)], tl.int32, is_pure=False, pack=1
    )


@triton.jit
def bring_rows_near(pointer, stride, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    """`COUNT` time steps of all lanes. For what is needed a tile later registers are too few; the cache holds it."""
    bring_near(pointer + tl.arange(0, BLOCK) % COUNT * stride)


@triton.jit
def input_rows_pointer(pointer, batch, group, groups, padded_length, D_STATE: tl.constexpr):
    """B or C at step 0, of which `bring_inputs_near` takes many steps at once."""
    PACKED: tl.constexpr = 2 if pointer.dtype.element_ty == tl.int32 else 1
    return pointer + (batch * groups + group) * padded_length * (D_STATE // PACKED)


@triton.jit
def bring_inputs_near(pointer, t, D_STATE: tl.constexpr, COUNT: tl.constexpr):
    """B or C at `COUNT` steps from t on, 32 bytes a lane."""
    PACKED: tl.constexpr = 2 if pointer.dtype.element_ty == tl.int32 else 1
    bring_near(pointer + t * (D_STATE // PACKED) + tl.arange(0, 32) * 8 % (COUNT * D_STATE // PACKED))


@triton.jit
def of_states(pointer, stride, lane, STATES: tl.constexpr):
    """Pointers to the first `STATES` states of each lane, (BLOCK, STATES), `stride` numbers from one to the next.

    Added in this order the distances between states are constants of the instructions; a sum of 32-bit numbers would
    take a register pair for every state.
    """
    return pointer + lane[:, None] + tl.arange(0, STATES)[None, :] * stride


@triton.jit
def load_states(pointer, stride, mask, COUNT: tl.constexpr, STATES: tl.constexpr):
    """`COUNT` blocks of `STATES` states, (BLOCK, STATES) each; `pointer` is to the first block."""
    blocks = ()
    for j in tl.static_range(COUNT):
        if mask is None:
            blocks += (tl.load(pointer + j * STATES * stride),)
        else:
            blocks += (tl.load(pointer + j * STATES * stride, mask, 0.0),)
    return blocks


@triton.jit
def store_states(pointer, stride, mask, blocks, COUNT: tl.constexpr, STATES: tl.constexpr):
    """The reverse of `load_states`."""
    for j in tl.static_range(COUNT):
        tl.store(pointer + j * STATES * stride, blocks[j], mask)


@triton.jit
def zero_states(BLOCK: tl.constexpr, COUNT: tl.constexpr, STATES: tl.constexpr):
    """`COUNT` blocks of zeros."""
    blocks = ()
    for _ in tl.static_range(COUNT):
        blocks += (tl.zeros((BLOCK, STATES), tl.float32),)
    return blocks


@triton.jit
def input_pointer(
    pointer, batch, group, groups, padded_length, channels, channel,
    D_STATE: tl.constexpr, STATES: tl.constexpr, CONSTANT: tl.constexpr,
):  # fmt: skip
    """Pointers to the first block of B or C at step 0: (STATES,) for all lanes, or (BLOCK, STATES) if constant."""
    PACKED: tl.constexpr = 2 if pointer.dtype.element_ty == tl.int32 else 1
    n = tl.arange(0, STATES // PACKED)
    if CONSTANT:
        return pointer + n[None, :] * channels + tl.minimum(channel, channels - 1)[:, None]
    else:
        return pointer + (batch * groups + group) * padded_length * (D_STATE // PACKED) + n


@triton.jit
def input_row(
    pointer, t, i, j, channels, D_STATE: tl.constexpr, STATES: tl.constexpr, CONSTANT: tl.constexpr
):  # fmt: skip
    """Block j of B or C at step t + i as it is stored: float32, or two bfloat16 in an int32."""
    PACKED: tl.constexpr = 2 if pointer.dtype.element_ty == tl.int32 else 1
    if CONSTANT:
        return tl.load(pointer + j * STATES * channels)
    else:
        return tl.load(pointer + t * (D_STATE // PACKED) + (i * D_STATE + j * STATES) // PACKED)


@triton.jit
def unpacked(row):
    """A block of B or C in float32, (1 or BLOCK, STATES). A bfloat16 is the upper half of a float32."""
    if row.dtype == tl.int32:
        even = (row << 16).to(tl.float32, bitcast=True)
        odd = (row & -65536).to(tl.float32, bitcast=True)
        return tl.reshape(tl.join(even, odd), (2 * row.shape[0],))[None, :]
    elif len(row.shape) == 1:
        return row[None, :]
    else:
        return row


@triton.jit
def input_rows(
    pointer, t, i, channels, D_STATE: tl.constexpr, STATES: tl.constexpr, CONSTANT: tl.constexpr
):  # fmt: skip
    """All blocks of B or C at step t + i."""
    blocks = ()
    for j in tl.static_range(D_STATE // STATES):
        blocks += (input_row(pointer, t, i, j, channels, D_STATE, STATES, CONSTANT),)
    return blocks


@triton.jit(do_not_specialize=[
    "length", "padded_length", "groups", "zero", "segment_length", "keep",
])  # fmt: skip
def scan_forward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, initial_ptr, starts_ptr,
    y_ptr, final_ptr, saved_ptr,
    length, padded_length, channels: tl.constexpr, groups, zero, segment_length, keep,
    u_batch, u_row: tl.constexpr, delta_batch, delta_row: tl.constexpr, z_batch, z_row: tl.constexpr,
    D_STATE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONSTANT: tl.constexpr, C_CONSTANT: tl.constexpr, FULL: tl.constexpr,
    EXACT: tl.constexpr, NEAR: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """y, the final state and, if `keep`, the state at the start of every chunk (batch, chunk, d_state, channels).

    `keep` is not known to the compiler, for the branch in which states are stored keeps loads of rows above it.
    """
    COUNT: tl.constexpr = D_STATE // STATES
    batch, group, channel, inside = locate(channels, groups, zero, BLOCK, PAIRS=FULL)
    segment = tl.program_id(1).to(tl.int64)
    begin = segment * segment_length
    end = tl.minimum(begin + segment_length, padded_length)
    batches = tl.num_programs(0) // (groups * tl.cdiv(channels // groups, BLOCK))
    state_of_batch = batch * D_STATE * channels
    mask = None if FULL else inside[:, None]
    bias = per_channel(bias_ptr, channel, inside)
    D = per_channel(D_ptr, channel, inside)
    A = load_states(of_states(A_ptr, channels, channel, STATES), channels, mask, COUNT, STATES)
    A2 = ()
    for j in tl.static_range(COUNT):
        A2 += (A[j] * LOG2E,)
    B_rows = input_rows_pointer(B_ptr, batch, group, groups, padded_length, D_STATE)
    C_rows = input_rows_pointer(C_ptr, batch, group, groups, padded_length, D_STATE)
    B_ptr = input_pointer(B_ptr, batch, group, groups, padded_length, channels, channel, D_STATE, STATES, B_CONSTANT)
    C_ptr = input_pointer(C_ptr, batch, group, groups, padded_length, channels, channel, D_STATE, STATES, C_CONSTANT)
    u_ptr += batch * u_batch + channel
    delta_ptr += batch * delta_batch + channel
    y_ptr += batch * length * channels + channel
    y_row: tl.constexpr = channels
    if z_ptr is not None:
        z_ptr += batch * z_batch + channel
    saved_ptr += batch * (padded_length // CHUNK) * D_STATE * channels
    saved_ptr = of_states(saved_ptr, channels, channel, STATES)

    wait(OVERLAP)
    if initial_ptr is not None:
        initial_ptr += segment * batches * D_STATE * channels + state_of_batch
        h = load_states(of_states(initial_ptr, channels, channel, STATES), channels, mask, COUNT, STATES)
    else:
        h = zero_states(BLOCK, COUNT, STATES)
    us = load_rows(u_ptr + begin * u_row, u_row, length - begin, inside, TILE, FULL)
    raws = load_rows(delta_ptr + begin * delta_row, delta_row, length - begin, inside, TILE, FULL)
    zs = us
    if z_ptr is not None:
        zs = load_rows(z_ptr + begin * z_row, z_row, length - begin, inside, TILE, FULL)
    D = once_here(D, us + raws + zs, zero, 3 * TILE)
    B = input_rows(B_ptr, begin, 0, channels, D_STATE, STATES, B_CONSTANT)
    C = input_rows(C_ptr, begin, 0, channels, D_STATE, STATES, C_CONSTANT)
    B_next = input_rows(B_ptr, begin, 1, channels, D_STATE, STATES, B_CONSTANT)
    C_next = input_rows(C_ptr, begin, 1, channels, D_STATE, STATES, C_CONSTANT)
    delta = step_size(raws[0], bias, inside & (begin < length), SOFTPLUS, FULL)
    for t in range(begin, end, TILE):
        # Loads run ahead of their use, those of rows by a tile and those of B and C by two steps; the step size is
        # computed a step ahead.
        ahead = tl.minimum(t + TILE, end - TILE)  # the last tile loads itself again
        if NEAR and not B_CONSTANT:
            bring_inputs_near(B_rows, ahead, D_STATE, TILE)
        if NEAR and not C_CONSTANT:
            bring_inputs_near(C_rows, ahead, D_STATE, TILE)
        us_ahead = load_rows(u_ptr + ahead * u_row, u_row, length - ahead, inside, TILE, FULL)
        raws_ahead = load_rows(delta_ptr + ahead * delta_row, delta_row, length - ahead, inside, TILE, FULL)
        zs_ahead = us_ahead
        if z_ptr is not None:
            zs_ahead = load_rows(z_ptr + ahead * z_row, z_row, length - ahead, inside, TILE, FULL)
        if (t % CHUNK == 0) & (keep != 0):
            store_states(saved_ptr + (t // CHUNK) * D_STATE * channels, channels, mask, h, COUNT, STATES)
        ys = ()
        for i in tl.static_range(TILE):
            if i + 2 < TILE:
                B_ahead = input_rows(B_ptr, t, i + 2, channels, D_STATE, STATES, B_CONSTANT)
                C_ahead = input_rows(C_ptr, t, i + 2, channels, D_STATE, STATES, C_CONSTANT)
            else:
                B_ahead = input_rows(B_ptr, ahead, i + 2 - TILE, channels, D_STATE, STATES, B_CONSTANT)
                C_ahead = input_rows(C_ptr, ahead, i + 2 - TILE, channels, D_STATE, STATES, C_CONSTANT)
            if i + 1 < TILE:
                delta_next = step_size(raws[i + 1], bias, inside & (t + i + 1 < length), SOFTPLUS, FULL)
            else:
                delta_next = step_size(raws_ahead[0], bias, inside & (ahead < length), SOFTPLUS, FULL)
            if z_ptr is not None:
                z = zs[i].to(tl.float32)
                gate = z * sigmoid(z, EXACT)
            u = us[i].to(tl.float32)
            y = D * u
            if i == TILE - 3:
                y = once_here(y, us_ahead + raws_ahead + zs_ahead, zero, 3 * TILE)
            if starts_ptr is not None:
                carry = tl.load(starts_ptr + batch * padded_length + t + i) == 0
            after = ()
            for j in tl.static_range(COUNT):
                before = h[j]
                if starts_ptr is not None:
                    before = tl.where(carry, before, 0.0)
                after += (exp2(delta[:, None] * A2[j], EXACT) * before + (delta * u)[:, None] * unpacked(B[j]),)
                y += tl.sum(after[j] * unpacked(C[j]), 1)
            h = after
            if z_ptr is not None:
                y = y * gate
            ys += (y.to(y_ptr.dtype.element_ty),)
            delta = delta_next
            B = B_next
            C = C_next
            B_next = B_ahead
            C_next = C_ahead
        store_rows(y_ptr + t * y_row, y_row, ys, length - t, inside, TILE, FULL)
        us = us_ahead
        raws = raws_ahead
        zs = zs_ahead
    if end == padded_length:
        final_states = of_states(final_ptr + state_of_batch, channels, channel, STATES)
        store_states(final_states, channels, mask, h, COUNT, STATES)
