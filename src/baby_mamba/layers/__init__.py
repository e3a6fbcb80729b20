"""Layers, in reading order: norm, convolution, ssm, block, residual; state, what they remember; legendre, an option."""

from baby_mamba.layers.block import MambaBlock
from baby_mamba.layers.convolution import CausalConv1d
from baby_mamba.layers.legendre import LegendreExpansion
from baby_mamba.layers.norm import RMSNorm
from baby_mamba.layers.residual import ResidualBlock
from baby_mamba.layers.ssm import SelectiveSSM
from baby_mamba.layers.state import BlockState, MambaState, map_state

__all__ = [
    "BlockState",
    "CausalConv1d",
    "LegendreExpansion",
    "MambaBlock",
    "MambaState",
    "RMSNorm",
    "ResidualBlock",
    "SelectiveSSM",
    "map_state",
]
