"""Masked language modelling through the trainer and the job: trained, evaluated, saved, loaded and resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baby_mamba.config import DatasetConfig, GenerationConfig, MambaConfig, RunConfig, TrainerConfig
from baby_mamba.data import MaskedDataset, MaskTokenizer, TokenDataset
from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.models import MambaForMaskedLM
from baby_mamba.training import Reporter, TrainingResult, evaluate, load_model, train_job
from baby_mamba.training.metrics import read_metrics

TEXT = "the quick brown fox jumps over the lazy dog and the dog sleeps on.\n" * 30
Train = Callable[..., TrainingResult]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "text.txt").write_text(TEXT)
    return RunConfig(
        MambaConfig(objective="masked", block_size=16, n_layer=1, d_model=8, d_state=4, backend="parallel"),
        DatasetConfig(dataset_path=str(tmp_path / "text.txt")),
        TrainerConfig(
            max_steps=6,
            train_batch_size=4,
            learning_rate=1e-2,
            warmup_steps=2,
            schedule="constant",
            eval_every_steps=2,
            save_every_steps=3,
            sample_every_steps=4,
            log_every_steps=1,
            device="cpu",
            ckpt_path=str(tmp_path / "run"),
        ),
        GenerationConfig(prompt="the ___ brown"),
    )


@pytest.fixture
def train(config: RunConfig) -> Train:
    def run(**changes: object) -> TrainingResult:
        return train_job(replace(config, training_config=replace(config.training_config, **changes)), Reporter())

    return run


def test_a_run_is_trained_evaluated_and_loaded(train: Train, tmp_path: Path) -> None:
    result = train()
    assert (result.step, result.tokens) == (6, 6 * 4 * 16)
    rows = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if "validation_loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[-1]["accuracy"] == result.evaluation.accuracy
    assert not {"sequence_accuracy", "bits_per_character"} & set(rows[-1])  # of one token each, and of a part of them

    model, tokenizer = load_model(tmp_path / "run", "last")
    assert isinstance(model, MambaForMaskedLM)
    assert isinstance(tokenizer, MaskTokenizer)
    assert model.config.vocab_size == tokenizer.vocab_size == len(set(TEXT)) + 2  # one is unknown, one is the mask
    held_out = MaskedDataset(TokenDataset(tmp_path / "run/tokens/validation.npy", 16), mask_id=tokenizer.mask_id)
    assert evaluate(model, held_out, 5).loss == pytest.approx(result.evaluation.loss, rel=1e-5)

    samples = (tmp_path / "run/samples.txt").read_text()
    assert samples.startswith("--- step 4 ---\nthe ")
    assert "_" not in samples


def test_it_learns(train: Train) -> None:
    result = train(max_steps=150, train_batch_size=16, eval_every_steps=150, save_every_steps=150)
    share_of_spaces = TEXT.count(" ") / len(TEXT)
    assert result.evaluation.accuracy > 2 * share_of_spaces


@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_goes_on_as_if_it_had_never_stopped(train: Train, tmp_path: Path, parts: int) -> None:
    whole = train(ckpt_path=str(tmp_path / "whole"), gradient_accumulation_steps=parts)
    train(max_steps=3, gradient_accumulation_steps=parts)
    resumed = train(gradient_accumulation_steps=parts)
    assert resumed.evaluation == whole.evaluation
    for one, other in zip(
        *(load_model(tmp_path / name, "last")[0].parameters() for name in ("whole", "run")), strict=True
    ):
        assert torch.equal(one, other)


def test_what_decides_the_masks_may_not_change(train: Train, config: RunConfig) -> None:
    train(max_steps=3)
    with pytest.raises(CheckpointError, match=r"training_config.mask_fraction is 0.15 there and 0.3 here"):
        train(mask_fraction=0.3)
    with pytest.raises(CheckpointError, match=r"model_config.objective is 'masked' there and 'next_token' here"):
        train_job(replace(config, model_config=replace(config.model_config, objective="next_token")), Reporter())


def test_a_synthetic_task_is_refused_before_anything_is_written(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset.task = induction_heads has labels of its own"):
        train_job(replace(config, dataset=DatasetConfig(task="induction_heads")), Reporter())
    assert not (tmp_path / "run").exists()
