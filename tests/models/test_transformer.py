"""Transformers of the transformers library behind the interface of Mamba."""

from dataclasses import replace

import pytest
import torch

from baby_mamba.config import MambaConfig
from baby_mamba.data import CharTokenizer
from baby_mamba.errors import CheckpointError, ConfigError, ShapeError
from baby_mamba.generation import generate, load_state, pad_left, prefill, repeat_state, save_state
from baby_mamba.layers import map_state
from baby_mamba.models import LanguageModel, Mamba, Transformer, build_model, transformer
from baby_mamba.scoring import Question, score_choices, score_text
from baby_mamba.text_generation import TextSession, generate_text

pytest.importorskip("transformers")

CONFIG = MambaConfig(architecture="llama", vocab_size=23, block_size=32, n_layer=4, d_model=32, d_state=4)


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(replace(CONFIG, architecture=request.param)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the initial ones hardly depend on the past
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(1))


# Size


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "opt", "gpt_neox"])
@pytest.mark.parametrize(
    "change",
    [{}, {"d_model": 100, "n_layer": 5}, {"d_model": 64, "n_layer": 1}, {"n_layer": 3, "tie_embeddings": False}],
    ids=str,
)
def test_as_many_parameters_as_the_mamba(architecture: str, change: dict) -> None:
    config = replace(CONFIG, architecture=architecture, vocab_size=101, **change)
    model = build_model(config)
    expected = Mamba(replace(config, architecture="mamba")).num_parameters()
    assert isinstance(model, Transformer)
    assert abs(model.num_parameters() / expected - 1) <= 0.02
    assert model.num_parameters() == sum(p.numel() for p in model.model.parameters())
    assert f"{model.num_parameters():,} parameters" in model.size_in_words


def test_the_paper_s_size() -> None:
    """130M: on the meta device, which holds no numbers; half as many layers of the same width."""
    config = MambaConfig(architecture="llama", vocab_size=50280, d_model=768, n_layer=24, block_size=2048)
    with torch.device("meta"):
        n = Mamba(replace(config, architecture="mamba")).num_parameters()
        shape = transformer._shape_with(n, config)
        assert transformer._build(shape).num_parameters() == pytest.approx(n, rel=0.01)
    assert (shape.num_hidden_layers, shape.hidden_size, shape.num_attention_heads) == (12, 768, 12)
    assert (shape.head_dim, shape.intermediate_size % 64, shape.max_position_embeddings) == (64, 0, 2048)


def test_no_dropout() -> None:
    model = build_model(replace(CONFIG, architecture="gpt2")).train()
    assert torch.equal(model(tokens(2, 9)).logits, model(tokens(2, 9)).logits)


# The contract of Mamba


def test_whole_chunked_and_stepped_agree(model: Transformer) -> None:
    input_ids = tokens(2, 20)
    whole = model(input_ids).logits
    torch.testing.assert_close(whole, model.model(input_ids).logits)
    state, logits = None, []
    for chunk in input_ids.split([7, 1, 1, 11], dim=1):
        before = None if state is None else map_state(torch.clone, state)
        output = model(chunk, state=state)
        if before is not None:  # no call changes the state that it was given
            assert all(map(torch.equal, [layer.keys for layer in state], [layer.keys for layer in before]))
            assert all(map(torch.equal, [layer.values for layer in state], [layer.values for layer in before]))
        state = output.state
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prefill(model, input_ids, chunk_length=6)[0], whole[:, -1], atol=1e-5, rtol=1e-5)


def test_unequal_prompts_are_read_as_one_by_one(model: Transformer) -> None:
    rows = [tokens(12)[:n] for n in (3, 12, 7)]
    input_ids, attention_mask = pad_left(rows)
    batch = generate(model, input_ids, max_new_tokens=9, attention_mask=attention_mask, temperature=0)
    for row, together in zip(rows, batch, strict=True):
        alone = generate(model, row[None], max_new_tokens=9, temperature=0)
        assert together[-9:].tolist() == alone[0, -9:].tolist()


