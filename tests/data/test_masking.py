"""Hidden tokens: BERT's rule, and that every mask is a function of (seed, step, rank)."""

import pickle

import numpy as np
import pytest
import torch

from baby_mamba.config import DatasetConfig
from baby_mamba.data import (
    IGNORE_INDEX,
    LabelledBatch,
    MaskedDataset,
    MaskTokenizer,
    TokenDataset,
    fit_tokenizer,
    load_tokenizer,
    loader,
    mask_tokens,
)
from baby_mamba.errors import CheckpointError, DataError

MASK = 50
TEXT = "The snake, a black mamba, is quick: naïve Δ, ☃ and 🐍.\n" * 20


@pytest.fixture
def windows() -> TokenDataset:
    return TokenDataset.from_array(np.random.default_rng(0).integers(0, MASK, 1000), 20)


@pytest.fixture
def masked(windows: TokenDataset) -> MaskedDataset:
    return MaskedDataset(windows, mask_id=MASK, fraction=0.15)


def test_the_rule() -> None:
    """Exact where it is exact (how many are chosen), and within four standard errors where it is random."""
    random, n_rows, length = np.random.default_rng(1), 400, 200
    tokens = random.integers(0, MASK, (n_rows, length))
    rows = [mask_tokens(row, random, mask_id=MASK, fraction=0.15) for row in tokens]
    input_ids, labels = (np.stack(part) for part in zip(*rows, strict=True))
    chosen = labels != IGNORE_INDEX
    assert (chosen.sum(1) == 30).all()
    assert (labels[chosen] == tokens[chosen]).all()
    assert (input_ids[~chosen] == tokens[~chosen]).all()
    places = chosen.mean(0)
    assert np.abs(places - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / n_rows)  # every place is as likely

    n = chosen.sum()
    is_mask = input_ids[chosen] == MASK
    is_other = (input_ids[chosen] != tokens[chosen]) & ~is_mask
    assert is_mask.mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / n))
    seen_as_other = 0.1 * (1 - 1 / MASK)  # one in 50 random tokens is the right one by chance
    assert is_other.mean() == pytest.approx(seen_as_other, abs=4 * np.sqrt(0.1 * 0.9 / n))
    assert sorted(set(input_ids[chosen][is_other])) == list(range(MASK))


@pytest.mark.parametrize(("length", "fraction", "n"), [(1, 0.15, 1), (3, 0.15, 1), (10, 0.15, 2), (4, 0.99, 4)])
def test_at_least_one_is_chosen(length: int, fraction: float, n: int) -> None:
    _, labels = mask_tokens(np.arange(length), np.random.default_rng(0), mask_id=MASK, fraction=fraction)
    assert (labels != IGNORE_INDEX).sum() == n


def test_a_batch_is_a_function_of_seed_step_and_rank(masked: MaskedDataset, windows: TokenDataset) -> None:
    whole = masked.batch(3, 6, seed=5)
    again = pickle.loads(pickle.dumps(masked)).batch(3, 6, seed=5)
    ranks = [masked.batch(3, 3, seed=5, rank=rank, world_size=2) for rank in (0, 1)]
    for same in (again, LabelledBatch(*map(torch.cat, zip(*ranks, strict=True)))):
        assert torch.equal(same.input_ids, whole.input_ids)
        assert torch.equal(same.labels, whole.labels)
    original = windows.batch(3, 6, seed=5)
    hidden = whole.labels != IGNORE_INDEX
    assert torch.equal(torch.where(hidden, whole.labels, whole.input_ids), original)  # nothing else is changed
    places = [masked.batch(step, 6, seed=seed).labels != IGNORE_INDEX for step, seed in ((3, 5), (4, 5), (3, 6))]
    assert len(torch.cat(places).unique(dim=0)) == 18
    with pytest.raises(DataError, match="rank 2 is out of range"):
        masked.batch(0, 1, seed=0, rank=2, world_size=2)


