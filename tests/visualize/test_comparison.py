from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from baby_mamba.visualize import plot_comparison


def results() -> dict[str, Any]:
    losses = {"Mamba": [3.0, 2.0, 1.5], "Transformer": [3.2, 2.5, 1.4]}
    return {
        "models": dict.fromkeys(losses),
        "training": {
            name: {
                "curve": [
                    {"tokens": 1000 * n, "seconds": 2.5 * n, "held_out_loss": y} for n, y in enumerate(ys, start=1)
                ]
            }
            for name, ys in losses.items()
        },
        "training_steps": [
            {
                "length": length,
                "Mamba": {"tokens_per_second": 2e4, "peak_bytes": None},
                "Transformer": {"tokens_per_second": 2e6 / length, "peak_bytes": 1e8 + length}
                if length < 999
                else None,
            }
            for length in (64, 256, 1024)
        ],
        "decoding": [
            {
                "context": context,
                "Mamba": {"tokens_per_second": 500.0, "state_bytes": 70000},
                "Transformer": {"tokens_per_second": 400.0, "state_bytes": 2000 * context},
            }
            for context in (64, 256)
        ],
    }


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Axes]]:
    """The panels of each picture."""
    saved: dict[str, list[Axes]] = {}
    save = Figure.savefig

    def keep(figure: Figure, path: Path, **kwargs: Any) -> None:
        saved[path.name] = figure.axes
        save(figure, path, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    plot_comparison(results(), tmp_path)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in saved)
    return saved


def points(panel: Axes) -> dict[str, list[list[float]]]:
    return {line.get_label(): line.get_xydata().tolist() for line in panel.lines}


def test_draws_the_numbers_of_the_results(axes: dict[str, list[Axes]]) -> None:
    assert list(axes) == ["loss.png", "training.png", "decoding.png"]
    by_tokens, by_seconds = axes["loss.png"]
    assert points(by_tokens)["Transformer"] == [[1000, 3.2], [2000, 2.5], [3000, 1.4]]
    assert points(by_seconds)["Mamba"] == [[2.5, 3.0], [5, 2.0], [7.5, 1.5]]
    speed, memory = axes["training.png"]
    assert points(speed)["Mamba"] == [[64, 2e4], [256, 2e4], [1024, 2e4]]
    assert points(memory) == {"Transformer": [[64, 1e8 + 64], [256, 1e8 + 256]]}  # what was not measured is left out
    speed, size = axes["decoding.png"]
    assert points(speed)["Transformer"] == [[64, 400], [256, 400]]
    assert points(size) == {"Mamba": [[64, 70000], [256, 70000]], "Transformer": [[64, 128000], [256, 512000]]}


def test_small_differences_look_small(axes: dict[str, list[Axes]]) -> None:
    for panel in axes["training.png"] + axes["decoding.png"]:
        low, high = panel.get_ylim()
        values = np.concatenate([line.get_ydata() for line in panel.lines])
        assert panel.get_yscale() == "log"
        assert high / low >= 9.99
        assert low < values.min() <= values.max() < high


def test_both_are_told_apart(axes: dict[str, list[Axes]]) -> None:
    for panel in axes["loss.png"]:
        assert [text.get_text() for text in panel.get_legend().get_texts()] == ["Mamba", "Transformer"]
        assert len({(line.get_color(), line.get_marker()) for line in panel.lines}) == 2
        assert panel.get_xlabel()
        assert panel.get_ylabel() == "held-out loss (nats per token)"
