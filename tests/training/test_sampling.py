from pathlib import Path

import pytest
import torch

from baby_mamba.config import DatasetConfig, GenerationConfig, MambaConfig
from baby_mamba.data import ByteTokenizer, CharTokenizer, Tokenizer, fit_tokenizer
from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.generation import generate
from baby_mamba.models import Mamba
from baby_mamba.training import sampling
from baby_mamba.training.sampling import append_text, sample_text, stream_text

TEXT = "naïve 日本 🐍 text, "


def tokenizers() -> list[Tokenizer]:
    bpe = fit_tokenizer(DatasetConfig(tokenizer="bpe", bpe_vocab_size=270), TEXT * 20)
    return [CharTokenizer(TEXT), ByteTokenizer(), bpe]


def build(tokenizer: Tokenizer, extra: int = 0) -> Mamba:
    torch.manual_seed(0)
    return Mamba(MambaConfig(vocab_size=tokenizer.vocab_size + extra, n_layer=1, d_model=8, backend="reference"))


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda tokenizer: tokenizer.kind)
def test_text_is_that_of_generate(tokenizer: Tokenizer) -> None:
    config = GenerationConfig(num_generated_tokens=20, prompt="text", top_k=9, top_p=0.9, temperature=0.7)
    model = build(tokenizer)
    ids = generate(
        model,
        torch.tensor(tokenizer.encode("text"))[None],
        max_new_tokens=20,
        temperature=0.7,
        top_k=9,
        top_p=0.9,
        generator=torch.Generator().manual_seed(config.sampling_seed),
    )
    assert sample_text(model, tokenizer, config) == tokenizer.decode(ids[0].tolist())


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda tokenizer: tokenizer.kind)
def test_characters_come_whole(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are a part of a character are held back until the rest is there; nothing is lost at the end."""
    ids = tokenizer.encode(TEXT).tolist()
    monkeypatch.setattr(sampling, "stream", lambda *args, **kwargs: (torch.tensor([id]) for id in ids))
    pieces = list(stream_text(build(tokenizer), tokenizer, GenerationConfig(prompt="n")))
    assert "".join(pieces) == TEXT
    assert "\ufffd" not in "".join(pieces)
    assert len(pieces) > 5  # it comes as it is drawn

    monkeypatch.setattr(sampling, "stream", lambda *args, **kwargs: (torch.tensor([id]) for id in [0xF0, 0x9F]))
    assert "".join(stream_text(build(ByteTokenizer()), ByteTokenizer(), GenerationConfig(prompt="n"))) == "\ufffd"


def test_tokens_of_a_padded_vocabulary_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ByteTokenizer()
    monkeypatch.setattr(sampling, "stream", lambda *args, **kwargs: (torch.tensor([id]) for id in [65, 256, 66]))
    assert sample_text(build(tokenizer, extra=8), tokenizer, GenerationConfig(prompt="n")) == "nAB"


def test_prompts(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = CharTokenizer("abc")
    model = build(tokenizer)
    with pytest.raises(ConfigError, match=r"generation_config\.prompt is empty"):
        sample_text(model, tokenizer, GenerationConfig(prompt=""))
    assert sample_text(model, tokenizer, GenerationConfig(prompt="axyb", num_generated_tokens=1)).startswith("axyb")
    assert "never seen: 'x' 'y'" in caplog.text


def test_append_text(tmp_path: Path) -> None:
    for text in ("één", "two"):
        append_text(tmp_path / "new" / "out.txt", text)
    assert (tmp_path / "new" / "out.txt").read_bytes() == "ééntwo".encode()
    with pytest.raises(CheckpointError, match=r"cannot be written: .*generated_text_path"):
        append_text(tmp_path, "x")
