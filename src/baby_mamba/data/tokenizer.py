"""Turns text into token ids and back.

    tokenizer = fit_tokenizer(DatasetConfig(tokenizer="char"), corpus.train)
    ids = tokenizer.encode("Mamba")
    tokenizer.decode(ids)  # "Mamba"

| kind           | a token is                                | vocabulary                                          |
|----------------|-------------------------------------------|-----------------------------------------------------|
| `char`         | a character                               | those of the training text, and one for any other   |
| `byte`         | a byte of UTF-8                           | 256                                                 |
| `bpe`          | a string of bytes that is often met       | 256 bytes, and merges learnt from the training text |
| `transformers` | whatever that library's tokenizer makes it | its own                                             |

A character is one token of `char`; elsewhere it may be split over several, and decoding a part of it gives U+FFFD.
`MaskTokenizer` adds a token to any of them, for models that fill blanks.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tokenizers
from jaxtyping import Int64, Integer
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from baby_mamba.config import DatasetConfig
from baby_mamba.errors import CheckpointError, DataError

REPLACEMENT_CHARACTER = "\ufffd"

MASK = "[MASK]"  # how a mask is shown

_DESCRIPTION, _WITHOUT_MASK = "baby_mamba_tokenizer.json", "without_mask"


class Tokenizer(ABC):
    """Turns text into token ids and back.

    Attributes:
        kind: its name in the saved description.
        vocab_size: ids are in [0, vocab_size).
    """

    kind: ClassVar[str]
    vocab_size: int

    def encode(self, text: str) -> Int64[np.ndarray, " tokens"]:
        """The token ids of a text.

        Raises:
            DataError: the text holds half of a surrogate pair, which is no character.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"text holds half of a surrogate pair, \\u{ord(text[error.start]):04x}, at character {error.start}; "
                "expected whole characters, so remove it or decode the text with the right encoding"
            ) from None
        return self._encode(text)

    def decode(self, ids: Sequence[int] | Integer[np.ndarray, " tokens"] | Integer[Tensor, " tokens"]) -> str:
        """The text of token ids, on any device; ids that make no whole character give U+FFFD.

        Raises:
            DataError: an id is not in [0, vocab_size).
        """
        ids = np.asarray(ids.tolist() if isinstance(ids, Tensor) else ids, dtype=np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.vocab_size):
            wrong = ids[(ids < 0) | (ids >= self.vocab_size)][0]
            raise DataError(
                f"token id {wrong} is not in the vocabulary, 0 to {self.vocab_size - 1}; use the tokenizer that the "
                "model was trained with"
            )
        return self._decode(ids)

    def unknown_characters(self, text: str) -> dict[str, int]:
        """How often each character that the vocabulary cannot express occurs in a text."""
        return {}  # true of everything that works on bytes

    def save(self, folder: str | Path) -> None:
        """Write all that `load_tokenizer` needs into a folder, which is made if it is missing.

        Raises:
            OSError: it cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_vocabulary(folder)
        description = {"kind": self.kind, "vocab_size": self.vocab_size, **self._description()}
        text = json.dumps(description, indent=2, ensure_ascii=False)
        (folder / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    @abstractmethod
    def _encode(self, text: str) -> np.ndarray: ...

    @abstractmethod
    def _decode(self, ids: np.ndarray) -> str: ...

    def _description(self) -> dict[str, Any]:
        """What `_load` needs beside the files of `_save_vocabulary`."""
        return {}

    def _save_vocabulary(self, folder: Path) -> None:  # noqa: B027  # most kinds have no such files
        """Write the files of another library."""

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> Tokenizer: ...


class CharTokenizer(Tokenizer):
    """One token per character. The last id stands for every character that is not in the vocabulary.

    The training text has no such character, so a model learns nothing about that id.
    """

    kind = "char"

    def __init__(self, characters: Iterable[str]) -> None:
        """Take the characters of the vocabulary in any order; repetitions do not matter."""
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = len(self.characters) + 1
        self.unknown_id = self.vocab_size - 1
        self._code_point_of = _code_points(self.characters + REPLACEMENT_CHARACTER)  # by id
        self._id_of = np.full(0x110000, self.unknown_id)  # by code point: one look-up encodes a whole text
        self._id_of[_code_points(self.characters)] = np.arange(self.unknown_id)

    def _encode(self, text: str) -> np.ndarray:
        return self._id_of[_code_points(text)]

    def _decode(self, ids: np.ndarray) -> str:
        return self._code_point_of[ids].tobytes().decode("utf-32-le")

    def unknown_characters(self, text: str) -> dict[str, int]:
        """How often each character that the training text did not have occurs in a text."""
        code_points = _code_points(text)
        unknown = code_points[self._id_of[code_points] == self.unknown_id]
        return {chr(code): int(count) for code, count in zip(*np.unique(unknown, return_counts=True), strict=True)}

    def _description(self) -> dict[str, Any]:
        return {"characters": self.characters}

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> CharTokenizer:
        return cls(description["characters"])


class ByteTokenizer(Tokenizer):
    """One token per byte of the text in UTF-8."""

    kind = "byte"
    vocab_size = 256

    def _encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def _decode(self, ids: np.ndarray) -> str:
        return ids.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> ByteTokenizer:
        return cls()


class BPETokenizer(Tokenizer):
    """Byte-pair encoding of UTF-8, by the `tokenizers` library (Sennrich et al., 2016, arXiv 1508.07909; on bytes, as
    in GPT-2). Its tokenizer.json is that library's own.
    """

    kind = "bpe"

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()

    @classmethod
    def fit(cls, text: str, vocab_size: int) -> BPETokenizer:
        """Learn merges until there are `vocab_size` tokens, or nothing is left to merge in a short text."""
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(_lines(text), trainer)
        return cls(tokenizer)

    def _encode(self, text: str) -> np.ndarray:
        # Some lines at a time: for one long text `tokenizers` takes 400 bytes of memory per token, and a time that
        # grows faster than the text.
        lines, at_once = _lines(text), 10_000
        parts = [np.zeros(0, dtype=np.int64)]
        for first in range(0, len(lines), at_once):
            encodings = self._tokenizer.encode_batch(lines[first : first + at_once])
            parts.append(np.array([id for encoding in encodings for id in encoding.ids], dtype=np.int64))
        return np.concatenate(parts)

    def _decode(self, ids: np.ndarray) -> str:
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)

    def _save_vocabulary(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> BPETokenizer:
        return cls(tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8")))


class TransformersTokenizer(Tokenizer):
    """A tokenizer of the `transformers` library. No special tokens are added to a text."""

    kind = "transformers"

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a `transformers.PreTrainedTokenizerBase`."""
        self._tokenizer = tokenizer
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps

    @classmethod
    def from_folder(cls, folder: str | Path) -> TransformersTokenizer:
        """Load what `save_pretrained` wrote. Nothing is fetched, and no code in the folder is run.

        Raises:
            DataError: the package `transformers` is missing, or the folder holds no tokenizer that it can load.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise DataError(
                f"tokenizer {str(folder)!r} needs the package transformers, which cannot be imported ({error}); "
                "pip install 'baby-mamba[transformers]'"
            ) from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # OSError, ValueError, KeyError, ImportError, ...: it depends on the tokenizer
            raise DataError(
                f"{folder} holds no tokenizer that transformers can load ({_first_line(error)}); expected a folder "
                "that its save_pretrained wrote, with tokenizer.json or the vocabulary files"
            ) from error
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # made up from a model's config.json alone
            raise DataError(
                f"{folder} holds a tokenizer without a vocabulary; expected a folder that save_pretrained wrote, with "
                "tokenizer.json or the vocabulary files"
            )
        return cls(tokenizer)

    def _encode(self, text: str) -> np.ndarray:
        # verbose: no warning that a corpus is longer than what a Transformer can read
        return np.array(self._tokenizer.encode(text, add_special_tokens=False, verbose=False), dtype=np.int64)

    def _decode(self, ids: np.ndarray) -> str:
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def unknown_characters(self, text: str) -> dict[str, int]:
        """How often each character that alone becomes the tokenizer's unknown token occurs in a text."""
        unknown_id = self._tokenizer.unk_token_id
        if unknown_id is None:
            return {}
        return {character: n for character, n in Counter(text).items() if unknown_id in self._encode(character)}

    def _save_vocabulary(self, folder: Path) -> None:
        self._tokenizer.save_pretrained(str(folder))

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> TransformersTokenizer:
        return cls.from_folder(folder)


