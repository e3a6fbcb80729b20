"""A training step of a 130M Mamba: its speed, its memory, and where the time goes.

    python benchmarks/training.py [--compile] [--cuda-graph] [--compare] [--output FOLDER]    # on an NVIDIA GPU
    python benchmarks/training.py --small                                                     # on a CPU, in seconds

The model is the paper's: d_model 768, 24 layers, vocabulary 50,280. A step is forward, backward and fused AdamW on
8 x 2048 random tokens, in bfloat16 autocast. Before anything is timed, the loss on one repeated batch has to fall.
Times are medians, with the GPU synchronised after every step. With --output all figures go into training.json, and the
longest kernels with them.

"Model FLOP" counts, for each token, 6 for each weight of a matrix product and 21 for each state of a scan: 7 in the
forward pass, and twice that in the backward pass. Recomputation is not counted. The rate is set against that of one
large matrix product, measured here.
"""

import argparse
import json
import math
import re
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from baby_mamba import Mamba, MambaConfig, TrainerConfig
from baby_mamba.environment import describe_environment
from baby_mamba.ops import linear_cross_entropy
from baby_mamba.ops.linear_cross_entropy import chunked
from baby_mamba.training.optimizer import build_optimizer

MODEL = MambaConfig(d_model=768, n_layer=24, vocab_size=50280)
SMALL_MODEL = replace(MODEL, d_model=32, n_layer=2, vocab_size=500)
RECIPE = TrainerConfig(learning_rate=1e-3)
SCAN_FLOP = 7  # for each state: delta * A, exp, times the state, delta u times B, plus, times C, plus
PROFILED_STEPS = 3

# Families of GPU kernels, or on a CPU of operators: the first pattern that is found in the name decides.
FAMILIES = {
    "fused by torch.compile": r"triton_\w+_fused",
    "optimizer": r"adam|multi_tensor|foreach",
    "scan": r"scan|segment_",
    "convolution": r"conv(?!ert)",
    "loss": r"cross_entropy|softmax|nll",
    "matrix products": r"gemm|nvjet|cutlass|cublas|splitk|xmma|mm$|linear$|matmul",
    "norm": r"norm",
    "copies and casts": r"memcpy|memset|copy|::to$|::cat$|catarray|fill|zero_$",
    "elementwise and sums": r"elementwise|reduce",
    "other": r"",
}


class Setting(NamedTuple):
    """What the command line says."""

    device: torch.device
    shape: MambaConfig
    batch: int
    length: int
    steps: int
    compile: bool
    cuda_graph: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def autocast(self):
        if not self.on_gpu:
            return nullcontext()
        # A graph cannot use casts of the weights that were made outside of it.
        return torch.autocast("cuda", self.dtype, cache_enabled=not self.cuda_graph)

    def tokens(self) -> Tensor:
        return torch.randint(self.shape.vocab_size, (self.batch, self.length), device=self.device)

    def seconds(self, function: Callable[[], object], repeats: int) -> list[float]:
        """Of each call."""
        seconds = []
        for _ in range(repeats):
            self.synchronize()
            start = time.perf_counter()
            function()
            self.synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds


# -------------------------------------------------------------------------------------------------------- contenders

Loss = Callable[[Tensor], Tensor]  # of a batch of token ids


def baby_mamba(setting: Setting) -> tuple[nn.Module, Loss]:
    model = Mamba(setting.shape).to(setting.device)
    forward = torch.compile(model, fullgraph=True) if setting.compile else model
    return model, lambda ids: forward(ids, labels=ids, return_logits=False).loss


def mamba_ssm(setting: Setting) -> tuple[nn.Module, Loss]:
    from mamba_ssm.models.config_mamba import MambaConfig as Config
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    shape = setting.shape
    config = Config(d_model=shape.d_model, n_layer=shape.n_layer, vocab_size=shape.vocab_size)
    model = MambaLMHeadModel(config, device=setting.device)

    def loss(ids: Tensor) -> Tensor:
        return F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())

    return model, loss


