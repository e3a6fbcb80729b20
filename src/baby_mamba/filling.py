"""Fills the blanks of a text with a masked language model.

    for blank in fill_blanks(model, tokenizer, "She is a ___ student"):
        for candidate in blank.candidates:
            print(candidate.text, candidate.probability)

A blank is a row of underscores. Where tokens are characters or bytes, each underscore is one of them, so `___` is
filled with three; where they are pieces of words, a row of any length is one token. There, a space before the blank
belongs to it, because a piece that begins a word holds the space before the word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from baby_mamba.data import ByteTokenizer, CharTokenizer, MaskTokenizer, Tokenizer
from baby_mamba.errors import ConfigError, DataError
from baby_mamba.models import MambaForMaskedLM

_BEAM = 32  # beginnings of a blank's content that are kept, or as many as candidates are asked for


class Candidate(NamedTuple):
    """What could stand in a blank."""

    text: str  # with the space before it, if the blank took that in
    probability: float  # among all contents of the blank


class Blank(NamedTuple):
    """A blank of a text, and what could stand there."""

    start: int  # text[start:end] is the blank, with the space before it if it took that in
    end: int
    candidates: list[Candidate]  # the likeliest first


@torch.no_grad()
def fill_blanks(
    model: MambaForMaskedLM, tokenizer: Tokenizer, text: str, *, n_candidates: int = 5, blank: str = "_"
) -> list[Blank]:
    """Find what could stand in each blank of a text, as long as the others are empty.

    A blank of several tokens is filled from left to right, p(x_1) p(x_2 | x_1) ..., by beam search: the probabilities
    are the model's for these contents, but where there are many contents a likelier one may have been missed.

    Args:
        model: in evaluation mode.
        tokenizer: the one that it was trained with.
        text: with any number of blanks, also none.
        n_candidates: for each blank; fewer if there are not so many contents.
        blank: the character that blanks are made of, for texts that have underscores.

    Raises:
        ConfigError: n_candidates is not at least 1, or blank is not one character.
        DataError: the tokenizer has no mask.
    """
    if n_candidates < 1:
        raise ConfigError(f"n_candidates = {n_candidates} is not allowed; expected at least 1")
    if len(blank) != 1:
        raise ConfigError(f"blank = {blank!r} is not allowed; expected one character, and a row of them is a blank")
    if not isinstance(tokenizer, MaskTokenizer):
        raise DataError(f"a tokenizer of the kind {tokenizer.kind} has no mask; expected the one of the model's run")
    one_by_one = isinstance(tokenizer.tokenizer, CharTokenizer | ByteTokenizer)
    space = "" if one_by_one else " ?"
    blanks = list(re.finditer(f"{space}{re.escape(blank)}+", text))

    ids, spans, end = np.zeros(0, dtype=np.int64), [], 0
    for match in blanks:
        n_masks = len(match.group()) if one_by_one else 1
        before = tokenizer.encode(text[end : match.start()])
        end = match.end()
        ids = np.concatenate([ids, before, np.full(n_masks, tokenizer.mask_id)])
        spans.append(range(len(ids) - n_masks, len(ids)))
    ids = np.concatenate([ids, tokenizer.encode(text[end:])])

    row = torch.from_numpy(ids).to(next(model.parameters()).device)
    return [
        Blank(
            *match.span(),
            [Candidate(tokenizer.decode(found), p) for found, p in _search(model, row, span, tokenizer, n_candidates)],
        )
        for match, span in zip(blanks, spans, strict=True)
    ]


def with_best(text: str, blanks: Sequence[Blank]) -> str:
    """The text with the likeliest candidate in each blank. Each was chosen without regard to the others."""
    pieces, end = [], 0
    for blank in blanks:
        pieces += [text[end : blank.start], blank.candidates[0].text]
        end = blank.end
    return "".join([*pieces, text[end:]])


def _search(
    model: MambaForMaskedLM, row: Tensor, span: range, tokenizer: MaskTokenizer, n_candidates: int
) -> list[tuple[Tensor, float]]:
    """The likeliest tokens for a span of masks, with their probabilities, by beam search from left to right."""
    rows, scores = row.unsqueeze(0), row.new_zeros(1, dtype=torch.float64)
    for position in span:
        logits = model(rows).logits[:, position, : tokenizer.mask_id]  # nothing is found to be a mask
        extended = scores.unsqueeze(1) + logits.double().log_softmax(dim=-1)  # (beam, vocabulary)
        width = min(max(_BEAM, n_candidates), extended.numel())
        scores, best = extended.flatten().topk(width)
        rows = rows[best // extended.shape[1]].clone()
        rows[:, position] = best % extended.shape[1]
    found = rows[:n_candidates, span.start : span.stop]
    return list(zip(found, scores.exp().tolist(), strict=False))
