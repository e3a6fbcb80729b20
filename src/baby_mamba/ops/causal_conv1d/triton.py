r"""The causal depthwise convolution on CUDA: bias, taps and SiLU in one pass over memory, as two Triton kernels.

Memory is what it costs, so every input is to be read once, several channels at a time. A lane owns neighbouring
channels and walks along time with the last `width - 1` inputs in registers. Time is cut into strips, one to a warp; a
strip begins by reading the inputs before it. Where a packed sequence starts, a lane forgets its past inputs: that alone
keeps sequences apart.

With p_t = bias + sum_k weight_k x_{t-(width-1)+k} and y_t = silu(p_t), the backward pass computes p again, and

    g_t       = silu'(p_t) dy_t
    dx_s      = sum_k weight_k g_{s+(width-1)-k}
    dweight_k = sum_t g_t x_{t-(width-1)+k},  dbias = sum_t g_t

It walks forward in time, too. Step t adds to the gradients of the last `width` inputs and finishes the oldest, so a
strip goes on for width - 1 steps past its end. What the first strip finishes of the inputs before step 0 is the initial
state's gradient, and the final state's gradient comes in at the steps after the last. Each program writes its own sums
for weight and bias, which are then added in a fixed order: gradients repeat bit by bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.triton_support import launch

STRIPS = 4  # warps of a program, which share its taps and add up their sums
TILE = 8  # steps whose rows are loaded at once, before the first is stored
MIN_STEPS, MAX_STEPS = 16, 256  # of a strip: shorter ones spend too much on the inputs before them
WARPS = 4096  # cut time until there are as many: about 8 for each of an H100's 528 schedulers
FEW_WARPS = 1056  # with fewer, a lane takes one channel, so that more multiprocessors have work
# Registers of a lane for taps, past inputs and sums. The rest is for rows on their way, in the backward pass of two
# tensors: with 64 it took 94 us at (8, 2048, 1536) in bfloat16 on an H100, and 74 with 32.
FORWARD_NUMBERS, BACKWARD_NUMBERS = 64, 32
WARP = 32
OPTIONS = {"num_stages": 1}  # Triton's own pipelining would copy rows through shared memory
LOG2E = tl.constexpr(1.4426950408889634)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One fused kernel for each direction; arguments and results as `ops.causal_conv1d`, but not float64."""
    if any(t is not None and t.dtype == torch.float64 for t in (x, weight, bias, initial_state)):
        raise ShapeError(
            "causal_conv1d: the triton backend computes in float32 and got a float64 argument; "
            "use .float() on it, or backend='reference'"
        )
    return _forward(x, weight, bias, activation == "silu", initial_state, sequence_ids)


# ----------------------------------------------------------------------------------------------------------- kernels
#
# Tensors have one row a strip and one column a channel, (STRIPS, BLOCK); steps t are (STRIPS, 1), channels (1, BLOCK).


