"""Shape checks for every annotated function, and the rule that GPU tests need a GPU."""

import os
import signal

import pytest
import torch
from jaxtyping import install_import_hook

# Triton decides when it is imported whether it compiles kernels; without a GPU it interprets them.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Annotations such as Float[Tensor, "batch length channels"] are checked at every call. Kernels are left out: numba and
# Triton compile the plain functions.
install_import_hook(
    [
        "baby_mamba.comparison",
        "baby_mamba.data",
        "baby_mamba.environment",
        "baby_mamba.extraction",
        "baby_mamba.filling",
        "baby_mamba.generation",
        "baby_mamba.interop",
        "baby_mamba.layers",
        "baby_mamba.models",
        "baby_mamba.ops.causal_conv1d.reference",
        "baby_mamba.ops.rms_norm.reference",
        "baby_mamba.ops.selective_scan.parallel",
        "baby_mamba.ops.selective_scan.reference",
        "baby_mamba.scoring",
        "baby_mamba.text_generation",
        "baby_mamba.theory",
        "baby_mamba.training",
        "baby_mamba.visualize",
    ],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",  # 0 is a float, too
)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_interrupts():
    """A shell starts background jobs with Ctrl-C ignored; the tests of it are to mean the same there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect GPU tests unless `-m` asks for them, in which case a missing GPU is a failure and not a skip."""
    if "gpu" in (config.option.markexpr or ""):
        return
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]
