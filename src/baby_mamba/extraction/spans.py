"""Labelled spans of text, and the labels of characters that stand for them.

    institution:   U  n  i  v  e  r  s  i  t  y     o  f     ...      ,     2  0  1  9
    label:         B  I  I  I  I  I  I  I  I  I  I  I  I  I  ...  I   O  O  B  I  I  I        (year: its own B and I)

B begins a span of a field, I goes on with it, and O is outside (Ramshaw and Marcus, 1995, arXiv cmp-lg/9505040).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

FIELDS = ("institution", "degree", "year")
LABELS = ("O", *(f"{prefix}-{field}" for field in FIELDS for prefix in "BI"))
ALPHABET = 256  # token ids are in [0, ALPHABET)

_OUTSIDE = 0
_BEGIN = {field: 1 + 2 * number for number, field in enumerate(FIELDS)}  # the label after it is the field's I
_BEGINS = list(_BEGIN.values())
_GOES_ON = [label + 1 for label in _BEGINS]
_STATES = (*range(len(LABELS)), *_GOES_ON)  # of `decode`: the label of each; the last ones are between brackets
_IN_BRACKETS = range(len(LABELS), len(_STATES))
_NOT_LATIN_1 = re.compile(r"[^\x00-\xff]")
_WORD = re.compile(r"[^\W_]+|[\W_]")
_ABBREVIATION = 4  # the most characters of a word that has a full stop after it within a span
_NEAR = 2  # lines before and after the two lines at a line break
_YEAR = re.compile(r"[0-9]{4}")
_LOOKS_LIKE = str.maketrans("–—―−‐‑→•▪●◦‣∙■“”„’‘‚…\ufffd", "-------*******\"\"\"'''.?")


class Span(NamedTuple):
    """text[start:end] is a value of a field."""

    start: int
    end: int
    field: str


class LabelledText(NamedTuple):
    """A text and the spans in it, in order and without overlap."""

    text: str
    spans: tuple[Span, ...] = ()


def join(parts: Iterable[LabelledText], separator: str = "") -> LabelledText:
    """`separator.join`, for labelled texts."""
    texts, spans, length = [], [], 0
    for part in parts:
        length += len(separator) if texts else 0
        spans += [Span(length + start, length + end, field) for start, end, field in part.spans]
        texts.append(part.text)
        length += len(part.text)
    return LabelledText(separator.join(texts), tuple(spans))


def edit(labelled: LabelledText, cuts: Iterable[tuple[int, int, str]]) -> LabelledText:
    """Replace text[start:end] for each (start, end, replacement), in order; within a span it stays a part of it."""
    labels = to_labels(labelled)
    texts, pieces, place = [], [], 0
    for start, end, replacement in cuts:
        following = labels[start] if start < len(labels) else _OUTSIDE
        inside = following if following % 2 == 0 else _OUTSIDE  # an I goes on; a B begins after the replacement
        texts += [labelled.text[place:start], replacement]
        pieces += [labels[place:start], np.full(len(replacement), inside)]
        place = end
    return LabelledText(
        "".join([*texts, labelled.text[place:]]), to_spans(np.concatenate([*pieces, labels[place:]]).astype(np.int64))
    )


def encode(text: str) -> Int64[np.ndarray, " length"]:
    """One token id for each character, (length,) int64: its code in Latin-1.

    Dashes, bullets and quotation marks of other kinds become the usual one, a letter with an accent that Latin-1 lacks
    loses it, and what then is still unknown becomes a letter or a sign that stands for all of its kind. A line break
    has one of three ids: whether the next word would have made the line longer than every other line, only longer than
    the lines around it, or neither. For a line that is broken in the middle of a name has no room for the next word.
    """
    in_latin_1 = _NOT_LATIN_1.sub(lambda character: chr(_nearest(character[0])), text).encode("latin-1")
    ids = np.frombuffer(in_latin_1, np.uint8).astype(np.int64)
    lines = text.split("\n")
    lengths = [len(line) for line in lines]
    longest, place = max(lengths), -1
    for number, following in enumerate(lines[1:]):
        place += lengths[number] + 1
        longest_near = max(lengths[max(0, number - _NEAR) : number + _NEAR + 2])
        with_next_word = lengths[number] + 1 + len((following.split(maxsplit=1) or [""])[0])
        ids[place] = ord("\n" if with_next_word > longest else "\v" if with_next_word > longest_near else "\f")
    return ids


def _nearest(character: str) -> int:
    plain = unicodedata.normalize("NFKD", character.translate(_LOOKS_LIKE))[0]
    if ord(plain) < ALPHABET:
        return ord(plain)
    if plain.isalpha():
        return ord("X" if plain.isupper() else "x")
    return ord("0" if plain.isdigit() else " " if plain.isspace() else "*")


def to_labels(labelled: LabelledText) -> Int64[np.ndarray, " length"]:
    """The label of each character, (length,) int64: a place in LABELS."""
    labels = np.full(len(labelled.text), _OUTSIDE, dtype=np.int64)
    for start, end, field in labelled.spans:
        labels[start:end] = _BEGIN[field] + 1
        labels[start] = _BEGIN[field]
    return labels


def to_spans(labels: Int64[np.ndarray, " length"]) -> tuple[Span, ...]:
    """The spans that labels stand for; an I that follows nothing of its field begins a span, too."""
    field = (labels + 1) // 2  # its number from 1 on; 0 outside
    starts = (field > 0) & ((labels % 2 == 1) | (field != np.r_[0, field[:-1]]))
    edges = np.flatnonzero(np.r_[starts | (field == 0), True])
    starts = np.flatnonzero(starts)
    ends = edges[np.searchsorted(edges, starts, side="right")]
    return tuple(Span(int(s), int(e), FIELDS[field[s] - 1]) for s, e in zip(starts, ends, strict=True))


def decode(scores: Float[np.ndarray, "length labels"], text: str) -> tuple[Span, ...]:
    """The spans of the likeliest labelling among those that the fields allow, found by Viterbi's algorithm.

    A span is made of whole words and signs, where a word is a run of letters and digits. It begins with a word, and it
    ends with one, with a closing bracket or with the full stop of an abbreviation. What it opens in brackets it closes,
    and no bracket is in another one. A year is one word of four digits. So the characters of a word decide together.

    Args:
        scores: log-probabilities of the labels of each character, (length, len(LABELS)).
        text: of this length.
    """
    words = [match.group() for match in _WORD.finditer(text)]
    if not words:
        return ()
    starts = np.cumsum([0, *map(len, words[:-1])])
    first, whole = scores[starts], np.add.reduceat(scores, starts, axis=0)  # both (words, labels)
    # A word that begins a span has its first character labelled B, and I from there on.
    whole[:, _BEGINS] = first[:, _BEGINS] + whole[:, _GOES_ON] - first[:, _GOES_ON]
    whole[np.ix_([not word[0].isalnum() for word in words], _BEGINS)] = -np.inf
    whole[[not _YEAR.fullmatch(word) for word in words], LABELS.index("B-year")] = -np.inf
    whole[:, LABELS.index("I-year")] = -np.inf

    whole = whole[:, _STATES]
    can_be_last = [
        word[0].isalnum() or word in ")]" or (word == "." and before.isalnum() and len(before) <= _ABBREVIATION)
        for before, word in pairwise(["", *words])
    ]
    best, came_from = whole[0] + _steps("", can_be_last=True)[_OUTSIDE], []
    for word, here, before_can_be_last in zip(words[1:], whole[1:], can_be_last, strict=False):
        paths = best[:, None] + _steps(word if word in "([)]" else "", can_be_last=before_can_be_last)
        came_from.append(paths.argmax(0))
        best = paths.max(0) + here
    best[_IN_BRACKETS] = -np.inf
    if not can_be_last[-1]:
        best[_GOES_ON] = -np.inf
    path = [int(best.argmax())]
    for back in reversed(came_from):
        path.append(int(back[path[-1]]))
    labels = np.repeat(np.take(_STATES, path[::-1]), [len(word) for word in words])
    is_inside = np.isin(labels, _BEGINS)
    is_inside[starts] = False
    return to_spans(labels + is_inside)  # I is the label after B


@cache
def _steps(word: str, *, can_be_last: bool) -> Float[np.ndarray, "before here"]:
    """0 from every state to those that a word may have after it, -inf to the others, (len(_STATES), len(_STATES)).

    Args:
        word: a bracket; any other word is "".
        can_be_last: whether a span may end before it.
    """
    step = np.full((len(_STATES), len(_STATES)), -np.inf)
    step[: len(LABELS) if can_be_last else 1, [_OUTSIDE, *_BEGINS]] = 0
    for begin, inside, in_brackets in zip(_BEGINS, _GOES_ON, _IN_BRACKETS, strict=True):
        closed = [begin, inside]
        if word and word in "([":
            step[closed, in_brackets] = 0
        elif word:
            step[in_brackets, inside] = 0
        else:
            step[closed, inside] = step[in_brackets, in_brackets] = 0
    return step
