"""The synthetic tasks of the Mamba paper, tables 1 and 2: a selective model beside a time-invariant one.

    python benchmarks/synthetic_tasks.py [--small] [--variants "delta B C" delta none] [--output FOLDER]

Each variant of `model_config.selective` is trained from the config in the same setup, and its checkpoint with the
lowest held-out loss is tested on fresh rows. Induction heads are tested at every power of two up to --longest, too, in
chunks that hand the state on, so that the memory does not grow with the length.

--small takes the configs for two CPU cores. With --output the folder keeps results.json, table.md, curves.png and the
runs, and the same command goes on where it was stopped.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from baby_mamba import Mamba, load_config, load_model
from baby_mamba.config import RunConfig
from baby_mamba.data import IGNORE_INDEX, TaskDataset
from baby_mamba.environment import describe_environment
from baby_mamba.training import train_job
from baby_mamba.training.device import choose_device
from baby_mamba.training.metrics import read_metrics
from baby_mamba.training.run_folder import METRICS

CONFIGS = ["configs/selective_copying.ini", "configs/induction_heads.ini"]
SMALL = [name.replace(".ini", "_cpu.ini") for name in CONFIGS]
VARIANTS = ["delta B C", "none"]
TEST_SEED = 2**32  # of rows that neither training nor the choice of the checkpoint has seen
ROWS_AT_ONCE, CHUNK = 8, 8192  # what is in memory at once at any length
PAPER = {  # arXiv 2312.00752: accuracy in per cent
    "selective_copying": {"Mamba, length 4096": 99.8, "S4, length 4096": 18.3},
    "induction_heads": {"Mamba, every length up to 2^20": 100.0},
}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]  # Okabe and Ito


@torch.no_grad()
def accuracy(model: Mamba, dataset: TaskDataset, n_rows: int, chunk: int = CHUNK) -> float:
    """The share of right answers in fresh rows of a task, read `chunk` tokens at a time."""
    device = next(model.parameters()).device
    right = scored = 0
    for step in range(-(-n_rows // ROWS_AT_ONCE)):
        batch = dataset.batch(step, ROWS_AT_ONCE, seed=TEST_SEED)
        rows = slice(n_rows - step * ROWS_AT_ONCE)  # the last batch may be a part of one
        read, targets, state = batch.input_ids[rows, :-1], batch.labels[rows, 1:], None
        for ids, labels in zip(read.split(chunk, dim=1), targets.split(chunk, dim=1), strict=True):
            is_scored = labels != IGNORE_INDEX
            asked = bool(is_scored.any())  # of the other chunks only the state is of use
            logits, _, state = model(ids.to(device), state=state, return_logits=asked)
            if asked:
                right += int(((logits.argmax(-1).cpu() == labels) & is_scored).sum())
                scored += int(is_scored.sum())
    return right / scored


def measure(config: RunConfig, selective: str, folder: Path, n_rows: int, longest: int) -> dict[str, Any]:
    """Train one variant and test it."""
    config = replace(
        config,
        model_config=replace(config.model_config, selective=selective),
        training_config=replace(config.training_config, ckpt_path=str(folder)),
    )
    result = train_job(config)
    if result.interrupted:
        raise KeyboardInterrupt
    model, _ = load_model(
        folder, device=choose_device(config.training_config.device), backend=config.model_config.backend
    )
    length = config.model_config.block_size
    lengths = [length]
    if config.dataset.task == "induction_heads":
        lengths = sorted({length, *(2**k for k in range(6, longest.bit_length()))})
    by_length = {}
    for n in lengths:
        by_length[n] = accuracy(model, TaskDataset.from_config(config.dataset, n), n_rows)
        print(f"{config.dataset.task}, selective: {selective}, length {n:,}: {by_length[n]:.2%}", flush=True)
    rows = [row for row in read_metrics(folder / METRICS) if "accuracy" in row]
    return {
        "selective": selective,
        "accuracy": by_length[length],
        "accuracy_by_length": by_length,
        "test_rows": n_rows,
        "parameters": result.n_parameters,
        "steps": result.step,
        "best_step": result.best_step,
        "seconds": result.seconds,
        "reason": result.reason,
        "held_out": [{key: row[key] for key in ("step", "accuracy", "sequence_accuracy")} for row in rows],
    }


def in_words(selective: str) -> str:
    """A variant as the tables name it."""
    return (
        "time-invariant (none selective)"
        if selective == "none"
        else f"{selective.replace('delta', 'Delta').replace(' ', ', ')} selective"
    )


def tables(results: dict[str, Any]) -> str:
    """What was measured beside what the paper reports, in Markdown."""
    parts = []
    for entry in results["tasks"]:
        task, variants = entry["task"], entry["variants"]
        remember = f", {entry['data_tokens']} tokens to remember" if task == "selective_copying" else ""
        lines = [
            f"### {task.replace('_', ' ')}: trained at length {entry['length']:,}{remember}, "
            f"vocabulary {entry['vocab_size']}",
            "",
            "| model | accuracy | parameters | steps | seconds |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {in_words(v['selective'])} | {v['accuracy']:.1%} | {v['parameters']:,} | {v['steps']:,} "
                f"| {v['seconds']:,.0f} |"
                for v in variants
            ),
            *(f"| paper: {name} | {percent:.1f}% | | | |" for name, percent in PAPER[task].items()),
        ]
        if task == "induction_heads":
            lengths = list(variants[0]["accuracy_by_length"])
            lines += [
                "",
                "| tested at length | " + " | ".join(in_words(v["selective"]) for v in variants) + " |",
                "|---:|" + "---:|" * len(variants),
                *(
                    f"| {n:,} | " + " | ".join(f"{v['accuracy_by_length'][n]:.1%}" for v in variants) + " |"
                    for n in lengths
                ),
            ]
        parts.append("\n".join([*lines, "", f"Each accuracy is that of {variants[0]['test_rows']} fresh rows."]))
    return "\n\n".join(parts) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracy while training, and for induction heads against the length, with the rate of guessing."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    panels = []
    for entry in results["tasks"]:
        panels.append((entry, "held_out"))
        if entry["task"] == "induction_heads":
            panels.append((entry, "accuracy_by_length"))
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (entry, kind) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for colour, marker, variant in zip(COLOURS, "os^Dvx+*", entry["variants"], strict=False):
            if kind == "held_out":
                x, y = ([row[key] for row in variant[kind]] for key in ("step", "accuracy"))
            else:
                x, y = list(variant[kind]), list(variant[kind].values())
            axes.plot(x, y, color=colour, marker=marker, markersize=4, label=in_words(variant["selective"]))
        axes.axhline(1 / entry["n_answers"], color="0.5", linestyle=":", label="guessing")
        name = entry["task"].replace("_", " ")
        axes.set(ylim=(-0.02, 1.02), ylabel="right answers")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if kind == "held_out":
            axes.set(title=f"{name}, length {entry['length']:,}", xlabel="optimiser steps")
        else:
            axes.set_xscale("log", base=2)
            axes.axvline(entry["length"], color="0.8", zorder=0)
            axes.set(title=f"{name}, tested at other lengths", xlabel=f"length (trained at {entry['length']:,})")
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", type=Path, help="instead of those of the paper's two tasks")
    parser.add_argument("--small", action="store_true", help="the configs for two CPU cores")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="values of model_config.selective")
    parser.add_argument("--longest", type=int, help="length up to which induction heads are tested")
    parser.add_argument("--rows", type=int, help="fresh rows in each test")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep tables, curves and runs here")
    arguments = parser.parse_args(argv)
    longest = arguments.longest or (2**14 if arguments.small else 2**20)
    n_rows = arguments.rows or (128 if arguments.small else 512)

    results: dict[str, Any] = {"environment": describe_environment(), "tasks": []}
    with TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary)
        for path in arguments.config or map(Path, SMALL if arguments.small else CONFIGS):
            config = load_config(path, arguments.set)
            dataset = config.dataset
            TaskDataset.from_config(dataset, config.model_config.block_size)  # complain before the first training
            results["tasks"].append(
                {
                    "task": dataset.task,
                    "config": config.to_ini(),
                    "length": config.model_config.block_size,
                    "vocab_size": dataset.task_vocab_size,
                    "data_tokens": dataset.task_data_tokens,
                    "n_answers": dataset.task_vocab_size - (2 if dataset.task == "selective_copying" else 1),
                    "variants": [
                        measure(config, v, folder / path.stem / v.replace(" ", "_"), n_rows, longest)
                        for v in arguments.variants
                    ],
                }
            )
        text = tables(results)
        if arguments.output:
            (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
            (folder / "table.md").write_text(text)
            draw(results, folder / "curves.png")
    print()
    for name, value in results["environment"].items():
        print(f"{name}: {value}")
    print(f"\n{text}", end="")


if __name__ == "__main__":
    main()
