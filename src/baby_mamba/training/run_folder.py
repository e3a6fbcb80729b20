"""The run folder: what is in it, whose it is, and what may be written into it.

    run folder/
      config.ini        the resolved configuration
      manifest.json     versions, seed, git commit, hardware and date of every session that trained here
      metrics.jsonl     see `metrics`
      samples.txt       sample texts
      loss.png          see `baby_mamba.visualize`
      checkpoint/       see `checkpoint`
      tokenizer/        the run's tokenizer
      tokens/           the text as tokens, written anew at every start
      tensorboard/      if asked for

A folder with other things in it, or with the run of another configuration, is refused before anything is written.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from baby_mamba.config import SECTIONS, RunConfig, TrainerConfig, load_config
from baby_mamba.data import Tokenizer
from baby_mamba.environment import describe_environment
from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.training.checkpoint import has_checkpoint
from baby_mamba.training.files import replace_text

CONFIG, MANIFEST, METRICS, SAMPLES, PLOT = "config.ini", "manifest.json", "metrics.jsonl", "samples.txt", "loss.png"
_FILES = (CONFIG, MANIFEST, METRICS, SAMPLES, PLOT)
_FOLDERS = ("checkpoint", "tokenizer", "tensorboard")
_LOCK, TOKENS = ".lock", "tokens"
_WITHOUT_A_RUN = (_LOCK, TOKENS)  # what may be there before the manifest is

# Two runs are the same one if these agree: the model, the text, and what comes of it at which step.
_MAY_CHANGE = ("backend", "vocab_size")
_MUST_AGREE = [
    *(("model_config", f.name) for f in fields(SECTIONS["model_config"]) if f.name not in _MAY_CHANGE),
    *(("dataset", f.name) for f in fields(SECTIONS["dataset"])),
    *(("training_config", key) for key in ("train_batch_size", "seed", "mask_fraction")),
]


def resumed_folder(training: TrainerConfig) -> Path | None:
    """The run folder or checkpoint folder that training goes on from; None if it starts afresh."""
    folder = Path(training.ckpt_path)
    if training.resume not in ("auto", "never"):
        return Path(training.resume)
    goes_on = training.resume == "auto" and training.ckpt_path and has_checkpoint(folder)
    return folder if goes_on else None


def check_run_folder(training: TrainerConfig, config: RunConfig | None) -> None:
    """Refuse a run folder that cannot be written, is not a run folder, or belongs to another configuration.

    Nothing that exists is changed.

    Args:
        training: names the run folder and what to resume.
        config: the whole configuration, to be compared with the one in the run folder; None compares nothing.

    Raises:
        CheckpointError: with the reason and the remedy.
    """
    folder = Path(training.ckpt_path)
    _check_writable(folder)
    found = sorted(path.name for path in folder.iterdir() if path.name not in _WITHOUT_A_RUN) if folder.exists() else []
    if found and _read_manifest(folder).get("program") != "baby_mamba":
        raise CheckpointError(
            f"training_config.ckpt_path = {folder} holds other files ({', '.join(found[:3])}); expected a new folder, "
            "an empty one or the folder of a run, so choose another"
        )
    source = resumed_folder(training)
    if source not in (None, folder) and has_checkpoint(folder):
        raise CheckpointError(
            f"training_config.ckpt_path = {folder} holds a run already, and training_config.resume = {source} would "
            "mix another into it; use resume = auto to go on with the one in ckpt_path, or choose another ckpt_path"
        )
    if source == folder and config is not None and (folder / CONFIG).exists():
        differing = _differing(_read_config(folder), config)
        if differing:
            raise CheckpointError(
                f"training_config.ckpt_path = {folder} holds a run of another configuration: {'; '.join(differing)}; "
                "choose another ckpt_path, or use training_config.resume = never to replace that run"
            )


def begin_run(
    folder: Path,
    session: dict[str, Any],
    config: RunConfig | None,
    tokenizer: Tokenizer | None,
    *,
    afresh: bool,
) -> None:
    """Create the run folder, or empty it of an old run, and write manifest, configuration and tokenizer.

    Args:
        folder: a folder that `check_run_folder` accepts.
        session: facts of this session for the manifest, beside versions, hardware and date.
        config: written to config.ini; a trainer that was built from its parts has none.
        tokenizer: written to tokenizer/, if there is one.
        afresh: remove what an earlier run left here.

    Raises:
        CheckpointError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if afresh:
            _remove_run(folder)
        sessions = _read_manifest(folder).get("sessions", [])
        session = {**describe_environment(), "git_commit": _git_commit(), **session}
        manifest = {"program": "baby_mamba", "sessions": [*sessions, session]}
        replace_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        if config is not None:
            replace_text(folder / CONFIG, config.to_ini())
        if tokenizer is not None:
            tokenizer.save(folder / "tokenizer")
    except OSError as error:
        raise CheckpointError(f"run folder {folder} cannot be written: {error.strerror}; choose another") from error


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the run folder, so that no second process trains into it.

    Raises:
        CheckpointError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / _LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(
            f"another process is training into {folder}; wait for it or choose another training_config.ckpt_path"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _check_writable(folder: Path) -> None:
    """Try it out: permissions alone do not tell (root, full disks, read-only file systems)."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    probe = existing / f".baby_mamba.{secrets.token_hex(4)}.tmp"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise CheckpointError(
            f"training_config.ckpt_path = {folder} cannot be written: {error.strerror}; choose a folder that you "
            "may write to"
        ) from None


def _read_config(folder: Path) -> RunConfig:
    try:
        return load_config(folder / CONFIG)
    except ConfigError as error:
        raise CheckpointError(
            f"{folder / CONFIG} cannot be read, so it is unknown whose run is there: {error}; restore the file, or "
            "choose another training_config.ckpt_path"
        ) from None


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest; empty if there is none, or a file of this name that is not ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _remove_run(folder: Path) -> None:
    """Remove the files of a run and nothing else; the manifest last, so that a cut-off removal can be repeated."""
    for name in _FOLDERS:
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    for name in sorted(_FILES, key=MANIFEST.__eq__):
        (folder / name).unlink(missing_ok=True)


def _differing(there: RunConfig, here: RunConfig) -> list[str]:
    pairs = [
        (f"{section}.{key}", getattr(getattr(there, section), key), getattr(getattr(here, section), key))
        for section, key in _MUST_AGREE
    ]
    return [f"{name} is {old!r} there and {new!r} here" for name, old, new in pairs if old != new]


def _git_commit() -> str | None:
    """The commit of the checkout that this file is in, "+changes" if files differ from it; None if it is installed."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")
