"""Text out: prefill reads the prompt into a state, then each new token is one step from that state.

Attention re-reads its whole cache for every token. Mamba's state has a fixed size, so a step costs the same after ten
tokens and after a million. And since no call changes a state that it was given, a text that was read once can be
continued many times, from memory or from disk:

    _, state = prefill(model, book)
    save_state("book.state", state)
    state = load_state("book.state", model)
    one = generate(model, question, state=state, max_new_tokens=100)
    four_at_once = generate(model, four_questions, state=repeat_state(state, 4), max_new_tokens=100)

This is about tokens; for text see `text_generation`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from baby_mamba.config import Sampling
from baby_mamba.decoding import LentState, borrow_decoder
from baby_mamba.errors import CheckpointError, ConfigError, ShapeError
from baby_mamba.layers import BlockState, map_state
from baby_mamba.models import LanguageModel, Mamba, ModelState

CPU_PREFILL = 4096  # tokens of each row that `prefill` reads at once
GPU_PREFILL = 32_768  # tokens of all rows: fewer, and the GPU waits for Python

NextLogits = Float[Tensor, "batch vocabulary"]  # the scores of one token, the next
NextTokens = Int[Tensor, " batch"]


class Step:
    """One new token for each row. Whoever collects steps should take out what is needed: each one holds a state.

    Attributes:
        tokens: what was drawn, (batch,).
        log_probabilities: of the tokens, in nats, under the model itself; None unless asked for.
    """

    __slots__ = ("_state", "log_probabilities", "tokens")

    def __init__(
        self, tokens: NextTokens, log_probabilities: Float[Tensor, " batch"] | None, state: ModelState | LentState
    ) -> None:
        self.tokens, self.log_probabilities, self._state = tokens, log_probabilities, state

    @property
    def state(self) -> ModelState:
        """Has read all before `tokens`: to go on by hand, read `tokens` from here. No later step changes it."""
        return self._state.get() if isinstance(self._state, LentState) else self._state


# Generation


def generate(
    model: LanguageModel,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    state: ModelState | None = None,
    attention_mask: Tensor | None = None,
    return_log_probabilities: bool = False,
    **options: float,
) -> Tensor | tuple[Tensor, Tensor]:
    """Continue each row of `input_ids`.

        generate(model, input_ids, max_new_tokens=100, temperature=0.8, top_p=0.95)

    Args:
        model: the language model.
        input_ids: the prompts, integers (batch, length), length at least 1; see `pad_left` for unequal ones.
        max_new_tokens: how many tokens to add at most.
        sampling: how a token is drawn; None draws from the model's own distribution.
        stop_ids: a row ends with the first of these tokens that it draws, and repeats it until all rows have ended.
        generator: source of randomness, on the model's device; None is torch's global one.
        state: go on from this state, as if `input_ids` followed what it has read; so to write right after a text, leave
            its last token out of `prefill` and give it here. The repetition penalty knows the tokens of this call only.
        attention_mask: (batch, length), 0 where a prompt is padded.
        return_log_probabilities: also return how probable the model found each new token. For those of the prompt see
            `scoring.token_log_probabilities`.
        options: fields of `Sampling` by name, which win over those of `sampling`.

    Returns:
        (batch, length + new tokens), the prompts included; or that and log p of each new token, (batch, new tokens),
        in nats: the model's own, before temperature, penalty and filters, and 0 after the end of a row.

    Raises:
        ShapeError: input_ids is not (batch, length) with length at least 1, or the state does not fit.
        ConfigError: max_new_tokens or an option is out of range.
    """
    ids, log_probabilities = [input_ids], [torch.zeros(len(input_ids), 0, device=input_ids.device)]
    for step in stream(
        model,
        input_ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids=stop_ids,
        generator=generator,
        state=state,
        attention_mask=attention_mask,
        return_log_probabilities=return_log_probabilities,
        **options,
    ):
        ids.append(step.tokens.unsqueeze(1))  # but not the step itself, which holds a state
        if step.log_probabilities is not None:
            log_probabilities.append(step.log_probabilities.unsqueeze(1))
    text = torch.cat(ids, dim=1)
    return (text, torch.cat(log_probabilities, dim=1)) if return_log_probabilities else text


@torch.no_grad()
def stream(
    model: LanguageModel,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    state: ModelState | None = None,
    attention_mask: Tensor | None = None,
    return_log_probabilities: bool = False,
    **options: float,
) -> Iterator[Step]:
    """As `generate`, but yield each `Step` as soon as its tokens are drawn.

    On a GPU, from 16 new tokens on, the steps after the prompt are replays of one CUDA graph; see `decoding`.
    """
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens = {max_new_tokens} is not allowed; expected a whole number of at least 0")
    sampling = _resolve(sampling, options)
    seen = None
    if sampling.repetition_penalty != 1:
        seen = _tokens_in(input_ids, attention_mask, vocab_size=model.lm_head.out_features)
    last_ids = torch.tensor(sorted(stop_ids), device=input_ids.device) if stop_ids else None
    tokens, ended, log_probabilities = None, None, None

    logits, state = prefill(model, input_ids, state=state, attention_mask=attention_mask)
    with borrow_decoder(model, len(input_ids), max_new_tokens) as decoder:
        for step in range(max_new_tokens):
            drawn = sample(logits, sampling, seen=seen, generator=generator)
            tokens = drawn if ended is None else torch.where(ended, tokens, drawn)
            if return_log_probabilities:
                log_probabilities = logits.float().log_softmax(dim=-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
                if ended is not None:
                    log_probabilities = log_probabilities.masked_fill(ended, 0)
            if last_ids is not None:
                ended = torch.isin(tokens, last_ids)
                all_ended = _Flag(ended.all())
            yield Step(tokens, log_probabilities, state)
            if step + 1 == max_new_tokens:
                return
            if decoder is None and last_ids is not None and all_ended.get():
                return
            if seen is not None:
                seen.scatter_(1, tokens.unsqueeze(1), True)
            with torch.inference_mode():  # a quarter faster than no_grad on a CPU
                if decoder is None:
                    logits, state = prefill(model, tokens.unsqueeze(1), state=state)
                else:
                    logits, state = decoder.advance(tokens, state)
            if decoder is not None and last_ids is not None and all_ended.get():
                return  # only now that the next step runs, so that a GPU does not wait for the question


class _Flag:
    """A boolean tensor on its way to the CPU."""

    def __init__(self, value: Tensor) -> None:
        self._value, self._arrived = value.to("cpu", non_blocking=True), None
        if value.is_cuda:
            self._arrived = torch.cuda.current_stream(value.device).record_event()

    def get(self) -> bool:
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._value)


@torch.no_grad()
def prefill(
    model: LanguageModel,
    input_ids: Tensor,
    *,
    state: ModelState | None = None,
    attention_mask: Tensor | None = None,
    chunk_length: int | None = None,
) -> tuple[Tensor, ModelState]:
    """Read tokens into a state, chunk by chunk, so that a prompt of any length needs bounded memory.

    Args:
        model: the language model.
        input_ids: integers (batch, length), length at least 1. With length 1 this is a decoding step.
        state: go on from this state; None starts afresh. It is not changed, so one state can be continued many times.
        attention_mask: (batch, length), 0 where a row is padded on the left.
        chunk_length: tokens of each row that are read at once. None: 4,096, and on a GPU 32,768 of all rows together,
            which keep it busy.

    Returns:
        (logits, state): the scores of the next token, (batch, vocab_size), and the state after the last token.

    Raises:
        ShapeError: input_ids is not (batch, length) with length at least 1.
    """
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise ShapeError(
            f"input_ids has shape {tuple(input_ids.shape)}; expected (batch, length) with length at least 1: "
            "start from at least one token"
        )
    if chunk_length is None:
        chunk_length = max(1, GPU_PREFILL // len(input_ids)) if input_ids.is_cuda else CPU_PREFILL
    masks = repeat(None) if attention_mask is None else attention_mask.split(chunk_length, dim=1)
    for chunk, mask in zip(input_ids.split(chunk_length, dim=1), masks, strict=False):
        hidden, state = model.backbone(chunk, state=state, attention_mask=mask)
    return model.lm_head(hidden[:, -1]), state


def pad_left(
    prompts: Sequence[Sequence[int] | Tensor | Any], device: str | torch.device | None = None
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Make a batch of prompts of unequal length: (input_ids, attention_mask), each as long as the longest prompt.

    Args:
        prompts: rows of token ids, each at least one: lists, tensors or what `Tokenizer.encode` returns.
        device: where to; None is the CPU.

    Raises:
        ShapeError: there is no prompt, or one is empty.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        raise ShapeError(f"prompts have {lengths} tokens; expected at least one prompt, and at least one token in each")
    input_ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)  # masked, so any id does
    attention_mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        input_ids[row, -length:] = torch.as_tensor(prompt)
        attention_mask[row, -length:] = True
    return input_ids.to(device), attention_mask.to(device)


# Sampling


def sample(
    logits: NextLogits,
    sampling: Sampling | None = None,
    *,
    seen: Bool[Tensor, "batch vocabulary"] | None = None,
    generator: torch.Generator | None = None,
    **options: float,
) -> NextTokens:
    """Draw one token for each row of `logits`; arguments as `adjust_logits` and `generate`."""
    sampling = _resolve(sampling, options)
    if sampling.temperature == 0 and (sampling.repetition_penalty == 1 or seen is None):
        return logits.argmax(dim=-1)  # which no filter leaves out
    if not _changes_nothing(sampling, seen):
        logits = adjust_logits(logits, sampling, seen=seen)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = logits.softmax(dim=-1, dtype=torch.float32)
    if not logits.is_cuda:
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
    # What multinomial computes for one draw, without its checks, for which the CPU would wait: the token whose
    # exponential waiting time, of rate p, is over first.
    times = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / times).argmax(dim=-1)


def adjust_logits(
    logits: NextLogits, sampling: Sampling, *, seen: Bool[Tensor, "batch vocabulary"] | None = None
) -> NextLogits:
    """The scores that a token is drawn from, in float32; -inf where a filter has left it out.

    Each filter finds the lowest score that it keeps. The likeliest token is always kept.

    Args:
        logits: the model's scores, (batch, vocab_size).
        sampling: repetition penalty (CTRL, arXiv 1909.05858, section 4.1, but with negative scores multiplied, as in
            transformers), temperature, top-k, top-p (arXiv 1904.09751) and min-p (arXiv 2407.01082).
        seen: True for tokens that the penalty applies to; None is none of them.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1 and seen is not None:
        penalty = sampling.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature not in (0, 1):
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = _keep_from(logits, logits.topk(sampling.top_k, dim=-1).values[:, -1:])
    if sampling.top_p < 1:
        ordered = logits.sort(dim=-1, descending=True).values
        probabilities = ordered.softmax(dim=-1)
        likelier = probabilities.cumsum(dim=-1) - probabilities  # held by the tokens before; 0 for the likeliest
        logits = _keep_from(logits, ordered.masked_fill(likelier >= sampling.top_p, torch.inf).amin(-1, keepdim=True))
    if sampling.min_p > 0:
        logits = _keep_from(logits, logits.amax(dim=-1, keepdim=True) + math.log(sampling.min_p))
    return logits


