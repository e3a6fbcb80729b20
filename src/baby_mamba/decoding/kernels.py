r"""A decoding step on CUDA: three Triton kernels a layer, six for a batch, and the projection that the head is.

At batch 1 a step is a chain of products of a matrix and a vector, each over in a few microseconds. So the time goes
into the gaps between kernels and into waiting for weights, and there are two remedies. One is few kernels:

    project_in      residual sum, norm, in_proj, convolution, SiLU, and a share of x_proj
    advance_state   the shares' sum, which is x_proj, then dt_proj, softplus, recurrence, D and gate
    project         out_proj; it is also the head

A program of `project_in` owns a few channels from in_proj to the convolution. It multiplies them by their columns of
x_proj and writes the products, which `advance_state` adds up in a fixed order: no kernel is needed for x_proj alone,
and no atomics, so results repeat bit by bit.

The other remedy is to load early. With `OVERLAP` a kernel starts while the one before it still runs (programmatic
dependent launch, compute capability 9.0), loads what no kernel of this step writes, weights and states, and only then
waits. What the kernel before writes is loaded after `wait`, and nothing is stored before it.

With one row (`ROWS` = 1) a program multiplies and adds; with more, tensor cores do. Then all programs would repeat the
norm and the shares' sum for all rows, so these are kernels of their own, `normalise` and `select`; dt_proj is one more
`project`, and `advance_states` goes on from there. (For a wide model the norm is its own kernel at batch 1, too.)

Numbers are rounded where the layers round them, but for the normalised row at batch 1, which stays in float32.
Dimensions are compile-time constants. Weights are (out, in), as nn.Linear has them.
"""

import triton
import triton.language as tl

from baby_mamba.ops.selective_scan.triton_forward import LOG2E, sigmoid, softplus
from baby_mamba.ops.triton_support import let_next_kernel_start, wait


