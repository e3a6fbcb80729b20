"""Text from a model and its tokenizer: what is printed while training and by `generate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from baby_mamba.config import GenerationConfig
from baby_mamba.data import Tokenizer
from baby_mamba.errors import CheckpointError
from baby_mamba.filling import fill_blanks, with_best
from baby_mamba.models import LanguageModel, MambaForMaskedLM, Model, Transformer
from baby_mamba.text_generation import TextSession


def stream_text(model: LanguageModel, tokenizer: Tokenizer, config: GenerationConfig) -> Iterator[str]:
    """Continue `config.prompt` as the configuration says, and yield the new text as it is drawn.

    A Transformer with a table of positions writes no further than it has positions.

    Raises:
        ConfigError: the prompt is empty.
    """
    session = TextSession(model, tokenizer, seed=config.sampling_seed, sampling=config)
    n_tokens = config.num_generated_tokens
    if isinstance(model, Transformer) and model.max_length is not None:
        n_tokens = min(n_tokens, max(0, model.max_length - len(tokenizer.encode(config.prompt))))
    return session.stream(config.prompt, max_new_tokens=n_tokens, stop=config.stop or ())


def sample_text(model: Model, tokenizer: Tokenizer, config: GenerationConfig) -> str:
    """The prompt and its continuation as one string; see `stream_text`. A masked language model fills its blanks."""
    if isinstance(model, MambaForMaskedLM):
        return with_best(config.prompt, fill_blanks(model, tokenizer, config.prompt))
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