def llama(setting: Setting) -> tuple[nn.Module, Loss]:
    """A Transformer of about the same size: half as many layers, and heads of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = setting.shape
    config = LlamaConfig(
        hidden_size=shape.d_model,
        intermediate_size=8 * shape.d_model // 3,
        num_hidden_layers=shape.n_layer // 2,
        num_attention_heads=max(1, shape.d_model // 64),
        vocab_size=shape.vocab_size,
        max_position_embeddings=setting.length,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).to(setting.device)
    forward = torch.compile(model) if setting.compile else model
    return model, lambda ids: forward(input_ids=ids, labels=ids).loss


OTHERS = {"mamba_ssm": ("mamba_ssm", mamba_ssm), "LLaMA (transformers)": ("transformers", llama)}  # package, builder


# ------------------------------------------------------------------------------------------------------- measurements


def make_step(model: nn.Module, loss_of: Loss, setting: Setting) -> Callable[[Tensor], Tensor]:
    """One training step on token ids (batch, length); it returns the loss without waiting for it."""
    optimizer = build_optimizer(model, RECIPE)
    for group in optimizer.param_groups:
        group["capturable"] = setting.cuda_graph

    def step(ids: Tensor) -> Tensor:
        optimizer.zero_grad()
        with setting.autocast():
            loss = loss_of(ids)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def captured(step: Callable[[Tensor], Tensor], setting: Setting) -> Callable[[Tensor], Tensor]:
    """The step as one CUDA graph."""
    static_ids, stream, graph = setting.tokens(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a capture has to be preceded by steps on another stream than the default one
        for _ in range(3):
            step(static_ids)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        static_loss = step(static_ids)

    def replay(ids: Tensor) -> Tensor:
        static_ids.copy_(ids)
        graph.replay()
        return static_loss.clone()

    replay.step = step  # the graph writes into the optimizer's state, which nobody else holds
    return replay


def check_that_it_learns(step: Callable[[Tensor], Tensor], setting: Setting) -> list[float]:
    """Losses on one repeated batch: they have to start near that of guessing, and to fall."""
    ids, guessing = setting.tokens(), math.log(setting.shape.vocab_size)
    losses = [step(ids).item() for _ in range(20)]
    if not (abs(losses[0] - guessing) < 1 and losses[-1] < losses[0] - 0.1):
        raise SystemExit(
            f"the loss on a repeated batch went from {losses[0]:.3f} to {losses[-1]:.3f}; expected a start near "
            f"{guessing:.2f} and a fall by 0.1 or more; times would mean nothing"
        )
    return losses


def measure(build: Callable[[Setting], tuple[nn.Module, Loss]], setting: Setting) -> dict[str, object]:
    """All figures of one contender."""
    torch.manual_seed(0)
    model, loss_of = build(setting)
    step = make_step(model, loss_of, setting)
    (first,) = setting.seconds(lambda: step(setting.tokens()), 1)
    if setting.cuda_graph:
        step = captured(step, setting)
    losses = check_that_it_learns(step, setting)  # and warms up
    ids = setting.tokens()
    if setting.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = setting.seconds(lambda: step(ids), setting.steps)
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "first_step_s": first,
        "losses_on_a_repeated_batch": losses,
        "step_ms": [1e3 * s for s in seconds],
        "median_step_ms": 1e3 * statistics.median(seconds),
        "tokens_per_second": setting.batch * setting.length / statistics.median(seconds),
    }
    if setting.on_gpu:
        # Within a graph allocations are made once, at its capture.
        figures["peak_allocated_gib"] = None if setting.cuda_graph else torch.cuda.max_memory_allocated() / 2**30
        figures["peak_reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    if isinstance(model, Mamba):
        figures["model_flop_per_token"] = flop_per_token(model)
        figures["model_flop_per_second"] = flop_per_token(model) * figures["tokens_per_second"]
    figures["ms_by_family"], figures["longest"] = time_by_family(lambda: step(ids), setting)
    return figures


def flop_per_token(model: Mamba) -> int:
    """Forward and backward; see the top of this file."""
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    states = model.config.n_layer * model.config.d_inner * model.config.d_state
    return 6 * weights + 3 * SCAN_FLOP * states


def flop_rate(setting: Setting) -> float:
    """FLOP a second of one large matrix product."""
    size = 8192 if setting.on_gpu else 1024
    a, b = torch.randn(2, size, size, device=setting.device).to(setting.dtype)
    setting.seconds(lambda: a @ b, 3)
    return 2 * size**3 / statistics.median(setting.seconds(lambda: a @ b, 20))


def time_by_family(step: Callable[[], object], setting: Setting) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds a step by family of kernels (on a CPU, of operators), and the 40 longest kernels."""
    with profile(activities=[ProfilerActivity.CUDA if setting.on_gpu else ProfilerActivity.CPU]) as profiler:
        setting.seconds(step, PROFILED_STEPS)
    by_name: dict[str, float] = {}
    for event in profiler.key_averages():
        if event.is_user_annotation or setting.on_gpu != (event.device_type == DeviceType.CUDA):
            continue
        us = event.self_device_time_total if setting.on_gpu else event.self_cpu_time_total
        by_name[event.key] = by_name.get(event.key, 0) + us / 1e3 / PROFILED_STEPS
    by_name = dict(sorted(by_name.items(), key=lambda item: -item[1]))
    by_family = dict.fromkeys(FAMILIES, 0.0)
    for name, ms in by_name.items():
        family = next(family for family, pattern in FAMILIES.items() if re.search(pattern, name, re.IGNORECASE))
        by_family[family] += ms
    return by_family, dict(list(by_name.items())[:40])


