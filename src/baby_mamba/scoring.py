"""How probable a model finds a text: perplexity at any length, and multiple choice.

    score_text(model, tokenizer, text).perplexity
    questions = load_questions("piqa.jsonl")
    score_choices(model, tokenizer, questions).accuracy

Each token is predicted from all that stands before it, however long that is, since the state carries it along.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from baby_mamba.data import Tokenizer
from baby_mamba.errors import DataError, ShapeError
from baby_mamba.generation import pad_left, prefill
from baby_mamba.layers import map_state
from baby_mamba.models import LanguageModel, ModelState
from baby_mamba.shapes import AttentionMask, TokenIds

# Perplexity


@torch.no_grad()
def token_log_probabilities(
    model: LanguageModel,
    input_ids: TokenIds,
    *,
    state: ModelState | None = None,
    attention_mask: AttentionMask | None = None,
    chunk_length: int = 1024,
) -> Float[Tensor, "batch scored"]:
    """log p(token | all before it) of every token but the first, in nats.

    Memory is bounded: logits are held for `chunk_length` tokens at a time, and a state between two chunks.

    Args:
        model: the language model.
        input_ids: integers (batch, length), length at least 1.
        state: what came before; None starts afresh.
        attention_mask: (batch, length), 0 where a row is padded on the left.
        chunk_length: tokens that are read at once; the result does not depend on it.

    Returns:
        (batch, length - 1) in float32; 0 for padding and for the first token after it.

    Raises:
        ShapeError: input_ids is not (batch, length) with length at least 1.
    """
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise ShapeError(f"input_ids has shape {tuple(input_ids.shape)}; expected (batch, length), length at least 1")
    read, targets = input_ids[:, :-1].split(chunk_length, dim=1), input_ids[:, 1:].split(chunk_length, dim=1)
    masks = repeat(None) if attention_mask is None else attention_mask[:, :-1].split(chunk_length, dim=1)
    scored = [torch.zeros(len(input_ids), 0, device=input_ids.device)]
    for chunk, target, mask in zip(read, targets, masks, strict=False):
        if chunk.shape[1] == 0:
            break  # split() of nothing is one empty chunk
        logits, _, state = model(chunk, state=state, attention_mask=mask)
        log_probabilities = _log_probability_of(target, logits)
        scored.append(log_probabilities if mask is None else log_probabilities.masked_fill(mask == 0, 0))
    return torch.cat(scored, dim=1)


class TextScore(NamedTuple):
    """How well a model predicts a text. Its first token is not scored, since nothing stands before it."""

    log_likelihood: float  # nats, of all scored tokens together
    n_tokens: int  # that were scored
    n_characters: int  # of the whole text
    n_bytes: int  # of the whole text in UTF-8

    @property
    def loss(self) -> float:
        """Nats per token."""
        return -self.log_likelihood / self.n_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to predict."""
        return math.exp(min(self.loss, 700.0))  # float64 ends at exp(709)

    @property
    def bits_per_character(self) -> float:
        """In which models with different tokenizers can be compared; the first token counts as an average one."""
        return self.loss / math.log(2) * (self.n_tokens + 1) / self.n_characters

    @property
    def bits_per_byte(self) -> float:
        """As `bits_per_character`, per byte of UTF-8."""
        return self.bits_per_character * self.n_characters / self.n_bytes


def score_text(model: LanguageModel, tokenizer: Tokenizer, text: str, *, chunk_length: int = 1024) -> TextScore:
    """Score a text from its beginning to its end, in one pass over the state.

    Args:
        model: the language model.
        tokenizer: the one that the model was trained with.
        text: of at least two tokens.
        chunk_length: tokens that are read at once; the result does not depend on it.

    Raises:
        DataError: the text has fewer than two tokens.
    """
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise DataError(f"the text has {len(ids)} tokens; expected at least 2, since the first one is not scored")
    input_ids = torch.from_numpy(ids)[None].to(next(model.parameters()).device)
    scored = token_log_probabilities(model, input_ids, chunk_length=chunk_length)
    return TextScore(float(scored.double().sum()), len(ids) - 1, len(text), len(text.encode("utf-8")))


