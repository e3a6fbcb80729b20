"""The functions and the block of the packages mamba_ssm and causal_conv1d, on this library's operations.

| instead of                             | of these names                                                  |
|----------------------------------------|-----------------------------------------------------------------|
| mamba_ssm                              | Mamba, selective_scan_fn, mamba_inner_fn                        |
| mamba_ssm.ops.selective_scan_interface | selective_scan_fn, selective_scan_ref, mamba_inner_fn           |
| mamba_ssm.ops.triton.*                 | selective_state_update, rms_norm_fn, layer_norm_fn              |
| mamba_ssm.utils.generation             | InferenceParams                                                 |
| causal_conv1d                          | causal_conv1d_fn, causal_conv1d_update                          |

Names, arguments, defaults and results are theirs, so that a changed import line is a migration. Beyond them, all of it
runs on every device, takes any strides, widths and float dtypes, and lets gradients through initial and final states.

Their layout is (batch, channels, length), this library's (batch, length, channels). The conversion is a view. A backend
copies a tensor whose channels do not lie side by side in memory, so one that was made as (batch, channels, length) is
copied once, and the transposed output of a linear layer is not. Results are views whose channels lie side by side; call
.contiguous() on them where code asks for the other order.

The functions raise `ShapeError` if a shape, dtype or device does not fit.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from baby_mamba import ops
from baby_mamba.config import MambaConfig
from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.layers import BlockState, MambaBlock

# ------------------------------------------------------------------------------------------------ the selective scan


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan in mamba_ssm's layout; see `ops.selective_scan`, which also starts from a state and packs.

    Args:
        u: (batch, channels, length).
        delta: as u.
        A: (channels, d_state), real or complex.
        B: (channels, d_state), (batch, d_state, length) or (batch, groups, d_state, length). With a complex A, the
            last two are complex, or real with real and imaginary parts in turn along a last axis of 2 length.
        C: as B.
        D: (channels,).
        z: as u.
        delta_bias: (channels,).
        delta_softplus: apply softplus to delta + delta_bias.
        return_last_state: also return the last state, (batch, channels, d_state).
        backend: see `baby_mamba.ops.backend`.

    Returns:
        y of u's shape and dtype, or (y, last state).
    """
    if u.ndim != 3:
        raise ShapeError(f"selective_scan_fn: u has shape {tuple(u.shape)}; expected (batch, channels, length)")
    for name, tensor in (("delta", delta), ("z", z)):
        if tensor is not None and tensor.shape != u.shape:
            raise ShapeError(
                f"selective_scan_fn: {name} has shape {tuple(tensor.shape)}; expected u's (batch, channels, length), "
                f"{tuple(u.shape)}"
            )
    y, state = ops.selective_scan(
        u.transpose(1, 2), delta.transpose(1, 2), A, _length_first("B", B, A, u), _length_first("C", C, A, u), D,
        z=None if z is None else z.transpose(1, 2), delta_bias=delta_bias, delta_softplus=delta_softplus,
        return_final_state=True, backend=backend,
    )  # fmt: skip
    y = y.transpose(1, 2)
    return (y, state) if return_last_state else y


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `selective_scan_fn`, by the loop over time in plain PyTorch; in float64 if an argument is."""
    return selective_scan_fn(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend="reference"
    )  # fmt: skip


def _length_first(name: str, M: Tensor, A: Tensor, u: Tensor) -> Tensor:
    """B or C with time as its second axis, complex if A is."""
    if M.ndim == 2:
        return M
    (batch, _, length), d_state = u.shape, A.shape[-1]
    interleaved = A.is_complex() and not M.is_complex()
    steps = 2 * length if interleaved else length
    if M.shape not in ((batch, d_state, steps), (batch, *M.shape[1:2], d_state, steps)):
        raise ShapeError(
            f"selective_scan_fn: {name} has shape {tuple(M.shape)}; expected (channels, d_state), "
            f"(batch, d_state, length) = {(batch, d_state, steps)} or (batch, groups, d_state, length)"
            + (", the length doubled because A is complex and this is not" if interleaved else "")
        )
    return (_interleaved_to_complex(M) if interleaved else M).movedim(-1, 1)


def _interleaved_to_complex(M: Tensor) -> Tensor:
    """(..., 2 n), real and imaginary parts in turn, to complex (..., n)."""
    M = M.to(torch.promote_types(M.dtype, torch.float32))
    return torch.view_as_complex(M.unflatten(-1, (-1, 2)).contiguous())


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """A Mamba block behind its in_proj: convolution, x_proj, scan, gate and out_proj, composed of the parts.

    Args:
        xz: the input and the gate, (batch, 2 channels, length).
        conv1d_weight: (channels, 1, width).
        conv1d_bias: (channels,).
        x_proj_weight: (dt_rank + 2 d_state, channels); d_state counts twice where A is complex.
        delta_proj_weight: (channels, dt_rank).
        out_proj_weight: (d_model, channels).
        out_proj_bias: (d_model,).
        A: (channels, d_state).
        B: as for `selective_scan_fn`; None takes it from x_proj, for each token its own.
        C: as B.
        D: (channels,).
        delta_bias: (channels,).
        B_proj_bias: added to the B that x_proj makes, (d_state,).
        C_proj_bias: the same for C.
        delta_softplus: apply softplus to delta + delta_bias.
        checkpoint_lvl: no effect: what a backward pass recomputes is decided in each operation.
        b_rms_weight: weight of an RMS norm over the B that x_proj makes, (d_state,); None is no norm.
        c_rms_weight: the same for C.
        dt_rms_weight: the same for delta after its projection, (channels,).
        b_c_dt_rms_eps: epsilon of these norms.

    Returns:
        (batch, length, d_model).
    """
    x, z = xz.chunk(2, dim=1)
    x = causal_conv1d_fn(x, conv1d_weight.squeeze(1), conv1d_bias, activation="silu")
    projected = F.linear(x.transpose(1, 2), x_proj_weight)  # (batch, length, dt_rank + 2 d_state)
    dt_rank, d_state = delta_proj_weight.shape[1], A.shape[1] * (2 if A.is_complex() else 1)

    def normed(t: Tensor, weight: Tensor | None) -> Tensor:
        return t if weight is None else ops.rms_norm(t, weight, epsilon=b_c_dt_rms_eps)[0]

    def selected(M: Tensor, bias: Tensor | None, norm_weight: Tensor | None) -> Tensor:
        M = normed(M if bias is None else M + bias.to(M.dtype), norm_weight)
        if A.is_complex():
            M = _interleaved_to_complex(M)
        return M.transpose(1, 2)  # (batch, d_state, length)

    delta = normed(F.linear(projected[..., :dt_rank], delta_proj_weight), dt_rms_weight).transpose(1, 2)
    if B is None:
        B = selected(projected[..., dt_rank : dt_rank + d_state], B_proj_bias, b_rms_weight)
    if C is None:
        C = selected(projected[..., -d_state:], C_proj_bias, c_rms_weight)
    y = selective_scan_fn(x, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """One decoding step in place, with heads or without; see `ops.selective_state_update`. It has no gradient.

    Args:
        state: (batch, channels, d_state) or (batch, heads, channels, d_state), overwritten.
        x: (batch, channels) or (batch, heads, channels).
        dt: as x; may be expanded along channels.
        A: (channels, d_state) or (heads, channels, d_state).
        B: (batch, d_state), or (batch, groups, d_state) where `groups` divides the channels, or the heads.
        C: as B.
        D: (channels,) or (heads, channels).
        z: as x.
        dt_bias: as D.
        dt_softplus: apply softplus to dt + dt_bias.
        state_batch_indices: integers (batch,): the row of `state` for each row of x; a negative one is padding, for
            which the output is 0.

    Returns:
        y of x's shape and dtype.
    """
    if state.ndim == 4:
        if state.shape[1] > 1 and state.stride(1) != state.shape[2] * state.stride(2):
            raise ShapeError(
                f"selective_state_update: state {tuple(state.shape)} has the strides {state.stride()}; expected heads "
                "and channels that make one axis, so that it can be updated in place: use state.contiguous()"
            )
        # A head is a run of channels: (..., heads, channels, d_state) -> (..., heads channels, d_state).
        D, dt_bias = (None if t is None else t.flatten() for t in (D, dt_bias))
        y = selective_state_update(
            state.view(len(state), -1, state.shape[-1]), x.flatten(1), dt.flatten(1), A.flatten(0, 1), B, C, D,
            None if z is None else z.flatten(1), dt_bias, dt_softplus, state_batch_indices,
        )  # fmt: skip
        return y.view(x.shape)
    return ops.selective_state_update(
        state, x, dt, A, B, C, D,
        z=z, delta_bias=dt_bias, delta_softplus=dt_softplus, state_indices=state_batch_indices,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- the convolution


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The causal depthwise convolution in causal_conv1d's layout; see `ops.causal_conv1d`.

    Args:
        x: (batch, channels, length).
        weight: (channels, width), oldest input first.
        bias: (channels,).
        seq_idx: integers (batch, length), constant within a sequence; inputs from before a change count as zero, and
            where it is negative, which marks padding, the output is zero.
        initial_states: the inputs before the first, (batch, channels, width - 1); with seq_idx those of the first
            sequence of each row.
        return_final_states: also return the last width - 1 inputs, of the last sequence where seq_idx is given.
        final_states_out: where to write the final states, which then are this tensor, (batch, channels, width - 1).
        activation: None, "silu" or "swish", which is the same.

    Returns:
        y of x's shape and dtype, or (y, final states).
    """
    if x.ndim != 3:
        raise ShapeError(f"causal_conv1d_fn: x has shape {tuple(x.shape)}; expected (batch, channels, length)")
    y, states = ops.causal_conv1d(
        x.transpose(1, 2), weight, bias, activation="silu" if activation == "swish" else activation,
        initial_state=None if initial_states is None else initial_states.transpose(1, 2),
        sequence_ids=seq_idx, return_final_state=True,
    )  # fmt: skip
    y, states = y.transpose(1, 2), states.transpose(1, 2)
    if seq_idx is not None:
        y = y.masked_fill((seq_idx < 0).unsqueeze(1), 0)
    if not return_final_states:
        return y
    return y, states if final_states_out is None else final_states_out.copy_(states)


