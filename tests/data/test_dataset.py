import logging
import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from baby_mamba.config import DatasetConfig
from baby_mamba.data import CharTokenizer, TokenDataset, loader, prepare_datasets
from baby_mamba.errors import CheckpointError, DataError

properties = settings(max_examples=100, deadline=None, derandomize=True)
sizes = {"n_tokens": st.integers(2, 300), "block_size": st.integers(2, 40), "seed": st.integers(0, 2**40)}


def counting(n_tokens: int, block_size: int) -> TokenDataset:
    """The token at position i is i, so a window tells where it was cut."""
    return TokenDataset.from_array(np.arange(n_tokens), block_size)


def starts(batch: torch.Tensor) -> list[int]:
    return batch[:, 0].tolist()


# On disk


@pytest.mark.parametrize(("largest", "dtype"), [(65535, np.uint16), (65536, np.uint32)])
def test_build_writes_the_smallest_type(tmp_path, largest, dtype):
    tokens = np.array([0, 7, largest, 3])
    built = TokenDataset.build(tokens, tmp_path / "new" / "train.npy", 2)
    assert np.load(tmp_path / "new" / "train.npy").dtype == dtype
    for dataset in (built, TokenDataset(tmp_path / "new" / "train.npy", 2)):
        windows = torch.cat([batch.flatten() for batch in dataset.evaluation_batches(8)])
        assert windows.dtype == torch.int64
        assert windows.tolist() == [0, 7, 7, largest, largest, 3]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["train.npy"]


def test_tokens_are_mapped_rather_than_read(tmp_path):
    dataset = TokenDataset.build(np.arange(10_000), tmp_path / "train.npy", 16)
    assert isinstance(dataset._tokens, np.memmap)


