"""`visualize` from the command line: from a run to a page."""

import json
import re
import shutil
from pathlib import Path

import pytest

from baby_mamba import cli

TEXT = "the quick brown fox jumps over the lazy dog and the dog sleeps on.\n" * 30
JOB = """
[model_config]
block_size = 16
n_layer = 2
d_model = 8
d_state = 4
backend = parallel

[dataset]
dataset_path = text.txt

[training_config]
max_steps = 2
train_batch_size = 4
ckpt_path = run
device = cpu

[generation_config]
num_generated_tokens = 5
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run was trained, for a moment."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        Path("job.ini").write_text(JOB, encoding="utf-8")
        assert cli.main(["-c", "job.ini"]) == 0
    return folder


@pytest.fixture(autouse=True)
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it for each test."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def page(path: str) -> tuple[str, list[int]]:
    """The text and the layers of a page."""
    source = Path(path).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', source, re.DOTALL)[1])
    return "".join(data["tokens"]), [layer["number"] for layer in data["layers"]]


def test_the_held_out_text_is_shown_where_none_is_given(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["visualize", "--run", "run"]) == 0
    written = capsys.readouterr().out.strip()
    assert Path(written) == Path("run/page.html")
    text, layers = page(written)
    assert TEXT.endswith(text)
    assert len(text) > 100
    assert layers == [0, 1]
    assert cli.main(["-c", "job.ini", "--set", "training_config.max_steps=3"]) == 0, "the page is not in the way"


def test_a_text_a_file_and_a_layer(capsys: pytest.CaptureFixture) -> None:
    arguments = ["visualize", "--run", "run", "--output", "mine.html"]
    assert cli.main([*arguments, "--text", "the dog <sleeps>", "--layers", "1"]) == 0
    assert page("mine.html") == ("the dog \ufffdsleeps\ufffd", [1])
    assert "2 of 16 characters are unknown" in capsys.readouterr().err
    Path("dog.txt").write_text("the dog", encoding="utf-8")
    assert cli.main([*arguments, "--file", "dog.txt"]) == 0
    assert page("mine.html") == ("the dog", [0, 1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--file", "text.txt"], "2,010 tokens; expected at most 1,000"),
        (["--text", ""], "no tokens"),
        (["--text", "the", "--layers", "0,2"], "layer 2 is asked for; expected 0 to 1"),
        (["--text", "the", "--layers", "all"], "--layers all is no list of layers"),
        (["--text", "the", "--output", "nowhere/page.html"], "nowhere/page.html cannot be written"),
        (["--file", "missing.txt"], "missing.txt cannot be read"),
    ],
)
def test_refusals(arguments: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["visualize", "--run", "run", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not list(Path().rglob("*.html"))
