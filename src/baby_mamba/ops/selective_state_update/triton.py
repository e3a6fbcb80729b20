"""A decoding step on CUDA as one Triton kernel: every number of the state is read once and written once.

A program advances `BLOCK` channels of one batch entry. Its tile (BLOCK, d_state) of the state is one piece of memory,
so a thread loads four neighbouring states at a time, and the sum over states in y = C . h is a few shuffles in a warp.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.selective_scan.reference import computing_dtype
from baby_mamba.ops.selective_scan.triton_forward import LOG2E, sigmoid, softplus
from baby_mamba.ops.triton_support import launch

TILE = 512  # states that a program advances: 4 for each of its threads
WARPS = 4


def selective_state_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    state_indices: Tensor | None,
) -> Tensor:
    """One kernel; arguments and result as `ops.selective_state_update`, not float64."""
    if computing_dtype(state, u, delta, A, B, C, delta_bias) != torch.float32:
        raise ShapeError(
            "selective_state_update: the triton backend computes in float32 and got a float64 argument; "
            "use .float() on it, or backend='reference'"
        )
    (batch, channels), d_state = u.shape, A.shape[1]
    y = u.new_empty(batch, channels)
    if y.numel() == 0:
        return y
    B, C = (M.unsqueeze(1) if M.ndim == 2 else M for M in (B, C))  # (batch, groups, d_state)
    padded = triton.next_power_of_2(d_state)
    block = min(max(TILE // padded, 1), triton.next_power_of_2(channels))
    launch(
        advance, (batch, triton.cdiv(channels, block)),
        state, u, delta, A, B, C, D, z, delta_bias, state_indices, y,
        len(state), channels, channels // B.shape[1], channels // C.shape[1],
        *state.stride(), *u.stride(), *delta.stride(), *A.stride(), *B.stride(), *C.stride(),
        *_strides(D, 1), *_strides(z, 2), *_strides(delta_bias, 1), *_strides(state_indices, 1),
        D_STATE=d_state, PADDED=padded, BLOCK=block, SOFTPLUS=delta_softplus, num_warps=WARPS,
    )  # fmt: skip
    if not state.is_inference():  # a backward pass that needs the states before is to notice, as after any in-place op
        torch.autograd.graph.increment_version(state)
    return y


def _strides(tensor: Tensor | None, dimensions: int) -> tuple[int, ...]:
    return (0,) * dimensions if tensor is None else tensor.stride()


@triton.jit(do_not_specialize=["slots"])  # the batch size: one compiled kernel serves all
def advance(
    state_ptr, u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, indices_ptr, y_ptr,
    slots, channels, channels_of_B, channels_of_C,
    state_slot, state_channel, state_n, u_batch, u_channel, delta_batch, delta_channel, A_channel, A_n,
    B_batch, B_group, B_n, C_batch, C_group, C_n, D_channel, z_batch, z_channel, bias_channel, indices_batch,
    D_STATE: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Strides are named (tensor)_(axis); `channels_of_B` is the number of channels that share a row of B."""
    batch = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    channel = index.to(tl.int64)  # offsets are int64: a pool of states may have more than 2^31 numbers
    n = tl.arange(0, PADDED).to(tl.int64)[None, :]
    inside = index < channels
    slot, active = batch, inside
    if indices_ptr is not None:
        slot = tl.load(indices_ptr + batch * indices_batch).to(tl.int64)
        tl.device_assert(slot < slots, "state_indices: an index is not smaller than the number of slots")
        active = inside & (slot >= 0)  # padding loads zeros, which give y = 0, and stores no state
    tile = active[:, None] & (n < D_STATE)

    u = tl.load(u_ptr + batch * u_batch + channel * u_channel, active, 0.0).to(tl.float32)
    delta = tl.load(delta_ptr + batch * delta_batch + channel * delta_channel, active, 0.0).to(tl.float32)
    A = tl.load(A_ptr + channel[:, None] * A_channel + n * A_n, tile, 0.0).to(tl.float32)
    group = (index // channels_of_B).to(tl.int64)[:, None]
    B = tl.load(B_ptr + batch * B_batch + group * B_group + n * B_n, tile, 0.0).to(tl.float32)
    group = (index // channels_of_C).to(tl.int64)[:, None]
    C = tl.load(C_ptr + batch * C_batch + group * C_group + n * C_n, tile, 0.0).to(tl.float32)
    state_ptr += slot * state_slot + channel[:, None] * state_channel + n * state_n
    h = tl.load(state_ptr, tile, 0.0).to(tl.float32)
    if bias_ptr is not None:
        delta += tl.load(bias_ptr + channel * bias_channel, active, 0.0).to(tl.float32)
    if SOFTPLUS:
        delta = softplus(delta)

    h = tl.exp2((delta * LOG2E)[:, None] * A) * h + (delta * u)[:, None] * B
    y = tl.sum(h * C, 1)
    if D_ptr is not None:
        y += tl.load(D_ptr + channel * D_channel, active, 0.0).to(tl.float32) * u
    if z_ptr is not None:
        z = tl.load(z_ptr + batch * z_batch + channel * z_channel, active, 0.0).to(tl.float32)
        y *= z * sigmoid(z)
    tl.store(state_ptr, h.to(state_ptr.dtype.element_ty), tile)
    tl.store(y_ptr + batch * channels + channel, y.to(y_ptr.dtype.element_ty), inside)
