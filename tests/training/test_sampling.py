from pathlib import Path

import pytest
import torch

from baby_mamba.config import GenerationConfig, MambaConfig
from baby_mamba.data import CharTokenizer
from baby_mamba.errors import CheckpointError
from baby_mamba.models import Mamba
from baby_mamba.text_generation import generate_text
from baby_mamba.training.sampling import append_text, sample_text


def test_a_sample_is_what_the_configuration_says() -> None:
    tokenizer = CharTokenizer("abc ")
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=tokenizer.vocab_size, n_layer=1, d_model=8, backend="reference"))
    options = {"temperature": 0.7, "top_k": 4, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1}
    config = GenerationConfig(num_generated_tokens=20, prompt="cab ", sampling_seed=5, stop="aa", **options)
    (expected,) = generate_text(model, tokenizer, ["cab "], max_new_tokens=20, seed=5, stop="aa", **options)
    assert sample_text(model, tokenizer, config) == "cab " + expected
    long = GenerationConfig(num_generated_tokens=20, prompt="cab ", sampling_seed=5, **options)
    assert len(sample_text(model, tokenizer, long)) == 4 + 20


def test_append_text(tmp_path: Path) -> None:
    for text in ("één", "two"):
        append_text(tmp_path / "new" / "out.txt", text)
    assert (tmp_path / "new" / "out.txt").read_bytes() == "ééntwo".encode()
    with pytest.raises(CheckpointError, match=r"cannot be written: .*generated_text_path"):
        append_text(tmp_path, "x")