def test_each_epoch_hides_other_tokens() -> None:
    masked = MaskedDataset(TokenDataset.from_array(np.arange(20), 20), mask_id=MASK)
    places = [masked.batch(epoch, 1, seed=0).labels != IGNORE_INDEX for epoch in range(10)]
    assert len(torch.cat(places).unique(dim=0)) == 10


def test_evaluation_hides_the_same_tokens_whatever_the_batch(masked: MaskedDataset, windows: TokenDataset) -> None:
    pieces = list(masked.evaluation_batches(7))
    assert [len(piece.labels) for piece in pieces] == [7] * 7 + [3, 1]  # the last window is shorter
    one_by_one = list(masked.evaluation_batches(1))
    whole = next(iter(masked.evaluation_batches(1000)))
    for part in (0, 1):
        assert torch.equal(torch.cat([piece[part] for piece in pieces[:-1]]), whole[part])
        assert torch.equal(torch.cat([piece[part] for piece in one_by_one[:-1]]), whole[part])
        assert torch.equal(one_by_one[-1][part], pieces[-1][part])
    hidden = whole.labels != IGNORE_INDEX
    original = next(windows.evaluation_batches(1000))
    assert torch.equal(torch.where(hidden, whole.labels, whole.input_ids), original)
    assert len(hidden.unique(dim=0)) > 45  # of 52, as there are 1,140 choices of 3 in 20
    other = MaskedDataset(windows, mask_id=MASK, fraction=0.15, evaluation_seed=1)
    assert not torch.equal(next(other.evaluation_batches(1000)).labels, whole.labels)
    trained = masked.batch(0, 6, seed=0).labels != IGNORE_INDEX
    assert not (trained.unsqueeze(1) == hidden[:6]).all(-1).any()  # seed 0 trains with other masks


def test_what_surrounds_the_batches(masked: MaskedDataset, windows: TokenDataset) -> None:
    assert (masked.block_size, masked.n_tokens) == (20, 1000)
    assert masked.steps_per_epoch(5) == windows.steps_per_epoch(5)
    rows = list(loader(masked, 2, start_step=5, n_steps=3, seed=1))
    assert torch.equal(rows[2].labels, masked.batch(7, 2, seed=1).labels)
    for fraction in (0, 1, 1.5):
        with pytest.raises(DataError, match="expected a share between 0 and 1"):
            MaskedDataset(windows, mask_id=MASK, fraction=fraction)


# The tokenizer


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_the_mask_is_one_more_token(kind: str, tmp_path) -> None:
    inner = fit_tokenizer(DatasetConfig(tokenizer=kind, bpe_vocab_size=300), TEXT)
    tokenizer = MaskTokenizer(inner)
    assert (tokenizer.mask_id, tokenizer.vocab_size) == (inner.vocab_size, inner.vocab_size + 1)
    ids = tokenizer.encode(TEXT)
    assert ids.tolist() == inner.encode(TEXT).tolist()
    assert tokenizer.decode(ids) == TEXT

    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, MaskTokenizer)
    assert (again.mask_id, again.tokenizer.kind) == (tokenizer.mask_id, kind)
    assert again.encode(TEXT).tolist() == ids.tolist()


def test_masks_are_seen_in_a_text() -> None:
    tokenizer = MaskTokenizer(fit_tokenizer(DatasetConfig(tokenizer="char"), "abc"))
    m = tokenizer.mask_id
    assert tokenizer.decode([0, m, 1]) == "a[MASK]b"
    assert tokenizer.decode([m]) == "[MASK]"
    assert tokenizer.decode([m, m, 2, m]) == "[MASK][MASK]c[MASK]"
    assert tokenizer.decode([]) == ""
    assert tokenizer.unknown_characters("abx") == {"x": 1}
    with pytest.raises(DataError, match="token id 5 is not in the vocabulary, 0 to 4"):
        tokenizer.decode([5])


def test_a_saved_tokenizer_without_its_inner_one_is_refused(tmp_path) -> None:
    MaskTokenizer(fit_tokenizer(DatasetConfig(tokenizer="char"), "abc")).save(tmp_path)
    (tmp_path / "without_mask" / "baby_mamba_tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        load_tokenizer(tmp_path)
