r"""What a Mamba computes while it reads a text: step sizes, decays, states, and the attention that is hidden in them.

    recording = record(model, "It was a dark night", tokenizer)
    layer = recording.layers[0]
    layer.delta                      # (length, d_inner): how far each token moves each channel
    layer.channel(3).states          # (length, d_state)
    layer.channel(3).attention()     # (length, length): M with y = M u + D u

A selective SSM is linear in its input, y = M u + D u, once the tokens have set Delta, B and C. So each channel has a
matrix that says how much of each earlier token its output takes, as an attention matrix does (Ali, Zimerman and Wolf,
"The Hidden Attention of Mamba Models", arXiv 2403.01590, eq. 7 to 11):

    M_ts = C_t (A-bar_t ... A-bar_{s+1}) B-bar_s,    A-bar = exp(Delta A),    B-bar = Delta B

A recording holds three numbers per token and channel. What is d_state or length times as large is computed when it is
asked for, and of one channel at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from baby_mamba.data import Tokenizer
from baby_mamba.errors import ConfigError, DataError, ShapeError
from baby_mamba.layers import MambaBlock
from baby_mamba.models import Transformer
from baby_mamba.ops.selective_scan.reference import prepare
from baby_mamba.theory import AffineMaps, chunked_scan, mixing_matrix

TextOrIds = str | Sequence[int] | Int[np.ndarray, "..."] | Int[Tensor, "..."]

_CHANNELS_AT_ONCE = 64  # in mean_attention, which holds length * channels * d_state numbers


@dataclass(frozen=True, eq=False)
class ChannelRecord:
    """One channel of a layer: a number in, a number out, and d_state numbers of memory in between.

    Attributes:
        u: its input, (length,).
        delta: the step sizes, after the softplus, (length,).
        A: (d_state,), negative.
        B: how the input enters, (length, d_state).
        C: how the state is read, (length, d_state).
        D: the skip connection, a scalar.
    """

    u: Float[Tensor, " length"]
    delta: Float[Tensor, " length"]
    A: Float[Tensor, " d_state"]
    B: Float[Tensor, "length d_state"]
    C: Float[Tensor, "length d_state"]
    D: Float[Tensor, ""]

    @property
    def A_bar(self) -> Float[Tensor, "length d_state"]:
        """exp(Delta A), in (0, 1): what each step leaves of the state."""
        return torch.exp(self.delta[:, None] * self.A)

    @property
    def B_bar(self) -> Float[Tensor, "length d_state"]:
        """Delta B, as the released code discretises: what each step takes in of its input."""
        return self.delta[:, None] * self.B

    @cached_property
    def states(self) -> Float[Tensor, "length d_state"]:
        """h_t = A-bar_t h_{t-1} + B-bar_t u_t after every step, from a state of zero."""
        steps = AffineMaps(self.A_bar, self.B_bar * self.u[:, None])
        return chunked_scan(steps, chunk=64).b

    def attention(self) -> Float[Tensor, "length length"]:
        """The implicit attention matrix M, M[t, s] being the weight of token s in the output at t; 0 for s > t."""
        return mixing_matrix(self.A_bar, self.B_bar, self.C)


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """What a layer computed, on the CPU, in float32, or in float64 if the model is.

    Attributes:
        u: input of the scan, (length, d_inner): the output of the convolution.
        gate: (length, d_inner); the output of the scan is multiplied by silu(gate).
        delta: the step sizes, after bias and softplus, (length, d_inner).
        A: (d_inner, d_state), negative.
        B: (length, 1, d_state), the same for all channels; (length, d_inner, d_state) if it is a learnt constant.
        C: a shape as B's, chosen independently of it.
        D: (d_inner,).
    """

    u: Float[Tensor, "length d_inner"]
    gate: Float[Tensor, "length d_inner"]
    delta: Float[Tensor, "length d_inner"]
    A: Float[Tensor, "d_inner d_state"]
    B: Float[Tensor, "length groups_of_B d_state"]
    C: Float[Tensor, "length groups_of_C d_state"]
    D: Float[Tensor, " d_inner"]

    def channel(self, index: int) -> ChannelRecord:
        """One of the d_inner channels.

        Raises:
            ConfigError: there is no such channel.
        """
        d_inner = self.u.shape[1]
        if not 0 <= index < d_inner:
            raise ConfigError(f"channel {index} is asked for; expected 0 to {d_inner - 1}, since d_inner is {d_inner}")
        B, C = (M[:, index if M.shape[1] > 1 else 0] for M in (self.B, self.C))
        return ChannelRecord(self.u[:, index], self.delta[:, index], self.A[index], B, C, self.D[index])

    def mean_attention(self) -> Float[Tensor, "length length"]:
        """The mean of |M| over all channels; the sizes, since channels of opposite sign would cancel.

        Takes time in proportion to length^2 * d_inner * d_state.
        """
        length, d_inner = self.u.shape
        total = self.u.new_zeros(length, length)
        for first in range(0, d_inner, _CHANNELS_AT_ONCE):
            part = slice(first, first + _CHANNELS_AT_ONCE)
            B, C = (M[:, part] if M.shape[1] > 1 else M for M in (self.B, self.C))
            delta, A = self.delta[:, part], self.A[part]
            left = self.u.new_zeros(length, *A.shape)  # what the state holds of each earlier token's input
            for t in range(length):
                left[:t] *= torch.exp(delta[t, :, None] * A)
                left[t] = delta[t, :, None] * B[t]
                weights = torch.einsum("scn,cn->sc", left[: t + 1], C[t].expand_as(A))
                total[t, : t + 1] += weights.abs().sum(1)
        return total / d_inner

    def time_scales(self) -> Float[Tensor, "d_inner d_state"]:
        """-1 / (mean Delta * A): after how many tokens of this text 1/e, 37 %, of an input is left in each state."""
        return -1 / (self.delta.mean(0)[:, None] * self.A)

    def relative_delta(self) -> Float[Tensor, "length d_inner"]:
        """How many times its channel's usual step size a token gets: above 1 it is taken in, below 1 passed over.

        Channels differ a lot in what is usual, which is the geometric mean over the text.
        """
        log = self.delta.clamp(min=torch.finfo(self.delta.dtype).tiny).log()
        return (log - log.mean(0)).exp()

    def most_selective(self, count: int) -> list[int]:
        """The channels whose step size changes most from token to token, by the standard deviation of log Delta."""
        spread = self.relative_delta().log().std(0, correction=0)
        return spread.argsort(descending=True, stable=True)[:count].tolist()


@dataclass(frozen=True, eq=False)
class Recording:
    """What `record` returns.

    Attributes:
        tokens: each token as text; its number where no tokenizer was given.
        input_ids: (length,).
        layers: by their number, which starts at 0.
    """

    tokens: tuple[str, ...]
    input_ids: Int[Tensor, " length"]
    layers: dict[int, LayerRecord]


@torch.no_grad()
def record(
    model: nn.Module, text: TextOrIds, tokenizer: Tokenizer | None = None, *, layers: Iterable[int] | None = None
) -> Recording:
    """Let a model read a text, and keep what each layer computes on the way. The model is left as it was.

    Args:
        model: a `Mamba` or `MambaBackbone`, of any dtype and on any device.
        text: a text, or token ids, (length,) or (1, length).
        tokenizer: the one that the model was trained with; needed if a text is given.
        layers: which ones to keep; None keeps all, at 12 bytes for each token, layer and channel.

    Raises:
        ConfigError: the model is no Mamba, or has no such layer.
        DataError: the text is empty, or there is no tokenizer to read it with.
        ShapeError: there is more than one row of ids.
    """
    backbone = getattr(model, "backbone", model)
    blocks = dict(enumerate(layer.mixer for layer in getattr(backbone, "layers", ())))
    if not blocks or not all(isinstance(block, MambaBlock) for block in blocks.values()):
        raise ConfigError(f"{type(model).__name__} cannot be recorded; expected a Mamba or a MambaBackbone")
    wanted = sorted(blocks if layers is None else set(layers))
    for number in wanted:
        if number not in blocks:
            raise ConfigError(f"layer {number} is asked for; expected 0 to {len(blocks) - 1}, as this model has")
    input_ids, tokens = _read(text, tokenizer)

    records: dict[int, LayerRecord] = {}
    number_of = {blocks[number].in_proj: number for number in wanted}

    def keep(in_proj: nn.Module, arguments: tuple[Any, ...], projected: Tensor) -> None:
        records[number_of[in_proj]] = _layer_record(blocks[number_of[in_proj]], projected)

    hooks = [in_proj.register_forward_hook(keep) for in_proj in number_of]
    try:
        backbone(input_ids[None].to(next(backbone.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return Recording(tokens, input_ids, records)


def _layer_record(block: MambaBlock, projected: Tensor) -> LayerRecord:
    """Compute with a block's own parts what its scan reads, from what in_proj returns, (1, length, 2 d_inner)."""
    u, gate = projected.chunk(2, dim=-1)
    u, _ = block.conv1d(u)
    delta, B, C = block.selection(u)
    tensors = (u, delta, block.A, B, C, block.delta_bias)
    scan = prepare(*(tensor.detach().cpu() for tensor in tensors), True, None, None)
    gate, D = (tensor.detach().cpu().to(scan.u.dtype) for tensor in (gate, block.D))
    return LayerRecord(scan.u[0], gate[0], scan.delta[0], scan.A, scan.B[0], scan.C[0], D)


