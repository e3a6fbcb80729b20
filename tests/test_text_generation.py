"""Text comes in whole characters, ends before a stop string, and goes on without reading anything twice."""

import logging
from collections.abc import Iterator

import pytest
import torch

from baby_mamba import DatasetConfig, Mamba, MambaConfig, TextSession, Tokenizer, fit_tokenizer, generate, generate_text
from baby_mamba import text_generation as module
from baby_mamba.data import ByteTokenizer, CharTokenizer
from baby_mamba.errors import ConfigError
from baby_mamba.generation import Step, prefill

TEXT = "naïve 日本 🐍 text, "


def tokenizers() -> list[Tokenizer]:
    bpe = fit_tokenizer(DatasetConfig(tokenizer="bpe", bpe_vocab_size=270), TEXT * 20)
    return [CharTokenizer(TEXT), ByteTokenizer(), bpe]


def build(tokenizer: Tokenizer, extra: int = 0) -> Mamba:
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=tokenizer.vocab_size + extra, n_layer=2, d_model=16, tie_embeddings=False, backend="reference"
    )
    model = Mamba(config)
    for parameter in model.parameters():  # away from the initialisation, where the past hardly matters
        parameter.data.add_(torch.randn_like(parameter), alpha=0.4)
    return model


def draw(monkeypatch: pytest.MonkeyPatch, *rows: list[int]) -> None:
    """Let the model draw these tokens."""

    def stream(*arguments: object, max_new_tokens: int, **options: object) -> Iterator[Step]:
        for tokens in list(zip(*rows, strict=True))[:max_new_tokens]:
            yield Step(torch.tensor(tokens), None, ())

    monkeypatch.setattr(module, "stream", stream)


