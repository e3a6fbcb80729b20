"""From spans to entries, and from a text to spans however long it is."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baby_mamba import MambaConfig
from baby_mamba.errors import ShapeError
from baby_mamba.extraction import LABELS, Education, LabelledText, Span, extract, extract_education, find_spans
from baby_mamba.extraction.extract import group, value_of
from baby_mamba.extraction.spans import encode, to_labels
from baby_mamba.models import MambaForTokenClassification
from baby_mamba.models.token_classification import TokenClassifierOutput


def mark(marked: str) -> LabelledText:
    """A text in which <i ...>, <d ...> and <y ...> stand around values."""
    fields, text, spans = {"i": "institution", "d": "degree", "y": "year"}, "", []
    while "<" in marked:
        before, _, rest = marked.partition("<")
        value, _, marked = rest.partition(">")
        text += before
        spans.append(Span(len(text), len(text) + len(value[2:]), fields[value[0]]))
        text += value[2:]
    return LabelledText(text + marked, tuple(spans))


class Knows(MambaForTokenClassification):
    """Labels a text that it knows by heart, wherever a piece of it is read from."""

    config = MambaConfig(vocab_size=256, n_labels=len(LABELS))

    def __init__(self, labelled: LabelledText) -> None:
        nn.Module.__init__(self)  # without an encoder
        self.ids, self.labels = torch.from_numpy(encode(labelled.text)), torch.from_numpy(to_labels(labelled))
        self.nothing, self.lengths = nn.Parameter(torch.zeros(())), []

    def forward(self, ids: Tensor) -> TokenClassifierOutput:
        n = ids.shape[1]
        self.lengths.append(n)
        start = next(i for i in range(len(self.ids)) if torch.equal(self.ids[i : i + n], ids[0]))
        return TokenClassifierOutput(
            10.0 * nn.functional.one_hot(self.labels[start : start + n], len(LABELS))[None], None
        )


def values(marked: str) -> list[tuple[str | None, ...]]:
    text, spans = mark(marked)
    found = [{s.field: value_of(s, text) for s in g} for g in group(spans, text)]
    return [tuple(f.get(k) for k in ("institution", "degree", "year")) for f in found]


def test_entries_in_every_order() -> None:
    assert values("<y 2019> <d BSc>, <i Vel Uni>\n<y 2021> <d MSc>, <i Quor Uni>") == [
        ("Vel Uni", "BSc", "2019"),
        ("Quor Uni", "MSc", "2021"),
    ]
    assert values("<i Vel>\n<y 2019>\n<d BSc>\n<i Quor>\n<y 2021>\n<d MSc>")[1] == ("Quor", "MSc", "2021")


def test_what_is_missing_is_not_taken_from_a_neighbour() -> None:
    """Two entries, and the year is the second one's, from which no empty line parts it."""
    assert values("<i Vel>, <d BSc>\n\n<y 2021> <d MSc>, <i Quor>") == [("Vel", "BSc", None), ("Quor", "MSc", "2021")]
    assert values("<i Vel>, <d BSc>, <y 2021>\n\n<d MSc>, <i Quor>") == [("Vel", "BSc", "2021"), ("Quor", "MSc", None)]


def test_one_institution_with_two_degrees() -> None:
    assert values("<i Vel>: <d MSc> <y 2019>, <d BSc> <y 2017>") == [("Vel", "MSc", "2019"), (None, "BSc", "2017")]


def test_columns() -> None:
    assert values("<i Vel>\n<i Quor>\n<d BSc>\n<d MSc>\n<y 2019>\n<y 2021>") == [
        ("Vel", "BSc", "2019"),
        ("Quor", "MSc", "2021"),
    ]


def test_nothing() -> None:
    assert group((), "text") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Engi-\nneering", "Engineering"),
        ("University  of\n  Vel", "University of Vel"),
        ("Winston-Vel", "Winston-Vel"),
        ("BSc -\nPhysics", "BSc - Physics"),
        ("2015-\n2019", "2015- 2019"),
    ],
)
def test_a_value_is_on_one_line(text: str, value: str) -> None:
    assert value_of(Span(0, len(text), "degree"), text) == value


def test_extract_education() -> None:
    labelled = mark("Education\n<d BSc in Phy-\nsics>, <i University\nof Vel>, 2015 - <y 2019>\nWork\n2020: Quor Ltd")
    assert extract_education(Knows(labelled), labelled.text) == [Education("University of Vel", "BSc in Physics", 2019)]
    assert extract_education(Knows(labelled), "") == []


@pytest.mark.parametrize("length", [59, 60, 61, 130, 1000])
def test_a_long_text_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """The same spans, also across the edges of pieces, and never more than a piece with its surroundings at once."""
    monkeypatch.setattr(extract, "_CHUNK", 30)
    monkeypatch.setattr(extract, "_CONTEXT", 15)
    letters = np.random.default_rng(0).choice(list("abcdefgh "), length)
    text = "".join(letters)
    edges = [match for match in range(1, length - 1) if text[match] == " "]
    spans = tuple(
        Span(a + 1, b, "degree")
        for a, b in zip(edges[::3], edges[1::3], strict=False)
        if text[a + 1 : b].strip() == text[a + 1 : b] != ""
    )
    model = Knows(LabelledText(text, spans))
    assert find_spans(model, text) == spans
    assert max(model.lengths) <= 60


def test_another_model() -> None:
    model = MambaForTokenClassification(MambaConfig(vocab_size=256, n_labels=3, d_model=8, n_layer=1))
    with pytest.raises(ShapeError, match=r"has 3 labels; expected the 7 of institution, degree, year: .*cv_extraction"):
        find_spans(model, "BSc")
