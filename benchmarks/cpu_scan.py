"""Selective scan on a CPU: the backends against each other, from short sequences to long ones.

    python benchmarks/cpu_scan.py            # L = 64 ... 16,384; about five minutes on two cores
    python benchmarks/cpu_scan.py --quick    # L = 64 ... 1,024

For every length and backend it prints the time of one forward and backward pass (the median of several), the time per
token, and how much memory the pass takes at its peak, as a multiple of the scan's inputs and output. Every pass has the
same number of tokens, as many short sequences or few long ones, so that only the length differs: neither time per token
nor multiple should grow with it. Backends take turns, so that a busy machine slows all of them alike.
"""

import argparse
import ctypes
import gc
import platform
import statistics
import time

import torch

from baby_mamba.environment import describe_environment
from baby_mamba.ops import selective_scan

CHANNELS, D_STATE = 256, 16  # d_model 128
LENGTHS = (64, 256, 1024, 4096, 16384)
# Beyond these lengths a pass takes many seconds, or more memory than a laptop has.
LONGEST = {"cpu": 1 << 20, "parallel": 4096, "reference": 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short sequences only")
    parser.add_argument("--tokens", type=int, default=16384, help="of a pass, over all its sequences (default: 16384)")
    parser.add_argument("--repeats", type=int, default=7, help="passes of which the median counts (default: 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: PyTorch's choice")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    for name, value in describe_environment().items():
        print(f"{name}: {value}")
    print(f"\nfloat32, {arguments.tokens:,} tokens, {CHANNELS} channels, d_state {D_STATE}; forward and backward\n")
    print(
        "| length | batch | backend   |        ms | microseconds/token | peak / (inputs + outputs) | slower than cpu |"
    )
    print(
        "|-------:|------:|-----------|----------:|-------------------:|--------------------------:|----------------:|"
    )
    time_pass("cpu", scan_inputs(1, 64))  # compile before anything is timed
    for length in LENGTHS[:3] if arguments.quick else LENGTHS:
        batch = max(1, arguments.tokens // length)
        backends = [name for name, longest in LONGEST.items() if length <= longest]
        inputs = scan_inputs(batch, length)
        times: dict[str, list[float]] = {name: [] for name in backends}
        for _ in range(arguments.repeats):
            for name in backends:
                time_pass(name, inputs)  # fetches the backend's memory and fills the caches
                times[name].append(time_pass(name, inputs))
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        for name in backends:
            memory = peak_memory(name, inputs)
            print(
                f"| {length:6,} | {batch:5,} | {name:9} | {1e3 * medians[name]:9.2f} "
                f"| {1e6 * medians[name] / (batch * length):18.2f} "
                f"| {'not measured' if memory is None else f'{memory:.2f}':>25} "
                f"| {medians[name] / medians['cpu']:15.1f} |",
                flush=True,
            )


def scan_inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Arguments of a scan as a Mamba block at initialisation has them, all with gradients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    inputs = {
        "u": normal(batch, length, CHANNELS),
        "delta": normal(batch, length, CHANNELS) - 4,
        "A": -torch.arange(1.0, D_STATE + 1).repeat(CHANNELS, 1),
        "B": normal(batch, length, D_STATE),
        "C": normal(batch, length, D_STATE),
        "D": torch.ones(CHANNELS),
        "z": normal(batch, length, CHANNELS),
        "delta_bias": normal(CHANNELS),
    }
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def run_pass(backend: str, inputs: dict[str, torch.Tensor]) -> None:
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))


def time_pass(backend: str, inputs: dict[str, torch.Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    run_pass(backend, inputs)
    return time.perf_counter() - start


def peak_memory(backend: str, inputs: dict[str, torch.Tensor]) -> float | None:
    """Largest memory during a pass, its inputs included, as a multiple of inputs and output; None without glibc."""
    if platform.libc_ver()[0] != "glibc":
        return None
    size = sum(tensor.nbytes for tensor in inputs.values())
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that earlier passes freed would hide what this one takes
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    run_pass(backend, inputs)
    return (resident("VmHWM") - before + size) / (size + inputs["u"].nbytes)


def resident(kind: str) -> int:
    """Bytes of memory now (VmRSS) or at the peak (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(kind))


if __name__ == "__main__":
    main()
