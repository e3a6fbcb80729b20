"""What is recorded is what the model computes: its outputs come out of it, and its states are those of the scan."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baby_mamba import Mamba, MambaConfig, Transformer, generate
from baby_mamba.data import CharTokenizer
from baby_mamba.errors import ConfigError, DataError, ShapeError
from baby_mamba.ops import selective_scan
from baby_mamba.visualize import LayerRecord, record, record_attention

TEXT = "a state of fixed size"
TOKENIZER = CharTokenizer(TEXT)
SIZES = {"vocab_size": TOKENIZER.vocab_size, "n_layer": 2, "d_model": 6, "d_state": 3, "d_conv": 3}
SELECTIVE = ("delta B C", "delta B", "delta C", "B C", "delta", "B", "C", "none")


def build(dtype: torch.dtype = torch.float64, **keys: object) -> Mamba:
    """A model whose step sizes differ from token to token, which those of an untrained one hardly do."""
    torch.manual_seed(0)
    model = Mamba(MambaConfig(**{**SIZES, "backend": "reference", **keys})).to(dtype).eval()
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.in_proj.weight.mul_(5)
            if layer.mixer.legendre is not None:
                layer.mixer.legendre.mix.weight.normal_()  # starts at zero
            if hasattr(layer.mixer, "x_proj"):
                layer.mixer.x_proj.weight.mul_(5)
    return model


def in_and_out(model: Mamba, number: int, text: str = TEXT) -> tuple[Tensor, Tensor]:
    """What a layer's block reads and returns, (length, d_model) each."""
    seen = {}
    hook = model.backbone.layers[number].mixer.register_forward_hook(
        lambda block, arguments, result: seen.update(x=arguments[0][0], y=result[0][0])
    )
    with torch.no_grad():
        model(torch.as_tensor(TOKENIZER.encode(text))[None])
    hook.remove()
    return seen["x"], seen["y"]


def block_output(block: nn.Module, layer: LayerRecord, dtype: torch.dtype) -> Tensor:
    """What the block makes of M u + D u, channel by channel."""
    channels = [layer.channel(i) for i in range(layer.u.shape[1])]
    y = torch.stack([channel.attention() @ channel.u + channel.D * channel.u for channel in channels], dim=1)
    with torch.no_grad():
        return block.out_proj((y * F.silu(layer.gate)).to(dtype))


@pytest.mark.parametrize("selection_norm_epsilon", [None, 1e-6])
@pytest.mark.parametrize("selective", SELECTIVE)
def test_the_matrices_reproduce_the_block(selective: str, selection_norm_epsilon: float | None) -> None:
    model = build(selective=selective, selection_norm_epsilon=selection_norm_epsilon, in_out_proj_bias=True)
    recording = record(model, TEXT, TOKENIZER)
    assert list(recording.layers) == [0, 1]
    for number, layer in recording.layers.items():
        _, y = in_and_out(model, number)
        got = block_output(model.backbone.layers[number].mixer, layer, torch.float64)
        torch.testing.assert_close(got, y, rtol=1e-10, atol=1e-12)


def test_with_legendre_polynomials() -> None:
    model = build(legendre_order=2)
    layer = record(model, TEXT, TOKENIZER).layers[1]
    got = block_output(model.backbone.layers[1].mixer, layer, torch.float64)
    torch.testing.assert_close(got, in_and_out(model, 1)[1])
    assert not torch.equal(layer.u, record(build(), TEXT, TOKENIZER).layers[1].u)


@pytest.mark.parametrize("backend", ["cpu", "parallel"])
def test_other_backends_and_float32(backend: str) -> None:
    model = build(torch.float32, backend=backend)
    layer = record(model, TEXT, TOKENIZER).layers[1]
    assert layer.delta.dtype == torch.float32
    torch.testing.assert_close(
        block_output(model.backbone.layers[1].mixer, layer, torch.float32), in_and_out(model, 1)[1]
    )


def test_bfloat16() -> None:
    model = build(torch.bfloat16)
    layer = record(model, TEXT, TOKENIZER).layers[1]
    assert {tensor.dtype for tensor in vars(layer).values()} == {torch.float32}
    got = block_output(model.backbone.layers[1].mixer, layer, torch.bfloat16)
    torch.testing.assert_close(got, in_and_out(model, 1)[1])


def test_delta_by_hand() -> None:
    model = build()
    layer = record(model, TEXT, TOKENIZER).layers[1]
    block, (x, _) = model.backbone.layers[1].mixer, in_and_out(model, 1)
    with torch.no_grad():
        u = F.linear(x, block.in_proj.weight)[:, :12]
        u = F.silu(F.conv1d(F.pad(u.T, (2, 0)), block.conv1d.weight, block.conv1d.bias, groups=12).T)
        low_rank = F.linear(u, block.x_proj.weight)[:, : block.dt_rank]
        delta = torch.log1p(torch.exp(low_rank @ block.dt_proj.weight.T + block.dt_proj.bias))
    torch.testing.assert_close(layer.u, u)
    torch.testing.assert_close(layer.delta, delta)
    assert (layer.delta.amax(0) / layer.delta.amin(0)).max() > 1.5, "else the tests here could not tell tokens apart"
    torch.testing.assert_close(layer.channel(5).A_bar, torch.exp(layer.delta[:, 5, None] * layer.A[5]))
    torch.testing.assert_close(layer.channel(5).B_bar, layer.delta[:, 5, None] * layer.B[:, 0])


