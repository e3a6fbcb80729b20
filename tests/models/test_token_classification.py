"""The classifier of tokens: shapes, loss, padding, and what it refuses."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baby_mamba import MambaConfig
from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.models import MambaForTokenClassification, build_model

CONFIG = MambaConfig(vocab_size=11, n_labels=3, d_model=8, n_layer=2, d_state=4, backend="reference")


@pytest.fixture
def model() -> MambaForTokenClassification:
    torch.manual_seed(0)
    return MambaForTokenClassification(CONFIG)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(1))


def test_scores_each_token(model: MambaForTokenClassification, ids: Tensor) -> None:
    logits, loss = model(ids)
    assert logits.shape == (2, 7, 3)
    assert loss is None


def test_labels_are_not_shifted(model: MambaForTokenClassification, ids: Tensor) -> None:
    labels = torch.tensor([[0, 1, 2, -100, 1, 1, 0], [2, 2, -100, -100, 0, 1, 2]])
    logits, loss = model(ids, labels=labels)
    expected = -torch.stack([logits[i, t].log_softmax(-1)[label] for (i, t), label in _scored(labels)]).mean()
    assert torch.allclose(loss, expected)
    assert model(ids, labels=labels, return_logits=False)[0] is None


def _scored(labels: Tensor) -> list[tuple[tuple[int, int], int]]:
    return [((i, t), int(labels[i, t])) for i in range(2) for t in range(7) if labels[i, t] != -100]


def test_a_token_sees_both_sides(model: MambaForTokenClassification, ids: Tensor) -> None:
    before = model(ids).logits[:, 3]
    for place in (0, 6):
        other = ids.clone()
        other[:, place] = (other[:, place] + 1) % 11
        assert not torch.allclose(model(other).logits[:, 3], before)


@pytest.mark.parametrize(("left", "right"), [(2, 0), (0, 3), (1, 2)])
def test_padding_leaves_no_trace(model: MambaForTokenClassification, ids: Tensor, left: int, right: int) -> None:
    labels = ids % 3
    padded, mask = F.pad(ids, (left, right)), F.pad(torch.ones_like(ids), (left, right))
    expected, got = model(ids, labels=labels), model(padded, labels=F.pad(labels, (left, right)), attention_mask=mask)
    assert torch.allclose(got.logits[:, left : left + 7], expected.logits, atol=1e-6)
    assert torch.allclose(got.loss, expected.loss)


def test_it_learns() -> None:
    """Label 1 on what stands before a 5, 2 on what stands after it: this takes both directions."""
    torch.manual_seed(0)
    model = MambaForTokenClassification(replace(CONFIG, n_layer=1, backend="auto"))
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(120):
        ids = torch.randint(0, 11, (16, 12), generator=generator)
        is_five = ids == 5
        labels = (F.pad(is_five, (0, 1))[:, 1:].long()).masked_fill(F.pad(is_five, (1, 0))[:, :-1], 2)
        logits, loss = model(ids, labels=labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(-1) == labels).float().mean() > 0.97


@pytest.mark.usefixtures("unchecked_shapes")
def test_errors(model: MambaForTokenClassification, ids: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"n_labels is not set; .*Mamba\(config\)"):
        MambaForTokenClassification(replace(CONFIG, n_labels=None))
    with pytest.raises(ConfigError, match="llama"):
        MambaForTokenClassification(replace(CONFIG, architecture="llama"))
    with pytest.raises(ShapeError, match=r"labels has shape \(2, 6\); expected .*\(2, 7\)"):
        model(ids, labels=ids[:, 1:])


def test_build_model(model: MambaForTokenClassification) -> None:
    assert isinstance(build_model(CONFIG), MambaForTokenClassification)
    assert model.num_parameters() == sum(p.numel() for p in model.state_dict(keep_vars=True).values()) - _shared(model)
    assert not CONFIG.is_causal


def _shared(model: MambaForTokenClassification) -> int:
    """What the two directions have in common is in the state twice."""
    mixers = [layer.mixer.right_to_left for layer in model.encoder.layers]
    return sum(p.numel() for m in mixers for part in (m.in_proj, m.out_proj) for p in part.parameters())
