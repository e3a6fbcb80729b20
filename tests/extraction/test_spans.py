"""Spans become labels and come back, and the decoder finds the likeliest ones that are allowed."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baby_mamba.extraction.spans import (
    ALPHABET,
    LABELS,
    LabelledText,
    Span,
    decode,
    edit,
    encode,
    join,
    to_labels,
    to_spans,
)

TEXT = "BSc, Vel Uni\n2019"
SPANS = (Span(0, 3, "degree"), Span(5, 12, "institution"), Span(13, 17, "year"))


def test_labels_by_hand() -> None:
    labels = [LABELS[i] for i in to_labels(LabelledText("a BA 1", (Span(2, 4, "degree"), Span(5, 6, "year"))))]
    assert labels == ["O", "O", "B-degree", "I-degree", "O", "B-year"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from(["institution", "degree", "year"]))))
def test_labels_and_back(parts: list[tuple[int, int, str]]) -> None:
    """Any spans, touching ones of one field included."""
    spans, end = [], 0
    for gap, length, field in parts:
        spans.append(Span(end + gap, end + gap + length, field))
        end += gap + length
    assert to_spans(to_labels(LabelledText("x" * (end + 2), tuple(spans)))) == tuple(spans)


def test_an_inside_after_nothing_begins_a_span() -> None:
    inside = LABELS.index("I-degree")
    assert to_spans(np.array([0, inside, inside, LABELS.index("I-year"), 0])) == (
        Span(1, 3, "degree"),
        Span(3, 4, "year"),
    )


def test_join_moves_the_spans() -> None:
    joined = join([LabelledText("ab"), LabelledText("cd", (Span(0, 2, "degree"),)), LabelledText("")], ", ")
    assert joined == LabelledText("ab, cd, ", (Span(4, 6, "degree"),))


def test_edit_keeps_spans_whole() -> None:
    """What replaces a piece within a span is a part of it, and at its edge it is not."""
    labelled = LabelledText("in Vel Uni now", (Span(3, 10, "institution"),))
    assert edit(labelled, [(2, 3, "\n\n"), (6, 7, "-\n"), (10, 11, "")]) == LabelledText(
        "in\n\nVel-\nUninow", (Span(4, 12, "institution"),)
    )


def test_encode_is_one_id_for_each_character() -> None:
    text = "é–•“ł中中国ABC\u3000😀"
    ids = encode(text)
    assert ids.shape == (len(text),)
    assert ids.min() >= 0
    assert ids.max() < ALPHABET
    assert "".join(map(chr, ids[:4])) == 'é-*"'
    assert "".join(map(chr, encode("ăńŠ②"))) == "anS2"


def test_a_line_break_tells_how_full_its_line_is() -> None:
    """What counts is whether the next word would have fitted: in no line, in the longest one, or in those around."""
    lines = ["1234567890", "12345", "1", "123", "", "1", "1234 12", "12"]
    ids = encode("\n".join(lines))
    assert "".join(map(chr, ids)) == "1234567890\n12345\f1\f123\f\f1\f1234 12\v12"
    assert "".join(map(chr, encode("ab\ncd"))) == "ab\ncd"


def certain(text: str, spans: tuple[Span, ...], *, right: float = 0.0, wrong: float = -5.0) -> np.ndarray:
    scores = np.full((len(text), len(LABELS)), wrong)
    scores[np.arange(len(text)), to_labels(LabelledText(text, spans))] = right
    return scores


def test_decode_finds_what_is_certain() -> None:
    assert decode(certain(TEXT, SPANS), TEXT) == SPANS


def test_the_characters_of_a_word_decide_together() -> None:
    """Single characters that say something else, even at the edge of a span, are outvoted by their word."""
    scores = certain(TEXT, SPANS)
    scores[[2, 11]] = np.where(np.arange(len(LABELS)) == 0, 0.0, -5.0)
    assert decode(scores, TEXT) == SPANS


def test_a_year_has_four_digits() -> None:
    for text in ("12345", "201x", "year", "99"):
        assert all(span.field != "year" for span in decode(certain(text, (Span(0, len(text), "year"),)), text))
    for text, start in (("1999", 0), ("1998_1999", 5)):
        assert decode(certain(text, (Span(start, start + 4, "year"),)), text) == (Span(start, start + 4, "year"),)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        (" BSc \n", [Span(1, 4, "degree")]),
        ("- BSc,\n", [Span(2, 5, "degree")]),
        ("BSc (", [Span(0, 3, "degree")]),
        ("B.Sc.", [Span(0, 5, "degree")]),
        ("Matura.", [Span(0, 6, "degree")]),
        ("Law (BA).", [Span(0, 8, "degree")]),
        ("BSc (Hons)", [Span(0, 10, "degree")]),
        ("BSc)", [Span(0, 3, "degree")]),
        ("BSc (Hons", [Span(0, 3, "degree"), Span(5, 9, "degree")]),
        ("Law [BA] (Hons)", [Span(0, 15, "degree")]),
        ("--", []),
    ],
)
def test_what_stands_at_the_edges(text: str, spans: list[Span]) -> None:
    assert decode(certain(text, (Span(0, len(text), "degree"),)), text) == tuple(spans)


def test_decode_nothing() -> None:
    assert decode(np.zeros((0, len(LABELS))), "") == ()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("text", ["a ,b", "(a)b", "a(b)", "a[(]"])
def test_decode_is_the_best_of_all(text: str, seed: int) -> None:
    """Against every labelling of a text of single-character words, scored one by one."""
    n = len(LABELS)
    scores = np.random.default_rng(seed).normal(size=(len(text), n)) * 2

    def allowed(path: tuple[int, ...]) -> bool:
        for place, label in enumerate(path):
            name = LABELS[label]
            if name.startswith("I") and (place == 0 or LABELS[path[place - 1]][2:] != name[2:]):
                return False
            goes_on = place + 1 < len(text) and LABELS[path[place + 1]] == f"I-{name[2:]}"
            if name.endswith("year") or (name.startswith("B") and not text[place].isalpha()):
                return False
            if name != "O" and text[place] in " ,([" and not goes_on:
                return False
        return all(brackets_fit(text[span.start : span.end]) for span in to_spans(np.array(path)))

    def brackets_fit(text: str) -> bool:
        n_open = np.cumsum([(c in "([") - (c in ")]") for c in text])
        return n_open[-1] == 0 and n_open.min() >= 0 and n_open.max() <= 1

    best = max(filter(allowed, product(range(n), repeat=len(text))), key=lambda p: sum(scores[np.arange(4), list(p)]))
    assert decode(scores, text) == to_spans(np.array(best))
