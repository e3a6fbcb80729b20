"""Pictures, drawn without a display, and what there is to see in a model.

`plots` draws the loss of a run, `comparison` that of two, and their speeds. `record` lets a model read a text and keeps
what it computes; `recording_plots` draws that, and `page` makes a web page of it.
"""

from baby_mamba.visualize.comparison import plot_comparison
from baby_mamba.visualize.page import write_page
from baby_mamba.visualize.plots import plot_loss
from baby_mamba.visualize.record import ChannelRecord, LayerRecord, Recording, record, record_attention
from baby_mamba.visualize.recording_plots import plot_attention, plot_delta, plot_selection, plot_time_scales

__all__ = [
    "ChannelRecord",
    "LayerRecord",
    "Recording",
    "plot_attention",
    "plot_comparison",
    "plot_delta",
    "plot_loss",
    "plot_selection",
    "plot_time_scales",
    "record",
    "record_attention",
    "write_page",
]
