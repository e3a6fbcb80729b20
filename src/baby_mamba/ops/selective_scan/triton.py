"""The selective scan on CUDA as fused Triton kernels, registered as torch.library operators with autograd.

Nothing of size (batch, length, channels, d_state) is ever stored. The forward pass keeps its inputs and one state in
every `CHUNK` steps; the backward pass recomputes the rest. All sums have a fixed order, so gradients repeat bit by bit.
The kernels, and how they work, are in `triton_forward`, `triton_backward` and `triton_parts`.
"""

import math

import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.selective_scan.reference import computing_dtype
from baby_mamba.ops.selective_scan.segments import CARRIED_AT_ONCE, SCHEDULERS, Pass, choose_segments
from baby_mamba.ops.selective_scan.triton_backward import scan_backward
from baby_mamba.ops.selective_scan.triton_forward import scan_forward
from baby_mamba.ops.selective_scan.triton_parts import carry_states, part_adjoints, part_states
from baby_mamba.ops.triton_support import can_overlap, early, is_compiled, launch

CHUNK = 32  # steps from one stored state to the next
MAX_STATES = 16  # states of a channel that one launch holds in registers
FORWARD = Pass(block=64, tile=8, exact_tile=2, warps=2, together=2, step=0.434, alone=0.8, tail=0.0)
PART_STATES = Pass(block=64, tile=8, exact_tile=4, warps=4, together=2, step=0.575, alone=0.55, tail=0.1)
BACKWARD = Pass(block=32, tile=4, exact_tile=2, warps=2, together=1, step=1.094, alone=0.75, tail=0.0)
PART_ADJOINTS = Pass(block=64, tile=4, exact_tile=4, warps=3, together=1, step=0.522, alone=0.6, tail=0.15)
SUM_ROWS = 16  # of the tensor-core product that adds over channels: a tile's steps times states at once
MIN_SEGMENT = 256  # steps: shorter segments cost more in folding than they win
CARRY_BLOCK = 128  # numbers of a program that carries states from part to part
MOST_WARPS = 8  # of a program
# Triton's own pipelining (num_stages > 1) copies through shared memory what the kernels already load ahead.
OPTIONS = {"num_stages": 1}


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
    """One fused kernel for each direction; arguments and results as `ops.selective_scan`, real and not float64."""
    if computing_dtype(u, delta, A, B, C, delta_bias, initial_state) != torch.float32:
        raise ShapeError(
            "selective_scan: the triton backend computes in float32 and got a float64 argument; "
            "use .float() on it, or backend='reference'"
        )
    d_state = A.shape[1]
    if d_state > MAX_STATES:
        return _in_slices(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, sequence_ids)
    starts = None
    if sequence_ids is not None:
        starts = torch.zeros_like(sequence_ids, dtype=torch.int8)
        starts[:, 1:] = sequence_ids[:, 1:] != sequence_ids[:, :-1]
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    # Without gradients nobody records a plain tensor, and PyTorch's dispatcher would take as long as a small scan.
    run = _forward if keep or torch.compiler.is_compiling() or type(u) is not Tensor else _run_forward
    y, state, _ = run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, starts, keep)
    return y, state


