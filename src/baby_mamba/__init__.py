"""Mamba (selective state space models, arXiv 2312.00752), to learn from and to run.

Reading order: `shapes` (the glossary), `ops.selective_scan` (the recurrence: contract, then reference, then faster),
`layers` (norm, convolution, ssm, block, residual), `models` (backbone, heads), `generation`, `text_generation`,
`filling`, `scoring`, `extraction`, `data`, `training`, `comparison` (with a Transformer), and `cli`, which puts them
together.
"""

from baby_mamba.comparison import compare
from baby_mamba.config import (
    ComparisonConfig,
    DatasetConfig,
    GenerationConfig,
    MambaConfig,
    RunConfig,
    Sampling,
    TrainerConfig,
    load_config,
)
from baby_mamba.data import (
    InductionHeads,
    MaskedDataset,
    MaskTokenizer,
    SelectiveCopying,
    TaskDataset,
    TokenDataset,
    Tokenizer,
    fit_tokenizer,
    load_corpus,
    load_tokenizer,
    prepare_datasets,
)
from baby_mamba.errors import BabyMambaError
from baby_mamba.extraction import draw_cv, extract_education, read_document
from baby_mamba.filling import fill_blanks
from baby_mamba.generation import (
    generate,
    load_state,
    pad_left,
    prefill,
    repeat_state,
    sample,
    save_state,
    stream,
)
from baby_mamba.layers import BlockState, MambaBlock, MambaState, SelectiveSSM
from baby_mamba.models import (
    Mamba,
    MambaBackbone,
    MambaEncoder,
    MambaForMaskedLM,
    MambaForTokenClassification,
    MambaOutput,
    Transformer,
    build_model,
)
from baby_mamba.ops import causal_conv1d, rms_norm, selective_scan
from baby_mamba.scoring import load_questions, score_choices, score_text, token_log_probabilities
from baby_mamba.text_generation import TextSession, generate_text
from baby_mamba.training import Trainer, load_model
from baby_mamba.visualize import (
    plot_attention,
    plot_delta,
    plot_selection,
    plot_time_scales,
    record,
    record_attention,
    write_page,
)

__version__ = "0.1.0"

__all__ = [
    "BabyMambaError",
    "BlockState",
    "ComparisonConfig",
    "DatasetConfig",
    "GenerationConfig",
    "InductionHeads",
    "Mamba",
    "MambaBackbone",
    "MambaBlock",
    "MambaConfig",
    "MambaEncoder",
    "MambaForMaskedLM",
    "MambaForTokenClassification",
    "MambaOutput",
    "MambaState",
    "MaskTokenizer",
    "MaskedDataset",
    "RunConfig",
    "Sampling",
    "SelectiveCopying",
    "SelectiveSSM",
    "TaskDataset",
    "TextSession",
    "TokenDataset",
    "Tokenizer",
    "Trainer",
    "TrainerConfig",
    "Transformer",
    "build_model",
    "causal_conv1d",
    "compare",
    "draw_cv",
    "extract_education",
    "fill_blanks",
    "fit_tokenizer",
    "generate",
    "generate_text",
    "load_config",
    "load_corpus",
    "load_model",
    "load_questions",
    "load_state",
    "load_tokenizer",
    "pad_left",
    "plot_attention",
    "plot_delta",
    "plot_selection",
    "plot_time_scales",
    "prefill",
    "prepare_datasets",
    "read_document",
    "record",
    "record_attention",
    "repeat_state",
    "rms_norm",
    "sample",
    "save_state",
    "score_choices",
    "score_text",
    "selective_scan",
    "stream",
    "token_log_probabilities",
    "write_page",
]