@pytest.mark.parametrize("selective", ["delta B C", "delta"])
def test_states_are_those_after_each_step(selective: str) -> None:
    layer = record(build(selective=selective), TEXT, TOKENIZER).layers[0]
    for t in (0, 1, len(TEXT) - 1):
        upto = slice(0, t + 1)
        B, C = (M[:, 0] if M.shape[1] == 1 else M for M in (layer.B, layer.C))
        _, h = selective_scan(
            layer.u[None, upto],
            layer.delta[None, upto],
            layer.A,
            B[None, upto],
            C[None, upto],
            return_final_state=True,
            backend="reference",
        )
        got = torch.stack([layer.channel(i).states[t] for i in range(12)])
        torch.testing.assert_close(got, h[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("selective", ["delta B C", "C"])
def test_mean_attention_is_the_mean_of_the_sizes(selective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[LayerRecord.__module__]  # whose name is also that of the function
    monkeypatch.setattr(module, "_CHANNELS_AT_ONCE", 5)  # 12 channels: the last part is smaller
    layer = record(build(selective=selective), TEXT, TOKENIZER).layers[0]
    mean = torch.stack([layer.channel(i).attention().abs() for i in range(12)]).mean(0)
    torch.testing.assert_close(layer.mean_attention(), mean)
    assert not layer.mean_attention().triu(1).any()


def test_time_scale_is_when_1_over_e_is_left() -> None:
    layer = record(build(), TEXT, TOKENIZER).layers[0]
    left = layer.channel(7).A_bar.prod(0)  # of an input before the text, after all of it
    torch.testing.assert_close(torch.exp(-len(TEXT) / layer.time_scales()[7]), left)


def test_step_sizes_are_compared_with_what_is_usual_in_their_channel() -> None:
    layer = record(build(), TEXT, TOKENIZER).layers[0]
    delta = torch.full_like(layer.delta, 0.01) * torch.arange(1, 13)  # channels differ, tokens do not
    delta[4, 3] *= 8
    delta[5, 7] *= 2
    changed = LayerRecord(**{**vars(layer), "delta": delta})
    expected = torch.ones_like(delta)
    expected[:, 3] /= 8 ** (1 / len(TEXT))
    expected[:, 7] /= 2 ** (1 / len(TEXT))
    expected[4, 3] *= 8
    expected[5, 7] *= 2
    torch.testing.assert_close(changed.relative_delta(), expected)
    assert changed.most_selective(3) == [3, 7, 0]


def test_chosen_layers_ids_and_tokens() -> None:
    model, ids = build(), TOKENIZER.encode(TEXT)
    whole = record(model, TEXT, TOKENIZER)
    assert whole.tokens == tuple(TEXT)
    assert whole.input_ids.tolist() == ids.tolist()
    for given in (ids, ids.tolist(), torch.as_tensor(ids), torch.as_tensor(ids)[None]):
        part = record(model, given, layers=[1])
        assert list(part.layers) == [1]
        torch.testing.assert_close(part.layers[1].delta, whole.layers[1].delta)
        assert part.tokens == tuple(map(str, ids))
    torch.testing.assert_close(record(model.backbone, TEXT, TOKENIZER).layers[0].u, whole.layers[0].u)


def test_the_model_is_left_as_it_was() -> None:
    model = build()
    ids = torch.as_tensor(TOKENIZER.encode(TEXT))[None]
    before = generate(model, ids, max_new_tokens=5, temperature=0)
    recording = record(model, TEXT, TOKENIZER)
    assert torch.equal(generate(model, ids, max_new_tokens=5, temperature=0), before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert not any(tensor.requires_grad for layer in recording.layers.values() for tensor in vars(layer).values())


def test_hooks_go_after_an_error() -> None:
    model = build()
    with pytest.raises(IndexError):
        record(model, [SIZES["vocab_size"]])
    assert not any(module._forward_hooks for module in model.modules())


def test_errors() -> None:
    model = build()
    with pytest.raises(DataError, match="no tokenizer"):
        record(model, TEXT)
    with pytest.raises(DataError, match="no tokens"):
        record(model, "", TOKENIZER)
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        record(model, torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"layer 2 .* expected 0 to 1"):
        record(model, TEXT, TOKENIZER, layers=[0, 2])
    with pytest.raises(ConfigError, match=r"channel 12 .* expected 0 to 11"):
        record(model, TEXT, TOKENIZER).layers[0].channel(12)
    with pytest.raises(ConfigError, match="Linear cannot be recorded"):
        record(nn.Linear(2, 2), TEXT, TOKENIZER)


def transformer(architecture: str) -> Transformer:
    torch.manual_seed(0)
    config = MambaConfig(**{**SIZES, "d_model": 32, "architecture": architecture, "block_size": 32})
    return Transformer(config).eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_attention_of_a_transformer(architecture: str) -> None:
    model = transformer(architecture)
    with pytest.raises(ConfigError, match="Transformer cannot be recorded"):
        record(model, TEXT, TOKENIZER)
    before = model.model.config._attn_implementation
    attention = record_attention(model, TEXT, TOKENIZER)
    assert model.model.config._attn_implementation == before
    n_layer, heads = model.model.config.num_hidden_layers, model.model.config.num_attention_heads
    assert attention.shape == (n_layer, heads, len(TEXT), len(TEXT))
    torch.testing.assert_close(attention.sum(-1), torch.ones(n_layer, heads, len(TEXT)))
    assert not attention.triu(1).any()
    # What a token reads does not depend on what comes after it.
    torch.testing.assert_close(record_attention(model, TEXT[:9], TOKENIZER), attention[:, :, :9, :9])


def test_too_long_for_the_positions_of_a_transformer() -> None:
    with pytest.raises(ShapeError, match="33 tokens; expected at most 32"):
        record_attention(transformer("gpt2"), [0] * 33)
