"""Pictures, drawn without a display: `plots` draws the loss of a run."""

from baby_mamba.visualize.plots import plot_loss

__all__ = ["plot_loss"]
