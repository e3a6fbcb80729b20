"""A training from its configuration: text and tokenizer, or a task; model, trainer, run folder.

result = train_job(load_config("configs/config.ini"))
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from baby_mamba.config import DatasetConfig, RunConfig
from baby_mamba.data import Dataset, MaskedDataset, MaskTokenizer, TaskDataset, Tokenizer, prepare_datasets
from baby_mamba.errors import ConfigError
from baby_mamba.extraction import LABELS, CVExtraction
from baby_mamba.models import Transformer, build_model
from baby_mamba.training.checkpoint import saved_tokenizer
from baby_mamba.training.device import choose_device
from baby_mamba.training.report import Reporter, TrainingResult
from baby_mamba.training.run_folder import METRICS, PLOT, TOKENS, check_run_folder, resumed_folder
from baby_mamba.training.trainer import Trainer
from baby_mamba.visualize import plot_loss

logger = logging.getLogger("baby_mamba")


def check_job(config: RunConfig) -> None:
    """Refuse all that can be refused before the text is read: device, run folder, objective. Nothing is written.

    Raises:
        ConfigError: the device is not there, no run folder is named, or the objective does not fit the task.
        CheckpointError: the run folder cannot be used.
    """
    if not config.training_config.ckpt_path:
        raise ConfigError("training_config.ckpt_path is empty; expected a folder to write the run into")
    if config.model_config.objective == "masked" and config.dataset.task != "text":
        raise ConfigError(
            f"model_config.objective = masked hides tokens of a text, and dataset.task = {config.dataset.task} has "
            "labels of its own; use objective = next_token or task = text"
        )
    _n_labels(config)
    choose_device(config.training_config.device)
    check_run_folder(config.training_config, config)


def train_job(config: RunConfig, reporter: Reporter | None = None) -> TrainingResult:
    """Train as the configuration says, or go on with the run in its folder; a run that is complete is only evaluated.

    Args:
        config: of the whole run.
        reporter: shows the progress; None shows it on the console.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: with the reason and the remedy.
    """
    check_job(config)
    training = config.training_config
    folder, data = Path(training.ckpt_path), _prepare(config)
    torch.manual_seed(training.seed)
    model = build_model(replace(config.model_config, vocab_size=_vocab_size(config, data), n_labels=_n_labels(config)))
    if isinstance(model, Transformer):
        logger.info("%s: %s; %s", config.model_config.architecture, model.shape_in_words, model.size_in_words)
    trainer = Trainer(
        model,
        data.train_set,
        data.eval_set,
        training,
        tokenizer=data.tokenizer,
        run_config=config,
        characters_per_token=data.characters_per_token,
        reporter=reporter,
    )
    result = trainer.train()
    plot_loss(folder / METRICS, folder / PLOT)
    return result


def task_dataset(config: DatasetConfig, block_size: int) -> TaskDataset:
    """The task that `config.task` names, in rows of `block_size` tokens.

    Raises:
        DataError: the task is a text, or does not fit into such rows.
    """
    if config.task == "cv_extraction":
        return TaskDataset(CVExtraction(block_size), config.task_held_out)
    return TaskDataset.from_config(config, block_size)


class _Data(NamedTuple):
    """What there is to learn."""

    train_set: Dataset
    eval_set: Dataset
    vocab_size: int
    tokenizer: Tokenizer | None = None  # of a text, as is the next one
    characters_per_token: float | None = None


def _prepare(config: RunConfig) -> _Data:
    block_size = config.model_config.block_size
    if config.dataset.task != "text":
        task_set = task_dataset(config.dataset, block_size)
        return _Data(task_set, task_set, task_set.task.vocab_size)
    training = config.training_config
    source = resumed_folder(training)
    tokenizer, train_set, eval_set, corpus = prepare_datasets(
        config.dataset,
        block_size,
        Path(training.ckpt_path) / TOKENS,
        tokenizer=saved_tokenizer(source) if source else None,
    )
    if config.model_config.objective == "masked":
        if not isinstance(tokenizer, MaskTokenizer):  # that of a run that goes on is one
            tokenizer = MaskTokenizer(tokenizer)
        train_set, eval_set = (
            MaskedDataset(windows, mask_id=tokenizer.mask_id, fraction=training.mask_fraction)
            for windows in (train_set, eval_set)
        )
        return _Data(train_set, eval_set, tokenizer.vocab_size, tokenizer)
    characters_per_token = len(corpus.validation) / eval_set.n_tokens
    return _Data(train_set, eval_set, tokenizer.vocab_size, tokenizer, characters_per_token)


def _vocab_size(config: RunConfig, data: _Data) -> int:
    asked = config.model_config.vocab_size
    if asked is not None and asked < data.vocab_size:
        owner = "task" if data.tokenizer is None else "tokenizer"
        raise ConfigError(
            f"model_config.vocab_size = {asked}, and the {owner} has {data.vocab_size} tokens; leave it empty "
            f"to take the {owner}'s, or give at least that"
        )
    return asked or data.vocab_size


def _n_labels(config: RunConfig) -> int | None:
    """Of the task; None for what is learnt by predicting tokens."""
    asked, expected = config.model_config.n_labels, len(LABELS) if config.dataset.task == "cv_extraction" else None
    if asked not in (None, expected):
        raise ConfigError(
            f"model_config.n_labels = {asked}, and dataset.task = {config.dataset.task} has "
            f"{expected or 'no'} labels; leave it empty"
        )
    return expected
