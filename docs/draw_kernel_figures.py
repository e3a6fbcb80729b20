"""Draw the figures of how_the_kernel_works.md: `python docs/draw_kernel_figures.py [--out FOLDER]`.

| figure                | what it shows                                                            |
|-----------------------|--------------------------------------------------------------------------|
| `kernel_memory.png`   | the memories of an H100, and what of the scan lies in which              |
| `kernel_lanes.png`    | a warp with its lanes along channels, and one with its lanes along time  |
| `kernel_loads.png`    | where a load is issued and where it is used, as written and as compiled  |
| `kernel_backward.png` | what the backward pass finds, what it recomputes, and in which order     |
| `kernel_sums.png`     | a sum over channels as a product with zeros and ones, lane by lane       |
| `kernel_segments.png` | time against programs: parts, carry_states and segments                  |
| `kernel_time.png`     | times and floors, read from the table in kernel_log.md                   |

The pieces and colours are those of assets/draw_figures.py.
"""

import argparse
import itertools
import re
import sys
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "assets"))

from draw_figures import (  # noqa: E402, I001 - found in the folder above
    BLACK, BLUE, GREEN, GREY, SKY, STYLE, VERMILLION, Axes, Figure, Rectangle, arrow, box, diagram, note, plt,
)  # fmt: skip

ORANGE, PURPLE = "#E69F00", "#CC79A7"  # also Okabe and Ito's


def cell(ax: Axes, x: float, y: float, w: float, h: float, colour: str, alpha: float = 0.3, lw: float = 0.8) -> None:
    """A rectangle with its lower left corner at (x, y)."""
    ax.add_patch(Rectangle((x, y), w, h, fc="white", ec="none", zorder=3))
    ax.add_patch(Rectangle((x, y), w, h, fc=colour, alpha=alpha, ec="none", zorder=3))
    ax.add_patch(Rectangle((x, y), w, h, fc="none", ec="white", lw=lw, zorder=4))


def title(ax: Axes, x: float, y: float, text: str) -> None:
    """A heading that starts at (x, y)."""
    note(ax, x, y - 0.08, text, colour=BLACK, size=13, weight="bold", va="baseline")


# ---------------------------------------------------------------------------------------------------------------------


def draw_memory() -> Figure:
    """Sizes and rates; the text of the chapter gives their sources."""
    figure, ax = diagram(10.6, 5.1)
    for x, text in ((0.35, "Memory"), (3.45, "Size"), (5.35, "Rate"), (7.15, "What of the scan lies there")):
        title(ax, x, 4.85, text)
    levels = (
        ("registers", 1.3, GREEN, "132 × 256 KB", "400 TB/s", "the state $h$ and $A$:\n16 numbers each to a channel"),
        (
            "L1 and\nshared memory",
            1.75,
            SKY,
            "132 × 256 KB",
            "33 TB/s",
            "rows of $B$ and $C$; backward:\nall that the next tile needs",
        ),
        ("L2", 2.2, BLUE, "50 MB", "not published", "backward: the states\nbefore each tile of a chunk"),
        (
            "HBM",
            2.65,
            GREY,
            "80 GB",
            "3.35 TB/s\n(3.02 measured)",
            "all tensors, and a state\nevery 32 steps",
        ),
    )
    for i, (name, width, colour, size, rate, what) in enumerate(levels):
        y = 4.1 - 1.15 * i
        box(ax, 1.7, y, name, colour=colour, w=width, h=0.72)
        for x, text in ((3.45, size), (5.35, rate), (7.15, what)):
            note(ax, x, y, text, colour=BLACK, size=10.5)
        if i:
            arrow(ax, (1.6, y + 0.38), (1.6, y + 0.77), colour=GREY)
            arrow(ax, (1.8, y + 0.77), (1.8, y + 0.38), colour=GREY)
    return figure


# ---------------------------------------------------------------------------------------------------------------------