@triton.jit
def prefetch_rows(weight_ptr, row, limit, WIDTH: tl.constexpr, LINES: tl.constexpr, OVERLAP: tl.constexpr):
    """Let rows of a matrix come into the cache, a line of 128 bytes at a time."""
    if OVERLAP:
        column = tl.minimum(tl.arange(0, LINES) * (1024 // weight_ptr.dtype.element_ty.primitive_bitwidth), WIDTH - 1)
        line = weight_ptr + tl.minimum(row, limit - 1)[:, None] * WIDTH + column[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [line.to(tl.int64)], tl.int32, is_pure=False, pack=1
        )


@triton.jit
def load_tiles(
    weight_ptr, row, inside, WIDTH: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr
):
    """Tiles (rows, BLOCK) number FIRST ... FIRST + COUNT - 1 of some rows of a matrix with WIDTH columns."""
    tiles = ()
    for j in tl.static_range(FIRST, FIRST + COUNT):
        column = j * BLOCK + tl.arange(0, BLOCK)[None, :]
        tiles += (tl.load(weight_ptr + row[:, None] * WIDTH + column, inside[:, None] & (column < WIDTH), 0.0),)
    return tiles


@triton.jit
def load_row(x_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, COPIES: tl.constexpr):
    """One row as tiles (COPIES, BLOCK), each with `COPIES` equal rows."""
    tiles = ()
    for j in tl.static_range(TILES):
        column = tl.broadcast_to(j * BLOCK + tl.arange(0, BLOCK)[None, :], (COPIES, BLOCK))
        tiles += (tl.load(x_ptr + column, column < WIDTH, 0.0),)
    return tiles


@triton.jit
def multiply_row(weights, x, COUNT: tl.constexpr, FIRST: tl.constexpr):
    """Tiles of a matrix (rows, BLOCK) times tiles FIRST ... of a row, element by element, added up over the tiles."""
    total = weights[0].to(tl.float32) * x[FIRST].to(tl.float32)
    for j in tl.static_range(1, COUNT):
        total += weights[j].to(tl.float32) * x[FIRST + j].to(tl.float32)
    return total


@triton.jit
def multiply_rows(
    x_ptr, weight_ptr, row, row_inside, out, out_inside, begin, end,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Rows of x (ROWS, WIDTH) times rows `out` of a matrix (COLUMNS, WIDTH): (ROWS, COLUMNS) in float32.

    Only columns `begin` to `end`, where each multiple of BLOCK, or WIDTH, may be the end.
    """
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK)[None, :]
        x = tl.load(x_ptr + row[:, None] * WIDTH + column, row_inside[:, None] & (column < WIDTH), 0.0)
        w = tl.load(weight_ptr + out[:, None] * WIDTH + column, out_inside[:, None] & (column < WIDTH), 0.0)
        total = tl.dot(x, tl.trans(w), total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["batch"])
def project_in(
    x_ptr, residual_ptr, norm_ptr, total_ptr, weight_ptr, bias_ptr,
    taps_ptr, conv_bias_ptr, past_ptr, new_past_ptr, selection_ptr,
    u_ptr, z_ptr, shares_ptr, batch, epsilon,
    D_MODEL: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, SELECTED: tl.constexpr,
    SELECTED_BLOCK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr,
    EARLY: tl.constexpr, STAGES: tl.constexpr, LINES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """u after convolution and SiLU, the gate z, and shares of x_proj, for `BLOCK` channels.

    Args:
        x_ptr: what the layer before gives, or, without norm_ptr, the normalised rows, (batch, d_model).
        residual_ptr: the residual stream before the layer, or None in the first one.
        norm_ptr: the norm's weight, or None; for one row only.
        total_ptr: the residual stream after the sum. Not where residual_ptr is: other programs may still read that.
        past_ptr: the convolution's state before and, in new_past_ptr, after the step, (batch, TAPS - 1, channels).
        shares_ptr: (programs, batch, SELECTED).
        epsilon: of the norm.
        TILES: of the K columns each that d_model is cut into; with one row `EARLY` of them are loaded before waiting.
        LINES: of the cache that hold a row of the weights, to the next power of two.
    """
    let_next_kernel_start(OVERLAP)
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    both = tl.program_id(0) * BLOCK + tl.arange(0, 2 * BLOCK) % BLOCK  # the channels of u, and again for z
    out, out_inside = both + tl.arange(0, 2 * BLOCK) // BLOCK * CHANNELS, both < CHANNELS
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row_inside = row < batch
    if ROWS == 1:
        weights = load_tiles(weight_ptr, out, out_inside, D_MODEL, K, 0, EARLY)
        if norm_ptr is not None:
            scales = load_row(norm_ptr, D_MODEL, K, TILES, 1)
    else:
        prefetch_rows(weight_ptr, out, 2 * CHANNELS, D_MODEL, LINES, OVERLAP)
    if SELECTED > 0:
        selected = tl.arange(0, SELECTED_BLOCK)[:, None]
        selection = tl.load(
            selection_ptr + selected * CHANNELS + channel[None, :], (selected < SELECTED) & inside[None, :], 0.0
        )
    tile = row_inside[:, None] & inside[None, :]
    past_offset = row.to(tl.int64)[:, None] * ((TAPS - 1) * CHANNELS) + channel[None, :]
    convolved = tl.zeros((ROWS, BLOCK), tl.float32)
    if conv_bias_ptr is not None:
        convolved += tl.load(conv_bias_ptr + channel, inside, 0.0).to(tl.float32)[None, :]
    past = ()
    for k in tl.static_range(TAPS - 1):
        past += (tl.load(past_ptr + past_offset + k * CHANNELS, tile, 0.0),)
        tap = tl.load(taps_ptr + channel * TAPS + k, inside, 0.0).to(tl.float32)
        convolved += past[k].to(tl.float32) * tap[None, :]
    last_tap = tl.load(taps_ptr + channel * TAPS + TAPS - 1, inside, 0.0).to(tl.float32)

    wait(OVERLAP)
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    if ROWS == 1:
        y = load_row(x_ptr, D_MODEL, K, TILES, 1)
        scale = 1.0
        if norm_ptr is not None:
            if residual_ptr is not None:
                residual = load_row(residual_ptr, D_MODEL, K, TILES, 1)
            x = y
            y = ()
            total = ()
            squares = tl.zeros((1, K), tl.float32)
            for j in tl.static_range(TILES):
                r = x[j].to(total_ptr.dtype.element_ty)
                if residual_ptr is not None:
                    r = (residual[j].to(tl.float32) + r.to(tl.float32)).to(total_ptr.dtype.element_ty)
                total += (r,)
                squares += r.to(tl.float32) * r.to(tl.float32)
                y += (scales[j].to(tl.float32) * r.to(tl.float32),)
            scale = tl.rsqrt(tl.sum(squares, 1) / D_MODEL + epsilon)
            if tl.program_id(0) == 0:
                for j in tl.static_range(TILES):
                    column = j * K + tl.arange(0, K)[None, :]
                    tl.store(total_ptr + column, total[j], column < D_MODEL)
        products = multiply_row(weights, y, EARLY, 0)
        for j in tl.static_range(EARLY, TILES):
            products += multiply_row(load_tiles(weight_ptr, out, out_inside, D_MODEL, K, j, 1), y, 1, j)
        # The root mean square divides the products: to be in their layout, the row must not depend on a sum.
        projected = (tl.sum(products, 1) * scale)[None, :]
    else:
        projected = multiply_rows(
            x_ptr, weight_ptr, row, row_inside, out, out_inside, 0, D_MODEL, D_MODEL, ROWS, 2 * BLOCK, K, STAGES
        )
    if bias_ptr is not None:
        projected += tl.load(bias_ptr + out, out_inside, 0.0).to(tl.float32)[None, :]
    u, z = tl.split(tl.permute(tl.reshape(projected, (ROWS, 2, BLOCK)), (0, 2, 1)))
    u = u.to(dtype)
    convolved += u.to(tl.float32) * last_tap[None, :]
    for k in tl.static_range(1, TAPS - 1):
        tl.store(new_past_ptr + past_offset + (k - 1) * CHANNELS, past[k], tile)
    if TAPS > 1:
        tl.store(new_past_ptr + past_offset + (TAPS - 2) * CHANNELS, u, tile)
    u = (convolved * sigmoid(convolved)).to(dtype)
    offset = row[:, None] * CHANNELS + channel[None, :]
    tl.store(u_ptr + offset, u, tile)
    tl.store(z_ptr + offset, z.to(dtype), tile)
    if SELECTED > 0:
        if ROWS == 1:
            share = tl.sum(selection.to(tl.float32) * u.to(tl.float32), 1)[None, :]
        else:
            share = tl.dot(u, tl.trans(selection), input_precision="ieee")
        selected = tl.arange(0, SELECTED_BLOCK)[None, :]
        share_offset = (tl.program_id(0) * batch + row[:, None]) * SELECTED + selected
        tl.store(shares_ptr + share_offset, share, row_inside[:, None] & (selected < SELECTED))


@triton.jit
def load_shares(
    shares_ptr, stride, SHARES: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr
):
    """Sums of every GROUP-th of SHARES rows, WIDTH numbers each, (GROUP, PADDED)."""
    column = tl.arange(0, PADDED)[None, :]
    total = tl.zeros((GROUP, PADDED), tl.float32)
    for first in tl.static_range(0, SHARES, GROUP):
        share = first + tl.arange(0, GROUP)[:, None]
        total += tl.load(shares_ptr + share * stride + column, (share < SHARES) & (column < WIDTH), 0.0)
    return total


@triton.jit
def add_shares(total, epsilon, dtype: tl.constexpr, WIDTH: tl.constexpr, NORM: tl.constexpr):
    """The sum of all shares, (1, PADDED), and with NORM that over its root mean square."""
    x = tl.sum(total, 0, keep_dims=True).to(dtype).to(tl.float32)
    if NORM:
        x = (x * tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / WIDTH + epsilon)).to(dtype).to(tl.float32)
    return x


@triton.jit
def advance_state(
    shares_ptr, u_ptr, z_ptr, delta_ptr, delta_bias_ptr, A_log_ptr, B_ptr, C_ptr, D_ptr, state_ptr, new_state_ptr,
    y_ptr, epsilon,
    CHANNELS: tl.constexpr, D_STATE: tl.constexpr, PADDED: tl.constexpr, RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr, SELECTED: tl.constexpr, SHARES: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr, NORM: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """y and the new state of `BLOCK` channels of the only row.

    Args:
        shares_ptr: (SHARES, SELECTED); SELECTED are those of Delta, B and C that are selective, in this order.
        delta_ptr: dt_proj's weight, (channels, RANK), or None where Delta is not selective.
        B_ptr: B where it is constant, (channels, d_state), or None where it is selective; C_ptr is the same for C.
        epsilon: with NORM, of the norm on Delta, B and C.
    """
    let_next_kernel_start(OVERLAP)
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    inside = channel < CHANNELS
    n = tl.arange(0, PADDED)[None, :]
    tile = inside & (n < D_STATE)
    matrix = channel * D_STATE + n
    h = tl.load(state_ptr + matrix, tile, 0.0)
    A = -tl.exp2(tl.load(A_log_ptr + matrix, tile, 0.0).to(tl.float32) * LOG2E)
    D = tl.load(D_ptr + channel, inside, 0.0).to(tl.float32)
    delta = tl.load(delta_bias_ptr + channel, inside, 0.0).to(tl.float32)
    if delta_ptr is not None:
        r = tl.arange(0, RANK_PADDED)[None, :]
        weight = tl.load(delta_ptr + channel * RANK + r, inside & (r < RANK), 0.0)
    if B_ptr is not None:
        B = tl.load(B_ptr + matrix, tile, 0.0).to(tl.float32)
    if C_ptr is not None:
        C = tl.load(C_ptr + matrix, tile, 0.0).to(tl.float32)

    wait(OVERLAP)
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    u = tl.load(u_ptr + channel, inside, 0.0).to(tl.float32)
    z = tl.load(z_ptr + channel, inside, 0.0).to(tl.float32)
    if delta_ptr is not None:  # all loads first: each takes a microsecond
        low_ranks = load_shares(shares_ptr, SELECTED, SHARES, GROUP, RANK, RANK_PADDED)
        shares_ptr += RANK
    if B_ptr is None:
        Bs = load_shares(shares_ptr, SELECTED, SHARES, GROUP, D_STATE, PADDED)
        shares_ptr += D_STATE
    if C_ptr is None:
        Cs = load_shares(shares_ptr, SELECTED, SHARES, GROUP, D_STATE, PADDED)
    if delta_ptr is not None:
        low_rank = add_shares(low_ranks, epsilon, dtype, RANK, NORM)
        delta += tl.sum(weight.to(tl.float32) * low_rank, 1, keep_dims=True).to(dtype).to(tl.float32)
    if B_ptr is None:
        B = add_shares(Bs, epsilon, dtype, D_STATE, NORM)
    if C_ptr is None:
        C = add_shares(Cs, epsilon, dtype, D_STATE, NORM)
    delta = softplus(delta)
    h = tl.exp2(delta * LOG2E * A) * h + delta * u * B
    y = tl.sum(h * C, 1, keep_dims=True) + D * u
    y *= z * sigmoid(z)
    tl.store(y_ptr + channel, y.to(dtype), inside)
    tl.store(new_state_ptr + matrix, h, tile)


@triton.jit(do_not_specialize=["batch"])
def select(
    shares_ptr, low_rank_ptr, BC_ptr, batch, epsilon,
    RANK: tl.constexpr, RANK_PADDED: tl.constexpr, D_STATE: tl.constexpr, PADDED: tl.constexpr,
    SELECTED: tl.constexpr, SHARES: tl.constexpr, GROUP: tl.constexpr, NORM: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x_proj of one row from its shares, (SHARES, batch, SELECTED): Delta's part, (batch, RANK), and those of B and C.

    RANK is 0 where Delta is not selective; of B and C there are those that are, (batch, 0 to 2, D_STATE).
    """
    let_next_kernel_start(OVERLAP)
    wait(OVERLAP)
    dtype: tl.constexpr = BC_ptr.dtype.element_ty
    row = tl.program_id(0)
    part = RANK + tl.program_id(1) * D_STATE
    shares_ptr += row * SELECTED
    stride = batch * SELECTED
    if part < SELECTED:
        n = tl.arange(0, PADDED)[None, :]
        shares = load_shares(shares_ptr + part, stride, SHARES, GROUP, D_STATE, PADDED)
        M = add_shares(shares, epsilon, dtype, D_STATE, NORM)
        tl.store(BC_ptr + row * (SELECTED - RANK) + part - RANK + n, M.to(dtype), n < D_STATE)
    elif RANK > 0:
        r = tl.arange(0, RANK_PADDED)[None, :]
        ranks = load_shares(shares_ptr, stride, SHARES, GROUP, RANK, RANK_PADDED)
        low_rank = add_shares(ranks, epsilon, dtype, RANK, NORM)
        tl.store(low_rank_ptr + row * RANK + r, low_rank.to(dtype), r < RANK)


@triton.jit(do_not_specialize=["batch"])
def advance_states(
    u_ptr, z_ptr, delta_ptr, BC_ptr, delta_bias_ptr, A_log_ptr, B_ptr, C_ptr, D_ptr, state_ptr, new_state_ptr,
    y_ptr, batch,
    CHANNELS: tl.constexpr, D_STATE: tl.constexpr, PADDED: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """`advance_state` for `BLOCK` channels of `ROWS` rows, one after the other.

    Args:
        delta_ptr: Delta before bias and softplus, (batch, channels), or None where it is not selective.
        BC_ptr: what `select` has made, (batch, PARTS, D_STATE).
    """
    let_next_kernel_start(OVERLAP)
    first = tl.program_id(1) * ROWS
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    n = tl.arange(0, PADDED)
    matrix = channel[:, None] * D_STATE + n[None, :]
    tile = inside[:, None] & (n < D_STATE)[None, :]
    before = ()
    for i in tl.static_range(ROWS):
        offset = (first + i).to(tl.int64) * (CHANNELS * D_STATE)
        before += (tl.load(state_ptr + offset + matrix, tile & (first + i < batch), 0.0),)
    A = -tl.exp2(tl.load(A_log_ptr + matrix, tile, 0.0).to(tl.float32) * LOG2E)
    D = tl.load(D_ptr + channel, inside, 0.0).to(tl.float32)
    bias = tl.load(delta_bias_ptr + channel, inside, 0.0).to(tl.float32)
    if B_ptr is not None:
        B = tl.load(B_ptr + matrix, tile, 0.0).to(tl.float32)
    if C_ptr is not None:
        C = tl.load(C_ptr + matrix, tile, 0.0).to(tl.float32)

    wait(OVERLAP)
    us, zs, deltas, Bs, Cs = (), (), (), (), ()
    for i in tl.static_range(ROWS):  # all loads first
        row = tl.minimum(first + i, batch - 1)
        us += (tl.load(u_ptr + row * CHANNELS + channel, inside, 0.0),)
        zs += (tl.load(z_ptr + row * CHANNELS + channel, inside, 0.0),)
        if delta_ptr is not None:
            deltas += (tl.load(delta_ptr + row * CHANNELS + channel, inside, 0.0),)
        if B_ptr is None:
            Bs += (tl.load(BC_ptr + row * (PARTS * D_STATE) + n, n < D_STATE, 0.0),)
        if C_ptr is None:
            Cs += (tl.load(BC_ptr + row * (PARTS * D_STATE) + (PARTS - 1) * D_STATE + n, n < D_STATE, 0.0),)
    for i in tl.static_range(ROWS):
        u, z, delta = us[i].to(tl.float32), zs[i].to(tl.float32), bias
        if delta_ptr is not None:
            delta += deltas[i].to(tl.float32)
        if B_ptr is None:
            B = Bs[i].to(tl.float32)[None, :]
        if C_ptr is None:
            C = Cs[i].to(tl.float32)[None, :]
        delta = softplus(delta)
        h = tl.exp2((delta * LOG2E)[:, None] * A) * before[i] + (delta * u)[:, None] * B
        y = tl.sum(h * C, 1) + D * u
        y *= z * sigmoid(z)
        row = first + i
        tl.store(y_ptr + row * CHANNELS + channel, y.to(y_ptr.dtype.element_ty), inside & (row < batch))
        tl.store(new_state_ptr + row.to(tl.int64) * (CHANNELS * D_STATE) + matrix, h, tile & (row < batch))


@triton.jit(do_not_specialize=["batch", "outputs"])
def project(
    x_ptr, weight_ptr, bias_ptr, y_ptr, batch, outputs,
    INPUTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr,
    EARLY: tl.constexpr, STAGES: tl.constexpr, LINES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """y = x W^T + bias for `BLOCK` of the outputs; x is (batch, INPUTS).

    With more than one row the columns are cut into as many parts as the grid's last axis has programs, and y is
    (parts, batch, outputs): terms of a sum that `normalise` takes.
    """
    let_next_kernel_start(OVERLAP)
    out = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)  # a head may have more than 2^31 numbers
    inside = out < outputs
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row_inside = row < batch
    if ROWS == 1:
        weights = load_tiles(weight_ptr, out, inside, INPUTS, K, 0, EARLY)
        wait(OVERLAP)
        x = load_row(x_ptr, INPUTS, K, TILES, BLOCK)  # in the layout of the weights
        products = multiply_row(weights, x, EARLY, 0)
        for j in tl.static_range(EARLY, TILES):
            products += multiply_row(load_tiles(weight_ptr, out, inside, INPUTS, K, j, 1), x, 1, j)
        y = tl.sum(products, 1)[None, :]
    else:
        prefetch_rows(weight_ptr, out, outputs, INPUTS, LINES, OVERLAP)
        wait(OVERLAP)
        part = tl.program_id(2)
        columns = tl.cdiv(TILES, tl.num_programs(2)) * K  # of a part
        begin, end = part * columns, tl.minimum((part + 1) * columns, INPUTS)
        y = multiply_rows(x_ptr, weight_ptr, row, row_inside, out, inside, begin, end, INPUTS, ROWS, BLOCK, K, STAGES)
        y_ptr += part.to(tl.int64) * batch * outputs
    if bias_ptr is not None:
        y += tl.where(tl.program_id(2) == 0, tl.load(bias_ptr + out, inside, 0.0).to(tl.float32), 0.0)[None, :]
    offset = row[:, None].to(tl.int64) * outputs + out[None, :]
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), row_inside[:, None] & inside[None, :])


@triton.jit
def normalise(
    x_ptr, residual_ptr, norm_ptr, total_ptr, y_ptr, epsilon,
    D_MODEL: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Residual sum and norm of one row; x is the sum of PARTS terms, (PARTS, rows, D_MODEL)."""
    let_next_kernel_start(OVERLAP)
    column = tl.arange(0, BLOCK)
    inside = column < D_MODEL
    weight = tl.load(norm_ptr + column, inside, 0.0).to(tl.float32)
    wait(OVERLAP)
    offset = tl.program_id(0) * D_MODEL + column
    x = tl.load(x_ptr + offset, inside, 0.0)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + offset, inside, 0.0)
    for part in tl.static_range(1, PARTS):
        x += tl.load(x_ptr + part * tl.num_programs(0) * D_MODEL + offset, inside, 0.0)
    total = x.to(y_ptr.dtype.element_ty).to(total_ptr.dtype.element_ty)
    if residual_ptr is not None:
        total = (residual.to(tl.float32) + total.to(tl.float32)).to(total_ptr.dtype.element_ty)
    r = total.to(tl.float32)
    y = weight * (r * tl.rsqrt(tl.sum(r * r, 0) / D_MODEL + epsilon))
    tl.store(total_ptr + offset, total, inside)
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), inside)
