"""The causal depthwise convolution in plain PyTorch: one shifted product per tap."""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Sum `width` shifted copies of the input, each times its tap; arguments and results as `ops.causal_conv1d`."""
    (batch, length, channels), width = x.shape, weight.shape[1]
    if initial_state is None:
        initial_state = x.new_zeros(batch, width - 1, channels)
    past = torch.cat([initial_state.to(x.dtype), x], dim=1)  # (batch, width - 1 + length, channels)
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)

    segments = None
    if sequence_ids is not None and length:
        # Number the sequences of a row 0, 1, 2, ...; the initial state belongs to the first.
        changes = F.pad(sequence_ids[:, 1:] != sequence_ids[:, :-1], (width, 0))
        segments = changes.cumsum(dim=1)  # (batch, width - 1 + length)

    y = torch.zeros(batch, length, channels, dtype=dtype, device=x.device)
    for k in range(width):
        tap = past[:, k : k + length].to(dtype)
        if segments is not None:
            same = segments[:, k : k + length] == segments[:, width - 1 :]
            tap = torch.where(same.unsqueeze(-1), tap, 0)
        y = y + tap * weight[:, k].to(dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = F.silu(y)

    state = past[:, length:]
    if segments is not None:
        state = torch.where((segments[:, length:] == segments[:, -1:]).unsqueeze(-1), state, 0)
    return y.to(x.dtype), state
