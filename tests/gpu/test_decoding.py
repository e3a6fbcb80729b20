"""The captured, fused decoding step against the model's own layers, and what `stream` promises with it."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from baby_mamba import Mamba, MambaConfig, generate, prefill, repeat_state, stream
from baby_mamba.decoding import Decoder, FusedStep, OrdinaryStep, can_fuse, pool
from baby_mamba.layers import MambaState

pytestmark = pytest.mark.gpu

VOCABULARY = 101
LIMIT = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def build(dtype: torch.dtype = torch.float32, **options: object) -> Mamba:
    torch.manual_seed(0)
    model = Mamba(MambaConfig(**{"vocab_size": VOCABULARY, "d_model": 48, "n_layer": 3, **options}))
    for parameter in model.parameters():  # away from the initialisation, where the past hardly matters
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to("cuda", dtype)


def random_ids(*shape: int) -> Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(sum(shape))).cuda()


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def check(model: Mamba, batch: int, step: type = FusedStep, context: int = 9) -> None:
    """Scores and states of a few steps, against the layers themselves, in float32."""
    dtype = model.lm_head.weight.dtype
    wide = Mamba(model.config).cuda()
    wide.load_state_dict(model.state_dict())
    _, state = prefill(model, random_ids(batch, context))
    expected_state = tuple(type(layer)(*(tensor.float() for tensor in layer)) for layer in state)
    with torch.no_grad():
        decoder = Decoder(model, batch, step=step(model, batch))
    for tokens in random_ids(3, batch):
        expected, expected_state = prefill(wide, tokens[:, None], state=expected_state)
        got, state = decoder.advance(tokens, state)
        assert relative_error(got, expected) < LIMIT[dtype]
    for layer, expected_layer in zip(state.get(), expected_state, strict=True):
        for name, tensor, expected in zip(layer._fields, layer, expected_layer, strict=True):
            if tensor.numel():
                assert relative_error(tensor, expected) < LIMIT[dtype], name


@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize("batch", [1, 3, 16, 64, 70])
def test_scores_and_states(batch: int, dtype: torch.dtype) -> None:
    check(build(dtype), batch)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"selective": "none"},
        {"selective": "delta C"},
        {"selective": "B"},
        {"selection_norm_epsilon": 1e-6},
        {"conv_bias": False, "in_out_proj_bias": True},
        {"residual_in_fp32": False},
        {"d_conv": 1},
        {"d_conv": 2, "d_state": 1},
        {"d_model": 70, "expand": 3, "d_state": 5, "dt_rank": 3},
        {"d_model": 400, "expand": 1, "d_state": 64},
        {"d_model": 1280, "n_layer": 1, "tie_embeddings": False},
    ],
    ids=str,
)
def test_options(options: dict, batch: int) -> None:
    model = build(**options)
    assert can_fuse(model, batch)
    check(model, batch)
    check(model.bfloat16(), batch)


@pytest.mark.parametrize(("batch", "dtype"), [(1, torch.bfloat16), (64, torch.bfloat16), (2, torch.float32)])
def test_the_shape_of_130m(batch: int, dtype: torch.dtype) -> None:
    check(build(dtype, d_model=768, n_layer=2, vocab_size=50280), batch)


@pytest.mark.parametrize("dtype", list(LIMIT))
def test_own_layers_captured(dtype: torch.dtype) -> None:
    check(build(dtype, selective="delta C", legendre_order=2), 3, OrdinaryStep)


def test_what_the_kernels_do_not_cover_is_captured_as_it_is() -> None:
    for model in (build(torch.float64), build(backend="parallel")):
        assert not can_fuse(model, 2)
        with pool.borrow_decoder(model, 2, 99) as decoder:
            assert isinstance(decoder.step, OrdinaryStep)
        ids = random_ids(2, 4)
        expected = stepwise(model, ids, 20)
        assert torch.equal(generate(model, ids, max_new_tokens=20, temperature=0), expected)


def stepwise(model: Mamba, ids: Tensor, count: int) -> Tensor:
    """The likeliest continuation, by calls of the model."""
    logits, state = prefill(model, ids)
    text = [ids]
    for _ in range(count):
        text.append(logits.argmax(-1, keepdim=True))
        logits, state = prefill(model, text[-1], state=state)
    return torch.cat(text, dim=1)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_likeliest_text(batch: int) -> None:
    model, ids = build(), random_ids(batch, 7)
    expected = stepwise(model, ids, 100)
    for _ in range(2):  # the second time with the graph of the first
        assert torch.equal(generate(model, ids, max_new_tokens=100, temperature=0), expected)


def test_as_good_after_100_000_tokens_as_after_100() -> None:
    model = build()
    for context in (100, 100_000):
        check(model, 2, context=context)


def test_seeds_filters_and_penalty_give_what_steps_without_a_graph_give(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(), random_ids(3, 5)
    options = {"top_k": 30, "top_p": 0.9, "repetition_penalty": 1.2, "temperature": 0.8}

    def text() -> tuple[Tensor, Tensor]:
        generator = torch.Generator("cuda").manual_seed(5)
        return generate(
            model, ids, max_new_tokens=60, generator=generator, return_log_probabilities=True, **options
        )  # fmt: skip

    captured, log_probabilities = text()
    monkeypatch.setattr(pool, "MIN_TOKENS", 1000)
    plain, expected = text()
    assert torch.equal(captured, plain)
    torch.testing.assert_close(log_probabilities, expected, rtol=1e-3, atol=1e-4)


def test_a_draw_is_that_of_multinomial() -> None:
    from baby_mamba import sample

    logits = torch.randn(4, 5000, device="cuda")
    for seed in range(20):
        drawn = sample(logits, generator=torch.Generator("cuda").manual_seed(seed))
        probabilities = logits.softmax(-1)
        expected = torch.multinomial(probabilities, 1, generator=torch.Generator("cuda").manual_seed(seed))
        assert torch.equal(drawn, expected.squeeze(-1))


def test_a_row_stops_and_the_text_ends_when_all_have() -> None:
    model, ids = build(), random_ids(2, 3)
    free = generate(model, ids, max_new_tokens=40, temperature=0)[:, 3:].tolist()
    ends = free[0][4]
    first = [row.index(ends) if ends in row else 39 for row in free]
    stopped = generate(model, ids, max_new_tokens=40, temperature=0, stop_ids={ends})[:, 3:].tolist()
    for row, drawn, at in zip(stopped, free, first, strict=True):
        assert row == drawn[: at + 1] + [ends] * (max(first) - at)


def equal(one: MambaState, other: MambaState) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_states_stay_as_they_are_whenever_they_are_asked_for() -> None:
    model, ids = build(), random_ids(2, 4)
    at_once = [(step.tokens, step.state) for step in stream(model, ids, max_new_tokens=20, temperature=0)]
    held = list(stream(model, ids, max_new_tokens=20, temperature=0))
    generate(model, ids, max_new_tokens=20)  # uses the buffers again
    text = stepwise(model, ids, 20)[:, 4:]
    for i, ((tokens, state), step) in enumerate(zip(at_once, held, strict=True)):
        assert torch.equal(tokens, step.tokens)
        assert equal(state, step.state)
        rest = generate(model, tokens[:, None], state=state, max_new_tokens=17, temperature=0)
        assert torch.equal(rest[:, : 20 - i], text[:, i:][:, : rest.shape[1]])
    branches = repeat_state(at_once[9][1], 2)
    four = generate(model, text[:, 9:10].repeat_interleave(2, 0), state=branches, max_new_tokens=16, temperature=0)
    assert torch.equal(four[::2], four[1::2])


def test_generations_that_take_turns_do_not_meet() -> None:
    model = build()
    prompts = [random_ids(2, length) for length in (3, 5, 8)]
    streams = [stream(model, prompt, max_new_tokens=30, temperature=0) for prompt in prompts]
    texts = [torch.stack([step.tokens for step in steps], 1) for steps in zip(*streams, strict=True)]
    for i, prompt in enumerate(prompts):
        together = torch.stack([text[:, i] for text in texts], 1)
        assert torch.equal(together, stepwise(model, prompt, 30)[:, prompt.shape[1] :])


def test_changed_and_moved_weights_are_noticed() -> None:
    model, ids = build(), random_ids(1, 4)
    generate(model, ids, max_new_tokens=20)
    with torch.no_grad():
        model.backbone.norm_f.weight.add_(torch.randn_like(model.backbone.norm_f.weight))
    assert torch.equal(generate(model, ids, max_new_tokens=20, temperature=0), stepwise(model, ids, 20))
    (kept,) = pool._pools[model].idle
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.1
    assert torch.equal(generate(model, ids, max_new_tokens=20, temperature=0), stepwise(model, ids, 20))
    assert kept not in pool._pools[model].idle


def test_a_model_takes_its_graphs_with_it() -> None:
    model = build()
    generate(model, random_ids(1, 4), max_new_tokens=20)
    decoder, gone = weakref.ref(pool._pools[model].idle[0].decoder), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert decoder() is None


def test_within_inference_mode_and_without() -> None:
    model, ids = build(), random_ids(1, 4)
    with torch.inference_mode():
        one = generate(model, ids, max_new_tokens=20, temperature=0)
    assert torch.equal(generate(model, ids, max_new_tokens=20, temperature=0), one)
