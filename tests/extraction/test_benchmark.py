"""benchmarks/cv_extraction.py: labels find their way into PDFs and back, and its tables and numbers are complete."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from baby_mamba.extraction import FIELDS, LabelledText, Span, score_spans
from baby_mamba.extraction.extract import value_of

ROOT = Path(__file__).parents[2]
TINY = [
    *("--set", "model_config.block_size=64", "--set", "model_config.d_model=8", "--set", "model_config.n_layer=1"),
    *("--set", "dataset.task_held_out=2", "--set", "training_config.max_steps=2"),
    *("--set", "training_config.train_batch_size=2", "--set", "training_config.device=cpu", "--documents", "4"),
]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cv_extraction", ROOT / "benchmarks/cv_extraction.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["cv_extraction"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("setting", ["one_column", "narrow", "two_columns", "table"])
def test_values_come_back_from_a_pdf(benchmark: ModuleType, setting: str, tmp_path: Path) -> None:
    n_lost = n_spans = n_torn = 0
    for number, cv in enumerate(benchmark.test_cvs(6, "HELD_OUT")):
        before = cv.labelled()
        after = benchmark.read_back(cv, number, getattr(benchmark, setting), tmp_path)
        lost = [span for span in after.spans if span.start < 0]
        n_lost, n_spans = n_lost + len(lost), n_spans + len(after.spans)
        values = ["".join(value_of(span, after.text).split()) for span in after.spans if span not in lost]
        expected = ["".join(before.text[start:end].split()) for start, end, _ in before.spans]
        n_torn += any("\n" in after.text[start:end] for start, end, _ in after.spans)
        assert sorted(span.field for span in before.spans) == sorted(span.field for span in after.spans)
        assert not lost or len(values) < len(expected)
        assert set(values) <= set(expected)
    assert n_lost <= 0.05 * n_spans
    assert n_torn > 0 or setting == "one_column"


def test_align_by_hand(benchmark: ModuleType) -> None:
    """Other white space and a divided word are no obstacle; a value with something else in its middle is lost."""
    labelled = LabelledText("University of Vel\tBSc", (Span(0, 17, "institution"), Span(18, 21, "degree")))
    read = benchmark.align(labelled, "Page 1\nUniver-\nsity of Vel BSc\n")
    assert read.spans == (Span(7, 26, "institution"), Span(27, 30, "degree"))
    torn = benchmark.align(labelled, "University of 2019 - 2021 Vel BSc\n")
    assert torn.spans == (benchmark.lost(0, "institution"), Span(30, 33, "degree"))
    assert torn.spans[0].start < 0


def test_what_is_lost_counts_as_not_found(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "find_spans", lambda *_: (Span(0, 3, "degree"),))
    document = LabelledText("BSc", (Span(0, 3, "degree"), benchmark.lost(1, "year"), benchmark.lost(2, "year")))
    assert score_spans(benchmark.found_and_expected(None, [document]))["all"] == (1, 1, 3)


def test_split_keeps_the_spans(benchmark: ModuleType) -> None:
    labelled = LabelledText("BSc\tVel\n2019", (Span(0, 3, "degree"), Span(4, 7, "institution"), Span(8, 12, "year")))
    assert benchmark.split_lines(labelled) == [
        LabelledText("BSc\tVel", (Span(0, 3, "degree"), Span(4, 7, "institution"))),
        LabelledText("2019", (Span(0, 4, "year"),)),
    ]


def test_table_and_json(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main([*TINY, "--config", str(ROOT / "configs/cv_extraction.ini"), "--output", str(tmp_path / "r.json")])
    shown = capsys.readouterr().out
    results = json.loads((tmp_path / "r.json").read_text())
    texts = ["text, layouts of the training", "text, held-out layouts", "text, blind layouts"]
    pages = ["one column", "narrow", "two columns", "table", "held-out layouts", "blind layouts"]
    assert list(results["scores"]) == [*texts, *(f"PDF, {page}" for page in pages)]
    for name, scores in results["scores"].items():
        assert set(scores) == {*FIELDS, "all"}
        assert f"| {name} | all |" in shown
        assert scores["all"]["n_expected"] > 0
    assert results["training"]["steps"] == 2
    assert results["environment"]["torch"] in shown
