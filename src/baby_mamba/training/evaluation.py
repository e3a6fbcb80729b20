"""The loss on text that a model was not trained on, and the accuracy in a task or at hidden tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from baby_mamba.data import IGNORE_INDEX, Dataset, LabelledBatch, MaskedDataset, labelled
from baby_mamba.models import Model


class Evaluation(NamedTuple):
    """How well a model predicts a text, finds what is hidden in it, or answers in a task."""

    loss: float  # mean nats per scored token
    n_tokens: int  # how many were scored
    bits_per_character: float | None  # None where the number of characters is not known
    accuracy: float | None = None  # share of the scored tokens that are the likeliest ones; None for a whole text
    sequence_accuracy: float | None = None  # share of the rows in which all of them are; for a task only

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to predict."""
        return math.exp(min(self.loss, 700.0))  # float64 ends at exp(709)


@torch.no_grad()
def evaluate(
    model: Model,
    dataset: Dataset,
    batch_size: int,
    *,
    characters_per_token: float | None = None,
) -> Evaluation:
    """The mean loss per token over a whole dataset, in evaluation mode and without gradients.

    Args:
        model: on the device to compute on; its mode is restored.
        dataset: read in order by `evaluation_batches`, which scores every token but the first of a text exactly once,
            the answers of a task, and the hidden tokens of a `MaskedDataset`.
        batch_size: windows that are read at once; the result does not depend on it.
        characters_per_token: of the text. With it the loss is also given in bits per character,
            loss / ln 2 / characters_per_token, in which models with different tokenizers can be compared.
    """
    training, device = model.training, next(model.parameters()).device
    shift = 1 if model.config.is_causal else 0  # from where a token is predicted to where it stands
    model.eval()
    losses, n_scored, n_right = [], [], []
    for batch in dataset.evaluation_batches(batch_size):
        has_labels = isinstance(batch, LabelledBatch)
        input_ids, labels = labelled(batch).to(device)
        targets = labels[:, shift:]  # the next token is predicted, so a window's first one is not
        scored = targets != IGNORE_INDEX
        output = model(input_ids, labels=labels, return_logits=has_labels)
        losses.append(output.loss)
        n_scored.append(scored.sum(1))
        if has_labels:
            guesses = output.logits[:, : targets.shape[1]].argmax(-1)
            n_right.append((guesses == targets).sum(1))  # no token has the id -100
    model.train(training)
    weights = torch.stack([rows.sum() for rows in n_scored]).cpu().double()
    loss = float(torch.stack(losses).cpu().double() @ weights / weights.sum())
    bits = loss / math.log(2) / characters_per_token if characters_per_token else None
    accuracies: list[float] = []
    if n_right:
        right, scored = torch.cat(n_right), torch.cat(n_scored)
        accuracies = [float(right.sum() / scored.sum())]
        if not isinstance(dataset, MaskedDataset):
            accuracies.append(float((right == scored).double().mean()))
    return Evaluation(loss, int(weights.sum()), bits, *accuracies)
