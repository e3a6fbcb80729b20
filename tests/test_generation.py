"""Stepping is the same as running over the whole text; sampling, stopping, padding, and states that are kept."""

import math
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from baby_mamba import (
    GenerationConfig,
    Mamba,
    MambaConfig,
    Sampling,
    generate,
    load_state,
    pad_left,
    prefill,
    repeat_state,
    sample,
    save_state,
    stream,
)
from baby_mamba.errors import CheckpointError, ConfigError, ShapeError
from baby_mamba.generation import adjust_logits
from baby_mamba.layers import map_state

VOCABULARY = 23


def build(backend: str) -> Mamba:
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=VOCABULARY, d_model=16, n_layer=2, tie_embeddings=False, backend=backend))
    for parameter in model.parameters():  # away from the initialisation, where the past hardly matters
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.fixture(scope="module")
def model() -> Mamba:
    return build("parallel")


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(sum(shape)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Steps


def test_greedy_steps_equal_whole_passes(model: Mamba) -> None:
    ids = random_ids(2, 5)
    expected = ids
    for _ in range(8):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(model, ids, max_new_tokens=8, temperature=0), expected)


@pytest.mark.parametrize("backend", ["reference", "parallel", "cpu"])
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(backend: str) -> None:
    model = build(backend)
    prompts = [random_ids(6), random_ids(2), random_ids(1)]
    batch, mask = pad_left(prompts)
    together = generate(model, batch, max_new_tokens=9, temperature=0, attention_mask=mask)
    for row, prompt in zip(together, prompts, strict=True):
        alone = generate(model, prompt[None], max_new_tokens=9, temperature=0)
        assert torch.equal(row[6 - len(prompt) :], alone[0])


def test_pad_left() -> None:
    ids, mask = pad_left([[1, 2, 3], torch.tensor([4])])
    assert ids[0].tolist() == [1, 2, 3]
    assert ids[1, -1] == 4
    assert mask.tolist() == [[True] * 3, [False, False, True]]
    for wrong in ([], [[1], []]):
        with pytest.raises(ShapeError, match="expected at least one prompt, and at least one token in each"):
            pad_left(wrong)


def test_prefill_in_chunks_equals_prefill_at_once_and_leaves_the_state_alone(model: Mamba) -> None:
    ids = random_ids(2, 13)
    mask = torch.ones(2, 13, dtype=torch.long).index_fill(1, torch.arange(5), 0)
    whole, _ = prefill(model, ids, attention_mask=mask)
    chunked, state = prefill(model, ids, attention_mask=mask, chunk_length=4)
    torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-4)
    branches = [prefill(model, ids[:, :1], state=state)[0] for _ in range(2)]
    assert torch.equal(*branches)


def test_stream_yields_what_generate_returns(model: Mamba) -> None:
    ids = torch.zeros(3, 2, dtype=torch.long)
    tokens = [step.tokens for step in stream(model, ids, max_new_tokens=4, temperature=0)]
    assert torch.equal(torch.stack(tokens, dim=1), generate(model, ids, max_new_tokens=4, temperature=0)[:, 2:])
    assert list(stream(model, ids, max_new_tokens=0)) == []
    assert torch.equal(generate(model, ids, max_new_tokens=0), ids)


def test_a_seed_gives_the_same_text_and_another_gives_another(model: Mamba) -> None:
    ids = torch.zeros(1, 1, dtype=torch.long)

    def text(seed: int) -> list[int]:
        return generate(model, ids, max_new_tokens=30, generator=seeded(seed))[0].tolist()

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_one_row_of_a_batch_stops_before_the_other(model: Mamba) -> None:
    ids = random_ids(2, 3)
    free = generate(model, ids, max_new_tokens=20, generator=seeded(0))[:, 3:].tolist()
    ends = free[0][4]  # the first row draws this as its fifth token, if not before
    first = [row.index(ends) if ends in row else 19 for row in free]
    assert first[0] != first[1]
    stopped = generate(model, ids, max_new_tokens=20, stop_ids={ends}, generator=seeded(0))[:, 3:].tolist()
    length = max(first) + 1
    for row, drawn, at in zip(stopped, free, first, strict=True):
        assert row == drawn[: at + 1] + [ends] * (length - at - 1)


