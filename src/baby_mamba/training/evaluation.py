"""The loss on text that a model was not trained on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from baby_mamba.data import TokenDataset
from baby_mamba.models import Mamba


class Evaluation(NamedTuple):
    """How well a model predicts a text."""

    loss: float  # mean nats per scored token
    n_tokens: int  # how many were scored
    bits_per_character: float | None  # None where the number of characters is not known

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to predict."""
        return math.exp(min(self.loss, 700.0))  # float64 ends at exp(709)


@torch.no_grad()
def evaluate(
    model: Mamba,
    dataset: TokenDataset,
    batch_size: int,
    *,
    characters_per_token: float | None = None,
) -> Evaluation:
    """The mean loss per token over a whole dataset, in evaluation mode and without gradients.

    Args:
        model: on the device to compute on; its mode is restored.
        dataset: read in order by `evaluation_batches`, which scores every token but the first exactly once.
        batch_size: windows that are read at once; the result does not depend on it.
        characters_per_token: of the text. With it the loss is also given in bits per character,
            loss / ln 2 / characters_per_token, in which models with different tokenizers can be compared.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    losses, counts = [], []
    for batch in dataset.evaluation_batches(batch_size):
        input_ids = batch.to(device)
        losses.append(model(input_ids, labels=input_ids, return_logits=False).loss)
        counts.append(input_ids.shape[0] * (input_ids.shape[1] - 1))  # a window's first token is not predicted
    model.train(training)
    weights = torch.tensor(counts, dtype=torch.float64)
    loss = float(torch.stack(losses).cpu().double() @ weights / weights.sum())
    bits = loss / math.log(2) / characters_per_token if characters_per_token else None
    return Evaluation(loss, sum(counts), bits)
