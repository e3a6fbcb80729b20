"""benchmarks/synthetic_tasks.py: it measures right answers right, and its tables, numbers and picture are complete."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from baby_mamba import Mamba, MambaConfig, load_config
from baby_mamba.data import InductionHeads, SelectiveCopying, TaskDataset
from baby_mamba.models import MambaOutput

ROOT = Path(__file__).parents[1]
TINY = [
    *("--set", "model_config.d_model=8", "--set", "model_config.d_state=4", "--set", "training_config.max_steps=4"),
    *("--set", "training_config.eval_every_steps=2", "--set", "dataset.task_held_out=8"),
    *("--set", "training_config.device=cpu", "--longest", "128", "--rows", "11"),
]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synthetic_tasks", ROOT / "benchmarks/synthetic_tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recall(nn.Module):
    """Solves induction heads by remembering what followed the special token; its state is (the token, was it special).

    Every third row of a batch it answers with another token.
    """

    def __init__(self, special: int) -> None:
        super().__init__()
        self.special, self.nothing = special, nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor, *, state: tuple | None, return_logits: bool) -> MambaOutput:
        answer, expects = state or (torch.full((len(ids),), -1), torch.zeros(len(ids), dtype=torch.bool))
        for token in ids.T:
            answer = torch.where(expects & (token != self.special), token, answer)
            expects = token == self.special
        wrong = torch.arange(len(ids)) % 3 == 2
        logits = nn.functional.one_hot((answer + wrong) % self.special, self.special + 1).float()
        return MambaOutput(logits[:, None].expand(*ids.shape, -1) if return_logits else None, None, (answer, expects))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_accuracy_counts_every_row_once(benchmark: ModuleType, chunk: int) -> None:
    """21 rows in batches of 8, 8 and 5, of which every third one is wrong: 2 + 2 + 1."""
    dataset = TaskDataset(InductionHeads(length=40, vocab_size=6), n_held_out=1)
    assert benchmark.accuracy(Recall(special=5), dataset, 21, chunk) == pytest.approx(16 / 21)


@pytest.mark.parametrize("chunk", [5, 16])
def test_accuracy_does_not_depend_on_the_chunks(benchmark: ModuleType, chunk: int) -> None:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=9, d_model=8, n_layer=2, d_state=4, initializer_range=1.0, backend="parallel")
    model, dataset = Mamba(config), TaskDataset(SelectiveCopying(40, 9, 5), n_held_out=1)
    whole = benchmark.accuracy(model, dataset, 30)
    assert 0 < whole < 1
    assert benchmark.accuracy(model, dataset, 30, chunk) == whole


def test_both_tasks_are_trained_tested_and_shown(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    benchmark.main(["--small", *TINY, "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    table = (tmp_path / "table.md").read_text()
    assert shown.endswith(table)
    assert [entry["task"] for entry in results["tasks"]] == ["selective_copying", "induction_heads"]
    for entry in results["tasks"]:
        assert [v["selective"] for v in entry["variants"]] == ["delta B C", "none"]
        for variant in entry["variants"]:
            assert variant["steps"] == 4
            assert [row["step"] for row in variant["held_out"]] == [2, 4]
            assert round(variant["accuracy"] * 11 * (8 if entry["task"] == "selective_copying" else 1), 6) % 1 == 0
            assert f"| {variant['accuracy']:.1%} | {variant['parameters']:,} | 4 |" in table
    copying, recall = results["tasks"]
    assert list(copying["variants"][0]["accuracy_by_length"]) == [str(copying["length"])]
    assert list(recall["variants"][0]["accuracy_by_length"]) == ["64", "128"]
    for expected in ("| paper: Mamba, length 4096 | 99.8% |", "| paper: S4, length 4096 | 18.3% |", "| 128 | "):
        assert expected in table
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "selective_copying_cpu/none/checkpoint").is_dir()


def test_what_is_not_a_task_is_refused(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="task = text is no synthetic task"):
        benchmark.main(["--config", "configs/config.ini"])


@pytest.mark.parametrize(
    ("name", "length", "task"),
    [
        ("selective_copying", 4096, SelectiveCopying(4096, 16, 16)),
        ("induction_heads", 256, InductionHeads(256, 16)),
    ],
)
def test_the_configs_are_those_of_the_paper(name: str, length: int, task: SelectiveCopying | InductionHeads) -> None:
    config = load_config(ROOT / f"configs/{name}.ini")
    model = config.model_config
    assert (model.n_layer, model.d_model, model.block_size, model.selective) == (2, 64, length, "delta B C")
    assert TaskDataset.from_config(config.dataset, length).task == task