def draw_lanes() -> Figure:
    """The same tile of time and channels, given to lanes in two ways."""
    figure, ax = diagram(10.6, 5.15)
    size, columns, rows = 0.36, 8, 8
    hues = (GREEN, BLUE, ORANGE, PURPLE)

    def grid(left: float, top: float, lane: np.ndarray) -> None:
        for (row, column), number in np.ndenumerate(lane):
            x, y = left + column * size, top - (row + 1) * size
            cell(ax, x, y, size, size, hues[number % 4], 0.38)
            note(ax, x + size / 2, y + size / 2, str(number), colour=BLACK, size=8.5, ha="center")

    time, channel = np.indices((rows, columns))
    for left, heading, numbers in (
        (1.0, "Lanes along channels: this kernel", channel),
        (6.4, "Lanes along time: an associative scan", time),
    ):
        title(ax, left - 0.65, 4.9, heading)
        note(ax, left + columns * size / 2, 4.45, "channels, neighbours in memory", ha="center")
        note(ax, left - 0.22, 4.25 - rows * size / 2, "time", ha="center", rotation=90)
        grid(left, 4.25, numbers)
    bottom = 4.25 - rows * size
    for column in range(columns):
        x = 1.0 + (column + 0.5) * size
        arrow(ax, (x, 4.4 - size), (x, bottom - 0.12), colour=GREEN, lw=1.1)
    ax.add_patch(Rectangle((1.0, 4.25 - 3 * size), columns * size, size, fc="none", ec=VERMILLION, lw=2.2, zorder=7))
    arrow(ax, (4.6, 4.25 - 2.5 * size), (3.96, 4.25 - 2.5 * size), colour=VERMILLION)
    note(ax, 4.65, 4.25 - 2.5 * size, "one load\nof a row", colour=VERMILLION)
    note(ax, 4.1, 2.25, "$h$ goes down\nits own lane", colour=GREEN)

    right = 6.4 + columns * size
    for row in range(rows):
        y = 4.25 - (row + 0.5) * size
        if row:
            arrow(ax, (right + 0.08, y + size), (right + 0.26, y + size / 2), (right + 0.1, y), colour=GREEN, lw=1.1)
    note(ax, right + 0.34, 4.25 - rows * size / 2, "$h$ goes from\nlane to lane:\nshuffles", colour=GREEN)
    x = 6.4 + 2 * size
    ax.add_patch(Rectangle((x, bottom), size, rows * size, fc="none", ec=VERMILLION, lw=2.2, zorder=7))
    arrow(ax, (x + size / 2, bottom - 0.35), (x + size / 2, bottom - 0.05), colour=VERMILLION)
    note(ax, x + size / 2 + 0.12, bottom - 0.22, "a load, scattered in this layout", colour=VERMILLION)

    note(ax, 0.35, 0.5,
         "32 lanes in truth, 8 here; forward, a lane has two channels.\n"
         "Shuffles for a state and 32 steps: none.\n"
         "$B_t$ and $C_t$: the same for all lanes.", size=10.5, colour=BLACK)  # fmt: skip
    note(ax, 5.75, 0.5,
         "A number is the lane that works on the cell.\n"
         "Shuffles for a state and 32 steps: 5 rounds of 2.\n"
         "Layout (batch, channels, length), or data turned round.", size=10.5, colour=BLACK)  # fmt: skip
    return figure


# ---------------------------------------------------------------------------------------------------------------------


def draw_loads() -> Figure:
    """A load that runs ahead, one that sinks, and one that a store holds."""
    figure, ax = diagram(10.6, 4.9)
    plans = (
        ("As written", "load the next tile's rows first,\nto have them in time", ["load", 0, 1, 2, 3, "use"]),
        ("As compiled", "the load sinks to its use:\nit saves registers",
         [0, 1, 2, 3, "load", "use"]),
        ("With a store below it", "no load may pass a store\nthat might change what it reads",
         ["load", "store", 0, 1, 2, 3, "use"]),
    )  # fmt: skip
    for i, (heading, why, lines) in enumerate(plans):
        left = 0.35 + 3.47 * i
        title(ax, left, 4.6, heading)
        note(ax, left, 4.12, why)
        heights = {"load": 0.3, "store": 0.3, "use": 0.3}
        y = 3.7
        total = sum(heights.get(line, 0.42) for line in lines)
        gap = (3.05 - total) / (len(lines) - 1)
        places = {}
        for line in lines:
            h = heights.get(line, 0.42)
            colour = {"load": BLUE, "store": VERMILLION, "use": GREEN}.get(line, GREY)
            texts = {"load": "load rows of tile $k+1$", "store": "store states, if kept", "use": "tile $k+1$ uses them"}
            ax.add_patch(Rectangle((left, y - h), 2.35, h, fc=colour, alpha=0.4 if line == "store" else 0.2, ec="none"))
            note(ax, left + 1.175, y - h / 2, texts.get(line, f"arithmetic of step {line}"), colour=BLACK, ha="center")
            places[line] = y - h / 2
            y -= h + gap
        x = left + 2.5
        arrow(ax, (x, places["load"]), (x, places["use"]), colour=BLUE, lw=1.4)
        far = places["load"] - places["use"] > 1
        text = "time for\nthe data\nto come" if far else "the warp\nwaits"
        note(ax, x + 0.08, (places["load"] + places["use"]) / 2, text, colour=BLUE if far else VERMILLION)
    note(ax, 0.35, 0.3, "Four of the eight steps of a tile are drawn.")
    return figure


