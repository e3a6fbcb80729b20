import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baby_mamba.config import GenerationConfig, MambaConfig, RunConfig, TrainerConfig
from baby_mamba.data import CharTokenizer, TokenDataset
from baby_mamba.errors import CheckpointError, ConfigError, DataError, TrainingError
from baby_mamba.models import Mamba
from baby_mamba.training import Reporter, Trainer
from baby_mamba.training.checkpoint import find_checkpoint, load_model
from baby_mamba.training.metrics import read_metrics

Make = Callable[..., Trainer]


def press_ctrl_c(at: int) -> Callable[[int], None]:
    return lambda step: signal.raise_signal(signal.SIGINT) if step == at else None


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_same_training(one: Trainer, other: Trainer) -> None:
    """Weights and the optimizer's state agree to the last bit."""
    for (name, p), q in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q), name
        for key, value in one.optimizer.state[p].items():
            assert torch.equal(value, other.optimizer.state[q][key]), (name, key)


def test_four_arguments_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As in a notebook: no command line, no tokenizer, the defaults."""
    monkeypatch.chdir(tmp_path)
    dataset = TokenDataset.from_array(torch.arange(400).numpy() % 7, 16)
    model = Mamba(MambaConfig(vocab_size=7, n_layer=1, d_model=8, d_state=4, backend="parallel"))
    trainer = Trainer(model, dataset, dataset, TrainerConfig(max_steps=3, device="cpu"))
    before = trainer.evaluate().loss
    result = trainer.train()
    assert result.evaluation.loss < before
    assert result.evaluation.bits_per_character is None
    assert result.tokens == 3 * 8 * 16  # steps, the default batch, block_size
    assert sorted(path.name for path in (tmp_path / "runs/default").iterdir()) == [
        ".lock",
        "checkpoint",
        "manifest.json",
        "metrics.jsonl",
    ]
    assert "held-out loss" in capsys.readouterr().out


def test_it_learns(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=60)
    before = trainer.evaluate().loss
    result = trainer.train()
    assert before == pytest.approx(math.log(29), rel=0.05)  # knows nothing: as good as guessing among all tokens
    assert result.evaluation.loss < 0.85 * before
    assert result.reason == "all 60 steps are done (training_config.max_steps = 60)"


@pytest.mark.parametrize("stop", [1, 5, 6])
def test_ctrl_c_and_resume_continue_exactly(make_trainer: Make, tmp_path: Path, stop: int) -> None:
    """10 steps in one go are `stop` steps, Ctrl-C and the rest, to the last bit, with the same rows of metrics."""
    recorder = Reporter()
    straight = make_trainer(ckpt_path=str(tmp_path / "straight"), options={"reporter": recorder})
    straight.train()

    recorder.step = lambda progress: press_ctrl_c(stop)(progress.step)
    first = make_trainer(options={"reporter": recorder}).train()
    assert first.interrupted
    assert (first.step, first.evaluation) == (stop, None)
    second = make_trainer()
    second.model.apply(lambda module: [p.data.add_(1) for p in module.parameters(recurse=False)])  # all is loaded
    assert not second.train().interrupted

    assert_same_training(straight, second)
    rows = [
        [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in read_metrics(path)]
        for path in (tmp_path / "straight/metrics.jsonl", tmp_path / "run/metrics.jsonl")
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0] if "train_loss" in row] == list(range(1, 11))
    assert [row["step"] for row in rows[0] if "validation_loss" in row] == [4, 8, 10]


def test_more_steps_continue_a_complete_run(make_trainer: Make, tmp_path: Path) -> None:
    straight = make_trainer(schedule="constant", ckpt_path=str(tmp_path / "straight"))
    straight.train()
    make_trainer(schedule="constant", max_steps=5).train()
    longer = make_trainer(schedule="constant", max_steps=10)
    longer.train()
    assert_same_training(straight, longer)


def test_resume_after_a_crash_repeats_no_rows(make_trainer: Make, tmp_path: Path) -> None:
    """The run was killed at step 5, after its checkpoint of step 4; rows 5 and half a row 6 are in the file."""

    class Killed(BaseException):
        pass

    def kill(step: int) -> None:
        if step == 5:
            raise Killed

    reporter = Reporter()
    reporter.step = lambda progress: kill(progress.step)
    with pytest.raises(Killed):
        make_trainer(save_every_steps=2, options={"reporter": reporter}).train()
    metrics = tmp_path / "run/metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 5, "tokens": 1, "train_loss": 9}\n{"step": 6, "tok')
    make_trainer(save_every_steps=2).train()
    assert [row["step"] for row in read_metrics(metrics) if "train_loss" in row] == list(range(1, 11))
    assert all(row.get("train_loss") != 9 for row in read_metrics(metrics))


def test_complete_run_says_so_and_changes_nothing(make_trainer: Make, tmp_path: Path) -> None:
    result = make_trainer().train()
    rows = (tmp_path / "run/metrics.jsonl").read_text()
    checkpoint = find_checkpoint(tmp_path / "run")
    written = checkpoint.stat().st_mtime_ns
    again = make_trainer()
    repeated = again.train()
    messages = " ".join(text for (text,) in again.reporter.named("message"))
    assert "this run is complete: all 10 steps are done" in messages
    assert "to go on raise training_config.max_steps" in messages
    assert repeated.evaluation == result.evaluation  # it is still evaluated
    assert (tmp_path / "run/metrics.jsonl").read_text() == rows
    assert checkpoint.stat().st_mtime_ns == written


def test_never_starts_afresh(make_trainer: Make, tmp_path: Path) -> None:
    once = make_trainer()
    once.train()
    again = make_trainer(resume="never")
    again.train()
    assert_same_training(once, again)
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "train_loss" in row] == list(
        range(1, 11)
    )
    assert len(json.loads((tmp_path / "run/manifest.json").read_text())["sessions"]) == 1


def test_resume_from_another_run(make_trainer: Make, tmp_path: Path) -> None:
    straight = make_trainer(ckpt_path=str(tmp_path / "straight"))
    straight.train()
    make_trainer(max_steps=5).train()
    before = sorted((tmp_path / "run").rglob("*"))
    moved = make_trainer(resume=str(tmp_path / "run"), ckpt_path=str(tmp_path / "moved"))
    result = moved.train()
    assert result.best_step > 5  # the best checkpoint of the other run is not in this one
    assert load_model(tmp_path / "moved")[0]
    assert sorted((tmp_path / "run").rglob("*")) == before
    assert {row["step"] for row in read_metrics(tmp_path / "moved/metrics.jsonl")} == {6, 7, 8, 9, 10}


def test_resume_from_nowhere(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(resume=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="nowhere holds no checkpoint"):
        trainer.train()


def test_other_text_is_refused(make_trainer: Make) -> None:
    make_trainer().train()
    other = make_trainer()
    other.train_set = TokenDataset.from_array(torch.arange(1100).numpy() % 7, 16)
    with pytest.raises(CheckpointError, match=r"1100 tokens.* trained on 1200: the text has changed"):
        other.train()


def test_other_model_is_refused_and_nothing_overwritten(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.train()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="d_model = 8 there, 16 here"):
        make_trainer(replace(trainer.model.config, d_model=16)).train()
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_accumulated_gradient_equals_that_of_the_whole_batch(make_trainer: Make) -> None:
    """Also where the parts are of unequal size."""
    whole, split = make_trainer(ckpt_path=""), make_trainer(ckpt_path="", gradient_accumulation_steps=3)
    batch = whole.train_set.batch(0, 4, seed=0)
    assert whole.training_step(batch, 1e-3) == pytest.approx(split.training_step(batch, 1e-3), rel=1e-5)
    for p, q in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)


def test_labels_are_split_with_the_rows(make_trainer: Make) -> None:
    """Other labels give another gradient, and the same one whether the batch is computed whole or in parts."""
    whole, split, text = (make_trainer(ckpt_path="", gradient_accumulation_steps=n) for n in (1, 2, 1))
    batch = whole.train_set.batch(0, 4, seed=0)
    labels = batch.roll(1, dims=0).masked_fill(torch.arange(16) < 13, -100)
    loss = whole.training_step(batch, 1e-3, labels)
    assert loss == pytest.approx(split.training_step(batch, 1e-3, labels), rel=1e-5)
    assert loss != pytest.approx(text.training_step(batch, 1e-3), rel=1e-3)


def test_gradient_is_clipped_and_its_norm_reported_unclipped(make_trainer: Make) -> None:
    free, clipped = make_trainer(ckpt_path="", gradient_clip=0.0), make_trainer(ckpt_path="", gradient_clip=0.01)
    batch = free.train_set.batch(0, 4, seed=0)
    norm = free.training_step(batch, 1e-3)[1]
    assert clipped.training_step(batch, 1e-3)[1] == pytest.approx(norm)
    norms = [
        math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.model.parameters())) for trainer in (free, clipped)
    ]
    assert norms == pytest.approx([norm, 0.01], rel=1e-3)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_not_a_number_stops_before_the_weights_change(make_trainer: Make, tmp_path: Path, poison: str) -> None:
    trainer = make_trainer()

    def spoil(step: int) -> None:
        if step != 7:
            return
        if poison == "loss":
            trainer.model.backbone.norm_f.weight.data[0] = math.nan
        else:
            trainer.model.backbone.norm_f.weight.register_hook(lambda gradient: gradient * math.inf)
        trainer.spoilt = weights(trainer)

    trainer.reporter.after_step = spoil
    with pytest.raises(TrainingError, match=r"step 8: the loss is .*at learning rate .*Lower training_config") as error:
        trainer.train()
    assert ("loss is nan" in str(error.value)) == (poison == "loss")
    for name, weight in weights(trainer).items():
        assert torch.equal(weight, trainer.spoilt[name]) or weight.isnan().any(), name
    assert find_checkpoint(tmp_path / "run").name == "step-00000006"
    assert make_trainer().train().step == 10  # the last checkpoint is sound


def test_early_stopping_and_the_best_checkpoint(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(max_steps=100, eval_every_steps=2, early_stopping_patience=3)
    evaluation = trainer.evaluate()
    losses = iter([3.0, 1.0, 2.0, 1.5, 1.0, 0.5])
    monkeypatch.setattr(trainer, "evaluate", lambda: evaluation._replace(loss=next(losses)))
    result = trainer.train()
    assert (result.step, result.best_loss, result.best_step) == (10, 1.0, 4)
    assert result.reason == "3 evaluations brought no lower held-out loss"
    assert [path.name for path in sorted((tmp_path / "run/checkpoint").iterdir())] == ["step-00000004", "step-00000010"]
    assert find_checkpoint(tmp_path / "run", "best").name == "step-00000004"
    again = make_trainer(max_steps=100, eval_every_steps=2, early_stopping_patience=3)
    assert again.train().step == 10  # still over


def test_best_checkpoint_has_the_loss_that_is_reported(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer()
    result = trainer.train()
    trainer.model, _ = load_model(tmp_path / "run", "best")
    assert trainer.evaluate().loss == pytest.approx(result.best_loss, rel=1e-5)


def test_time_budget_completes_the_schedule(make_trainer: Make, tmp_path: Path) -> None:
    result = make_trainer(max_steps=10**6, max_minutes=1.0 / 60, eval_every_steps=10**6).train()
    assert result.reason.startswith("the time is used up")
    assert 1.0 <= result.seconds < 5.0
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "learning_rate" in row]
    assert len(rates) > 10
    assert max(rates) > 0.9e-2
    assert rates[-1] < 0.1e-2
    assert make_trainer(max_steps=10**6, max_minutes=1.0 / 60).train().step == result.step  # nothing is left of it


def test_epochs(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=None, max_epoch=2, ckpt_path="")
    result = trainer.train()
    assert result.step == 2 * trainer.train_set.steps_per_epoch(4) == 36
    assert result.reason == "all 36 steps are done (training_config.max_epoch = 2)"


def test_batches_follow_the_seed(make_trainer: Make) -> None:
    """Each step trains on the windows that (seed, step) stand for, with workers as without."""
    results = []
    for workers in (0, 1):
        trainer = make_trainer(max_steps=3, num_workers=workers, seed=5, ckpt_path="")
        seen, step = [], trainer.training_step
        trainer.training_step = lambda ids, *rest, seen=seen, step=step: (seen.append(ids), step(ids, *rest))[1]
        trainer.train()
        results.append(seen)
    for step, (without, with_workers) in enumerate(zip(*results, strict=True)):
        assert torch.equal(without, trainer.train_set.batch(step, 4, seed=5))
        assert torch.equal(without, with_workers)


def test_samples(make_trainer: Make, tmp_path: Path, tokenizer: CharTokenizer) -> None:
    generation = GenerationConfig(num_generated_tokens=5, prompt="the ")
    options = {"tokenizer": tokenizer, "run_config": RunConfig(generation_config=generation)}
    trainer = make_trainer(sample_every_steps=5, options=options)
    trainer.train()
    samples = trainer.reporter.named("sample")
    assert [step for step, _ in samples] == [5, 10]
    assert all(text.startswith("the ") and len(text) == 9 for _, text in samples)
    assert (tmp_path / "run/samples.txt").read_text() == "".join(f"--- step {s} ---\n{t}\n\n" for s, t in samples)
    assert trainer.model.training  # sampling and evaluation put the mode back

    elsewhere = replace(generation, generated_text_path=str(tmp_path / "new/out.txt"))
    options["run_config"] = RunConfig(generation_config=elsewhere)
    make_trainer(max_steps=1, ckpt_path="", options=options).train()
    assert (tmp_path / "new/out.txt").read_text().startswith("--- step 1 ---\nthe ")


def test_unwritable_sample_file_is_refused_before_training(
    make_trainer: Make, tmp_path: Path, tokenizer: CharTokenizer
) -> None:
    (tmp_path / "file").write_text("")
    generation = GenerationConfig(generated_text_path=str(tmp_path / "file/out.txt"))
    trainer = make_trainer(options={"tokenizer": tokenizer, "run_config": RunConfig(generation_config=generation)})
    with pytest.raises(CheckpointError, match=r"out\.txt cannot be written.*generated_text_path"):
        trainer.train()
    assert not trainer.reporter.named("step")


def test_no_run_folder_writes_nothing(make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_trainer(ckpt_path="").train()
    assert list(tmp_path.iterdir()) == []


def test_precision(make_trainer: Make) -> None:
    dtypes = {}
    for precision in ("auto", "float32", "bfloat16"):
        trainer = make_trainer(precision=precision, ckpt_path="", max_steps=1)

        def note(module: torch.nn.Module, args: tuple, out: torch.Tensor, precision: str = precision) -> None:
            dtypes[precision] = out.dtype

        trainer.model.backbone.layers[-1].mixer.out_proj.register_forward_hook(note)
        assert math.isfinite(trainer.train().train_loss)
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert dtypes == {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}


def test_threads(make_trainer: Make) -> None:
    make_trainer(num_threads=2, ckpt_path="")
    assert torch.get_num_threads() == 2


def test_bad_input_is_refused_by_the_constructor(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"training_config\.device = gpu cannot be used here"):
        make_trainer(device="gpu")
    with pytest.raises(DataError, match="a batch of 1000 windows"):
        make_trainer(train_batch_size=1000)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs tensorboard.*pip install 'tensorboard>=2\.14'"):
        make_trainer(tensorboard=True)


def test_a_second_process_is_kept_out(make_trainer: Make) -> None:
    def train_again(step: int) -> None:
        with pytest.raises(CheckpointError, match="another process is training into"):
            make_trainer().train()

    trainer = make_trainer(max_steps=1)
    trainer.reporter.after_step = train_again
    trainer.train()


def test_second_ctrl_c_raises(make_trainer: Make) -> None:
    def twice(step: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    trainer = make_trainer()
    trainer.reporter.after_step = twice
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is handler
