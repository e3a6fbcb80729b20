r"""One step of the selective scan, for decoding: a state per sequence, updated where it lies.

    delta = softplus(delta + delta_bias)
    h     = exp(delta A) h + delta B u        h is a row of `state`, and the new h takes its place
    y     = (C . h + D u) * silu(z)

That is `selective_scan` with a length of 1 (Mamba, arXiv 2312.00752, algorithm 2), without a copy of the state. In a
server the rows belong to requests that come and go, so a batch names its rows by `state_indices`.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops.backend import choose_backend
from baby_mamba.ops.selective_scan.reference import computing_dtype
from baby_mamba.ops.selective_state_update.reference import selective_state_update as _reference


def _triton(*arguments: Any) -> Tensor:
    from baby_mamba.ops.selective_state_update.triton import selective_state_update

    return selective_state_update(*arguments)


_THROUGH_THE_SCAN = {name: partial(_reference, name) for name in ("cpu", "parallel", "reference")}
_IMPLEMENTATIONS = {"triton": _triton, **_THROUGH_THE_SCAN}  # as "auto" prefers them


def selective_state_update(
    state: Tensor,
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
    state_indices: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Advance each sequence by one token, in place, and return the outputs.

    It computes in float32, or in float64 if any argument is float64 (not on triton), whatever the dtypes. It has no
    gradient, and backward() through y raises: `selective_scan` with an initial state is the same step with gradients.

    Args:
        state: the states before the step, overwritten with those after it, (slots, channels, d_state); without
            `state_indices` slots is the batch. Floating point, better not narrower than float32: what decays slowly
            changes by less than bfloat16 can hold. Any strides.
        u: input, (batch, channels), floating point.
        delta: step size, (batch, channels).
        A: (channels, d_state), real and negative.
        B: how the input enters, (batch, d_state), or (batch, groups, d_state) where `groups` divides `channels`.
        C: how the state is read; a shape as B's, chosen independently of it.
        D: skip connection, (channels,).
        z: gate, (batch, channels); the output is multiplied by silu(z).
        delta_bias: added to delta before the softplus, (channels,).
        delta_softplus: apply softplus to delta.
        state_indices: integers, (batch,): the row of `state` that belongs to each row of the batch, no row twice. A
            negative index marks padding: no state changes and the output is 0. Indices are not checked on a GPU.
        backend: "auto", "reference", "parallel", "cpu" or "triton"; see `baby_mamba.ops.backend`.

    Returns:
        y of u's shape and dtype.

    Raises:
        ShapeError: a shape, dtype or device does not fit; the message names the argument.
        BackendUnavailableError: the backend asked for by name cannot run here.
    """
    _check(state, u, delta, A, B, C, D, z, delta_bias, state_indices)
    implementations = _IMPLEMENTATIONS
    if backend == "auto" and computing_dtype(state, u, delta, A, B, C, delta_bias) == torch.float64:
        implementations = _THROUGH_THE_SCAN  # Triton's kernel computes in float32; asked for by name it refuses float64
    backend = choose_backend("selective_state_update", backend, u.device, implementations)
    arguments = (state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, state_indices)
    if not torch.compiler.is_compiling() and not torch.is_grad_enabled() and type(u) is Tensor:
        # Nobody traces or records this, and an operator's way through the dispatcher takes longer than the step.
        return _IMPLEMENTATIONS[backend](*arguments)
    return _update(*arguments, backend)


@torch.library.custom_op("baby_mamba::selective_state_update", mutates_args=("state",))
def _update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    state_indices: Tensor | None,
    backend: str,
) -> Tensor:
    return _IMPLEMENTATIONS[backend](state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, state_indices)


@_update.register_fake
def _(state, u, *_):
    return u.new_empty(u.shape)


def _check(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    state_indices: Tensor | None,
) -> None:
    if u.ndim != 2:
        _wrong("u", u, "(batch, channels)")
    batch, channels = u.shape
    if A.ndim != 2 or A.shape[0] != channels:
        _wrong("A", A, f"(channels, d_state) with channels = {channels}, as in u")
    d_state = A.shape[1]
    if state.shape[1:] != (channels, d_state) or (state_indices is None and len(state) != batch):
        slots = batch if state_indices is None else "slots"
        _wrong("state", state, f"({slots}, {channels}, {d_state}), that is (slots, channels, d_state)")
    fixed = {
        "delta": (delta, (batch, channels)),
        "z": (z, (batch, channels)),
        "D": (D, (channels,)),
        "delta_bias": (delta_bias, (channels,)),
        "state_indices": (state_indices, (batch,)),
    }
    for name, (tensor, shape) in fixed.items():
        if tensor is not None and tensor.shape != shape:
            _wrong(name, tensor, str(shape))
    for name, tensor in (("B", B), ("C", C)):
        groups = tensor.shape[1] if tensor.ndim == 3 else 1
        if tensor.shape not in ((batch, d_state), (batch, groups, d_state)) or groups == 0 or channels % groups:
            _wrong(
                name, tensor, f"({batch}, {d_state}) or ({batch}, groups, {d_state}) with groups dividing {channels}"
            )
    if state_indices is not None and (state_indices.is_floating_point() or state_indices.dtype == torch.bool):
        _wrong("state_indices", state_indices, "integers")
    numbers = {"state": state, "u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    for name, tensor in numbers.items():
        if tensor is not None and not tensor.is_floating_point():
            _wrong(name, tensor, "real floating-point numbers; for a complex A use selective_scan with a length of 1")
    for name, tensor in {**numbers, "state_indices": state_indices}.items():
        if tensor is not None and tensor.device != u.device:
            _wrong(name, tensor, f"a tensor on {u.device}, where u is; move it with .to({str(u.device)!r})")


def _wrong(name: str, tensor: Tensor, expected: str) -> None:
    got = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
    raise ShapeError(f"selective_state_update: {name} is {got}; expected {expected}")