# ---------------------------------------------------------------------------------------------------------------------


def draw_backward() -> Figure:
    """From the sequence to a chunk to a tile."""
    figure, ax = diagram(10.6, 5.9)
    left, right = 1.75, 10.25
    tiles, width = 8, (10.25 - 1.75) / 8

    def label(y: float, text: str, colour: str = BLACK) -> None:
        note(ax, 0.3, y, text, colour=colour, size=10)

    # The sequence, in chunks.
    title(ax, 0.3, 5.62, "The sequence")
    for i in range(4):
        w = (right - left) / 4
        cell(ax, left + i * w, 4.85, w, 0.36, GREY, 0.35 if i == 2 else 0.13, lw=2)
        note(ax, left + (i + 0.5) * w, 5.03, "chunk of 32 steps", ha="center", colour=BLACK)
        ax.add_patch(Rectangle((left + i * w - 0.05, 4.72), 0.1, 0.62, fc=GREEN, ec="none", zorder=6))
    label(5.03, "kept by the\nforward pass", GREEN)
    note(ax, left + 0.2, 5.55, "a state at the start of each chunk, in HBM", colour=GREEN)
    arrow(ax, (right, 5.55), (7.35, 5.55), colour=VERMILLION, lw=2)
    note(ax, 7.28, 5.55, "chunks from the last to the first", colour=VERMILLION, ha="right")
    for x0, x1 in ((left + 2 * (right - left) / 4, left), (left + 3 * (right - left) / 4, right)):
        ax.plot([x0, x1], [4.7, 4.15], color=GREY, lw=0.8, ls="--")

    # One chunk.
    title(ax, 0.3, 4.3, "One chunk")
    for i in range(tiles):
        x = left + i * width
        cell(ax, x, 3.62, width, 0.36, GREY, 0.3, lw=2)
        note(ax, x + width / 2, 3.8, f"tile {i}", ha="center", colour=BLACK)
        ax.add_patch(Rectangle((x - 0.035, 3.5), 0.07, 0.6, fc=SKY, ec="none", zorder=6))
    label(3.8, "scratch, which\nstays in L2", BLUE)
    y = 3.2
    for i in range(tiles - 1):
        x = left + i * width
        arrow(ax, (x + 0.06, y), (x + width - 0.06, y), colour=GREEN, lw=2)
    label(y, "1. forward:\n7 tiles of 4 steps", GREEN)
    note(ax, right - width + 0.08, y, "leaves $h$ before\neach tile", colour=GREEN, size=9)
    y = 2.6
    for i in range(tiles):
        x = left + i * width
        arrow(ax, (x + width - 0.06, y), (x + 0.06, y), colour=VERMILLION, lw=2)
        note(ax, x + width / 2, y + 0.17, str(tiles - i), ha="center", colour=VERMILLION)
    label(y, "2. back, tile\nby tile", VERMILLION)
    for x0, x1 in ((left + 4 * width, left), (left + 5 * width, right)):
        ax.plot([x0, x1], [2.42, 1.95], color=GREY, lw=0.8, ls="--")

    # One tile.
    title(ax, 0.3, 2.1, "One tile")
    for i in range(4):
        x = left + i * 2 * width
        cell(ax, x, 1.42, 2 * width, 0.36, GREY, 0.3, lw=2)
        note(ax, x + width, 1.6, f"step {i}", ha="center", colour=BLACK)
        arrow(ax, (x + 0.1, 1.15), (x + 2 * width - 0.1, 1.15), colour=GREEN, lw=2)
        arrow(ax, (x + 2 * width - 0.1, 0.6), (x + 0.1, 0.6), colour=VERMILLION, lw=2)
    label(1.6, "4 of 16 states\nat a time")
    label(1.15, "$h$ forward", GREEN)
    note(ax, left, 0.9, "$h_{t-1}$ and $a_t$ of the four steps stay in registers: one exponential for both directions",
         colour=GREEN)  # fmt: skip
    label(0.6, "$q$ backward", VERMILLION)
    note(ax, left, 0.3, "sums over states: $dx_t$, $ds_t$    over channels: $dB_t$, $dC_t$    over time: $dA$",
         colour=VERMILLION)  # fmt: skip
    return figure


# ---------------------------------------------------------------------------------------------------------------------


