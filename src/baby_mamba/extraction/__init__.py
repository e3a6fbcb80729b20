"""From a CV to a table: which institutions, degrees and years its education has. To read in this order:

1. `names`, `layouts`, `composition`, `generator`: invented CVs with their labels, to train on and, in other layouts, to
   test with.
2. `spans`: labels of characters, and how the likeliest spans are found.
3. `task`: the CVs as rows that a trainer takes.
4. `readers`: the text of a .pdf, .docx or .txt file.
5. `extract`: what a trained model finds in a text, put together into entries.
6. `metrics`: precision, recall and F1 of whole spans.
"""

from baby_mamba.extraction.extract import Education, extract_education, find_spans
from baby_mamba.extraction.generator import draw_cv
from baby_mamba.extraction.metrics import SpanScore, score_spans
from baby_mamba.extraction.readers import read_document
from baby_mamba.extraction.spans import FIELDS, LABELS, LabelledText, Span
from baby_mamba.extraction.task import CVExtraction

__all__ = [
    "FIELDS",
    "LABELS",
    "CVExtraction",
    "Education",
    "LabelledText",
    "Span",
    "SpanScore",
    "draw_cv",
    "extract_education",
    "find_spans",
    "read_document",
    "score_spans",
]
