r"""The selective scan as an associative scan in plain PyTorch.

One step of the recurrence is the affine map h -> a h + b with a = exp(delta A) and b = delta B u. Composing an earlier
map with a later one gives another affine map (Mamba, section 3.3.2; Blelloch, 1990, section 1.4):

    (a_1, b_1) then (a_2, b_2)  =  (a_1 a_2,  a_2 b_1 + b_2)

Composition is associative, so all prefixes can be had in a number of rounds that grows with log(length), each round one
large tensor operation. The price is that a and b exist for every step: (batch, length, channels, d_state) numbers. So
time is cut into chunks, the state is carried from chunk to chunk, and the backward pass recomputes a chunk's maps.

Where a packed sequence starts, a = 0. Since 0 * NaN is NaN, a NaN reaches the sequences packed behind it; the reference
and the fused backends keep it in its own.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from baby_mamba.ops.selective_scan.reference import finish, per_channel, prepare, read_out

CHUNK = 32  # steps; of 16 ... 256 the fastest on two CPU cores, and the memory of the backward grows with it


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
    """An associative scan within each chunk of time; arguments and results as `ops.selective_scan`."""
    x = prepare(u, delta, A, B, C, delta_bias, delta_softplus, initial_state, sequence_ids)
    h, outputs = x.initial_state, []
    for start in range(0, u.shape[1], CHUNK):
        now = slice(start, start + CHUNK)
        starts = None if x.starts is None else x.starts[:, now]
        y, h = checkpoint(
            _scan_chunk, x.u[:, now], x.delta[:, now], x.A, x.B[:, now], x.C[:, now], h, starts,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
        outputs.append(y)
    y = torch.cat(outputs, dim=1) if outputs else torch.zeros_like(x.u)
    return finish(y, u, D, z), h


def _scan_chunk(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    a = torch.exp(delta.unsqueeze(-1) * A)  # (batch, chunk, channels, d_state), as b and states
    b = (delta * u).unsqueeze(-1) * per_channel(B, u)
    if starts is not None:
        a = torch.where(starts[:, :, None, None], 0, a)  # forget everything before this step
    b = torch.cat([(a[:, 0] * h + b[:, 0]).unsqueeze(1), b[:, 1:]], dim=1)
    states = associative_scan(a, b)
    # A copy: a view would keep the states of the whole chunk alive for the backward.
    return read_out(states, per_channel(C, u)), states[:, -1].clone()


def associative_scan(a: Tensor, b: Tensor) -> Tensor:
    """All prefixes of the affine maps h -> a h + b applied to h = 0, along dimension 1.

    Pairs of neighbouring steps are composed, the half as long sequence of pairs is scanned by recursion, and the steps
    between follow from it: about 2 length compositions in 2 log2(length) rounds.

    Args:
        a: factors, (batch, length, ...).
        b: summands, of a's shape.

    Returns:
        h with h[:, t] = a[:, t] h[:, t-1] + b[:, t] and h[:, -1] = 0, of a's shape.
    """
    length = a.shape[1]
    if length < 2:
        return b
    even = length - length % 2
    a_early, a_late = a[:, 0:even:2], a[:, 1:even:2]
    b_early, b_late = b[:, 0:even:2], b[:, 1:even:2]
    h_late = associative_scan(a_early * a_late, a_late * b_early + b_late)  # after steps 1, 3, 5, ...
    h_early = torch.cat([b[:, :1], a[:, 2::2] * h_late[:, : (length - 1) // 2] + b[:, 2::2]], dim=1)  # after 0, 2, ...
    h = rearrange([h_early[:, : even // 2], h_late], "parity batch half ... -> batch (half parity) ...")
    return h if even == length else torch.cat([h, h_early[:, -1:]], dim=1)
