"""Text out: prefill reads the prompt into a state, then each new token is one step from that state.

Attention re-reads its whole cache for every token. Mamba's state has a fixed size, so a step costs the same after ten
tokens and after a million.
"""

from collections.abc import Iterator
from itertools import repeat

import torch
from torch import Tensor

from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.layers import MambaState
from baby_mamba.models import Mamba


def generate(
    model: Mamba,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Continue each row of `input_ids`.

    Args:
        model: the language model.
        input_ids: the prompts, integers (batch, length), length at least 1; shorter ones are padded on the left.
        max_new_tokens: how many tokens to add.
        temperature: divides the logits; below 1 is bolder towards likely tokens, 0 takes the likeliest.
        top_k: sample among the k likeliest tokens; 0 is all.
        top_p: sample among the likeliest tokens that together hold this probability (arXiv 1904.09751).
        generator: source of randomness, on the model's device; None is torch's global one.
        attention_mask: (batch, length), 0 where a prompt is padded.

    Returns:
        (batch, length + max_new_tokens), the prompts included.

    Raises:
        ShapeError: input_ids is not (batch, length) with length at least 1.
        ConfigError: temperature, top_k, top_p or max_new_tokens is out of range.
    """
    new = stream(
        model,
        input_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        attention_mask=attention_mask,
    )
    return torch.cat([input_ids, *(tokens.unsqueeze(1) for tokens in new)], dim=1)


@torch.no_grad()
def stream(
    model: Mamba,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    attention_mask: Tensor | None = None,
) -> Iterator[Tensor]:
    """As `generate`, but yield each step's tokens, (batch,), as soon as they are drawn."""
    if max_new_tokens < 0 or temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ConfigError(
            f"got max_new_tokens={max_new_tokens}, temperature={temperature}, top_k={top_k}, top_p={top_p}; expected "
            "max_new_tokens, temperature and top_k of at least 0, and top_p above 0 and at most 1"
        )
    logits, state = prefill(model, input_ids, attention_mask=attention_mask)
    for step in range(max_new_tokens):
        tokens = sample(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield tokens
        if step + 1 < max_new_tokens:
            with torch.inference_mode():  # a quarter faster than no_grad on a CPU; nothing of it leaves this function
                logits, state = prefill(model, tokens.unsqueeze(1), state=state)


@torch.no_grad()
def prefill(
    model: Mamba,
    input_ids: Tensor,
    *,
    state: MambaState | None = None,
    attention_mask: Tensor | None = None,
    chunk_length: int = 4096,
) -> tuple[Tensor, MambaState]:
    """Read tokens into a state, chunk by chunk, so that a prompt of any length needs bounded memory.

    Args:
        model: the language model.
        input_ids: integers (batch, length), length at least 1. With length 1 this is a decoding step.
        state: go on from this state; None starts afresh. It is not changed, so one state can be continued many times.
        attention_mask: (batch, length), 0 where a row is padded on the left.
        chunk_length: tokens that are read at once.

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
    masks = repeat(None) if attention_mask is None else attention_mask.split(chunk_length, dim=1)
    for chunk, mask in zip(input_ids.split(chunk_length, dim=1), masks, strict=False):
        hidden, state = model.backbone(chunk, state=state, attention_mask=mask)
    return model.lm_head(hidden[:, -1]), state


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token per row of `logits` (batch, vocab_size); see `generate`. Returns (batch,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        before = (
            probabilities.cumsum(dim=-1) - probabilities
        )  # held by likelier tokens; 0 for the likeliest, kept always
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter_(-1, order, ordered)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)
