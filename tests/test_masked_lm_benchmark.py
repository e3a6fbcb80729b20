"""benchmarks/masked_lm.py: the baselines are what they say, and the table and the numbers are complete."""

import importlib.util
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from jaxtyping import config as jaxtyping_config

from baby_mamba import MambaConfig, MambaForMaskedLM
from baby_mamba.data import TokenDataset

ROOT = Path(__file__).parents[1]
CONFIG = MambaConfig(vocab_size=30, d_model=16, n_layer=2, d_state=4, backend="parallel")


@pytest.fixture(autouse=True)
def _unchecked_types() -> Iterator[None]:
    """The baselines are trained and evaluated as models, which they are not for the type checker."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("masked_lm", ROOT / "benchmarks/masked_lm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lstm_is_as_large_and_sees_both_sides(benchmark: ModuleType) -> None:
    for config, tolerance in ((CONFIG, 0.05), (MambaConfig(vocab_size=2049, d_model=128, n_layer=3), 0.005)):
        n_parameters = MambaForMaskedLM(config).num_parameters()
        lstm = benchmark.BidirectionalLSTM(config, n_parameters)
        assert lstm.num_parameters() == pytest.approx(n_parameters, rel=tolerance)
        assert lstm._size(lstm.lstm.hidden_size) == lstm.num_parameters()
    lstm, ids = benchmark.BidirectionalLSTM(CONFIG, 10_000), torch.zeros(1, 7, dtype=torch.long)
    before = lstm(ids).logits
    for position in (0, 6):
        changed = ids.clone()
        changed[0, position] = 1
        assert ((lstm(changed).logits - before).abs().amax(-1) > 0).all()


def test_the_unigram_baseline_against_counting(benchmark: ModuleType) -> None:
    random = np.random.default_rng(0)
    train, held_out = (np.minimum(random.geometric(0.2, n), 28) for n in (1000, 400))
    result = benchmark.score(
        benchmark.Unigram(CONFIG, train), TokenDataset.from_array(held_out, 20), mask_id=29, fraction=0.9, n_masks=20
    )
    counts = Counter(train.tolist())
    (most_frequent, _), *_ = counts.most_common(1)
    n = result["hidden_tokens"]
    assert n == 20 * 21 * 18  # of 20 in 21 windows
    error = 5 / math.sqrt(n)
    assert result["accuracy"] == pytest.approx((held_out == most_frequent).mean(), abs=error)
    losses = [-math.log((counts[token] + 1) / (1000 + 30)) for token in held_out.tolist()]
    assert result["loss"] == pytest.approx(np.mean(losses), abs=error * np.std(losses))


def test_table_and_numbers(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    settings = {
        "dataset.dataset_path": tmp_path / "text.txt",
        "dataset.bpe_vocab_size": 260,
        "model_config.block_size": 16,
        "model_config.d_model": 8,
        "model_config.n_layer": 1,
        "model_config.backend": "parallel",
        "training_config.train_batch_size": 2,
        "training_config.device": "cpu",
    }
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    output = tmp_path / "results.json"
    benchmark.main(
        ["--steps", "2", "--masks", "2", "--learning-rates", "1e-3", "1e-2", "--output", str(output), *overrides]
    )
    results = json.loads(output.read_text())
    assert results["steps"] == 2
    assert {"date", "cpu", "torch"} <= set(results["environment"])
    rows = results["results"]
    assert list(rows) == ["unigram", "bidirectional Mamba", "bidirectional LSTM"]
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    for line, (name, row) in zip(shown, rows.items(), strict=True):
        assert line.startswith(f"| {name} |")
        assert f"| {row['accuracy']:.1%} ± " in line
        assert f"| {row['loss']:.3f} |" in line
