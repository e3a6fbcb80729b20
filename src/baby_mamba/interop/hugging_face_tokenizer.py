"""This library's tokenizers as files that `transformers` reads."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from baby_mamba.data.tokenizer import (
    REPLACEMENT_CHARACTER,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    TransformersTokenizer,
)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> dict[str, int | None]:
    """Write a tokenizer for `load_tokenizer` and for transformers' AutoTokenizer; return the ids of special tokens."""
    tokenizer.save(folder)
    if isinstance(tokenizer, TransformersTokenizer):
        from transformers import AutoTokenizer

        saved = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        return {key: getattr(saved, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}

    # The other kinds have no token for the end of a text or for padding, and the libraries that read this need one. It
    # is one that no text has: U+FFFD, or the byte 0.
    if isinstance(tokenizer, CharTokenizer):
        end = end_token = REPLACEMENT_CHARACTER
        converted = _characters(tokenizer)
    else:
        end, end_token = "\0", _tokens_of_bytes()[0]
        converted = _bytes() if isinstance(tokenizer, ByteTokenizer) else None  # bpe's own file is such a one
    if converted is not None:
        converted.save(str(folder / "tokenizer.json"))
    description = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_token,
        "pad_token": end_token,
        **({"unk_token": end_token} if isinstance(tokenizer, CharTokenizer) else {}),
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "split_special_tokens": True,  # the name of a special token within a text is text
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(description, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    (end_id,) = tokenizer.encode(end).tolist()
    return {"eos_token_id": end_id, "pad_token_id": end_id}


def _characters(tokenizer: CharTokenizer) -> tokenizers.Tokenizer:
    """A CharTokenizer in the terms of the library `tokenizers`: every character is a word."""
    ids = {character: id for id, character in enumerate(tokenizer.characters + REPLACEMENT_CHARACTER)}
    converted = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=REPLACEMENT_CHARACTER))
    converted.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), behavior="isolated")
    converted.decoder = decoders.Fuse()
    return converted


def _bytes() -> tokenizers.Tokenizer:
    """A ByteTokenizer in the terms of the library `tokenizers`: byte-pair encoding without a pair."""
    ids = {token: byte for byte, token in enumerate(_tokens_of_bytes())}
    converted = tokenizers.Tokenizer(models.BPE(ids, merges=[]))
    converted.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    converted.decoder = decoders.ByteLevel()
    return converted


def _tokens_of_bytes() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies: itself, or U+0100, U+0101, ..."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    others = iter(sorted(character for character in alphabet if ord(character) > 255))
    return [chr(byte) if chr(byte) in alphabet else next(others) for byte in range(256)]
