"""Masked language modelling: a bidirectional Mamba beside a bidirectional LSTM and the frequencies of the tokens.

    python benchmarks/masked_lm.py [--config configs/masked.ini] [--steps 1000] [--output FILE]

Mamba and LSTM have as many parameters, embedding and head included, and are trained on the same windows with the same
masks, for as many steps, by the same optimizer and schedule. Each is trained once with every learning rate, and the one
with the lowest held-out loss counts, so that neither has the other's recipe. The unigram baseline knows how often each
token occurs in the training text, and nothing of what stands around a mask.

The held-out text is scored with several sets of masks, because one hides few tokens. All hidden tokens count, also the
tenth that is read as itself.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baby_mamba import MambaForMaskedLM, MaskedDataset, MaskTokenizer, Trainer, load_config, prepare_datasets
from baby_mamba.config import MambaConfig, TrainerConfig
from baby_mamba.data import IGNORE_INDEX, TokenDataset
from baby_mamba.environment import describe_environment
from baby_mamba.models import MaskedLMOutput
from baby_mamba.training import evaluate

ROOT = Path(__file__).parent.parent


class BidirectionalLSTM(nn.Module):
    """Embedding, two layers of LSTM in both directions, and a head that shares the embedding's weights.

    With a norm before the LSTM and one before the head, as Mamba has them: it learns much faster so.

    Args:
        config: of the Mamba that it is to be as large as; vocabulary and width of the embedding are the same.
        n_parameters: what it comes closest to.
    """

    def __init__(self, config: MambaConfig, n_parameters: int) -> None:
        super().__init__()
        self.config = replace(config, objective="masked")
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embeddings.weight, std=config.initializer_range)
        width = min(range(8, 4 * config.d_model), key=lambda h: abs(self._size(h) - n_parameters))
        self.lstm = nn.LSTM(config.d_model, width, num_layers=2, bidirectional=True, batch_first=True)
        self.projection = nn.Linear(2 * width, config.d_model)
        self.norm, self.norm_f = nn.RMSNorm(config.d_model), nn.RMSNorm(config.d_model)

    def _size(self, width: int) -> int:
        with torch.device("meta"):
            parts = [
                nn.LSTM(self.config.d_model, width, num_layers=2, bidirectional=True),
                nn.Linear(2 * width, self.config.d_model),
                nn.RMSNorm(2 * self.config.d_model),  # both of them
            ]
        return self.embeddings.weight.numel() + sum(p.numel() for part in parts for p in part.parameters())

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, *, return_logits: bool = True) -> MaskedLMOutput:
        """As `MambaForMaskedLM`."""
        hidden, _ = self.lstm(self.norm(self.embeddings(input_ids)))
        logits = self.norm_f(self.projection(hidden)) @ self.embeddings.weight.T
        loss = None if labels is None else F.cross_entropy(logits.mT, labels, ignore_index=IGNORE_INDEX)
        return MaskedLMOutput(logits if return_logits else None, loss)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


class Unigram(nn.Module):
    """Scores each token by how often it is in the training text, plus one, whatever stands around it."""

    def __init__(self, config: MambaConfig, tokens: np.ndarray) -> None:
        super().__init__()
        self.config = replace(config, objective="masked")
        counts = np.bincount(tokens, minlength=config.vocab_size) + 1
        self.log_frequencies = nn.Parameter(torch.from_numpy(counts / counts.sum()).float().log())

    def forward(self, input_ids: Tensor, labels: Tensor, *, return_logits: bool = True) -> MaskedLMOutput:
        """As `MambaForMaskedLM`."""
        logits = self.log_frequencies.expand(*input_ids.shape, -1)
        return MaskedLMOutput(logits, F.cross_entropy(logits.mT, labels, ignore_index=IGNORE_INDEX))


def score(model: nn.Module, windows: TokenDataset, mask_id: int, fraction: float, n_masks: int) -> dict[str, float]:
    """Loss and accuracy at the hidden tokens of the held-out text, over several sets of masks."""
    results = [
        evaluate(model, MaskedDataset(windows, mask_id=mask_id, fraction=fraction, evaluation_seed=seed), 32)
        for seed in range(n_masks)
    ]
    accuracy, n = float(np.mean([r.accuracy for r in results])), sum(r.n_tokens for r in results)
    return {
        "loss": float(np.mean([r.loss for r in results])),
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / n),
        "hidden_tokens": n,
    }


def train(
    model: nn.Module, train_set: MaskedDataset, eval_set: MaskedDataset, config: TrainerConfig
) -> dict[str, float]:
    """Train in place; the result's numbers."""
    result = Trainer(model, train_set, eval_set, config).train()
    return {
        "parameters": result.n_parameters,
        "learning_rate": config.learning_rate,
        "tokens_per_second": result.tokens / result.seconds,
        "seconds": result.seconds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/masked.ini")
    parser.add_argument("--steps", type=int, help="optimiser steps; otherwise as the config says, without its minutes")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[4e-3])
    parser.add_argument("--masks", type=int, default=10, help="sets of masks that the held-out text is scored with")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--output", type=Path, help="write the results here, as JSON")
    arguments = parser.parse_args(argv)

    run = load_config(arguments.config, arguments.set)
    fraction, rows = run.training_config.mask_fraction, {}
    with TemporaryDirectory() as folder:
        tokenizer, train_windows, eval_windows, corpus = prepare_datasets(
            run.dataset, run.model_config.block_size, folder
        )
        tokenizer = MaskTokenizer(tokenizer)
        config = replace(run.model_config, vocab_size=tokenizer.vocab_size, objective="masked")
        train_set, eval_set = (
            MaskedDataset(windows, mask_id=tokenizer.mask_id, fraction=fraction)
            for windows in (train_windows, eval_windows)
        )
        steps = arguments.steps or run.training_config.max_epoch * train_set.steps_per_epoch(
            run.training_config.train_batch_size
        )
        training = replace(
            run.training_config,
            **{"max_steps": steps, "max_minutes": None, "ckpt_path": "", "sample_every_steps": 0},
            eval_every_steps=max(1, steps // 4),
        )
        unigram = Unigram(config, tokenizer.encode(corpus.train))
        rows["unigram"] = score(unigram, eval_windows, tokenizer.mask_id, fraction, arguments.masks)

        n_parameters = MambaForMaskedLM(config).num_parameters()
        for name in ("bidirectional Mamba", "bidirectional LSTM"):
            for rate in arguments.learning_rates:
                torch.manual_seed(training.seed)
                is_mamba = name == "bidirectional Mamba"
                model = MambaForMaskedLM(config) if is_mamba else BidirectionalLSTM(config, n_parameters)
                row = train(model, train_set, eval_set, replace(training, learning_rate=rate))
                row |= score(model, eval_windows, tokenizer.mask_id, fraction, arguments.masks)
                if name not in rows or row["loss"] < rows[name]["loss"]:
                    rows[name] = row

    environment = describe_environment()
    print()
    for name, value in environment.items():
        print(f"{name}: {value}")
    print(f"\n{corpus.name}, {tokenizer.tokenizer.kind} of {config.vocab_size:,} tokens, {steps:,} steps of ", end="")
    print(f"{training.train_batch_size} x {config.block_size}, {fraction:.0%} of the tokens hidden")
    print("\n| model | parameters | learning rate | held-out accuracy | loss (nats per hidden token) | tokens/s |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        learnt = (
            [f"{row['parameters']:,}", f"{row['learning_rate']:g}", f"{row['tokens_per_second']:,.0f}"]
            if "parameters" in row
            else ["", "", ""]
        )
        accuracy = f"{row['accuracy']:.1%} ± {row['standard_error']:.1%}"
        print(f"| {name} | {learnt[0]} | {learnt[1]} | {accuracy} | {row['loss']:.3f} | {learnt[2]} |")
    if arguments.output:
        results = {"environment": environment, "steps": steps, "config": str(arguments.config), "results": rows}
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