@torch.no_grad()
def record_attention(
    model: Transformer, text: TextOrIds, tokenizer: Tokenizer | None = None
) -> Float[Tensor, "n_layer heads length length"]:
    """The attention weights of a Transformer on a text, to be set beside a Mamba's; each row sums to 1.

    Args:
        model: left as it was.
        text: a text, or token ids, (length,) or (1, length).
        tokenizer: the one that the model was trained with; needed if a text is given.

    Raises:
        ConfigError: it does not compute its attention in a way that shows the weights.
        DataError: the text is empty, or there is no tokenizer to read it with.
        ShapeError: there is more than one row of ids, or more tokens than positions.
    """
    input_ids, _ = _read(text, tokenizer)
    if model.max_length is not None and len(input_ids) > model.max_length:
        raise ShapeError(f"the text has {len(input_ids)} tokens; expected at most {model.max_length}, so shorten it")
    inner = model.model
    before = inner.config._attn_implementation
    inner.set_attn_implementation("eager")  # fused attention never holds the weights
    try:
        output = inner(input_ids[None].to(inner.device), use_cache=False, output_attentions=True)
    finally:
        inner.set_attn_implementation(before)
    if not output.attentions:
        raise ConfigError(
            f"model_config.architecture = {model.config.architecture} does not return its attention; expected one that "
            "does, such as llama or gpt2"
        )
    return torch.cat(output.attentions).float().cpu()


def _read(text: TextOrIds, tokenizer: Tokenizer | None) -> tuple[Tensor, tuple[str, ...]]:
    """Token ids, (length,), and each as text."""
    if isinstance(text, str):
        if tokenizer is None:
            raise DataError("a text is given, but no tokenizer; give the one that the model was trained with, or ids")
        text = tokenizer.encode(text)
    input_ids = torch.as_tensor(text, dtype=torch.long).cpu()
    if input_ids.ndim == 2 and len(input_ids) == 1:
        input_ids = input_ids[0]
    if input_ids.ndim != 1:
        raise ShapeError(f"the token ids are {tuple(input_ids.shape)}; expected one text, (length,) or (1, length)")
    if not len(input_ids):
        raise DataError("the text has no tokens; expected at least one")
    ids = input_ids.tolist()
    return input_ids, tuple(str(id) if tokenizer is None else tokenizer.decode([id]) for id in ids)
