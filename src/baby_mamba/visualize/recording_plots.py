"""Draws what `record` keeps: step sizes along a text, what is taken in, how long it is remembered, what is read.

Each function draws into the axes that it is given, so that a figure can be put together from several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baby_mamba.visualize.plots import BLUE, VERMILLION
from baby_mamba.visualize.record import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELLED = 120  # tokens up to which each one is written at its place on the axis
_TOKEN_STYLE = {"fontsize": 7, "family": "monospace", "parse_math": False}
_SHARES = {0: "0", 0.01: "1 %", 0.05: "5 %", 0.1: "10 %", 0.2: "20 %", 0.4: "40 %"}


def plot_delta(recording: Recording, axes: Axes, layer: int, channel: int | None = None) -> None:
    """Draw the step size Delta of each token as a bar.

    Args:
        recording: from `record`.
        axes: where to.
        layer: one that was recorded.
        channel: None draws the mean over channels.
    """
    delta = recording.layers[layer].delta
    delta = delta.mean(1) if channel is None else delta[:, channel]
    usual = delta.log().mean().exp().item()
    larger = delta > usual
    axes.bar(
        range(len(delta)), delta.numpy(), width=0.8, color=[VERMILLION if is_larger else BLUE for is_larger in larger]
    )
    axes.axhline(usual, color="0.35", linewidth=0.8, linestyle="--")
    axes.text(1.005, usual, "usual", transform=axes.get_yaxis_transform(), va="center", color="0.35", fontsize=9)
    axes.set_ylabel(r"step size $\Delta$")
    axes.set_title(f"layer {layer}, " + ("mean over channels" if channel is None else f"channel {channel}"))
    axes.set_xlim(-0.7, len(delta) - 0.3)
    _label_tokens(axes, recording.tokens)


def plot_selection(recording: Recording, axes: Axes, layer: int, channels: Sequence[int] | int = 16) -> None:
    """Draw which tokens are taken in and which are passed over, as a map of channels and tokens.

    Args:
        recording: from `record`.
        axes: where to.
        layer: one that was recorded.
        channels: which ones, or how many of those that select most.
    """
    from matplotlib.colors import LogNorm

    record = recording.layers[layer]
    channels = record.most_selective(channels) if isinstance(channels, int) else list(channels)
    relative = record.relative_delta()[:, channels].T
    octaves = max(2, math.ceil(relative.log2().abs().quantile(0.95).item() / 2) * 2)  # even, for the ticks
    image = axes.imshow(relative.numpy(), aspect="auto", cmap="PuOr_r", norm=LogNorm(2**-octaves, 2**octaves))
    bar = axes.figure.colorbar(image, ax=axes, extend="both", pad=0.01)
    ticks = [-octaves, -octaves // 2, 0, octaves // 2, octaves]
    bar.set_ticks([2.0**k for k in ticks], labels=[f"{2**k}" if k >= 0 else f"1/{2**-k}" for k in ticks])
    bar.minorticks_off()
    bar.set_label(r"$\Delta$, in units of what is" + "\nusual in its channel")
    axes.set_yticks(range(len(channels)), channels, fontsize=7 if len(channels) > 12 else None)
    axes.set_ylabel("channel")
    axes.set_title(f"layer {layer}: what is taken in (orange) and passed over (violet)")
    _label_tokens(axes, recording.tokens)


def plot_time_scales(recording: Recording, axes: Axes) -> None:
    """Draw how long each layer remembers: how -1 / (Delta A) is distributed over its channels and states.

    A dot marks the median, the line about it nine tenths of all.
    """
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    scales = [record.time_scales().double().flatten().log10() for record in recording.layers.values()]
    rows = range(len(scales))
    parts = axes.violinplot(
        [scale.numpy() for scale in scales], rows, orientation="horizontal", widths=0.85, showextrema=False
    )
    for body in parts["bodies"]:
        body.set(facecolor=BLUE, alpha=0.35, edgecolor="none")
    for row, scale in zip(rows, scales, strict=True):
        low, median, high = scale.quantile(scale.new_tensor([0.05, 0.5, 0.95])).tolist()
        axes.plot((low, high), (row, row), color=BLUE, linewidth=2)
        axes.plot(median, row, "o", color=BLUE, markersize=6)
        axes.annotate(_number(10**median), (median, row), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    length = len(recording.tokens)
    axes.axvline(math.log10(length), color="0.35", linewidth=0.8, linestyle="--")
    axes.text(
        math.log10(length),
        1.01,
        f"this text: {length:,}",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="bottom",
        color="0.35",
        fontsize=9,
    )
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda exponent, _: _number(10**exponent)))
    axes.set_yticks(rows, [f"layer {number}" for number in recording.layers])
    axes.set_ylim(len(scales) - 0.4, -0.6)
    axes.set_xlabel("tokens after which 37 % (1/e) of an input is left")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def plot_attention(weights: Tensor, tokens: Sequence[str], axes: Axes) -> None:
    """Draw a matrix of attention: a row for each token, that says how its attention is shared among those up to it.

    Args:
        weights: (length, length), at least 0: `LayerRecord.mean_attention()`, or of a Transformer one head or the mean
            of several. Each row is divided by its sum, so that both kinds are on one scale.
        tokens: as text.
        axes: where to.
    """
    from matplotlib.colors import PowerNorm

    shares = weights / weights.sum(1, keepdim=True)
    shares = shares.masked_fill(torch.ones_like(shares, dtype=torch.bool).triu(1), torch.nan)
    norm = PowerNorm(0.5, 0, max(_SHARES))  # the square root shows what is small
    image = axes.imshow(shares.numpy(), cmap="cividis", norm=norm, interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, extend="max", shrink=0.8, pad=0.02)
    bar.set_ticks([*_SHARES], labels=_SHARES.values())
    bar.set_label("share of the row")
    axes.set_xlabel("what is read")
    axes.set_ylabel("by which token")
    if len(tokens) <= _LABELLED // 2:
        _label_tokens(axes, tokens)
        axes.set_yticks(range(len(tokens)), map(visible, tokens), **_TOKEN_STYLE)
        axes.tick_params(axis="y", length=0)


def _label_tokens(axes: Axes, tokens: Sequence[str]) -> None:
    """Write the tokens along the axis; where there is no place for them, their positions remain."""
    if len(tokens) > _LABELLED:
        axes.set_xlabel("position in the text (tokens)")
        return
    upright = max(map(len, tokens)) == 1
    labels = [visible(token) for token in tokens]
    axes.set_xticks(range(len(tokens)), labels, rotation=0 if upright else 90, **_TOKEN_STYLE)
    axes.tick_params(axis="x", length=0)


def visible(token: str) -> str:
    """A token with its blanks, tabs and line breaks as signs."""
    return token.translate({ord(" "): "␣", ord("\n"): "↵", ord("\r"): "␍", ord("\t"): "⇥"})


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
