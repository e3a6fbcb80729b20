import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from baby_mamba.visualize import plot_loss
from baby_mamba.visualize.plots import _smooth


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows: list[dict[str, float]] = []
    for step in range(10, 1001, 10):
        loss = 1.5 + 2 * np.exp(-step / 200)
        rows.append({"step": step, "tokens": step * 4096, "train_loss": loss + rng.normal(0, 0.05)})
        if step % 200 == 0:
            rows.append({"step": step, "tokens": step * 4096, "validation_loss": loss + 0.1 + (step == 1000)})
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of every figure that is saved."""
    saved: list[Axes] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        saved.extend(figure.axes)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def test_writes_a_picture(metrics: Path, tmp_path: Path) -> None:
    plot_loss(metrics, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_draws_the_numbers_of_the_run(metrics: Path, tmp_path: Path, axes: list[Axes]) -> None:
    plot_loss(metrics, tmp_path / "loss.png")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    (drawn,) = axes
    raw, smoothed, held_out = drawn.lines
    for line, key in ((raw, "train_loss"), (held_out, "validation_loss")):
        points = [(row["tokens"], row[key]) for row in rows if key in row]
        np.testing.assert_allclose(line.get_xydata(), points)
    assert np.diff(smoothed.get_ydata()).std() < 0.5 * np.diff(raw.get_ydata()).std()
    assert drawn.get_xlabel() == "tokens read"
    assert drawn.get_ylabel() == "loss (nats per token)"
    assert len(drawn.get_legend().get_texts()) == 3
    (label,) = drawn.texts  # the lowest held-out loss, which is not the last one
    assert label.get_text() == f"{min(held_out.get_ydata()):.3f}"
    assert label.xy[0] == 800 * 4096


@pytest.mark.parametrize("rows", [[], [{"step": 1, "tokens": 9, "train_loss": 2.0}]])
def test_runs_that_have_hardly_begun(rows: list[dict], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot_loss(path, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 0


def test_smoothing_is_a_mean_over_neighbours() -> None:
    values = np.random.default_rng(0).normal(size=100)
    expected = [values[max(0, n - 2) : n + 3].mean() for n in range(100)]
    np.testing.assert_allclose(_smooth(values), expected)
    np.testing.assert_allclose(_smooth(values[:7]), values[:7])


def test_no_global_state(metrics: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from baby_mamba.visualize import plot_loss
assert "matplotlib" not in sys.modules
plot_loss({str(metrics)!r}, {str(tmp_path / "loss.png")!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
