import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baby_mamba.config import MambaConfig, TrainerConfig
from baby_mamba.data import CharTokenizer
from baby_mamba.errors import CheckpointError
from baby_mamba.models import Mamba
from baby_mamba.training.checkpoint import (
    TrainerState,
    find_checkpoint,
    has_checkpoint,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from baby_mamba.training.optimizer import build_optimizer

CONFIG = MambaConfig(vocab_size=7, n_layer=1, d_model=8, d_state=4, backend="reference")
Pair = tuple[Mamba, torch.optim.Optimizer]


def build(seed: int = 0, config: MambaConfig = CONFIG, *, steps: int = 2) -> Pair:
    torch.manual_seed(seed)
    model = Mamba(config)
    optimizer = build_optimizer(model, TrainerConfig())
    for _ in range(steps):
        ids = torch.randint(7, (2, 5))
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    return model, optimizer


def assert_same(one: Pair, other: Pair) -> None:
    for (name, p), q in zip(one[0].named_parameters(), other[0].parameters(), strict=True):
        assert torch.equal(p, q), name
        state, other_state = one[1].state[p], other[1].state[q]
        assert state.keys() == other_state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(state[key], other_state[key]) for key in state), name


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path: Path, tied: bool) -> None:
    config = replace(CONFIG, tie_embeddings=tied)
    saved, fresh = build(1, config), build(2, config, steps=0)
    state = TrainerState(step=5, tokens=50, seconds=1.5, best_loss=2.0, best_step=5, corpus_tokens=9)
    save_checkpoint(tmp_path, *saved, state)
    assert load_checkpoint(tmp_path, *fresh) == state
    assert_same(saved, fresh)
    assert (fresh[0].lm_head.weight is fresh[0].backbone.embeddings.weight) == tied


def test_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    pair = build()
    for step, best in [(1, None), (2, 2), (3, 2), (4, 2), (5, 5)]:
        save_checkpoint(tmp_path, *pair, TrainerState(step=step, best_step=best))
        kept = {f"step-{number:08d}" for number in (step, best) if number}
        assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == kept
        assert find_checkpoint(tmp_path).name == f"step-{step:08d}"
        assert find_checkpoint(tmp_path, "best").name == f"step-{best or step:08d}"


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, *build(), TrainerState(step=step))
    (tmp_path / "checkpoint" / "step-999 of mine").mkdir()
    assert find_checkpoint(tmp_path).name == "step-100000000"


class Crash(BaseException):
    """What no `except OSError` catches, like a loss of power."""


