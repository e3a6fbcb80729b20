"""Imports run one way, and importing the package does nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "baby_mamba"

# Each part may import the parts before it; parts on one line are beside each other and may import each other's level.
LEVELS = [
    {"errors"},
    {"config", "environment", "files", "shapes"},
    {"ops", "data", "theory"},
    {"layers"},
    {"interop"},
    {"models"},
    {"decoding"},
    {"generation"},
    {"extraction", "filling", "scoring", "text_generation"},
    {"visualize"},
    {"training"},
    {"comparison"},
    {"cli"},
]
ORDER = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return {name.split(".")[1] for name in names if name.startswith("baby_mamba.")} & set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_direction(path: Path) -> None:
    part = part_of(path)
    assert part in ORDER, f"add {part} to LEVELS in {Path(__file__).name}"
    backwards = {name for name in imported_parts(path) if ORDER[name] > ORDER[part]}
    sideways = {name for name in imported_parts(path) if ORDER[name] == ORDER[part] and name != part}
    assert not backwards, f"{part} imports {backwards}, which come after it"
    assert not sideways, f"{part} imports {sideways}, which stand beside it"


def test_import_has_no_side_effects() -> None:
    program = """
import logging, sys, torch
threads, rng = torch.get_num_threads(), torch.get_rng_state()
import baby_mamba
heavy = {"triton", "transformers", "matplotlib", "numba", "tensorboard"} & set(sys.modules)
assert not heavy, heavy
assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), rng)
assert not logging.getLogger().handlers and not logging.getLogger("baby_mamba").handlers
for name in baby_mamba.__all__:
    getattr(baby_mamba, name)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
