"""A training of a synthetic task from its configuration."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baby_mamba.config import DatasetConfig, MambaConfig, RunConfig, TrainerConfig
from baby_mamba.errors import ConfigError
from baby_mamba.training import Reporter, TrainingResult, load_model, train_job
from baby_mamba.training.metrics import read_metrics

Train = Callable[..., TrainingResult]


class Recorder(Reporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        MambaConfig(block_size=12, n_layer=1, d_model=8, d_state=4, backend="parallel"),
        DatasetConfig(task="induction_heads", task_vocab_size=5, task_held_out=20),
        TrainerConfig(
            max_steps=6,
            train_batch_size=4,
            learning_rate=1e-2,
            warmup_steps=2,
            schedule="constant",
            eval_every_steps=2,
            save_every_steps=3,
            log_every_steps=1,
            device="cpu",
            ckpt_path=str(tmp_path / "run"),
        ),
    )


@pytest.fixture
def train(config: RunConfig) -> Train:
    def run(reporter: Reporter | None = None, **changes: object) -> TrainingResult:
        changed = replace(config, training_config=replace(config.training_config, **changes))
        return train_job(changed, reporter or Reporter())

    return run


def test_a_task_is_trained_and_its_accuracy_reported(train: Train, tmp_path: Path) -> None:
    result = train()
    assert (result.step, result.tokens) == (6, 6 * 4 * 12)
    assert result.evaluation.n_tokens == 20  # one answer in each held-out row
    assert result.evaluation.accuracy == result.evaluation.sequence_accuracy
    rows = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if "validation_loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[-1]["accuracy"] == rows[-1]["sequence_accuracy"] == result.evaluation.accuracy
    model, tokenizer = load_model(tmp_path / "run")
    assert model.config.vocab_size == 5
    assert tokenizer is None
    assert (tmp_path / "run/loss.png").is_file()


def test_only_the_answers_are_learnt(train: Train) -> None:
    """All else in a row is random, and a model that were trained on it would be as good as guessing there: log 4."""
    result = train(max_steps=150, train_batch_size=32, eval_every_steps=150)
    assert result.train_loss < 1.0


def test_a_run_goes_on_as_if_it_had_never_stopped(train: Train, tmp_path: Path) -> None:
    whole = train(ckpt_path=str(tmp_path / "whole"))
    train(max_steps=3)
    resumed = train()
    assert resumed.evaluation == whole.evaluation
    for one, other in zip(
        *(load_model(tmp_path / name, "last")[0].parameters() for name in ("whole", "run")), strict=True
    ):
        assert torch.equal(one, other)


def test_it_stops_at_the_target_and_stays_complete(train: Train) -> None:
    result = train(target_loss=100.0)
    assert result.step == 2  # the first evaluation
    assert result.reason.startswith("the held-out loss is down to ")
    recorder = Recorder()
    again = train(recorder, target_loss=100.0)
    assert again.step == 2
    assert any("this run is complete: the held-out loss is down to" in message for message in recorder.messages)
    assert train().step == 6  # without a target it goes on


def test_a_vocabulary_that_is_too_small_is_refused(config: RunConfig) -> None:
    small = replace(config, model_config=replace(config.model_config, vocab_size=4))
    with pytest.raises(
        ConfigError, match=r"vocab_size = 4, and the task has 5 tokens; leave it empty to take the task's"
    ):
        train_job(small, Reporter())
