"""`extract` as a person uses it: tables, JSON, several files, and what it says when something is wrong."""

import json
from pathlib import Path

import pytest

from baby_mamba import cli
from baby_mamba.extraction import Education

OVERRIDES = (
    *("model_config.block_size=64", "model_config.d_model=8", "model_config.n_layer=1", "model_config.d_state=4"),
    *("dataset.task_held_out=2", "training_config.max_steps=2", "training_config.train_batch_size=2"),
    *("training_config.device=cpu",),
)
FOUND = {
    "Anna": [Education("University of Vel", "BSc [Hons]", 2019), Education("Vel High School", None, None)],
    "Ben": [],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cv"
    sets = [word for override in OVERRIDES for word in ("--set", override)]
    assert cli.main(["-c", "cv_extraction.ini", *sets, "--set", f"training_config.ckpt_path={folder}"]) == 0
    return folder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two CVs, and a model that knows what is in them."""
    monkeypatch.setattr(cli, "extract_education", lambda _, text: FOUND[text])
    monkeypatch.chdir(tmp_path)
    for name in FOUND:
        Path(f"{name}.txt").write_text(name)
    return [f"{name}.txt" for name in FOUND]


def test_table(run: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extract", "--run", str(run), "--file", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Anna.txt"
    assert [word in lines[2] for word in ("institution", "degree", "year")] == [True] * 3
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [["University of Vel", "BSc [Hons]", "2019"], ["Vel High School", "", ""]]
    assert lines[-1] == "Ben.txt: no education found"


def test_json_and_nothing_else(run: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extract", "--run", str(run), "--json", "--file", *files]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "file": "Anna.txt",
            "education": [
                {"institution": "University of Vel", "degree": "BSc [Hons]", "year": 2019},
                {"institution": "Vel High School", "degree": None, "year": None},
            ],
        },
        {"file": "Ben.txt", "education": []},
    ]


def test_json_file_beside_the_table(run: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extract", "--run", str(run), "--json", "found.json", "--file", *files]) == 0
    assert "University of Vel" in capsys.readouterr().out
    assert [document["file"] for document in json.loads(Path("found.json").read_text())] == files


def test_real_model_reads_a_real_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps teach nothing; what counts is that file, model and decoder fit together."""
    (tmp_path / "cv.txt").write_text("Education\nBSc, University of Vel, 2019\n")
    assert cli.main(["extract", "--run", str(run), "--json", "--file", str(tmp_path / "cv.txt")]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert set(document) == {"file", "education"}


def test_evaluate_measures_the_task(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--run", str(run)]) == 0
    assert "cv_extraction" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--file", "Anna.txt", "nothing.pdf"], "nothing.pdf does not exist; expected a .pdf, .docx or .txt"),
        (["--file", "Anna.txt", "--json", "nowhere/found.json"], "nowhere/found.json cannot be written: No such file"),
    ],
)
def test_errors(
    run: Path, files: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["extract", "--run", str(run), *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_a_run_that_finds_nothing_in_cvs(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [word for override in OVERRIDES for word in ("--set", override)]
    arguments = ["--set", "dataset.task=induction_heads", "--set", f"training_config.ckpt_path={tmp_path / 'other'}"]
    assert cli.main([*sets, *arguments]) == 0
    assert cli.main(["extract", "--run", str(tmp_path / "other"), "--file", *files]) == 2
    assert "expected a run with dataset.task = cv_extraction, such as that of configs/" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "fill"])
def test_other_commands_say_that_it_writes_no_text(run: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--run", str(run)]) == 2
    assert "cv_extraction and knows no text" in capsys.readouterr().err
