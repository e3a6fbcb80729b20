import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from baby_mamba.config import RunConfig, TrainerConfig, load_config
from baby_mamba.data import CharTokenizer, load_tokenizer
from baby_mamba.errors import CheckpointError
from baby_mamba.training import run_folder
from baby_mamba.training.run_folder import begin_run, check_run_folder, only_writer, resumed_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def config(folder: Path, *overrides: str) -> RunConfig:
    return load_config(overrides=[f"training_config.ckpt_path={folder}", *overrides])


def check(folder: Path, *overrides: str) -> None:
    run = config(folder, *overrides)
    check_run_folder(run.training_config, run)


def pretend_to_train(folder: Path, *overrides: str) -> None:
    begin_run(folder, {"seed": 1}, config(folder, *overrides), CharTokenizer("ab"), afresh=True)
    (folder / "checkpoint" / "step-00000001").mkdir(parents=True)
    for name in ("metrics.jsonl", "samples.txt", "loss.png"):
        (folder / name).write_text("old")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_begin_writes_what_a_run_is(folder: Path) -> None:
    run = config(folder, "model_config.n_layer=3", "training_config.seed=5")
    begin_run(folder, {"seed": 5, "backend": "cpu"}, run, CharTokenizer("ab"), afresh=True)
    assert load_config(folder / "config.ini") == run
    assert load_tokenizer(folder / "tokenizer").decode([0, 1]) == "ab"
    manifest = json.loads((folder / "manifest.json").read_text())
    (session,) = manifest["sessions"]
    assert session["seed"] == 5
    assert session["backend"] == "cpu"
    for key in ("date", "python", "torch", "numba", "triton", "baby_mamba", "cpu", "gpu", "git_commit"):
        assert key in session, key


def test_manifest_keeps_every_session(folder: Path) -> None:
    for step in (0, 7):
        begin_run(folder, {"first_step": step}, None, None, afresh=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [session["first_step"] for session in manifest["sessions"]] == [0, 7]


def test_afresh_removes_the_run_and_nothing_else(folder: Path) -> None:
    pretend_to_train(folder)
    (folder / "notes.md").write_text("mine")
    begin_run(folder, {}, None, None, afresh=True)
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "notes.md"}


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_new_empty_and_own_folders_are_accepted(folder: Path, resume: str) -> None:
    check(folder, f"training_config.resume={resume}")
    assert not folder.exists()  # looking makes no folder
    folder.mkdir()
    check(folder, f"training_config.resume={resume}")
    (folder / "tokens").mkdir()  # all that a run leaves whose first checkpoint never came
    (folder / ".lock").touch()
    check(folder, f"training_config.resume={resume}")
    pretend_to_train(folder)
    before = contents(folder)
    check(folder, f"training_config.resume={resume}")
    assert contents(folder) == before


@pytest.mark.parametrize("resume", ["auto", "never"])
@pytest.mark.parametrize("name", ["config.ini", "thesis.tex", "manifest.json"])
def test_a_folder_with_other_things_is_refused(folder: Path, resume: str, name: str) -> None:
    folder.mkdir()
    (folder / name).write_text('{"name": "an app"}')
    with pytest.raises(CheckpointError, match=rf"holds other files \({name}\); expected a new folder"):
        check(folder, f"training_config.resume={resume}")


def test_another_configuration_is_refused_by_its_keys(folder: Path) -> None:
    pretend_to_train(folder)
    with pytest.raises(CheckpointError) as error:
        check(folder, "model_config.n_layer=9", "dataset.tokenizer=byte", "training_config.seed=2")
    assert "model_config.n_layer is 4 there and 9 here" in str(error.value)
    assert "dataset.tokenizer is 'char' there and 'byte' here" in str(error.value)
    assert "training_config.seed is 1337 there and 2 here" in str(error.value)
    assert "choose another ckpt_path, or use training_config.resume = never" in str(error.value)
    check(folder, "model_config.n_layer=9", "training_config.resume=never")


def test_what_may_change_when_a_run_goes_on(folder: Path) -> None:
    pretend_to_train(folder)
    check(
        folder,
        "model_config.backend=reference",
        "training_config.max_steps=99",
        "training_config.learning_rate=1e-4",
        "training_config.device=cpu",
        "generation_config.prompt=x",
    )


def test_a_damaged_configuration_is_refused(folder: Path) -> None:
    pretend_to_train(folder)
    (folder / "config.ini").write_text("[model_config]\nn_layers = 4\n")
    with pytest.raises(CheckpointError, match=r"unknown whose run is there: unknown key model_config\.n_layers"):
        check(folder)


def test_another_run_is_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    pretend_to_train(folder)
    with pytest.raises(
        CheckpointError, match=r"holds a run already, and training_config\.resume = .* would mix another"
    ):
        check(folder, f"training_config.resume={tmp_path / 'other'}")
    check(folder, f"training_config.resume={folder}")  # the same as auto
    check(tmp_path / "new", f"training_config.resume={folder}")


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_unwritable(tmp_path: Path, below: str) -> None:
    """Below a file, where not even root can write."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written: .*; choose a folder that you may write to"):
        check(tmp_path / "file" / below)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_resumed(folder: Path) -> None:
    training = TrainerConfig(ckpt_path=str(folder))
    assert resumed_folder(training) is None
    pretend_to_train(folder)
    assert resumed_folder(training) == folder
    assert resumed_folder(replace(training, resume="never")) is None
    assert resumed_folder(replace(training, resume="elsewhere")) == Path("elsewhere")
    assert resumed_folder(replace(training, ckpt_path="")) is None


def test_one_writer(folder: Path) -> None:
    with only_writer(folder):
        second = only_writer(folder)
        with pytest.raises(CheckpointError, match="another process is training into"):
            second.__enter__()
    with only_writer(folder):
        pass


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "src/baby_mamba/training/run_folder.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(run_folder, "__file__", str(file))
    assert run_folder._git_commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    commit = run_folder._git_commit()
    assert len(commit) == 40
    file.write_text("changed")
    assert run_folder._git_commit() == f"{commit}+changes"
