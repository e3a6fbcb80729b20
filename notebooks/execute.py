"""Run the notebooks and store their outputs, which the code host shows: `python notebooks/execute.py [NAME ...]`.

In a notebook, a cell tagged `exercise` is to be completed by the reader, the cell tagged `check` after it tests what
was written, and the folded cell tagged `solution` after that holds an answer. Notebooks are stored unsolved.
"""

import argparse
import copy
import os
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def run(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy with fresh outputs, computed by this Python with one thread; CellExecutionError where a cell fails."""
    notebook = copy.deepcopy(notebook)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    NotebookClient(notebook, timeout=240, kernel_name="python3", record_timing=False).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def solve(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy in which every exercise holds its solution."""
    notebook = copy.deepcopy(notebook)
    exercises = [cell for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])]
    solutions = [cell for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]
    for exercise, solution in zip(exercises, solutions, strict=True):
        (exercise.source,) = re.findall(r"```python\n(.*?)\n```", solution.source, flags=re.DOTALL)
    return notebook


def main() -> None:
    """Run the notebooks that are named, or all, and write them back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a file name; without any, all are run")
    names = parser.parse_args().names or [""]
    for path in sorted(FOLDER.glob("*.ipynb")):
        if any(name in path.name for name in names):
            print(path.name, flush=True)
            nbformat.write(run(nbformat.read(path, as_version=4)), path)


if __name__ == "__main__":
    main()
