"""Times the fused kernels against two roofs and against other packages' kernels, where those are installed.

    python benchmarks/kernels.py [--op NAME ...] [--output FOLDER]

Each operation is checked against the float64 reference at a small shape first. Times are those of the GPU alone: calls
are captured as a CUDA graph, as in a training step, and replayed. Inference is a forward pass without gradients; the
forward pass is that of training, which keeps what the backward pass needs; the backward pass is all that autograd
calls. Prints a table; with --output also writes kernels.json and kernels.png. A roof is what the GPU's memory (each
tensor read or written once) or its special-function units (one exponential a state, step and channel) allow; the rates
are measured or read off the device. Last comes the time per token of a sequence of 1,048,576 tokens against that of one
of 32,768.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.testing import do_bench

from baby_mamba.environment import describe_environment
from baby_mamba.ops import causal_conv1d, rms_norm, selective_scan

SHAPES = [(8, 2048, 2048), (32, 2048, 4096), (1, 32768, 1536)]  # batch, length, channels
LONG, SHORT, LONG_CHANNELS = 1_048_576, 32_768, 1536  # of the time per token, at batch 1
D_STATE = 16
WIDTH = 4
EXPONENTIALS_PER_CLOCK = 16  # of a multiprocessor's special-function units, compute capability 7.0 to 9.0
LIMIT = 4e-3
CALLS, REPLAYS = 10, 8  # calls in a CUDA graph, and how often it is replayed; the first time does not count
PASSES = ("inference", "forward", "backward")
# Okabe and Ito's, which everyone can tell apart.
COLOURS = {"baby_mamba": "#0072B2", "mamba_ssm": "#E69F00", "causal_conv1d": "#CC79A7", "torch": "#009E73"}

Arguments = dict[str, Tensor]
Run = Callable[[Arguments], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Rival:
    """Another implementation: the package it needs, how to run it, and its layout, made before and not timed."""

    package: str
    run: Run
    layout: Callable[[Arguments], Arguments] = lambda arguments: arguments


@dataclass(frozen=True)
class Operation:
    """What is timed. `bytes` are those of an element forward and backward, `exponentials` are in both."""

    run: Callable[[str, Arguments], tuple[Tensor, ...]]  # by the backend of that name
    make: Callable[[int, int, int], Arguments]
    bytes: tuple[int, int]
    exponentials: int = 0
    channels_divisor: int = 1
    rivals: dict[str, Rival] = field(default_factory=dict)
    along_time: bool = True


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def transposed(arguments: Arguments) -> Arguments:
    """The official layout, (batch, channels, length)."""
    turned = {name: t.detach().transpose(1, 2).contiguous() if t.ndim == 3 else t for name, t in arguments.items()}
    return {name: t.detach().requires_grad_() for name, t in turned.items()}


# ---------------------------------------------------------------------------------------------------- selective_scan


def scan_arguments(batch: int, length: int, channels: int) -> Arguments:
    """What a freshly initialised Mamba layer sees: A = -1 ... -n, step sizes log-uniform in 0.001 ... 0.1, bfloat16."""
    step = torch.exp(torch.empty(channels, device="cuda").uniform_(-6.9078, -2.3026))
    return {
        "u": normal(batch, length, channels),
        "delta": 0.5 * normal(batch, length, channels),
        "A": -torch.arange(1.0, D_STATE + 1, device="cuda").repeat(channels, 1),
        "B": normal(batch, length, D_STATE),
        "C": normal(batch, length, D_STATE),
        "D": torch.ones(channels, device="cuda"),
        "z": normal(batch, length, channels),
        "delta_bias": step + torch.log(-torch.expm1(-step)),
    }


def official_scan(a: Arguments) -> tuple[Tensor]:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return (
        selective_scan_fn(
            a["u"], a["delta"], a["A"], a["B"], a["C"], a["D"],
            z=a["z"], delta_bias=a["delta_bias"], delta_softplus=True,
        ),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- causal_conv1d


def conv_arguments(batch: int, length: int, channels: int) -> Arguments:
    """The layer's own: x in bfloat16, parameters in float32."""
    return {
        "x": normal(batch, length, channels),
        "weight": normal(channels, WIDTH, dtype=torch.float32),
        "bias": normal(channels, dtype=torch.float32),
    }


