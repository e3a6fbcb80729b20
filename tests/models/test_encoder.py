"""The encoder reads in both directions, and padding on either side leaves no trace."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baby_mamba import MambaConfig, MambaEncoder
from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.models.encoder import BidirectionalBlock
from baby_mamba.training.optimizer import decay_groups

CONFIG = MambaConfig(vocab_size=11, d_model=8, n_layer=2, d_state=4)
LENGTH = 9


def encoder(**changes: object) -> MambaEncoder:
    """A random one, in float64 and away from its initialisation, where some effects are small."""
    torch.manual_seed(0)
    model = MambaEncoder(replace(CONFIG, **changes)).double()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.fixture
def ids() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 11, (3, LENGTH))


def test_the_block_is_the_sum_of_both_directions() -> None:
    torch.manual_seed(0)
    block, x = BidirectionalBlock(CONFIG).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    expected = block.left_to_right(x)[0] + block.right_to_left(x[:, [4, 3, 2, 1, 0]])[0][:, [4, 3, 2, 1, 0]]
    torch.testing.assert_close(block(x), expected)


def test_reversed_input_and_swapped_directions_reverse_the_output(ids: Tensor) -> None:
    model = encoder()
    expected = model(ids)
    for layer in model.layers:
        layer.mixer.left_to_right, layer.mixer.right_to_left = layer.mixer.right_to_left, layer.mixer.left_to_right
    torch.testing.assert_close(model(ids.flip(1)), expected.flip(1))
    assert not torch.allclose(model(ids), expected)  # the two directions have weights of their own


def test_every_token_sees_every_token(ids: Tensor) -> None:
    model = encoder(n_layer=1)
    before = model(ids[:1])
    for position in range(LENGTH):
        changed = ids[:1].clone()
        changed[0, position] = (changed[0, position] + 1) % 11
        assert ((model(changed) - before).abs().amax(dim=-1) > 1e-9).all(), position


def test_rows_do_not_meet(ids: Tensor) -> None:
    model = encoder()
    torch.testing.assert_close(model(ids), torch.cat([model(row.unsqueeze(0)) for row in ids]))


@pytest.mark.parametrize("backend", ["auto", "reference", "parallel"])
@pytest.mark.parametrize("padding", [(4, 0), (0, 5), (2, 3)])
@pytest.mark.parametrize("kind", [torch.bool, torch.long])
def test_padding_leaves_no_trace(ids: Tensor, backend: str, padding: tuple[int, int], kind: torch.dtype) -> None:
    model = encoder(backend=backend, in_out_proj_bias=True)
    weights = torch.randn(3, LENGTH, 8, dtype=torch.float64)

    def hidden_and_gradients(hidden: Tensor) -> list[Tensor]:
        return [hidden, *torch.autograd.grad((hidden * weights).sum(), list(model.parameters()))]

    expected = hidden_and_gradients(model(ids))
    padded, mask = F.pad(ids, padding, value=7), F.pad(torch.ones_like(ids), padding).to(kind)
    here = slice(padding[0], padding[0] + LENGTH)
    names = ["hidden", *(name for name, _ in model.named_parameters())]
    got = hidden_and_gradients(model(padded, attention_mask=mask)[:, here])
    for name, a, b in zip(names, got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert not torch.allclose(model(padded)[:, here], expected[0], rtol=1e-4)  # unmasked padding is seen


def test_a_batch_of_unequal_texts_gives_each_what_it_gets_alone(ids: Tensor) -> None:
    model, padded, mask = encoder(), torch.full((3, LENGTH), 7), torch.zeros(3, LENGTH, dtype=torch.bool)
    spans = [slice(0, LENGTH), slice(3, 8), slice(0, 2)]
    for row, span in enumerate(spans):
        padded[row, span], mask[row, span] = ids[row, span], True
    hidden = model(padded, attention_mask=mask)
    for row, span in enumerate(spans):
        torch.testing.assert_close(hidden[row, span], model(ids[row : row + 1, span])[0])


def test_backends_agree(ids: Tensor) -> None:
    model, mask = encoder(backend="reference"), F.pad(torch.ones(3, LENGTH - 2), (1, 1)).long()
    expected = model(ids, attention_mask=mask)
    for backend in ("auto", "parallel", "cpu"):
        other = MambaEncoder(replace(CONFIG, backend=backend)).double()
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other(ids, attention_mask=mask), expected)


def test_both_directions_share_their_projections_and_each_parameter_learns(ids: Tensor) -> None:
    model = MambaEncoder(replace(CONFIG, in_out_proj_bias=True))
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "embeddings.weight"
    assert "layers.1.mixer.left_to_right.in_proj.weight" in names
    assert not any("right_to_left.in_proj" in name or "right_to_left.out_proj" in name for name in names)
    assert {"layers.1.mixer.right_to_left.A_log", "layers.1.mixer.right_to_left.conv1d.weight"} < set(names)
    model(ids).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    decayed = {id(p) for p in decay_groups(model, 0.1)[0]["params"]}
    assert id(model.layers[0].mixer.right_to_left.A_log) not in decayed
    assert id(model.layers[0].mixer.left_to_right.in_proj.weight) in decayed


@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_are_named(ids: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"model_config.vocab_size is not set"):
        MambaEncoder(MambaConfig())
    with pytest.raises(ConfigError, match=r"architecture = llama is no Mamba"):
        MambaEncoder(replace(CONFIG, architecture="llama"))
    with pytest.raises(ShapeError, match=r"attention_mask has shape \(3, 8\)"):
        encoder()(ids, attention_mask=ids[:, 1:])
    with pytest.raises(ShapeError, match=r"input_ids has shape \(9,\).*unsqueeze"):
        encoder()(ids[0])
