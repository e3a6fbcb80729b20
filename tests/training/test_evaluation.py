import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from baby_mamba.config import MambaConfig
from baby_mamba.data import IGNORE_INDEX, MaskedDataset, SelectiveCopying, TaskDataset, TokenDataset
from baby_mamba.models import Mamba, MambaForMaskedLM
from baby_mamba.training import Evaluation, evaluate


def build() -> Mamba:
    torch.manual_seed(0)
    return Mamba(MambaConfig(vocab_size=5, n_layer=1, d_model=8, d_state=4, initializer_range=0.5, backend="reference"))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_token_counts_the_same(batch_size: int) -> None:
    """The mean over tokens, not over batches: the last window is shorter than the others, and its batch smaller."""
    model, tokens = build(), np.random.default_rng(0).integers(0, 5, 61)
    result = evaluate(model, TokenDataset.from_array(tokens, 8), batch_size)
    losses = []
    for start in range(0, 60, 7):
        window = torch.from_numpy(tokens[start : start + 8])[None]
        losses += F.cross_entropy(model(window).logits[0, :-1], window[0, 1:], reduction="none").tolist()
    assert len(losses) == result.n_tokens == 60
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


def test_bits_per_character() -> None:
    dataset = TokenDataset.from_array(np.arange(20) % 5, 8)
    result = evaluate(build(), dataset, 4, characters_per_token=2.5)
    assert result.bits_per_character == pytest.approx(result.loss / math.log(2) / 2.5)
    assert evaluate(build(), dataset, 4).bits_per_character is None


@pytest.mark.parametrize("training", [True, False])
def test_leaves_no_trace(training: bool) -> None:
    model = build().train(training)
    modes = []
    model.register_forward_hook(lambda module, args, out: modes.append((module.training, out.loss.requires_grad)))
    evaluate(model, TokenDataset.from_array(np.arange(20) % 5, 8), 4)
    assert set(modes) == {(False, False)}
    assert model.training == training


def test_perplexity_of_a_hopeless_model() -> None:
    assert math.isfinite(Evaluation(1e4, 1, None).perplexity)


def test_accuracy_in_a_task() -> None:
    """The share of answers that are the likeliest token, and of rows with nothing but such; other tokens count not."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=6, n_layer=1, d_model=8, d_state=4, tie_embeddings=False, backend="reference")
    model, dataset = Mamba(config), TaskDataset(SelectiveCopying(length=12, vocab_size=6, n_data_tokens=2), 50)
    result = evaluate(model, dataset, 7)
    rows = next(dataset.evaluation_batches(50))
    logits = model(rows.input_ids).logits[:, -3:-1]  # at the two markers that ask
    answers = rows.labels[:, -2:]
    right = logits.argmax(-1) == answers
    assert 0 < right.float().mean() < 1
    assert result.accuracy == pytest.approx(float(right.float().mean()))
    assert result.sequence_accuracy == pytest.approx(float(right.all(1).float().mean()))
    assert result.loss == pytest.approx(F.cross_entropy(logits.flatten(0, 1), answers.flatten()).item(), rel=1e-5)
    assert (result.n_tokens, result.bits_per_character) == (100, None)


def test_a_text_has_no_accuracy() -> None:
    result = evaluate(build(), TokenDataset.from_array(np.arange(20) % 5, 8), 4)
    assert result.accuracy is None
    assert result.sequence_accuracy is None


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_accuracy_at_hidden_tokens(batch_size: int) -> None:
    """The share of hidden tokens that are found, each scored where it stands; rows with nothing but such are luck."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=6, n_layer=1, d_model=8, d_state=4, initializer_range=1.0, backend="reference")
    model = MambaForMaskedLM(config)
    windows = TokenDataset.from_array(np.random.default_rng(0).integers(0, 5, 100), 12)
    dataset = MaskedDataset(windows, mask_id=5, fraction=0.3)
    losses, right = [], []
    for rows in dataset.evaluation_batches(1):
        hidden = rows.labels != IGNORE_INDEX
        logits, answers = model(rows.input_ids).logits[hidden], rows.labels[hidden]
        losses += F.cross_entropy(logits, answers, reduction="none").tolist()
        right += (logits.argmax(-1) == answers).tolist()
    result = evaluate(model, dataset, batch_size)
    assert result.n_tokens == len(losses) == 9 * 4  # of 12
    assert 0 < np.mean(right) < 1
    assert result.accuracy == pytest.approx(np.mean(right))
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert (result.sequence_accuracy, result.bits_per_character) == (None, None)
