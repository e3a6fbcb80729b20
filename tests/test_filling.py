"""Filling blanks: where they are, what is asked of the model, and the probabilities of the answers."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from baby_mamba import MambaConfig, MambaForMaskedLM, fill_blanks
from baby_mamba.config import DatasetConfig
from baby_mamba.data import MaskTokenizer, fit_tokenizer
from baby_mamba.errors import ConfigError, DataError
from baby_mamba.filling import with_best

TEXT = "She is a good student. He is a bad student. It is a good day. é\n" * 30


def tokenizer_of(kind: str, text: str = TEXT) -> MaskTokenizer:
    return MaskTokenizer(fit_tokenizer(DatasetConfig(tokenizer=kind, bpe_vocab_size=300), text))


def model_of(tokenizer: MaskTokenizer) -> MambaForMaskedLM:
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=tokenizer.vocab_size, d_model=8, n_layer=1, d_state=4, initializer_range=1.0, backend="parallel"
    )
    return MambaForMaskedLM(config).eval()


@pytest.mark.parametrize(
    ("kind", "text", "parts"),
    [
        ("char", "a ___ is", ["a ", 3, " is"]),
        ("char", "_a__", [1, "a", 2]),
        ("byte", "é _ is", ["é ", 1, " is"]),
        ("bpe", "a ___ student", ["a", 1, " student"]),  # the piece brings its own space
        ("bpe", "a___", ["a", 1]),
        ("bpe", "_ _ is", [1, 1, " is"]),
        ("bpe", "a  _", ["a ", 1]),
        ("bpe", "___", [1]),
    ],
)
def test_what_the_model_is_asked(kind: str, text: str, parts: list, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(kind)
    model, seen = model_of(tokenizer), []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    fill_blanks(model, tokenizer, text)
    expected = np.concatenate([[tokenizer.mask_id] * p if isinstance(p, int) else tokenizer.encode(p) for p in parts])
    assert seen[0].tolist() == [expected.tolist()]


def test_a_blank_of_one_token_has_the_models_probabilities() -> None:
    tokenizer = tokenizer_of("bpe")
    model = model_of(tokenizer)
    (blank,) = fill_blanks(model, tokenizer, "a ___ student", n_candidates=10_000)
    ids = np.concatenate([tokenizer.encode("a"), [tokenizer.mask_id], tokenizer.encode(" student")])
    logits = model(torch.from_numpy(ids)[None]).logits[0, len(tokenizer.encode("a"))]
    probabilities = logits[: tokenizer.mask_id].softmax(0)  # anything but a mask
    order = probabilities.argsort(descending=True)
    assert [c.text for c in blank.candidates] == [tokenizer.decode([i]) for i in order.tolist()]
    np.testing.assert_allclose([c.probability for c in blank.candidates], probabilities[order].tolist(), rtol=1e-4)
    assert sum(c.probability for c in blank.candidates) == pytest.approx(1, abs=1e-6)


def test_a_blank_of_two_tokens_is_filled_by_the_chain_rule() -> None:
    tokenizer = tokenizer_of("char", "abcd.")
    model = model_of(tokenizer)
    (blank,) = fill_blanks(model, tokenizer, "a__d", n_candidates=36)
    a, d, mask = *tokenizer.encode("ad").tolist(), tokenizer.mask_id
    expected = {}
    first = model(torch.tensor([[a, mask, mask, d]])).logits[0, 1, :mask].softmax(0).detach()
    for x, y in itertools.product(range(mask), repeat=2):
        second = model(torch.tensor([[a, x, mask, d]])).logits[0, 2, :mask].softmax(0).detach()
        expected[x, y] = float(first[x] * second[y])
    found = {tuple(tokenizer.encode(c.text).tolist()): c.probability for c in blank.candidates}
    assert len(found) == len(expected) == 36
    assert all(math.isclose(found[key], expected[key], rel_tol=1e-4) for key in expected)
    probabilities = [c.probability for c in blank.candidates]
    assert probabilities == sorted(probabilities, reverse=True)


def test_blanks_and_the_text_with_the_best() -> None:
    tokenizer = tokenizer_of("bpe")
    model, text = model_of(tokenizer), "She is a ___ student, he ___."
    blanks = fill_blanks(model, tokenizer, text, n_candidates=3)
    assert [text[b.start : b.end] for b in blanks] == [" ___", " ___"]
    assert [len(b.candidates) for b in blanks] == [3, 3]
    best = [b.candidates[0].text for b in blanks]
    assert with_best(text, blanks) == f"She is a{best[0]} student, he{best[1]}."
    assert fill_blanks(model, tokenizer, "no blank") == []
    assert with_best("no blank", []) == "no blank"
    (blank,) = fill_blanks(model, tokenizer, "__init__ is a ?", blank="?")
    assert (blank.start, blank.end) == (13, 15)


def test_a_trained_model_finds_the_word() -> None:
    """Sentences by heart, in which the word depends on what stands left of it and on what stands right of it."""
    sentences = ["a red sun", "a new car", "no red car", "no new sun"]  # either side alone says nothing
    tokenizer = tokenizer_of("char", "".join(sentences) + ".")
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=tokenizer.vocab_size, d_model=32, n_layer=2, d_state=8, backend="parallel")
    model = MambaForMaskedLM(config)
    texts = [tokenizer.encode(s.ljust(10, ".")) for s in sentences]
    ids = torch.from_numpy(np.stack(texts))
    masked, labels = ids.clone(), torch.full_like(ids, -100)
    for row, sentence in enumerate(sentences):
        start = sentence.index(" ") + 1
        masked[row, start : start + 3] = tokenizer.mask_id
        labels[row, start : start + 3] = ids[row, start : start + 3]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(masked, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for sentence in sentences:
        words = sentence.split()
        (blank,) = fill_blanks(model.eval(), tokenizer, f"{words[0]} ___ {words[2]}".ljust(10, "."))
        assert blank.candidates[0].text == words[1]
        assert blank.candidates[0].probability > 0.8


def test_errors() -> None:
    tokenizer = tokenizer_of("char")
    model = model_of(tokenizer)
    with pytest.raises(ConfigError, match="n_candidates = 0 is not allowed; expected at least 1"):
        fill_blanks(model, tokenizer, "a _", n_candidates=0)
    for blank in ("", "__"):
        with pytest.raises(ConfigError, match="expected one character"):
            fill_blanks(model, tokenizer, "a _", blank=blank)
    with pytest.raises(DataError, match="a tokenizer of the kind char has no mask"):
        fill_blanks(model, tokenizer.tokenizer, "a _")
