"""metrics.jsonl: one JSON object per line, appended as training goes, and the same numbers for TensorBoard if asked.

A row of training has step, tokens, seconds, train_loss (nats per token), learning_rate, gradient_norm and
tokens_per_second; a row of evaluation has step, tokens, seconds, validation_loss and, where the number of characters is
known, bits_per_character; where tokens are hidden, accuracy, and for a task also sequence_accuracy.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.training.files import replace_text


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, in order. A last line that a crash cut short is left out.

    Raises:
        CheckpointError: the file is missing, or a line before the last is not a JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; expected the metrics.jsonl of a run folder") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise CheckpointError(f"{path}, line {number} is not JSON; remove the line") from None
    return rows


class MetricsLog:
    """Appends rows to `metrics.jsonl` in a run folder.

    Args:
        run_folder: where; None writes nothing.
        step: the step from which training goes on. Rows of later steps, which a run wrote after its last checkpoint,
            are removed: they will come again.
        tensorboard: also write TensorBoard events into the folder `tensorboard`.

    Raises:
        ConfigError: tensorboard is asked for and not installed.
    """

    def __init__(self, run_folder: Path | None, step: int = 0, *, tensorboard: bool = False) -> None:
        self._file = self._events = None
        if run_folder is None:
            return
        path = run_folder / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] <= step] if path.exists() else []
        replace_text(path, "".join(map(_line, kept)))
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            require_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(run_folder / "tensorboard"), purge_step=step + 1)

    def write(self, row: dict[str, float]) -> None:
        """Append a row and flush it, so that it can be watched and a crash loses none."""
        if self._file is not None:
            self._file.write(_line(row))
            self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._events):
            if file is not None:
                file.close()


def require_tensorboard() -> None:
    """Complain now if TensorBoard's events could not be written later.

    Raises:
        ConfigError: tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "training_config.tensorboard = true needs tensorboard, which is not installed; "
            "pip install 'tensorboard>=2.14', or set it to false"
        )


def _line(row: dict[str, float]) -> str:
    return json.dumps(row) + "\n"
