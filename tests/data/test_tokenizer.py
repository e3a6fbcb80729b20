import json
import subprocess
import sys
import timeit

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from baby_mamba.config import DatasetConfig
from baby_mamba.data import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    TransformersTokenizer,
    fit_tokenizer,
    load_tokenizer,
)
from baby_mamba.errors import CheckpointError, DataError

TEXT = "The snake, a black mamba, is quick.\n\nA mamba's scan is quick: naïve Δ, ☃ and 🐍.\n" * 20
KINDS = ["char", "byte", "bpe"]

properties = settings(max_examples=60, deadline=None, derandomize=True)
# Many line feeds and blanks of all sorts: where a word ends is where a BPE can go wrong.
texts = st.text(st.one_of(st.sampled_from("ab '\n\r\t\x0b\x1c\x85\xa0\u2028s1."), st.characters(codec="utf-8")))


def fit(kind: str, text: str = TEXT):
    return fit_tokenizer(DatasetConfig(tokenizer=kind, bpe_vocab_size=300), text)


@pytest.fixture(scope="module")
def bpe():
    return fit("bpe")


# All kinds


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind):
    tokenizer = fit(kind)
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.decode(ids.tolist()) == TEXT
    assert tokenizer.decode(ids.astype(np.uint16)) == TEXT
    assert tokenizer.unknown_characters(TEXT) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_empty_text(kind):
    tokenizer = fit(kind)
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("").dtype == np.int64
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind, tmp_path):
    tokenizer = fit(kind)
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = load_tokenizer(tmp_path / "new" / "folder")
    assert type(loaded) is type(tokenizer)
    assert loaded.kind == kind
    assert loaded.vocab_size == tokenizer.vocab_size
    unseen = TEXT + "日本 \r\n"
    np.testing.assert_array_equal(loaded.encode(unseen), tokenizer.encode(unseen))
    assert loaded.decode(loaded.encode(unseen)) == tokenizer.decode(tokenizer.encode(unseen))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [-1, 100_000])
def test_ids_out_of_range_are_refused(kind, wrong):
    tokenizer = fit(kind)
    with pytest.raises(DataError, match=rf"token id {wrong} is not .* 0 to {tokenizer.vocab_size - 1}"):
        tokenizer.decode([0, wrong])


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_surrogate_pair_is_refused(kind):
    with pytest.raises(DataError, match=r"\\udcff, at character 2"):
        fit(kind).encode("ab\udcff")


@given(texts)
@properties
def test_bytes_express_every_text(text):
    for tokenizer in (ByteTokenizer(), fit("bpe", "ab ab\n\nab")):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.unknown_characters(text) == {}


# char


def test_char_vocabulary_is_the_sorted_characters_and_one_unknown():
    tokenizer = fit("char", "banana\n")
    assert tokenizer.characters == "\nabn"
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("ban\n").tolist() == [2, 1, 3, 0]


def test_char_unknown_characters_are_one_token_and_are_counted():
    tokenizer = fit("char", "banana")
    assert tokenizer.encode("b🐍né").tolist() == [1, 3, 2, 3]
    assert tokenizer.decode(tokenizer.encode("b🐍né")) == "b\ufffdn\ufffd"
    assert tokenizer.unknown_characters("🐍né🐍") == {"é": 1, "🐍": 2}


@given(texts, texts)
@properties
def test_char_keeps_what_the_training_text_had(train, text):
    tokenizer = CharTokenizer(train)
    expected = "".join(c if c in train else "\ufffd" for c in text)
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert sum(tokenizer.unknown_characters(text).values()) == sum(c not in train for c in text)


def test_char_encodes_without_a_loop():
    tokenizer, megabyte = fit("char"), (TEXT * 1000)[:1_000_000]
    id_of = {character: i for i, character in enumerate(tokenizer.characters)}
    ours = min(timeit.repeat(lambda: tokenizer.encode(megabyte), number=1, repeat=5))
    loop = min(timeit.repeat(lambda: [id_of[character] for character in megabyte], number=1, repeat=5))
    assert ours < loop / 2  # about a tenth


# byte and bpe


def test_bytes():
    tokenizer = fit("byte")
    assert tokenizer.vocab_size == 256
    assert tokenizer.encode("é\n").tolist() == [0xC3, 0xA9, 0x0A]


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_part_of_a_character_is_replaced(kind):
    tokenizer = fit(kind, "plain")
    ids = tokenizer.encode("a🐍")
    assert len(ids) == 5
    assert tokenizer.decode(ids[:3]).startswith("a\ufffd")


