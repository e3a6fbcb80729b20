"""The learning rate as a function of progress: linear warm-up, then a cosine, a late decay (WSD) or a constant."""

from __future__ import annotations

import math

from baby_mamba.config import TrainerConfig


def learning_rate(step: int, total_steps: int, config: TrainerConfig, elapsed: float = 0.0) -> float:
    """The learning rate of a step.

    It rises linearly for `warmup_steps` to `learning_rate`, and is then multiplied by a curve that falls to
    `min_learning_rate`, which it reaches after the last step:

    - cosine: half a cosine from the end of the warm-up (Loshchilov and Hutter, 2017, arXiv 1608.03983);
    - wsd: flat, then a straight line in the last `decay_fraction` (warm-up, stable, decay; Hu et al., 2024,
      arXiv 2404.06395);
    - constant: flat.

    Args:
        step: the optimiser step, from 0.
        total_steps: steps of the whole run.
        config: the keys above.
        elapsed: share of the time budget that is used up, 0 to 1. The curve follows the steps or the clock, whichever
            is further on, so that it is complete when the time is.
    """
    warmup = min(config.warmup_steps, total_steps)
    rise = min(1.0, (step + 1) / (warmup + 1))
    progress = min(1.0, max(step / total_steps, elapsed))
    curve = 1.0
    if config.schedule == "cosine":
        curve = (1 + math.cos(math.pi * _after(warmup / total_steps, progress))) / 2
    elif config.schedule == "wsd":
        curve = 1 - _after(max(warmup / total_steps, 1 - config.decay_fraction), progress)
    lowest = config.min_learning_rate
    return rise * (lowest + (config.learning_rate - lowest) * curve)


def _after(start: float, progress: float) -> float:
    """How far `progress` is on the way from `start` to 1; 0 before `start`."""
    return 0.0 if progress <= start else (progress - start) / (1 - start)
