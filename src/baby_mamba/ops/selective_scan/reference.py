"""The selective scan as a loop over time in plain PyTorch: slow, exact, and the oracle of every other backend."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor


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
    """Mamba, algorithm 2, one step of time after the other; arguments and results as `ops.selective_scan`."""
    x = prepare(u, delta, A, B, C, delta_bias, delta_softplus, initial_state, sequence_ids)
    h, outputs = x.initial_state, []
    for t in range(u.shape[1]):
        if x.starts is not None:
            h = torch.where(x.starts[:, t, None, None], 0, h)
        A_bar = torch.exp(x.delta[:, t, :, None] * x.A)  # (batch, channels, d_state), as B_bar and h
        B_bar = x.delta[:, t, :, None] * per_channel(x.B[:, t], u)
        h = A_bar * h + B_bar * x.u[:, t, :, None]
        outputs.append(read_out(h, per_channel(x.C[:, t], u)))
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x.u)
    return finish(y, u, D, z), h


class Prepared(NamedTuple):
    """The arguments of a scan in the computing dtype and in one shape each."""

    u: Tensor  # (batch, length, channels)
    delta: Tensor  # (batch, length, channels), after bias and softplus
    A: Tensor  # (channels, d_state)
    B: Tensor  # (batch, length, groups, d_state)
    C: Tensor  # (batch, length, groups, d_state)
    initial_state: Tensor  # (batch, channels, d_state)
    starts: Tensor | None  # (batch, length) bool: a new sequence starts at this step


def prepare(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> Prepared:
    """Bring the arguments to the computing dtype and to one shape each, and apply the bias and the softplus."""
    batch, length, channels = u.shape
    dtype = computing_dtype(u, delta, A, B, C, delta_bias, initial_state)
    state_dtype = dtype.to_complex() if A.is_complex() else dtype

    def grouped(M: Tensor) -> Tensor:
        M = M.to(state_dtype)
        if M.ndim == 2:  # constant in time
            return M.expand(batch, length, *M.shape)
        return M.unsqueeze(2) if M.ndim == 3 else M

    delta = delta.to(dtype)
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    if initial_state is None:
        initial_state = u.new_zeros(batch, channels, A.shape[1], dtype=state_dtype)
    starts = None
    if sequence_ids is not None:
        starts = F.pad(sequence_ids[:, 1:] != sequence_ids[:, :-1], (1, 0)) if length else sequence_ids.bool()
    return Prepared(
        u.to(dtype), delta, A.to(state_dtype), grouped(B), grouped(C), initial_state.to(state_dtype), starts
    )


def computing_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any tensor is float64 or complex128, else float32: the real dtype in which a scan computes."""
    wide = (torch.float64, torch.complex128)
    return torch.float64 if any(t is not None and t.dtype in wide for t in tensors) else torch.float32


def per_channel(M: Tensor, u: Tensor) -> Tensor:
    """Repeat each group's row for its channels: (..., groups, d_state) to (..., channels or 1, d_state)."""
    groups, channels = M.shape[-2], u.shape[-1]
    if groups in (1, channels):
        return M
    return repeat(M, "... groups n -> ... (groups members) n", members=channels // groups)


def read_out(h: Tensor, C: Tensor) -> Tensor:
    """y = C . h, or 2 Re(C . h) where a complex state stands for a conjugate pair (S4D, arXiv 2206.11893)."""
    y = (h * C).sum(-1)
    return 2 * y.real if y.is_complex() else y


def finish(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add the skip connection, apply the gate, and return to u's dtype."""
    if D is not None:
        y = y + D.to(y.dtype) * u.to(y.dtype)
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    return y.to(u.dtype)
