"""Scores of spans, against cases counted by hand."""

import pytest

from baby_mamba.extraction import Span, score_spans

A, B, C = Span(0, 5, "institution"), Span(7, 10, "degree"), Span(12, 16, "year")


def test_by_hand() -> None:
    """Two documents: a right institution, one found with a wrong end, a missed year, a degree that is none."""
    scores = score_spans([([A, B], [A, C]), ([A._replace(end=6), C], [A, C])])
    assert scores["institution"] == (1, 2, 2)
    assert scores["degree"] == (0, 1, 0)
    assert scores["year"] == (1, 1, 2)
    assert scores["all"] == (2, 4, 4)
    assert scores["year"].precision == 1
    assert scores["year"].recall == 0.5
    assert scores["year"].f1 == pytest.approx(2 / 3)
    assert scores["all"].f1 == pytest.approx(0.5)


def test_the_field_counts() -> None:
    assert score_spans([([A], [A._replace(field="degree")])])["all"] == (0, 1, 1)


def test_the_same_place_in_another_document_is_not_right() -> None:
    assert score_spans([([A], []), ([], [A])])["all"] == (0, 1, 1)


def test_micro_average_is_not_the_mean_of_the_fields() -> None:
    years = [Span(i, i + 1, "year") for i in range(9)]
    scores = score_spans([([*years], [*years, A])])
    assert scores["all"].recall == pytest.approx(0.9)


def test_nothing() -> None:
    for score in score_spans([([], [])]).values():
        assert (score.precision, score.recall, score.f1) == (0, 0, 0)
