"""What each part of a Mamba block brings on real text, and what a Legendre expansion of its inputs adds or costs.

    python benchmarks/ablation.py [--config configs/ablation.ini] [--steps 300] [--seeds 2] [--output FILE]

Every variant changes the config in one place, and is trained on the same windows in the same order, for as many steps.
The seed draws the weights and the order of the windows; variants are compared within a seed, so that what the seeds
have in common cancels: "difference" is the mean over the seeds of (loss of the variant - loss of the first row), beside
its standard error, which one seed does not give.

A Legendre expansion adds parameters. "as many parameters" is a plain Mamba that spends about as many as order 4 on
something else, on wider blocks: an expansion that helps has to beat it, not only the first row.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory

import torch

from baby_mamba import Mamba, Trainer, load_config, prepare_datasets
from baby_mamba.config import MambaConfig
from baby_mamba.environment import describe_environment
from baby_mamba.training import Reporter

ROOT = Path(__file__).parent.parent
BASELINE, LARGER = "Mamba", "Mamba, as many parameters as order 4"
VARIANTS = {
    BASELINE: {},
    "Legendre expansion, order 1": {"legendre_order": 1},
    "Legendre expansion, order 2": {"legendre_order": 2},
    "Legendre expansion, order 4": {"legendre_order": 4},
    "Legendre expansion, order 10": {"legendre_order": 10},
    LARGER: {},  # see `variants`
    "without convolution (one tap)": {"d_conv": 1},
    "one number of memory per channel": {"d_state": 1},
    "only Delta selective": {"selective": "delta"},
    "Delta constant": {"selective": "B C"},
    "time-invariant, as S4": {"selective": "none"},
}


def variants(config: MambaConfig) -> dict[str, MambaConfig]:
    """Each variant's configuration."""
    changed = {name: replace(config, **changes) for name, changes in VARIANTS.items()}
    wanted = n_parameters(changed["Legendre expansion, order 4"])
    wider = [replace(config, expand=expand) for expand in range(config.expand, 8 * config.expand)]
    changed[LARGER] = min(wider, key=lambda c: abs(n_parameters(c) - wanted))
    return changed


def n_parameters(config: MambaConfig) -> int:
    """Trainable numbers of a model, which is not built for it."""
    with torch.device("meta"):
        return Mamba(config).num_parameters()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/ablation.ini")
    parser.add_argument("--steps", type=int, help="optimiser steps; otherwise as the config says")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="beside the first; otherwise all")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--output", type=Path, help="write the results here, as JSON")
    arguments = parser.parse_args(argv)

    run = load_config(arguments.config, arguments.set)
    steps = arguments.steps or run.training_config.max_steps
    training = replace(run.training_config, max_steps=steps, max_minutes=None, ckpt_path="", eval_every_steps=10**9)
    with TemporaryDirectory() as folder:
        tokenizer, train_set, eval_set, corpus = prepare_datasets(run.dataset, run.model_config.block_size, folder)
        chosen = variants(replace(run.model_config, vocab_size=tokenizer.vocab_size))
        names = [name for name in chosen if arguments.variants is None or name in [BASELINE, *arguments.variants]]
        results = {name: {"losses": [], "speeds": []} for name in names}
        for seed in range(training.seed, training.seed + arguments.seeds):
            for name in names:
                torch.manual_seed(seed)
                model = Mamba(chosen[name])
                result = Trainer(model, train_set, eval_set, replace(training, seed=seed), reporter=Reporter()).train()
                results[name]["parameters"] = result.n_parameters
                results[name]["losses"].append(result.evaluation.loss)
                results[name]["speeds"].append(result.tokens_per_second)
                print(f"seed {seed}, {name}: {result.evaluation.loss:.4f}", flush=True)

    environment = describe_environment()
    print()
    for name, value in environment.items():
        print(f"{name}: {value}")
    size = f"{result.step:,} steps of {training.train_batch_size} x {run.model_config.block_size}"
    print(f"\n{corpus.name}, tokenizer {tokenizer.kind}, {size}, seeds: {arguments.seeds}")
    print("\n| variant | parameters | held-out loss (nats per token) | difference | tokens/s |")
    print("|---|---:|---:|---:|---:|")
    for name, row in results.items():
        differences = [loss - other for loss, other in zip(row["losses"], results[BASELINE]["losses"], strict=True)]
        shown = f"{mean(differences):+.4f}" if name != BASELINE else ""
        if name != BASELINE and len(differences) > 1:
            shown += f" ± {stdev(differences) / len(differences) ** 0.5:.4f}"
        row["difference"] = mean(differences)
        speed = median(row["speeds"])
        print(f"| {name} | {row['parameters']:,} | {mean(row['losses']):.4f} | {shown} | {speed:,.0f} |")
    if arguments.output:
        report = {"environment": environment, "config": str(arguments.config), "steps": result.step, "results": results}
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