def _changes_nothing(sampling: Sampling, seen: Tensor | None) -> bool:
    """Whether a token is drawn from the model's own distribution, so that the scores need no float32 copy."""
    penalised = sampling.repetition_penalty != 1 and seen is not None
    filtered = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
    return sampling.temperature == 1 and not penalised and not filtered


def _keep_from(logits: Tensor, lowest: Tensor) -> Tensor:
    return logits.masked_fill(logits < lowest, -torch.inf)


def _resolve(sampling: Sampling | None, options: dict[str, float]) -> Sampling:
    if sampling is None:
        return Sampling(**options)
    return replace(sampling, **options) if options else sampling


def _tokens_in(input_ids: Tensor, attention_mask: Tensor | None, *, vocab_size: int) -> Tensor:
    """Which tokens occur in each row outside its padding, (batch, vocab_size) bool."""
    counts = torch.zeros(len(input_ids), vocab_size, dtype=torch.int32, device=input_ids.device)
    ones = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return counts.scatter_add_(1, input_ids, ones.to(torch.int32)) > 0


# States


def repeat_state(state: ModelState, times: int) -> ModelState:
    """Each row of a state `times` times in a row, so that several texts can go on from it in one batch."""
    return map_state(lambda tensor: tensor.repeat_interleave(times, dim=0), state)


