"""Templates put together at random, so that hardly two CVs to train on look alike.

What is learnt from a fixed list of layouts holds for these layouts. Here everything that may differ is drawn: the order
of the values, what stands beside them, between them and before them. No template is one of those to test with.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from baby_mamba.extraction import layouts
from baby_mamba.extraction.names import Random, chance, pick, word

Words = tuple[str, ...]

_TO_TEST_WITH = (layouts.HELD_OUT, layouts.BLIND)
_SIGNS = "-~*/|=+<>»:;.§→_^%·•#\\&"
_COLONS = (": ", ": ", ": ", ": ", " - ", " – ", ":\n", "\t", ":\t", " = ", "\n")
_INLINE = (", ", ", ", "; ", " - ", " – ", " | ", " / ", " · ", ": ", " ", "   ", "{s}", "{s}", "{s}", " {d} ")
_LINES = ("\n", "\n", "\n", "\n{b}", "\n  ", "\n\t")
_BRACKETS = ("()", "()", "()", "[]", "<>")
_FILLERS = (
    *("I", "my", "a", "an", "the", "this", "at", "in", "from", "of", "by", "to", "for", "with", "on", "as"),
    *("and", "it"),
    *("there", "was", "were", "have", "had", "has", "is", "been", "where", "which", "that", "when", "after", "before"),
    *("then", "studied", "studying", "received", "took", "finished", "earned", "got", "left", "went", "began", "ended"),
    *("read", "graduated", "hold", "holding", "gave", "given", "granted", "made", "became", "worked", "passed", "did"),
    *("year", "years", "time", "student", "course", "degree", "title", "school", "university", "college"),
    *("place", "me"),
    *("first", "last", "second", "later", "also", "once", "still", "until", "since", "during", "about", "under", "we"),
    *("while", "work", "joined", "moved", "home", "two", "three", "good", "full", "early", "final", "both", "wrote"),
)
_POINTS_IN_TIME = (
    *("{y}", "{y}", "{y}", "{y}", "{month} {y}", "{month} {y}", "{mm}/{y}", "{mm}.{y}", "{y}/{mm}", "{y}-{mm}"),
    *("{dd}.{mm}.{y}", "{dd} {month} {y}", "{month} {dd}, {y}", "{month}, {y}", "{mm} {y}", "{word} {y}", "{Word} {y}"),
)
_SINCE_THEN = ("present", "now", "today", "ongoing", "{word}", "")
_AROUND_DATES = (
    *("{0}",) * 12,
    *("({0})", "[{0}]", "<{0}>", "{word} {0}", "{word} {word} {0}", "{Word} {0}", "{Word}: {0}", "{0} {word}"),
    *("{0}, {word}", "{0} ({word})", "{0} ({n} {word})", "{0}, {n} {word}", "{0} ({word} {word})", "{0} {word} {word}"),
    *("from {0}", "in {0}", "expected {0}", "{0} (expected)", "graduated {0}", "Graduated: {0}", "since {0}", "by {0}"),
)
_TITLES = (
    *("{0}",) * 6,
    *("{0} and {1}", "{0} & {1}", "{0} / {1}", "{0}, {1}", "My {0}", "The {0}", "{Word} {0}", "{0} {Word}", "{Word}"),
    *("{0} and {Word}", "{Word} and {0}", "{0} in {Word}", "{Word} of {0}"),
)


def structure(template: str) -> Words:
    """The order of the values in a template and the line breaks and tabs between them; punctuation does not count."""
    return tuple(re.findall(r"\{(?!(?:s|b|d|sign|word)\d?\})\w+\}|\n|\t", template, re.IGNORECASE))


def compose_entry(random: Random, values: Words, beside: Words, keys: dict[str, Words]) -> str:
    """A template of the values in any order, now and then without one, with up to three other things among them.

    Args:
        random: is advanced.
        values: placeholders.
        beside: templates of the other things.
        keys: words that may stand before each value, to say what it is.
    """

    def draw() -> str:
        parts = [values[i] for i in random.permutation(len(values))]
        if chance(random, 0.06):
            parts.pop()
        if chance(random, 0.08):
            return _sentence(random, parts)
        if chance(random, 0.3):
            colon = pick(random, _COLONS)
            parts = [_key(random, keys[part]) + colon + part for part in parts]
        for _ in range(int(random.integers(0, 4))):
            parts.insert(int(random.integers(0, len(parts) + 1)), pick(random, beside))
        template = _layout(random, parts)
        return template.replace("\n", "\t") if chance(random, 0.2) else template

    return _not_in(_held_out_structures(), draw, structure)


def compose_dates(random: Random, year: str) -> str:
    """A template of a point in time or of the time from {start} on.

    Args:
        random: is advanced.
        year: the placeholder of the year in which it ended.
    """

    def draw() -> str:
        point = pick(random, _POINTS_IN_TIME)
        end = point.replace("{y}", year)
        if chance(random, 0.55):
            link = pick(random, (" {d} ", " {d} ", "{d}", " to ", "/", f" {sign(random)} ", sign(random), " {word} "))
            if chance(random, 0.1):
                end += link + pick(random, _SINCE_THEN)
            else:
                start = (point if chance(random, 0.8) else "{y}").replace("{y}", "{start}")
                end = start + link + re.sub("month|mm|dd", r"\g<0>2", end)
        return pick(random, _AROUND_DATES).replace("{0}", end)

    return _not_in({dates for look in _TO_TEST_WITH for dates in (*look.dates, *look.work_dates)}, draw)


def compose_title(random: Random, titles: Words) -> str:
    """A title of a section, made of one or two of those that are usual."""

    def draw() -> str:
        return pick(random, _TITLES).replace("{0}", pick(random, titles)).replace("{1}", pick(random, titles))

    others = {title for look in _TO_TEST_WITH for titles, _ in look.others for title in titles}
    return _not_in(others.union(*((*look.schooling, *look.work) for look in _TO_TEST_WITH)), draw)


def compose_heading(random: Random) -> str:
    """How a title is set: {h} as it is, {H} in capitals."""

    def draw() -> str:
        before = pick(random, ("", "", sign(random), f"{sign(random)} ", f"{random.integers(1, 12)}) "))
        after = pick(random, ("", "", "", ":", sign(random), f" {sign(random)}", " {rule}", "\n{rule}"))
        return pick(random, ("", "", "", "", "{rule}\n")) + before + pick(random, ("{h}", "{H}")) + after

    return _not_in({heading for look in _TO_TEST_WITH for heading in look.headings}, draw)


def rule(random: Random) -> str:
    """A line of one sign."""
    return pick(random, _SIGNS) * int(random.integers(3, 40))


def sign(random: Random) -> str:
    """One sign, or a few of a kind."""
    return pick(random, _SIGNS) * pick(random, (1, 1, 1, 2, 2, 3))


@cache
def _held_out_structures() -> set[Words]:
    return {structure(template) for look in _TO_TEST_WITH for template in (*look.education, *look.experience)}


def _layout(random: Random, parts: list[str]) -> str:
    """Parts on one line, on several lines, or in cells."""
    if len(parts) > 1 and chance(random, 0.2):  # some that follow each other in brackets
        first = int(random.integers(1, len(parts)))
        last = min(len(parts), first + int(random.integers(1, 4)))
        inner = pick(random, (", ", ", ", " – ", " ", "; ")).join(parts[first:last])
        opening, closing = pick(random, _BRACKETS)
        parts[first - 1 : last] = [f"{parts[first - 1]} {opening}{inner}{closing}"]
    kind = pick(random, ("line", "line", "lines", "lines", "mixed", "mixed", "mixed", "cells", "cells", "any"))
    inline = pick(random, (*_INLINE, f" {sign(random)} ", f" {word(random)} "))
    between = pick(random, _LINES)
    template = pick(random, ("", "", "{b}")) + parts[0]
    for part in parts[1:]:
        glue = {
            "line": inline,
            "lines": between,
            "mixed": between if chance(random, 0.5) else inline,
            "cells": "\t" if chance(random, 0.9) else pick(random, (", ", "\n", "\n\t")),
            "any": pick(random, (*_INLINE, *_LINES, "\t")),
        }[kind]
        template += glue + part
    return template


def _sentence(random: Random, parts: list[str]) -> str:
    """Parts in a row of words that need not make sense."""
    for _ in range(int(random.integers(0, 3))):
        beside = pick(random, ("{city}", "{person}", "{subject}", "{grade}"))
        parts.insert(int(random.integers(0, len(parts) + 1)), beside)
    text = _fillers(random, 0)
    for number, part in enumerate(parts):
        between = pick(random, (" ", " ", " ", ", ", "; ")) + _fillers(random, 1) + " "
        text += (between if number else " " * bool(text)) + (f"({part})" if chance(random, 0.1) else part)
    text += pick(random, ("", " " + _fillers(random, 1))) + pick(random, (".", ".", ""))
    return text[0].upper() + text[1:]


def _fillers(random: Random, at_least: int) -> str:
    n = int(random.integers(at_least, 5))
    return " ".join(pick(random, _FILLERS) if chance(random, 0.85) else word(random) for _ in range(n))


def _key(random: Random, words: Words) -> str:
    forms = ("{0}", "{0}", "{0}", "{Word}", "{word}", "{0} {1}", "{Word} {1}", "{1} {0}", "{Word} of {0}", "{0} {word}")
    return pick(random, forms).replace("{0}", pick(random, words)).replace("{1}", pick(random, _FILLERS))


def _not_in(held_out: set, draw: Callable[[], str], of: Callable[[str], object] = str) -> str:
    """Draw until it is none of those."""
    drawn = draw()
    return _not_in(held_out, draw, of) if of(drawn) in held_out else drawn
