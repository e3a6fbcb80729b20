"""From text to batches of token ids. To read in this order:

1. `corpus`: a text, and its end held out.
2. `tokenizer`: characters, bytes or byte pairs as numbers, and back.
3. `dataset`: the numbers on disk, and the windows of them that training and evaluation see; `prepare_datasets` does
   all three.

`masking` hides tokens of the windows, for models that fill blanks; `tasks` has what needs no text: synthetic tasks.
Both give batches with labels.
"""

from baby_mamba.data.corpus import Corpus, load_corpus
from baby_mamba.data.dataset import Dataset, TokenDataset, loader, prepare_datasets
from baby_mamba.data.masking import MaskedDataset, mask_tokens
from baby_mamba.data.tasks import IGNORE_INDEX, InductionHeads, LabelledBatch, SelectiveCopying, TaskDataset, labelled
from baby_mamba.data.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    MaskTokenizer,
    Tokenizer,
    TransformersTokenizer,
    fit_tokenizer,
    load_tokenizer,
)

__all__ = [
    "IGNORE_INDEX",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "Dataset",
    "InductionHeads",
    "LabelledBatch",
    "MaskTokenizer",
    "MaskedDataset",
    "SelectiveCopying",
    "TaskDataset",
    "TokenDataset",
    "Tokenizer",
    "TransformersTokenizer",
    "fit_tokenizer",
    "labelled",
    "load_corpus",
    "load_tokenizer",
    "loader",
    "mask_tokens",
    "prepare_datasets",
]
