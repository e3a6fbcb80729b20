"""What ran a result: hardware, versions and date, for run manifests and benchmarks."""

import datetime
import os
import platform
from importlib import metadata

import torch

import baby_mamba

_PACKAGES = ("torch", "triton", "numba", "numpy", "transformers", "tokenizers")


def describe_environment() -> dict[str, str]:
    """Date, processor, GPUs, threads, and the versions of Python, this package and what it computes with."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    description = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": f"{_processor_name()}, {os.cpu_count()} cores",
        "gpu": ", ".join(gpus) or "none",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "baby_mamba": baby_mamba.__version__,
    }
    return description | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
