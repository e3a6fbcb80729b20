"""Draws the loss of a run from its metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

# Okabe and Ito's palette: told apart with every kind of colour vision, and in grey by their lightness.
BLUE, VERMILLION = "#0072B2", "#D55E00"


def plot_loss(metrics_path: str | Path, png_path: str | Path) -> None:
    """Draw training loss, raw and smoothed, and held-out loss, in nats per token, against the tokens read.

    Args:
        metrics_path: the metrics.jsonl of a run folder. Rows without a train_loss or a validation_loss are passed over.
        png_path: the picture to write.

    Raises:
        OSError: the metrics cannot be read or the picture cannot be written.
    """
    # The Figure object alone, never pyplot, which keeps every figure in memory and wants to know about displays.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    rows = [json.loads(line) for line in Path(metrics_path).read_text(encoding="utf-8").splitlines()]
    train_tokens, train_loss = _series(rows, "train_loss")
    held_out_tokens, held_out_loss = _series(rows, "validation_loss")

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(train_tokens, train_loss, color=BLUE, alpha=0.25, linewidth=1, label="training, one batch")
    axes.plot(train_tokens, _smooth(train_loss), color=BLUE, linewidth=2, label="training, smoothed")
    axes.plot(held_out_tokens, held_out_loss, color=VERMILLION, marker="o", markersize=5, label="held out")
    if len(held_out_loss):
        best = int(held_out_loss.argmin())
        axes.annotate(
            f"{held_out_loss[best]:.3f}",
            (held_out_tokens[best], held_out_loss[best]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=VERMILLION,
        )
    axes.set_xlabel("tokens read")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(png_path, dpi=150)


def _series(rows: list[dict[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and values of the rows that have a value of this name."""
    points = [(row["tokens"], row[name]) for row in rows if name in row]
    tokens, values = np.array(points, dtype=float).reshape(-1, 2).T
    return tokens, values


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean over a window of a twentieth of the points around each one; shorter at the ends."""
    reach = len(values) // 40
    sums = np.concatenate([[0.0], values.cumsum()])
    index = np.arange(len(values))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