def channel_sums_operands() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For a warp and four states of step 1, as in `add_over_channels`.

    (selector of zeros and ones (16, 16); the channel, which is the lane, of each cell of the right factor (16, 8);
    the state of each of its rows (16,)).
    """
    step, states, row = 1, 4, np.arange(16)
    owner = step * states + row // 4
    selector = (row[:, None] == owner[None, :]).astype(int)
    lane = 4 * np.arange(8)[None, :] + (row % 4)[:, None]
    return selector, lane, row // 4


def draw_sums() -> Figure:
    """One product of `add_over_channels`."""
    figure, ax = diagram(10.6, 5.35)
    selector, lane, state = channel_sums_operands()
    hues = (GREEN, BLUE, ORANGE, PURPLE)
    size, top = 0.235, 4.45
    left, middle, right = 0.85, 5.2, 8.0

    def heading(x: float, columns: int, text: str) -> None:
        note(ax, x + columns * size / 2, 5.0, text, ha="center", colour=BLACK, size=11, weight="bold")

    heading(left, 16, "selector, zeros and ones")
    heading(middle, 8, "term, where it lies")
    heading(right, 8, "sums")
    for row in range(16):
        y = top - (row + 1) * size
        for column in range(16):
            one = selector[row, column]
            cell(ax, left + column * size, y, size, size, hues[state[column]] if one else GREY, 0.6 if one else 0.08)
            if one:
                note(ax, left + (column + 0.5) * size, y + size / 2, "1", colour=BLACK, ha="center", size=8)
        for column in range(8):
            cell(ax, middle + column * size, y, size, size, hues[state[row]], 0.3)
            note(ax, middle + (column + 0.5) * size, y + size / 2, str(lane[row, column]), colour=BLACK, ha="center",
                 size=7.5)  # fmt: skip
            mine = row // 4 == 1
            cell(ax, right + column * size, y, size, size, hues[row % 4] if mine else GREY, 0.45 if mine else 0.08)
    for i in range(4):
        y = top - (4 * i + 2) * size
        note(ax, left - 0.1, y, f"step {i}", ha="right", colour=BLACK if i == 1 else GREY)
        note(ax, middle - 0.1, y, f"$n={i}$", ha="right", colour=hues[i])
        note(ax, right + 8 * size + 0.08, y, f"step {i}", colour=BLACK if i == 1 else GREY)
    x = middle + 2 * size
    ax.add_patch(Rectangle((x, top - 4 * size), size, 4 * size, fc="none", ec=VERMILLION, lw=2, zorder=7))
    ax.add_patch(Rectangle((right + 2 * size, top - 5 * size), size, size, fc="none", ec=VERMILLION, lw=2, zorder=7))
    note(ax, left + 16 * size + 0.1, top - 8 * size, "×", size=16, colour=BLACK)
    note(ax, middle + 8 * size + 0.3, top - 8 * size, "=", size=16, colour=BLACK)
    note(ax, middle + 4 * size, 4.68, "number: the lane, which is the channel", ha="center", size=8.5)
    note(ax, right + 4 * size, 4.68, "row: step and state", ha="center", size=8.5)
    note(ax, left + 8 * size, 4.68, "of step 1", ha="center", size=8.5)
    note(ax, 0.35, 0.35,
         "Red: channels 8 to 11 of state 0 are added in one cell. The products of four steps add to the same sums.\n"
         "Every lane holds its own column of four terms, and the tensor core takes them from there.",
         colour=BLACK, size=10)  # fmt: skip
    return figure


# ---------------------------------------------------------------------------------------------------------------------


def draw_segments() -> Figure:
    """Two blocks of channels, four segments of two parts each."""
    figure, ax = diagram(10.6, 7.0)
    left, right, segments, parts = 2.05, 10.25, 4, 2
    width = (right - left) / segments
    height, gap = 0.2, 0.06

    def bar(x: float, y: float, w: float, colour: str, alpha: float = 0.55) -> None:
        cell(ax, x, y, w, height, colour, alpha)

    def head(y: float, text: str, below: str) -> None:
        title(ax, 0.3, y, text)
        note(ax, 0.3, y - 0.2, below, va="top")

    arrow(ax, (left, 6.5), (right, 6.5), colour=GREY)
    note(ax, (left + right) / 2, 6.72, "time in the sequence", ha="center")
    head(6.15, "Without", "2 programs,\neach all of time")
    for block in range(2):
        bar(left, 6.05 - block * (height + gap), right - left, GREY, 0.35)
        note(
            ax,
            left + 0.1,
            6.05 - block * (height + gap) + height / 2,
            f"channels of block {block}",
            colour=BLACK,
            size=8,
        )

    head(5.3, "part_states", "6 × 2 programs\nside by side,\neach from $h = 0$")
    y0 = 5.2
    for segment in range(segments):
        for part in range(parts):
            x = left + segment * width + part * width / parts
            row = segment * parts + part
            for block in range(2):
                y = y0 - (2 * row + block) * (height - 0.03)
                if segment < segments - 1:
                    bar(x + 0.03, y, width / parts - 0.06, ORANGE)
    note(ax, left + 3 * width + 0.15, y0 - 0.1, "nobody asks for\nthe state after\nthe last segment")

    head(3.1, "carry_states", "a lane a number,\nno exponentials")
    y = 3.0
    ends = [left + i * width / parts for i in range((segments - 1) * parts + 1)]
    for i, (start, stop) in enumerate(itertools.pairwise(ends)):
        arrow(ax, (start + 0.09, y), (stop - 0.09, y), colour=ORANGE, lw=1.8)
        note(
            ax,
            (start + stop) / 2,
            y + 0.2,
            r"$\times$ decay + local" if i < 2 else "",
            ha="center",
            colour=ORANGE,
            size=8.5,
        )
    for i, x in enumerate(ends):
        border = i % parts == 0
        ax.scatter([x], [y], s=75 if border else 30, color=GREEN if border else "white", ec=GREEN, lw=1.5, zorder=6)
        if border:
            arrow(ax, (x, y - 0.12), (x, 2.22), colour=GREEN, lw=1.2)
    note(ax, left + 0.12, 2.6, "initial state", colour=GREEN)
    note(ax, left + width + 0.12, 2.6, "$h$ that enters segment 1", colour=GREEN)

    head(2.05, "scan_forward", "4 × 2 programs\nside by side")
    for segment in range(segments):
        for block in range(2):
            y = 1.95 - (segment * 2 + block) * (height - 0.03)
            bar(left + segment * width + 0.03, y, width - 0.06, GREEN)
    note(ax, left, 0.72, "A bar is a program. Bars of a colour run at the same time,\nif the GPU has room for them.")
    return figure


# ---------------------------------------------------------------------------------------------------------------------


def logged_times() -> list[tuple[str, list[float]]]:
    """(shape, [forward, backward, exponentials' floor, bytes' floor] in ms): the table in kernel_log.md."""
    text = (DOCS / "kernel_log.md").read_text(encoding="utf-8")
    table = re.search(r"## As it stands\n.*?\n\n(\|.*?)\n\n", text, flags=re.DOTALL).group(1)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [(shape, [float(x) for x in numbers]) for shape, *numbers in rows]


def draw_time() -> Figure:
    """Bars for each shape of the log."""
    rows = logged_times()
    figure, axes = plt.subplots(1, len(rows), figsize=(10.6, 3.4))
    figure.subplots_adjust(left=0.05, right=0.985, top=0.84, bottom=0.22, wspace=0.28)
    for ax, (shape, (forward, backward, exponentials, moved)) in zip(axes, rows, strict=True):
        names = ("floor:\nbytes", "floor:\nexp.", "forward", "backward")
        values = (moved, exponentials, forward, backward)
        bars = ax.bar(range(4), values, color=(GREY, SKY, GREEN, VERMILLION), width=0.72)
        ax.bar_label(bars, [f"{value:.3g}" for value in values], fontsize=8.5, padding=2)
        ax.set_xticks(range(4), names, fontsize=7.5)
        ax.tick_params(axis="y", labelsize=8)
        ax.set_ylim(0, 1.12 * backward)
        numbers, _, rest = shape.partition(" in ")
        ax.set_title(f"({numbers})" + (f"\nin {rest}" if rest else "\n"), fontsize=10, loc="left", linespacing=1.4)
    axes[0].set_ylabel("ms")
    figure.text(0.05, 0.045, "(batch, length, channels), bfloat16, 16 states, one H100. Times from kernel_log.md.",
                fontsize=9, color=GREY)  # fmt: skip
    return figure


FIGURES = {
    "kernel_memory": draw_memory,
    "kernel_lanes": draw_lanes,
    "kernel_loads": draw_loads,
    "kernel_backward": draw_backward,
    "kernel_sums": draw_sums,
    "kernel_segments": draw_segments,
    "kernel_time": draw_time,
}


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS, help="folder to write to")
    out = parser.parse_args().out
    with plt.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure = draw()
            figure.savefig(out / f"{name}.png", dpi=160, facecolor="white", metadata={"Software": None})
            plt.close(figure)


if __name__ == "__main__":
    main()
