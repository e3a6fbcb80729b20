"""compare: both are trained alike and measured, and the report says what the results say."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from baby_mamba import comparison
from baby_mamba.comparison import compare, measurements, report
from baby_mamba.config import RunConfig, load_config
from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.models import Transformer
from baby_mamba.training import Reporter, Trainer, job, load_model
from baby_mamba.training.checkpoint import find_checkpoint
from baby_mamba.training.metrics import read_metrics

pytest.importorskip("transformers")

TEXT = "the quick brown fox jumps over the lazy dog and the dog sleeps on.\n" * 30
NAMES = ["Mamba", "Transformer"]


def config_for(folder: Path, **changes: Any) -> RunConfig:
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    settings = {
        "model_config.block_size": 32,
        "model_config.n_layer": 2,
        "model_config.d_model": 16,
        "model_config.d_state": 4,
        "model_config.backend": "parallel",
        "dataset.dataset_path": folder / "text.txt",
        "training_config.ckpt_path": folder / "compared",
        "training_config.max_steps": 6,
        "training_config.train_batch_size": 2,
        "training_config.eval_every_steps": 2,
        "training_config.log_every_steps": 1,
        "training_config.device": "cpu",
        "generation_config.num_generated_tokens": 12,
        "comparison.shortest_length": 8,
        "comparison.longest_training_length": 32,
        "comparison.longest_context": 128,
        "comparison.tokens_per_step": 32,
        "comparison.decoded_tokens": 4,
        "comparison.repeats": 2,
        "comparison.prompts": "the |fox <b>|",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return load_config(None, [f"{key}={value}" for key, value in settings.items()])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the results of one comparison, for the tests that only look."""
    folder = tmp_path_factory.mktemp("comparison")
    config = config_for(folder, comparison__prompts="the |fox")
    return folder / "compared", compare(config, Reporter)


# What is there


def test_everything_is_written(compared: tuple[Path, dict]) -> None:
    folder, results = compared
    assert {path.name for path in folder.iterdir()} == {
        "mamba", "llama", "results.json", "report.md", "loss.png", "training.png", "decoding.png",
    }  # fmt: skip
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results
    pictures = re.findall(r"!\[.{40,}?\]\((.*?)\)", (folder / "report.md").read_text(encoding="utf-8"))
    assert pictures == ["loss.png", "training.png", "decoding.png"]
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert [row["length"] for row in results["training_steps"]] == [8, 32]
    assert [row["batch"] for row in results["training_steps"]] == [4, 1]
    assert [row["context"] for row in results["decoding"]] == [8, 32, 128]


def test_both_are_trained_alike(compared: tuple[Path, dict]) -> None:
    folder, results = compared
    for name, architecture in zip(NAMES, ["mamba", "llama"], strict=True):
        model, tokenizer = load_model(folder / architecture, "last")
        assert isinstance(model, Transformer) == (name == "Transformer")
        assert results["models"][name]["parameters"] == model.num_parameters()
        rows = read_metrics(folder / architecture / "metrics.jsonl")
        speed = np.median([row["tokens_per_second"] for row in rows if "train_loss" in row])
        curve = [
            (row["tokens"], row["tokens"] / speed, row["validation_loss"]) for row in rows if "validation_loss" in row
        ]
        training = results["training"][name]
        assert [tuple(point.values()) for point in training["curve"]] == curve
        assert training["held_out_loss"] == curve[-1][2] < np.log(tokenizer.vocab_size)
        assert (training["tokens"], training["seconds"]) == (6 * 2 * 32, curve[-1][1])
        assert training["tokens_per_second"] == speed
    sizes = [results["models"][name]["parameters"] for name in NAMES]
    assert abs(sizes[1] / sizes[0] - 1) <= 0.02
    learning_rates = [
        [row["learning_rate"] for row in read_metrics(folder / name / "metrics.jsonl") if "learning_rate" in row]
        for name in ("mamba", "llama")
    ]
    assert learning_rates[0] == learning_rates[1]


