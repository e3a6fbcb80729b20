r"""The head of a language model and its loss as one operation, so that the logits need never exist all at once.

With the logits of a token l = W hidden and its label y,

    loss            = log(sum_v exp(l_v)) - l_y
    d loss / d l    = softmax(l) - onehot(y)

For 16,384 tokens and 50,280 words all logits are 3.3 GB in float32, and their gradient as much again.
"""

from typing import Any

import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.backend import choose_backend
from baby_mamba.ops.linear_cross_entropy.chunked import linear_cross_entropy as _chunked
from baby_mamba.ops.linear_cross_entropy.reference import linear_cross_entropy as _reference


def _triton(*arguments: Any) -> Tensor:
    return _chunked(*arguments, use_triton=True)


_IMPLEMENTATIONS = {"triton": _triton, "cpu": _chunked, "parallel": _chunked, "reference": _reference}


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Cross-entropy of the logits hidden @ weight.T against labels, in nats.

    Differentiable, once, in hidden and weight. The products are computed in autocast's dtype where autocast is on, and
    else in the arguments' own; the softmax, the loss and the sum for weight's gradient in float32 or wider.

    Args:
        hidden: (..., d_model), floating point.
        weight: (vocabulary, d_model), floating point.
        labels: integers of hidden's shape without its last dimension, 0 ... vocabulary - 1 or `ignore_index`.
        ignore_index: a label that is not scored; no gradient flows from it.
        reduction: "mean" over the labels that are scored, or "sum". The mean over none is nan, with gradient 0, as in
            torch.nn.functional.cross_entropy.
        backend: "auto", "reference" (all logits at once), "parallel" or "cpu" (in chunks, plain PyTorch) or "triton"
            (in chunks, fused softmax); see `baby_mamba.ops.backend`.

    Returns:
        A scalar, float32 or wider. A label outside of the vocabulary is an error on the CPU. On a GPU looking would
        hold up the stream; there backend "triton" makes the loss nan.

    Raises:
        ShapeError: a shape, dtype or device does not fit, or a label is outside of the vocabulary.
        ValueError: reduction is something else.
        BackendUnavailableError: the backend asked for by name cannot run here, or a second derivative is asked for
            from another backend than "reference".
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"linear_cross_entropy: reduction = {reduction!r} is not supported; expected 'mean' or 'sum'")
    _check(hidden, weight, labels, ignore_index)
    implementation = _IMPLEMENTATIONS[choose_backend("linear_cross_entropy", backend, hidden.device, _IMPLEMENTATIONS)]
    total = implementation(
        hidden.reshape(-1, hidden.shape[-1]),
        weight,
        labels.reshape(-1).long(),
        ignore_index,
        _dtype_of_products(hidden, weight),
    )
    if reduction == "sum":
        return total
    count = (labels != ignore_index).sum()
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


def _dtype_of_products(hidden: Tensor, weight: Tensor) -> torch.dtype:
    dtype, device = torch.promote_types(hidden.dtype, weight.dtype), hidden.device.type
    autocast = torch.is_autocast_enabled(device) and dtype != torch.float64  # which autocast leaves alone
    return torch.get_autocast_dtype(device) if autocast else dtype


def _check(hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int) -> None:
    if hidden.ndim == 0 or not hidden.is_floating_point():
        _wrong("hidden", hidden, "a floating-point tensor (..., d_model)")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or not weight.is_floating_point():
        _wrong("weight", weight, f"floating-point numbers (vocabulary, d_model) with d_model = {hidden.shape[-1]}")
    if labels.shape != hidden.shape[:-1] or labels.is_floating_point() or labels.is_complex():
        _wrong("labels", labels, f"integers of shape {tuple(hidden.shape[:-1])}, one for each vector of hidden")
    for name, tensor in (("weight", weight), ("labels", labels)):
        if tensor.device != hidden.device:
            _wrong(name, tensor, f"a tensor on {hidden.device}, where hidden is; move it with .to('{hidden.device}')")
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        outside = labels[((labels < 0) | (labels >= len(weight))) & (labels != ignore_index)]
        if outside.numel() > 0:
            raise ShapeError(
                f"linear_cross_entropy: a label is {outside[0].item()}; expected 0 ... {len(weight) - 1}, as weight "
                f"has {len(weight)} rows, or ignore_index = {ignore_index}; is it of another vocabulary?"
            )


def _wrong(name: str, tensor: Tensor, expected: str) -> None:
    got = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
    raise ShapeError(f"linear_cross_entropy: {name} is {got}; expected {expected}")