def test_the_loss_is_that_of_transformers(model: Transformer) -> None:
    input_ids = tokens(3, 17)
    theirs = model.model(input_ids, labels=input_ids)
    ours = model(input_ids, labels=input_ids, return_logits=False)
    torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-6, rtol=1e-6)
    assert ours.logits is None
    assert ours.state is None
    ours.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_state_can_be_branched(model: Transformer) -> None:
    input_ids, following = tokens(1, 8), tokens(3, 4)
    _, state = prefill(model, input_ids)
    branched, _ = prefill(model, following, state=repeat_state(state, 3))
    whole = model(torch.cat([input_ids.expand(3, -1), following], dim=1)).logits[:, -1]
    torch.testing.assert_close(branched, whole, atol=1e-5, rtol=1e-5)


def test_text_and_scores(model: Transformer) -> None:
    tokenizer = CharTokenizer("abcdefghijklmnopqrstuv")
    session = TextSession(model, tokenizer, temperature=0.0)
    first = "".join(session.stream("abc", max_new_tokens=5))
    second = "".join(session.stream("de", max_new_tokens=5))
    at_once = TextSession(model, tokenizer, temperature=0.0)
    assert "".join(at_once.stream(f"abc{first}de", max_new_tokens=5)) == second
    greedy = generate_text(model, tokenizer, ["abc", f"abc{first}de"], max_new_tokens=5, temperature=0.0)
    assert greedy == [first, second]
    score = score_text(model, tokenizer, "abcdefgh", chunk_length=3)
    ids = torch.from_numpy(tokenizer.encode("abcdefgh"))[None]
    assert score.loss == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)
    questions = [Question("abc", ("de", "x"), 0), Question("abcdefg", ("h", "vu"), 1)]
    together, alone = (score_choices(model, tokenizer, questions, batch_size=n).scores for n in (2, 1))
    for ours, theirs in zip(together, alone, strict=True):
        assert [s.log_likelihood for s in ours] == pytest.approx([s.log_likelihood for s in theirs], rel=1e-4)


# What does not work says so


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("lama", "did you mean llama?"),
        ("xyzzy", "expected llama"),
        ("rwkv", "keeps keys and values"),
        ("mamba2", "does not take this shape"),
        ("gemma2", "does more than attention"),
    ],
)
def test_refused_architectures(architecture: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        build_model(replace(CONFIG, architecture=architecture))


def test_a_size_that_cannot_be_met() -> None:
    with pytest.raises(ConfigError, match="no shape of gpt2 has"):
        build_model(replace(CONFIG, architecture="gpt2", block_size=100_000))  # a table of positions larger than all


def test_transformers_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match="pip install 'transformers>=5'"):
        build_model(CONFIG)


def test_mamba_itself_builds_no_transformer() -> None:
    with pytest.raises(ConfigError, match="llama is no Mamba; build it with build_model"):
        Mamba(CONFIG)


def test_positions(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the training windows, gpt2 has none; llama computes them, but has not learnt them."""
    with pytest.raises(ShapeError, match="gpt2 has 32 positions"):
        generate(build_model(replace(CONFIG, architecture="gpt2")), tokens(1, 30), max_new_tokens=4)
    model = build_model(CONFIG)
    assert generate(model, tokens(1, 30), max_new_tokens=9).shape == (1, 39)
    assert [record.message for record in caplog.records if "beyond the 32 tokens" in record.message] != []
    assert len(caplog.records) == 1


def test_refused_arguments(model: Transformer, tmp_path) -> None:
    with pytest.raises(ShapeError, match="give each sequence a row of its own"):
        model(tokens(1, 4), sequence_ids=torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ShapeError, match="attention_mask has shape"):
        transformer._attended(None, torch.ones(1, 3, dtype=torch.bool), 0, tokens(1, 4).shape)
    _, state = prefill(model, tokens(1, 4))
    with pytest.raises(CheckpointError, match="keys and values, which are not saved"):
        save_state(tmp_path / "x.state", state)
    with pytest.raises(CheckpointError, match="the model is a Transformer"):
        load_state(tmp_path / "x.state", model)
