r"""The selective scan: the recurrence at the heart of Mamba, one contract with several backends.

For each batch entry b and channel d, with a state h of `d_state` numbers (Mamba, arXiv 2312.00752, section 3.2 and
algorithm 2; A by zero-order hold, eq. 4; B by the simpler Euler rule of the released code):

    delta_t = softplus(delta_t + delta_bias)
    h_t     = exp(delta_t A) h_{t-1} + delta_t B_t u_t
    y_t     = (C_t . h_t + D u_t) * silu(z_t)
"""

from typing import Any

import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.backend import choose_backend
from baby_mamba.ops.selective_scan.reference import computing_dtype
from baby_mamba.ops.selective_scan.reference import selective_scan as _reference


def _triton(*arguments: Any) -> tuple[Tensor, Tensor]:
    from baby_mamba.ops.selective_scan.triton import selective_scan

    return selective_scan(*arguments)


def _cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    from baby_mamba.ops.selective_scan.cpu import selective_scan

    return selective_scan(*arguments)


def _parallel(*arguments: Any) -> tuple[Tensor, Tensor]:
    from baby_mamba.ops.selective_scan.parallel import selective_scan

    return selective_scan(*arguments)


# Imported when first used: numba and Triton take time, and torch.utils.checkpoint imports Triton where it is installed.
_IN_PLAIN_PYTORCH = {"parallel": _parallel, "reference": _reference}
_IMPLEMENTATIONS = {"triton": _triton, "cpu": _cpu, **_IN_PLAIN_PYTORCH}  # as "auto" prefers them


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    sequence_ids: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective state space recurrence along `length`.

    Differentiable in every tensor argument and through both results. It computes in float32, or in float64 if any
    argument is float64, whatever the dtypes of the arguments.

    Args:
        u: input, (batch, length, channels), floating point.
        delta: step size, (batch, length, channels).
        A: (channels, d_state), real and negative, or complex. A complex A stands for one of each conjugate pair of
            states, so the output is 2 Re(C . h), as in S4D.
        B: how the input enters, (batch, length, d_state), or (batch, length, groups, d_state) where `groups` divides
            `channels`, or constant (channels, d_state). Complex if and only if A is.
        C: how the state is read; a shape as B's, chosen independently of it.
        D: skip connection, (channels,).
        z: gate, (batch, length, channels); the output is multiplied by silu(z).
        delta_bias: added to delta before the softplus, (channels,).
        delta_softplus: apply softplus to delta.
        initial_state: the state before the first step, (batch, channels, d_state); zero if None.
        sequence_ids: integers, (batch, length). Where the id changes from one step to the next the state is reset, so
            that several sequences can be packed into one row. `initial_state` belongs to the first id of each row.
        return_final_state: also return the state after the last step.
        backend: "auto", "reference", "parallel", "cpu" or "triton"; see `baby_mamba.ops.backend`.

    Returns:
        y of u's shape and dtype, or (y, state) with the state (batch, channels, d_state) in the computing dtype.

    Raises:
        ShapeError: a shape, dtype or device does not fit; the message names the argument.
        BackendUnavailableError: the backend asked for by name cannot run here.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state, sequence_ids)
    implementations = _IMPLEMENTATIONS
    if A.is_complex() or (
        # Triton's kernels compute in float32: asked for by name they refuse float64, and "auto" passes them over.
        backend == "auto"
        and u.is_cuda
        and computing_dtype(u, delta, A, B, C, delta_bias, initial_state) == torch.float64
    ):
        implementations = _IN_PLAIN_PYTORCH
    y, final_state = implementations[choose_backend("selective_scan", backend, u.device, implementations)](
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, sequence_ids
    )
    return (y, final_state) if return_final_state else y


_NAMES = ("delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state", "sequence_ids")


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    sequence_ids: Tensor | None,
) -> None:
    if u.ndim != 3 or not u.is_floating_point():
        _wrong("u", u, "a floating-point tensor (batch, length, channels)")
    batch, length, channels = u.shape
    if A.ndim != 2 or A.shape[0] != channels or not (A.is_floating_point() or A.is_complex()):
        _wrong("A", A, f"a real or complex tensor (channels, d_state) with channels = {channels}, as in u")
    d_state = A.shape[1]
    rows, per_channel = (batch, length, channels), (channels,)
    for name, tensor, shape in (
        ("delta", delta, rows),
        ("z", z, rows),
        ("D", D, per_channel),
        ("delta_bias", delta_bias, per_channel),
    ):
        if tensor is not None and (tensor.shape != shape or not tensor.is_floating_point()):
            _wrong(name, tensor, f"a floating-point tensor of shape {shape}")
    per_step, constant = (batch, length, d_state), (channels, d_state)
    for name, tensor in (("B", B), ("C", C)):
        groups = tensor.shape[2] if tensor.ndim == 4 else 1
        if groups == 0 or channels % groups:
            _wrong(name, tensor, f"a number of groups that divides channels = {channels}")
        if tensor.shape not in (per_step, constant, (batch, length, groups, d_state)):
            _wrong(
                name,
                tensor,
                f"(batch, length, d_state) = {per_step}, (batch, length, groups, d_state) "
                f"or (channels, d_state) = {constant}",
            )
        if tensor.is_complex() != A.is_complex() or not (tensor.is_floating_point() or tensor.is_complex()):
            _wrong(name, tensor, f"{'complex' if A.is_complex() else 'real floating-point'} numbers, as A has")
    if initial_state is not None and (
        initial_state.shape != (batch, channels, d_state) or (initial_state.is_complex() and not A.is_complex())
    ):
        _wrong("initial_state", initial_state, f"(batch, channels, d_state) = {(batch, channels, d_state)}")
    if sequence_ids is not None and (
        sequence_ids.shape != (batch, length) or sequence_ids.is_floating_point() or sequence_ids.is_complex()
    ):
        _wrong("sequence_ids", sequence_ids, f"integers of shape (batch, length) = {(batch, length)}")
    tensors = (delta, A, B, C, D, z, delta_bias, initial_state, sequence_ids)
    for name, tensor in zip(_NAMES, tensors, strict=True):
        if tensor is not None and tensor.device != u.device:
            _wrong(name, tensor, f"a tensor on {u.device}, where u is; move it with .to({str(u.device)!r})")


def _wrong(name: str, tensor: Tensor, expected: str) -> None:
    got = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
    raise ShapeError(f"selective_scan: {name} is {got}; expected {expected}")
