import argparse
import bisect
import hashlib
import io
import json
import os
import sys
import tokenize
import urllib.request
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from baby_mamba.config import DatasetConfig
from baby_mamba.data import corpus as corpus_module
from baby_mamba.data import load_corpus
from baby_mamba.errors import DataError


def load(path: Path | str, **keys):
    return load_corpus(DatasetConfig(dataset_path=str(path), **keys))


def whole(corpus) -> str:
    return corpus.train + corpus.validation


def write_jsonl(path: Path, *records) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(ord("a") + i % 26) for i in range(1000)), encoding="utf-8")
    return path


# Splitting


@pytest.mark.parametrize(("fraction", "n_validation"), [(0.1, 100), (0.25, 250), (0.0001, 1), (0.999, 999)])
def test_the_end_of_the_text_is_held_out(text_file, fraction, n_validation):
    corpus = load(text_file, validation_fraction=fraction)
    assert corpus.name == str(text_file)
    assert len(corpus.validation) == n_validation
    assert whole(corpus) == text_file.read_text()


@pytest.mark.parametrize(("text", "fraction"), [("a", 0.5), ("a few", 0.9), ("enough", 1e-300)])
def test_a_split_without_characters_is_refused(tmp_path, text, fraction):
    path = tmp_path / "short.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"has {len(text)} characters, too few .* validation_fraction"):
        load(path, validation_fraction=fraction)


# Kinds of corpora


def test_python_manual_holds_every_paragraph_but_tables_once_and_in_order():
    corpus = load("python-manual")
    assert corpus.name == "python-manual"
    paragraphs = "\n\n".join(topics[name].strip("\n") for name in sorted(topics)).split("\n\n")
    paragraphs = [paragraph for paragraph in paragraphs if "--+" not in paragraph]
    held = whole(corpus).split("\n\n")
    assert set(held) == set(paragraphs)
    assert held == sorted(set(paragraphs), key=paragraphs.index)
    assert len(whole(corpus)) > 300_000


def test_python_without_its_manual(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match=r"without pydoc_data.*dataset_path=FILE"):
        load("python-manual")


def test_python_library_is_the_modules_in_mixed_order():
    corpus = load("python-library")
    text = whole(corpus)
    assert text.isascii()
    assert len(text) > 5_000_000
    for module in (argparse, json, bisect):
        assert Path(module.__file__).read_text().replace("\r\n", "\n") in text
    assert text == whole(load("python-library"))
    places = [text.index(Path(module.__file__).read_text()) for module in (argparse, bisect, json, tokenize)]
    assert places != sorted(places)


def test_python_without_its_library(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"python-library.*no source code in .*dataset_path=FILE"):
        load("python-library")


def test_line_endings_and_byte_order_mark(tmp_path):
    path = tmp_path / "windows.TXT"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\nfour \xc3\xa9\r\n")
    assert whole(load(path)) == "one\ntwo\nthree\nfour é\n"


def test_folder_is_read_at_any_depth_in_the_order_of_paths(tmp_path):
    for name, text in {"b.txt": "second", "c/a.txt": "\ufeffthird", "a.txt": "first", "empty.txt": " \n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "notes.md").write_bytes(b"\xff\0 is not read")
    assert whole(load(tmp_path)) == "first\n\nsecond\n\nthird"


def test_home_folder_is_expanded(text_file, monkeypatch):
    monkeypatch.setenv("HOME", str(text_file.parent))
    monkeypatch.setenv("USERPROFILE", str(text_file.parent))
    assert whole(load("~/text.txt")) == text_file.read_text()


def test_jsonl(tmp_path):
    path = tmp_path / "documents.jsonl"
    lines = ['{"text": "one\\r\\ntwo", "id": 1}', "", '{"id": 2, "text": "three \u2028 four"}', '{"text": ""}']
    path.write_bytes("\r\n".join(lines).encode())
    assert whole(load(path)) == "one\ntwo\n\nthree \u2028 four"


def test_jsonl_field(tmp_path):
    path = write_jsonl(tmp_path / "documents.jsonl", {"text": 0, "body": "the body"})
    assert whole(load(path, text_field="body")) == "the body"


# Bad input


@pytest.mark.parametrize("path", ["nowhere.txt", "tiny-shakespeare", "nowhere/", "a\0b"])
def test_missing_path(path):
    with pytest.raises(DataError, match=r"does not exist .*expected python-manual, python-library, tinysh"):
        load(path)


@pytest.mark.parametrize("name", ["table.csv", "README", "records.json"])
def test_wrong_kind_of_file(tmp_path, name):
    (tmp_path / name).write_text("words")
    with pytest.raises(DataError, match=r"is of another kind; expected"):
        load(tmp_path / name)


def test_an_empty_path_is_not_the_current_folder(text_file, monkeypatch):
    monkeypatch.chdir(text_file.parent)
    with pytest.raises(DataError, match="dataset_path = '' is of another kind"):
        load("")


def test_folder_without_text(tmp_path):
    (tmp_path / "notes.md").write_text("words")
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "\ufeff", " \r\n\t"])
def test_empty_corpus(tmp_path, text):
    path = tmp_path / "empty.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        load(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bad_utf8_is_located(tmp_path, mark):
    path = tmp_path / "latin1.txt"
    path.write_bytes(mark + b"one\ntwo \xe9 three\n")
    with pytest.raises(DataError, match=rf"latin1.txt is not UTF-8: byte 0xe9 in line 2, offset {8 + len(mark)};"):
        load(path)