# Multiple choice


class ContinuationScore(NamedTuple):
    """How probable a model finds a continuation of a context."""

    log_likelihood: float  # nats, of all its tokens together
    n_tokens: int
    is_greedy: bool  # whether it is what the model would write at temperature 0


@torch.no_grad()
def score_continuations(
    model: LanguageModel, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[list[ContinuationScore]]:
    """Score the continuations of each context. A context is read once and its state branched over its continuations.

    Contexts are padded on the left, so that all end at the same place; continuations on the right, behind all that is
    scored.

    Args:
        model: the language model.
        contexts: token ids, at least one for each context.
        continuations: for each context its continuations, of at least one token each.

    Returns:
        For each context the scores of its continuations.

    Raises:
        ShapeError: a context or a continuation is empty, or there is none.
    """
    flat = [list(ids) for choices in continuations for ids in choices]
    if not flat or len(continuations) != len(contexts) or not all(flat):
        raise ShapeError(
            f"{len(contexts)} contexts have continuations of {[list(map(len, choices)) for choices in continuations]} "
            "tokens; expected a list of continuations for each context, and at least one token in each of them"
        )
    device = next(model.parameters()).device
    input_ids, attention_mask = pad_left(contexts, device)
    logits, state = prefill(model, input_ids, attention_mask=attention_mask)

    context_of = torch.tensor([i for i, choices in enumerate(continuations) for _ in choices], device=device)
    lengths = torch.tensor([len(ids) for ids in flat])
    longest = int(lengths.max())
    targets = torch.tensor([ids + [0] * (longest - len(ids)) for ids in flat], device=device)
    logits = logits[context_of].unsqueeze(1)  # (all continuations, 1, vocab_size): the context predicts the first token
    if longest > 1:
        branches = map_state(lambda tensor: tensor[context_of], state)
        logits = torch.cat([logits, model(targets[:, :-1], state=branches).logits], dim=1)

    padding = (torch.arange(longest) >= lengths.unsqueeze(1)).to(device)
    log_likelihoods = _log_probability_of(targets, logits).double().masked_fill(padding, 0).sum(dim=1).tolist()
    greedy = ((logits.argmax(dim=-1) == targets) | padding).all(dim=1).tolist()
    scores = iter(map(ContinuationScore, log_likelihoods, lengths.tolist(), greedy))
    return [[next(scores) for _ in choices] for choices in continuations]


class Question(NamedTuple):
    """A context and what may follow it, each choice with the blank that it begins with."""

    context: str
    choices: tuple[str, ...]
    answer: int  # index of the right choice


class ChoiceScores(NamedTuple):
    """How often a model finds the right choice, in the definitions of lm-evaluation-harness."""

    questions: Sequence[Question]
    scores: list[list[ContinuationScore]]  # for each question, of each choice

    @property
    def accuracy(self) -> float:
        """acc: the share of questions whose right choice has the highest log-likelihood.

        Where there is only one choice, as in LAMBADA, whether the model would write it at temperature 0.
        """
        return self._share(lambda choice, score: score.log_likelihood)

    @property
    def normalised_accuracy(self) -> float:
        """acc_norm: as `accuracy`, with log-likelihoods divided by the choice's length in characters.

        The blank at the beginning of a choice does not count.
        """
        return self._share(lambda choice, score: score.log_likelihood / max(1, len(choice.lstrip())))

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of the right choices, each as a whole: LAMBADA's perplexity."""
        right = [scores[q.answer].log_likelihood for q, scores in zip(self.questions, self.scores, strict=True)]
        return math.exp(min(-sum(right) / len(right), 700.0))

    def standard_error(self, share: float) -> float:
        """Of a share of the questions, as that of a mean; infinite if there is one question."""
        n = len(self.questions)
        return math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.inf

    def _share(self, value: Callable[[str, ContinuationScore], float]) -> float:
        n_right = 0
        for question, scores in zip(self.questions, self.scores, strict=True):
            if len(scores) == 1:
                n_right += scores[0].is_greedy
                continue
            values = [value(choice, score) for choice, score in zip(question.choices, scores, strict=True)]
            n_right += values.index(max(values)) == question.answer
        return n_right / len(self.questions)


def score_choices(
    model: LanguageModel, tokenizer: Tokenizer, questions: Sequence[Question], *, batch_size: int = 16
) -> ChoiceScores:
    """Score every choice of every question.

    Context and choice are cut into tokens together, as the text that they make; a blank at the end of a context counts
    as the beginning of the choice, since tokens begin with blanks rather than end with them.

    Args:
        model: the language model.
        tokenizer: the one that the model was trained with.
        questions: what `load_questions` returns, or made in Python.
        batch_size: questions that are read at once; the result does not depend on it.

    Raises:
        DataError: there is no question, or a context or a choice makes no token.
    """
    if not questions:
        raise DataError("there are no questions to score; expected at least one")
    encoded = [_encode(tokenizer, question, number) for number, question in enumerate(questions, start=1)]
    order = sorted(range(len(questions)), key=lambda i: len(encoded[i][0]))  # like lengths together: less padding
    scores: list[list[ContinuationScore]] = [[] for _ in questions]
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        results = score_continuations(model, *zip(*(encoded[i] for i in batch), strict=True))
        for i, result in zip(batch, results, strict=True):
            scores[i] = result
    return ChoiceScores(questions, scores)


def load_questions(path: str | Path) -> list[Question]:
    """Read a .jsonl file with {"context": "...", "choices": [" ...", " ..."], "answer": 0} in each line.

    The text of a choice follows the context as it is, so it has to begin with a blank where one is wanted.

    Raises:
        DataError: the file cannot be read, has no question, or a line is something else; the message has its number.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path") from None
    questions = [_question(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise DataError(f"{path} has no questions; expected one JSON object per line")
    return questions


def _question(line: str, where: str) -> Question:
    try:
        record = json.loads(line)
        context, choices, answer = record["context"], record["choices"], record["answer"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{where} is not a question ({type(error).__name__}: {error}); expected a JSON object with the fields "
            "context, choices and answer"
        ) from None
    if not (isinstance(context, str) and isinstance(choices, list) and all(isinstance(c, str) for c in choices)):
        raise DataError(f"{where}: context or choices are of another kind; expected a text and a list of texts")
    if not choices:
        raise DataError(f"{where}: choices is empty; expected at least one choice")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise DataError(
            f"{where}: answer is {answer!r}; expected the index of the right choice, from 0 to {len(choices) - 1}"
        )
    return Question(context, tuple(choices), answer)


def _encode(tokenizer: Tokenizer, question: Question, number: int) -> tuple[list[int], list[list[int]]]:
    """The tokens of the context, and of each choice after it."""
    stem = question.context.rstrip()
    context = tokenizer.encode(stem).tolist()
    if not context:
        raise DataError(f"question {number} has an empty context; expected text from which the choice is predicted")
    choices = []
    for choice in question.choices:
        choices.append(tokenizer.encode(question.context + choice).tolist()[len(context) :])
        if not choices[-1]:
            raise DataError(
                f"question {number}: the choice {choice!r} adds no token to the context; expected text, with a blank "
                "before it where the tokenizer would join it to the last word"
            )
    return context, choices


def _log_probability_of(targets: TokenIds, logits: Tensor) -> Float[Tensor, "batch length"]:
    """log p of the targets (batch, length) under the logits (batch, length, vocab_size)."""
    return -F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)
