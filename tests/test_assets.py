"""The figures say what is true: their counts and curves are compared with the library."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from baby_mamba import MambaBlock, MambaConfig
from baby_mamba.ops import selective_scan

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_figures", ASSETS / "draw_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_draws_the_figures_that_are_kept(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["draw_figures.py", "--out", str(tmp_path)])
    figures.main()
    read = figures.plt.imread
    drawn, kept = ({path.name: read(path) for path in folder.glob("*.png")} for folder in (tmp_path, ASSETS))
    assert drawn.keys() == kept.keys() == {f"{name}.png" for name in figures.FIGURES}
    for name, picture in drawn.items():
        assert picture.shape == kept[name].shape
        # Versions of matplotlib place letters differently by a pixel; a missing part would be more.
        assert abs(picture.mean() - kept[name].mean()) < 0.001
        assert picture[..., :3].std() > 0.05  # not blank


def test_memory_curve_is_the_selective_scan(figures: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(1, 50, 1, dtype=torch.float64, generator=generator)
    delta = 4 * torch.rand(1, 50, 1, dtype=torch.float64, generator=generator)
    one = torch.ones(1, 1, dtype=torch.float64)
    # delta B u is (1 - exp(-delta)) u: the library's Euler form with the B of zero-order hold.
    y = selective_scan(u, delta, -one, B=-torch.expm1(-delta) / delta, C=one, backend="reference")
    np.testing.assert_allclose(figures.selective_memory(u.flatten().numpy(), delta.flatten().numpy()), y.flatten())


def test_mamba_counts_are_those_of_the_block(figures: ModuleType) -> None:
    with torch.device("meta"):
        block = MambaBlock(MambaConfig(d_model=figures.WIDTH, n_layer=figures.MAMBA_LAYERS, d_state=figures.D_STATE))
    linear = sum(module.weight.numel() for module in block.modules() if isinstance(module, nn.Linear))
    # A token passes each weight of a matrix and of the convolution once. The scan has four products for each number
    # of state (with delta, A-bar, B-bar, C), and D and the gate one for each channel.
    by_hand = linear + block.conv1d.weight.numel() + 4 * block.A_log.numel() + 2 * block.D.numel()
    assert figures.mamba_multiply_adds(np.array([1000.0])) == 1000 * figures.MAMBA_LAYERS * by_hand


def test_growth_with_the_length(figures: ModuleType) -> None:
    length = np.array([2.0**40, 2.0**41])
    growth = {
        "quadratic": figures.transformer_multiply_adds(length),
        "linear": figures.mamba_multiply_adds(length),
        "linear too": figures.transformer_cache_bytes(length),
        "constant": figures.mamba_state_bytes(length),
    }
    ratios = {name: late / early for name, (early, late) in growth.items()}
    assert ratios == pytest.approx({"quadratic": 4, "linear": 2, "linear too": 2, "constant": 1})


def test_transformer_counts_by_brute_force(figures: ModuleType) -> None:
    length, d = 5, figures.WIDTH
    matrices = length * (4 * d * d + 2 * d * 4 * d)  # query, key, value, output; the MLP's two
    pairs = sum(t + 1 for t in range(length))  # token t looks at itself and at the t before it
    expected = figures.ATTENTION_LAYERS * (matrices + pairs * 2 * d)  # a score and a share of the sum per pair
    assert figures.transformer_multiply_adds(np.array([length])) == expected