@pytest.mark.parametrize(("data", "offset"), [(b"text\0", 4), ("words".encode("utf-16"), 3)])
def test_nul_bytes(tmp_path, data, offset):
    path = tmp_path / "binary.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"binary.txt holds a NUL byte at offset {offset}: it is binary, or .* UTF-16"):
        load(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', r"line 3 is not JSON \(.*\); expected one object per line"),
        ("[" * 100_000, "line 3 is not JSON"),
        ('["text"]', "line 3 is list; expected an object with a field 'text'"),
        ('{"body": "x", "id": 1}', "line 3 has no field 'text'; set dataset.text_field to one of its fields: body, id"),
        ("{}", "line 3 has no field 'text'; .* none"),
        ('{"text": null}', "line 3: field 'text' is NoneType; expected a string"),
        ('{"text": "a\\ud800"}', r"line 3: field 'text' holds half of a surrogate pair, \\ud800"),
    ],
)
def test_bad_jsonl_line_is_numbered(tmp_path, line, message):
    path = tmp_path / "documents.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        load(path)


def test_unreadable_file(text_file, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # chmod does not stop root
    with pytest.raises(DataError, match=r"text.txt cannot be read: Permission denied; check .* permissions"):
        load(text_file)


def test_unreadable_folder_inside_a_folder_is_not_passed_over(text_file, monkeypatch):
    (text_file.parent / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="closed cannot be read: Permission denied"):
        load(text_file.parent)


# tinyshakespeare

PLAY = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 5


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a short play that has the right checksum."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus_module, "TINYSHAKESPEARE_SHA256", hashlib.sha256(PLAY).hexdigest())
    return tmp_path / "cache" / "baby_mamba"


@pytest.fixture
def network(monkeypatch):
    """Answers each request with `network.answer`, bytes or an error, and lists the requests."""

    class Network:
        answer: bytes | Exception = PLAY

        def __init__(self) -> None:
            self.requests = []

        def urlopen(self, url, timeout):
            self.requests.append(url)
            if isinstance(self.answer, Exception):
                raise self.answer
            return io.BytesIO(self.answer)

    network = Network()
    monkeypatch.setattr(urllib.request, "urlopen", network.urlopen)
    return network


def test_checksum_and_address_are_the_published_ones():
    assert corpus_module.TINYSHAKESPEARE_SHA256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert corpus_module.TINYSHAKESPEARE_URL.endswith("karpathy/char-rnn/master/data/tinyshakespeare/input.txt")


def test_tinyshakespeare_is_fetched_once(cache, network):
    assert whole(load("tinyshakespeare")).encode() == PLAY
    assert whole(load("tinyshakespeare")).encode() == PLAY
    assert network.requests == [corpus_module.TINYSHAKESPEARE_URL]
    assert (cache / "tinyshakespeare.txt").read_bytes() == PLAY
    assert not list(cache.glob("*.part"))


def test_tinyshakespeare_put_there_by_hand_needs_no_network(cache, network):
    cache.mkdir(parents=True)
    (cache / "tinyshakespeare.txt").write_bytes(PLAY)
    assert whole(load("tinyshakespeare")).encode() == PLAY
    assert not network.requests


def test_without_a_network_the_message_says_where_to_put_the_file(cache, network):
    network.answer = urllib.error.URLError("no route to host")
    with pytest.raises(DataError, match=r"no route to host") as error:
        load("tinyshakespeare")
    assert str(cache / "tinyshakespeare.txt") in str(error.value)
    assert corpus_module.TINYSHAKESPEARE_URL in str(error.value)
    assert "dataset.dataset_path=FILE" in str(error.value)


def test_a_wrong_download_is_not_kept(cache, network):
    network.answer = b"<html>please log in</html>"
    with pytest.raises(DataError, match="what came has sha256"):
        load("tinyshakespeare")
    assert not (cache / "tinyshakespeare.txt").exists()


def test_a_damaged_copy_is_refused(cache, network):
    cache.mkdir(parents=True)
    (cache / "tinyshakespeare.txt").write_bytes(PLAY[:-1])
    with pytest.raises(DataError, match=r"tinyshakespeare.txt is damaged .*delete it"):
        load("tinyshakespeare")
    assert not network.requests


def test_a_cache_that_cannot_be_written(cache, network):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="set XDG_CACHE_HOME to a folder that you may write to"):
        load("tinyshakespeare")


def test_cache_folder_without_xdg(cache, network, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    load("tinyshakespeare")
    assert (tmp_path / "home" / ".cache" / "baby_mamba" / "tinyshakespeare.txt").exists()
