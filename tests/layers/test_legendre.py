"""The Legendre expansion of a block's inputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre

from baby_mamba import Mamba, MambaBlock, MambaConfig, MambaEncoder
from baby_mamba.errors import ConfigError
from baby_mamba.layers import LegendreExpansion
from baby_mamba.training.optimizer import decay_groups

CONFIG = MambaConfig(vocab_size=11, d_model=8, n_layer=2, d_state=4, backend="parallel")


@pytest.mark.parametrize("order", [1, 2, 10])
def test_it_is_the_formula(order: int) -> None:
    """Against numpy's polynomials: each output is a sum over features and degrees."""
    torch.manual_seed(0)
    layer, x = LegendreExpansion(3, order).double(), torch.randn(2, 5, 3, dtype=torch.float64) * 3
    torch.nn.init.normal_(layer.mix.weight)
    torch.nn.init.normal_(layer.mix.bias)
    weight = layer.mix.weight.detach().numpy().reshape(3, 3, order)  # (out, in, degree - 1)
    polynomials = np.stack([legendre.Legendre.basis(k)(np.tanh(x.numpy())) for k in range(1, order + 1)], axis=-1)
    expected = x.numpy() + np.einsum("oik,btik->bto", weight, polynomials) + layer.mix.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("build", [Mamba, MambaEncoder])
def test_a_new_model_computes_what_it_would_without(build: type) -> None:
    ids, outputs = torch.randint(0, 11, (2, 7)), []
    with_it = build(replace(CONFIG, legendre_order=4))
    without = build(CONFIG)
    without.load_state_dict(with_it.state_dict(), strict=False)
    outputs = [model(ids) for model in (with_it, without)]
    outputs = [output if isinstance(output, torch.Tensor) else output.logits for output in outputs]
    assert torch.equal(*outputs)


def test_every_weight_learns_and_only_the_matrix_decays() -> None:
    model = Mamba(replace(CONFIG, legendre_order=3))
    ids = torch.randint(0, 11, (2, 7))
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    decayed = {id(p) for p in decay_groups(model, 0.1)[0]["params"]}
    mix = model.backbone.layers[0].mixer.legendre.mix
    assert id(mix.weight) in decayed
    assert id(mix.bias) not in decayed


def test_names_are_the_published_ones_when_it_is_off() -> None:
    off, on = (set(dict(MambaBlock(c).named_parameters())) for c in (CONFIG, replace(CONFIG, legendre_order=2)))
    assert on - off == {"legendre.mix.weight", "legendre.mix.bias"}
    assert off < on
    assert not any("legendre" in name for name in MambaBlock(CONFIG).state_dict())


def test_both_directions_of_an_encoder_share_it() -> None:
    mixer = MambaEncoder(replace(CONFIG, legendre_order=2)).layers[0].mixer
    assert mixer.left_to_right.legendre is mixer.right_to_left.legendre


def test_narrow_inputs_keep_their_dtype_and_large_ones_are_bounded() -> None:
    layer = LegendreExpansion(4, 10).bfloat16()
    torch.nn.init.ones_(layer.mix.weight)
    x = torch.full((1, 1, 4), 1e4, dtype=torch.bfloat16)
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y - x).abs().max() <= 64  # 40 polynomials within [-1, 1]; the next bfloat16 after 1e4 is 64 away


def test_state_in_state_out() -> None:
    """It looks at one token alone, so text may still be read in pieces."""
    torch.manual_seed(0)
    model = Mamba(replace(CONFIG, legendre_order=3)).double()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    ids = torch.randint(0, 11, (2, 9))
    whole, first = model(ids).logits, model(ids[:, :4])
    second = model(ids[:, 4:], state=first.state)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole)


def test_the_order_is_checked() -> None:
    for order in (-1, 11):
        with pytest.raises(ConfigError, match=r"model_config.legendre_order = .* of at least 0 and of at most 10"):
            MambaConfig(legendre_order=order)
