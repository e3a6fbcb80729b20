"""Draw the figures of the README: `python assets/draw_figures.py [--out FOLDER]`.

| figure           | what it shows                                                                   |
|------------------|---------------------------------------------------------------------------------|
| `ssm.png`        | the selective state space model: one step in detail, and three steps in a row    |
| `block.png`      | the Mamba block as it is built, with the shape of every tensor                   |
| `selection.png`  | what Delta does, computed with the recurrence of a single number                 |
| `complexity.png` | work and memory against length, for a Transformer and a Mamba, as counts         |

The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

BLACK, GREY, PALE = "#222222", "#6E6E6E", "#F3F3F3"
SKY, GREEN, BLUE, VERMILLION = "#56B4E9", "#009E73", "#0072B2", "#D55E00"
SELECTION = VERMILLION  # whatever is computed from the token
STATE = GREEN  # whatever is remembered
SIGNAL = BLUE  # what goes in and comes out

STYLE = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "text.color": BLACK,
    "xtick.color": GREY,
    "ytick.color": GREY,
}

# ---------------------------------------------------------------------------------------------------------------------
# Pieces of a diagram. Coordinates are inches from the lower left corner of the figure.


def diagram(width: float, height: float) -> tuple[Figure, Axes]:
    figure = plt.figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return figure, ax


def box(
    ax: Axes, x: float, y: float, text: str, *, colour: str = BLACK, w: float = 1.6, h: float = 0.5, **font
) -> None:
    """A rounded box around (x, y)."""
    shape = "round,pad=0,rounding_size=0.09"
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=shape, fc="white", ec="none", zorder=3))
    ax.add_patch(
        FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=shape, fc=colour + "1C", ec=colour, lw=1.4, zorder=3)
    )
    ax.text(x, y, text, ha="center", va="center", zorder=4, **{"color": BLACK, "linespacing": 1.35} | font)


def node(ax: Axes, x: float, y: float, symbol: str, colour: str = BLACK) -> None:
    """A small circle: one arithmetic operation."""
    ax.add_patch(Circle((x, y), 0.17, fc="white", ec=colour, lw=1.6, zorder=5))
    ax.text(x, y, symbol, ha="center", va="center", fontsize=13, color=colour, zorder=6)


def state(ax: Axes, x: float, y: float, label: str, shades: list[float]) -> None:
    """A column of cells, the numbers of a state, with a label above."""
    size = 0.26
    for i, shade in enumerate(shades):
        low = y + (len(shades) / 2 - 1 - i) * size
        ax.add_patch(Rectangle((x - size / 2, low), size, size, fc="white", ec=STATE, lw=1.4, zorder=3))
        ax.add_patch(Rectangle((x - size / 2, low), size, size, fc=STATE, alpha=shade, ec="none", zorder=4))
    ax.text(x, y + len(shades) / 2 * size + 0.2, label, ha="center", va="center", color=STATE, fontsize=13)


def arrow(
    ax: Axes, *points: tuple[float, float], colour: str = BLACK, lw: float = 1.6, head: bool = True, **line
) -> None:
    """A line through points that ends in an arrow head."""
    xs, ys = zip(*points, strict=True)
    ax.plot(xs, ys, color=colour, lw=lw, solid_capstyle="round", solid_joinstyle="round", zorder=2, **line)
    if head:
        style = {
            "arrowstyle": "-|>,head_width=0.22,head_length=0.42",
            "color": colour,
            "lw": lw,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        (x0, y0), (x1, y1) = points[-2:]
        length = np.hypot(x1 - x0, y1 - y0)
        start = (x1 - (x1 - x0) / length * 0.02, y1 - (y1 - y0) / length * 0.02)
        ax.annotate("", (x1, y1), start, arrowprops=style, zorder=2)


def note(
    ax: Axes, x: float, y: float, text: str, *, colour: str = GREY, size: float = 9.5, ha: str = "left", **font
) -> None:
    ax.text(
        x, y, text, color=colour, fontsize=size, ha=ha, va=font.pop("va", "center"), linespacing=1.4, zorder=6, **font
    )


# ---------------------------------------------------------------------------------------------------------------------
# ssm.png


def draw_ssm() -> Figure:
    figure, ax = diagram(10.6, 8.0)
    note(ax, 0.35, 7.7, "One step of one channel", colour=BLACK, size=13, weight="bold")
    for x, text, colour in (
        (4.5, "what goes in and comes out", SIGNAL),
        (6.75, "what is remembered", STATE),
        (8.45, "what the token decides", SELECTION),
    ):
        note(ax, x, 7.7, "●", colour=colour, size=11)
        note(ax, x + 0.2, 7.7, text)
    row, low = 6.3, 3.35  # heights of the state and of the input

    # What the token decides: Delta, B and C.
    box(ax, 1.25, low, "$x_t$\nall channels", colour=SIGNAL, h=0.7, w=1.5)
    box(ax, 1.25, 4.8, "selection:\nlinear maps of $x_t$,\nsoftplus for $\\Delta$", colour=SELECTION, w=1.9, h=1.1)
    arrow(ax, (1.25, low + 0.35), (1.25, 4.25), colour=SELECTION)
    box(ax, 4.1, 5.3, r"$\bar{A}_t = \exp(\Delta_t A)$", colour=SELECTION, w=1.95, fontsize=12)
    box(ax, 4.1, 4.5, r"$\bar{B}_t = \Delta_t B_t$", colour=SELECTION, w=1.95, fontsize=12)
    arrow(ax, (2.2, 5.1), (2.72, 5.1), (2.72, 5.3), (3.12, 5.3), colour=SELECTION)
    arrow(ax, (2.72, 5.1), (2.72, 4.62), (3.12, 4.62), colour=SELECTION)
    arrow(ax, (2.2, 4.38), (3.12, 4.38), colour=SELECTION)
    note(ax, 2.45, 5.28, r"$\Delta_t$", colour=SELECTION, size=12, ha="center")
    note(ax, 2.45, 4.55, "$B_t$", colour=SELECTION, size=12, ha="center")

    # The state.
    state(ax, 1.25, row, "$h_{t-1}$", [0.85, 0.5, 0.2, 0.65])
    note(ax, 0.95, row, "$N$ numbers", colour=STATE, ha="center", rotation=90)
    arrow(ax, (1.4, row), (3.93, row), colour=STATE, lw=2.4)
    node(ax, 4.1, row, "×", SELECTION)
    arrow(ax, (4.1, 5.55), (4.1, row - 0.18), colour=SELECTION)
    arrow(ax, (4.27, row), (5.83, row), colour=STATE, lw=2.4)
    node(ax, 6.0, row, "+")
    arrow(ax, (6.17, row), (7.45, row), colour=STATE, lw=2.4)
    state(ax, 7.6, row, "$h_t$", [0.6, 0.75, 0.35, 0.45])
    arrow(ax, (7.75, row), (10.2, row), colour=STATE, lw=2.4)
    note(ax, 2.67, row + 0.2, "the past", colour=STATE, ha="center")
    note(ax, 5.05, row + 0.2, "what is kept", colour=STATE, ha="center")
    note(ax, 9.0, row + 0.2, "to the next step", colour=STATE, ha="center")

    # The input.
    box(ax, 6.0, low, "$u_t$", colour=SIGNAL, w=0.7, h=0.5, fontsize=13)
    arrow(ax, (2.0, low), (5.65, low), colour=SIGNAL)
    note(ax, 3.8, low + 0.17, "one channel of it", colour=SIGNAL, ha="center")
    arrow(ax, (6.0, low + 0.25), (6.0, 4.33), colour=SIGNAL)
    node(ax, 6.0, 4.5, "×", SELECTION)
    arrow(ax, (5.08, 4.5), (5.82, 4.5), colour=SELECTION)
    arrow(ax, (6.0, 4.67), (6.0, row - 0.18), colour=SIGNAL)
    note(ax, 6.12, 5.4, "what is\ntaken in", colour=SIGNAL)

    # The output.
    arrow(ax, (7.6, row - 0.52), (7.6, 4.97), colour=STATE)
    node(ax, 7.6, 4.8, "", SELECTION)
    note(ax, 7.6, 4.8, "•", colour=SELECTION, size=13, ha="center")
    note(ax, 7.72, 5.4, "what is\nread", colour=STATE)
    arrow(ax, (1.95, 4.25), (1.95, 3.9), (5.9, 3.9), colour=SELECTION, head=False)
    arrow(ax, (6.1, 3.9), (7.6, 3.9), (7.6, 4.62), colour=SELECTION)
    note(ax, 6.9, 4.08, "$C_t$", colour=SELECTION, size=12, ha="center")
    arrow(ax, (7.77, 4.8), (8.63, 4.8), colour=SIGNAL)
    node(ax, 8.8, 4.8, "+")
    arrow(ax, (6.35, low), (8.8, low), (8.8, 4.62), colour=SIGNAL)
    note(ax, 7.6, low + 0.18, r"$\times\ D$", colour=BLACK, size=12, ha="center")
    arrow(ax, (8.97, 4.8), (9.55, 4.8), colour=SIGNAL)
    box(ax, 9.9, 4.8, "$y_t$", colour=SIGNAL, w=0.7, h=0.5, fontsize=13)
    note(ax, 10.25, low + 0.02, "$A$ and $D$ are learned\nand the same\nat every step", ha="right")

    # Three steps of it: a large Delta, a small one, one between.
    ax.plot([0.35, 10.25], [2.8, 2.8], color="#D9D9D9", lw=1)
    note(ax, 0.35, 2.52, "Three steps", colour=BLACK, size=13, weight="bold")
    note(ax, 10.25, 2.52, "the wider a line, the more passes", ha="right")
    row, low, first, width = 1.25, 0.25, 0.75, 3.0
    steps = (("t", 0.1, "large: forget, take in"), ("t+1", 0.95, "small: keep, ignore"), ("t+2", 0.5, "between: mix"))
    labels = ("$h_{t-1}$", "$h_t$", "$h_{t+1}$", "$h_{t+2}$")
    shades = ([0.15, 0.5, 0.3], [0.85, 0.3, 0.6], [0.82, 0.3, 0.58], [0.45, 0.75, 0.3])
    for i, (step, keep, meaning) in enumerate(steps):
        x = first + width * i
        gate = x + 1.45
        arrow(ax, (x + 0.18, row), (gate, row), colour=STATE, lw=1 + 6 * keep, head=False)
        arrow(ax, (gate, low + 0.22), (gate, row), colour=SIGNAL, lw=1 + 6 * (1 - keep), head=False)
        arrow(ax, (gate, row), (x + width - 0.16, row), colour=STATE, lw=2.4)
        node(ax, gate, row, "+")
        note(ax, gate, low, f"$u_{{{step}}}$", colour=SIGNAL, size=12, ha="center")
        arrow(ax, (x + width, row - 0.4), (x + width, low + 0.2), colour=SIGNAL)
        note(ax, x + width, low, f"$y_{{{step}}}$", colour=SIGNAL, size=12, ha="center")
        note(ax, gate, row + 0.38, rf"$\Delta_{{{step}}}$ {meaning}", colour=SELECTION, ha="center", size=10)
    for i, (label, cells) in enumerate(zip(labels, shades, strict=True)):
        state(ax, first + width * i, row, label, cells)
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# block.png


def draw_block() -> Figure:
    figure, ax = diagram(10.6, 11.2)
    skip, step, enter, read, mid, right = 0.45, 1.9, 3.0, 3.9, 5.5, 8.55  # columns: residual, Delta, B, C, u, z
    mono = {"family": "DejaVu Sans Mono"}

    def layer(x: float, y: float, name: str, colour: str = BLACK, **size) -> None:
        box(ax, x, y, name, colour=colour, fontsize=11, **mono, **size)

    def shape(x: float, y: float, text: str, side: int = 1) -> None:
        note(ax, x + 0.1 * side, y, text, ha="left" if side > 0 else "right", size=9, **mono)

    def letter(x: float, y: float, text: str, colour: str, side: int = -1) -> None:
        note(ax, x + 0.1 * side, y, text, colour=colour, ha="left" if side > 0 else "right", size=14)

    frame = FancyBboxPatch(
        (0.8, 1.08), 9.5, 8.14, boxstyle="round,pad=0,rounding_size=0.15", fc=PALE, ec="none", zorder=0
    )
    ax.add_patch(frame)
    note(ax, 10.15, 9.0, "MambaBlock", ha="right", size=11, **mono)

    # The residual stream is normalised, widened and cut in two.
    note(ax, mid, 10.95, "residual stream", colour=BLACK, ha="center", size=11)
    shape(mid, 10.6, "(b, l, d_model)")
    arrow(ax, (mid, 10.78), (mid, 9.97))
    arrow(ax, (mid, 10.3), (skip, 10.3), (skip, 0.72), (mid - 0.18, 0.72))
    layer(mid, 9.7, "RMSNorm")
    arrow(ax, (mid, 9.45), (mid, 9.0))
    layer(mid, 8.75, "in_proj")
    arrow(ax, (mid, 8.5), (mid, 7.5), colour=SIGNAL)
    shape(mid, 8.35, "(b, l, 2 d_inner)")
    arrow(ax, (mid, 8.15), (right, 8.15), (right, 4.75))
    letter(mid, 7.85, "$u$", SIGNAL)
    shape(mid, 7.85, "(b, l, d_inner)")
    letter(right, 7.85, "$z$", BLACK)
    shape(right, 7.85, "(b, l, d_inner)")

    # Each channel is smoothed over the last few tokens.
    layer(mid, 7.25, "conv1d", SIGNAL)
    note(ax, mid + 0.95, 7.25, "causal, d_conv taps,\neach channel by itself")
    arrow(ax, (mid, 7.0), (mid, 6.75), colour=SIGNAL)
    layer(mid, 6.5, "SiLU", SIGNAL)
    arrow(ax, (mid, 6.25), (mid, 3.37), colour=SIGNAL)
    letter(mid, 3.75, "$u$", SIGNAL)
    shape(mid, 3.75, "(b, l, d_inner)")

    # The token decides Delta, B and C.
    arrow(ax, (mid, 6.12), (enter, 6.12), (enter, 5.89), colour=SELECTION)
    layer(enter, 5.65, "x_proj", SELECTION, w=3.1, h=0.45)
    for x, bottom in ((step, 5.09), (enter, 3.37), (read, 3.37)):
        arrow(ax, (x, 5.42), (x, bottom), colour=SELECTION)
    shape(step, 5.26, "dt_rank", -1)
    layer(step, 4.85, "dt_proj", SELECTION, w=1.25, h=0.45)
    arrow(ax, (step, 4.62), (step, 4.42), colour=SELECTION, head=False)
    layer(step, 4.2, "softplus", SELECTION, w=1.25, h=0.45)
    arrow(ax, (step, 3.97), (step, 3.37), colour=SELECTION)
    letter(step, 3.72, r"$\Delta$", SELECTION, 1)
    shape(step, 3.72, "d_inner", -1)
    letter(enter, 4.4, "$B$", SELECTION, 1)
    shape(enter, 4.1, "d_state")
    letter(read, 4.4, "$C$", SELECTION, 1)
    shape(read, 4.1, "d_state")

    # The recurrence, the gate, and back to the stream.
    layer(3.7, 3.0, "selective_scan\nA = -exp(A_log), D", STATE, w=4.8, h=0.74)
    arrow(ax, (mid, 2.63), (mid, 2.17), colour=SIGNAL)
    letter(mid, 2.42, "$y$", SIGNAL)
    node(ax, mid, 2.0, "×")
    layer(right, 4.5, "SiLU")
    arrow(ax, (right, 4.25), (right, 2.0), (mid + 0.18, 2.0))
    note(ax, 7.1, 2.15, "gate", ha="center")
    arrow(ax, (mid, 1.83), (mid, 1.67))
    layer(mid, 1.45, "out_proj", h=0.42)
    arrow(ax, (mid, 1.24), (mid, 0.9))
    node(ax, mid, 0.72, "+")
    arrow(ax, (mid, 0.54), (mid, 0.12))
    shape(mid, 0.35, "(b, l, d_model)")

    # What goes from one call to the next: all that generation needs to remember.
    for x, y, reach, text in (
        (4.7, 7.25, -0.5, "state: its last\nd_conv - 1 inputs"),
        (6.1, 3.0, 0.45, "state $h$:\n(b, d_inner, d_state)"),
    ):
        arrow(ax, (x, y + 0.09), (x + reach, y + 0.09), colour=STATE)
        arrow(ax, (x + reach, y - 0.09), (x, y - 0.09), colour=STATE)
        note(ax, x + reach * 1.2, y, text, colour=STATE, ha="left" if reach > 0 else "right")
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# selection.png


def selective_memory(u: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """A state space model with a single number of state, A = -1 and B = 1, discretised by zero-order hold.

        h_t = exp(-delta_t) h_{t-1} + (1 - exp(-delta_t)) u_t

    (Mamba, arXiv 2312.00752, theorem 1.) The library's Euler form takes in delta_t u_t instead, which is nearly the
    same where delta_t is small. `u` and `delta` are (length,), as is the result.
    """
    h, states = 0.0, []
    for u_t, delta_t in zip(u, delta, strict=True):
        keep = np.exp(-delta_t)
        h = keep * h + (1 - keep) * u_t
        states.append(h)
    return np.array(states)


def draw_selection() -> Figure:
    figure = plt.figure(figsize=(10.6, 5.9))
    left = figure.add_gridspec(
        3, 1, left=0.08, right=0.63, top=0.9, bottom=0.09, hspace=0.22, height_ratios=(1, 0.8, 1.2)
    )
    inputs, steps, states = (figure.add_subplot(cell) for cell in left)
    weights = figure.add_subplot(figure.add_gridspec(1, 1, left=0.735, right=0.985, top=0.9, bottom=0.09)[0])

    figure.text(0.015, 0.95, "Three tokens matter, the others are noise", fontsize=13, weight="bold", va="center")
    length, marked = 60, {8: 0.9, 27: -0.8, 46: 0.5}
    time = np.arange(length)
    u = np.random.default_rng(4).uniform(-1, 1, length)
    delta = np.full(length, 0.01)
    for t, value in marked.items():
        u[t], delta[t] = value, 4.0

    colours = [SELECTION if t in marked else SKY + "88" for t in time]
    inputs.axhline(0, color=GREY, lw=0.6)
    inputs.vlines(time, 0, u, colors=colours, lw=2)
    inputs.scatter(time, u, c=colours, s=16, zorder=3)
    inputs.set(ylim=(-1.15, 1.15), yticks=(-1, 0, 1), ylabel="input $u_t$")

    steps.step(time, delta, where="mid", color=SELECTION, lw=2)
    steps.set(yscale="log", ylim=(0.004, 12), yticks=(0.01, 0.1, 1), ylabel=r"step size $\Delta_t$")
    steps.set_yticklabels(("0.01", "0.1", "1"))
    steps.minorticks_off()
    steps.text(9.2, 1.2, "large:\nforget, take in", color=SELECTION, fontsize=9.5, va="center")
    steps.text(18, 0.014, "small: keep, ignore", color=SELECTION, fontsize=9.5, va="bottom", ha="center")

    states.axhline(0, color=GREY, lw=0.6)
    states.plot(time, selective_memory(u, delta), color=STATE, lw=2.4, label=r"with the selective $\Delta_t$ above")
    fixed = selective_memory(u, np.full(length, 0.25))
    states.plot(time, fixed, color=GREY, lw=1.4, ls="--", label=r"with the same $\Delta = 0.25$ for all")
    states.scatter(list(marked), list(marked.values()), c=SELECTION, s=28, zorder=3)
    states.set(ylim=(-1.15, 1.75), yticks=(-1, 0, 1), ylabel="state $h_t$", xlabel="time $t$")
    states.legend(loc="upper right", fontsize=9.5, frameon=False, ncols=2, borderaxespad=0)
    for ax in (inputs, steps, states):
        ax.set(xlim=(-1, length))
        ax.yaxis.set_label_coords(-0.1, 0.5)
        ax.tick_params(labelsize=9.5, labelbottom=ax is states)

    figure.text(0.675, 0.95, "What a step size means", fontsize=13, weight="bold", va="center")
    sizes = np.geomspace(0.01, 10, 400)
    weights.plot(sizes, np.exp(-sizes), color=STATE, lw=2.4)
    weights.plot(sizes, 1 - np.exp(-sizes), color=SIGNAL, lw=2.4)
    weights.plot(sizes[sizes < 1.1], sizes[sizes < 1.1], color=SIGNAL, lw=1.4, ls="--")
    weights.set(xscale="log", xlim=(0.01, 10), ylim=(0, 1.12), xlabel=r"step size $\Delta$", ylabel="weight")
    weights.set_xticks((0.01, 0.1, 1, 10), ("0.01", "0.1", "1", "10"))
    weights.tick_params(labelsize=9.5)
    weights.text(0.014, 0.74, "of the\nstate:\n$e^{-\\Delta}$", color=STATE, va="top", linespacing=1.5)
    weights.text(9.6, 0.74, "of the\ninput:\n$1 - e^{-\\Delta}$", color=SIGNAL, va="top", ha="right", linespacing=1.5)
    weights.text(0.87, 1.06, r"Euler: $\Delta$", color=SIGNAL, fontsize=9.5, ha="right")
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# complexity.png

# Two language models of one size, about 85 M parameters without the embedding: a Transformer as GPT-2 small, and the
# Mamba that its authors compare with it (130 M with the embedding). Two Mamba blocks stand for attention and MLP.
WIDTH, ATTENTION_LAYERS, MAMBA_LAYERS = 768, 12, 24
D_INNER, D_STATE, D_CONV, DT_RANK = 2 * WIDTH, 16, 4, WIDTH // 16
BYTES_BF16, BYTES_FLOAT32 = 2, 4


def transformer_multiply_adds(length: np.ndarray) -> np.ndarray:
    """Multiply-adds of a forward pass over `length` tokens, without embedding and head."""
    matrices = (4 + 8) * WIDTH**2  # per token: query, key, value, output; and an MLP four times as wide
    attention = 2 * WIDTH * (length + 1) / 2  # per token: scores and sum, over itself and the tokens before, on average
    return ATTENTION_LAYERS * length * (matrices + attention)


def mamba_multiply_adds(length: np.ndarray) -> np.ndarray:
    """Multiply-adds of a forward pass over `length` tokens, without embedding and head."""
    matrices = 3 * WIDTH * D_INNER + D_INNER * (2 * DT_RANK + 2 * D_STATE)  # in_proj, out_proj, x_proj, dt_proj
    convolution = D_CONV * D_INNER
    scan = 4 * D_STATE * D_INNER + 2 * D_INNER  # delta A, A-bar h, delta u B, C h for every number of state; D and gate
    return MAMBA_LAYERS * length * (matrices + convolution + scan)


def transformer_cache_bytes(length: np.ndarray) -> np.ndarray:
    """What generation keeps after `length` tokens: a key and a value for each, in bfloat16."""
    return ATTENTION_LAYERS * 2 * WIDTH * BYTES_BF16 * length


def mamba_state_bytes(length: np.ndarray) -> np.ndarray:
    """What generation keeps after `length` tokens: h in float32 and the last inputs of the convolution in bfloat16."""
    block = D_INNER * (D_STATE * BYTES_FLOAT32 + (D_CONV - 1) * BYTES_BF16)
    return np.full(length.shape, MAMBA_LAYERS * block)


def draw_complexity() -> Figure:
    figure, (work, memory) = plt.subplots(1, 2, figsize=(10.6, 4.7))
    figure.subplots_adjust(left=0.065, right=0.97, top=0.88, bottom=0.22, wspace=0.24)
    length = np.geomspace(64, 2**20, 300)
    for ax, title, transformer, mamba in (
        (work, "Work: to read a text", transformer_multiply_adds(length), mamba_multiply_adds(length)),
        (memory, "Memory: what generation keeps", transformer_cache_bytes(length), mamba_state_bytes(length)),
    ):
        ax.plot(length, transformer, color=VERMILLION, lw=2.6)
        ax.plot(length, mamba, color=GREEN, lw=2.6)
        ax.set(xscale="log", yscale="log", xlim=(64, 2**20), xlabel="length of the text in tokens")
        ax.set_xticks(
            [2**i for i in range(6, 21, 2)], ["64", "256", "1 Ki", "4 Ki", "16 Ki", "64 Ki", "256 Ki", "1 Mi"]
        )
        ax.set_title(title, loc="left", fontsize=13, weight="bold", pad=12)
        ax.tick_params(labelsize=9.5)
        ax.grid(color="#E6E6E6", lw=0.8)
    work.set_ylabel("multiply-adds")
    work.set_yticks([10.0**i for i in range(10, 17, 2)])
    sizes = ["1 MiB", "8 MiB", "64 MiB", "512 MiB", "4 GiB", "32 GiB"]
    memory.set_yticks([2**i for i in range(20, 36, 3)], sizes)
    for ax in (work, memory):
        ax.minorticks_off()
    work.text(
        2**15.5, 4e14, "Transformer:\nin the end quadratic", color=VERMILLION, ha="right", weight="bold", va="center"
    )
    work.text(2**17, 4e12, "Mamba:\nlinear", color=GREEN, weight="bold", va="center")
    memory.text(2**13, 2**31.6, "Transformer:\nlinear", color=VERMILLION, ha="right", weight="bold", va="center")
    memory.text(2**13.5, 2**22, "Mamba: constant", color=GREEN, weight="bold", va="center")
    caption = (
        "Counted, not measured. 12 Transformer layers (85 M parameters) and 24 Mamba blocks (90 M), each 768 wide, "
        "embeddings left out; N = 16.\nKeys, values and the convolution's inputs in bfloat16, h in float32."
    )
    figure.text(0.065, 0.05, caption, fontsize=9, color=GREY, va="center", linespacing=1.5)
    return figure


FIGURES = {"ssm": draw_ssm, "block": draw_block, "selection": draw_selection, "complexity": draw_complexity}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    out = parser.parse_args().out
    with plt.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure = draw()
            figure.savefig(out / f"{name}.png", dpi=160, facecolor="white", metadata={"Software": None})
            plt.close(figure)


if __name__ == "__main__":
    main()
