"""Reads a corpus as one string and holds its end out.

    corpus = load_corpus(DatasetConfig(dataset_path="novel.txt"))
    corpus.train, corpus.validation

The held-out part is the end of the text rather than random pieces of it: pieces would leave the training text on both
sides of each held-out one, and the held-out loss would flatter the model.
"""

import hashlib
import http.client
import json
import logging
import os
import sysconfig
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from baby_mamba.config import DatasetConfig
from baby_mamba.errors import DataError

logger = logging.getLogger("baby_mamba")

TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

_EXPECTED = (
    "expected python-manual, python-library, tinyshakespeare, or the path of a .txt file, a folder of .txt files or a "
    ".jsonl file"
)


@dataclass(frozen=True)
class Corpus:
    """A text in two parts.

    Attributes:
        name: what dataset.dataset_path says.
        train: the text to learn from; lines end in a line feed.
        validation: the text that follows it, which only evaluation sees.
    """

    name: str
    train: str
    validation: str


def load_corpus(config: DatasetConfig) -> Corpus:
    """Read the text at `config.dataset_path` and hold out the last `config.validation_fraction` of its characters.

    Documents of a folder (in the order of their paths) or of a .jsonl file are joined by blank lines. Line endings
    become line feeds and a byte order mark is dropped.

    Raises:
        DataError: the path is missing, unreadable, of another kind, or holds no text; a file is binary or not UTF-8;
            a .jsonl line is not an object whose `config.text_field` is a string; tinyshakespeare cannot be fetched.
    """
    name = config.dataset_path
    if name == "python-manual":
        documents = _python_manual()
    elif name == "python-library":
        documents = _python_library()
    elif name == "tinyshakespeare":
        documents = [_tinyshakespeare()]
    else:
        documents = _read_path(Path(os.path.expanduser(name)), config)
    text = "\n\n".join(document for document in documents if document.strip())
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text:
        raise DataError(f"corpus {name!r} is empty; expected text, so choose another dataset.dataset_path")

    n_train = int(len(text) * (1 - config.validation_fraction))
    if not 0 < n_train < len(text):
        raise DataError(
            f"corpus {name!r} has {len(text)} characters, too few for a split with "
            f"validation_fraction = {config.validation_fraction:g}; use a longer text or change the fraction"
        )
    return Corpus(name, train=text[:n_train], validation=text[n_train:])


def _read_path(path: Path, config: DatasetConfig) -> list[str]:
    """The documents at a path that the user chose."""
    try:
        if path.is_file() and path.suffix.lower() == ".txt":
            return [_read_text(path)]
        if path.is_file() and path.suffix.lower() == ".jsonl":
            return _read_jsonl(path, config.text_field)
        if path.is_dir() and config.dataset_path:  # an empty path would be the current folder
            return _read_folder(path)
        if path.exists():
            raise DataError(f"dataset.dataset_path = {config.dataset_path!r} is of another kind; {_EXPECTED}")
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}; check the path and its permissions"
        ) from None
    raise DataError(
        f"dataset.dataset_path = {config.dataset_path!r} does not exist (current folder: {Path.cwd()}); {_EXPECTED}"
    )


def _read_folder(folder: Path) -> list[str]:
    """The text of every .txt file at any depth, in the order of their paths."""

    def stop(error: OSError) -> None:
        raise error  # os.walk and Path.rglob pass over a folder that cannot be read

    paths = [Path(parent, name) for parent, _, names in os.walk(folder, onerror=stop) for name in names]
    paths = sorted((path for path in paths if path.suffix.lower() == ".txt"), key=Path.as_posix)
    if not paths:
        raise DataError(f"folder {folder} holds no .txt file, at any depth; {_EXPECTED}")
    return [_read_text(path) for path in paths]


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data:
        raise DataError(
            f"{path} holds a NUL byte at offset {data.index(0)}: it is binary, or text in UTF-16; "
            "expected text, so save it as UTF-8"
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}, offset {error.start}; "
            "save the file as UTF-8"
        ) from None