@triton.jit
def locate(length, channels, steps, STRIPS: tl.constexpr, BLOCK: tl.constexpr):
    """(batch entry, which group of strips, number of groups, first step of each strip, channels) of this program."""
    blocks = tl.cdiv(channels, BLOCK)
    groups = tl.maximum(tl.cdiv(length, STRIPS * steps), 1)
    program = tl.program_id(0)
    channel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    group = program // blocks % groups
    begin = (group * STRIPS + tl.arange(0, STRIPS)).to(tl.int64) * steps
    return (program // blocks // groups).to(tl.int64), group, groups, begin[:, None], channel[None, :]


@triton.jit
def load_parameters(weight_ptr, bias_ptr, channel, inside, WIDTH: tl.constexpr):
    """(taps, bias) in float32: a row for each tap, oldest input first."""
    taps = ()
    for k in tl.static_range(WIDTH):
        taps += (tl.load(weight_ptr + channel * WIDTH + k, inside, 0.0).to(tl.float32),)
    if bias_ptr is None:
        bias = tl.zeros(channel.shape, tl.float32)
    else:
        bias = tl.load(bias_ptr + channel, inside, 0.0).to(tl.float32)
    return taps, bias


@triton.jit
def starts_at(ids_ptr, ids_row, t, length):
    """Whether step t is the first of a packed sequence other than the row's first."""
    inside = (t > 0) & (t < length)
    return tl.load(ids_ptr + t * ids_row, inside, 0) != tl.load(ids_ptr + (t - 1) * ids_row, inside, 0)


@triton.jit
def forget(past, start, COUNT: tl.constexpr):
    """`COUNT` past inputs, zero where a sequence starts."""
    kept = ()
    for k in tl.static_range(COUNT):
        kept += (tl.where(start, 0.0, past[k]),)
    return kept


@triton.jit
def inputs_before(
    t, x_ptr, initial_ptr, ids_ptr, x_row, initial_row, ids_row, length, inside, WIDTH: tl.constexpr
):  # fmt: skip
    """What step t sees of the past: the last WIDTH - 1 inputs, oldest first; zero if of an earlier sequence."""
    past = ()
    for k in tl.static_range(WIDTH - 1):
        s = t - (WIDTH - 1) + k
        if ids_ptr is not None:
            past = forget(past, starts_at(ids_ptr, ids_row, s, length), k)
        x = tl.load(x_ptr + s * x_row, inside & (s >= 0) & (s < length), 0.0)
        if initial_ptr is not None:
            initial = tl.load(initial_ptr + (s + WIDTH - 1) * initial_row, inside & (s < 0), 0.0)
            x = tl.where(s < 0, initial.to(x.dtype), x)
        past += (x.to(tl.float32),)
    return past


@triton.jit
def load_rows(pointer, row, first, count, inside, TILE: tl.constexpr):
    """`TILE` steps from the `first` of a strip on, zero from its step `count` on."""
    rows = ()
    for j in tl.static_range(TILE):
        rows += (tl.load(pointer + j * row, inside & (first + j < count), 0.0),)
    return rows


@triton.jit
def load_starts(ids_ptr, ids_row, t, length, TILE: tl.constexpr):
    """`starts_at` for `TILE` steps from t on; nothing without sequence ids."""
    starts = ()
    if ids_ptr is not None:
        for j in tl.static_range(TILE):
            starts += (starts_at(ids_ptr, ids_row, t + j, length),)
    return starts


@triton.jit
def weighted_sum(taps, bias, inputs, WIDTH: tl.constexpr):
    """bias + sum_k taps_k inputs_k."""
    total = bias
    for k in tl.static_range(WIDTH):
        total += taps[k] * inputs[k]
    return total


@triton.jit(do_not_specialize=["length"])
def convolve(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, ids_ptr, y_ptr, final_ptr,
    length, channels, steps, x_batch, x_row, initial_batch, initial_row, ids_batch, ids_row,
    WIDTH: tl.constexpr, SILU: tl.constexpr, STRIPS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """y and the final state."""
    batch, group, groups, begin, channel = locate(length, channels, steps, STRIPS, BLOCK)
    inside = channel < channels
    taps, bias = load_parameters(weight_ptr, bias_ptr, channel, inside, WIDTH)
    x_row = tl.cast(x_row, tl.int64)
    y_row = tl.cast(channels, tl.int64)
    x_ptr += batch * x_batch + channel
    y_ptr += batch * length * channels + channel
    if initial_ptr is not None:
        initial_ptr += batch * initial_batch + channel
    if ids_ptr is not None:
        ids_ptr += batch * ids_batch

    past = inputs_before(
        begin, x_ptr, initial_ptr, ids_ptr, x_row, initial_row, ids_row, length, inside, WIDTH
    )  # fmt: skip
    count = tl.minimum(length - begin, steps).to(tl.int32)  # steps of a strip
    x_tile = x_ptr + begin * x_row
    y_tile = y_ptr + begin * y_row
    for i in range(0, steps, TILE):
        xs = load_rows(x_tile, x_row, i, count, inside, TILE)
        starts = load_starts(ids_ptr, ids_row, begin + i, length, TILE)
        for j in tl.static_range(TILE):
            if ids_ptr is not None:
                past = forget(past, starts[j], WIDTH - 1)
            inputs = past
            inputs += (xs[j].to(tl.float32),)
            y = weighted_sum(taps, bias, inputs, WIDTH)
            if SILU:
                y /= 1 + tl.exp2(y * -LOG2E)
            tl.store(y_tile + j * y_row, y.to(y_ptr.dtype.element_ty), inside & (i + j < count))
            past = inputs[1:]
        x_tile += TILE * x_row
        y_tile += TILE * y_row

    if group == groups - 1:
        end = tl.full((1, 1), 0, tl.int64) + length
        final = inputs_before(
            end, x_ptr, initial_ptr, ids_ptr, x_row, initial_row, ids_row, length, inside, WIDTH
        )  # fmt: skip
        for k in tl.static_range(WIDTH - 1):
            row_ptr = final_ptr + (batch * (WIDTH - 1) + k) * channels + channel
            tl.store(row_ptr, final[k].to(final_ptr.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["length"])
def convolve_backward(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, ids_ptr, dy_ptr, dfinal_ptr, dx_ptr, shares_ptr, dinitial_ptr,
    length, channels, steps,
    x_batch, x_row, initial_batch, initial_row, ids_batch, ids_row, dy_batch, dy_row, dfinal_batch, dfinal_row,
    WIDTH: tl.constexpr, SILU: tl.constexpr, STRIPS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """dx, the initial state's gradient, and the program's share of dweight and dbias.

    A strip walks `steps` steps, and the last WIDTH - 1 of them are the next strip's: there it only finishes its own dx.
    """
    AHEAD: tl.constexpr = WIDTH - 1
    own = steps - AHEAD
    batch, group, groups, begin, channel = locate(length, channels, own, STRIPS, BLOCK)
    inside = channel < channels
    taps, bias = load_parameters(weight_ptr, bias_ptr, channel, inside, WIDTH)
    x_row = tl.cast(x_row, tl.int64)
    dy_row = tl.cast(dy_row, tl.int64)
    dx_row = tl.cast(channels, tl.int64)
    x_ptr += batch * x_batch + channel
    dy_ptr += batch * dy_batch + channel
    dx_ptr += batch * length * channels + channel
    if initial_ptr is not None:
        initial_ptr += batch * initial_batch + channel
        dinitial_ptr += batch * AHEAD * channels + channel
    if ids_ptr is not None:
        ids_ptr += batch * ids_batch
    if dfinal_ptr is not None:
        dfinal_row = tl.cast(dfinal_row, tl.int64)
        dfinal_ptr += batch * dfinal_batch + channel

    past = inputs_before(
        begin, x_ptr, initial_ptr, ids_ptr, x_row, initial_row, ids_row, length, inside, WIDTH
    )  # fmt: skip
    unfinished = ()  # gradients of the past inputs so far
    for _ in tl.static_range(AHEAD):
        unfinished += (tl.zeros((STRIPS, BLOCK), tl.float32),)
    dbias = tl.zeros((STRIPS, BLOCK), tl.float32)
    dtaps = unfinished
    dtaps += (dbias,)
    age = tl.full((STRIPS, 1), WIDTH, tl.int32)  # steps since a packed sequence started, if fewer than WIDTH
    left = tl.minimum(length - begin, steps).to(tl.int32)  # steps to walk
    count = tl.minimum(left, own)  # steps of a strip
    x_tile = x_ptr + begin * x_row
    dy_tile = dy_ptr + begin * dy_row
    dx_tile = dx_ptr + (begin - AHEAD) * dx_row
    for i in range(0, steps, TILE):
        t = begin + i
        xs = load_rows(x_tile, x_row, i, left, inside, TILE)
        dys = load_rows(dy_tile, dy_row, i, left, inside, TILE)
        starts = load_starts(ids_ptr, ids_row, t, length, TILE)
        for j in tl.static_range(TILE):
            if ids_ptr is not None:
                past = forget(past, starts[j], AHEAD)
                age = tl.where(starts[j], 0, age + 1)
            inputs = past
            inputs += (xs[j].to(tl.float32),)
            g = dys[j].to(tl.float32)
            if SILU:
                p = weighted_sum(taps, bias, inputs, WIDTH)
                s = 1 / (1 + tl.exp2(p * -LOG2E))
                g *= s * (1 + p * (1 - s))
            g_own = tl.where(i + j < count, g, 0.0)
            dbias += g_own
            summed = ()
            reached = ()
            for k in tl.static_range(WIDTH):
                summed += (dtaps[k] + g_own * inputs[k],)
                share = taps[k] * g
                if dfinal_ptr is not None and k == 0:
                    after = t + j - length  # steps after the last
                    dfinal = tl.load(dfinal_ptr + after * dfinal_row, inside & (after >= 0) & (after < AHEAD), 0.0)
                    share += dfinal.to(tl.float32)
                if ids_ptr is not None and k < AHEAD:
                    share = tl.where(age >= AHEAD - k, share, 0.0)
                if k < AHEAD:
                    share += unfinished[k]
                reached += (share,)
            dtaps = summed
            past = inputs[1:]
            unfinished = reached[1:]
            finished = i + j - AHEAD  # the step of the strip whose gradient is complete
            tl.store(
                dx_tile + j * dx_row,
                reached[0].to(dx_ptr.dtype.element_ty),
                inside & (finished >= 0) & (finished < count),
            )
            if initial_ptr is not None:
                tl.store(
                    dinitial_ptr + (t + j) * dx_row,
                    reached[0].to(dinitial_ptr.dtype.element_ty),
                    inside & (begin == 0) & (finished < 0),
                )
        x_tile += TILE * x_row
        dy_tile += TILE * dy_row
        dx_tile += TILE * dx_row

    sums = WIDTH if bias_ptr is None else WIDTH + 1
    shares_ptr += (batch * groups + group) * channels * sums
    for k in tl.static_range(WIDTH):
        tl.store(shares_ptr + channel * WIDTH + k, tl.sum(dtaps[k], 0, keep_dims=True), inside)
    if bias_ptr is not None:
        tl.store(shares_ptr + channels * WIDTH + channel, tl.sum(dbias, 0, keep_dims=True), inside)


# --------------------------------------------------------------------------------------------------------- operators


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up; triton.cdiv takes ten times as long, and a decoding step makes many."""
    return -(-a // b)


class Plan:
    """How the work of a call is cut into programs.

    Args:
        x: the input, (batch, length, channels).
        numbers: registers that the kernel needs for a channel.
        limit: registers that it may have for all channels of a lane.
        ahead: steps that a strip walks past its end.
    """

    def __init__(self, x: Tensor, numbers: int, limit: int, ahead: int) -> None:
        batch, length, channels = x.shape
        vector = 16 // x.element_size()  # channels of a lane
        while vector > 1 and vector * numbers > limit:
            vector //= 2
        self.block = WARP
        while self.block < min(WARP * vector, channels):
            self.block *= 2
        if length == 1 and ahead == 0:
            self.strips, self.tile, self.steps = 1, 1, 1
        else:
            self.strips, self.tile, self.steps = STRIPS, TILE, MAX_STEPS
        blocks = ceil_div(channels, self.block)
        while self.steps > MIN_STEPS and batch * blocks * length < WARPS * self.steps:
            self.steps //= 2
        if batch * blocks * ceil_div(length, self.steps) < FEW_WARPS:
            self.block = WARP
            blocks = ceil_div(channels, WARP)
        if self.steps < 2 * ahead:
            self.steps = ceil_div(2 * ahead, self.tile) * self.tile
        self.groups = batch * max(1, ceil_div(length, self.strips * (self.steps - ahead)))
        self.grid = (blocks * self.groups,)

    def options(self, width: int, silu: bool) -> dict[str, object]:
        """Compile-time arguments of a kernel."""
        return {
            "WIDTH": width, "SILU": silu, "STRIPS": self.strips, "BLOCK": self.block, "TILE": self.tile,
            "num_warps": self.strips, **OPTIONS,
        }  # fmt: skip


def _rows(tensor: Tensor | None) -> Tensor | None:
    """The tensor with contiguous channels."""
    return tensor if tensor is None or tensor.stride(-1) == 1 else tensor.contiguous()


def _strides(tensor: Tensor | None) -> tuple[int, int]:
    """(batch, length) strides."""
    return (0, 0) if tensor is None else (tensor.stride(0), tensor.stride(1))


@torch.library.custom_op("baby_mamba::causal_conv1d_triton", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(y, final state), both contiguous and in x's dtype."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    y, final_state = x.new_empty(x.shape), x.new_empty(batch, width - 1, channels)
    plan = Plan(x, 2 * width, FORWARD_NUMBERS, 0)  # taps and past inputs
    if plan.grid[0] == 0:
        return y, final_state
    x, initial_state = _rows(x), _rows(initial_state)
    launch(
        convolve, plan.grid,
        x, weight.contiguous(), _rows(bias), initial_state, sequence_ids, y, final_state,
        length, channels, plan.steps, *_strides(x), *_strides(initial_state), *_strides(sequence_ids),
        **plan.options(width, silu),
    )  # fmt: skip
    return y, final_state


@_forward.register_fake
def _(x, weight, bias, silu, initial_state, sequence_ids):
    return x.new_empty(x.shape), x.new_empty(x.shape[0], weight.shape[1] - 1, x.shape[2])


@torch.library.custom_op("baby_mamba::causal_conv1d_triton_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dfinal_state: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dweight and after it dbias as one vector in float32, gradient of the initial state or nothing)."""
    _, length, channels = x.shape
    width = weight.shape[1]
    dx = x.new_empty(x.shape)
    dinitial = x.new_empty(0) if initial_state is None else initial_state.new_empty(initial_state.shape)
    plan = Plan(x, 4 * width, BACKWARD_NUMBERS, width - 1)  # these and a gradient for each
    shares = x.new_empty(plan.groups, _parameters(weight, bias), dtype=torch.float32)
    if plan.grid[0] == 0:
        return dx, shares.sum(0), dinitial
    x, dy, initial_state, dfinal_state = _rows(x), _rows(dy), _rows(initial_state), _rows(dfinal_state)
    launch(
        convolve_backward, plan.grid,
        x, weight.contiguous(), _rows(bias), initial_state, sequence_ids, dy, dfinal_state, dx, shares, dinitial,
        length, channels, plan.steps,
        *_strides(x), *_strides(initial_state), *_strides(sequence_ids), *_strides(dy), *_strides(dfinal_state),
        **plan.options(width, silu),
    )  # fmt: skip
    return dx, shares.sum(0), dinitial


@_backward.register_fake
def _(dy, dfinal_state, x, weight, bias, silu, initial_state, sequence_ids):
    dinitial = x.new_empty(0) if initial_state is None else initial_state.new_empty(initial_state.shape)
    return x.new_empty(x.shape), x.new_empty(_parameters(weight, bias), dtype=torch.float32), dinitial


def _parameters(weight: Tensor, bias: Tensor | None) -> int:
    """How many numbers weight and bias have together."""
    channels, width = weight.shape
    return channels * width if bias is None else channels * (width + 1)


def _save(ctx, inputs, output):
    x, weight, bias, ctx.silu, initial_state, sequence_ids = inputs
    ctx.save_for_backward(x, weight, bias, initial_state, sequence_ids)
    ctx.set_materialize_grads(False)


def _gradients(ctx, dy, dfinal_state):
    x, weight, bias, initial_state, sequence_ids = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(x)
    dx, sums, dinitial = _backward(dy, dfinal_state, x, weight, bias, ctx.silu, initial_state, sequence_ids)
    channels, width = weight.shape
    dweight, dbias = sums[: channels * width].view(channels, width), sums[channels * width :]
    return (
        dx,
        dweight.to(weight.dtype),
        None if bias is None else dbias.to(bias.dtype),
        None,
        None if initial_state is None else dinitial,
        None,
    )


_forward.register_autograd(_gradients, setup_context=_save)
