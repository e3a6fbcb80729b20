"""Where a captured step keeps a model's states, and how a state that lies there is handed out."""

from __future__ import annotations

import torch
from torch import Tensor

from baby_mamba.config import MambaConfig
from baby_mamba.layers import BlockState, MambaState


class StateBuffer:
    """The state of every layer at addresses that stay.

    Args:
        config: the model's.
        batch: number of rows.
        like: a tensor of the dtype of the convolution's state, on the model's device.
    """

    def __init__(self, config: MambaConfig, batch: int, like: Tensor) -> None:
        wide = torch.promote_types(like.dtype, torch.float32)
        self.conv = like.new_zeros(config.n_layer, batch, config.d_conv - 1, config.d_inner)
        self.ssm = like.new_zeros(config.n_layer, batch, config.d_inner, config.d_state, dtype=wide)

    def load(self, state: MambaState) -> None:
        """Overwrite what is here."""
        torch.stack([layer.conv for layer in state], out=self.conv)
        torch.stack([layer.ssm for layer in state], out=self.ssm)

    def layers(self) -> MambaState:
        """What is here, as views."""
        return tuple(map(BlockState, self.conv.unbind(0), self.ssm.unbind(0)))

    def copy(self) -> MambaState:
        """What is here now, in memory of its own."""
        return tuple(map(BlockState, self.conv.clone().unbind(0), self.ssm.clone().unbind(0)))


class LentState:
    """A state that lies in a buffer until somebody asks for it, or until the buffer is needed.

    Most states are never asked for, and at a large batch a copy takes as long as a quarter of a step.
    """

    def __init__(self, buffer: StateBuffer) -> None:
        self._buffer: StateBuffer | None = buffer
        self._state: MambaState | None = None

    def get(self) -> MambaState:
        """The state, in memory of its own."""
        if self._state is None:
            self._state, self._buffer = self._buffer.copy(), None
        return self._state
