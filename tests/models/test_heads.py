"""The language model: names, initialisation, loss, and errors."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError

from baby_mamba import Mamba, MambaConfig
from baby_mamba.errors import ConfigError, ShapeError

CONFIG = MambaConfig(vocab_size=11, d_model=8, n_layer=2, d_state=4)


def test_shapes_are_checked_under_pytest() -> None:
    with pytest.raises(TypeCheckError):
        Mamba(CONFIG)(torch.zeros(3, dtype=torch.long))


def test_names_are_the_published_ones() -> None:
    model = Mamba(CONFIG)
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "backbone.embeddings.weight"
    assert "backbone.layers.1.mixer.A_log" in names
    assert "backbone.layers.0.norm.weight" in names
    assert names[-1] == "backbone.norm_f.weight"
    assert model.lm_head.weight is model.backbone.embeddings.weight
    untied = Mamba(MambaConfig(vocab_size=11, d_model=8, n_layer=1, tie_embeddings=False))
    assert untied.num_parameters() == sum(p.numel() for p in untied.backbone.parameters()) + 11 * 8


def test_a_new_model_is_as_unsure_as_can_be() -> None:
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=100, d_model=64, n_layer=4))
    input_ids = torch.randint(0, 100, (4, 64))
    assert abs(model(input_ids, labels=input_ids).loss.item() - math.log(100)) < 0.1
    assert model.backbone.embeddings.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_loss_is_shifted_by_one_and_ignores_what_it_should() -> None:
    torch.manual_seed(1)
    model = Mamba(CONFIG)
    ids = torch.randint(0, 11, (2, 6))
    logits, loss, _ = model(ids, labels=ids)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))

    labels = ids.clone()
    labels[0] = -100
    torch.testing.assert_close(model(ids, labels=labels).loss, model(ids[1:], labels=ids[1:]).loss)

    packed = model(ids, labels=ids, sequence_ids=torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)).loss
    torch.testing.assert_close(packed, model(ids.view(4, 3), labels=ids.view(4, 3)).loss)

    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], dim=1)
    mask = F.pad(torch.ones(2, 6, dtype=torch.long), (3, 0))
    torch.testing.assert_close(model(padded, labels=padded, attention_mask=mask).loss, loss)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_same_loss_without_the_logits(backend: str, tie_embeddings: bool) -> None:
    torch.manual_seed(2)
    config = replace(CONFIG, backend=backend, tie_embeddings=tie_embeddings, initializer_range=0.5)
    model = Mamba(config).double()
    ids = torch.randint(0, 11, (2, 6))
    arguments = {
        "labels": ids.masked_fill(torch.rand(2, 6) < 0.2, -100),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]),
        "sequence_ids": torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 2]]),
    }
    parameters = list(model.parameters())
    expected, got = model(ids, **arguments), model(ids, **arguments, return_logits=False)
    assert got.logits is None
    torch.testing.assert_close(got.state, expected.state)
    for a, b in zip(
        [got.loss, *torch.autograd.grad(got.loss, parameters)],
        [expected.loss, *torch.autograd.grad(expected.loss, parameters)],
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert model(ids, return_logits=False)[:2] == (None, None)


def test_every_parameter_gets_a_gradient() -> None:
    model = Mamba(MambaConfig(vocab_size=11, d_model=8, n_layer=2, in_out_proj_bias=True))
    ids = torch.randint(0, 11, (2, 6))
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_are_named() -> None:
    model, ids = Mamba(CONFIG), torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(ConfigError, match=r"model_config.vocab_size is not set"):
        Mamba(MambaConfig())
    with pytest.raises(ShapeError, match=r"input_ids has shape \(5,\).*unsqueeze"):
        model(ids[0])
    with pytest.raises(ShapeError, match=r"labels has shape \(2, 4\)"):
        model(ids, labels=ids[:, 1:])
    with pytest.raises(ShapeError, match=r"attention_mask has shape \(2, 4\)"):
        model(ids, attention_mask=ids[:, 1:])
    with pytest.raises(ShapeError, match="state is of 1 layers; expected 2"):
        model(ids, state=model(ids).state[:1])


def test_compiles_without_a_graph_break() -> None:
    """In a process of its own: torch.compile is to see the functions, not the shape checks around them."""
    program = """
import torch
from baby_mamba import Mamba, MambaConfig

def loss_and_gradients(model, parameters, return_logits):
    loss = model(ids, labels=ids, return_logits=return_logits).loss
    return [loss, *torch.autograd.grad(loss, parameters)]

ids = torch.randint(0, 11, (2, 6))
for backend in ("auto", "parallel", "reference"):  # in this order: the first one is not imported before it is compiled
    model = Mamba(MambaConfig(vocab_size=11, d_model=8, n_layer=2, d_state=4, backend=backend))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    parameters = list(model.parameters())
    for kind in (True, False):
        torch.testing.assert_close(
            loss_and_gradients(compiled, parameters, kind), loss_and_gradients(model, parameters, kind)
        )
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