def test_log_probabilities_are_those_of_the_model_itself(model: Mamba) -> None:
    ids = random_ids(2, 4)
    options = {"temperature": 0.5, "top_k": 5, "repetition_penalty": 1.3}
    text, got = generate(model, ids, max_new_tokens=6, generator=seeded(0), return_log_probabilities=True, **options)
    expected = model(text).logits[:, 3:-1].log_softmax(-1).gather(2, text[:, 4:, None]).squeeze(-1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(text, generate(model, ids, max_new_tokens=6, generator=seeded(0), **options))

    ends = int(text[0, 4])  # the first row ends at once
    _, stopped = generate(
        model, ids, max_new_tokens=6, stop_ids=[ends], generator=seeded(0), return_log_probabilities=True, **options
    )
    torch.testing.assert_close(stopped[0, 0], expected[0, 0], rtol=1e-4, atol=1e-4)
    assert (stopped[0, 1:] == 0).all()
    assert generate(model, ids, max_new_tokens=0, return_log_probabilities=True)[1].shape == (2, 0)


def test_wrong_arguments_are_named(model: Mamba) -> None:
    ids = torch.zeros(1, 1, dtype=torch.long)
    for wrong in (
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"temperature": math.nan},
    ):
        with pytest.raises(ConfigError, match=rf"sampling\.{next(iter(wrong))} = .* is not allowed; expected a"):
            generate(model, ids, max_new_tokens=1, **wrong)
    with pytest.raises(ConfigError, match="max_new_tokens = -1 is not allowed; expected a whole number of at least 0"):
        generate(model, ids, max_new_tokens=-1)
    with pytest.raises(TypeError, match="temprature"):
        generate(model, ids, max_new_tokens=1, temprature=0.5)
    with pytest.raises(ShapeError, match="length at least 1: start from at least one token"):
        generate(model, ids[:, :0], max_new_tokens=1)


# Sampling


def frequencies(**options: float) -> torch.Tensor:
    """How often each of four tokens with probabilities 0.1, 0.4, 0.3, 0.2 is drawn."""
    logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log().expand(20_000, 4)
    drawn = sample(logits, generator=seeded(0), **options)
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
        ({"min_p": 0.4}, [0, 4 / 9, 3 / 9, 2 / 9]),
        ({"min_p": 0.6}, [0, 4 / 7, 3 / 7, 0]),
        ({"min_p": 1}, [0, 1, 0, 0]),
        ({"min_p": 0.4, "temperature": 0.5}, [0, 16 / 25, 9 / 25, 0]),
    ],
)
def test_filters(options: dict, expected: list[float]) -> None:
    torch.testing.assert_close(frequencies(**options), torch.tensor(expected).float(), atol=0.015, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"temperature": 0.6},
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"repetition_penalty": 1.2, "temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    ],
    ids="+".join,
)
def test_adjusted_logits_are_those_of_transformers(options: dict) -> None:
    from transformers.generation import logits_process as theirs

    torch.manual_seed(0)
    logits, ids = 3 * torch.randn(5, VOCABULARY), torch.randint(0, VOCABULARY, (5, 6))
    make = {
        "repetition_penalty": theirs.RepetitionPenaltyLogitsProcessor,
        "temperature": theirs.TemperatureLogitsWarper,
        "top_k": theirs.TopKLogitsWarper,
        "top_p": theirs.TopPLogitsWarper,
        "min_p": theirs.MinPLogitsWarper,
    }
    expected = logits
    for name, value in options.items():
        expected = make[name](value)(ids, expected)
    seen = F.one_hot(ids, VOCABULARY).sum(dim=1) > 0
    torch.testing.assert_close(adjust_logits(logits, Sampling(**options), seen=seen), expected, rtol=1e-6, atol=1e-6)


def test_repetition_penalty_knows_the_prompt_and_what_was_drawn_but_not_the_padding(model: Mamba) -> None:
    """With a huge penalty on positive scores and on negative ones, greedy decoding never repeats a token."""
    prompts = [random_ids(5), random_ids(2)]
    batch, mask = pad_left(prompts)
    new = generate(model, batch, max_new_tokens=12, attention_mask=mask, temperature=0, repetition_penalty=1e9)[:, 5:]
    for row, prompt in zip(new.tolist(), prompts, strict=True):
        alone = generate(model, prompt[None], max_new_tokens=12, temperature=0, repetition_penalty=1e9)
        assert alone[0, len(prompt) :].tolist() == row
        assert len({*row, *prompt.tolist()}) == 12 + len(set(prompt.tolist()))


def test_a_configuration_is_a_sampling(model: Mamba) -> None:
    ids, config = random_ids(1, 3), GenerationConfig(temperature=0, top_k=4)
    assert torch.equal(
        generate(model, ids, max_new_tokens=5, sampling=config), generate(model, ids, max_new_tokens=5, temperature=0)
    )
    warm = generate(model, ids, max_new_tokens=5, sampling=config, temperature=2, generator=seeded(0))
    expected = Sampling(temperature=2, top_k=4, top_p=0.95)
    assert torch.equal(warm, generate(model, ids, max_new_tokens=5, sampling=expected, generator=seeded(0)))


# States


def test_a_state_is_branched_and_continued(model: Mamba) -> None:
    text, questions = random_ids(1, 7), random_ids(3, 4)
    options = {"max_new_tokens": 5, "temperature": 0, "return_log_probabilities": True}
    whole, expected = generate(model, torch.cat([text.expand(3, 7), questions], dim=1), **options)
    _, state = prefill(model, text)
    for rows, branches in ((questions[:1], state), (questions, repeat_state(state, 3))):
        got, log_probabilities = generate(model, rows, state=branches, **options)
        assert torch.equal(got, whole[: len(rows), 7:])
        torch.testing.assert_close(log_probabilities, expected[: len(rows)], rtol=1e-3, atol=1e-4)
    two = map_state(lambda tensor: torch.cat([tensor, tensor * 2]), state)
    assert torch.equal(repeat_state(two, 2)[0].ssm, torch.cat([state[0].ssm] * 2 + [state[0].ssm * 2] * 2))


