"""What a person sees of a training: a progress bar, the held-out loss, sample texts, and a table at the end.

`Trainer` calls a `Reporter`; `Reporter()` itself is silent, and a subclass can send the same events elsewhere.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from baby_mamba.training.evaluation import Evaluation

_SECONDS_BETWEEN_LINES = 10.0  # where there is no terminal to draw a bar on


@dataclass(frozen=True)
class Progress:
    """Where a training is after a step."""

    step: int
    total_steps: int
    fraction: float  # of the steps or of the time budget, whichever is further on
    loss: float  # nats per token, of this step's batch
    learning_rate: float
    tokens_per_second: float


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended."""

    reason: str  # why it stopped, in words
    interrupted: bool
    n_parameters: int
    step: int
    tokens: int
    seconds: float  # evaluation included, earlier sessions included
    tokens_per_second: float | None  # of the latest steps; None if there was none in this session
    train_loss: float | None  # mean of the latest steps, nats per token
    evaluation: Evaluation | None  # of the last weights; None if interrupted
    best_loss: float | None
    best_step: int | None


class Reporter:
    """Receives the events of a training and shows nothing."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def message(self, text: str) -> None:
        """Something worth a sentence happened."""

    def step(self, progress: Progress) -> None:
        """A step is done."""

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """The held-out loss was measured."""

    def sample(self, step: int, text: str) -> None:
        """A sample text was drawn."""

    def finish(self, result: TrainingResult) -> None:
        """The training is over."""


class ConsoleReporter(Reporter):
    """Shows a bar on a terminal, and a line now and then where the output goes to a file or a notebook.

    Args:
        console: where to; None is the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._bar = Bar(
            TextColumn("step {task.fields[step]}/{task.fields[total_steps]}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[tokens_per_second]:,.0f} tokens/s "),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
        )
        self._task = None
        self._last_line = -math.inf

    def __enter__(self) -> ConsoleReporter:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def message(self, text: str) -> None:
        """Print a sentence."""
        self._print(text)

    def step(self, progress: Progress) -> None:
        """Move the bar, or print a line if the last one is some time ago."""
        if self.console.is_terminal:
            shown = {
                "step": progress.step,
                "total_steps": progress.total_steps,
                "loss": progress.loss,
                "tokens_per_second": progress.tokens_per_second,
            }
            if self._task is None:
                self._task = self._bar.add_task("", total=1.0, completed=progress.fraction, **shown)
            self._bar.update(self._task, completed=progress.fraction, **shown)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._print(
                f"step {progress.step}/{progress.total_steps} ({progress.fraction:.0%})  loss {progress.loss:.3f}  "
                f"learning rate {progress.learning_rate:.1e}  {progress.tokens_per_second:,.0f} tokens/s"
            )

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Print the held-out loss."""
        self._print(f"step {step}: held-out loss {loss_in_words(evaluation)}")

    def sample(self, step: int, text: str) -> None:
        """Print the text in a frame."""
        self.console.print(Panel(Text(text), title=f"sample at step {step}", title_align="left", border_style="dim"))

    def finish(self, result: TrainingResult) -> None:
        """Print why it stopped, and the table."""
        if self.console.is_terminal:
            self._bar.stop()
        self._print(f"stopped: {result.reason}")
        self.console.print(result_table(result))

    def _print(self, text: str) -> None:
        # soft_wrap: a line that goes to a file is one line
        self.console.print(text, markup=False, soft_wrap=True)


def loss_in_words(evaluation: Evaluation) -> str:
    """For example "1.812 nats per token, 2.614 bits per character, perplexity 6.12"."""
    bits = evaluation.bits_per_character
    parts = [
        f"{evaluation.loss:.3f} nats per token",
        *([] if bits is None else [f"{bits:.3f} bits per character"]),
        f"perplexity {evaluation.perplexity:.2f}",
        *([] if evaluation.accuracy is None else [accuracy_in_words(evaluation)]),
    ]
    return ", ".join(parts)


def accuracy_in_words(evaluation: Evaluation) -> str:
    """For example "99.21 % of the tokens right, 96.09 % of the rows", of an evaluation that has them."""
    tokens, rows = evaluation.accuracy, evaluation.sequence_accuracy
    return f"{100 * tokens:.2f} % of the tokens right" + ("" if rows is None else f", {100 * rows:.2f} % of the rows")


def result_table(result: TrainingResult) -> Table:
    """The table that ends a training."""
    rows = [
        ("parameters", f"{result.n_parameters:,}"),
        ("steps", f"{result.step:,}"),
        ("tokens seen", f"{result.tokens:,}"),
    ]
    if result.train_loss is not None:
        rows.append(("training loss, latest steps", f"{result.train_loss:.3f} nats per token"))
    if result.evaluation is not None:
        rows.append(("held-out loss", f"{result.evaluation.loss:.3f} nats per token"))
        if result.evaluation.bits_per_character is not None:
            rows.append(("", f"{result.evaluation.bits_per_character:.3f} bits per character"))
        rows.append(("held-out perplexity", f"{result.evaluation.perplexity:.2f}"))
        if result.evaluation.accuracy is not None:
            rows.append(("held-out accuracy", accuracy_in_words(result.evaluation)))
    if result.best_loss is not None:
        rows.append(("best held-out loss", f"{result.best_loss:.3f} nats per token, at step {result.best_step}"))
    minutes, seconds = divmod(round(result.seconds), 60)
    rows.append(("time", f"{minutes} min {seconds} s"))
    if result.tokens_per_second is not None:
        rows.append(("speed", f"{result.tokens_per_second:,.0f} tokens/s"))
    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    return table
