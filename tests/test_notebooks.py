"""The notebooks run, their exercises can be solved, and what is stored is what a reader should see."""

import re
import runpy
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
execute = runpy.run_path(str(FOLDER / "execute.py"))

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def printed(notebook: nbformat.NotebookNode, tag: str) -> list[str]:
    """What the cells of a tag print, a text for each cell."""
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


@pytest.mark.slow
@each_notebook
def test_it_runs_with_every_exercise_solved(path: Path) -> None:
    notebook = execute["run"](execute["solve"](read(path)))
    checks = printed(notebook, "check")
    assert len(checks) == 3
    assert all(text.startswith("Right") for text in checks), checks


@each_notebook
def test_it_is_stored_unsolved_with_the_outputs_of_one_run(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert all(text.startswith("To do") for text in printed(notebook, "check"))
    for cell in code:
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert len(pictures) == cell.source.count("plt.subplots("), cell.source
    assert path.stat().st_size < 2**20


@each_notebook
def test_an_exercise_is_followed_by_its_check_and_a_folded_solution(path: Path) -> None:
    cells = read(path).cells
    for i, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            assert [cells[i + j].metadata.tags for j in (1, 2)] == [["check"], ["solution"]]
            assert "..." in cell.source
            assert "assert" in cells[i + 1].source
            assert cells[i + 2].source.startswith("<details><summary>Solution</summary>\n\n")


@each_notebook
def test_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert target.startswith("https://") or (FOLDER / target).is_file(), target


def test_every_notebook_is_in_the_table() -> None:
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[.*?\]\((.*?)\)", table, flags=re.MULTILINE) == [path.name for path in PATHS]