@torch.no_grad()
def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """The convolution of the next inputs, with a state that is updated in place. It has no gradient.

    It neither waits for the device nor makes tensors of a size that depends on data, so a CUDA graph can hold it.

    Args:
        x: the next input, (batch, channels), or several, (batch, channels, length).
        conv_state: the last inputs, newest last, (batch, channels, state_len) with state_len >= width - 1, overwritten.
        weight: (channels, width), oldest input first.
        bias: (channels,).
        activation: None, "silu" or "swish", which is the same.
        cache_seqlens: integers (batch,), how many inputs came before. conv_state is then a ring: input number i lies in
            column i % state_len, and nothing else moves.
        conv_state_indices: integers (batch,): the row of conv_state for each row of x, no row twice; a negative one is
            padding: no state changes and the output is 0.

    Returns:
        y of x's shape and dtype.
    """
    if x.ndim == 2:
        return causal_conv1d_update(
            x.unsqueeze(-1), conv_state, weight, bias, activation, cache_seqlens, conv_state_indices
        ).squeeze(-1)
    past = weight.shape[-1] - 1
    if (
        x.ndim != 3
        or conv_state.ndim != 3
        or conv_state.shape[1] != x.shape[1]
        or conv_state.shape[2] < past
        or (conv_state_indices is None and len(conv_state) != len(x))
    ):
        raise ShapeError(
            f"causal_conv1d_update: x has shape {tuple(x.shape)} and conv_state {tuple(conv_state.shape)}; expected "
            f"(batch, channels) or (batch, channels, length), and (batch, channels, {past} or more)"
        )
    if x.numel() == 0:
        return x.new_empty(x.shape)
    (_, channels, length), columns = x.shape, conv_state.shape[2]
    rows = conv_state if conv_state_indices is None else conv_state[conv_state_indices.clamp(min=0)]
    new = x.to(rows.dtype)
    if cache_seqlens is None:
        before = rows[..., columns - past :]
        after = torch.cat([rows, new], dim=-1)[..., length:]
    else:

        def columns_of(first: int, last: int) -> Tensor:
            """Where inputs first ... last - 1 lie, counted from the first of x."""
            numbers = cache_seqlens.long()[:, None, None] + torch.arange(first, last, device=x.device)
            return numbers.remainder(columns).expand(-1, channels, -1)

        kept = min(length, columns)
        before = rows.gather(2, columns_of(-past, 0))
        after = rows.scatter(2, columns_of(length - kept, length), new[..., length - kept :])
    y = causal_conv1d_fn(x, weight, bias, initial_states=before, activation=activation)
    if conv_state_indices is None:
        conv_state.copy_(after)
        return y
    _write_rows(conv_state, conv_state_indices, after)
    return y.masked_fill((conv_state_indices < 0)[:, None, None], 0)


