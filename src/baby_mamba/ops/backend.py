"""Chooses the implementation of an operation: the only place in the package that does.

| backend     | runs on                | what it is                                                     |
|-------------|------------------------|----------------------------------------------------------------|
| `reference` | everything             | the sequential recurrence in plain PyTorch; every other backend's oracle |
| `parallel`  | everything             | the same recurrence as an associative scan in plain PyTorch     |
| `cpu`       | CPU                    | fused loops compiled by numba                                   |
| `triton`    | CUDA                   | fused Triton kernels                                            |
| `auto`      | follows the tensors' device: the first of an operation's candidates that is made for it      |
"""

import importlib.util
import logging
from collections.abc import Collection

import torch

from baby_mamba.errors import BackendUnavailableError

logger = logging.getLogger("baby_mamba")

# What each backend needs: types of device (None is any), a package, and the remedy where that is missing.
_NEEDS: dict[str, tuple[tuple[str, ...] | None, str | None, str]] = {
    "triton": (("cuda",), "triton", "pip install 'triton>=3.6' (Linux only)"),
    "cpu": (("cpu",), "numba", "pip install 'numba>=0.61'"),
    "parallel": (None, None, ""),
    "reference": (None, None, ""),
}
_installed = {name: importlib.util.find_spec(name) is not None for _, name, _ in _NEEDS.values() if name is not None}
_chosen: dict[tuple[str, ...], str] = {}  # what "auto" chose, and announced, for an operation on a type of device


def choose_backend(op: str, requested: str, device: torch.device, backends: Collection[str]) -> str:
    """The name of the backend that computes `op` on `device`. torch.compile traces this, so it is plain.

    Args:
        op: name of the operation, for messages.
        requested: "auto" or the name of a backend.
        device: where the tensors are.
        backends: names of those that the operation has, in the order in which "auto" prefers them.

    Raises:
        BackendUnavailableError: the backend that was asked for by name is unknown, not written for this operation,
            not made for this device, or lacks a package.
    """
    if requested == "auto":
        if torch.compiler.is_compiling():
            return _prefer(op, device.type, backends)
        case = (op, device.type, *backends)
        if case not in _chosen:
            _chosen[case] = _prefer(op, device.type, backends)
            _announce(op, _chosen[case], device.type, backends)
        return _chosen[case]
    if requested not in backends:
        raise BackendUnavailableError(
            f"{op}: backend {requested!r} does not exist here; choose auto or one of {', '.join(backends)}"
        )
    if not (_made_for(requested, device.type) and _has_package(requested)):
        raise BackendUnavailableError(f"{op}: backend {requested!r} {_obstacle(requested, device.type)}")
    return requested


def _prefer(op: str, device: str, backends: Collection[str]) -> str:
    """The first backend that runs."""
    for name in backends:
        if _made_for(name, device) and _has_package(name):
            return name
    obstacles = "; ".join([f"{name} {_obstacle(name, device)}" for name in backends])
    raise BackendUnavailableError(f"{op}: no backend runs on {device}: {obstacles}")


def _made_for(name: str, device: str) -> bool:
    devices, _, _ = _NEEDS[name]
    return devices is None or device in devices


def _has_package(name: str) -> bool:
    _, package, _ = _NEEDS[name]
    return package is None or _installed[package]


def _obstacle(name: str, device: str) -> str:
    """Why a backend cannot run on a device, with the remedy."""
    devices, package, remedy = _NEEDS[name]
    if not _made_for(name, device):
        return f"runs on {' and '.join(devices)}, and these tensors are on {device}; move them or use backend='auto'"
    return f"needs {package}, which is not installed; {remedy}"


def _announce(op: str, chosen: str, device: str, backends: Collection[str]) -> None:
    """Log what "auto" chose, and warn where the fast backend for this device is missing."""
    for name in backends:
        if _made_for(name, device) and not _has_package(name):
            logger.warning("%s: backend %s %s", op, name, _obstacle(name, device))
    logger.info("%s: %s backend on %s", op, chosen, device)
