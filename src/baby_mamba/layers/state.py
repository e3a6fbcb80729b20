"""What a block remembers between two calls: a constant amount of memory, however long the past."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from torch import Tensor

from baby_mamba.shapes import ConvState, SSMState


class BlockState(NamedTuple):
    """The state of one Mamba block. `y, state = block(x, state)` goes on where the call that gave `state` ended."""

    conv: ConvState  # the last d_conv - 1 inputs of the convolution, oldest first
    ssm: SSMState  # h, float32


MambaState = tuple[BlockState, ...]  # one BlockState per layer


State = TypeVar("State", bound=tuple)  # a named tuple of tensors for each layer, as MambaState is


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to every tensor of a state, e.g. `map_state(lambda t: t[rows], state)` to pick batch rows."""
    return tuple(type(layer)(*(t if t is None else function(t) for t in layer)) for layer in state)
