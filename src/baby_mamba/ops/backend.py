"""Chooses the implementation of an operation: the only place in the package that does.

| backend     | runs on                | what it is                                                     |
|-------------|------------------------|----------------------------------------------------------------|
| `reference` | everything             | the sequential recurrence in plain PyTorch; every other backend's oracle |
| `parallel`  | everything             | the same recurrence as an associative scan in plain PyTorch     |
| `cpu`       | CPU                    | fused loops compiled by numba                                   |
| `triton`    | CUDA                   | fused Triton kernels                                            |
| `auto`      | follows the tensors' device: the first of an operation's candidates that is made for it      |
"""

import importlib
import importlib.util
import logging
from functools import cache
from types import ModuleType

import torch

from baby_mamba.errors import BackendUnavailableError

logger = logging.getLogger("baby_mamba")

# What each backend needs: device types (None is any), module to import, and the remedy when that module is missing.
_NEEDS: dict[str, tuple[tuple[str, ...] | None, str | None, str]] = {
    "triton": (("cuda",), "triton", "pip install 'triton>=3.6' (Linux only)"),
    "cpu": (("cpu",), "numba", "pip install 'numba>=0.61'"),
    "parallel": (None, None, ""),
    "reference": (None, None, ""),
}


def choose_backend(op: str, requested: str, device: torch.device, implementations: dict[str, str]) -> ModuleType:
    """The module that implements `op` on `device`.

    Args:
        op: name of the operation, for messages.
        requested: "auto" or the name of a backend.
        device: where the tensors are.
        implementations: module name by backend name, in the order in which "auto" prefers them.

    Raises:
        BackendUnavailableError: the backend that was asked for by name is unknown, not written for this operation,
            not made for this device, or lacks a package.
    """
    return _choose(op, requested, device.type, tuple(implementations.items()))


@cache
def _choose(op: str, requested: str, device: str, implementations: tuple[tuple[str, str], ...]) -> ModuleType:
    modules = dict(implementations)
    if requested != "auto":
        if requested not in modules:
            raise BackendUnavailableError(
                f"{op}: backend {requested!r} does not exist here; choose auto or one of {', '.join(modules)}"
            )
        obstacle = _obstacle(requested, device)
        if obstacle:
            raise BackendUnavailableError(f"{op}: backend {requested!r} {obstacle}")
        return importlib.import_module(modules[requested])
    obstacles = {name: _obstacle(name, device) for name in modules}
    for name, module in modules.items():
        if not obstacles[name]:
            logger.info("%s: %s backend on %s", op, name, device)
            return importlib.import_module(module)
        if _made_for(name, device):  # the fast one for this device is missing: say so
            logger.warning("%s: backend %s %s", op, name, obstacles[name])
    raise BackendUnavailableError(
        f"{op}: no backend runs on {device}: {'; '.join(f'{name} {obstacle}' for name, obstacle in obstacles.items())}"
    )


def _made_for(name: str, device: str) -> bool:
    devices, _, _ = _NEEDS[name]
    return devices is None or device in devices


def _obstacle(name: str, device: str) -> str:
    """Why a backend cannot run on a device, with the remedy; empty if it can."""
    devices, package, remedy = _NEEDS[name]
    if not _made_for(name, device):
        return f"runs on {' and '.join(devices)}, and these tensors are on {device}; move them or use backend='auto'"
    if package is not None and importlib.util.find_spec(package) is None:
        return f"needs {package}, which is not installed; {remedy}"
    return ""