_STATE_FORMAT = {"format": "baby_mamba state", "format_version": "1"}


def save_state(path: str | Path, state: ModelState) -> None:
    """Write a state as a safetensors file. A file that is there is replaced at once or, on failure, kept.

    Raises:
        CheckpointError: it cannot be written, or is that of a Transformer.
    """
    path = Path(path)
    if not all(isinstance(layer, BlockState) for layer in state):
        raise CheckpointError(
            f"state {path} would be a Transformer's keys and values, which are not saved; save the text, and read it "
            "again with prefill"
        )
    unfinished = path.with_name(f"{path.name}.unfinished")
    tensors = {name: tensor.contiguous() for name, tensor in _named(state).items()}
    try:
        save_file(tensors, unfinished, metadata=_STATE_FORMAT)
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"state {path} cannot be written: {reason}; choose another path or free space") from error


def load_state(path: str | Path, model: LanguageModel) -> ModelState:
    """Read a state that `save_state` wrote, on the model's device.

    Its shape is checked. That the weights are those that the state was made with is up to you.

    Raises:
        CheckpointError: it is missing, damaged, not a state, or of a model of another shape.
    """
    device = next(model.parameters()).device
    if not isinstance(model, Mamba):
        raise CheckpointError(
            f"state {path} is for a Mamba, and the model is a Transformer; read the text again, with prefill"
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except FileNotFoundError:
        raise CheckpointError(f"state {path} does not exist; write it with save_state") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"state {path} is damaged: it cannot be read ({error}); read the text again, with prefill"
        ) from error
    found = {key: metadata.get(key) for key in _STATE_FORMAT}
    if found != _STATE_FORMAT:
        raise CheckpointError(f"{path} has {found}; expected {_STATE_FORMAT}, as save_state writes")

    _, expected = prefill(model, torch.zeros(1, 1, dtype=torch.long, device=device))
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in _named(expected).items()}
    for name in sorted(shapes.keys() | tensors.keys()):
        got = tuple(tensors[name].shape[1:]) if name in tensors else "missing"
        if got != shapes.get(name):
            raise CheckpointError(
                f"state {path} does not fit the model: {name} is {got} for each row, expected "
                f"{shapes.get(name, 'no such tensor')}; load it with the model that it was made with"
            )
    batches = {len(tensor) for tensor in tensors.values()}
    if len(batches) > 1:
        raise CheckpointError(f"state {path} is damaged: its tensors have {sorted(batches)} rows; expected one number")
    return tuple(
        BlockState(**{field: tensors[f"layers.{layer}.{field}"] for field in BlockState._fields})
        for layer in range(len(expected))
    )


def _named(state: ModelState) -> dict[str, Tensor]:
    return {
        f"layers.{layer}.{field}": tensor
        for layer, block in enumerate(state)
        for field, tensor in block._asdict().items()
    }
