"""A training step and a decoding step on the CPU: this library beside the others that are installed.

    python benchmarks/cpu_training.py [--quick] [--json FILE] [--png FILE]

Same shape for all: d_model 128, 4 layers, d_state 16, vocabulary 65, batch 16 x 256, float32. A step is forward,
backward and fused AdamW. The contenders take turns within one run, and the medians are compared as ratios, since
absolute times on a shared CPU drift. Others are measured if they are installed: `pip install mambapy transformers`.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baby_mamba import Mamba, MambaConfig, stream
from baby_mamba.environment import describe_environment

SHAPE = MambaConfig(d_model=128, n_layer=4, d_state=16, vocab_size=65)
BATCH, LENGTH = 16, 256


class _MambaPyLM(nn.Module):
    """mamba.py's backbone with an embedding, a final norm and a tied head, as its own language model has."""

    def __init__(self, pscan: bool) -> None:
        super().__init__()
        from mambapy.mamba import Mamba as Backbone
        from mambapy.mamba import MambaConfig as BackboneConfig
        from mambapy.mamba import RMSNorm

        self.embedding = nn.Embedding(SHAPE.vocab_size, SHAPE.d_model)
        self.backbone = Backbone(BackboneConfig(d_model=SHAPE.d_model, n_layers=SHAPE.n_layer, pscan=pscan))
        self.norm = RMSNorm(SHAPE.d_model)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.norm(self.backbone(self.embedding(input_ids)))
        logits = hidden @ self.embedding.weight.T
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())


class _Transformers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from transformers import MambaConfig as Config
        from transformers import MambaForCausalLM

        self.model = MambaForCausalLM(
            Config(
                hidden_size=SHAPE.d_model,
                num_hidden_layers=SHAPE.n_layer,
                state_size=SHAPE.d_state,
                vocab_size=SHAPE.vocab_size,
                use_cache=False,
            )
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids, labels=input_ids).loss


class _BabyMamba(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.model = Mamba(replace(SHAPE, backend=backend))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids, labels=input_ids).loss


def contenders(quick: bool) -> dict[str, Callable[[], nn.Module]]:
    """A constructor by name; those that take minutes a step are left out of a quick run."""
    found: dict[str, Callable[[], nn.Module]] = {
        "baby_mamba cpu": lambda: _BabyMamba("cpu"),
        "baby_mamba parallel": lambda: _BabyMamba("parallel"),
    }
    if importlib.util.find_spec("mambapy"):
        found["mamba.py parallel scan"] = lambda: _MambaPyLM(pscan=True)
    if not quick:
        found["baby_mamba reference (a loop)"] = lambda: _BabyMamba("reference")
        if importlib.util.find_spec("mambapy"):
            found["mamba.py sequential"] = lambda: _MambaPyLM(pscan=False)
        if importlib.util.find_spec("transformers"):
            found["transformers"] = _Transformers
    return found


def make_step(model: nn.Module) -> Callable[[], float]:
    """One training step on fresh tokens; returns its seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> float:
        input_ids = torch.randint(0, SHAPE.vocab_size, (BATCH, LENGTH))
        start = time.perf_counter()
        optimizer.zero_grad()
        model(input_ids).backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def training_rates(quick: bool) -> dict[str, float]:
    """Tokens per second by contender: medians over rounds in which every fast contender takes one step."""
    steps = {name: make_step(build()) for name, build in contenders(quick).items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for name, step in steps.items():
        if "baby_mamba" in name and "loop" not in name:
            step()  # warm up: compile
    for round_ in range(4 if quick else 8):
        for name, step in steps.items():
            slow = seconds[name] and seconds[name][0] > 15
            if not slow:  # one step of a slow contender is enough
                seconds[name].append(step())
        print(f"round {round_ + 1}:", {name: f"{s[-1]:.2f} s" for name, s in seconds.items()}, flush=True)
    return {name: BATCH * LENGTH / statistics.median(s) for name, s in seconds.items()}


def decoding_rate(tokens: int = 400) -> float:
    """Tokens per second of one stream, the median of five."""
    model = Mamba(SHAPE).eval()
    prompt = torch.zeros(1, 16, dtype=torch.long)
    rates = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in stream(model, prompt, max_new_tokens=tokens, temperature=0):
            pass
        rates.append(tokens / (time.perf_counter() - start))
    return statistics.median(rates[1:])  # the first one compiles


def draw(rates: dict[str, float], title: str, path: Path) -> None:
    """Bars of tokens per second on a logarithmic axis."""
    from matplotlib.figure import Figure

    names = sorted(rates, key=rates.get)
    figure = Figure(figsize=(8, 0.5 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    colours = ["#0072B2" if name.startswith("baby_mamba") else "#999999" for name in names]
    bars = axes.barh(names, [rates[name] for name in names], color=colours)
    axes.bar_label(bars, [f" {rates[name]:,.0f}" for name in names])
    axes.set(xscale="log", xlabel="training: tokens per second (logarithmic axis)", title=title)
    axes.set_xlim(right=max(rates.values()) * 2.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the contenders that need a minute a step")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--png", type=Path, help="draw the results here")
    arguments = parser.parse_args()
    torch.manual_seed(0)

    environment = describe_environment()
    rates = training_rates(arguments.quick)
    decoding = decoding_rate()

    print()
    for name, value in environment.items():
        print(f"{name}: {value}")
    print(f"\nTraining step, d_model 128, 4 layers, d_state 16, batch {BATCH} x {LENGTH}, float32\n")
    baseline = rates.get("mamba.py parallel scan")
    print(f"| {'implementation':30} | tokens/s | of mamba.py's parallel scan |\n|---|---:|---:|")
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
        ratio = f"{rate / baseline:.2f}" if baseline else "not installed"
        print(f"| {name:30} | {rate:,.0f} | {ratio} |")
    print(f"\nDecoding one stream: {decoding:,.0f} tokens/s")
    if arguments.json:
        results = {
            "environment": environment,
            "training_tokens_per_second": rates,
            "decoding_tokens_per_second": decoding,
        }
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.png:
        draw(rates, f"{environment['cpu']}, {environment['threads']} threads", arguments.png)


if __name__ == "__main__":
    main()
