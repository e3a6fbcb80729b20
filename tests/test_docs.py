"""The chapter on the kernels is true: its code runs, its names exist, its measurements are those of the log."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
KERNELS = ROOT / "src/baby_mamba/ops/selective_scan"
CHAPTER = (DOCS / "how_the_kernel_works.md").read_text(encoding="utf-8")
LOG = (DOCS / "kernel_log.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", CHAPTER, flags=re.DOTALL | re.MULTILINE)
CODE = re.findall(r"`([^`\n]+)`", PROSE)
# In backticks and not from this repository: instructions, and names of Python, PyTorch and PTX.
FOREIGN = {"BAR", "FFMA", "FMUL", "HMMA", "LDG", "LDL", "LDS", "MUFU", "SHFL", "STL"}
FOREIGN |= {"breakpoint", "int32", "log1p", "m16n8k8", "print", "where"}


def python_blocks(with_triton: bool) -> list[str]:
    blocks = re.findall(r"^```python\n(.*?)^```$", CHAPTER, flags=re.DOTALL | re.MULTILINE)
    return [block for block in blocks if bool(re.search("triton", block, re.IGNORECASE)) == with_triton]


def in_a_fresh_process(code: str, **environment: str) -> None:
    # Whether Triton compiles or interprets is decided when it is imported.
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = {"OMP_NUM_THREADS": "1", **inherited, **environment}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_kernel_figures", DOCS / "draw_kernel_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def names() -> dict:
    """What the blocks of plain PyTorch define; they check their own results."""
    names, before = {}, torch.get_default_dtype()
    try:
        for block in python_blocks(with_triton=False):
            exec(block, names)
    finally:
        torch.set_default_dtype(before)
    return names


def test_python_in_plain_pytorch_runs(names: dict) -> None:
    assert {"lane", "lane_backward", "selector", "carried"} <= names.keys()


def test_printed_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", CHAPTER, flags=re.DOTALL | re.MULTILINE)
    assert pairs
    for code, printed in pairs:
        exec(code, {})
        assert capsys.readouterr().out == printed


@pytest.mark.parametrize("block", python_blocks(with_triton=True), ids=["compiled", "interpreted"])
def test_python_with_triton_runs(block: str, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    in_a_fresh_process(block, TRITON_CACHE_DIR=str(tmp_path))


def test_files_exist() -> None:
    files = {code for code in CODE if re.fullmatch(r"[\w./]+\.(py|md|png)", code)}
    assert len(files) > 5
    missing = {file for file in files if not any((folder / file).is_file() for folder in (ROOT, KERNELS, DOCS))}
    assert missing == set()


def test_functions_exist() -> None:
    functions = {code.removesuffix("()") for code in CODE if re.fullmatch(r"\w+\(\)", code)}
    assert len(functions) > 10
    sources = [path.read_text(encoding="utf-8") for path in (*KERNELS.glob("*.py"), ROOT / "benchmarks/kernels.py")]
    defined = set(re.findall(r"^\s*def (\w+)\(", "\n".join(sources), flags=re.MULTILINE))
    assert functions - defined == set()


def test_names_exist() -> None:
    used = {code for code in CODE if re.fullmatch(r"\w+", code)} - FOREIGN
    assert len(used) > 20
    sources = [*KERNELS.glob("*.py"), ROOT / "tests/plant_bugs.py"]
    words = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    assert used - words == set()


def test_constants_are_those_of_the_code() -> None:
    constants = re.findall(r"`([A-Z_]+)(?:\.(\w+))?` = (\d+)", PROSE)
    assert len(constants) >= 5
    source = (KERNELS / "triton.py").read_text(encoding="utf-8")
    for name, attribute, value in constants:
        before = rf"Pass\(.*\b{attribute}=" if attribute else ""
        assert re.search(rf"^{name} = {before}{value}\b", source, flags=re.MULTILINE), f"{name} is not {value}"


def test_bugs_can_still_be_planted() -> None:
    bugs = runpy.run_path(str(ROOT / "tests/plant_bugs.py"))["BUGS"]
    assert len(bugs) >= 10
    for name, (file, right, wrong) in bugs.items():
        assert right != wrong
        assert right in (KERNELS / file).read_text(encoding="utf-8"), f"{name}: {file} has no {right!r} any more"


def test_measurements_are_in_the_log() -> None:
    tables = re.findall(r"<!-- from kernel_log.md -->\n((?:\|.*\n)+)", CHAPTER)
    assert len(tables) == 2
    measured = {number for table in tables for number in re.findall(r"\d+\.\d+", table)}
    assert len(measured) > 20
    assert measured - set(re.findall(r"\d+\.\d+", LOG)) == set()


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", PROSE)
    headings = re.findall(r"^#+ (.*)$", PROSE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(targets) > 20
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (DOCS / target).exists(), target


def test_script_draws_the_figures_that_are_kept(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["draw_kernel_figures.py", "--out", str(tmp_path)])
    figures.main()
    read = figures.plt.imread
    drawn = {path.name: read(path) for path in tmp_path.glob("*.png")}
    kept = {path.name: read(path) for path in DOCS.glob("kernel_*.png")}
    assert drawn.keys() == kept.keys() == {f"{name}.png" for name in figures.FIGURES}
    for name, picture in drawn.items():
        assert picture.shape == kept[name].shape
        # Versions of matplotlib place letters differently by a pixel; a missing part would be more.
        assert abs(picture.mean() - kept[name].mean()) < 0.001, f"{name} is old: run docs/draw_kernel_figures.py"
        assert picture[..., :3].std() > 0.05  # not blank


def test_figures_are_shown_with_descriptions(figures: ModuleType) -> None:
    shown = {name: text for text, name in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", CHAPTER)}
    assert shown.keys() == {f"{name}.png" for name in figures.FIGURES}
    assert all(len(text) > 40 for text in shown.values())


def test_figure_of_sums_is_the_product_of_the_chapter(figures: ModuleType, names: dict) -> None:
    selector, lane, state = figures.channel_sums_operands()
    np.testing.assert_array_equal(selector, names["selector"])
    np.testing.assert_array_equal(names["term"][lane, state[:, None]], names["matrix"])


def test_floors_are_those_of_the_log(figures: ModuleType) -> None:
    computed = re.findall(r"^\((.*)\); exponentials ([\d.]+); bytes ([\d.]+)", CHAPTER, flags=re.MULTILINE)
    logged = {shape: floors for shape, (_, _, *floors) in figures.logged_times()}
    assert len(computed) == 3
    for shape, *floors in computed:
        assert [float(floor) for floor in floors] == logged[shape]
