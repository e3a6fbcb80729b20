"""The causal depthwise convolution: a short, local memory in front of the state space model."""

import math

import torch
from torch import nn

from baby_mamba.ops import causal_conv1d
from baby_mamba.shapes import Channels, ConvState, SequenceIds


class CausalConv1d(nn.Module):
    """silu(bias + sum_k weight[:, k] x_{t - width + 1 + k}): each channel looks at its own last `width` inputs.

    The weight is (channels, 1, width), as nn.Conv1d stores a depthwise convolution, so that published checkpoints fit.

    Args:
        channels: number of channels.
        width: taps, d_conv.
        bias: add a bias.
        backend: see `baby_mamba.ops.backend`.
    """

    def __init__(self, channels: int, width: int, *, bias: bool = True, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(channels, 1, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        bound = 1 / math.sqrt(width)  # nn.Conv1d's initialisation with groups = channels
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, x: Channels, state: ConvState | None = None, *, sequence_ids: SequenceIds | None = None
    ) -> tuple[Channels, ConvState]:
        """Return (y, state) with y of x's shape; see `ops.causal_conv1d`."""
        return causal_conv1d(
            x,
            self.weight.squeeze(1),
            self.bias,
            activation="silu",
            initial_state=state,
            sequence_ids=sequence_ids,
            return_final_state=True,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        channels, _, width = self.weight.shape
        return f"{channels}, width={width}, bias={self.bias is not None}"
