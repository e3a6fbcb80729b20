"""Documents written here, and what the readers make of them; and what they say of documents that cannot be read."""

import sys
from pathlib import Path

import docx
import pytest
from fpdf import FPDF
from pypdf import PdfReader, PdfWriter

from baby_mamba.errors import BackendUnavailableError, DataError
from baby_mamba.extraction import read_document, readers


def write_pdf(path: Path, *pages: str) -> Path:
    pdf = FPDF()
    pdf.set_font("helvetica", size=11)
    for text in pages:
        pdf.add_page()
        pdf.multi_cell(0, None, text)
    pdf.output(str(path))
    return path


def encrypted(path: Path, algorithm: str, **passwords: str) -> Path:
    writer = PdfWriter(clone_from=PdfReader(write_pdf(path, "Vel College")))
    writer.encrypt(algorithm=algorithm, **passwords)
    writer.write(path)
    return path


def test_text(tmp_path: Path) -> None:
    for name in ("cv.txt", "cv.md", "cv"):
        (tmp_path / name).write_bytes("Université de Vel\r\n2019".encode("utf-8-sig"))
        assert read_document(tmp_path / name) == "Université de Vel\r\n2019"


def test_pdf(tmp_path: Path) -> None:
    text = read_document(write_pdf(tmp_path / "cv.PDF", "Université de Vel\nBSc, 2019", "second page"))
    assert text.split() == ["Université", "de", "Vel", "BSc,", "2019", "second", "page"]
    assert len(text.splitlines()) == 3


def test_stretched_lines_have_single_spaces(tmp_path: Path) -> None:
    """Justified text is read with wide spaces between words; columns beside single spaces keep theirs."""
    pdf = FPDF()
    pdf.set_font("helvetica", size=11)
    pdf.add_page()
    pdf.multi_cell(60, None, "Master of Science in Supply Chain Management, a somewhat longer text", align="J")
    pdf.output(str(tmp_path / "cv.pdf"))
    assert "  " not in read_document(tmp_path / "cv.pdf")
    assert readers._unjustified("a  b   c\nd e  f\ng") == "a b c\nd e  f\ng"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_encrypted_pdf(tmp_path: Path, algorithm: str) -> None:
    path = encrypted(tmp_path / "cv.pdf", algorithm, user_password="secret", owner_password="more")
    with pytest.raises(DataError, match=r"cv\.pdf is encrypted with a password; save a copy without"):
        read_document(path)


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_protected_pdf_that_anyone_may_read(tmp_path: Path, algorithm: str) -> None:
    path = encrypted(tmp_path / "cv.pdf", algorithm, user_password="", owner_password="secret")
    assert read_document(path).strip() == "Vel College"


def test_scanned_pdf(tmp_path: Path) -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf.rect(10, 10, 50, 50)
    pdf.output(str(tmp_path / "scan.pdf"))
    with pytest.raises(DataError, match=r"scan\.pdf has no text in it, only pictures, as a scan has; .*ocrmypdf"):
        read_document(tmp_path / "scan.pdf")


def test_docx(tmp_path: Path) -> None:
    """Paragraphs and tables in the order of the document; a merged cell is there once."""
    document = docx.Document()
    document.add_paragraph("Education")
    table = document.add_table(2, 3)
    for cell, text in zip(
        [c for row in table.rows for c in row.cells], ["2019", "BSc", "Vel", "a", "b", "c"], strict=True
    ):
        cell.text = text
    table.cell(1, 0).merge(table.cell(1, 1)).text = "ab"
    document.add_paragraph("Languages")
    document.save(tmp_path / "cv.docx")
    assert read_document(tmp_path / "cv.docx") == "Education\n2019\tBSc\tVel\nab\tc\nLanguages"


def test_encrypted_docx(tmp_path: Path) -> None:
    (tmp_path / "cv.docx").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600))
    with pytest.raises(DataError, match=r"cv\.docx is encrypted with a password, or an old \.doc"):
        read_document(tmp_path / "cv.docx")


@pytest.mark.parametrize("name", ["cv.pdf", "cv.docx"])
def test_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"what is this?" * 50)
    with pytest.raises(DataError, match=rf"{name} is not a \.{name[3:]} file, or it is damaged"):
        read_document(tmp_path / name)


def test_cut_off_pdf(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "cv.pdf", "Vel College")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"is not a \.pdf file, or it is damaged|has no text"):
        read_document(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cv\.pdf does not exist; expected a \.pdf, \.docx or \.txt"):
        read_document(tmp_path / "cv.pdf")
    with pytest.raises(DataError, match="is a folder"):
        read_document(tmp_path)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "cv.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"cv\.txt has no text in it; expected"):
        read_document(tmp_path / "cv.txt")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "cv.txt").write_bytes("Universität".encode("latin-1"))
    with pytest.raises(DataError, match=r"cv\.txt is not UTF-8 \(byte 9\); save it as UTF-8"):
        read_document(tmp_path / "cv.txt")
    (tmp_path / "cv.odt").write_bytes(b"PK\x03\x04\0\0\0")
    with pytest.raises(DataError, match=r"cv\.odt is no text; expected a \.pdf, \.docx or \.txt"):
        read_document(tmp_path / "cv.odt")


@pytest.mark.parametrize(("name", "library"), [("cv.pdf", "pypdf"), ("cv.docx", "docx")])
def test_library_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendUnavailableError, match=rf"library {library}, .*pip install 'baby-mamba\[extraction\]'"):
        read_document(tmp_path / name)
