"""Times the kernels against two roofs and against mamba_ssm: python benchmarks/kernels.py [--output FOLDER].

A small shape is checked against the float64 reference first. Prints a table; with --output also writes kernels.json
and kernels.png. A roof is what the GPU's special-function units (one exponential a state, step and channel) or its
memory (each input read and each output written once) allow; the rates are measured or read off the device.
"""

import argparse
import importlib.util
import json
import statistics
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.testing import do_bench

from baby_mamba.environment import describe_environment
from baby_mamba.ops import selective_scan

SHAPES = [(8, 2048, 2048), (32, 2048, 4096), (1, 32768, 1536)]
D_STATE = 16
EXPONENTIALS_PER_CLOCK = 16  # of a multiprocessor's special-function units, compute capability 7.0 to 9.0
LIMIT = 4e-3


def scan_arguments(batch: int, length: int, channels: int) -> dict[str, Tensor]:
    """What a freshly initialised Mamba layer sees: A = -1 ... -n, step sizes log-uniform in 0.001 ... 0.1, bfloat16."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator).bfloat16()

    step = torch.exp(torch.empty(channels, device="cuda").uniform_(-6.9078, -2.3026, generator=generator))
    arguments = {
        "u": normal(batch, length, channels),
        "delta": 0.5 * normal(batch, length, channels),
        "A": -torch.arange(1.0, D_STATE + 1, device="cuda").repeat(channels, 1),
        "B": normal(batch, length, D_STATE),
        "C": normal(batch, length, D_STATE),
        "D": torch.ones(channels, device="cuda"),
        "z": normal(batch, length, channels),
        "delta_bias": step + torch.log(-torch.expm1(-step)),
    }
    return {name: tensor.requires_grad_() for name, tensor in arguments.items()}


def check() -> None:
    """Output and gradients at a small shape against the float64 reference."""
    arguments = scan_arguments(2, 64, 128)
    dy = torch.randn_like(arguments["u"])

    def run(leaves: dict[str, Tensor], backend: str) -> list[Tensor]:
        y = selective_scan(**leaves, delta_softplus=True, backend=backend)
        return [y, *torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype))]

    wide = {name: t.detach().double().requires_grad_() for name, t in arguments.items()}
    for name, got, expected in zip(["y", *arguments], run(arguments, "triton"), run(wide, "reference"), strict=True):
        error = ((got.double() - expected).norm() / expected.norm()).item()
        if not error <= LIMIT:
            raise SystemExit(f"{name}: relative error {error:.1e}, expected at most {LIMIT}; times would mean nothing")


def official_scan(arguments: dict[str, Tensor]) -> Tensor:
    """The same with mamba_ssm, in its layout (batch, channels, length); transposed before, and not timed."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    a = arguments
    return selective_scan_fn(
        a["u"], a["delta"], a["A"], a["B"], a["C"], a["D"], z=a["z"], delta_bias=a["delta_bias"], delta_softplus=True
    )  # fmt: skip


def in_official_layout(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    turned = {name: t.detach().transpose(1, 2).contiguous() if t.ndim == 3 else t for name, t in arguments.items()}
    return {name: t.detach().requires_grad_() for name, t in turned.items()}


def milliseconds(scan, arguments: dict[str, Tensor]) -> tuple[float, float]:
    """Medians of the forward pass (without autograd's bookkeeping) and of the backward pass."""
    with torch.no_grad():
        forward = do_bench(lambda: scan(arguments), return_mode="median")
    y = scan(arguments)
    dy = torch.randn_like(y)
    leaves = list(arguments.values())
    return forward, do_bench(lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True), return_mode="median")


def copy_rate() -> float:
    """Bytes a second that a copy moves, read and written together."""
    source = torch.empty(2**29, dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-3 * do_bench(lambda: target.copy_(source), return_mode="median"))


def measure() -> list[dict[str, object]]:
    device = triton.runtime.driver.active.utils.get_device_properties(torch.cuda.current_device())
    exponentials = device["multiprocessor_count"] * EXPONENTIALS_PER_CLOCK * device["sm_clock_rate"] * 1e3
    bytes_per_second = copy_rate()
    official = importlib.util.find_spec("mamba_ssm") is not None
    rows = []
    for batch, length, channels in SHAPES:
        arguments = scan_arguments(batch, length, channels)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward, backward = milliseconds(
            lambda a: selective_scan(**a, delta_softplus=True, backend="triton"), arguments
        )
        elements = batch * length * channels
        row = {
            "shape": (batch, length, channels),
            "forward_ms": forward,
            "backward_ms": backward,
            "exponentials_floor_ms": 1e3 * elements * D_STATE / exponentials,
            "bytes_floor_ms": 1e3 * elements * 4 * 2 / bytes_per_second,  # u, delta, z read, y written, bfloat16
            "peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20,
        }
        if official:
            theirs = milliseconds(official_scan, in_official_layout(arguments))
            row["mamba_ssm_forward_ms"], row["mamba_ssm_backward_ms"] = theirs
        rows.append(row)
        del arguments
        torch.cuda.empty_cache()
    return rows


def draw(rows: list[dict[str, object]], title: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(rows), figsize=(4 * len(rows), 3.5), layout="constrained")
    for axis, row in zip(axes, rows, strict=True):
        bars = {name.removesuffix("_ms").replace("_", " "): row[name] for name in row if str(name).endswith("ward_ms")}
        axis.bar(list(bars), list(bars.values()), color="#4477aa")
        axis.axhline(row["exponentials_floor_ms"], color="#cc3311", label="floor: exponentials")
        axis.axhline(row["bytes_floor_ms"], color="#009988", linestyle="--", label="floor: bytes")
        axis.set_title(f"batch, length, channels = {row['shape']}", fontsize=9)
        axis.set_ylabel("ms")
        axis.tick_params(axis="x", rotation=20)
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for kernels.json and kernels.png")
    output = parser.parse_args().output
    check()
    environment = describe_environment()
    title = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"
    rows = measure()
    for name, value in environment.items():
        print(f"{name}: {value}")
    print(f"\nselective_scan, d_state {D_STATE}, bfloat16, medians in ms")
    columns = [name for name in rows[0] if name != "shape"]
    print(" | ".join(["shape", *columns]))
    for row in rows:
        print(" | ".join([str(row["shape"]), *(f"{row[name]:.3f}" for name in columns)]))
    floors = [max(row["exponentials_floor_ms"], row["bytes_floor_ms"]) for row in rows]
    print(f"forward / floor: {statistics.mean(r['forward_ms'] / f for r, f in zip(rows, floors, strict=True)):.2f}")
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "kernels.json").write_text(json.dumps({"environment": environment, "rows": rows}, indent=1))
        draw(rows, title, output / "kernels.png")


if __name__ == "__main__":
    main()
