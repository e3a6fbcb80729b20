"""Draws the results of a comparison: loss, training and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baby_mamba.visualize.plots import BLUE, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = ({"color": BLUE, "marker": "o"}, {"color": VERMILLION, "marker": "s"})  # one for each contender

Points = Sequence[tuple[float, float]]


def plot_comparison(results: dict[str, Any], folder: str | Path) -> None:
    """Draw loss.png, training.png and decoding.png, each with two panels.

    Args:
        results: as `baby_mamba.comparison.compare` returns them.
        folder: where to.

    Raises:
        OSError: a picture cannot be written.
    """
    folder, training = Path(folder), results["training"]
    steps, decoding = results["training_steps"], results["decoding"]
    names = list(results["models"])

    def curve(name: str, axis: str) -> Points:
        return [(point[axis], point["held_out_loss"]) for point in training[name]["curve"]]

    def against(rows: list[dict[str, Any]], axis: str, key: str) -> dict[str, Points]:
        return {name: [(row[axis], row[name][key]) for row in rows if row[name] and row[name][key]] for name in names}

    loss = "held-out loss (nats per token)"
    _draw(
        folder / "loss.png",
        ({name: curve(name, "tokens") for name in names}, "tokens read", loss, "linear"),
        ({name: curve(name, "seconds") for name in names}, "seconds of training, at the median speed", loss, "linear"),
    )
    length, context = "tokens in a sequence", "tokens read before"
    _draw(
        folder / "training.png",
        (against(steps, "length", "tokens_per_second"), length, "training, tokens/s", "log"),
        (against(steps, "length", "peak_bytes"), length, "peak memory of a step, bytes", "log"),
    )
    _draw(
        folder / "decoding.png",
        (against(decoding, "context", "tokens_per_second"), context, "decoding, tokens/s", "log"),
        (against(decoding, "context", "state_bytes"), context, "state or cache, bytes", "log"),
    )


def _draw(path: Path, *panels: tuple[dict[str, Points], str, str, str]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _panel(axes, *panel)
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, lines: dict[str, Points], x: str, y: str, scale: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    for style, (name, points) in zip(_STYLES, lines.items(), strict=True):
        axes.plot(*zip(*points, strict=True), label=name, markersize=5, **style) if points else None
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if scale == "log":
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({point[0] for points in lines.values() for point in points}))
        axes.set_yscale("log")
        axes.set_ylim(*_at_least_a_decade([point[1] for points in lines.values() for point in points]))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=" ") if scale == "linear" else _thousands())
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if any(lines.values()):
        axes.legend(frameon=False)


def _at_least_a_decade(values: Sequence[float]) -> tuple[float, float]:
    """Limits around the values: on an axis that only just holds them, a few percent would look like a lot."""
    if not values:
        return 1.0, 10.0
    low, high = 0.8 * min(values), 1.25 * max(values)
    widen = max(1.0, 10 * low / high) ** 0.5
    return low / widen, high * widen


def _thousands() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:,.0f}")
