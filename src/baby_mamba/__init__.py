"""Mamba (selective state space models, arXiv 2312.00752), to learn from and to run.

Reading order: `shapes` (the glossary), `ops.selective_scan` (the recurrence: contract, then reference, then faster),
`layers` (norm, convolution, ssm, block, residual), `models` (backbone, heads), `generation`, `data`, `training`, and
`cli`, which puts them together.
"""

from baby_mamba.config import DatasetConfig, GenerationConfig, MambaConfig, RunConfig, TrainerConfig, load_config
from baby_mamba.data import TokenDataset, Tokenizer, fit_tokenizer, load_corpus, load_tokenizer, prepare_datasets
from baby_mamba.errors import BabyMambaError
from baby_mamba.generation import generate, prefill, sample, stream
from baby_mamba.layers import BlockState, MambaBlock, MambaState, SelectiveSSM
from baby_mamba.models import Mamba, MambaBackbone, MambaOutput
from baby_mamba.ops import causal_conv1d, rms_norm, selective_scan
from baby_mamba.training import Trainer, load_model

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
    "TokenDataset",
    "Tokenizer",
    "Trainer",
    "TrainerConfig",
    "causal_conv1d",
    "fit_tokenizer",
    "generate",
    "load_config",
    "load_corpus",
    "load_model",
    "load_tokenizer",
    "prefill",
    "prepare_datasets",
    "rms_norm",
    "sample",
    "selective_scan",
    "stream",
]
