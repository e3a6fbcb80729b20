"""From a text and a trained model to the entries of an education."""

from __future__ import annotations

import re
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import torch

from baby_mamba.errors import ShapeError
from baby_mamba.extraction.spans import FIELDS, LABELS, Span, decode, encode
from baby_mamba.models import MambaForTokenClassification

_CHUNK, _CONTEXT = 8192, 1024  # characters read at once, and those on each side of them that are read for context only
_EMPTY_LINE = 500  # the distance of two values across an empty line, in characters


class Education(NamedTuple):
    """An entry of an education; None is what was not found."""

    institution: str | None = None
    degree: str | None = None
    year: int | None = None


def extract_education(model: MambaForTokenClassification, text: str) -> list[Education]:
    """The entries of the education in a CV, in the order of the text.

    Args:
        model: trained on `CVExtraction`, on any device.
        text: of the whole CV.

    Raises:
        ShapeError: the model has other labels.
    """
    entries = []
    for spans in group(find_spans(model, text), text):
        values = {span.field: value_of(span, text) for span in spans}
        entries.append(Education(**values | ({"year": int(values["year"])} if "year" in values else {})))
    return entries


@torch.no_grad()
def find_spans(model: MambaForTokenClassification, text: str) -> tuple[Span, ...]:
    """Where institutions, degrees and years of an education stand in a text, in order; see `decode`.

    Raises:
        ShapeError: the model has other labels.
    """
    if model.config.n_labels != len(LABELS):
        raise ShapeError(
            f"the model has {model.config.n_labels} labels; expected the {len(LABELS)} of {', '.join(FIELDS)}: use one "
            "that was trained with dataset.task = cv_extraction"
        )
    if not text:
        return ()
    device = next(model.parameters()).device
    ids = torch.from_numpy(encode(text)).to(device)
    scores = []
    for start in range(0, len(text), _CHUNK):
        first = max(0, start - _CONTEXT)
        logits = model(ids[None, first : start + _CHUNK + _CONTEXT]).logits[0, start - first :][:_CHUNK]
        scores.append(logits.double().log_softmax(-1).cpu().numpy())
    return decode(np.concatenate(scores), text)


def value_of(span: Span, text: str) -> str:
    """What a span says: on one line, and without the hyphens that divide words at the ends of lines."""
    joined = re.sub(r"(?<=[^\W\d_])-\n(?=[^\W\d_])", "", text[span.start : span.end])
    return " ".join(joined.split())


def group(spans: tuple[Span, ...], text: str) -> list[tuple[Span, ...]]:
    """Spans that belong together, in the order of the text: at most one of each field in a group.

    As few groups as possible, of neighbours, and among those the groups whose values are nearest to each other. Where
    all institutions come first, then as many degrees and so on, as in columns, the first ones belong together.
    """
    runs = [list(run) for _, run in groupby(spans, key=lambda span: span.field)]
    is_columns = 1 < len(runs) == len({run[0].field for run in runs}) and len({len(run) for run in runs}) == 1
    if is_columns and len(runs[0]) > 1:
        return list(zip(*runs, strict=True))
    best: list[tuple[int, int, list[tuple[Span, ...]]]] = [(0, 0, [])]  # for the first spans: groups, distances, which
    for end in range(1, len(spans) + 1):
        options = []
        for start in range(max(0, end - len(FIELDS)), end):
            together = spans[start:end]
            if len({span.field for span in together}) == len(together):
                n_groups, distance, groups = best[start]
                options.append((n_groups + 1, distance + _distance(together, text), [*groups, together]))
        best.append(min(options, key=lambda option: option[:2]))
    return best[-1][2]


def _distance(spans: tuple[Span, ...], text: str) -> int:
    """Characters between neighbours in a group, empty lines counted as many."""
    between = [text[left.end : right.start] for left, right in pairwise(spans)]
    return sum(len(gap) + _EMPTY_LINE * len(re.findall(r"\n\s*\n", gap)) for gap in between)
