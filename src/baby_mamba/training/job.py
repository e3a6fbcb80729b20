"""A training from its configuration: text and tokenizer, or a task; model, trainer, run folder.

result = train_job(load_config("configs/config.ini"))
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from baby_mamba.config import RunConfig
from baby_mamba.data import Dataset, TaskDataset, Tokenizer, prepare_datasets
from baby_mamba.errors import ConfigError
from baby_mamba.models import Transformer, build_model
from baby_mamba.training.checkpoint import saved_tokenizer
from baby_mamba.training.device import choose_device
from baby_mamba.training.report import Reporter, TrainingResult
from baby_mamba.training.run_folder import METRICS, PLOT, TOKENS, check_run_folder, resumed_folder
from baby_mamba.training.trainer import Trainer
from baby_mamba.visualize import plot_loss

logger = logging.getLogger("baby_mamba")


def check_job(config: RunConfig) -> None:
    """Refuse all that can be refused before the text is read: the device, and the run folder. Nothing is written.

    Raises:
        ConfigError: the device is not there, or no run folder is named.
        CheckpointError: the run folder cannot be used.
    """
    if not config.training_config.ckpt_path:
        raise ConfigError("training_config.ckpt_path is empty; expected a folder to write the run into")
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
    model = build_model(replace(config.model_config, vocab_size=_vocab_size(config, data)))
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
        task_set = TaskDataset.from_config(config.dataset, block_size)
        return _Data(task_set, task_set, task_set.task.vocab_size)
    training = config.training_config
    source = resumed_folder(training)
    tokenizer, train_set, eval_set, corpus = prepare_datasets(
        config.dataset,
        block_size,
        Path(training.ckpt_path) / TOKENS,
        tokenizer=saved_tokenizer(source) if source else None,
    )
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