def test_pickle_holds_the_path_and_maps_again(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    dataset = TokenDataset.build(np.arange(10_000), "train.npy", 16)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    monkeypatch.chdir(tmp_path / "elsewhere")
    copy = pickle.loads(pickled)
    assert isinstance(copy._tokens, np.memmap)
    assert torch.equal(copy.batch(3, 4, seed=1), dataset.batch(3, 4, seed=1))


def test_pickle_of_a_dataset_in_memory():
    dataset = counting(100, 8)
    assert torch.equal(pickle.loads(pickle.dumps(dataset)).batch(0, 4, seed=1), dataset.batch(0, 4, seed=1))


def test_a_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "train.npy"
    TokenDataset.build(np.arange(10), path, 4)

    def fail(file, tokens):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(CheckpointError, match=r"train.npy: No space left on device; free space or choose"):
        TokenDataset.build(np.arange(20), path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["train.npy"]
    assert TokenDataset(path, 4).n_tokens == 10


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        TokenDataset.build(np.arange(10), tmp_path / "file" / "train.npy", 4)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"train.npy does not exist; write it with TokenDataset.build"):
        TokenDataset(tmp_path / "train.npy", 4)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "train.npy"
    TokenDataset.build(np.arange(1000), path, 4)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cannot be read .*write it anew"):
        TokenDataset(path, 4)


@pytest.mark.parametrize("array", [np.zeros(9), np.zeros((3, 3), np.uint16), np.zeros(9, np.int64)])
def test_foreign_array(tmp_path, array):
    np.save(tmp_path / "foreign.npy", array)
    with pytest.raises(DataError, match="holds no row of uint16 or uint32"):
        TokenDataset(tmp_path / "foreign.npy", 4)


@pytest.mark.parametrize(
    ("tokens", "block_size", "message"),
    [
        (np.arange(1), 4, "a split has 1 tokens; expected at least 2"),
        (np.arange(0), 4, "a split has 0 tokens"),
        (np.arange(9), 1, "block_size = 1 leaves nothing to predict"),
        (np.array([3, -2, 5]), 2, "token id -2 is negative"),
    ],
)
def test_unusable_tokens(tmp_path, tokens, block_size, message):
    with pytest.raises(DataError, match=message):
        TokenDataset.from_array(tokens, block_size)
    with pytest.raises(DataError, match=message):
        TokenDataset.build(tokens, tmp_path / "train.npy", block_size)
    assert not (tmp_path / "train.npy").exists()


# Training


@given(**sizes, batch_size=st.integers(1, 5), world_size=st.integers(1, 3), epoch=st.integers(0, 3))
@properties
def test_an_epoch_uses_each_window_at_most_once(n_tokens, block_size, seed, batch_size, world_size, epoch):
    dataset = counting(n_tokens, block_size)
    assume(len(dataset) >= batch_size * world_size)
    n_steps = dataset.steps_per_epoch(batch_size, world_size)
    batches = [
        dataset.batch(epoch * n_steps + step, batch_size, seed=seed, rank=rank, world_size=world_size)
        for step in range(n_steps)
        for rank in range(world_size)
    ]
    for batch in batches:
        assert batch.dtype == torch.int64
        assert batch.shape == (batch_size, block_size)
        assert torch.equal(batch, batch[:, :1] + torch.arange(block_size))  # tokens in a row
    first = [start for batch in batches for start in starts(batch)]
    assert len({start % block_size for start in first}) == 1  # all of one grid
    assert len(set(first)) == len(first)  # no window twice, not even on another rank
    assert len(dataset) - len(first) < batch_size * world_size  # nothing dropped but a last part of a batch


@given(**sizes, step=st.integers(0, 50))
@properties
def test_ranks_share_the_batch_of_one_process(n_tokens, block_size, seed, step):
    dataset = counting(n_tokens, block_size)
    assume(len(dataset) >= 4)
    shares = [dataset.batch(step, 2, seed=seed, rank=rank, world_size=2) for rank in range(2)]
    assert torch.equal(torch.cat(shares), dataset.batch(step, 4, seed=seed))


@pytest.mark.parametrize(
    ("n_tokens", "n_windows"), [(9, 0), (10, 1), (18, 1), (19, 1), (28, 1), (29, 2), (38, 2), (39, 3)]
)
def test_windows_that_fit_at_any_shift(n_tokens, n_windows):
    assert len(counting(n_tokens, 10)) == n_windows


def test_every_shift_occurs_and_every_order():
    dataset = counting(39, 10)
    epochs = [starts(dataset.batch(epoch, 3, seed=5)) for epoch in range(300)]
    assert {epoch[0] % 10 for epoch in epochs} == set(range(10))
    assert len({tuple(start // 10 for start in epoch) for epoch in epochs}) == 6
    assert {start for epoch in epochs for start in epoch} == set(range(30))  # so every position begins a window


def test_epochs_and_seeds_differ():
    dataset = counting(10_000, 10)
    n_steps = dataset.steps_per_epoch(8)
    batches = [dataset.batch(step, 8, seed=seed) for seed in (1, 2) for step in (0, n_steps, 2 * n_steps)]
    assert len({tuple(starts(batch)) for batch in batches}) == 6


def test_batches_do_not_depend_on_what_was_asked_before():
    steps = [7, 400, 0, 7, 12, 401]
    dataset = counting(5000, 16)
    asked = [dataset.batch(step, 4, seed=3) for step in steps]
    for step, batch in zip(steps, asked, strict=True):
        assert torch.equal(batch, counting(5000, 16).batch(step, 4, seed=3))


def test_batches_stay_the_same_from_version_to_version():
    """A run that was stopped goes on with the windows it has not seen; this fails when a change breaks that."""
    dataset = counting(1000, 10)
    assert starts(dataset.batch(0, 4, seed=1337)) == [59, 169, 639, 159]
    assert starts(dataset.batch(1000, 4, seed=1337)) == [536, 26, 756, 916]


def test_corpus_shorter_than_a_window():
    message = "a sequence of 16 tokens, the corpus has 15 tokens .*; lower model_config.block_size or use a longer text"
    with pytest.raises(DataError, match=message):
        counting(15, 16).batch(0, 1, seed=0)
    assert starts(counting(16, 16).batch(5, 1, seed=0)) == [0]


def test_batch_larger_than_an_epoch():
    dataset = counting(100, 10)  # 9 windows
    assert dataset.steps_per_epoch(9) == 1
    with pytest.raises(DataError, match=r"a batch of 10 windows is larger than an epoch, which has 9; lower training"):
        dataset.batch(0, 10, seed=0)
    with pytest.raises(DataError, match=r"a batch of 5 windows on each of 2 ranks is larger"):
        dataset.steps_per_epoch(5, world_size=2)


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_out_of_range(rank):
    with pytest.raises(DataError, match=rf"rank {rank} is out of range; expected 0 to 1"):
        counting(100, 10).batch(0, 1, seed=0, rank=rank, world_size=2)


# Evaluation


@given(n_tokens=st.integers(2, 300), block_size=st.integers(2, 40), batch_size=st.integers(1, 9))
@properties
def test_every_token_but_the_first_is_scored_once(n_tokens, block_size, batch_size):
    dataset = counting(n_tokens, block_size)
    batches = list(dataset.evaluation_batches(batch_size))
    scored = torch.cat([batch[:, 1:].flatten() for batch in batches])  # what labels = input_ids has the model predict
    assert scored.tolist() == list(range(1, n_tokens))
    assert dataset.n_scored_tokens == len(scored)
    assert all(batch.dtype == torch.int64 and 1 <= len(batch) <= batch_size for batch in batches)
    assert all(batch.shape[1] == block_size for batch in batches[:-1])
    assert 2 <= batches[-1].shape[1] <= block_size
    assert batches[-1].shape[1] == block_size or len(batches[-1]) == 1


def test_evaluation_windows():
    assert [batch.tolist() for batch in counting(8, 4).evaluation_batches(2)] == [
        [[0, 1, 2, 3], [3, 4, 5, 6]],
        [[6, 7]],
    ]


# Loader


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_the_batches_of_its_steps(tmp_path, num_workers):
    dataset = TokenDataset.build(np.arange(2000), tmp_path / "train.npy", 16)
    before = torch.get_rng_state()
    batches = list(loader(dataset, 4, start_step=25, n_steps=12, seed=9, rank=1, world_size=2, num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before)
    expected = [dataset.batch(step, 4, seed=9, rank=1, world_size=2) for step in range(25, 37)]
    assert len(batches) == 12
    assert all(torch.equal(got, want) for got, want in zip(batches, expected, strict=True))


def test_loader_complains_before_it_starts_workers():
    with pytest.raises(DataError, match=r"^a batch of 100 windows is larger"):
        loader(counting(100, 10), 100, start_step=0, n_steps=1, seed=0, num_workers=2)


def test_loader_of_no_steps():
    assert list(loader(counting(100, 10), 2, start_step=5, n_steps=0, seed=0)) == []


# All together


@pytest.fixture
def config(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefgh" * 25 + "abc☃☃é abcdefghijk😀", encoding="utf-8")
    return DatasetConfig(dataset_path=str(tmp_path / "text.txt"))


def test_prepare_datasets(config, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="baby_mamba"):
        tokenizer, train, validation, corpus = prepare_datasets(config, 8, tmp_path / "run")
    assert tokenizer.characters == "abcdefgh"
    assert train.n_tokens == len(corpus.train)
    assert validation.n_tokens == len(corpus.validation)
    assert train.path == tmp_path / "run" / "train.npy"
    assert validation.path == tmp_path / "run" / "validation.npy"
    assert tokenizer.decode(train.batch(0, 1, seed=0)[0].tolist()) in corpus.train
    assert next(validation.evaluation_batches(1)).tolist() == [[5, 6, 7, 0, 1, 2, 8, 8]]  # f g h a b c unknown unknown
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"8 of the {len(corpus.validation)} held-out characters are unknown")
    assert ": '☃' " in warning
    assert "197 characters to train on, 22 held out; tokenizer char: vocabulary of 9" in caplog.text


def test_prepare_datasets_with_a_given_tokenizer(config, tmp_path, caplog):
    given = CharTokenizer("abcdefghijk☃😀é ")
    tokenizer, _, validation, corpus = prepare_datasets(config, 8, tmp_path / "run", tokenizer=given)
    assert tokenizer is given
    assert "unknown" not in caplog.text
    tokens = torch.cat([batch[:, 1:].flatten() for batch in validation.evaluation_batches(4)])
    assert tokenizer.decode(tokens.tolist()) == corpus.validation[1:]


@pytest.mark.parametrize(
    ("block_size", "fraction", "message"),
    [(198, 0.1, "a sequence of 198 tokens, the corpus has 197 tokens to train on"), (8, 0.001, "a split has 1 tokens")],
)
def test_prepare_datasets_writes_nothing_when_a_split_is_too_short(config, tmp_path, block_size, fraction, message):
    config = DatasetConfig(dataset_path=config.dataset_path, validation_fraction=fraction)
    with pytest.raises(DataError, match=message):
        prepare_datasets(config, block_size, tmp_path / "run")
    assert not (tmp_path / "run").exists()
