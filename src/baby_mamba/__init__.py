"""Mamba (selective state space models, arXiv 2312.00752), to learn from and to run.

Reading order: `shapes` (the glossary), `ops.selective_scan` (the recurrence: contract, then reference, then faster),
`layers` (norm, convolution, ssm, block, residual), `models` (backbone, heads), `generation`, `data`, `training`, and
`cli`, which puts them together.
"""

from baby_mamba.config import DatasetConfig, GenerationConfig, MambaConfig, RunConfig, TrainerConfig, load_config
from baby_mamba.errors import BabyMambaError
from baby_mamba.generation import generate, prefill, sample, stream
from baby_mamba.layers import BlockState, MambaBlock, MambaState, SelectiveSSM
from baby_mamba.models import Mamba, MambaBackbone, MambaOutput

__version__ = "0.1.0"

__all__ = [
    "BabyMambaError",
    "BlockState",
    "DatasetConfig",
    "GenerationConfig",
    "Mamba",
    "MambaBackbone",
    "MambaBlock",
    "MambaConfig",
    "MambaOutput",
    "MambaState",
    "RunConfig",
    "SelectiveSSM",
    "TrainerConfig",
    "generate",
    "load_config",
    "prefill",
    "sample",
    "stream",
]