class MaskTokenizer(Tokenizer):
    """Another tokenizer with one token more, the mask, which no text has: it stands where a token is hidden.

    Attributes:
        tokenizer: the other one; its ids stay what they are.
        mask_id: the last id.
    """

    kind = "mask"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.mask_id = tokenizer.vocab_size
        self.vocab_size = tokenizer.vocab_size + 1

    def _encode(self, text: str) -> np.ndarray:
        return self.tokenizer._encode(text)

    def _decode(self, ids: np.ndarray) -> str:
        """What stands between two masks is decoded by itself."""
        parts = np.split(ids, np.flatnonzero(ids == self.mask_id))  # but for the first, each begins with a mask
        return MASK.join(self.tokenizer._decode(part[part != self.mask_id]) for part in parts)

    def unknown_characters(self, text: str) -> dict[str, int]:
        """How often each character that the vocabulary cannot express occurs in a text."""
        return self.tokenizer.unknown_characters(text)

    def _save_vocabulary(self, folder: Path) -> None:
        self.tokenizer.save(folder / _WITHOUT_MASK)

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> MaskTokenizer:
        return cls(load_tokenizer(folder / _WITHOUT_MASK))


_KINDS: dict[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (CharTokenizer, ByteTokenizer, BPETokenizer, TransformersTokenizer, MaskTokenizer)
}


