"""When a step is captured, and what becomes of the states that lie in its buffers; on a CPU, where it runs as it is."""

import gc
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from baby_mamba import Mamba, MambaConfig, generate, prefill, stream
from baby_mamba.decoding import Decoder, OrdinaryStep, can_fuse, pool
from baby_mamba.layers import MambaState

VOCABULARY = 23


def build(**options: object) -> Mamba:
    torch.manual_seed(0)
    model = Mamba(MambaConfig(**{"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 2, **options}))
    for parameter in model.parameters():  # away from the initialisation, where the past hardly matters
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Mamba:
    """A model whose steps are those of a decoder, though there is no GPU to capture them."""
    monkeypatch.setattr(pool, "can_capture", lambda model: True)
    decoder = partial(Decoder, capture=False)
    monkeypatch.setattr(pool, "Decoder", lambda model, batch: decoder(model, batch, step=OrdinaryStep(model, batch)))
    return build()


def random_ids(*shape: int) -> Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(sum(shape)))


def stepwise(model: Mamba, ids: Tensor, count: int) -> tuple[Tensor, list[MambaState]]:
    """The likeliest new tokens by calls of the model, and the state before each."""
    logits, state = prefill(model, ids)
    tokens, states = [], []
    for _ in range(count):
        tokens.append(logits.argmax(-1))
        states.append(state)
        logits, state = prefill(model, tokens[-1][:, None], state=state)
    return torch.stack(tokens, dim=1), states


def assert_equal(one: MambaState, other: MambaState) -> None:
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(tuple(x), tuple(y))


# States


def test_states_stay_as_they_are_whenever_they_are_asked_for(model: Mamba) -> None:
    ids = random_ids(2, 4)
    expected, states = stepwise(model, ids, 20)
    at_once = [(step.tokens, step.state) for step in stream(model, ids, max_new_tokens=20, temperature=0)]
    held = list(stream(model, ids, max_new_tokens=20, temperature=0))
    generate(model, random_ids(2, 9), max_new_tokens=20)  # uses the buffers again
    for i, ((tokens, state), step) in enumerate(zip(at_once, held, strict=True)):
        assert torch.equal(tokens, expected[:, i])
        assert torch.equal(step.tokens, expected[:, i])
        assert_equal(state, states[i])
        assert_equal(step.state, states[i])


def test_a_loop_over_steps_copies_no_state(model: Mamba, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    copy = pool.Decoder(model, 1)._buffers[0].copy
    monkeypatch.setattr(type(copy.__self__), "copy", lambda self: copies.append(self))
    for step in stream(model, random_ids(1, 4), max_new_tokens=20):
        assert step.tokens.shape == (1,)
    assert not copies


def test_a_decoder_goes_on_from_any_state(model: Mamba) -> None:
    ids = random_ids(2, 6)
    decoder = pool.Decoder(model, 2)
    _, start = prefill(model, ids[:, :3])
    _, one = decoder.advance(ids[:, 3], start)
    _, two = decoder.advance(ids[:, 4], one)
    _, three = decoder.advance(ids[:, 5], two)
    for branch, before in ((one, 4), (two, 5), (three, 6), (start, 3)):
        expected, state = prefill(model, torch.cat([ids[:, :before], ids[:, :1]], dim=1))
        got, after = decoder.advance(ids[:, 0], branch)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert len(after.get()) == len(state)
        torch.testing.assert_close(after.get()[1].ssm, state[1].ssm, rtol=1e-4, atol=1e-4)


def test_generations_that_take_turns_do_not_meet(model: Mamba) -> None:
    prompts = [random_ids(2, length) for length in (3, 5)]
    streams = [stream(model, prompt, max_new_tokens=20, temperature=0) for prompt in prompts]
    turns = list(zip(*streams, strict=True))
    for i, prompt in enumerate(prompts):
        got = torch.stack([turn[i].tokens for turn in turns], dim=1)
        assert torch.equal(got, stepwise(model, prompt, 20)[0])


# Generations


def test_every_option_gives_what_it_gives_without_a_decoder(model: Mamba, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids(3, 4)
    options = {"stop_ids": range(5), "return_log_probabilities": True, "repetition_penalty": 1.1, "top_k": 9}

    def text() -> tuple[Tensor, Tensor]:
        return generate(model, ids, max_new_tokens=40, generator=torch.Generator().manual_seed(1), **options)

    tokens, log_probabilities = text()
    monkeypatch.setattr(pool, "MIN_TOKENS", 41)
    expected, expected_log_probabilities = text()
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(log_probabilities, expected_log_probabilities)
    assert tokens.shape[1] < 44  # all rows have stopped


# The pool


def test_a_decoder_is_kept_until_the_weights_move_or_the_model_goes(model: Mamba) -> None:
    with pool.borrow_decoder(model, 2, 16) as one, pool.borrow_decoder(model, 2, 16) as two:
        assert one is not two
    with pool.borrow_decoder(model, 2, 16) as again:
        assert again in (one, two)
    with pool.borrow_decoder(model, 3, 16) as other:
        assert other not in (one, two)
    with pool.borrow_decoder(model, 2, pool.MIN_TOKENS - 1) as none:
        assert none is None
    model.lm_head.weight.data = model.lm_head.weight.data.clone()
    with pool.borrow_decoder(model, 2, 16) as moved:
        assert moved not in (one, two)
    for batch in range(4, 4 + 2 * pool.KEPT):
        with pool.borrow_decoder(model, batch, 16):
            pass
    assert [idle.batch for idle in pool._pools[model].idle] == list(range(4 + pool.KEPT, 4 + 2 * pool.KEPT))


def test_a_broken_off_generation_gives_its_decoder_back(model: Mamba) -> None:
    steps = stream(model, random_ids(1, 3), max_new_tokens=20)
    next(steps)
    assert not pool._pools[model].idle
    steps.close()
    assert len(pool._pools[model].idle) == 1


def test_the_pool_keeps_no_model() -> None:
    model = build()
    pool._pools[model] = pool._Pool()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_what_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not pool.can_capture(build())  # on a CPU
    model = build()
    assert all(map(pool._is_plain, model.modules()))

    def plain(change: object) -> bool:
        changed = build()
        change(changed)
        return all(map(pool._is_plain, changed.modules()))

    assert not plain(lambda m: m.backbone.layers[0].mixer.register_forward_hook(print))
    assert not plain(lambda m: m.backbone.norm_f.register_forward_pre_hook(print))
    assert not plain(lambda m: setattr(m.backbone.layers[1].mixer, "in_proj", nn.Sequential(nn.Linear(16, 64))))
    assert not plain(lambda m: setattr(m.backbone, "forward", print))
    assert not plain(lambda m: m.backbone.compile())
    assert not plain(lambda m: nn.utils.parametrizations.weight_norm(m.lm_head))


@pytest.mark.parametrize(
    ("change", "fused"),
    [
        ({}, True),
        ({"backend": "triton"}, True),
        ({"backend": "parallel"}, False),
        ({"legendre_order": 2}, False),
        ({"dt_rank": 2000}, False),
        ({"d_conv": 40}, False),
    ],
    ids=str,
)
def test_what_is_fused(change: dict, fused: bool) -> None:
    assert can_fuse(build(**change), 2) is fused


def test_wide_and_mixed_weights_and_huge_batches_are_not_fused() -> None:
    assert not can_fuse(build(), 100_000)
    assert not can_fuse(build().double(), 1)
    model = build()
    model.lm_head.bfloat16()
    assert not can_fuse(model, 1)
    assert can_fuse(build().bfloat16(), 1)