def _write_rows(states: Tensor, indices: Tensor, rows: Tensor) -> None:
    """states[indices] = rows, but for negative indices."""
    # All rows are written, for which ones are padding is known on the device only: a row of padding repeats an active
    # row, to the same place, and without any active row what is there already.
    source = torch.where(indices >= 0, torch.arange(len(indices), device=indices.device), indices.argmax())
    target = indices[source].clamp(min=0)
    states[target] = torch.where((indices[source] >= 0)[:, None, None], rows[source], states[target])


# ---------------------------------------------------------------------------------------------------------- the norms


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    *,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Add x to the residual and normalise by the root mean square; see `ops.rms_norm`.

    Of the official arguments it lacks x1, weight1, bias1, dropout_p, rowscale and return_dropout_mask.

    Args:
        x: (..., d_model).
        weight: (d_model,).
        bias: (d_model,), added to the result.
        residual: of x's shape; the sum keeps its dtype.
        eps: added to the mean square.
        prenorm: also return the sum.
        residual_in_fp32: without a residual, the sum is float32 rather than of x's dtype.

    Returns:
        y of x's shape and dtype, or (y, residual + x).
    """
    y, total = ops.rms_norm(
        x,
        weight,
        epsilon=eps,
        residual=residual,
        residual_dtype=torch.float32 if residual is None and residual_in_fp32 else None,
    )
    if bias is not None:
        y = (y + bias).to(x.dtype)
    return (y, total) if prenorm else y


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    *,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `rms_norm_fn` with the mean taken off first, unless `is_rms_norm`."""
    if is_rms_norm:
        return rms_norm_fn(x, weight, bias, residual, eps=eps, prenorm=prenorm, residual_in_fp32=residual_in_fp32)
    total = x.float() if residual_in_fp32 else x
    if residual is not None:
        total = residual + x.to(residual.dtype)
    wide = torch.promote_types(total.dtype, torch.float32)
    bias = None if bias is None else bias.to(wide)
    y = F.layer_norm(total.to(wide), weight.shape, weight.to(wide), bias, eps).to(x.dtype)
    return (y, total) if prenorm else y


