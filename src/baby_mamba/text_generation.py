"""Text from a model and its tokenizer, as it is drawn.

session = TextSession(model, tokenizer, temperature=0.8, seed=1)
for piece in session.stream("Once upon a time", max_new_tokens=200, stop="\n\n"):
    print(piece, end="", flush=True)  # in a terminal or a notebook
for piece in session.stream(" But then", max_new_tokens=200):  # goes on; nothing is read twice
    print(piece, end="", flush=True)

generate_text(model, tokenizer, ["The ", "Once upon a time"], max_new_tokens=200)  # several at once
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from baby_mamba.config import Sampling
from baby_mamba.data import Tokenizer
from baby_mamba.errors import ConfigError
from baby_mamba.generation import Step, pad_left, stream
from baby_mamba.models import LanguageModel, ModelState

logger = logging.getLogger("baby_mamba")

_CONTEXT = 8  # tokens that are decoded with the new ones, since a token's text may depend on those before it


class TextSession:
    """A text that a model and somebody else write in turns. The state is kept, so no part of it is read twice.

    Args:
        model: used as it is, in training or evaluation mode.
        tokenizer: the one that the model was trained with.
        seed: of the sampling; None draws from torch's global generator.
        state: what has been read before; None starts afresh.
        sampling: how a token is drawn.
        options: fields of `Sampling` by name, which win over those of `sampling`.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        seed: int | None = None,
        state: ModelState | None = None,
        sampling: Sampling | None = None,
        **options: float,
    ) -> None:
        self.model, self.tokenizer, self._first_state = model, tokenizer, state
        self.sampling = replace(sampling or Sampling(), **options)
        self._generator = _generator(model, seed)
        self._step: Step | None = None  # the latest one; it makes a copy of its state only if asked for it
        self._unread: list[int] = []  # tokens that are in the text and not yet in the state

    @property
    def state(self) -> ModelState | None:
        """What has been read so far; None if nothing has. The last token that was drawn is not yet in it."""
        return self._first_state if self._step is None else self._step.state

    def stream(self, text: str, *, max_new_tokens: int, stop: str | Sequence[str] = ()) -> Iterator[str]:
        """Add `text`, go on from it, and yield the new text as it is drawn, in whole characters.

        A reader who stops early stops the text there, and can call again.

        Args:
            text: what follows the text so far; it may be empty unless there is none.
            max_new_tokens: how many tokens to add at most.
            stop: the new text ends before the first of these strings, no part of which is yielded. What was drawn of
                it stays in the state.

        Raises:
            ConfigError: there is no text to go on from, a stop string is empty, or max_new_tokens is negative.
        """
        unread = self._unread + _encode(self.tokenizer, text)
        if not unread:
            raise ConfigError("the prompt is empty; expected text of at least one token to go on from")
        characters = _Characters(self.tokenizer, unread, stop)
        self._unread = unread
        steps = stream(
            self.model,
            torch.tensor([unread], device=_device(self.model)),
            max_new_tokens=max_new_tokens,
            sampling=self.sampling,
            generator=self._generator,
            state=self.state,
        )
        for step in steps:
            self._step, self._unread = step, step.tokens.tolist()
            piece = characters.add(self._unread[0])
            if piece:
                yield piece
            if characters.stopped:
                return
        rest = characters.end()
        if rest:
            yield rest


def generate_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    sampling: Sampling | None = None,
    **options: float,
) -> list[str]:
    """Continue several prompts in one batch, and return the new text of each; arguments as `TextSession`.

    Raises:
        ConfigError: a prompt is empty, or an option is out of range.
    """
    encoded = [_encode(tokenizer, prompt) for prompt in prompts]
    if not all(encoded):
        raise ConfigError(f"prompt {encoded.index([])} is empty; expected text of at least one token to go on from")
    input_ids, attention_mask = pad_left(encoded, _device(model))
    rows = [_Characters(tokenizer, ids, stop) for ids in encoded]
    texts = [""] * len(rows)
    steps = stream(
        model,
        input_ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        generator=_generator(model, seed),
        attention_mask=attention_mask,
        **options,
    )
    for step in steps:
        for row, token in enumerate(step.tokens.tolist()):
            texts[row] += rows[row].add(token)
        if all(row.stopped for row in rows):
            break
    return [text + row.end() for text, row in zip(texts, rows, strict=True)]


class _Characters:
    """Makes text of tokens as they come, and holds back half characters and what may become a stop string.

    Args:
        tokenizer: makes text of tokens.
        context: the tokens before.
        stop: strings before which the text ends.
    """

    def __init__(self, tokenizer: Tokenizer, context: list[int], stop: str | Sequence[str]) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = [stop] if isinstance(stop, str) else list(stop)
        if "" in self._stop:
            raise ConfigError("a stop string is empty, and every text has that at once; give at least one character")
        self._ids = [id for id in context[-_CONTEXT:] if id < tokenizer.vocab_size]
        self._n_shown = len(self._ids)
        self._held = ""  # the start of a stop string, perhaps

    def add(self, id: int) -> str:
        """The text that is certain after one more token."""
        if self.stopped or id >= self._tokenizer.vocab_size:
            return ""  # a model's vocabulary may be padded to a rounder size; such a token stands for nothing
        self._ids.append(id)
        text = self._new_text()
        if text.endswith("\ufffd"):
            return ""  # the first part of a character; wait for the rest
        self._ids = self._ids[self._n_shown :]
        self._n_shown = len(self._ids)
        return self._before_stop(text)

    def end(self) -> str:
        """The text that was held back, when no more tokens come."""
        if self.stopped:
            return ""
        text = self._before_stop(self._new_text())
        return text if self.stopped else text + self._held

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._ids[: self._n_shown])
        return self._tokenizer.decode(self._ids)[len(before) :]

    def _before_stop(self, text: str) -> str:
        """What of the text can be shown: all before the stop string that is complete first, or may still become one."""
        if not self._stop:
            return text
        text = self._held + text
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stop if stop in text]
        if found:
            self.stopped = True
            return text[: min(found)[1]]
        n_held = max(n for stop in self._stop for n in range(len(stop)) if text.endswith(stop[:n]))
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    unknown = tokenizer.unknown_characters(text)
    if unknown:
        logger.warning("the prompt has characters that the model has never seen: %s", " ".join(map(repr, unknown)))
    return tokenizer.encode(text).tolist()


def _device(model: LanguageModel) -> torch.device:
    return next(model.parameters()).device


def _generator(model: LanguageModel, seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator(_device(model)).manual_seed(seed)
