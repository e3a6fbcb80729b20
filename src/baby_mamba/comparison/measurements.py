"""How fast the two train and decode, and in how much memory, against length.

They take turns, so that a busy machine slows both alike, and medians are reported. Weights do not matter for speed, so
the models are untrained, and a model that computes positions is measured beyond its training windows, too.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baby_mamba.config import ComparisonConfig, RunConfig
from baby_mamba.data import TokenDataset
from baby_mamba.generation import prefill, stream
from baby_mamba.models import LanguageModel, ModelState, Transformer, build_model
from baby_mamba.training import Reporter, Trainer

logger = logging.getLogger("baby_mamba")

Rows = list[dict[str, Any]]
_UNTIMED_TOKENS = 3  # at the start of each decoding


def untrained(job: RunConfig, vocab_size: int) -> Trainer:
    """A trainer of a new model for random tokens, which writes nothing."""
    comparison = job.comparison
    longest = max(comparison.longest_training_length, comparison.longest_context) + 2 * comparison.decoded_tokens
    model = build_model(replace(job.model_config, vocab_size=vocab_size))
    if _max_length(model) is None:
        model.config = replace(model.config, block_size=max(longest, model.config.block_size))
    tokens = TokenDataset.from_array(np.zeros(4, dtype=np.uint16), block_size=2)  # to be complete; never read
    training = replace(
        job.training_config,
        ckpt_path="",
        train_batch_size=1,
        gradient_accumulation_steps=1,
        cuda_graph=False,  # a graph allocates when it is captured, and not in the step whose memory is measured
        tensorboard=False,
    )
    return Trainer(model, tokens, tokens, training, reporter=Reporter())


def measure_training_steps(contenders: dict[str, Trainer], comparison: ComparisonConfig) -> Rows:
    """Tokens per second and peak memory of a training step, at each length.

    Returns:
        For each length {"length", "batch", name: {"tokens_per_second", "peak_bytes"}}; peak_bytes is what a step holds
        beyond weights and optimizer. It is None where it cannot be measured, and a contender is None at lengths that
        it has no positions for.
    """
    rows = []
    for length in _lengths(comparison.shortest_length, comparison.longest_training_length):
        logger.info("a training step at %s tokens per sequence", f"{length:,}")
        batch = max(1, comparison.tokens_per_step // length)
        steps = {
            name: _training_step(trainer, batch, length)
            for name, trainer in contenders.items()
            if length <= (_max_length(trainer.model) or length)
        }
        seconds = _take_turns(steps, comparison.repeats)
        row: dict[str, Any] = {"length": length, "batch": batch, **dict.fromkeys(contenders)}
        for name, step in steps.items():
            row[name] = {
                "tokens_per_second": batch * length / statistics.median(seconds[name]),
                "peak_bytes": peak_memory(step, contenders[name].device),
            }
        rows.append(row)
    return rows


def measure_decoding(contenders: dict[str, Trainer], comparison: ComparisonConfig) -> Rows:
    """Tokens per second of one stream, and the size of what it keeps, after contexts of each length.

    Returns:
        For each context {"context", name: {"tokens_per_second", "state_bytes"}}; a contender is None at contexts that
        it has no positions for.
    """
    models: dict[str, LanguageModel] = {}
    for name, trainer in contenders.items():
        models[name] = trainer.model.eval().to(torch.bfloat16 if trainer.use_bfloat16 else torch.float32)
    states: dict[str, ModelState] = {}
    read, rows = 0, []
    for context in _lengths(comparison.shortest_length, comparison.longest_context):
        logger.info("decoding after %s tokens", f"{context:,}")
        row: dict[str, Any] = {"context": context, **dict.fromkeys(models)}
        decoders = {}
        for name, model in models.items():
            last = context + _UNTIMED_TOKENS + comparison.decoded_tokens
            if last <= (_max_length(model) or last):
                _, states[name] = prefill(model, _random_tokens(model, 1, context - read), state=states.get(name))
                decoders[name] = _decoder(model, states[name], comparison.decoded_tokens)
        seconds = _take_turns(decoders, comparison.repeats)
        for name in decoders:
            row[name] = {
                "tokens_per_second": comparison.decoded_tokens / statistics.median(seconds[name]),
                "state_bytes": state_bytes(states[name]),
            }
        rows.append(row)
        read = context
    return rows


def state_bytes(state: ModelState) -> int:
    """Bytes of all tensors of a state."""
    return sum(tensor.nbytes for layer in state for tensor in layer if tensor is not None)


def peak_memory(function: Callable[[], object], device: torch.device) -> int | None:
    """The largest number of bytes that a call holds beyond those that were held before it.

    On a GPU by PyTorch's count, and on Linux by the resident memory of this process; None elsewhere.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # memory that earlier calls freed would hide what this one takes
    before = _resident("VmRSS")
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forget the peak so far
    except OSError:  # not allowed in some containers
        return None
    function()
    return max(0, _resident("VmHWM") - before)


def _resident(kind: str) -> int:
    """Bytes of memory now (VmRSS) or at the peak (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(kind))


def _lengths(shortest: int, longest: int) -> Iterator[int]:
    while shortest <= longest:
        yield shortest
        shortest *= 4


def _take_turns(functions: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """The seconds that each function returns, in `repeats` rounds after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            seconds[name].append(function())
    return {name: values[1:] for name, values in seconds.items()}


def _training_step(trainer: Trainer, batch: int, length: int) -> Callable[[], float]:
    input_ids = _random_tokens(trainer.model, batch, length)

    def step() -> float:
        trainer.model.train()
        start = time.perf_counter()
        trainer.training_step(input_ids, rate=0.0)  # waits for the GPU itself; the weights stay as they are
        return time.perf_counter() - start

    return step


def _decoder(model: LanguageModel, state: ModelState, n_tokens: int) -> Callable[[], float]:
    """Seconds for `n_tokens` likeliest tokens after the state; what comes before them is not counted."""
    first, device = _random_tokens(model, 1, 1), next(model.parameters()).device

    def decode() -> float:
        steps = stream(model, first, max_new_tokens=_UNTIMED_TOKENS + n_tokens, state=state, temperature=0.0)
        for _ in range(_UNTIMED_TOKENS):
            next(steps)
        _wait_for(device)
        start = time.perf_counter()
        for _ in steps:
            pass
        _wait_for(device)
        return time.perf_counter() - start

    return decode


def _random_tokens(model: LanguageModel, batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    input_ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator)
    return input_ids.to(next(model.parameters()).device)


def _max_length(model: LanguageModel) -> int | None:
    return model.max_length if isinstance(model, Transformer) else None


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
