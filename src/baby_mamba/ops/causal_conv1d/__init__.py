r"""The causal depthwise convolution of a Mamba block: each channel looks at its own last few inputs.

    y_t = activation(bias + sum_{k=0}^{width-1} weight[:, k] x_{t - (width-1) + k})

Mamba, arXiv 2312.00752, section 3.4 and figure 3.
"""

from typing import Any

import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.backend import choose_backend
from baby_mamba.ops.causal_conv1d.reference import causal_conv1d as _reference


def _triton(*arguments: Any) -> tuple[Tensor, Tensor]:
    from baby_mamba.ops.causal_conv1d.triton import causal_conv1d

    return causal_conv1d(*arguments)


def _cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    from baby_mamba.ops.causal_conv1d.cpu import causal_conv1d

    return causal_conv1d(*arguments)


# Plain PyTorch already runs along all steps at once, so one implementation answers to both names.
_IN_PLAIN_PYTORCH = {"parallel": _reference, "reference": _reference}
_IMPLEMENTATIONS = {"triton": _triton, "cpu": _cpu, **_IN_PLAIN_PYTORCH}  # as "auto" prefers them


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    sequence_ids: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with its own `width` taps, looking only at the present and the past.

    Differentiable in every tensor argument and through both results.

    Args:
        x: input, (batch, length, channels), floating point.
        weight: taps, oldest input first, (channels, width).
        bias: (channels,).
        activation: None or "silu".
        initial_state: the inputs before the first step, oldest first, (batch, width - 1, channels); zero if None.
        sequence_ids: integers, (batch, length). Inputs from before a change of id count as zero. `initial_state`
            belongs to the first id of each row.
        return_final_state: also return the last width - 1 inputs; those of an earlier sequence are zero.
        backend: "auto", "reference", "parallel", "cpu" or "triton"; see `baby_mamba.ops.backend`.

    Returns:
        y of x's shape and dtype, or (y, state) with the state (batch, width - 1, channels) in x's dtype.

    Raises:
        ShapeError: a shape, dtype or device does not fit, or the activation is unknown.
        BackendUnavailableError: the backend asked for by name cannot run here.
    """
    _check(x, weight, bias, activation, initial_state, sequence_ids)
    implementations = _IMPLEMENTATIONS
    if backend == "auto" and x.is_cuda:
        # Triton's kernels compute in float32: asked for by name they refuse float64, and "auto" passes them over.
        floats = [t.dtype for t in (x, weight, bias, initial_state) if t is not None]
        implementations = _IN_PLAIN_PYTORCH if torch.float64 in floats else _IMPLEMENTATIONS
    implementation = implementations[choose_backend("causal_conv1d", backend, x.device, implementations)]
    y, final_state = implementation(x, weight, bias, activation, initial_state, sequence_ids)
    return (y, final_state) if return_final_state else y


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> None:
    if x.ndim != 3 or not x.is_floating_point():
        raise ShapeError(f"causal_conv1d: x is {tuple(x.shape)} {x.dtype}; expected floats (batch, length, channels)")
    batch, length, channels = x.shape
    width = weight.shape[-1]
    expected = {
        "weight": (weight, (channels, max(width, 1))),
        "bias": (bias, (channels,)),
        "initial_state": (initial_state, (batch, width - 1, channels)),
        "sequence_ids": (sequence_ids, (batch, length)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(f"causal_conv1d: {name} has shape {tuple(tensor.shape)}; expected {shape}")
        if tensor is not None and tensor.device != x.device:
            raise ShapeError(f"causal_conv1d: {name} is on {tensor.device}; move it to {x.device}, where x is")
    if sequence_ids is not None and (sequence_ids.is_floating_point() or sequence_ids.is_complex()):
        raise ShapeError(
            f"causal_conv1d: sequence_ids are {sequence_ids.dtype}; expected integers, use .long() on them"
        )
    if activation not in (None, "silu"):
        raise ShapeError(f"causal_conv1d: activation is {activation!r}; expected None or 'silu'")
