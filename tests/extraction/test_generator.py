"""The invented CVs: labels that fit, choices that can be repeated, and two collections that have nothing in common."""

import re
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest

from baby_mamba.extraction import layouts, names
from baby_mamba.extraction.extract import value_of
from baby_mamba.extraction.generator import CV, as_read, break_cells, break_lines, draw_cv
from baby_mamba.extraction.spans import LabelledText, Span

BOTH = pytest.mark.parametrize("held_out", [False, True])


def cvs(n: int, *, held_out: bool) -> list[CV]:
    return [draw_cv(np.random.default_rng(seed), held_out=held_out) for seed in range(n)]


@BOTH
def test_spans_are_the_values(held_out: bool) -> None:
    """Every label stands on a whole value, in the section of education and nowhere else."""
    for cv in cvs(200, held_out=held_out):
        text, spans = cv.labelled()
        assert all(text[s.start : s.end] == text[s.start : s.end].strip() != "" for s in spans)
        assert all(left.end <= right.start for left, right in pairwise(spans))
        assert all(re.fullmatch("[0-9]{4}", text[s.start : s.end]) for s in spans if s.field == "year")
        (education,) = (section for section in cv.sections if section.kind == "education")
        assert sum(len(entry.spans) for entry in education.entries) == len(spans) > 0
        assert not any(entry.spans for s in cv.sections if s.kind != "education" for entry in s.entries)
        assert "{" not in text
        assert "}" not in text


@BOTH
def test_an_entry_has_each_field_at_most_once(held_out: bool) -> None:
    for cv in cvs(200, held_out=held_out):
        for section in cv.sections:
            for entry in section.entries:
                found = [span.field for span in entry.spans]
                assert len(set(found)) == len(found)
    wholes = [
        len(entry.spans) == 3
        for cv in cvs(200, held_out=held_out)
        for s in cv.sections
        for entry in s.entries
        if entry.spans
    ]
    assert np.mean(wholes) > 0.8


@BOTH
def test_the_year_is_the_last_one(held_out: bool) -> None:
    """In a range like 2015 - 2019 it is 2019 that is labelled."""
    n_ranges = 0
    for cv in cvs(200, held_out=held_out):
        for entry in (e for s in cv.sections if s.kind == "education" for e in s.entries):
            for span in (s for s in entry.spans if s.field == "year"):
                before = re.search(r"\b([12][0-9]{3})\W{1,4}$", entry.text[: span.start])
                if before:
                    n_ranges += 1
                    assert int(before[1]) < int(entry.text[span.start : span.end])
    assert n_ranges > 20


@BOTH
def test_a_seed_is_a_cv(held_out: bool) -> None:
    assert cvs(5, held_out=held_out) == cvs(5, held_out=held_out)
    assert len({cv.labelled().text for cv in cvs(50, held_out=held_out)}) == 50


TO_TEST_WITH = pytest.mark.parametrize("collection", ["HELD_OUT", "BLIND"])


@TO_TEST_WITH
def test_the_collections_have_no_template_in_common(collection: str) -> None:
    training, other = layouts.TRAINING, getattr(layouts, collection)
    for field in ("education", "schooling", "dates", "headings", "header", "experience", "work", "work_dates"):
        assert not set(getattr(training, field)) & set(getattr(other, field)), field
    titles, entries = (
        [{x for others in look.others for x in others[part]} for look in (training, other)] for part in (0, 1)
    )
    assert not titles[0] & titles[1]
    assert not entries[0] & entries[1]


@TO_TEST_WITH
def test_the_collections_have_no_name_in_common(collection: str) -> None:
    shared = {"institutions", "degrees", "listed"}
    for field in {f.name for f in fields(names.Names)} - shared:
        training, other = ({x.lower() for x in getattr(n, field)} for n in (names.TRAINING, getattr(names, collection)))
        assert not training & other, field


@TO_TEST_WITH
def test_names_to_train_on_have_no_part_of_those_to_test_with(collection: str) -> None:
    random, other = np.random.default_rng(0), getattr(names, collection)
    parts = [p.lower() for p in (*other.place_starts, *other.family_starts)]
    made = [names.word(random) for _ in range(2000)]
    assert not [word for word in made if any(part in word for part in parts)]
    subjects = {names.TRAINING.subject(random) for _ in range(2000)}
    assert not subjects & set(other.subjects)


def test_reading_changes_white_space_only() -> None:
    n_changed = n_divided = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        before = draw_cv(random).labelled()
        after = as_read(before, random)
        values = [["".join(value_of(span, text).split()) for span in spans] for text, spans in (before, after)]
        assert values[0] == values[1]
        assert [s.field for s in before.spans] == [s.field for s in after.spans]
        n_changed += before.text != after.text
        n_divided += any("-\n" in after.text[s.start : s.end] for s in after.spans)
    assert n_changed > 100
    assert n_divided > 5


def test_break_lines_by_hand() -> None:
    labelled = LabelledText("BSc, University of Vel\n2019", (Span(5, 22, "institution"),))
    random = np.random.default_rng(0)
    assert break_lines(labelled, random, 16) == LabelledText(
        "BSc, University\nof Vel\n2019", (Span(5, 22, "institution"),)
    )
    assert break_lines(labelled, random, 11, hyphenate=1.0) == LabelledText(
        "BSc, Unive-\nrsity of\nVel\n2019", (Span(5, 24, "institution"),)
    )
    assert break_lines(labelled, random, 80) == labelled


def test_break_cells_by_hand() -> None:
    """A cell that needs several lines is followed by a line break, another one by a space."""
    row = LabelledText("2019 – 2021\tBSc in Botany\tA\nx y", (Span(7, 11, "year"), Span(12, 25, "degree")))
    assert break_cells(row, 11) == LabelledText(
        "2019 – 2021 BSc in\nBotany\nA\nx y", (Span(7, 11, "year"), Span(12, 25, "degree"))
    )
    assert break_cells(LabelledText("a b\nc d"), 1) == LabelledText("a b\nc d")


def test_lines_are_no_longer_than_the_width() -> None:
    for seed, cv in enumerate(cvs(30, held_out=False)):
        broken = break_lines(cv.labelled(), np.random.default_rng(seed), 40, hyphenate=0.5)
        assert all(len(line) <= 40 or not re.search(r"\S \S", line[40:]) for line in broken.text.split("\n"))