def _read_jsonl(path: Path, text_field: str) -> list[str]:
    """The text of every line of a .jsonl file; blank lines are passed over."""
    documents = []
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it splits at.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON ({error}); expected one object per line") from None
        if not isinstance(record, dict):
            raise DataError(f"{where} is {type(record).__name__}; expected an object with a field {text_field!r}")
        if text_field not in record:
            fields = ", ".join(record) or "none"
            raise DataError(
                f"{where} has no field {text_field!r}; set dataset.text_field to one of its fields: {fields}"
            )
        document = record[text_field]
        if not isinstance(document, str):
            raise DataError(f"{where}: field {text_field!r} is {type(document).__name__}; expected a string")
        try:
            document.encode("utf-8")
        except UnicodeEncodeError as error:
            surrogate = ord(document[error.start])
            raise DataError(
                f"{where}: field {text_field!r} holds half of a surrogate pair, \\u{surrogate:04x}; "
                "expected whole characters, so repair the line"
            ) from None
        documents.append(document)
    return documents


def _python_manual() -> list[str]:
    """The topics of `help()`: English prose and code that comes with every CPython and differs a little by version."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "python-manual: this Python comes without pydoc_data.topics; use dataset.dataset_path=FILE with a .txt file"
        ) from None
    paragraphs = "\n\n".join(topics[name].strip("\n") for name in sorted(topics)).split("\n\n")
    # Many topics are also sections of others. Each paragraph counts once, or the held-out end would hold passages that
    # were trained on. Tables are left out: a model of characters that has begun one draws lines and blanks for long.
    return ["\n\n".join(dict.fromkeys(p for p in paragraphs if "--+" not in p))]


def _python_library() -> list[str]:
    """The modules of the standard library, some 10 MB of source code, which differ a little by version.

    Tests are left out, and files that are not plain ASCII: with those a vocabulary of characters would be mostly of
    letters that occur once.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    documents = []
    for path in sorted(folder.rglob("*.py"), key=Path.as_posix):
        if not {"site-packages", "dist-packages", "test", "tests"}.intersection(path.relative_to(folder).parts):
            data = path.read_bytes()
            if data.isascii():
                documents.append(data.decode("ascii"))
    if not documents:
        raise DataError(
            f"python-library: this Python keeps no source code in {folder}; use dataset.dataset_path=FILE or FOLDER"
        )
    # By name the held-out end would be of a few modules, all beginning with the same letters.
    np.random.default_rng(0).shuffle(documents)
    return documents


def _tinyshakespeare() -> str:
    """40,000 lines of Shakespeare from the user's cache folder, fetched the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "baby_mamba")
    path = cache / "tinyshakespeare.txt"
    try:
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # of the processes of one job, one fetches
                if not path.exists():
                    data = _download_tinyshakespeare(path)
                    unfinished = path.with_suffix(".part")
                    unfinished.write_bytes(data)
                    os.replace(unfinished, path)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"tinyshakespeare: {error.filename or path} cannot be used: {error.strerror}; set XDG_CACHE_HOME to a "
            "folder that you may write to, or use dataset.dataset_path=FILE"
        ) from None
    if hashlib.sha256(data).hexdigest() != TINYSHAKESPEARE_SHA256:
        raise DataError(f"tinyshakespeare: {path} is damaged (its sha256 is wrong); delete it and run again")
    return data.decode("utf-8")


def _download_tinyshakespeare(path: Path) -> bytes:
    remedy = f"save {TINYSHAKESPEARE_URL} as {path}, or use dataset.dataset_path=FILE with a copy that you have"
    logger.info("tinyshakespeare: fetching %s to %s", TINYSHAKESPEARE_URL, path)
    try:
        with urllib.request.urlopen(TINYSHAKESPEARE_URL, timeout=30) as response:
            data = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"tinyshakespeare is not on this computer and cannot be fetched ({error}); {remedy}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != TINYSHAKESPEARE_SHA256:
        raise DataError(
            f"tinyshakespeare: what came has sha256 {digest}, expected {TINYSHAKESPEARE_SHA256}; a proxy may have "
            f"answered instead: {remedy}"
        )
    return data