def test_state_and_cache(compared: tuple[Path, dict]) -> None:
    """Mamba: d_conv - 1 + d_state numbers for each of 32 channels and 2 layers. Keys and values: 16 for each token."""
    _, results = compared
    depth = int(results["models"]["Transformer"]["shape"].split()[0])
    for row in results["decoding"]:
        assert row["Mamba"]["state_bytes"] == 4 * 2 * 32 * (3 + 4)
        assert row["Transformer"]["state_bytes"] == 4 * depth * 2 * 16 * row["context"]


def tables(text: str) -> list[list[list[str]]]:
    found = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split(" | ")] for line in t.splitlines()[2:]] for t in found]


def test_the_report_has_the_numbers_of_the_results(compared: tuple[Path, dict]) -> None:
    folder, results = compared
    text = (folder / "report.md").read_text(encoding="utf-8")
    models, training, steps, decoding = tables(text)
    assert [row[3] for row in models] == [f"{results['models'][name]['parameters']:,}" for name in NAMES]
    for row, name in zip(training, NAMES, strict=True):
        expected = results["training"][name]
        assert float(row[3].replace(",", "")) == pytest.approx(expected["tokens_per_second"], abs=0.5)
        assert float(row[4]) == pytest.approx(expected["seconds"], abs=0.5)
        assert float(row[5]) == pytest.approx(expected["held_out_loss"], abs=1e-4)
        assert row[1] == f"{expected['tokens']:,}"
    for table, rows, axis, size in (
        (steps, results["training_steps"], "length", "peak_bytes"),
        (decoding, results["decoding"], "context", "state_bytes"),
    ):
        assert len(table) == len(rows)
        for cells, row in zip(table, rows, strict=True):
            assert cells[0] == f"{row[axis]:,}"
            for n, name in enumerate(NAMES):
                speed = float(cells[1 + n].replace(",", ""))
                assert speed == pytest.approx(row[name]["tokens_per_second"], abs=0.5)
                number, unit = cells[3 + n].split()
                factor = {"bytes": 1, "kB": 1e3, "MB": 1e6}[unit]
                assert float(number) * factor == pytest.approx(row[name][size], rel=5e-3)
    assert text.count("\n- ") == len(results["summary"]) == 6
    assert all(f"- {sentence}\n" in text for sentence in results["summary"])


def test_cuda_graphs_are_only_mentioned_on_a_gpu(compared: tuple[Path, dict], tmp_path: Path) -> None:
    folder, results = compared
    assert "CUDA" not in (folder / "report.md").read_text(encoding="utf-8")
    report.write_report(results | {"config": results["config"] | {"device": "cuda"}}, tmp_path)
    assert "replayed as CUDA graphs" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_texts_stand_side_by_side(compared: tuple[Path, dict]) -> None:
    folder, results = compared
    assert [texts["prompt"] for texts in results["texts"]] == ["the ", "fox"]
    assert all(len(texts[name]) == 12 for texts in results["texts"] for name in NAMES)
    assert (folder / "report.md").read_text(encoding="utf-8").count("<b>the </b>") == 2
    assert report._side_by_side({"prompt": "<", "A": "a\nb", "B": "|"}, ["A", "B"]).endswith(
        '<td valign="top"><b>&lt;</b>a<br>b</td><td valign="top"><b>&lt;</b>|</td></tr></table>'
    )


