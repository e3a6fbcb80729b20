import json
import sys
import types
from pathlib import Path

import pytest

from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.training.metrics import MetricsLog, read_metrics, require_tensorboard


def rows(*steps: int) -> list[dict[str, float]]:
    return [{"step": step, "train_loss": step / 10} for step in steps]


def write(folder: Path, step: int, *new: int) -> None:
    log = MetricsLog(folder, step)
    for row in rows(*new):
        log.write(row)
    log.close()


def test_rows_are_appended_and_later_ones_removed(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, 3, 4)
    write(tmp_path, 2, 3)
    assert read_metrics(tmp_path / "metrics.jsonl") == rows(1, 2, 3)
    write(tmp_path, 0)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_rows_can_be_read_while_the_file_is_open(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write({"step": 1})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]
    log.close()


def test_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    assert read_metrics(path) == [{"step": 1}]
    path.write_text('{"st\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match="line 1 is not JSON; remove the line"):
        read_metrics(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_metrics(tmp_path / "nowhere.jsonl")


def test_no_folder_writes_nothing() -> None:
    log = MetricsLog(None, tensorboard=True)
    log.write({"step": 1})
    log.close()


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package, which the tests do not need."""
    written = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append((Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    log = MetricsLog(tmp_path, 4, tensorboard=True)
    log.write({"step": 5, "train_loss": 2.5})
    log.close()
    assert written == [("tensorboard", 5), ("train_loss", 2.5, 5), "closed"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 5, "train_loss": 2.5}


def test_tensorboard_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tensorboard>=2\.14'"):
        require_tensorboard()
