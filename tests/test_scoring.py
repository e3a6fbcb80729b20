"""Scores are those of a plain loop over the model, whatever the chunks, the batches and the padding."""

import json
import math
from pathlib import Path

import pytest
import torch

from baby_mamba import (
    DatasetConfig,
    Mamba,
    MambaConfig,
    Tokenizer,
    fit_tokenizer,
    load_questions,
    pad_left,
    prefill,
    score_choices,
    score_text,
    token_log_probabilities,
)
from baby_mamba.data import ByteTokenizer, CharTokenizer
from baby_mamba.errors import DataError, ShapeError
from baby_mamba.scoring import ChoiceScores, ContinuationScore, Question, score_continuations

TEXT = "the cat sat on the mat, and the dog – naïve as it was – sat on the cat. "


def build(vocab_size: int) -> Mamba:
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=vocab_size, n_layer=2, d_model=12, d_state=4, tie_embeddings=False, backend="parallel"
    )
    model = Mamba(config)
    for parameter in model.parameters():  # away from the initialisation, where the past hardly matters
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.fixture(scope="module")
def model() -> Mamba:
    return build(17)


def one_by_one(model: Mamba, ids: list[int]) -> list[float]:
    """log p of every token but the first, each from a pass over all that stands before it."""
    return [
        float(model(torch.tensor([ids[:t]])).logits[0, -1].log_softmax(-1)[ids[t]].detach()) for t in range(1, len(ids))
    ]


def random_rows(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 17, (length,), generator=generator).tolist() for length in lengths]


# Perplexity