def test_bpe_learns_the_size_that_is_asked_for_or_less(bpe):
    assert bpe.vocab_size == 300
    assert len(bpe.encode(TEXT)) < len(TEXT.encode()) / 2
    assert 256 <= fit("bpe", "ab").vocab_size <= 258


def test_bpe_is_deterministic(bpe, tmp_path):
    fit("bpe").save(tmp_path / "again")
    script = (
        "import sys; from pathlib import Path; from baby_mamba.data import BPETokenizer;"
        f"BPETokenizer.fit({TEXT!r}, 300).save(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "elsewhere")], check=True)
    bpe.save(tmp_path / "first")
    first, *others = [(tmp_path / name / "tokenizer.json").read_text() for name in ("first", "again", "elsewhere")]
    assert others == [first, first]


def test_bpe_file_is_that_of_the_tokenizers_library(bpe, tmp_path):
    bpe.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(TEXT).ids == bpe.encode(TEXT).tolist()


@given(texts)
@properties
def test_bpe_encodes_lines_as_it_would_the_whole(text):
    tokenizer = fit("bpe", TEXT)
    assert tokenizer.encode(text).tolist() == tokenizer._tokenizer.encode(text).ids


def test_bpe_encodes_more_lines_than_it_takes_at_once(bpe):
    many = "\n".join(map(str, range(25_000)))
    assert bpe.decode(bpe.encode(many)) == many


# transformers


@pytest.fixture
def transformers_folder(tmp_path):
    pytest.importorskip("transformers")
    from transformers import PreTrainedTokenizerFast

    words = {"[UNK]": 0, "mamba": 1, "scan": 2, "a": 3, ",": 4, "[BOS]": 7}  # 5 and 6 are not used
    theirs = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    theirs.post_processor = tokenizers.processors.TemplateProcessing("[BOS] $A", special_tokens=[("[BOS]", 7)])
    fast = PreTrainedTokenizerFast(tokenizer_object=theirs, unk_token="[UNK]", bos_token="[BOS]", model_max_length=2)
    fast.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_transformers(transformers_folder, tmp_path):
    tokenizer = fit(str(transformers_folder))
    assert tokenizer.vocab_size == 8
    assert tokenizer.encode("a mamba, scan").tolist() == [3, 1, 4, 2]  # and no [BOS]
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([3, 1]) == "a mamba"
    assert tokenizer.unknown_characters("a, é é") == {"é": 2}

    tokenizer.save(tmp_path / "ours")
    transformers_folder.rename(tmp_path / "moved")  # what was saved needs nothing else
    loaded = load_tokenizer(tmp_path / "ours")
    assert isinstance(loaded, TransformersTokenizer)
    assert loaded.encode("a mamba, scan").tolist() == [3, 1, 4, 2]
    assert loaded.vocab_size == 8


def test_transformers_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r"pip install 'baby-mamba\[transformers\]'"):
        fit(str(tmp_path))
    description = {"kind": "transformers", "vocab_size": 8}
    (tmp_path / "baby_mamba_tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"pip install 'baby-mamba\[transformers\]'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("path", ["chars", "", "nowhere/at/all", __file__])
def test_neither_a_kind_nor_a_folder(path):
    with pytest.raises(DataError, match=r"is not allowed; expected char, byte, bpe, or the path of a folder"):
        fit(path)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer.json": "{"},
        {"config.json": '{"model_type": "gpt_neox"}'},
        {"config.json": '{"model_type": "x"}'},
    ],
    ids=["empty", "broken", "model-without-tokenizer", "unknown-model"],
)
def test_folder_without_a_tokenizer(tmp_path, files):
    pytest.importorskip("transformers")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"holds (no tokenizer|a tokenizer without a vocabulary).*save_pretrained"):
        fit(str(tmp_path))


# Loading what is not there


def test_load_from_a_missing_or_foreign_folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"no tokenizer in .*baby_mamba_tokenizer.json is missing"):
            load_tokenizer(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"kind": "morse", "vocab_size": 3}', '{"kind": "char", "vocab_size": 3}', "\xff"]
)
def test_load_a_damaged_description(tmp_path, text):
    (tmp_path / "baby_mamba_tokenizer.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"cannot be read \(.*restore"):
        load_tokenizer(tmp_path)


def test_load_a_damaged_bpe(bpe, tmp_path):
    bpe.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text()[:-100])
    with pytest.raises(CheckpointError, match=r"cannot be read \(.*restore"):
        load_tokenizer(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing"):
        load_tokenizer(tmp_path)


def test_load_files_of_different_tokenizers(bpe, tmp_path):
    bpe.save(tmp_path)
    BPETokenizer.fit(TEXT, 280).save(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").replace(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"has 280 tokens and baby_mamba_tokenizer.json says 300"):
        load_tokenizer(tmp_path)
