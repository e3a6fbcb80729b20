import os
from pathlib import Path

import pytest

from baby_mamba.training.files import force_to_disk, replace_text


def test_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("old", "größer"):
        replace_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "old")

    def crash(*args: object) -> None:
        raise OSError("power is gone")

    monkeypatch.setattr(os, call, crash)
    with pytest.raises(OSError, match="power is gone"):
        replace_text(path, "new")
    assert path.read_text() == "old"


def test_forces_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for path in (tmp_path, tmp_path / "file"):
        force_to_disk(path)
    assert len(synced) == 2