@pytest.mark.parametrize("chunk_length", [1, 5, 22, 23, 24, 1000])
def test_every_token_is_predicted_from_all_before_it(model: Mamba, chunk_length: int) -> None:
    rows = random_rows(24, 24)
    got = token_log_probabilities(model, torch.tensor(rows), chunk_length=chunk_length)
    torch.testing.assert_close(got, torch.tensor([one_by_one(model, row) for row in rows]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_length", [3, 1000])
def test_rows_of_unequal_length(model: Mamba, chunk_length: int) -> None:
    rows = random_rows(9, 2, 1, 5)
    ids, mask = pad_left(rows)
    got = token_log_probabilities(model, ids, attention_mask=mask, chunk_length=chunk_length)
    for scored, row in zip(got, rows, strict=True):
        expected = [0.0] * (9 - len(row)) + one_by_one(model, row)
        torch.testing.assert_close(scored, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_going_on_from_a_state(model: Mamba) -> None:
    (row,) = random_rows(12)
    _, state = prefill(model, torch.tensor([row[:7]]))
    got = token_log_probabilities(model, torch.tensor([row[7:]]), state=state)
    torch.testing.assert_close(got, torch.tensor([one_by_one(model, row)[7:]]), rtol=1e-4, atol=1e-4)


def test_lengths_of_one_and_none(model: Mamba) -> None:
    assert token_log_probabilities(model, torch.zeros(3, 1, dtype=torch.long)).shape == (3, 0)
    with pytest.raises(ShapeError, match=r"has shape \(3, 0\); expected \(batch, length\), length at least 1"):
        token_log_probabilities(model, torch.zeros(3, 0, dtype=torch.long))


def tokenizers() -> list[Tokenizer]:
    bpe = fit_tokenizer(DatasetConfig(tokenizer="bpe", bpe_vocab_size=300), TEXT * 5)
    return [CharTokenizer(TEXT), ByteTokenizer(), bpe]


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda tokenizer: tokenizer.kind)
def test_score_of_a_text(tokenizer: Tokenizer) -> None:
    model, ids = build(tokenizer.vocab_size), tokenizer.encode(TEXT).tolist()
    losses = [-value for value in one_by_one(model, ids)]
    score = score_text(model, tokenizer, TEXT, chunk_length=10)
    mean = sum(losses) / len(losses)
    assert score.n_tokens == len(ids) - 1
    assert score.loss == pytest.approx(mean, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(mean), rel=1e-4)
    # each token a mean one, the first included
    assert score.bits_per_character == pytest.approx(mean * len(ids) / math.log(2) / len(TEXT), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(mean * len(ids) / math.log(2) / len(TEXT.encode()), rel=1e-5)
    assert score.bits_per_byte < score.bits_per_character  # "–" has three bytes


def test_logits_are_held_for_one_chunk_only(model: Mamba) -> None:
    lengths = []
    hook = model.register_forward_hook(lambda module, arguments, output: lengths.append(output.logits.shape[1]))
    token_log_probabilities(model, torch.zeros(1, 31, dtype=torch.long), chunk_length=8)
    hook.remove()
    assert lengths == [8, 8, 8, 6]


def test_a_text_too_short() -> None:
    tokenizer = ByteTokenizer()
    for text, n in (("", 0), ("a", 1)):
        with pytest.raises(DataError, match=f"the text has {n} tokens; expected at least 2"):
            score_text(build(256), tokenizer, text)


# Multiple choice


def test_continuations_of_unequal_contexts(model: Mamba) -> None:
    contexts = random_rows(6, 1, 3)
    continuations = [random_rows(2, 5), random_rows(1), random_rows(4, 1, 3)]
    scores = score_continuations(model, contexts, continuations)
    assert [len(of_context) for of_context in scores] == [2, 1, 3]
    for context, choices, of_context in zip(contexts, continuations, scores, strict=True):
        for choice, score in zip(choices, of_context, strict=True):
            expected = one_by_one(model, context + choice)[-len(choice) :]
            assert score.log_likelihood == pytest.approx(sum(expected), rel=1e-4)
            assert score.n_tokens == len(choice)


def test_continuations_of_one_token(model: Mamba) -> None:
    ((one, two),) = score_continuations(model, [[3, 4]], [[[5], [6]]])
    assert one.log_likelihood == pytest.approx(one_by_one(model, [3, 4, 5])[-1], rel=1e-4)
    assert two.log_likelihood == pytest.approx(one_by_one(model, [3, 4, 6])[-1], rel=1e-4)


def test_greedy_is_what_the_model_would_write(model: Mamba) -> None:
    context = [3, 4]
    written = []
    for _ in range(4):
        written.append(int(model(torch.tensor([context + written])).logits[0, -1].argmax()))
    other = [*written[:3], (written[3] + 1) % 17]
    early = [(written[0] + 1) % 17]
    ((right, short, wrong, first),) = score_continuations(model, [context], [[written, written[:2], other, early]])
    assert right.is_greedy
    assert short.is_greedy  # padding does not count
    assert not wrong.is_greedy
    assert not first.is_greedy


def test_each_context_is_read_once(model: Mamba) -> None:
    read = []
    hook = model.backbone.register_forward_hook(lambda module, arguments, output: read.append(arguments[0].shape))
    score_continuations(model, random_rows(50, 30), [random_rows(2, 3, 4), random_rows(1)])
    hook.remove()
    assert read == [(2, 50), (4, 3)]


def test_refused_continuations(model: Mamba) -> None:
    for contexts, continuations in (([[1]], [[[]]]), ([[1]], [[[1]], [[1]]]), ([[1]], [[]])):
        with pytest.raises(ShapeError, match="expected a list of continuations for each context"):
            score_continuations(model, contexts, continuations)
    with pytest.raises(ShapeError, match="at least one token in each"):
        score_continuations(model, [[]], [[[1]]])


QUESTIONS = [
    Question("the cat sat", (" on the mat", " in", " at the dog"), 1),
    Question("the dog ", ("was", "naïve as it was"), 0),
    Question("and the dog – naïve as it was –", (" sat", " cat", " mat", " dog"), 3),
    Question("on", (" the cat",), 0),
]


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda tokenizer: tokenizer.kind)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_choices_are_scored_as_the_text_that_they_make(tokenizer: Tokenizer, batch_size: int) -> None:
    model = build(tokenizer.vocab_size)
    result = score_choices(model, tokenizer, QUESTIONS, batch_size=batch_size)
    best, best_normalised = [], []
    for question, scores in zip(QUESTIONS, result.scores, strict=True):
        n_context = len(tokenizer.encode(question.context.rstrip()))
        for choice, score in zip(question.choices, scores, strict=True):
            ids = tokenizer.encode(question.context + choice).tolist()
            expected = one_by_one(model, ids)[n_context - 1 :]
            assert score.log_likelihood == pytest.approx(sum(expected), rel=1e-4)
            assert score.n_tokens == len(expected)
        values = [score.log_likelihood for score in scores]
        best.append(values.index(max(values)) == question.answer)
        values = [v / len(choice.strip()) for v, choice in zip(values, question.choices, strict=True)]
        best_normalised.append(values.index(max(values)) == question.answer)
    best[-1] = best_normalised[-1] = result.scores[-1][0].is_greedy  # there is nothing to choose from
    assert result.accuracy == sum(best) / 4
    assert result.normalised_accuracy == sum(best_normalised) / 4


def test_accuracies() -> None:
    """Worked out by hand: the longer choice is less likely as a whole, and likelier for each of its characters."""
    questions = [Question("It", (" is", " is a cat"), 0), Question("It", (" is", " is a cat"), 1)]
    scores = [[ContinuationScore(-3.0, 1, False), ContinuationScore(-10.0, 3, False)]] * 2  # -1.5 and -1.25 each
    result = ChoiceScores(questions, scores)
    assert result.accuracy == 0.5
    assert result.normalised_accuracy == 0.5
    assert ChoiceScores(questions[:1], scores[:1]).accuracy == 1
    assert ChoiceScores(questions[:1], scores[:1]).normalised_accuracy == 0
    assert result.perplexity == pytest.approx(math.exp((3 + 10) / 2))
    assert result.standard_error(0.5) == pytest.approx(math.sqrt(0.25 / 1))
    assert ChoiceScores(questions[:1], scores[:1]).standard_error(1.0) == math.inf
    lambada = [Question("It", (" is",), 0)] * 4
    scores = [[ContinuationScore(-2.0, 1, greedy)] for greedy in (True, False, True, True)]
    assert ChoiceScores(lambada, scores).accuracy == 0.75
    assert ChoiceScores(lambada, scores).perplexity == pytest.approx(math.exp(2))


def test_a_trained_model_chooses_right() -> None:
    """A model that has learnt one sentence by heart knows how it goes on."""
    tokenizer = CharTokenizer(TEXT)
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=tokenizer.vocab_size, n_layer=1, d_model=32, backend="parallel"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor(tokenizer.encode(TEXT))[None]
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    questions = [
        Question("the cat sat on the", (" dog", " mat", " naïve"), 1),
        Question("the cat sat on the mat, and the", (" dog – naïve", " cat"), 0),
        Question("the cat sat on the mat,", (" and",), 0),
    ]
    result = score_choices(model, tokenizer, questions)
    assert result.accuracy == result.normalised_accuracy == 1
    assert score_text(model, tokenizer, TEXT).perplexity < 1.5 < 5 < score_text(model, tokenizer, TEXT[::-1]).perplexity


def test_questions_that_make_no_tokens() -> None:
    tokenizer = ByteTokenizer()
    model = build(256)
    for question, words in [
        (Question(" ", ("a",), 0), "question 1 has an empty context"),
        (Question("a", ("b", ""), 0), "question 1: the choice '' adds no token to the context"),
    ]:
        with pytest.raises(DataError, match=words):
            score_choices(model, tokenizer, [question])
    with pytest.raises(DataError, match="there are no questions to score"):
        score_choices(model, tokenizer, [])


def test_load_questions(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    lines = [{"context": q.context, "choices": q.choices, "answer": q.answer, "more": 1} for q in QUESTIONS]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    path.write_text(text, encoding="utf-8")
    assert load_questions(path) == QUESTIONS
    path.write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8")
    assert load_questions(path) == QUESTIONS


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"line 2 is not a question \(JSONDecodeError"),
        ("[1]", r"line 2 is not a question \(TypeError"),
        ('{"context": "a", "choices": ["b"]}', r"line 2 is not a question \(KeyError: 'answer'\); expected .* fields"),
        ('{"context": 1, "choices": ["b"], "answer": 0}', "line 2: context or choices are of another kind"),
        ('{"context": "a", "choices": "b", "answer": 0}', "expected a text and a list of texts"),
        ('{"context": "a", "choices": ["b"], "answer": 1}', "answer is 1; expected the index .* from 0 to 0"),
        ('{"context": "a", "choices": ["b"], "answer": true}', "answer is True; expected the index"),
        ('{"context": "a", "choices": [], "answer": 0}', "choices is empty; expected at least one choice"),
    ],
)
def test_lines_that_are_no_questions(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"context": "a", "choices": ["b"], "answer": 0}\n' + line + "\n")
    with pytest.raises(DataError, match=words):
        load_questions(path)


def test_files_that_are_no_questions(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    with pytest.raises(DataError, match="cannot be read: No such file or directory; check the path"):
        load_questions(path)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte 3\)"):
        load_questions(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="has no questions; expected one JSON object per line"):
        load_questions(path)
