"""Checkpoints that a crash at any moment cannot spoil.

    run folder/
      checkpoint/
        step-00000200/           the best one, if it is not the last
        step-00000400/           the last one
          checkpoint.json        format, the model's configuration, the trainer's state
          model.safetensors      parameters by name
          optimizer.safetensors
          tokenizer/

A checkpoint is written under another name, forced to the disk, and renamed, which is a single atomic operation; only
then is the one before removed. So the highest step is a complete checkpoint, whatever happens at whatever moment, and
its state says which one is the best.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.data import Tokenizer, load_tokenizer
from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.models import Model, build_model
from baby_mamba.training.files import force_to_disk

_FORMAT = {"format": "baby_mamba checkpoint", "format_version": 1}
_STORE, _UNFINISHED = "checkpoint", "unfinished"
_FACTS, _MODEL, _OPTIMIZER, _TOKENIZER = "checkpoint.json", "model.safetensors", "optimizer.safetensors", "tokenizer"

_MOMENTA = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for each parameter


@dataclass
class TrainerState:
    """What a trainer must remember, beside the tensors, to go on as if it had never stopped."""

    step: int = 0  # optimiser steps taken
    tokens: int = 0  # tokens read in them
    seconds: float = 0.0  # time spent in training, evaluation included
    best_loss: float | None = None  # lowest held-out loss, nats per token
    best_step: int | None = None
    evaluated_step: int | None = None  # step of the latest evaluation
    evaluations_without_improvement: int = 0
    corpus_tokens: int = 0  # in the training split; the windows depend on it


def save_checkpoint(
    run_folder: Path,
    model: Model,
    optimizer: torch.optim.Optimizer,
    state: TrainerState,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Save the last checkpoint of a run, and remove those that are neither the last nor the best.

    The best one is that of `state.best_step`; it has to be there or to be this one.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: it cannot be written; the checkpoints from before are still there.
    """
    store = Path(run_folder) / _STORE
    target = store / _name(state.step)
    unfinished = store / _UNFINISHED
    facts = {**_FORMAT, "model_config": asdict(model.config), "trainer_state": asdict(state)}
    try:
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True)
        save_file(_model_tensors(model), unfinished / _MODEL, metadata={"format": "pt"})
        save_file(_optimizer_tensors(model, optimizer), unfinished / _OPTIMIZER)
        (unfinished / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save(unfinished / _TOKENIZER)
        for path in [*unfinished.rglob("*"), unfinished]:
            force_to_disk(path)
        os.rename(unfinished, target)
        force_to_disk(store)
        for old in _checkpoints(run_folder):
            if old not in (target, _best(store, state)):
                shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {target} cannot be written: {getattr(error, 'strerror', None) or error}; free space or choose "
            "another training_config.ckpt_path (the checkpoint before it is intact)"
        ) from error
    return target