def fit_tokenizer(config: DatasetConfig, text: str) -> Tokenizer:
    """The tokenizer that `config.tokenizer` names.

    Args:
        config: names it, and gives the size of a BPE vocabulary.
        text: the training split; what is held out must not shape the vocabulary.

    Raises:
        DataError: it is neither char, byte, bpe nor a folder with a transformers tokenizer.
    """
    if config.tokenizer == "char":
        return CharTokenizer(text)
    if config.tokenizer == "byte":
        return ByteTokenizer()
    if config.tokenizer == "bpe":
        return BPETokenizer.fit(text, config.bpe_vocab_size)
    folder = Path(config.tokenizer).expanduser()
    if not (config.tokenizer and folder.is_dir()):
        raise DataError(
            f"dataset.tokenizer = {config.tokenizer!r} is not allowed; expected char, byte, bpe, or the path of a "
            "folder with a transformers tokenizer"
        )
    return TransformersTokenizer.from_folder(folder)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a tokenizer that `Tokenizer.save` wrote.

    Raises:
        CheckpointError: it is missing, damaged or not one of ours, or needs a package that is not installed.
    """
    folder = Path(folder)
    path = folder / _DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = _KINDS[description["kind"]]._load(folder, description)
        expected = description["vocab_size"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no tokenizer in {folder}: {error.filename} is missing; expected a folder that Tokenizer.save wrote "
            "(a transformers tokenizer is read with dataset.tokenizer=FOLDER)"
        ) from None
    except Exception as error:  # each library has its own way to say that its file is damaged
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {_first_line(error)}); restore the "
            "folder from a copy, or train again"
        ) from error
    if tokenizer.vocab_size != expected:
        raise CheckpointError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens and {path.name} says {expected}: the files "
            "are of different tokenizers; restore the folder from a copy, or train again"
        )
    return tokenizer


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _lines(text: str) -> list[str]:
    """Cut a text before each line feed that follows a printing character: no word of GPT-2's pattern goes on there."""
    return re.split(r"(?<=\S)(?=\n)", text)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