def measure_head(setting: Setting) -> list[dict[str, object]]:
    """The head and its loss alone, forward and backward: all logits at once, and in chunks of several sizes."""
    shape, tokens = setting.shape, setting.batch * setting.length
    hidden = torch.randn(tokens, shape.d_model, device=setting.device, dtype=setting.dtype, requires_grad=True)
    weight = torch.nn.Parameter(0.02 * torch.randn(shape.vocab_size, shape.d_model, device=setting.device))
    labels = torch.randint(shape.vocab_size, (tokens,), device=setting.device)

    def time_it(backend: str) -> dict[str, object]:
        def run() -> None:
            with setting.autocast():
                loss = linear_cross_entropy(hidden, weight, labels, backend=backend)
            torch.autograd.grad(loss, [hidden, weight])

        run()
        before = 0
        if setting.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        figures = {"ms": 1e3 * statistics.median(setting.seconds(run, 10))}
        return figures | ({"peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20} if setting.on_gpu else {})

    rows = [{"tokens at once": tokens, "how": "all logits", **time_it("reference")}]
    rule = chunked.tokens_in_chunk
    default = rule(shape.vocab_size, setting.dtype, setting.device)
    for chunk in sorted({min(tokens, default * 2**k // 4) for k in range(5)}):
        chunked.tokens_in_chunk = lambda *_, chunk=chunk: chunk
        rows.append({"tokens at once": chunk, "how": "chunks", **time_it("auto")})
    chunked.tokens_in_chunk = rule
    return rows


# ------------------------------------------------------------------------------------------------------------- report


def table(rows: list[dict[str, object]]) -> str:
    """Rows with the same keys, as Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def line(cells: list[object]) -> str:
        formats = {float: "{:,.1f}", int: "{:,}"}
        return "| " + " | ".join(formats.get(type(cell), "{}").format(cell) for cell in cells) + " |"

    return "\n".join([line(names), "|---" * len(names) + "|", *(line([row.get(n) for n in names]) for row in rows)])


def report(results: dict[str, dict], head: list[dict[str, object]], peak_rate: float, setting: Setting) -> str:
    ours = results["baby_mamba"]
    memory = ("peak_allocated_gib", "peak_reserved_gib")
    steps = [
        {
            "model": name,
            "parameters": row["parameters"],
            "tokens/s": round(row["tokens_per_second"]),
            "step (ms)": row["median_step_ms"],
            "first step (s)": row["first_step_s"],
            **{f"{key.split('_')[1]} (GiB)": row[key] for key in memory if key in row},
        }
        for name, row in results.items()
    ]
    families = [
        {"family": family, "ms a step": ms, "share (%)": 100 * ms / ours["median_step_ms"]}
        for family, ms in ours["ms_by_family"].items()
        if ms > 0
    ]
    idle = ours["median_step_ms"] - sum(ours["ms_by_family"].values())
    if setting.on_gpu:
        families.append({"family": "no kernel", "ms a step": idle, "share (%)": 100 * idle / ours["median_step_ms"]})
    losses, rate = ours["losses_on_a_repeated_batch"], ours["model_flop_per_second"]
    return "\n\n".join(
        [
            f"A training step of {setting.batch} x {setting.length} tokens, {setting.dtype}, torch.compile "
            f"{'on' if setting.compile else 'off'}, CUDA graph {'on' if setting.cuda_graph else 'off'}; median of "
            f"{setting.steps} steps",
            table(steps),
            f"Loss on one repeated batch: {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps. Model FLOP/s: "
            f"{rate / 1e12:.3g} T, {rate / peak_rate:.1%} of a large matrix product's {peak_rate / 1e12:.3g} T.",
            table(families),
            "The head and its loss alone, forward and backward",
            table(head),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help="sequences in a batch (8)")
    parser.add_argument("--length", type=int, help="tokens in a sequence (2048)")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed (10)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--cuda-graph", action="store_true", help="capture the step in a CUDA graph")
    parser.add_argument("--compare", action="store_true", help="also measure mamba_ssm and a LLaMA, where installed")
    parser.add_argument("--small", action="store_true", help="a tiny model and batch")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write training.json there")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or arguments.small):
        parser.error("there is no CUDA device; a CPU can run --small")
    if arguments.cuda_graph and not on_gpu:
        parser.error("--cuda-graph needs a CUDA device")

    environment = describe_environment()
    for name, value in environment.items():
        print(f"{name}: {value}")
    setting = Setting(
        device=torch.device("cuda" if on_gpu else "cpu"),
        shape=SMALL_MODEL if arguments.small else MODEL,
        batch=arguments.batch or (2 if arguments.small else 8),
        length=arguments.length or (128 if arguments.small else 2048),
        steps=arguments.steps,
        compile=arguments.compile,
        cuda_graph=arguments.cuda_graph,
    )
    results = {"baby_mamba": measure(baby_mamba, setting)}
    for name, (package, build) in OTHERS.items():
        if arguments.compare and find_spec(package):
            results[name] = measure(build, setting)
    head, peak_rate = measure_head(setting), flop_rate(setting)
    print("\n" + report(results, head, peak_rate, setting))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        everything = {
            "environment": environment,
            "setting": {name: str(value) for name, value in setting._asdict().items()},
            "matrix_product_flop_per_second": peak_rate,
            "results": results,
            "head": head,
        }
        (arguments.output / "training.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
