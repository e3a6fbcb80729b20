"""AdamW, and the one rule that says which parameters decay."""

from __future__ import annotations

import torch
from torch import nn

from baby_mamba.config import TrainerConfig


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies to a parameter: to the matrices that mix channels or embed tokens, and to no other.

    Decay pulls towards zero, which is neutral for a matrix only. It would turn a norm's gain off, and it would drive
    A = -exp(A_log) to -1 and so make every state forget at the same speed: A_log is two-dimensional but not a matrix
    that is multiplied by, and so has to be named, as have a B and a C that are constants and no projections.
    """
    is_norm = any("norm" in part for part in name.split("."))
    return parameter.ndim >= 2 and not is_norm and name.split(".")[-1] not in ("A_log", "B", "C", "D", "bias")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split a model's parameters into the group that decays and the group that does not.

    Every trainable parameter is in exactly one group; a tied parameter, such as the embedding that is also the output
    head, is counted once.

    Args:
        model: any module; `decays` looks at the parameters' names and shapes.
        weight_decay: the decay of the first group; the second has 0.

    Returns:
        Two parameter groups as torch.optim optimizers take them.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW over `decay_groups(model)`, with the config's peak learning rate and betas.

    Move the model to its device first: the state is created beside the parameters, and the fused step is chosen by
    their device.
    """
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    return torch.optim.AdamW(
        decay_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.beta_1, config.beta_2),
        fused=fused,
    )