def test_a_crash_at_any_moment_leaves_a_loadable_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that reaches the file system is the last one, once."""
    old, new = build(1), build(2)
    calls = [(os, "mkdir"), (os, "fsync"), (os, "rename"), (os, "rmdir"), (os, "unlink")]
    outcomes = set()
    for crash_at in range(1000):
        folder = tmp_path / str(crash_at)
        save_checkpoint(folder, *old, TrainerState(step=1))
        count = 0

        def crashing(real: Callable[..., object], when: int) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal count
                count += 1
                if count > when:
                    raise Crash
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for module, name in calls:
                patch.setattr(module, name, crashing(getattr(module, name), crash_at))
            try:
                save_checkpoint(folder, *new, TrainerState(step=2))
                finished = True
            except Crash:
                finished = False
        loaded = build(3)
        step = load_checkpoint(folder, *loaded).step
        assert_same(loaded, {1: old, 2: new}[step])
        outcomes.add((finished, step))

        save_checkpoint(folder, *new, TrainerState(step=3))  # and the run goes on over whatever was left behind
        assert [path.name for path in (folder / "checkpoint").iterdir()] == ["step-00000003"]
        if finished:
            break
    assert outcomes == {(False, 1), (False, 2), (True, 2)}
    assert crash_at > 8


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = build()
    save_checkpoint(tmp_path, *pair, TrainerState(step=1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; free space"):
        save_checkpoint(tmp_path, *pair, TrainerState(step=2))
    assert find_checkpoint(tmp_path).name == "step-00000001"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_truncated(tmp_path: Path, name: str, size: int) -> None:
    path = save_checkpoint(tmp_path, *build(), TrainerState(step=1)) / name
    path.write_bytes(path.read_bytes()[:size])
    untouched, fresh = build(4), build(4)
    with pytest.raises(CheckpointError, match=rf"(?s){name} is damaged.*restore it from a copy"):
        load_checkpoint(tmp_path, *fresh)
    assert_same(untouched, fresh)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "checkpoint.json"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    (save_checkpoint(tmp_path, *build(), TrainerState(step=1)) / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is damaged: it is missing"):
        load_checkpoint(tmp_path, *build())


def test_other_model_names_the_keys(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *build(), TrainerState(step=1))
    with pytest.raises(CheckpointError, match="of another model: n_layer = 1 there, 2 here; d_model = 8 there, 4 here"):
        load_checkpoint(tmp_path, *build(config=replace(CONFIG, n_layer=2, d_model=4)))


def test_other_backend_and_window_are_the_same_model(tmp_path: Path) -> None:
    saved = build()
    save_checkpoint(tmp_path, *saved, TrainerState(step=1))
    other = build(3, replace(CONFIG, backend="parallel", block_size=99))
    load_checkpoint(tmp_path, *other)
    assert_same(saved, other)


def test_other_tensors(tmp_path: Path) -> None:
    """The description fits and the tensors do not: files of two checkpoints were mixed."""
    path = save_checkpoint(tmp_path / "a", *build(), TrainerState(step=1))
    wide = save_checkpoint(tmp_path / "b", *build(config=replace(CONFIG, d_model=16)), TrainerState(step=1))
    (path / "model.safetensors").write_bytes((wide / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not fit the model: .* expected \("):
        load_checkpoint(tmp_path / "a", *build())
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_model(tmp_path / "a")


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = find_checkpoint(folder) / "checkpoint.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts.update(format="pickle"), "written by another program or by another version"),
        (lambda facts: facts.update(format_version=2), "'format_version': 2.*expected .*'format_version': 1"),
        (lambda facts: facts.pop("trainer_state"), "is damaged: 'trainer_state'"),
        (lambda facts: facts["model_config"].update(n_heads=3), "is damaged: .*n_heads"),
        (lambda facts: facts["model_config"].update(n_layer=0), r"is damaged: model_config\.n_layer = 0"),
    ],
)
def test_foreign_description(tmp_path: Path, change: Callable[[dict], object], message: str) -> None:
    save_checkpoint(tmp_path, *build(), TrainerState(step=1))
    edit(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path, *build())


@pytest.mark.parametrize("text", ["[1]", "null", '"step"', "\x00", "{"])
def test_description_that_is_no_object(tmp_path: Path, text: str) -> None:
    path = save_checkpoint(tmp_path, *build(), TrainerState(step=1)) / "checkpoint.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged"):
        load_checkpoint(tmp_path, *build())


def test_nothing_there(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path)
    for load in (find_checkpoint, load_model):
        with pytest.raises(CheckpointError, match="holds no checkpoint; expected a run folder or a checkpoint folder"):
            load(tmp_path / "nowhere")


def test_load_model(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("abcdef")  # and one for unknown characters
    best, last = build(1), build(2)
    save_checkpoint(tmp_path, *best, TrainerState(step=1, best_step=1), tokenizer)
    save_checkpoint(tmp_path, *last, TrainerState(step=2, best_step=1), tokenizer)
    ids = torch.tensor([[1, 2, 3]])
    for folder, which, expected in [
        (tmp_path, "best", best),
        (tmp_path, "last", last),
        (find_checkpoint(tmp_path, "best"), "last", best),
    ]:
        model, loaded_tokenizer = load_model(folder, which)
        torch.testing.assert_close(model(ids).logits, expected[0](ids).logits, rtol=0, atol=1e-6)
        assert not model.training
        assert model.config.backend == "auto"
        assert loaded_tokenizer is not None
        assert loaded_tokenizer.decode([1, 2, 3]) == "bcd"


def test_tokenizer_of_another_model(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *build(), TrainerState(step=1), CharTokenizer("abcdefghij"))
    with pytest.raises(CheckpointError, match="tokenizer has 11 tokens, its model 7"):
        load_model(path)


def test_no_tokenizer(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *build(), TrainerState(step=1))
    assert load_model(tmp_path)[1] is None
