"""The device to train on."""

from __future__ import annotations

import torch

from baby_mamba.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device that training_config.device names; auto is the GPU if CUDA has one, and else the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"training_config.device = {name} cannot be used here ({reason}); expected auto, cpu, or a device of this "
            "computer such as cuda, cuda:1 or mps"
        ) from None
    return device