def pieces(tokenizer: Tokenizer, prompt: str = "n", **options: object) -> list[str]:
    return list(TextSession(build(tokenizer), tokenizer).stream(prompt, max_new_tokens=999, **options))


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda tokenizer: tokenizer.kind)
def test_text_is_that_of_generate(tokenizer: Tokenizer) -> None:
    model, options = build(tokenizer), {"top_k": 9, "top_p": 0.9, "temperature": 0.7}
    ids = torch.tensor(tokenizer.encode("text"))[None]
    ids = generate(model, ids, max_new_tokens=20, generator=torch.Generator().manual_seed(3), **options)
    session = TextSession(model, tokenizer, seed=3, **options)
    text = "".join(session.stream("text", max_new_tokens=20))
    assert "text" + text == tokenizer.decode(ids[0])
    assert generate_text(model, tokenizer, ["text"], max_new_tokens=20, seed=3, **options) == [text]


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda tokenizer: tokenizer.kind)
def test_characters_come_whole(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are a part of a character are held back until the rest is there."""
    draw(monkeypatch, tokenizer.encode(TEXT).tolist())
    got = pieces(tokenizer)
    assert "".join(got) == TEXT
    assert "\ufffd" not in "".join(got)
    assert len(got) > 5  # it comes as it is drawn
    assert all(got)


def test_half_a_character_at_the_end_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(monkeypatch, [0x41, 0xF0, 0x9F])
    assert pieces(ByteTokenizer()) == ["A", "\ufffd"]
    assert pieces(ByteTokenizer(), stop="B") == ["A", "\ufffd"]


def test_tokens_of_a_padded_vocabulary_stand_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ByteTokenizer()
    draw(monkeypatch, [65, 256, 66])
    session = TextSession(build(tokenizer, extra=8), tokenizer)
    assert "".join(session.stream("n", max_new_tokens=9)) == "AB"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one. two.", ".", "one"),
        ("one. two.", [".", "e"], "on"),
        ("aab", "ab", "a"),  # the first a does not begin the stop string, the second one does
        ("ab", ["abc", "b"], "a"),  # what is complete first
        ("abab abc", "abc", "abab "),
        ("the end is ne", "never", "the end is ne"),  # held back, and not lost
        ("日本 is 日本!", "本!", "日本 is 日"),
        ("over", "x", "over"),
        (".", ".", ""),
        ("one", (), "one"),
    ],
)
def test_text_ends_before_a_stop_string(
    text: str, stop: str | list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(monkeypatch, list(text.encode()))
    got = pieces(ByteTokenizer(), stop=stop)
    assert "".join(got) == expected


def test_nothing_that_may_become_a_stop_string_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each token, what has been shown is a part of the final text."""
    draw(monkeypatch, list(b"aab aabab \n\nrest"))
    shown = ""
    for piece in pieces(ByteTokenizer(), stop=["\n\n", "abc"]):
        shown += piece
        assert "aab aabab ".startswith(shown)
    assert shown == "aab aabab "


def test_stop_strings_are_seen_where_a_token_goes_on_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = fit_tokenizer(DatasetConfig(tokenizer="bpe", bpe_vocab_size=300), "the cat. the dog. " * 50)
    ids = tokenizer.encode("the dog. the cat").tolist()
    assert len(ids) < 8
    draw(monkeypatch, ids)
    assert "".join(pieces(tokenizer, stop="og")) == "the d"


def test_a_session_reads_nothing_twice() -> None:
    tokenizer = CharTokenizer(TEXT)
    model = build(tokenizer)
    read = []
    model.backbone.register_forward_hook(lambda module, arguments, output: read.append(arguments[0].shape[1]))
    session = TextSession(model, tokenizer, temperature=0)
    one = "".join(session.stream("naïve ", max_new_tokens=5))
    two = "".join(session.stream("text", max_new_tokens=5))
    three = "".join(session.stream("", max_new_tokens=5))
    assert len(one) == len(two) == len(three) == 5
    steps = [1, 1, 1, 1]
    assert read == [len("naïve "), *steps, 1 + len("text"), *steps, 1, *steps]

    history = "naïve " + one + "text" + two
    (expected,) = generate_text(model, tokenizer, [history], max_new_tokens=5, temperature=0)
    assert three == expected


def test_a_session_asks_for_a_state_only_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it would be copied each time."""
    asked = []
    get = Step.state.fget
    monkeypatch.setattr(Step, "state", property(lambda step: asked.append(1) or get(step)))
    session = TextSession(build(CharTokenizer(TEXT)), CharTokenizer(TEXT), seed=1)
    for _ in range(3):
        list(session.stream("text", max_new_tokens=7))
    assert len(asked) == 2  # where the second and the third part go on


def test_a_session_goes_on_after_its_reader_has_left() -> None:
    tokenizer = CharTokenizer(TEXT)
    model = build(tokenizer)
    (whole,) = generate_text(model, tokenizer, ["text"], max_new_tokens=9, temperature=0)
    session = TextSession(model, tokenizer, temperature=0)
    steps = session.stream("text", max_new_tokens=9)
    first = next(steps) + next(steps)
    steps.close()
    assert len(first) < 9
    assert (first + "".join(session.stream("", max_new_tokens=9)))[:9] == whole


def test_text_that_is_added_without_going_on_is_read_later() -> None:
    tokenizer = CharTokenizer(TEXT)
    model = build(tokenizer)
    (expected,) = generate_text(model, tokenizer, ["naïve text"], max_new_tokens=9, temperature=0)
    session = TextSession(model, tokenizer, temperature=0)
    assert list(session.stream("naïve ", max_new_tokens=0)) == []
    assert "".join(session.stream("text", max_new_tokens=9)) == expected


def test_a_session_can_start_from_a_state() -> None:
    tokenizer = CharTokenizer(TEXT)
    model = build(tokenizer)
    _, state = prefill(model, torch.tensor(tokenizer.encode("naïve "))[None])
    (expected,) = generate_text(model, tokenizer, ["naïve text"], max_new_tokens=9, temperature=0)
    session = TextSession(model, tokenizer, state=state, temperature=0)
    assert "".join(session.stream("text", max_new_tokens=9)) == expected


def test_several_prompts_at_once_give_what_each_gives_alone() -> None:
    tokenizer = ByteTokenizer()
    model, prompts = build(tokenizer), ["text", "日本 naïve", "a"]
    alone = [generate_text(model, tokenizer, [prompt], max_new_tokens=12, temperature=0)[0] for prompt in prompts]
    assert generate_text(model, tokenizer, prompts, max_new_tokens=12, temperature=0) == alone


def test_each_of_several_prompts_has_its_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ByteTokenizer()
    draw(monkeypatch, list(b"ab.x"), list(b".axx"), list(b"abcd"))
    prompts = ["one", "two", "three"]
    assert generate_text(build(tokenizer), tokenizer, prompts, max_new_tokens=4, stop=".") == ["ab", "", "abcd"]


def test_refused(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = CharTokenizer("abc")
    model = build(tokenizer)
    session = TextSession(model, tokenizer)
    with pytest.raises(ConfigError, match="the prompt is empty; expected text of at least one token"):
        next(session.stream("", max_new_tokens=1))
    with pytest.raises(ConfigError, match="prompt 1 is empty; expected text of at least one token"):
        generate_text(model, tokenizer, ["a", ""], max_new_tokens=1)
    with pytest.raises(ConfigError, match="a stop string is empty"):
        next(session.stream("a", max_new_tokens=1, stop=["b", ""]))
    with pytest.raises(ConfigError, match=r"sampling\.top_p = 2\.0"):
        TextSession(model, tokenizer, top_p=2)
    with caplog.at_level(logging.WARNING):
        next(session.stream("axyb", max_new_tokens=1))
    assert "never seen: 'x' 'y'" in caplog.text
