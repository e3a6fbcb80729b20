"""Writing that survives a crash."""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that a reader, and a crash, find the old text or the new one, never a part of either."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    force_to_disk(unfinished)
    os.replace(unfinished, path)


def force_to_disk(path: Path) -> None:
    """Wait until what was written to a file, or the names in a folder, would survive a loss of power."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no way to flush a folder
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
