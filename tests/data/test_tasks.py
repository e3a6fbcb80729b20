"""The synthetic tasks: what a row holds, and that every row is a function of (seed, its number)."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from baby_mamba.config import DatasetConfig
from baby_mamba.data import (
    IGNORE_INDEX,
    InductionHeads,
    LabelledBatch,
    SelectiveCopying,
    TaskDataset,
    labelled,
    loader,
    prepare_datasets,
)
from baby_mamba.errors import DataError

COPYING = SelectiveCopying(length=40, vocab_size=9, n_data_tokens=5)
INDUCTION = InductionHeads(length=12, vocab_size=7)
TASKS = [COPYING, INDUCTION]


def batch(task: SelectiveCopying | InductionHeads, n: int, seed: int = 0) -> LabelledBatch:
    return TaskDataset(task, 1).batch(0, n, seed=seed)


def test_selective_copying() -> None:
    """The data among the noise, read in order, is what the markers at the end ask for."""
    rows = batch(COPYING, 300)
    context, answers = rows.input_ids[:, :34], rows.input_ids[:, 34:]
    assert (answers == 8).all()  # one marker for each answer, standing before it, and so one more
    assert ((context >= 0) & (context < 8)).all()
    assert ((context != 0).sum(1) == 5).all()
    assert torch.equal(context[context != 0].view(300, 5), rows.labels[:, -5:])
    assert (rows.labels[:, :-5] == IGNORE_INDEX).all()
    assert rows.labels[:, -5:].unique().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (context != 0).any(0).all()  # data stands at every place, now and then


def test_induction_heads() -> None:
    """The special token comes twice, and the answer is what stood behind it the first time."""
    rows = batch(INDUCTION, 300)
    is_special = rows.input_ids == 6
    assert (is_special.sum(1) == 2).all()
    assert is_special[:, -2].all()
    first = is_special.int().argmax(1)
    assert first.unique().tolist() == list(range(9))  # the follower never is the second special token
    answers = rows.input_ids[torch.arange(300), first + 1]
    assert torch.equal(rows.labels[:, -1], answers)
    assert torch.equal(rows.input_ids[:, -1], answers)
    assert answers.unique().tolist() == list(range(6))
    assert (rows.labels[:, :-1] == IGNORE_INDEX).all()


@pytest.mark.parametrize("task", TASKS)
def test_the_output_before_an_answer_has_not_read_it(task: SelectiveCopying | InductionHeads) -> None:
    """What a model reads up to each scored position does not hold the answer itself: no copy of a label is an input."""
    rows = batch(task, 50)
    scored = (rows.labels[0] != IGNORE_INDEX).nonzero().flatten()
    assert scored[-1] == task.length - 1
    special = task.vocab_size - 1
    assert (rows.input_ids[:, scored - 1] == special).all()  # the last token that is read before each answer


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_is_a_function_of_seed_step_and_rank(task: SelectiveCopying | InductionHeads) -> None:
    dataset = TaskDataset(task, 4)
    whole = dataset.batch(3, 6, seed=5)
    again = pickle.loads(pickle.dumps(dataset)).batch(3, 6, seed=5)
    ranks = [dataset.batch(3, 3, seed=5, rank=rank, world_size=2) for rank in (0, 1)]
    for same in (again, LabelledBatch(*map(torch.cat, zip(*ranks, strict=True)))):
        assert torch.equal(same.input_ids, whole.input_ids)
        assert torch.equal(same.labels, whole.labels)
    rows = [dataset.batch(step, 6, seed=seed).input_ids for step, seed in ((3, 5), (4, 5), (3, 6))]
    assert len(torch.cat(rows).unique(dim=0)) == 18
    with pytest.raises(DataError, match="rank 2 is out of range; expected 0 to 1"):
        dataset.batch(0, 1, seed=0, rank=2, world_size=2)


@pytest.mark.parametrize("task", TASKS)
def test_held_out_rows_are_others_and_always_the_same(task: SelectiveCopying | InductionHeads) -> None:
    dataset = TaskDataset(task, 10)
    assert dataset.n_tokens == 10 * task.length
    pieces = list(dataset.evaluation_batches(4))
    assert [len(piece.input_ids) for piece in pieces] == [4, 4, 2]
    held_out = torch.cat([piece.input_ids for piece in pieces])
    assert torch.equal(held_out, next(dataset.evaluation_batches(100)).input_ids)
    seen = torch.cat([dataset.batch(0, 10, seed=seed).input_ids for seed in range(10)])
    assert len(torch.cat([held_out, seen]).unique(dim=0)) == 110


def test_loader_serves_a_task() -> None:
    dataset = TaskDataset(COPYING, 1)
    rows = list(loader(dataset, 2, start_step=5, n_steps=3, seed=1))
    assert [isinstance(row, LabelledBatch) for row in rows] == [True] * 3
    assert torch.equal(rows[2].labels, dataset.batch(7, 2, seed=1).labels)
    assert dataset.block_size == 40


def test_labels_of_a_text_are_its_tokens() -> None:
    ids = torch.arange(6).view(2, 3)
    rows = labelled(ids).to("cpu")
    assert rows.labels is rows.input_ids
    assert torch.equal(rows.input_ids, ids)
    assert labelled(rows) is rows


def test_the_task_that_a_configuration_names() -> None:
    config = DatasetConfig(task="selective_copying", task_vocab_size=9, task_data_tokens=5, task_held_out=3)
    dataset = TaskDataset.from_config(config, 40)
    assert (dataset.task, dataset.n_held_out) == (COPYING, 3)
    dataset = TaskDataset.from_config(replace(config, task="induction_heads", task_vocab_size=7), 12)
    assert dataset.task == INDUCTION


def test_what_does_not_fit_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"rows of 48 tokens are too short .* at least 49, so raise .*block_size"):
        SelectiveCopying(length=48, vocab_size=16)
    with pytest.raises(DataError, match="rows of 4 tokens are too short for InductionHeads"):
        InductionHeads(length=4, vocab_size=16)
    with pytest.raises(DataError, match="a vocabulary of 3 has fewer than two ordinary tokens"):
        InductionHeads(length=64, vocab_size=3)
    with pytest.raises(DataError, match="task = text is no synthetic task"):
        TaskDataset.from_config(DatasetConfig(), 64)
    with pytest.raises(DataError, match="task = induction_heads has no text"):
        prepare_datasets(DatasetConfig(task="induction_heads"), 64, tmp_path)


@pytest.mark.parametrize("task", [SelectiveCopying(49, 16), InductionHeads(5, 4)])
def test_the_shortest_rows(task: SelectiveCopying | InductionHeads) -> None:
    input_ids, labels = task.example(np.random.default_rng(0))
    assert len(input_ids) == len(labels) == task.shortest
