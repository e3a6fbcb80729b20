"""Decoding on a GPU: one step of a Mamba as a CUDA graph of a few fused kernels a layer.

Reading order: `kernels` (what a layer is at a length of 1), `fused` (how a model's step is made of them), `buffers`
(where its states lie), `decoder` (the capture), `pool` (when it is used). `generation.stream` uses it by itself.
"""

from baby_mamba.decoding.buffers import LentState, StateBuffer
from baby_mamba.decoding.decoder import Decoder, OrdinaryStep
from baby_mamba.decoding.fused import FusedStep, Plan, Tiling, can_fuse
from baby_mamba.decoding.pool import borrow_decoder

__all__ = [
    "Decoder",
    "FusedStep",
    "LentState",
    "OrdinaryStep",
    "Plan",
    "StateBuffer",
    "Tiling",
    "borrow_decoder",
    "can_fuse",
]