def has_checkpoint(run_folder: str | Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    return bool(_checkpoints(run_folder))


def find_checkpoint(folder: str | Path, which: Literal["last", "best"] = "last") -> Path:
    """The checkpoint folder that is meant by a run folder, or by a checkpoint folder itself.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = Path(folder)
    if (folder / _FACTS).is_file():
        return folder
    if not has_checkpoint(folder):
        raise CheckpointError(
            f"{folder} holds no checkpoint; expected a run folder or a checkpoint folder, so train first or correct "
            "the path (training_config.ckpt_path or resume)"
        )
    last = _checkpoints(folder)[-1]
    if which == "last":
        return last
    _, state = _read_facts(last)
    return _best(folder / _STORE, state) or last


def load_checkpoint(folder: str | Path, model: Model, optimizer: torch.optim.Optimizer) -> TrainerState:
    """Copy the last checkpoint of a run into a model and its optimizer.

    Everything is checked before anything is changed.

    Args:
        folder: a run folder or a checkpoint folder.
        model: of the configuration of the checkpoint.
        optimizer: over the model's parameters.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another model.
    """
    folder = find_checkpoint(folder)
    config, state = _read_facts(folder)
    differing = [
        f"{f.name} = {getattr(config, f.name)} there, {getattr(model.config, f.name)} here"
        for f in fields(MambaConfig)
        if f.name not in ("backend", "block_size") and getattr(config, f.name) != getattr(model.config, f.name)
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint {folder} is of another model: {'; '.join(differing)}; build the model with its configuration, "
            "or choose another training_config.ckpt_path, or resume = never to start afresh"
        )
    weights = _read_tensors(folder / _MODEL, _model_tensors(model))
    momenta = _read_tensors(folder / _OPTIMIZER, _optimizer_shapes(model, optimizer))
    _copy_into(model, weights)
    numbered = {
        number: {key: momenta[f"{name}.{key}"] for key in _MOMENTA}
        for number, (name, _) in enumerate(_optimized(model, optimizer))
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": numbered})
    return state


def saved_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a run folder's last checkpoint, or of a checkpoint folder; None if it was saved without one.

    Raises:
        CheckpointError: there is no checkpoint, or the tokenizer is damaged.
    """
    path = find_checkpoint(folder) / _TOKENIZER
    return load_tokenizer(path) if path.exists() else None


def load_model(
    folder: str | Path,
    which: Literal["last", "best"] = "best",
    *,
    device: str | torch.device = "cpu",
    backend: str = "auto",
) -> tuple[Model, Tokenizer | None]:
    """Build the model of a checkpoint, in evaluation mode.

    Args:
        folder: a run folder or a checkpoint folder.
        which: of a run folder: the checkpoint with the lowest held-out loss, or the last one.
        device: where to put it.
        backend: implementation of the operations; which one trained the model does not matter.

    Returns:
        (model, tokenizer); the tokenizer is None if the run had none.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not a baby_mamba one.
    """
    folder = find_checkpoint(folder, which)
    config, _ = _read_facts(folder)
    model = build_model(replace(config, backend=backend))
    _copy_into(model, _read_tensors(folder / _MODEL, _model_tensors(model)))
    tokenizer = saved_tokenizer(folder)
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise _damaged(folder, f"its tokenizer has {tokenizer.vocab_size} tokens, its model {config.vocab_size}")
    return model.to(device).eval(), tokenizer


# Folders


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _checkpoints(run_folder: str | Path) -> list[Path]:
    """The checkpoint folders of a run, in the order of their steps."""
    found = (Path(run_folder) / _STORE).glob("step-*")
    steps = {path: path.name.removeprefix("step-") for path in found}
    return sorted((path for path, step in steps.items() if step.isdigit()), key=lambda path: int(steps[path]))


def _best(store: Path, state: TrainerState) -> Path | None:
    return None if state.best_step is None else store / _name(state.best_step)


# Reading


def _read_facts(folder: Path) -> tuple[MambaConfig, TrainerState]:
    facts = _read_json(folder / _FACTS)
    found = {key: facts.get(key) for key in _FORMAT}
    if found != _FORMAT:
        raise CheckpointError(
            f"{folder / _FACTS} has {found}; expected {_FORMAT}: it was written by another program or by another "
            "version of baby_mamba, so load it with that one"
        )
    try:
        return MambaConfig(**facts["model_config"]), TrainerState(**facts["trainer_state"])
    except (KeyError, TypeError, ConfigError) as error:
        raise _damaged(folder / _FACTS, str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds a {type(value).__name__}, not an object")
    return value


def _read_tensors(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read a safetensors file that has to hold the names and shapes of `expected`."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except (SafetensorError, OSError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    for name in sorted(expected.keys() | tensors.keys()):
        got = tuple(tensors[name].shape) if name in tensors else "missing"
        want = tuple(expected[name].shape) if name in expected else "no such tensor"
        if got != want:
            raise CheckpointError(
                f"{path} does not fit the model: {name} is {got}, expected {want}; it is of another model, "
                "so choose another training_config.ckpt_path"
            )
    return tensors


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} is damaged: {what}; restore it from a copy, or choose another training_config.ckpt_path "
        "to start afresh"
    )


# Tensors by name


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; `named_parameters` gives tied ones once."""
    saved = model.state_dict()
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().contiguous() for name, tensor in named if name in saved}


def _copy_into(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    model.load_state_dict(tensors, strict=False)  # names were checked; those that are tied to another are not listed


def _optimized(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters in the optimizer's own order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.contiguous()
        for name, parameter in _optimized(model, optimizer)
        for key, value in optimizer.state[parameter].items()
    }


def _optimizer_shapes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors of the shapes that the state of AdamW has after a step."""
    return {
        f"{name}.{key}": torch.zeros(()) if key == "step" else parameter
        for name, parameter in _optimized(model, optimizer)
        for key in _MOMENTA
    }
