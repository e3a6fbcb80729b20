"""The head's loss from all logits at once, in plain PyTorch: the oracle of the other backends."""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int, dtype: torch.dtype
) -> Tensor:
    """The loss summed over tokens: hidden (tokens, d_model), labels (tokens,), products computed in `dtype`."""
    logits = F.linear(hidden.to(dtype), weight.to(dtype)).to(torch.promote_types(dtype, torch.float32))
    return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
