"""Pictures, drawn without a display: `plots` draws the loss of a run, `comparison` that of two, and their speeds."""

from baby_mamba.visualize.comparison import plot_comparison
from baby_mamba.visualize.plots import plot_loss

__all__ = ["plot_comparison", "plot_loss"]
