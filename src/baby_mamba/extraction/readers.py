"""The text of a document: .pdf, .docx, or anything that is plain text.

Libraries are imported when they are needed: `pip install 'baby-mamba[extraction]'`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from baby_mamba.errors import BackendUnavailableError, DataError


def read_document(path: str | Path) -> str:
    """The text of a file, lines and columns as far as the format has them.

    Args:
        path: .pdf, .docx; every other name is read as text in UTF-8.

    Raises:
        DataError: the file is missing, damaged, encrypted with a password, or has no text, as a scanned page has none.
        BackendUnavailableError: the library that reads this format is not installed.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}; expected a .pdf, .docx or .txt file, so check the path")
    reader = _READERS.get(path.suffix.lower(), _read_text)
    try:
        text = reader(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from None
    if not text.strip():
        raise DataError(
            f"{path} has no text in it{_SCANNED if reader is _read_pdf else ''}; expected a document with text"
        )
    return text


_SCANNED = ", only pictures, as a scan has; run it through a program for character recognition, such as ocrmypdf, first"


def _read_pdf(path: Path) -> str:
    """The text of all pages in the order in which it was written into the file, which is mostly that of reading."""
    pypdf = _library("pypdf", "a .pdf file")
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):  # many can be read by anyone and are only protected
            raise DataError(f"{path} is encrypted with a password; save a copy without one")
        return "\n".join(_unjustified(page.extract_text()) for page in reader.pages)
    except pypdf.errors.PyPdfError as error:
        raise _damaged(path, ".pdf", error) from error


def _unjustified(text: str) -> str:
    """With single spaces in lines that have only wider ones, as those have that are stretched to the full width."""
    stretched = re.compile(r"^(\S+ {2,})+\S+$", re.MULTILINE)
    return stretched.sub(lambda line: re.sub(" {2,}", " ", line[0]), text)


def _read_docx(path: Path) -> str:
    """Paragraphs, and the rows of tables with tabs between the cells, in the order of the document."""
    docx = _library("docx", "a .docx file")
    try:
        document = docx.Document(str(path))
    except (docx.opc.exceptions.PackageNotFoundError, KeyError, ValueError) as error:
        with path.open("rb") as file:
            if file.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":  # what encrypted files and .doc files begin with
                raise DataError(
                    f"{path} is encrypted with a password, or an old .doc file; save a copy as .docx without a password"
                ) from None
        raise _damaged(path, ".docx", error) from error
    lines: list[str] = []
    for part in document.iter_inner_content():
        lines += [part.text] if hasattr(part, "runs") else _rows(part)
    return "\n".join(lines)


def _rows(table: Any) -> list[str]:
    """One line for each row of a docx.table.Table; what is in a cell that spans several columns stands there once."""
    rows = []
    for row in table.rows:
        cells = {id(cell._tc): cell.text.strip() for cell in row.cells}  # merged cells are listed more than once
        rows.append("\t".join(cells.values()))
    return rows


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data[:4096]:
        raise DataError(f"{path} is no text; expected a .pdf, .docx or .txt file, so save it as one of them")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


_READERS: dict[str, Callable[[Path], str]] = {".pdf": _read_pdf, ".docx": _read_docx}


def _library(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BackendUnavailableError(
            f"{what} needs the library {name}, which is not installed; pip install 'baby-mamba[extraction]', or save "
            "the file as .txt"
        ) from None


def _damaged(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"{path} is not a {kind} file, or it is damaged ({error}); save it again, or as .txt")
