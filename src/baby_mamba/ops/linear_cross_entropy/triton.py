"""The softmax of a chunk as one Triton kernel: logits in, losses out, and the gradient where the logits were.

A program walks twice over the logits of one token. The first time it keeps the highest logit so far and the sum of
exponentials relative to it (Milakov and Gimelshein, 2018, arXiv 1805.02867); the second time it writes the gradient.
The second reading comes from the cache: a row is 100 kB in bfloat16 with a vocabulary of 50,280.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from baby_mamba.ops.triton_support import launch

BLOCK = 8192  # logits that a program holds at once
OPTIONS = {"num_warps": 16, "num_stages": 1}  # many warps, few programs: then their rows stay in the cache
ALIGNMENT = 16  # numbers: what Triton asks of a stride to load 16 bytes at a time, and more than cuBLAS does


def padded(vocabulary: int) -> int:
    """The columns that a row of logits takes in memory."""
    return triton.cdiv(vocabulary, ALIGNMENT) * ALIGNMENT


def score(logits: Tensor, labels: Tensor, ignore_index: int, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """(losses, gradient of their sum with respect to the logits, in their place).

    Args:
        logits: (tokens, vocabulary), with rows as long in memory as their stride; what lies between is overwritten.
        labels: (tokens,), int64; outside of the vocabulary the loss is nan.
        ignore_index: a label that is not scored.
        with_gradient: else the logits stay, and are returned.
    """
    tokens, vocabulary = logits.shape
    losses = logits.new_empty(tokens, dtype=torch.promote_types(logits.dtype, torch.float32))
    launch(
        cross_entropy_of_rows, (tokens,),
        logits, labels, losses, logits.stride(0), vocabulary, ignore_index,
        WITH_GRADIENT=with_gradient, BLOCK=min(BLOCK, triton.next_power_of_2(padded(vocabulary))), **OPTIONS,
    )  # fmt: skip
    return losses, logits


@triton.jit
def cross_entropy_of_rows(
    logits, labels, losses, stride, vocabulary, ignore_index, WITH_GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    """One program for each row; arguments as of `score`."""
    wide: tl.constexpr = losses.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    label = tl.load(labels + row)
    is_scored = label != ignore_index
    # Read before the sums: all warps meet there, and only then does the first one write the gradient.
    logit_of_label = tl.load(logits + label, (label >= 0) & (label < vocabulary), float("nan")).to(wide)

    column = tl.arange(0, BLOCK)
    highest = tl.full((), float("-inf"), wide)
    total = tl.zeros((BLOCK,), wide)
    for start in range(0, vocabulary, BLOCK):
        x = _load(logits, start + column, stride, vocabulary, wide)
        higher = tl.maximum(highest, tl.max(x, 0))
        total = total * tl.exp(highest - higher) + tl.exp(x - higher)
        highest = higher
    log_total = highest + tl.log(tl.sum(total, 0))
    tl.store(losses + row, tl.where(is_scored, log_total - logit_of_label, 0.0))

    if WITH_GRADIENT:
        for start in range(0, vocabulary, BLOCK):
            index = start + column
            p = tl.exp(_load(logits, index, stride, vocabulary, wide) - log_total)
            gradient = tl.where(index == label, p - 1, p)
            tl.store(logits + index, tl.where(is_scored, gradient, 0.0), index < stride)


@triton.jit
def _load(logits, index, stride, vocabulary, dtype: tl.constexpr):
    """Logits, -inf beyond the vocabulary. The mask ends at the stride, an aligned number, so that loads stay wide."""
    x = tl.load(logits + index, index < stride, 0.0).to(dtype)
    return tl.where(index < vocabulary, x, float("-inf"))
