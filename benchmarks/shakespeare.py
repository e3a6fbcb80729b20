"""Mamba and nanoGPT's CPU recipe on Shakespeare's characters, in the same time on the same machine.

    python benchmarks/shakespeare.py [--text FILE] [--config configs/shakespeare_cpu.ini] [--json FILE]

First the Transformer: the shape and recipe that nanoGPT's README gives for a CPU (4 layers, 4 heads, 128 wide, context
64, batch 12, 2,000 steps, no dropout), as transformers' GPT-2, which is the same architecture. Then Mamba with the
config, for as many minutes as the Transformer took. Both learn from the first 90 % of the text and are scored on all of
the rest, each in windows of the length that it was trained with.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from baby_mamba import Mamba, Trainer, TrainerConfig, load_config
from baby_mamba.data import TokenDataset, prepare_datasets
from baby_mamba.environment import describe_environment

NANOGPT = TrainerConfig(
    max_steps=2000,
    train_batch_size=12,
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    warmup_steps=100,
    beta_2=0.99,
    eval_every_steps=2000,
    sample_every_steps=0,
    ckpt_path="",
)


def train_transformer(train_set: TokenDataset, eval_set: TokenDataset, vocab_size: int) -> dict[str, float]:
    """nanoGPT's recipe; the result's numbers."""
    torch.manual_seed(NANOGPT.seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=64,
            n_embd=128,
            n_layer=4,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
    )
    return summary(Trainer(model, train_set, eval_set, NANOGPT).train())


def summary(result) -> dict[str, float]:
    """What the table shows of a TrainingResult."""
    return {
        "parameters": result.n_parameters,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "tokens_per_second": result.tokens / result.seconds,
        "validation_loss": result.evaluation.loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="tinyshakespeare", help="the text, if it is not to be fetched")
    parser.add_argument("--config", type=Path, default=Path("configs/shakespeare_cpu.ini"))
    parser.add_argument("--seconds", type=float, help="time for Mamba; leaves the Transformer out")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()

    run = load_config(arguments.config, [f"dataset.dataset_path={arguments.text}", *arguments.set])
    rows = {}
    with TemporaryDirectory() as folder:
        prepared = prepare_datasets(run.dataset, run.model_config.block_size, folder)
        tokenizer, train_set, eval_set, _ = prepared
        seconds = arguments.seconds
        if seconds is None:
            short = [TokenDataset(data.path, 64) for data in (train_set, eval_set)]
            rows["Transformer"] = train_transformer(*short, tokenizer.vocab_size)
            seconds = rows["Transformer"]["seconds"]
        config = replace(run.training_config, ckpt_path="", max_minutes=seconds / 60, sample_every_steps=0)
        torch.manual_seed(config.seed)
        model = Mamba(replace(run.model_config, vocab_size=tokenizer.vocab_size))
        rows["Mamba"] = summary(Trainer(model, train_set, eval_set, config).train())

    environment = describe_environment()
    print()
    for name, value in environment.items():
        print(f"{name}: {value}")
    print(f"\n| {'model':11} | parameters | tokens | seconds | tokens/s | validation loss (nats per character) |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        print(
            f"| {name:11} | {row['parameters']:,} | {row['tokens']:,} | {row['seconds']:.0f} "
            f"| {row['tokens_per_second']:,.0f} | {row['validation_loss']:.3f} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": environment, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
