"""Sampling filters, seeds, padding, and that stepping is the same as running over the whole text."""

import pytest
import torch

from baby_mamba import Mamba, MambaConfig, generate, prefill, sample, stream
from baby_mamba.errors import ConfigError, ShapeError


@pytest.fixture(scope="module")
def model() -> Mamba:
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=23, d_model=16, n_layer=2))
    model.backbone.embeddings.weight.data.mul_(20)  # so that the logits differ
    return model


def test_greedy_steps_equal_whole_passes(model: Mamba) -> None:
    ids = torch.randint(0, 23, (2, 5))
    expected = ids
    for _ in range(8):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(model, ids, max_new_tokens=8, temperature=0), expected)


def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(model: Mamba) -> None:
    long, short = torch.randint(0, 23, (1, 6)), torch.randint(0, 23, (1, 2))
    batch = torch.cat([long, torch.cat([torch.zeros(1, 4, dtype=torch.long), short], dim=1)])
    mask = torch.tensor([[1] * 6, [0] * 4 + [1] * 2])
    both = generate(model, batch, max_new_tokens=9, temperature=0, attention_mask=mask)
    assert torch.equal(both[:1], generate(model, long, max_new_tokens=9, temperature=0))
    assert torch.equal(both[1:, 4:], generate(model, short, max_new_tokens=9, temperature=0))


def test_prefill_in_chunks_equals_prefill_at_once_and_leaves_the_state_alone(model: Mamba) -> None:
    ids = torch.randint(0, 23, (2, 13))
    mask = torch.ones(2, 13, dtype=torch.long).index_fill(1, torch.arange(5), 0)
    whole, _ = prefill(model, ids, attention_mask=mask)
    chunked, state = prefill(model, ids, attention_mask=mask, chunk_length=4)
    torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-4)
    branches = [prefill(model, ids[:, :1], state=state)[0] for _ in range(2)]
    assert torch.equal(*branches)


def test_a_seed_gives_the_same_text_and_another_gives_another(model: Mamba) -> None:
    ids = torch.zeros(1, 1, dtype=torch.long)

    def text(seed: int) -> list[int]:
        return generate(model, ids, max_new_tokens=30, generator=torch.Generator().manual_seed(seed))[0].tolist()

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_stream_yields_what_generate_returns(model: Mamba) -> None:
    ids = torch.zeros(3, 2, dtype=torch.long)
    tokens = list(stream(model, ids, max_new_tokens=4, temperature=0))
    assert torch.equal(torch.stack(tokens, dim=1), generate(model, ids, max_new_tokens=4, temperature=0)[:, 2:])
    assert list(stream(model, ids, max_new_tokens=0)) == []


def frequencies(**options: float) -> torch.Tensor:
    """How often each of four tokens with probabilities 0.1, 0.4, 0.3, 0.2 is drawn."""
    logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log().expand(20_000, 4)
    drawn = sample(logits, generator=torch.Generator().manual_seed(0), **options)
    return torch.bincount(drawn, minlength=4) / len(drawn)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.3, 0.2]),
        ({"temperature": 0}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 9 / 30, 4 / 30]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 3 / 7, 0]),
        ({"top_k": 9}, [0.1, 0.4, 0.3, 0.2]),
        ({"top_p": 0.3}, [0, 1, 0, 0]),
        ({"top_p": 0.6}, [0, 4 / 7, 3 / 7, 0]),
        ({"top_p": 0.89}, [0, 4 / 9, 3 / 9, 2 / 9]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 3 / 7, 0]),
    ],
)
def test_filters(options: dict, expected: list[float]) -> None:
    torch.testing.assert_close(frequencies(**options), torch.tensor(expected).float(), atol=0.015, rtol=0)


def test_wrong_arguments_are_named(model: Mamba) -> None:
    ids = torch.zeros(1, 1, dtype=torch.long)
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}):
        with pytest.raises(ConfigError, match="expected max_new_tokens, temperature and top_k of at least 0"):
            generate(model, ids, max_new_tokens=1, **wrong)
    with pytest.raises(ShapeError, match="length at least 1: start from at least one token"):
        generate(model, ids[:, :0], max_new_tokens=1)