def _in_slices(
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
    """States do not meet before y = C . h, so a large d_state is a sum of scans; only the last adds D and the gate."""
    total, states = 0, []
    for start in range(0, A.shape[1], MAX_STATES):
        now = slice(start, start + MAX_STATES)
        initial = None if initial_state is None else initial_state[..., now]
        y, state = selective_scan(
            u.float(), delta, A[:, now], B[..., now], C[..., now], None, None, delta_bias, delta_softplus, initial,
            sequence_ids,
        )  # fmt: skip
        total = total + y
        states.append(state)
    if D is not None:
        total = total + D.float() * u.float()
    if z is not None:
        total = total * torch.nn.functional.silu(z.float())
    return total.to(u.dtype), torch.cat(states, dim=-1)


def _run_forward(
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
    starts: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, final state, state at the start of every chunk).

    The last is (batch, chunks, padded d_state, channels); it is only made if `keep`, and else empty.
    """
    batch, length, channels = u.shape
    d_state = A.shape[1]
    plan = Plan(u, A, B, C)
    y = u.new_empty(batch, length, channels)
    saved = torch.empty(plan.saved_shape(keep), dtype=torch.float32, device=u.device)
    if length == 0 or u.numel() == 0:
        final = torch.zeros(batch, channels, d_state, dtype=torch.float32, device=u.device)
        return y, final if initial_state is None else initial_state.float().clone(), saved
    u, delta, z = plan.rows(u), plan.rows(delta), plan.rows(z)
    A_t, B_t, C_t = plan.transposed(A), plan.in_time(B, pack=True), plan.in_time(C, pack=True)
    initial = plan.states(initial_state)
    final = torch.empty(batch, plan.d_state, channels, dtype=torch.float32, device=u.device)
    starts = plan.padded(starts)
    segment_length, segments, parts_of_segment = plan.segments(FORWARD, PART_STATES, unit=FORWARD.tile)
    overlap = segments > 1 and can_overlap(u.device)
    if segments > 1:
        parts = (segments - 1) * parts_of_segment  # nobody asks for the state after the last segment
        decay, local = final.new_empty(2, parts, *final.shape)
        warps = plan.warps_of_program(PART_STATES, parts)
        launch(
            part_states, (plan.warps(PART_STATES) // warps, parts),
            u, delta, A_t, B_t, delta_bias, starts, decay, local,
            length, plan.padded_length, channels, plan.groups, 0, segment_length // parts_of_segment,
            u.stride(0), u.stride(1), delta.stride(0), delta.stride(1),
            D_STATE=plan.d_state, STATES=plan.states_at_once(16), BLOCK=PART_STATES.block * warps,
            TILE=plan.tile(PART_STATES), SOFTPLUS=delta_softplus, B_CONSTANT=B.ndim == 2, FULL=plan.full(PART_STATES),
            EXACT=plan.exact, NEAR=is_compiled(part_states), OVERLAP=overlap,
            num_warps=warps, maxnreg=65536 // (32 * 4 * PART_STATES.warps), **OPTIONS,
        )  # fmt: skip
        initial = plan.carried(decay, local, initial, segments, parts_of_segment, back=False, overlap=overlap)
    warps = plan.warps_of_program(FORWARD, segments)
    launch(
        scan_forward, (plan.warps(FORWARD) // warps, segments),
        u, delta, A_t, B_t, C_t, D, z, delta_bias, initial, starts, y, final, saved,
        length, plan.padded_length, channels, plan.groups, 0, segment_length, int(keep),
        u.stride(0), u.stride(1), delta.stride(0), delta.stride(1), *plan.strides(z),
        D_STATE=plan.d_state, STATES=plan.states_at_once(16), BLOCK=FORWARD.block * warps, TILE=plan.tile(FORWARD),
        CHUNK=CHUNK, SOFTPLUS=delta_softplus, B_CONSTANT=B.ndim == 2, C_CONSTANT=C.ndim == 2, FULL=plan.full(FORWARD),
        EXACT=plan.exact, NEAR=is_compiled(scan_forward), num_warps=warps, **early(overlap), **OPTIONS,
    )  # fmt: skip
    return y, final[:, :d_state].transpose(1, 2).contiguous(), saved


_forward = torch.library.custom_op("baby_mamba::selective_scan_triton", _run_forward, mutates_args=())


@_forward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, starts, keep):
    plan = Plan(u, A, B, C)
    return (
        u.new_empty(u.shape),
        u.new_empty(u.shape[0], u.shape[2], A.shape[1], dtype=torch.float32),
        u.new_empty(plan.saved_shape(keep), dtype=torch.float32),
    )


@torch.library.custom_op("baby_mamba::selective_scan_triton_backward", mutates_args=())
def _backward(
    dout: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    starts: Tensor | None,
    saved: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias, initial_state, all of them; float32 but for u, delta, z."""
    batch, length, channels = u.shape
    d_state = A.shape[1]
    plan = Plan(u, A, B, C)
    du, ddelta = u.new_empty(u.shape), delta.new_empty(u.shape)
    dz = z.new_empty(u.shape) if z is not None else u.new_empty(0)
    f32 = {"dtype": torch.float32, "device": u.device}
    if u.numel() == 0:
        dinitial = torch.zeros(batch, channels, d_state, **f32) if dfinal is None else dfinal.float().clone()
        zeros = [torch.zeros(t.shape, **f32) for t in (A, B, C)]
        return du, ddelta, *zeros, torch.zeros(channels, **f32), dz, torch.zeros(channels, **f32), dinitial
    B_constant, C_constant = B.ndim == 2, C.ndim == 2
    u, delta, z, dout = plan.rows(u), plan.rows(delta), plan.rows(z), plan.rows(dout)
    A_t, B_t, C_t = plan.transposed(A), plan.in_time(B), plan.in_time(C)
    dfinal = plan.states(dfinal)
    starts = plan.padded(starts)
    segment_length, segments, parts_of_segment = plan.segments(BACKWARD, PART_ADJOINTS, unit=CHUNK)
    if segments > 1:
        part_length = segment_length // parts_of_segment
        parts = -(-plan.padded_length // part_length) - parts_of_segment  # nobody asks for what leaves the first
        decay, local = torch.empty(2, parts, batch, plan.d_state, channels, **f32)
        launch(
            part_adjoints, (plan.warps(PART_ADJOINTS), parts),
            delta, A_t, C_t, z, delta_bias, starts, dout, decay, local,
            length, plan.padded_length, channels, plan.groups, 0, parts_of_segment, part_length,
            delta.stride(0), delta.stride(1), *plan.strides(z), dout.stride(0), dout.stride(1),
            D_STATE=plan.d_state, STATES=plan.states_at_once(16), BLOCK=PART_ADJOINTS.block,
            TILE=plan.tile(PART_ADJOINTS), SOFTPLUS=delta_softplus, C_CONSTANT=C_constant,
            FULL=plan.full(PART_ADJOINTS), EXACT=plan.exact, NEAR=is_compiled(part_adjoints), num_warps=1, **OPTIONS,
        )  # fmt: skip
        dfinal = plan.carried(decay, local, dfinal, segments, parts_of_segment, back=True, overlap=False)
    per_segment = (segments, batch, plan.d_state, channels)
    per_block = (plan.groups, plan.blocks(BACKWARD), batch, plan.padded_length, plan.d_state)
    dA = torch.empty(per_segment, **f32)
    dB = torch.empty(per_segment if B_constant else per_block, **f32)
    dC = torch.empty(per_segment if C_constant else per_block, **f32)
    dD = torch.empty(segments, batch, channels, **f32)
    dbias = torch.empty(segments, batch, channels, **f32)
    dinitial = torch.empty(batch, plan.d_state, channels, **f32)
    states = plan.states_at_once(SUM_ROWS // plan.tile(BACKWARD))
    tile = SUM_ROWS // states  # plan.tile(BACKWARD), or more where there are fewer states than that leaves room for
    scratch = torch.empty(plan.warps(BACKWARD) * segments, CHUNK // tile, plan.d_state, BACKWARD.block, **f32)
    exact = max(torch.finfo(t.dtype).eps for t in (B, C)) < torch.finfo(torch.bfloat16).eps
    launch(
        scan_backward, (plan.warps(BACKWARD), segments),
        u, delta, A_t, B_t, C_t, D, z, delta_bias, starts, saved, dout, dfinal, scratch,
        du, ddelta, dz, dA, dB, dC, dD, dbias, dinitial,
        length, plan.padded_length, channels, plan.groups, 0, segment_length,
        u.stride(0), u.stride(1), delta.stride(0), delta.stride(1), *plan.strides(z), dout.stride(0), dout.stride(1),
        D_STATE=plan.d_state, STATES=states, BLOCK=BACKWARD.block, TILE=tile, CHUNK=CHUNK,
        SOFTPLUS=delta_softplus, B_CONSTANT=B_constant, C_CONSTANT=C_constant, FULL=plan.full(BACKWARD),
        PRECISION="tf32x3" if exact else "tf32", EXACT=plan.exact,
        NEAR=plan.full(BACKWARD) and is_compiled(scan_backward), num_warps=1, **OPTIONS,
    )  # fmt: skip
    return (
        du,
        ddelta,
        plan.summed_over_programs(dA, d_state),
        plan.summed_over_programs(dB, d_state) if B_constant else plan.summed_over_channels(dB, B),
        plan.summed_over_programs(dC, d_state) if C_constant else plan.summed_over_channels(dC, C),
        dD.sum((0, 1)),
        dz,
        dbias.sum((0, 1)),
        dinitial[:, :d_state].transpose(1, 2).contiguous(),
    )


@_backward.register_fake
def _(dout, dfinal, u, delta, A, B, C, D, z, delta_bias, delta_softplus, starts, saved):
    batch, _, channels = u.shape

    def f32(*shape):
        return u.new_empty(shape, dtype=torch.float32)

    return (
        u.new_empty(u.shape), delta.new_empty(u.shape), f32(*A.shape), f32(*B.shape), f32(*C.shape), f32(channels),
        z.new_empty(u.shape) if z is not None else u.new_empty(0), f32(channels), f32(batch, channels, A.shape[1]),
    )  # fmt: skip


def _save(ctx, inputs, output):
    u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, initial_state, starts, _ = inputs
    ctx.initial_dtype = None if initial_state is None else initial_state.dtype
    ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, starts, output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx, dout, dfinal, _):
    u, delta, A, B, C, D, z, delta_bias, starts, saved = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(u)
    du, ddelta, dA, dB, dC, dD, dz, dbias, dinitial = _backward(
        dout, dfinal, u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, starts, saved
    )
    return (
        du,
        ddelta,
        dA.to(A.dtype),
        dB.to(B.dtype),
        dC.to(C.dtype),
        None if D is None else dD.to(D.dtype),
        None if z is None else dz,
        None if delta_bias is None else dbias.to(delta_bias.dtype),
        None,
        None if ctx.initial_dtype is None else dinitial.to(ctx.initial_dtype),
        None,
        None,
    )


_forward.register_autograd(_gradients, setup_context=_save)


class Plan:
    """Shapes and layouts that the kernels want for the tensors of one call."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.batch, self.length, self.channels = u.shape
        # The hardware's exponentials are good enough for numbers of 16 bits.
        self.exact = all(t.dtype == torch.float32 for t in (u, B, C))
        grouped = [M.shape[2] for M in (B, C) if M.ndim == 4]
        self.groups = math.lcm(*grouped)
        self.d_state = max(4, 1 << (A.shape[1] - 1).bit_length())
        self.chunks = -(-self.length // CHUNK)
        self.padded_length = self.chunks * CHUNK

    def blocks(self, of: Pass) -> int:
        """Warps that the channels of a group need."""
        return -(-self.channels // (self.groups * of.block))

    def warps(self, of: Pass) -> int:
        """Warps that a segment needs."""
        return self.batch * self.groups * self.blocks(of)

    def warps_of_program(self, of: Pass, segments: int) -> int:
        """Up to `MOST_WARPS`, where some scheduler gets two warps in any case.

        Of two warps on a scheduler the older one goes first and ends first, and the other is then alone. Those of one
        program are of an age: they take turns and end together.
        """
        return math.gcd(self.blocks(of), MOST_WARPS) if self.warps(of) * segments > SCHEDULERS else 1

    def tile(self, of: Pass) -> int:
        """Steps at once; fewer where exponentials are arithmetic, or the loop outgrows the cache for instructions."""
        return of.exact_tile if self.exact else of.tile

    def full(self, of: Pass) -> bool:
        """Whether every warp has all its lanes and steps."""
        return self.length == self.padded_length and self.channels // self.groups % of.block == 0

    def saved_shape(self, keep: bool) -> tuple[int, ...]:
        """Shape of the states that the forward pass keeps for the backward pass."""
        return (self.batch, self.chunks, self.d_state, self.channels) if keep else (0,)

    def states_at_once(self, most: int) -> int:
        """States that a kernel handles as one tensor."""
        return min(self.d_state, most)

    def segments(self, main: Pass, first: Pass, unit: int) -> tuple[int, int, int]:
        """(steps of a segment, segments, parts of a segment) that keep the GPU busy; see `choose_segments`."""
        states = self.batch * self.d_state * self.channels
        return choose_segments(
            self.padded_length, unit, self.warps(main), self.warps(first), states, main, first, MIN_SEGMENT
        )

    def carried(
        self,
        decay: Tensor,
        local: Tensor,
        first: Tensor | None,
        segments: int,
        parts_of_segment: int,
        *,
        back: bool,
        overlap: bool,
    ) -> Tensor:
        """What enters each segment, (segments, batch, padded d_state, channels); `first` enters the first or last."""
        carried = decay.new_empty(segments, *decay.shape[1:])
        size = decay[0].numel()
        launch(
            carry_states, (-(-size // CARRY_BLOCK), 1),
            decay, local, first, carried, len(decay), parts_of_segment, size,
            BACK=back, BLOCK=CARRY_BLOCK, AT_ONCE=CARRIED_AT_ONCE, **early(overlap),
        )  # fmt: skip
        return carried

    @staticmethod
    def rows(x: Tensor | None) -> Tensor | None:
        """x with contiguous channels."""
        return x if x is None or x.stride(2) == 1 else x.contiguous()

    @staticmethod
    def strides(x: Tensor | None) -> tuple[int, int]:
        """(batch, length) strides."""
        return (0, 0) if x is None else (x.stride(0), x.stride(1))

    def transposed(self, M: Tensor) -> Tensor:
        """(channels, d_state) -> (padded d_state, channels). Padding repeats the first state of A, where B = 0."""
        M_t = M.float().t()
        padding = self.d_state - M_t.shape[0]
        return torch.cat([M_t, M_t[:1].expand(padding, -1)]) if padding else M_t.contiguous()

    def in_time(self, M: Tensor, pack: bool = False) -> Tensor:
        """B or C in float32: (batch, groups, padded length, padded d_state), or (padded d_state, channels) if constant.

        With `pack`, bfloat16 that depends on time stays as it is, two numbers to an int32.
        """
        if M.ndim == 2:
            return torch.nn.functional.pad(M.float().t(), (0, 0, 0, self.d_state - M.shape[1])).contiguous()
        packed = pack and M.dtype == torch.bfloat16
        M = M.unsqueeze(2) if M.ndim == 3 else M
        M = M.transpose(1, 2)
        if M.shape[1] != self.groups:
            M = M.repeat_interleave(self.groups // M.shape[1], dim=1)
        if not packed:
            M = M.float()
        if self.padded_length != self.length or self.d_state != M.shape[3]:
            M = torch.nn.functional.pad(M, (0, self.d_state - M.shape[3], 0, self.padded_length - self.length))
        M = M.contiguous()
        if not packed:
            return M
        # Flat, because a dimension of length 1 may have any stride, and view() looks at all of them.
        return (M.clone() if M.storage_offset() % 2 else M).flatten().view(torch.int32)

    def states(self, state: Tensor | None) -> Tensor | None:
        """(batch, channels, d_state) -> (batch, padded d_state, channels)."""
        if state is None:
            return None
        return torch.nn.functional.pad(
            state.float().transpose(1, 2), (0, 0, 0, self.d_state - state.shape[2])
        ).contiguous()

    def padded(self, starts: Tensor | None) -> Tensor | None:
        """`starts` for whole chunks."""
        if starts is None:
            return None
        return torch.nn.functional.pad(starts, (0, self.padded_length - self.length)).contiguous()

    def summed_over_programs(self, shares: Tensor, d_state: int) -> Tensor:
        """(segments, batch, padded d_state, channels) -> (channels, d_state)."""
        return shares.sum((0, 1))[:d_state].t().contiguous()

    def summed_over_channels(self, shares: Tensor, like: Tensor) -> Tensor:
        """(groups, blocks, batch, padded length, padded d_state) -> the shape of B or C."""
        total = shares.sum(1)  # (groups, batch, padded length, padded d_state)
        groups = like.shape[2] if like.ndim == 4 else 1
        if groups != self.groups:
            total = total.unflatten(0, (groups, -1)).sum(1)
        total = total[:, :, : self.length, : like.shape[-1]].permute(1, 2, 0, 3)
        return total.reshape(like.shape)
