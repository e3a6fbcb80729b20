"""The loss on text that a model was not trained on, and the accuracy in a task."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from baby_mamba.data import IGNORE_INDEX, Dataset, LabelledBatch, labelled
from baby_mamba.models import LanguageModel


class Evaluation(NamedTuple):
    """How well a model predicts a text, or answers in a task."""

    loss: float  # mean nats per scored token
    n_tokens: int  # how many were scored
    bits_per_character: float | None  # None where the number of characters is not known
    accuracy: float | None = None  # share of the scored tokens that are the likeliest ones; None for a text
    sequence_accuracy: float | None = None  # share of the rows in which all of them are; None for a text

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to predict."""
        return math.exp(min(self.loss, 700.0))  # float64 ends at exp(709)


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    dataset: Dataset,
    batch_size: int,
    *,
    characters_per_token: float | None = None,
) -> Evaluation:
    """The mean loss per token over a whole dataset, in evaluation mode and without gradients.

    Args:
        model: on the device to compute on; its mode is restored.
        dataset: read in order by `evaluation_batches`, which scores every token but the first of a text exactly once,
            and the answers of a task.
        batch_size: windows that are read at once; the result does not depend on it.
        characters_per_token: of the text. With it the loss is also given in bits per character,
            loss / ln 2 / characters_per_token, in which models with different tokenizers can be compared.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    losses, n_scored, n_right = [], [], []
    for batch in dataset.evaluation_batches(batch_size):
        is_task = isinstance(batch, LabelledBatch)
        input_ids, labels = labelled(batch).to(device)
        targets = labels[:, 1:]  # a window's first token is not predicted
        scored = targets != IGNORE_INDEX
        output = model(input_ids, labels=labels, return_logits=is_task)
        losses.append(output.loss)
        n_scored.append(scored.sum(1))
        if is_task:
            n_right.append((output.logits[:, :-1].argmax(-1) == targets).sum(1))  # no token has the id -100
    model.train(training)
    weights = torch.stack([rows.sum() for rows in n_scored]).cpu().double()
    loss = float(torch.stack(losses).cpu().double() @ weights / weights.sum())
    bits = loss / math.log(2) / characters_per_token if characters_per_token else None
    accuracies: list[float] = []
    if n_right:
        right, scored = torch.cat(n_right), torch.cat(n_scored)
        accuracies = [float(right.sum() / scored.sum()), float((right == scored).double().mean())]
    return Evaluation(loss, int(weights.sum()), bits, *accuracies)
