"""Text from a model and its tokenizer: what is printed while training and by `generate`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from baby_mamba.config import GenerationConfig
from baby_mamba.data import Tokenizer
from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.generation import stream
from baby_mamba.models import Mamba

logger = logging.getLogger("baby_mamba")


def stream_text(model: Mamba, tokenizer: Tokenizer, config: GenerationConfig) -> Iterator[str]:
    """Continue `config.prompt` by `config.num_generated_tokens` tokens, and yield the new text as it is drawn.

    Args:
        model: used as it is, in training or evaluation mode.
        tokenizer: the one that the model was trained with.
        config: prompt, length, temperature, top_k, top_p and seed.

    Raises:
        ConfigError: the prompt is empty.
    """
    ids = tokenizer.encode(config.prompt).tolist()
    if not ids:
        raise ConfigError("generation_config.prompt is empty; expected text of at least one token to go on from")
    unknown = tokenizer.unknown_characters(config.prompt)
    if unknown:
        logger.warning("the prompt has characters that the model has never seen: %s", " ".join(map(repr, unknown)))
    device = next(model.parameters()).device
    new = stream(
        model,
        torch.tensor([ids], device=device),
        max_new_tokens=config.num_generated_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        generator=torch.Generator(device).manual_seed(config.sampling_seed),
    )
    # A character may be split over several tokens, and a token's text may depend on the one before it. So decode from
    # a little before, and wait while the last character is incomplete.
    first, printed = 0, len(ids)
    for token in new:
        if int(token) >= tokenizer.vocab_size:
            continue  # a model's vocabulary may be padded to a rounder size; such a token stands for nothing
        ids.append(int(token))
        before, now = tokenizer.decode(ids[first:printed]), tokenizer.decode(ids[first:])
        if not now.endswith("\ufffd"):
            yield now[len(before) :]
            first, printed = printed, len(ids)
    yield tokenizer.decode(ids[first:])[len(tokenizer.decode(ids[first:printed])) :]


def sample_text(model: Mamba, tokenizer: Tokenizer, config: GenerationConfig) -> str:
    """The prompt and its continuation as one string; see `stream_text`."""
    return config.prompt + "".join(stream_text(model, tokenizer, config))


def append_text(path: str | Path, text: str) -> None:
    """Append to a file of samples, which is made if it is missing.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}; choose another generation_config.generated_text_path"
        ) from None
