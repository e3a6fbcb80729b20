"""How well spans are found: precision, recall and F1 of whole spans, as CoNLL-2003 and seqeval count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from baby_mamba.extraction.spans import FIELDS, Span


class SpanScore(NamedTuple):
    """Spans of one field, or of all. A span is right if field, start and end are."""

    n_right: int
    n_found: int
    n_expected: int

    @property
    def precision(self) -> float:
        """Share of the found spans that are right; 0 if none was found."""
        return self.n_right / self.n_found if self.n_found else 0.0

    @property
    def recall(self) -> float:
        """Share of the expected spans that were found; 0 if none was expected."""
        return self.n_right / self.n_expected if self.n_expected else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if nothing is right."""
        return 2 * self.n_right / (self.n_found + self.n_expected) if self.n_right else 0.0


def score_spans(pairs: Iterable[tuple[Iterable[Span], Iterable[Span]]]) -> dict[str, SpanScore]:
    """The scores of each field, and of all fields together under "all" (micro average: every span counts the same).

    Args:
        pairs: (found, expected) spans of each document.
    """
    right, n_found, n_expected = Counter(), Counter(), Counter()
    for found, expected in pairs:
        found, expected = set(found), set(expected)
        right.update(span.field for span in found & expected)
        n_found.update(span.field for span in found)
        n_expected.update(span.field for span in expected)
    scores = {field: SpanScore(right[field], n_found[field], n_expected[field]) for field in FIELDS}
    return scores | {"all": SpanScore(*map(sum, zip(*scores.values(), strict=True)))}
