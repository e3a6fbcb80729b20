"""benchmarks/ablation.py: each variant is what its name says, and the table and the numbers are complete."""

import importlib.util
import json
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from baby_mamba import Mamba, MambaConfig, load_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", ROOT / "benchmarks/ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_variant_changes_one_key(benchmark: ModuleType) -> None:
    config = MambaConfig(vocab_size=50, d_model=64, n_layer=2)
    variants = benchmark.variants(config)
    assert variants[benchmark.BASELINE] == config
    for name, variant in variants.items():
        changed = [f.name for f in fields(config) if getattr(variant, f.name) != getattr(config, f.name)]
        assert len(changed) == (name != benchmark.BASELINE), name
        assert benchmark.n_parameters(variant) == Mamba(variant).num_parameters()
    larger, order_4 = (variants[name] for name in (benchmark.LARGER, "Legendre expansion, order 4"))
    assert benchmark.n_parameters(larger) == pytest.approx(benchmark.n_parameters(order_4), rel=0.1)
    assert load_config(ROOT / "configs/ablation.ini").model_config.legendre_order == 0


def test_table_and_numbers(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    settings = {
        "dataset.dataset_path": tmp_path / "text.txt",
        "model_config.block_size": 16,
        "model_config.d_model": 8,
        "model_config.n_layer": 1,
        "model_config.backend": "parallel",
        "training_config.train_batch_size": 2,
        "training_config.device": "cpu",
    }
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    chosen, output = ["Legendre expansion, order 2", "time-invariant, as S4"], tmp_path / "results.json"
    benchmark.main(["--steps", "2", "--output", str(output), "--variants", *chosen, *overrides])
    report = json.loads(output.read_text())
    assert report["steps"] == 2
    assert {"date", "cpu", "torch"} <= set(report["environment"])
    rows = report["results"]
    assert list(rows) == ["Mamba", *chosen]
    base = rows["Mamba"]["losses"]
    assert len(base) == 2
    assert base[0] != base[1]  # two seeds
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    for line, (name, row) in zip(shown, rows.items(), strict=True):
        assert line.startswith(f"| {name} | {row['parameters']:,} | {sum(row['losses']) / 2:.4f} |")
        difference = sum(row["losses"]) / 2 - sum(base) / 2
        assert row["difference"] == pytest.approx(difference)
        assert name == "Mamba" or f"| {difference:+.4f} ± " in line
