"""Finding institutions, degrees and years in CVs: precision, recall and F1 in layouts that no training has seen.

    python benchmarks/cv_extraction.py [--run FOLDER] [--documents 300] [--output FILE.json]

Without --run it trains as the config says. The CVs to test with have layouts, places, people, subjects and companies of
their own (baby_mamba.extraction.layouts and names), in two collections: the errors in `held-out` ones were read while
the generator was written, those in `blind` ones never were. They are read as text; and again after they were set as
PDFs, in one column, in two, as tables, and in narrow lines with divided words, and read back by the same reader as
`extract` uses. A found span is right if its field and both its ends are; one that the page has torn apart counts as not
found.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import chain, compress
from operator import not_
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
from fpdf import FPDF

from baby_mamba import load_config, load_model
from baby_mamba.environment import describe_environment
from baby_mamba.extraction import (
    FIELDS,
    LabelledText,
    Span,
    SpanScore,
    find_spans,
    layouts,
    names,
    read_document,
    score_spans,
)
from baby_mamba.extraction.extract import value_of
from baby_mamba.extraction.generator import CV, Section, write_cv
from baby_mamba.extraction.names import Random, chance, pick
from baby_mamba.extraction.spans import join
from baby_mamba.training import train_job
from baby_mamba.training.device import choose_device
from baby_mamba.training.metrics import read_metrics
from baby_mamba.training.run_folder import CONFIG as RUN_CONFIG
from baby_mamba.training.run_folder import METRICS

CONFIG = "configs/cv_extraction.ini"
TEST_SEED = 2**32
FAMILIES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")  # come with matplotlib
SHORT = 60  # characters; sections with entries no longer than this go into a sidebar


class Page:
    """A PDF that is being set, and the text on it in the order in which it was put there.

    Args:
        random: chooses the typeface.
        divide: share of the long words that may be divided at the end of a line.
    """

    def __init__(self, random: Random, divide: float = 0.0) -> None:
        self.pdf = FPDF(format=pick(random, ("A4", "Letter")))
        self.pdf.set_margin(float(random.uniform(12, 25)))
        fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
        family = pick(random, FAMILIES)
        bold = next(name for name in (f"{family}-Bold.ttf", f"{family}Bol.ttf") if (fonts / name).exists())
        self.pdf.add_font("text", "", fonts / f"{family}.ttf")
        self.pdf.add_font("text", "B", fonts / bold)
        self.size = float(random.uniform(8.5, 11.5))
        self.align = pick(random, ("L", "L", "J"))
        self.random, self.divide = random, divide
        self.put: list[LabelledText] = []
        self.pdf.add_page()

    def lines(self, labelled: LabelledText, x: float, width: float, *, bold: bool = False) -> None:
        """Set a text from x on, in mm, in lines of a width; tabs divide the width into columns."""
        for line in split_lines(labelled):
            cells = split(line, "\t")
            top = bottom = self.pdf.get_y()
            if top > self.pdf.h - 45:  # so that no row of cells begins on one page and goes on on another
                self.pdf.add_page()
                top = bottom = self.pdf.get_y()
            for number, cell in enumerate(cells):
                self.pdf.set_xy(x + number * width / len(cells), top)
                self.pdf.set_font("text", "B" if bold else "", self.size * (1.25 if bold else 1))
                self.pdf.multi_cell(
                    width / len(cells) - (2 if len(cells) > 1 else 0), None, self.divisible(cell.text), align=self.align
                )
                self.put.append(cell)
                bottom = max(bottom, self.pdf.get_y() if cell.text else top + self.size * 0.45)
            self.pdf.set_y(bottom)

    def divisible(self, text: str) -> str:
        """With soft hyphens in some of the long words, which may be divided there."""

        def divided(word: re.Match) -> str:
            return re.sub(r"(?<=...)(?=...)", "\u00ad", word[0]) if chance(self.random, self.divide) else word[0]

        return re.sub(r"[^\W\d_]{7,}", divided, text)

    def section(self, section: Section, gap: str, x: float, width: float) -> None:
        """Set a section with its heading."""
        if section.title:
            title = section.title.upper() if self.align == "J" else section.title
            self.lines(LabelledText(title), x, width, bold=True)
        self.lines(join(section.entries, gap), x, width)
        self.pdf.set_y(self.pdf.get_y() + 4)


def one_column(cv: CV, random: Random) -> Page:
    """As from a word processor."""
    page = Page(random)
    for section in cv.sections:
        page.section(section, cv.between_entries, page.pdf.l_margin, page.pdf.epw)
    return page


def narrow(cv: CV, random: Random) -> Page:
    """Narrow lines, in which long words are divided; too narrow for columns, whose cells are on lines of their own."""
    page = Page(random, divide=0.7)
    for section in cv.sections:
        entries = [join(split(entry, "\t"), "\n") for entry in section.entries]
        page.section(section._replace(entries=entries), cv.between_entries, page.pdf.l_margin, page.pdf.epw * 0.45)
    return page


def two_columns(cv: CV, random: Random) -> Page:
    """Short sections in a column beside the others, which is put on the page before them or after them."""
    page = Page(random)
    page.section(cv.sections[0], "\n", page.pdf.l_margin, page.pdf.epw)
    top, left, wide = page.pdf.get_y(), page.pdf.l_margin, page.pdf.epw * 0.66
    beside = [s.kind == "other" and all(len(e.text) <= SHORT for e in s.entries) for s in cv.sections[1:]]
    columns = [
        (list(compress(cv.sections[1:], beside)), left, page.pdf.epw - wide - 6),
        (list(compress(cv.sections[1:], map(not_, beside))), left + page.pdf.epw - wide, wide),
    ]
    for sections, x, width in columns if chance(random, 0.5) else reversed(columns):
        page.pdf.page = 1
        page.pdf.set_y(top)
        for section in sections:
            page.section(section, cv.between_entries, x, width)
    return page


def table(cv: CV, random: Random) -> Page:
    """Dates, places or whatever an entry begins with in a column of their own, and the rest of its lines beside it."""
    page = Page(random)
    for section in cv.sections:
        entries = [
            join(split_lines(entry), "\t") if 1 < entry.text.count("\n") + 1 <= 4 and "\t" not in entry.text else entry
            for entry in section.entries
        ]
        is_table = section.kind in ("education", "experience")
        page.section(section._replace(entries=entries) if is_table else section, "\n", page.pdf.l_margin, page.pdf.epw)
    return page


SETTINGS: tuple[Callable[[CV, Random], Page], ...] = (one_column, narrow, two_columns, table)


def split_lines(labelled: LabelledText) -> list[LabelledText]:
    """The lines of a labelled text; no span goes on over a line break."""
    return split(labelled, "\n")


def split(labelled: LabelledText, separator: str) -> list[LabelledText]:
    """`str.split`, for labelled texts whose spans do not have the separator in them."""
    parts, start = [], 0
    for text in labelled.text.split(separator):
        end = start + len(text)
        spans = (
            Span(s.start - start, s.end - start, s.field) for s in labelled.spans if start <= s.start and s.end <= end
        )
        parts.append(LabelledText(text, tuple(spans)))
        start = end + len(separator)
    return parts


def align(labelled: LabelledText, read: str) -> LabelledText:
    """The spans of a text in what was read of it, found by the values that they have; see `lost`."""
    there = [i for i, c in enumerate(labelled.text) if not c.isspace()]
    here = [i for i, c in enumerate(read) if not c.isspace()]
    matcher = SequenceMatcher(None, [labelled.text[i] for i in there], [read[i] for i in here], autojunk=False)
    place = {there[a + i]: here[b + i] for a, b, n in matcher.get_matching_blocks() for i in range(n)}
    spans = []
    for number, (start, end, field) in enumerate(labelled.spans):
        last = max(i for i in range(start, end) if not labelled.text[i].isspace())
        found = Span(place.get(start, 0), place.get(last, -1) + 1, field)
        same = value_of(found, read).replace(" ", "") == "".join(labelled.text[start:end].split())
        spans.append(found if same else lost(number, field))
    return LabelledText(read, tuple(spans))


def lost(number: int, field: str) -> Span:
    """A span that is in no text, so that it is expected and cannot be found: the page has torn the value apart."""
    return Span(-1 - number, -1 - number, field)


def read_back(cv: CV, number: int, setting: Callable[[CV, Random], Page], folder: Path) -> LabelledText:
    """Set a CV as a PDF and read it."""
    page = setting(cv, np.random.default_rng([TEST_SEED, number, 1]))
    path = folder / f"{number}.pdf"
    page.pdf.output(str(path))
    return align(join(page.put, "\n"), read_document(path))


def test_cvs(n: int, collection: str) -> list[CV]:
    """CVs that no training has seen, with layouts and names of a collection; of the same seeds every time."""
    look, called = getattr(layouts, collection), getattr(names, collection)
    return [write_cv(np.random.default_rng([TEST_SEED, number]), look, called) for number in range(n)]


def as_pdf(cvs: Sequence[CV], folder: Path) -> dict[str, list[LabelledText]]:
    """What is read of CVs that were set as PDFs, by setting; every CV is in one of them."""
    return {
        setting.__name__.replace("_", " "): [
            read_back(cvs[number], number, setting, folder) for number in range(k, len(cvs), len(SETTINGS))
        ]
        for k, setting in enumerate(SETTINGS)
    }


Pairs = list[tuple[tuple[Span, ...], tuple[Span, ...]]]


def found_and_expected(model: Any, documents: Iterable[LabelledText]) -> Pairs:
    """What a model finds in each document, and what is there."""
    return [(find_spans(model, document.text), document.spans) for document in documents]


def as_json(scores: dict[str, SpanScore]) -> dict[str, dict[str, float]]:
    return {
        name: {**score._asdict(), "precision": score.precision, "recall": score.recall, "f1": score.f1}
        for name, score in scores.items()
    }


def tables(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = ["| read from | field | precision | recall | F1 | spans |", "|---|---|---:|---:|---:|---:|"]
    for name, scores in results["scores"].items():
        for field in (*FIELDS, "all"):
            s = scores[field]
            lines.append(
                f"| {name} | {field} | {s['precision']:.3f} | {s['recall']:.3f} | {s['f1']:.3f} | {s['n_expected']:,} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="a trained run; otherwise one is trained now")
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"to train with (default: {CONFIG})")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--documents", type=int, default=300, metavar="N", help="CVs in each test (default: 300)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="keep the results here, too")
    arguments = parser.parse_args(argv)

    config = load_config(arguments.config, arguments.set)
    results: dict[str, Any] = {"environment": describe_environment(), "documents": arguments.documents}
    with TemporaryDirectory() as temporary:
        folder = arguments.run
        if folder is None:
            folder = Path(temporary, "run")
            trained = train_job(replace(config, training_config=replace(config.training_config, ckpt_path=str(folder))))
            if trained.interrupted:
                raise KeyboardInterrupt
        model, _ = load_model(folder, device=choose_device(config.training_config.device))
        last = read_metrics(folder / METRICS)[-1]
        results["training"] = {
            "config": (folder / RUN_CONFIG).read_text(encoding="utf-8"),
            "parameters": model.num_parameters(),
            "steps": last["step"],
            "characters": last["tokens"],
            "seconds": last["seconds"],
        }
        held_out, blind = (test_cvs(arguments.documents, collection) for collection in ("HELD_OUT", "BLIND"))
        documents = {
            "text, layouts of the training": [cv.labelled() for cv in test_cvs(arguments.documents, "TRAINING")],
            "text, held-out layouts": [cv.labelled() for cv in held_out],
            "text, blind layouts": [cv.labelled() for cv in blind],
        }
        for name, parts in as_pdf(held_out, Path(temporary)).items():
            documents[f"PDF, {name}"] = parts
        pairs = {name: found_and_expected(model, parts) for name, parts in documents.items()}
        in_pdf = [pair for name in documents if name.startswith("PDF") for pair in pairs[name]]
        pairs["PDF, held-out layouts"] = in_pdf
        in_blind = chain.from_iterable(as_pdf(blind, Path(temporary)).values())
        pairs["PDF, blind layouts"] = found_and_expected(model, in_blind)
        results["lost_in_pdf"] = sum(span.start < 0 for _, expected in in_pdf for span in expected)
        results["scores"] = {name: as_json(score_spans(parts)) for name, parts in pairs.items()}
    print()
    for name, value in results["environment"].items():
        print(f"{name}: {value}")
    t = results["training"]
    print(f"{t['parameters']:,} parameters, trained on {t['characters']:,} characters in {t['seconds']:,.0f} s")
    print(f"values that the held-out PDFs have torn apart: {results['lost_in_pdf']}\n\n{tables(results)}", end="")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