def official_conv(a: Arguments) -> tuple[Tensor]:
    from causal_conv1d import causal_conv1d_fn

    return (causal_conv1d_fn(a["x"], a["weight"], a["bias"], activation="silu"),)


def torch_conv(a: Arguments) -> tuple[Tensor]:
    length, dtype = a["x"].shape[-1], a["x"].dtype
    weight, bias = a["weight"].to(dtype).unsqueeze(1), a["bias"].to(dtype)
    return (F.silu(F.conv1d(a["x"], weight, bias, padding=WIDTH - 1, groups=len(bias))[..., :length]),)


# ---------------------------------------------------------------------------------------------------------- rms_norm


def norm_arguments(batch: int, length: int, d_model: int) -> Arguments:
    """The layer's own: x in bfloat16, residual stream and weight in float32."""
    return {
        "x": normal(batch, length, d_model),
        "weight": normal(d_model, dtype=torch.float32),
        "residual": normal(batch, length, d_model, dtype=torch.float32),
    }


def official_norm(a: Arguments) -> tuple[Tensor, Tensor]:
    from mamba_ssm.ops.triton.layer_norm import rms_norm_fn

    return rms_norm_fn(a["x"], a["weight"], None, residual=a["residual"], prenorm=True, residual_in_fp32=True)


def torch_norm(a: Arguments) -> tuple[Tensor, Tensor]:
    total = a["residual"] + a["x"]
    return F.rms_norm(total, a["weight"].shape, a["weight"], 1e-5).to(a["x"].dtype), total


OPERATIONS = {
    "selective_scan": Operation(
        run=lambda backend, a: (selective_scan(**a, delta_softplus=True, backend=backend),),
        make=scan_arguments,
        bytes=(4 * 2, 7 * 2),  # u, delta, z -> y; these and dy -> du, ddelta, dz
        exponentials=D_STATE,
        rivals={"mamba_ssm": Rival("mamba_ssm", official_scan, transposed)},
    ),
    "causal_conv1d": Operation(
        run=lambda backend, a: (causal_conv1d(**a, activation="silu", backend=backend),),
        make=conv_arguments,
        bytes=(2 * 2, 3 * 2),  # x -> y; x, dy -> dx
        rivals={
            "causal_conv1d": Rival("causal_conv1d", official_conv, transposed),
            "torch": Rival("torch", torch_conv, transposed),
        },
    ),
    "rms_norm": Operation(
        run=lambda backend, a: rms_norm(**a, backend=backend),
        make=norm_arguments,
        bytes=(2 * (2 + 4), 2 * (2 + 4) + 4),  # x, residual -> y, sum; dy, dsum, sum -> dx, dresidual
        channels_divisor=2,  # d_model of a block with that many channels
        rivals={"mamba_ssm": Rival("mamba_ssm", official_norm), "torch": Rival("torch", torch_norm)},
        along_time=False,
    ),
}


# ------------------------------------------------------------------------------------------------------- measurement


def make_leaves(operation: Operation, shape: tuple[int, int, int]) -> Arguments:
    torch.manual_seed(0)
    return {name: tensor.requires_grad_() for name, tensor in operation.make(*shape).items()}


def check(name: str, operation: Operation) -> None:
    """Results and gradients at a small shape against the float64 reference."""
    arguments = make_leaves(operation, (2, 64, 128))
    wide = {name: t.detach().double().requires_grad_() for name, t in arguments.items()}
    got, expected = operation.run("triton", arguments), operation.run("reference", wide)
    cotangents = [torch.randn_like(t) for t in got]
    got = (*got, *torch.autograd.grad(got, list(arguments.values()), cotangents))
    expected = (*expected, *torch.autograd.grad(expected, list(wide.values()), [t.double() for t in cotangents]))
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        error = ((a.double() - b).norm() / b.norm()).item()
        if not error <= LIMIT:
            raise SystemExit(f"{name}: relative error {error:.1e} in result {i}, expected at most {LIMIT}")


