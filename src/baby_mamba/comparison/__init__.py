"""A Mamba and a Transformer of the same size under the same conditions: trained, measured, and set side by side.

    results = compare(load_config("configs/compare.ini"))

1. Both are trained on the same windows of the same text in the same order, with the same schedule.
2. `measurements`: a training step at growing lengths, and decoding after growing contexts, the two taking turns.
3. Both continue the same prompts.
4. `report`: what came out, in words, tables and pictures.

The folder `training_config.ckpt_path` then holds

    mamba/ llama/            the run folders
    results.json             every number and text
    report.md                the same, to read
    loss.png training.png decoding.png
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from baby_mamba.comparison.measurements import measure_decoding, measure_training_steps, untrained
from baby_mamba.comparison.report import MAMBA, TRANSFORMER, summarise, write_report
from baby_mamba.config import GenerationConfig, RunConfig
from baby_mamba.data import Tokenizer
from baby_mamba.environment import describe_environment
from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.models import LanguageModel, Transformer
from baby_mamba.text_generation import TextSession
from baby_mamba.training import ConsoleReporter, Reporter, check_job, load_model, train_job
from baby_mamba.training.device import choose_device
from baby_mamba.training.files import replace_text
from baby_mamba.training.metrics import read_metrics
from baby_mamba.training.run_folder import METRICS
from baby_mamba.visualize import plot_comparison

logger = logging.getLogger("baby_mamba")

RESULTS = "results.json"


def compare(config: RunConfig, new_reporter: Callable[[], Reporter] = ConsoleReporter) -> dict[str, Any]:
    """Train the two models, or load those that an earlier call trained, measure them, and write the report.

    Args:
        config: `model_config` describes the Mamba, `comparison` the Transformer and the measurements, and the rest
            holds for both; `training_config.ckpt_path` is the folder of the comparison.
        new_reporter: makes what shows the progress of a training.

    Returns:
        What is in results.json.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: with the reason and the remedy.
        KeyboardInterrupt: Ctrl-C ended a training; the same call goes on.
    """
    jobs = _jobs(config)
    for job in jobs.values():
        check_job(job)
    results: dict[str, Any] = {"environment": describe_environment(), "models": {}, "training": {}}
    trained: dict[str, tuple[LanguageModel, Tokenizer | None]] = {}
    for name, job in jobs.items():
        logger.info("%s: %s", name, job.training_config.ckpt_path)
        results["training"][name] = _train(job, new_reporter())
        model, tokenizer = load_model(
            job.training_config.ckpt_path,
            "last",
            device=choose_device(job.training_config.device),
            backend=job.model_config.backend,
        )
        results["models"][name] = _describe(model, job)
        trained[name] = model, tokenizer

    vocab_size = trained[MAMBA][0].config.vocab_size
    contenders = {name: untrained(job, vocab_size) for name, job in jobs.items()}
    results["training_steps"] = measure_training_steps(contenders, config.comparison)
    results["decoding"] = measure_decoding(contenders, config.comparison)
    results["texts"] = _texts(trained, config)
    results["config"] = {"dataset": asdict(config.dataset), "training": asdict(config.training_config)}
    results["config"] |= {"comparison": asdict(config.comparison), "block_size": config.model_config.block_size}
    results["config"]["device"] = choose_device(config.training_config.device).type
    results["summary"] = summarise(results)

    folder = Path(config.training_config.ckpt_path)
    try:
        replace_text(folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        plot_comparison(results, folder)
        write_report(results, folder)
    except OSError as error:
        raise CheckpointError(f"the report cannot be written into {folder}: {error.strerror}; free space") from error
    return results


def _jobs(config: RunConfig) -> dict[str, RunConfig]:
    """The configuration of each training: the same but for the architecture and the run folder."""
    architectures = {MAMBA: config.model_config.architecture, TRANSFORMER: config.comparison.architecture}
    if architectures[MAMBA] != "mamba":
        raise ConfigError(
            f"model_config.architecture = {architectures[MAMBA]} is not what compare expects: that section is to "
            "describe the Mamba, so leave it at mamba and name the Transformer in comparison.architecture"
        )
    if config.model_config.objective != "next_token":
        raise ConfigError(
            f"model_config.objective = {config.model_config.objective} is not what compare expects, whose Transformer "
            "predicts the next token; use objective = next_token"
        )
    if architectures[TRANSFORMER] == "mamba":
        raise ConfigError("comparison.architecture = mamba is no Transformer; expected llama, qwen3, gpt2, opt, ...")
    if not config.training_config.ckpt_path:
        raise ConfigError("training_config.ckpt_path is empty; expected a folder to write the comparison into")
    folder = Path(config.training_config.ckpt_path)
    return {
        name: replace(
            config,
            model_config=replace(config.model_config, architecture=architecture),
            training_config=replace(config.training_config, ckpt_path=str(folder / architecture)),
        )
        for name, architecture in architectures.items()
    }


def _train(job: RunConfig, reporter: Reporter) -> dict[str, Any]:
    """Train, or load, and return how the held-out loss fell, with tokens and at the run's median speed.

    The two are not trained at the same moment, and the clock would count what else the machine did at either.
    """
    result = train_job(job, reporter)
    if result.interrupted or result.evaluation is None:
        raise KeyboardInterrupt
    rows = read_metrics(Path(job.training_config.ckpt_path) / METRICS)
    speeds = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    speed = statistics.median(speeds or [result.tokens / result.seconds])
    return {
        "steps": result.step,
        "tokens": result.tokens,
        "tokens_per_second": speed,
        "seconds": result.tokens / speed,
        "seconds_by_the_clock": result.seconds,
        "held_out_loss": result.evaluation.loss,
        "bits_per_character": result.evaluation.bits_per_character,
        "lowest_held_out_loss": result.best_loss,
        "curve": [
            {"tokens": row["tokens"], "seconds": row["tokens"] / speed, "held_out_loss": row["validation_loss"]}
            for row in rows
            if "validation_loss" in row
        ],
    }


def _describe(model: LanguageModel, job: RunConfig) -> dict[str, Any]:
    shape = (
        model.shape_in_words
        if isinstance(model, Transformer)
        else f"{model.config.n_layer} blocks, width {model.config.d_model}, d_state {model.config.d_state}"
    )
    return {
        "architecture": model.config.architecture,
        "shape": shape,
        "parameters": model.num_parameters(),
        "run_folder": job.training_config.ckpt_path,
    }


def _texts(trained: dict[str, tuple[LanguageModel, Tokenizer | None]], config: RunConfig) -> list[dict[str, str]]:
    """What each writes after each prompt, with the same sampling and seed, within one training window.

    Nothing if they have learnt a synthetic task, which is not made of text.
    """
    if any(tokenizer is None for _, tokenizer in trained.values()):
        return []
    return [
        {"prompt": prompt}
        | {
            name: _continue(model, tokenizer, prompt, config.generation_config)
            for name, (model, tokenizer) in trained.items()
        }
        for prompt in config.comparison.prompts.split("|")
    ]


def _continue(model: LanguageModel, tokenizer: Tokenizer, prompt: str, generation: GenerationConfig) -> str:
    session = TextSession(model, tokenizer, seed=generation.sampling_seed, sampling=generation)
    room = model.config.block_size - len(tokenizer.encode(prompt))
    if room < 1:
        raise ConfigError(
            f"a prompt of comparison.prompts fills the window of model_config.block_size = {model.config.block_size} "
            "tokens; shorten it, or raise block_size"
        )
    pieces = session.stream(
        prompt, max_new_tokens=min(generation.num_generated_tokens, room), stop=generation.stop or ()
    )
    return "".join(pieces)
