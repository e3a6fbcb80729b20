import io

import pytest
from rich.console import Console

from baby_mamba.training import ConsoleReporter, Evaluation, TrainingResult, report
from baby_mamba.training.report import Progress, loss_in_words, result_table

RESULT = TrainingResult(
    reason="all 600 steps are done",
    interrupted=False,
    n_parameters=812_544,
    step=600,
    tokens=2_457_600,
    seconds=135.4,
    tokens_per_second=18_123.4,
    train_loss=1.25,
    evaluation=Evaluation(1.5, 1000, 2.16404),
    best_loss=1.4,
    best_step=400,
)


def shown(reporter: ConsoleReporter) -> str:
    return reporter.console.file.getvalue()


def reporter(*, terminal: bool) -> ConsoleReporter:
    return ConsoleReporter(Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False))


def progress(step: int) -> Progress:
    return Progress(step, 600, step / 600, 2.5, 1e-3, 18_123.4)


def test_table() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(result_table(RESULT))
    text = " ".join(console.file.getvalue().replace("│", " ").split())
    for words in (
        "parameters 812,544",
        "steps 600",
        "tokens seen 2,457,600",
        "training loss, latest steps 1.250 nats per token",
        "held-out loss 1.500 nats per token 2.164 bits per character",
        "held-out perplexity 4.48",
        "best held-out loss 1.400 nats per token, at step 400",
        "time 2 min 15 s",
        "speed 18,123 tokens/s",
    ):
        assert words in text, words


def test_table_leaves_out_what_is_not_known() -> None:
    nothing = {"tokens_per_second": None, "train_loss": None, "evaluation": None, "best_loss": None, "best_step": None}
    console = Console(file=io.StringIO(), width=100)
    console.print(result_table(TrainingResult(**{**vars(RESULT), **nothing})))
    assert "loss" not in console.file.getvalue()
    assert "None" not in console.file.getvalue()


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.0, 5.0, 11.0, 11.0])
    monkeypatch.setattr(report.time, "monotonic", lambda: next(times))
    quiet = reporter(terminal=False)
    with quiet:
        for step in (1, 2, 3):
            quiet.step(progress(step))
        quiet.evaluation(3, RESULT.evaluation)
    assert shown(quiet).splitlines() == [
        "step 1/600 (0%)  loss 2.500  learning rate 1.0e-03  18,123 tokens/s",
        "step 3/600 (0%)  loss 2.500  learning rate 1.0e-03  18,123 tokens/s",
        "step 3: held-out loss 1.500 nats per token, 2.164 bits per character, perplexity 4.48",
    ]


def test_bar_on_a_terminal() -> None:
    loud = reporter(terminal=True)
    with loud:
        for step in (1, 300):
            loud.step(progress(step))
        loud._bar.refresh()
        loud.finish(RESULT)
    text = shown(loud)
    assert "step 300/600" in text
    assert "18,123 tokens/s" in text
    assert "left" in text
    assert "stopped: all 600 steps are done" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_text_is_not_taken_for_markup(terminal: bool) -> None:
    loud = reporter(terminal=terminal)
    with loud:
        loud.sample(3, "a [bold]list[/bold] [/nothing]")
        loud.message("[red]x[/red]")
    assert "a [bold]list[/bold] [/nothing]" in shown(loud)
    assert "[red]x[/red]" in shown(loud)
    assert "sample at step 3" in shown(loud)


def test_long_lines_of_a_file_are_not_wrapped() -> None:
    quiet = reporter(terminal=False)
    quiet.message("word " * 100)
    assert len(shown(quiet).splitlines()) == 1


def test_accuracy_in_a_task() -> None:
    evaluation = Evaluation(0.02, 1000, None, accuracy=0.9921, sequence_accuracy=0.96094)
    words = "99.21 % of the tokens right, 96.09 % of the rows"
    assert loss_in_words(evaluation) == f"0.020 nats per token, perplexity 1.02, {words}"
    console = Console(file=io.StringIO(), width=100)
    console.print(result_table(TrainingResult(**{**vars(RESULT), "evaluation": evaluation})))
    assert words in console.file.getvalue()
    console.print(result_table(RESULT))
    assert console.file.getvalue().count("held-out accuracy") == 1  # none of a text