# What it does


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a third of the time of the tests that do not look at them."""
    monkeypatch.setattr(comparison, "plot_comparison", lambda *_: None)
    monkeypatch.setattr(job, "plot_loss", lambda *_: None)


@pytest.mark.usefixtures("no_pictures")
def test_a_second_call_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path, comparison__prompts="the", comparison__longest_context=8)
    first = compare(config, Reporter)
    checkpoints = [find_checkpoint(tmp_path / "compared" / name) for name in ("mamba", "llama")]
    times = [(path / "model.safetensors").stat().st_mtime_ns for path in checkpoints]
    monkeypatch.setattr(comparison, "measure_training_steps", lambda *_: first["training_steps"])
    monkeypatch.setattr(Trainer, "training_step", lambda *_: pytest.fail("trained again"))
    second = compare(config, Reporter)
    assert second["training"] == first["training"]
    assert second["texts"] == first["texts"]
    assert [(path / "model.safetensors").stat().st_mtime_ns for path in checkpoints] == times


@pytest.mark.parametrize("slow", NAMES)
def test_a_slower_contender_is_reported_as_slower(slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is slowed down in turn, so neither can be favoured by what the report says."""
    config = config_for(tmp_path, comparison__longest_context=32, comparison__repeats=1)
    contenders = {name: measurements.untrained(run, vocab_size=20) for name, run in comparison._jobs(config).items()}
    backbone = contenders[slow].model.model.base_model if slow == "Transformer" else contenders[slow].model.backbone
    backbone.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    fast = NAMES[1 - NAMES.index(slow)]
    the_fast = {"Mamba": "Mamba", "Transformer": "the Transformer"}[fast]
    steps = measurements.measure_training_steps(contenders, config.comparison)
    decoding = measurements.measure_decoding(contenders, config.comparison)
    for row in steps + decoding:
        assert row[slow]["tokens_per_second"] < row[fast]["tokens_per_second"]
    for rows, axis in ((steps, "length"), (decoding, "context")):
        sentence = report._against_length(
            "It", rows, axis, "tokens_per_second", ("Mamba", "Transformer"), "is {} as fast"
        )
        assert sentence.endswith(f"; {the_fast} is ahead at every length.")


@pytest.mark.usefixtures("no_pictures")
def test_a_table_of_positions_is_not_measured_beyond_it(tmp_path: Path) -> None:
    config = config_for(
        tmp_path,
        comparison__architecture="gpt2",
        comparison__longest_training_length=128,
        comparison__prompts="the",
        generation_config__num_generated_tokens=100,
    )
    results = compare(config, Reporter)
    assert [row["Transformer"] is None for row in results["training_steps"]] == [False, False, True]
    assert [row["Transformer"] is None for row in results["decoding"]] == [False, True, True]
    assert all(row["Mamba"] for row in results["training_steps"] + results["decoding"])
    text = (tmp_path / "compared/report.md").read_text(encoding="utf-8")
    assert text.count("too long for its positions") == 2 * 3
    assert all(len(results["texts"][0][name]) == 32 - len("the") for name in NAMES)  # one window