def graph_milliseconds(call: Callable[[], object], stream: torch.cuda.Stream) -> float:
    """Median time of a call, replayed as a CUDA graph of several so that the host's share is none."""
    call()  # compile outside of the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CALLS):
            call()
    times = []
    for _ in range(REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return median(times[1:])


def milliseconds(run: Run, arguments: Arguments) -> tuple[float, float, float]:
    """Of each of `PASSES`."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # autograd runs the backward pass where the forward pass ran
        with torch.no_grad():
            inference = graph_milliseconds(lambda: run(arguments), stream)
        forward = graph_milliseconds(lambda: run(arguments), stream)
        outputs, leaves = run(arguments), list(arguments.values())
        cotangents = [torch.randn_like(t) for t in outputs]
        backward = graph_milliseconds(
            lambda: torch.autograd.grad(outputs, leaves, cotangents, retain_graph=True), stream
        )
    torch.cuda.current_stream().wait_stream(stream)
    return inference, forward, backward


def peak_mebibytes(run: Run, arguments: Arguments) -> float:
    """Most memory that a forward and a backward pass hold at once, beside the arguments and the given gradients."""
    outputs = run(arguments)
    cotangents = [torch.randn_like(t) for t in outputs]
    del outputs
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(run(arguments), list(arguments.values()), cotangents)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def copy_rate() -> float:
    """Bytes a second that a copy moves, read and written together."""
    source = torch.empty(2**29, dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-3 * do_bench(lambda: target.copy_(source), return_mode="median"))


def exponential_rate() -> float:
    """Exponentials a second of all special-function units."""
    device = triton.runtime.driver.active.utils.get_device_properties(torch.cuda.current_device())
    return device["multiprocessor_count"] * EXPONENTIALS_PER_CLOCK * device["sm_clock_rate"] * 1e3


def measure(names: list[str]) -> list[dict[str, object]]:
    """A row for each operation, shape and pass."""
    bytes_per_second, exponentials_per_second = copy_rate(), exponential_rate()
    rows = []
    for name in names:
        operation = OPERATIONS[name]
        for batch, length, channels in SHAPES:
            shape = (batch, length, channels // operation.channels_divisor)
            arguments = make_leaves(operation, shape)
            times = milliseconds(lambda a, operation=operation: operation.run("triton", a), arguments)
            print(f"{name} {shape}: {', '.join(f'{ms:.3f}' for ms in times)} ms", flush=True)
            peak = peak_mebibytes(lambda a, operation=operation: operation.run("triton", a), arguments)
            rivals = {
                rival: milliseconds(it.run, it.layout(arguments))
                for rival, it in operation.rivals.items()
                if importlib.util.find_spec(it.package) is not None
            }
            elements = batch * length * channels // operation.channels_divisor
            for i, direction in enumerate(PASSES):
                roofs = {
                    "bytes": 1e3 * elements * operation.bytes[direction == "backward"] / bytes_per_second,
                    "exponentials": 1e3 * elements * operation.exponentials / exponentials_per_second,
                }
                rows.append(
                    {
                        "op": name,
                        "shape": shape,
                        "pass": direction,
                        "ms": times[i],
                        "roof_ms": roofs,
                        "times_the_roof": times[i] / max(roofs.values()),
                        "rivals_ms": {rival: its[i] for rival, its in rivals.items()},
                        "peak_mib": peak,
                    }
                )
            del arguments
            torch.cuda.empty_cache()
    return rows


def measure_time_scaling(names: list[str]) -> list[dict[str, object]]:
    """Nanoseconds a token of a long and of a short sequence, at batch 1."""
    rows = []
    for name in names:
        operation = OPERATIONS[name]
        if not operation.along_time:
            continue
        times = {}
        for length in (SHORT, LONG):
            arguments = make_leaves(operation, (1, length, LONG_CHANNELS))
            passes = milliseconds(lambda a, operation=operation: operation.run("triton", a), arguments)
            times[length] = [1e6 * ms / length for ms in passes]
            print(f"{name} {length:,} tokens: {', '.join(f'{ns:.1f}' for ns in times[length])} ns each", flush=True)
            del arguments
            torch.cuda.empty_cache()
        for i, direction in enumerate(PASSES):
            short, long = times[SHORT][i], times[LONG][i]
            rows.append({"op": name, "pass": direction, "short_ns": short, "long_ns": long, "ratio": long / short})
    return rows


# ------------------------------------------------------------------------------------------------------------ report


def print_tables(rows: list[dict[str, object]], scaling: list[dict[str, object]]) -> None:
    print("\nMedians in ms; inputs in bfloat16. Roofs: bytes, and exponentials where the operation has any.\n")
    print("| op | batch, length, channels | pass | ms | roofs | times the roof | others (times ours) | peak MiB |")
    print("|---|---|---|---:|---|---:|---|---:|")
    for row in rows:
        roofs = ", ".join(f"{name} {ms:.3f}" for name, ms in row["roof_ms"].items() if ms)
        rivals = ", ".join(f"{name} {ms:.3f} ({ms / row['ms']:.2f})" for name, ms in row["rivals_ms"].items())
        print(
            f"| {row['op']} | {', '.join(map(str, row['shape']))} | {row['pass']} | {row['ms']:.3f} | {roofs} "
            f"| {row['times_the_roof']:.2f} | {rivals or 'none installed'} | {row['peak_mib']:,.0f} |"
        )
    print(f"\nNanoseconds per token at batch 1, {LONG_CHANNELS} channels\n")
    print(f"| op | pass | {SHORT:,} tokens | {LONG:,} tokens | ratio |\n|---|---|---:|---:|---:|")
    for row in scaling:
        print(f"| {row['op']} | {row['pass']} | {row['short_ns']:.1f} | {row['long_ns']:.1f} | {row['ratio']:.2f} |")


def draw(rows: list[dict[str, object]], title: str, path: Path) -> None:
    """Bars for each pass, ours and the others', with the roofs as lines; a row of panels for each operation."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["op"] for row in rows))
    figure = Figure(figsize=(4 * len(SHAPES), 3.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(SHAPES), squeeze=False)
    for name, line in zip(names, panels, strict=True):
        mine = [row for row in rows if row["op"] == name]
        shapes = list(dict.fromkeys(row["shape"] for row in mine))
        for shape, axes in zip(shapes, line, strict=True):
            passes = [row for row in mine if row["shape"] == shape]
            bars = {"baby_mamba": [row["ms"] for row in passes]}
            bars |= {rival: [row["rivals_ms"][rival] for row in passes] for rival in passes[0]["rivals_ms"]}
            width = 0.8 / len(bars)
            for i, (label, heights) in enumerate(bars.items()):
                positions = [x - 0.4 + (i + 0.5) * width for x in range(len(passes))]
                drawn = axes.bar(positions, heights, width, label=label, color=COLOURS[label])
                axes.bar_label(drawn, fmt="%.3g", fontsize=7)
            for roof, style in (("bytes", "-"), ("exponentials", "--")):
                for x, row in enumerate(passes):
                    if row["roof_ms"][roof]:
                        label = f"roof: {roof}" if x == 0 else None
                        axes.hlines(row["roof_ms"][roof], x - 0.4, x + 0.4, "black", style, label=label)
            axes.set_xticks(range(len(passes)), [row["pass"] for row in passes])
            axes.set_title(f"{name}: {', '.join(map(str, shape))}", fontsize=9)
            axes.set_ylabel("ms")
            axes.margins(y=0.15)
            axes.spines[["top", "right"]].set_visible(False)
    keys = {}
    for axes in panels.flat:
        keys |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=len(keys), fontsize=8)
    figure.suptitle(f"batch, length, channels; {title}", fontsize=10)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", nargs="+", choices=list(OPERATIONS), default=list(OPERATIONS), help="only these")
    parser.add_argument("--output", type=Path, help="folder for kernels.json and kernels.png")
    arguments = parser.parse_args()
    for name in arguments.op:
        check(name, OPERATIONS[name])
    environment = describe_environment()
    rows, scaling = measure(arguments.op), measure_time_scaling(arguments.op)
    for name, value in environment.items():
        print(f"{name}: {value}")
    print_tables(rows, scaling)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        results = {"environment": environment, "rows": rows, "time_per_token": scaling}
        (arguments.output / "kernels.json").write_text(json.dumps(results, indent=1) + "\n")
        title = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"
        draw(rows, title, arguments.output / "kernels.png")


if __name__ == "__main__":
    main()
