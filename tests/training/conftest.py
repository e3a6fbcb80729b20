"""A model, a text and a trainer that are small enough to train in a test."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baby_mamba.config import MambaConfig, TrainerConfig
from baby_mamba.data import CharTokenizer, TokenDataset
from baby_mamba.models import Mamba
from baby_mamba.training import Reporter, Trainer

TEXT = "the quick brown fox jumps over the lazy dog and the dog sleeps on. " * 20
TINY = MambaConfig(vocab_size=len(set(TEXT)) + 1, block_size=16, n_layer=2, d_model=8, d_state=4, backend="parallel")
QUICK = TrainerConfig(
    max_steps=10,
    train_batch_size=4,
    eval_batch_size=8,
    warmup_steps=2,
    learning_rate=1e-2,
    eval_every_steps=4,
    save_every_steps=3,
    sample_every_steps=0,
    log_every_steps=1,
    device="cpu",
)


class Recorder(Reporter):
    """Keeps every event, and calls back after a step."""

    def __init__(self, after_step: Callable[[int], None] = lambda step: None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.after_step = after_step

    def message(self, text: str) -> None:
        self.events.append(("message", text))

    def step(self, progress: Any) -> None:
        self.events.append(("step", progress))
        self.after_step(progress.step)

    def evaluation(self, step: int, evaluation: Any) -> None:
        self.events.append(("evaluation", step, evaluation))

    def sample(self, step: int, text: str) -> None:
        self.events.append(("sample", step, text))

    def finish(self, result: Any) -> None:
        self.events.append(("finish", result))

    def named(self, name: str) -> list[Any]:
        return [event[1:] for event in self.events if event[0] == name]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are computed faster than threads can meet, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tokenizer() -> CharTokenizer:
    return CharTokenizer(TEXT)


@pytest.fixture
def make_trainer(tmp_path: Path, tokenizer: CharTokenizer) -> Callable[..., Trainer]:
    """Build a trainer with `QUICK`, changed by keywords; `options` go to the Trainer itself."""
    tokens = tokenizer.encode(TEXT)
    train_set, eval_set = (TokenDataset.from_array(part, 16) for part in np.split(tokens, [1200]))

    def make(model_config: MambaConfig = TINY, options: dict[str, Any] | None = None, **changes: Any) -> Trainer:
        torch.manual_seed(0)
        config = replace(QUICK, **{"ckpt_path": str(tmp_path / "run"), **changes})
        return Trainer(Mamba(model_config), train_set, eval_set, config, **{"reporter": Recorder(), **(options or {})})

    return make
