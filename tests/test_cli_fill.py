"""The command fill, and what the other commands say to a masked language model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from baby_mamba import cli, fill_blanks, load_model

TEXT = "the quick brown fox jumps over the lazy dog and the dog sleeps on.\n" * 30

JOB = """
[model_config]
objective = masked
block_size = 16
n_layer = 1
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
prompt = "the ___ brown"
num_generated_tokens = 3
"""


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Path("text.txt").write_text(TEXT)
    Path("job.ini").write_text(JOB)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(*arguments: str) -> int:
    return cli.main(arguments)


@pytest.fixture
def trained(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini") == 0
    capsys.readouterr()


@pytest.mark.usefixtures("trained")
def test_fill_prints_candidates_and_probabilities(capsys: pytest.CaptureFixture) -> None:
    text = "the __x [b] jumps _"
    blanks = fill_blanks(*load_model("run"), text, n_candidates=3)
    for source in (["--run", "run"], ["-c", "job.ini"]):
        assert run("fill", *source, "--text", text, "--candidates", "3") == 0
        lines = capsys.readouterr().out.splitlines()
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.count("│") == 5]
        expected = [
            [str(number), c.text.strip() or c.text, f"{c.probability:.1%}"]
            for number, blank in enumerate(blanks, 1)
            for c in blank.candidates
        ]
        assert [[number, found, p] for number, found, p, _ in rows] == [
            [number, found.strip(), p] for number, found, p in expected
        ]
        best = [blank.candidates[0].text for blank in blanks]
        assert rows[0][3] == f"the {best[0]}x [b] jumps _".strip()
        assert lines[-1] == f"the {best[0]}x [b] jumps {best[1]}"


@pytest.mark.usefixtures("trained")
def test_fill_reads_the_prompt_without_a_text_and_another_sort_of_blank(capsys: pytest.CaptureFixture) -> None:
    assert run("fill", "--run", "run") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" brown")
    assert run("fill", "--run", "run", "--text", "the ? fo_", "--blank", "?") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" fo_")


@pytest.mark.usefixtures("trained")
def test_evaluate_measures_the_hidden_tokens(capsys: pytest.CaptureFixture) -> None:
    assert run("evaluate", "--run", "run") == 0
    output = capsys.readouterr().out
    for words in ("of them hidden", "nats per hidden token", "of the hidden tokens", "perplexity"):
        assert words in output


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "it neither goes on from a text nor scores one token after the other"),
        (["evaluate", "--file", "text.txt"], "With objective = masked, `fill` uses it"),
        (["evaluate", "--choices", "text.txt"], "With objective = masked, `fill` uses it"),
        (["fill", "--text", "no blank"], "the text 'no blank' has no blank; expected e.g. --text 'She is a ___'"),
        (["fill", "--candidates", "0"], "n_candidates = 0 is not allowed"),
        (["fill", "--blank", "ab"], "expected one character"),
    ],
)
def test_what_a_masked_run_cannot_do(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert run(arguments[0], "--run", "run", *arguments[1:]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error


def test_fill_refuses_a_run_that_predicts_the_next_token(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini", "--set", "model_config.objective=next_token") == 0
    capsys.readouterr()
    assert run("fill", "--run", "run", "--text", "a _") == 2
    expected = "is of a Mamba, which fills no blanks; expected a run with model_config.objective = masked"
    assert expected in capsys.readouterr().err


def test_compare_refuses_the_objective(capsys: pytest.CaptureFixture) -> None:
    assert run("compare", "-c", "job.ini") == 2
    assert "model_config.objective = masked is not what compare expects" in capsys.readouterr().err
    assert not Path("run").exists()
