"""CVs as rows for a trainer, and a short training in which the loss falls and spans begin to be found."""

from pathlib import Path

import numpy as np
import pytest
import torch

from baby_mamba import load_config, load_model
from baby_mamba.data import IGNORE_INDEX, TaskDataset
from baby_mamba.errors import ConfigError, DataError
from baby_mamba.extraction import LABELS, CVExtraction, LabelledText, Span
from baby_mamba.extraction import task as task_module
from baby_mamba.extraction.spans import ALPHABET, to_spans
from baby_mamba.models import MambaForTokenClassification
from baby_mamba.training import Reporter, train_job
from baby_mamba.training.job import task_dataset
from baby_mamba.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]


def test_rows() -> None:
    dataset = TaskDataset(CVExtraction(256), n_held_out=3)
    input_ids, labels = dataset.batch(0, 8, seed=1)
    assert input_ids.shape == labels.shape == (8, 256)
    assert dataset.task.vocab_size == ALPHABET
    assert input_ids.min() >= 0
    assert input_ids.max() < ALPHABET
    assert set(labels.unique().tolist()) <= {IGNORE_INDEX, *range(len(LABELS))}
    assert not dataset.batch(0, 8, seed=2).input_ids.equal(input_ids)
    assert dataset.batch(0, 8, seed=1).input_ids.equal(input_ids)


def test_labels_stay_with_their_characters() -> None:
    """What is labelled as a year in a row reads as one."""
    dataset = TaskDataset(CVExtraction(512), n_held_out=1)
    input_ids, labels = dataset.batch(0, 64, seed=1)
    years = [
        "".join(map(chr, ids[start:end]))
        for ids, row in zip(input_ids.numpy(), labels.numpy(), strict=True)
        for start, end, field in to_spans(np.where(row == IGNORE_INDEX, 0, row))
        if field == "year" and start > 0 and end < 512
    ]
    assert len(years) > 64
    assert all(year.isdigit() and len(year) == 4 for year in years)


def test_a_short_cv_is_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "as_read", lambda *_: LabelledText("BSc 2019", (Span(4, 8, "year"),)))
    input_ids, labels = CVExtraction(64).example(np.random.default_rng(0))
    assert "".join(map(chr, input_ids)) == "BSc 2019" + 56 * "\f"
    year = LABELS.index("B-year")
    assert labels.tolist() == [0] * 4 + [year] + [year + 1] * 3 + [IGNORE_INDEX] * 56


def test_every_place_of_a_cv_comes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(chr(33 + i) for i in range(90))
    monkeypatch.setattr(task_module, "as_read", lambda *_: LabelledText(text, (Span(10, 14, "year"),)))
    rows = {"".join(map(chr, CVExtraction(64).example(np.random.default_rng(i))[0])) for i in range(1500)}
    assert rows == {text[i : i + 64] for i in range(27)}


def test_too_short_rows() -> None:
    with pytest.raises(DataError, match=r"rows of 32 tokens are too short for CVExtraction; .*at least 64"):
        CVExtraction(32)


def test_a_short_training_learns(tmp_path: Path) -> None:
    """From the configuration to a checkpoint that knows more than how frequent each label is."""
    overrides = {
        **{"model_config.block_size": 256, "model_config.d_model": 32, "training_config.train_batch_size": 8},
        **{"dataset.task_held_out": 16, "training_config.max_steps": 120, "training_config.eval_every_steps": 60},
        **{"training_config.learning_rate": 1e-2, "training_config.warmup_steps": 5, "training_config.device": "cpu"},
        "training_config.ckpt_path": tmp_path / "run",
    }
    config = load_config(ROOT / "configs/cv_extraction.ini", [f"{key}={value}" for key, value in overrides.items()])
    result = train_job(config, Reporter())
    first, last = (row["validation_loss"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "accuracy" in row)
    assert last < first
    labels = torch.cat([batch.labels for batch in task_dataset(config.dataset, 256).evaluation_batches(16)])
    shares = labels[labels != IGNORE_INDEX].bincount(minlength=len(LABELS)) / result.evaluation.n_tokens
    assert last < 0.9 * torch.special.entr(shares).sum()
    model, tokenizer = load_model(tmp_path / "run")
    assert isinstance(model, MambaForTokenClassification)
    assert tokenizer is None
    assert model.config.n_labels == len(LABELS)
    assert model.config.vocab_size == ALPHABET


def test_number_of_labels_must_fit() -> None:
    for task, n_labels, said in (("cv_extraction", 3, "7 labels"), ("text", 7, "no labels")):
        config = load_config(None, [f"dataset.task={task}", f"model_config.n_labels={n_labels}"])
        with pytest.raises(ConfigError, match=rf"n_labels = {n_labels}, and dataset\.task = {task} has {said}; leave"):
            train_job(config)