@pytest.mark.parametrize("backend", ["reference", "parallel", "cpu"])
def test_a_step_has_the_state_to_go_on_from(backend: str) -> None:
    model = build(backend)
    ids = random_ids(2, 3)
    whole = generate(model, ids, max_new_tokens=9, temperature=0)
    *_, last = stream(model, ids, max_new_tokens=4, temperature=0)
    rest = generate(model, last.tokens.unsqueeze(1), state=last.state, max_new_tokens=5, temperature=0)
    assert torch.equal(rest, whole[:, 6:])


def test_a_state_survives_on_disk(model: Mamba, tmp_path: Path) -> None:
    ids = random_ids(2, 9)
    _, state = prefill(model, ids[:, :6])
    path = tmp_path / "text.state"
    for _ in range(2):  # the second time it is replaced
        save_state(path, state)
    assert [path.name for path in tmp_path.iterdir()] == ["text.state"]
    expected, _ = prefill(model, ids[:, 6:], state=state)
    got, _ = prefill(model, ids[:, 6:], state=load_state(path, model))
    assert torch.equal(got, expected)

    *_, last = stream(model, ids, max_new_tokens=3)  # from within inference mode, and with rows that share memory
    save_state(path, repeat_state(last.state, 2))
    assert load_state(path, model)[0].ssm.shape[0] == 4


def test_states_that_cannot_be_used(model: Mamba, tmp_path: Path) -> None:
    path = tmp_path / "text.state"
    save_state(path, prefill(model, random_ids(1, 3))[1])
    tensors, good = load_file(path), path.read_bytes()

    def refused(words: str, model: Mamba = model) -> None:
        with pytest.raises(CheckpointError, match=words):
            load_state(path, model)

    for change, words in [
        ({"d_model": 20}, r"layers\.0\.conv is \(3, 32\) for each row, expected \(3, 40\)"),
        ({"d_state": 8}, r"layers\.0\.ssm is \(32, 16\) for each row, expected \(32, 8\)"),
        ({"n_layer": 1}, r"layers\.1\.conv is \(3, 32\) for each row, expected no such tensor"),
        ({"n_layer": 3}, r"layers\.2\.conv is missing for each row, expected \(3, 32\)"),
    ]:
        refused(words, Mamba(MambaConfig(**{"vocab_size": 5, "d_model": 16, "n_layer": 2, **change})))
    path.write_bytes(good[:-7])
    refused("is damaged: it cannot be read")
    save_file(tensors, path)
    refused("has .*None.*; expected .*baby_mamba state")
    tensors["layers.1.ssm"] = tensors["layers.1.ssm"].expand(2, -1, -1).contiguous()
    save_file(tensors, path, metadata={"format": "baby_mamba state", "format_version": "1"})
    refused(r"its tensors have \[1, 2\] rows; expected one number")
    path.unlink()
    refused("does not exist; write it with save_state")
    with pytest.raises(CheckpointError, match=r"cannot be written: .*; choose another path"):
        save_state(tmp_path / "nowhere" / "text.state", prefill(model, random_ids(1, 3))[1])


# Cost


def test_a_long_prompt_needs_no_more_memory_than_a_chunk(model: Mamba) -> None:
    """The largest tensor that any layer makes while a prompt is read does not grow with the prompt."""
    largest = 0

    def watch(module: torch.nn.Module, arguments: tuple, output: object) -> None:
        nonlocal largest
        tensor = output[0] if isinstance(output, tuple) else output
        largest = max(largest, tensor.numel())

    hooks = [module.register_forward_hook(watch) for module in model.modules() if module is not model]
    prefill(model, random_ids(1, 40), chunk_length=8)
    once = largest
    prefill(model, random_ids(1, 400), chunk_length=8)
    assert largest == once
    for hook in hooks:
        hook.remove()


def test_a_prompt_is_read_in_chunks_unless_told_otherwise(model: Mamba, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baby_mamba.generation.CPU_PREFILL", 8)
    lengths = []
    hook = model.backbone.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    logits, _ = prefill(model, random_ids(2, 20))
    hook.remove()
    assert lengths == [8, 8, 4]
    torch.testing.assert_close(logits, prefill(model, random_ids(2, 20), chunk_length=20)[0], atol=1e-5, rtol=1e-5)


def test_generate_holds_on_to_no_old_states(model: Mamba) -> None:
    states, alive = [], []

    def watch(module: torch.nn.Module, arguments: tuple, output: tuple) -> None:
        states.append(weakref.ref(output[1][0].ssm))
        alive.append(sum(state() is not None for state in states))

    hook = model.backbone.register_forward_hook(watch)
    generate(model, random_ids(2, 3), max_new_tokens=20)
    hook.remove()
    assert len(states) == 20
    assert max(alive) <= 3
