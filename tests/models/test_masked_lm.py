"""The masked language model: names, loss, and errors."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from baby_mamba import Mamba, MambaConfig, MambaForMaskedLM, build_model
from baby_mamba.errors import ConfigError, ShapeError

CONFIG = MambaConfig(vocab_size=11, d_model=8, n_layer=2, d_state=4, initializer_range=0.5)


def labels_of(ids: torch.Tensor) -> torch.Tensor:
    return ids.masked_fill(torch.rand(ids.shape) < 0.6, -100)


def test_names_and_size() -> None:
    model = MambaForMaskedLM(CONFIG)
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "encoder.embeddings.weight"
    assert model.lm_head.weight is model.encoder.embeddings.weight
    untied = MambaForMaskedLM(replace(CONFIG, tie_embeddings=False))
    assert untied.num_parameters() == model.num_parameters() + 11 * 8


def test_a_new_model_is_as_unsure_as_can_be() -> None:
    torch.manual_seed(0)
    model = MambaForMaskedLM(MambaConfig(vocab_size=100, d_model=64, n_layer=4))
    ids = torch.randint(0, 99, (4, 64))
    labels = labels_of(ids)
    assert abs(model(ids.where(labels == -100, 99), labels=labels).loss.item() - math.log(100)) < 0.1


def test_the_loss_is_at_the_labels_own_positions() -> None:
    torch.manual_seed(0)
    model, ids = MambaForMaskedLM(CONFIG).double(), torch.randint(0, 11, (3, 7))
    labels = labels_of(ids)
    logits, loss = model(ids, labels=labels)
    hidden = labels != -100
    torch.testing.assert_close(loss, F.cross_entropy(logits[hidden], ids[hidden]))

    padded, mask = F.pad(ids, (2, 3), value=7), F.pad(torch.ones_like(ids), (2, 3))
    labels_there = F.pad(labels, (2, 3), value=5)  # labels of padding are not scored
    again = model(padded, labels=labels_there, attention_mask=mask)
    torch.testing.assert_close(again.loss, loss)
    torch.testing.assert_close(again.logits[:, 2:-3], logits)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_same_loss_without_the_logits(tie_embeddings: bool) -> None:
    torch.manual_seed(1)
    model = MambaForMaskedLM(replace(CONFIG, tie_embeddings=tie_embeddings)).double()
    ids = torch.randint(0, 11, (3, 7))
    labels, parameters = labels_of(ids), list(model.parameters())
    expected, got = model(ids, labels=labels), model(ids, labels=labels, return_logits=False)
    assert got.logits is None
    for a, b in zip(
        [got.loss, *torch.autograd.grad(got.loss, parameters)],
        [expected.loss, *torch.autograd.grad(expected.loss, parameters)],
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert model(ids).loss is None


def test_a_configuration_says_which_model_it_is() -> None:
    config = replace(CONFIG, objective="masked")
    assert isinstance(build_model(config), MambaForMaskedLM)
    assert isinstance(build_model(CONFIG), Mamba)
    assert MambaForMaskedLM(CONFIG).config == config
    assert (CONFIG.is_causal, config.is_causal) == (True, False)
    with pytest.raises(ConfigError, match=r"objective = masked is not what a Mamba learns.*MambaForMaskedLM"):
        Mamba(config)
    with pytest.raises(ConfigError, match="architecture = llama is no Mamba"):
        build_model(replace(config, architecture="llama"))


@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_are_named() -> None:
    model, ids = MambaForMaskedLM(CONFIG), torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"labels has shape \(2, 4\)"):
        model(ids, labels=ids[:, 1:])
    with pytest.raises(ConfigError, match=r"model_config.vocab_size is not set"):
        MambaForMaskedLM(MambaConfig())


def test_compiles_without_a_graph_break() -> None:
    """In a process of its own: torch.compile is to see the functions, not the shape checks around them."""
    program = """
import torch
from baby_mamba import MambaConfig, MambaForMaskedLM

ids = torch.randint(0, 11, (2, 6))
labels = ids.masked_fill(torch.rand(2, 6) < 0.6, -100)
config = MambaConfig(vocab_size=11, d_model=8, n_layer=2, d_state=4, legendre_order=2)
model = MambaForMaskedLM(config)
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
losses = [m(ids, labels=labels, return_logits=False).loss for m in (compiled, model)]
torch.testing.assert_close(*(torch.autograd.grad(loss, list(model.parameters())) for loss in losses))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
