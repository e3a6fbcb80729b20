from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from baby_mamba.visualize import (
    LayerRecord,
    Recording,
    plot_attention,
    plot_delta,
    plot_selection,
    plot_time_scales,
)
from baby_mamba.visualize.plots import BLUE, VERMILLION

TOKENS = ("a", " ", "$x$", "\n", "b")


def recording(length: int = 5, d_inner: int = 6) -> Recording:
    generator = torch.Generator().manual_seed(0)

    def layer() -> LayerRecord:
        u, gate, delta = torch.rand(3, length, d_inner, generator=generator)
        B, C = torch.randn(2, length, 1, 2, generator=generator)
        A = -torch.arange(1.0, 3).expand(d_inner, 2)
        return LayerRecord(u, gate, delta + 0.01, A, B, C, torch.ones(d_inner))

    tokens = (TOKENS * length)[:length]
    return Recording(tokens, torch.zeros(length, dtype=torch.long), {0: layer(), 3: layer()})


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(6, 3), layout="constrained").add_subplot()


def drawn(axes: Axes, tmp_path: Path) -> Axes:
    """Draw it indeed, since some errors show only then."""
    axes.figure.savefig(tmp_path / "picture.png", dpi=50)
    return axes


def labels(axis: object) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("channel", [None, 4])
def test_delta(channel: int | None, axes: Axes, tmp_path: Path) -> None:
    shown = recording()
    plot_delta(shown, axes, layer=3, channel=channel)
    delta = shown.layers[3].delta
    delta = delta.mean(1) if channel is None else delta[:, 4]
    bars = drawn(axes, tmp_path).patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], delta)
    usual = delta.log().mean().exp()
    assert axes.lines[0].get_ydata()[0] == pytest.approx(usual.item())
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [VERMILLION if d > usual else BLUE for d in delta]
    assert labels(axes.xaxis) == ["a", "␣", "$x$", "↵", "b"]
    assert axes.get_ylabel() == r"step size $\Delta$"
    assert axes.get_title() == "layer 3, " + ("mean over channels" if channel is None else "channel 4")


def test_a_long_text_is_numbered(axes: Axes, tmp_path: Path) -> None:
    plot_delta(recording(length=121), axes, layer=0)
    assert drawn(axes, tmp_path).get_xlabel() == "position in the text (tokens)"
    assert "␣" not in labels(axes.xaxis)


@pytest.mark.parametrize(("channels", "rows"), [(2, None), ([5, 1, 0], [5, 1, 0])])
def test_selection(channels: object, rows: list[int] | None, axes: Axes, tmp_path: Path) -> None:
    shown = recording()
    plot_selection(shown, axes, 0, channels)
    layer = shown.layers[0]
    rows = rows or layer.most_selective(2)
    (image,) = drawn(axes, tmp_path).images
    np.testing.assert_allclose(image.get_array(), layer.relative_delta()[:, rows].T)
    assert labels(axes.yaxis) == list(map(str, rows))
    assert image.norm(1) == pytest.approx(0.5), "what is usual has the neutral colour"
    bar = axes.figure.axes[1]
    assert bar.get_ylabel().startswith(r"$\Delta$, in units of")
    assert labels(bar.yaxis)[2] == "1"


def test_time_scales(axes: Axes, tmp_path: Path) -> None:
    shown = recording()
    plot_time_scales(shown, axes)
    dots = [line for line in drawn(axes, tmp_path).lines if line.get_marker() == "o"]
    for row, (dot, layer) in enumerate(zip(dots, shown.layers.values(), strict=True)):
        median = layer.time_scales().log10().flatten().quantile(0.5)
        np.testing.assert_allclose(dot.get_xydata(), [[median, row]], rtol=1e-5)
    assert labels(axes.yaxis) == ["layer 0", "layer 3"]
    assert axes.xaxis.get_major_formatter()(2, None) == "100", "the axis holds powers of ten"
    assert "tokens" in axes.get_xlabel()
    assert any(text.get_text() == "this text: 5" for text in axes.texts)


def test_attention(axes: Axes, tmp_path: Path) -> None:
    weights = torch.rand(5, 5).tril()
    plot_attention(weights, TOKENS, axes)
    (image,) = drawn(axes, tmp_path).images
    shares = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_allclose(np.nansum(shares, 1), np.ones(5), rtol=1e-6)
    np.testing.assert_allclose(shares[3, :4], (weights[3] / weights[3].sum())[:4], rtol=1e-6)
    assert np.isnan(shares[np.triu_indices(5, 1)]).all(), "what comes later is not read, which is not a share of zero"
    assert labels(axes.xaxis) == labels(axes.yaxis) == ["a", "␣", "$x$", "↵", "b"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("what is read", "by which token")
    assert labels(axes.figure.axes[1].yaxis)[-1] == "40 %"