@pytest.mark.usefixtures("no_pictures")
def test_a_synthetic_task_has_no_texts(tmp_path: Path) -> None:
    task = {"dataset__task": "induction_heads", "dataset__task_held_out": 4}
    results = compare(config_for(tmp_path, comparison__longest_context=8, **task), Reporter)
    assert results["texts"] == []
    text = (tmp_path / "compared/report.md").read_text(encoding="utf-8")
    assert "tokens of the task induction_heads" in text
    assert "What they write" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_config__architecture": "llama"}, "leave it at mamba and name the Transformer in"),
        ({"comparison__architecture": "mamba"}, "is no Transformer"),
        ({"training_config__ckpt_path": ""}, "ckpt_path is empty"),
        (
            {"comparison__shortest_length": "64"},
            "shortest_length = 64 is above comparison.longest_training_length = 32",
        ),
        ({"comparison__prompts": "the quick brown fox jumps over the lazy dog"}, "fills the window"),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_refused(change: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(config_for(tmp_path, **change), Reporter)


def test_ctrl_c_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with a report on half a training, nor with the training of the other."""
    begun = []

    def stopped(run: RunConfig, reporter: Reporter) -> SimpleNamespace:
        begun.append(run.model_config.architecture)
        return SimpleNamespace(interrupted=True)

    monkeypatch.setattr(comparison, "train_job", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare(config_for(tmp_path), Reporter)
    assert begun == ["mamba"]
    assert not (tmp_path / "compared").exists()


@pytest.mark.usefixtures("no_pictures")
def test_another_configuration_is_not_mixed_in(tmp_path: Path) -> None:
    compare(config_for(tmp_path, comparison__prompts="the", comparison__longest_context=8), Reporter)
    with pytest.raises(CheckpointError, match="d_state is 4 there and 8 here"):
        compare(config_for(tmp_path, model_config__d_state=8), Reporter)


# The sentences


def curve(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"tokens": 100 * n, "seconds": seconds, "held_out_loss": loss} for n, (seconds, loss) in enumerate(points)]


def trainings(mamba: list[dict], transformer: list[dict]) -> dict[str, Any]:
    return {
        "training": {
            name: {"tokens": 1000, "seconds": c[-1]["seconds"], "held_out_loss": c[-1]["held_out_loss"], "curve": c}
            for name, c in (("Mamba", mamba), ("Transformer", transformer))
        }
    }


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ((1.5, 1.7), "1.500 nats per token for Mamba and 1.700 for the Transformer: Mamba is better by 0.200."),
        (
            (1.7, 1.5),
            "1.700 nats per token for Mamba and 1.500 for the Transformer: the Transformer is better by 0.200.",
        ),
        ((1.5, 1.503), "they are equal to within 0.005."),
    ],
)
def test_loss_in_words(losses: tuple[float, float], verdict: str) -> None:
    results = trainings(curve((9, losses[0])), curve((9, losses[1])))
    sentence = report._same_tokens(results, *NAMES)
    assert sentence.startswith("After 1,000 tokens each, ")
    assert sentence.endswith(verdict)


def test_loss_in_the_same_time() -> None:
    """Mamba is at 1.6, halfway between two evaluations, when the Transformer is done with 1.7."""
    mamba, transformer = curve((10, 2.0), (20, 1.8), (40, 1.4)), curve((10, 1.9), (30, 1.7))
    sentence = report._same_time(trainings(mamba, transformer), *NAMES)
    assert sentence.startswith(
        "At their median speeds the Transformer takes 30 s for them and Mamba 40 s. After 30 s, "
    )
    assert sentence.endswith("1.600 nats per token for Mamba and 1.700 for the Transformer: Mamba is better by 0.100.")
    sentence = report._same_time(trainings(curve((50, 1.0)), transformer), *NAMES)
    assert sentence.endswith("Mamba is not yet evaluated when the Transformer is done.")


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ([0.5, 0.8, 3.0], "at 64 tokens the Transformer is 2.0 x, at 1,024 tokens Mamba is 3.0 x"),
        ([0.5, 0.8, 3.0], "; Mamba is ahead from 1,024 tokens on."),
        ([2, 2.5], "at 64 tokens Mamba is 2.0 x, at 256 tokens Mamba is 2.5 x; Mamba is ahead at every length."),
        ([1.01, 0.5], "at 64 tokens they are level, at 256 tokens the Transformer is 2.0 x"),
        ([1.01, 0.5], "; the Transformer is ahead from 256 tokens on."),
        ([2, 0.99], "at 256 tokens they are level; they are level from 256 tokens on."),
        ([2, 0.5, 2], "; the Transformer is ahead from 256 tokens on, Mamba is ahead from 1,024 tokens on."),
        ([2], "at 64 tokens Mamba is 2.0 x; Mamba is ahead at every length."),
    ],
)
def test_speed_in_words(ratios: list[float], words: str) -> None:
    rows = [
        {
            "length": 64 * 4**n,
            "Mamba": {"speed": 10 * ratio, "size": 10 / ratio},
            "Transformer": {"speed": 10, "size": 10},
        }
        for n, ratio in enumerate(ratios)
    ]
    fast = report._against_length("Speed", rows, "length", "speed", ("Mamba", "Transformer"), "is {} x")
    assert words in fast
    small = report._against_length(
        "Size", rows, "length", "size", ("Mamba", "Transformer"), "is {} x", lower_is_better=True
    )
    assert small == fast.replace("Speed", "Size")
    nothing = [{"length": 64, "Mamba": {"speed": None}, "Transformer": {"speed": None}}]
    assert report._against_length("Speed", nothing, "length", "speed", ("Mamba", "Transformer"), "") == ""


# Memory


def test_peak_memory_is_what_a_call_held() -> None:
    held = 64 * 2**20

    def work() -> None:
        torch.ones(held // 4).sum()

    measured = measurements.peak_memory(work, torch.device("cpu"))
    if measured is None:
        pytest.skip("this system does not tell")
    assert measured == pytest.approx(held, rel=0.1)