# ----------------------------------------------------------------------------------------------------------- the block


@dataclass
class InferenceParams:
    """What the layers of a model keep between calls; the caller adds the tokens of each call to `seqlen_offset`."""

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0  # tokens read so far
    key_value_memory_dict: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by layer_idx

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        """Start a new text with the same memory."""
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0


class Mamba(MambaBlock):
    """mamba_ssm's block: its constructor, its state_dict and its calls, as a `MambaBlock`.

    Args:
        d_model: width of the input and the output.
        d_state: numbers of memory per channel.
        d_conv: taps of the convolution.
        expand: the block is expand * d_model channels wide.
        dt_rank: rank of the projection that makes Delta; "auto" is ceil(d_model / 16).
        dt_min: smallest initial step size.
        dt_max: largest initial step size.
        dt_init: "random" or "constant", the initial weights of dt_proj.
        dt_scale: their scale.
        dt_init_floor: initial step sizes below this are raised to it.
        conv_bias: bias in the convolution.
        bias: bias in in_proj and out_proj.
        use_fast_path: no effect: there is one path.
        layer_idx: the layer's key in `InferenceParams`; needed to decode with them.
        device: where the parameters are.
        dtype: of the parameters; A_log and D stay float32.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = MambaConfig(
            d_model=d_model,
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            dt_rank=dt_rank,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_init=dt_init,
            dt_scale=dt_scale,
            dt_init_floor=dt_init_floor,
            conv_bias=conv_bias,
            in_out_proj_bias=bias,
            rescale_prenorm_residual=False,  # a matter of the model around it
        )
        super().__init__(config)
        self.d_model, self.d_conv, self.expand, self.layer_idx = d_model, d_conv, expand, layer_idx
        self.to(device=device)
        for module in self.children():  # A_log and D are not in a child
            module.to(dtype=dtype)

    def forward(self, hidden_states: Tensor, inference_params: InferenceParams | None = None) -> Tensor:
        """Mix information along time.

        Args:
            hidden_states: (batch, length, d_model).
            inference_params: an `InferenceParams`, or mamba_ssm's. The block then keeps its state in it, and goes on
                from there when seqlen_offset is above 0, by one token or by several.

        Returns:
            of hidden_states' shape and dtype.
        """
        if inference_params is None:
            y, _ = super().forward(hidden_states)
            return y
        conv_state, ssm_state = self._states(inference_params, len(hidden_states))
        state = None
        if inference_params.seqlen_offset > 0:
            if hidden_states.shape[1] == 1:
                y, _, _ = self.step(hidden_states, conv_state, ssm_state)
                return y
            state = BlockState(conv_state[..., 1:].transpose(1, 2), ssm_state)
        y, state = super().forward(hidden_states, state)
        # The official state has a column more than the convolution needs: the oldest, which nothing reads.
        conv_state.copy_(F.pad(state.conv.detach().transpose(1, 2), (1, 0)))
        ssm_state.copy_(state.ssm.detach())
        return y

    @torch.no_grad()
    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token: (batch, 1, d_model) to (the same, conv_state, ssm_state), both updated in place; no gradient."""
        if hidden_states.shape[1] != 1:
            raise ShapeError(
                f"Mamba.step: hidden_states is {hidden_states.shape[1]} tokens long; expected 1: give more to forward()"
            )
        x, z = self.in_proj(hidden_states.squeeze(1)).chunk(2, dim=-1)  # each (batch, d_inner)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight.squeeze(1), self.conv1d.bias, "silu")
        delta, B, C = (t.squeeze(1) for t in self.selection(x.unsqueeze(1)))
        y = selective_state_update(
            ssm_state, x, delta, self.A, B, C, self.D, z, dt_bias=self.dt_proj.bias, dt_softplus=True
        )
        return self.out_proj(y).unsqueeze(1), conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """(conv_state, ssm_state) for `step`, zeros: (batch_size, d_inner, d_conv) and (batch_size, d_inner, d_state).

        The first has `dtype` or the weights' dtype. The second is float32: the official one has `dtype` too, but what
        decays slowly changes by less than bfloat16 can hold. Their size does not depend on max_seqlen.
        """
        weight = self.conv1d.weight
        return (
            torch.zeros(batch_size, self.d_inner, self.d_conv, device=weight.device, dtype=dtype or weight.dtype),
            torch.zeros(batch_size, self.d_inner, self.d_state, device=weight.device, dtype=torch.float32),
        )

    def _states(self, inference_params: InferenceParams, batch_size: int) -> tuple[Tensor, Tensor]:
        """This layer's states in `inference_params`, made there at the first call."""
        if self.layer_idx is None:
            raise ConfigError("Mamba: layer_idx is None; inference_params needs it as a key, as in Mamba(layer_idx=0)")
        memory = inference_params.key_value_memory_dict
        if self.layer_idx not in memory:
            memory[self.layer_idx] = self.allocate_inference_cache(batch_size, inference_params.max_seqlen)
        conv_state, ssm_state = memory[self.layer_idx]
        if len(conv_state) != batch_size:
            raise ShapeError(
                f"Mamba: hidden_states has a batch of {batch_size} and inference_params holds states for "
                f"{len(conv_state)}; start with new InferenceParams"
            )
        return conv_state, ssm_state
