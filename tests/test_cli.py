import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from baby_mamba import cli
from baby_mamba.config import RunConfig, load_config
from baby_mamba.data import InductionHeads, TaskDataset
from baby_mamba.scoring import load_questions, score_choices, score_text
from baby_mamba.training import evaluate
from baby_mamba.training.checkpoint import find_checkpoint, load_model

TEXT = "the quick brown fox jumps over the lazy dog and the dog sleeps on.\n" * 30

JOB = """
[model_config]
block_size = 16
n_layer = 1
d_model = 8
d_state = 4
backend = parallel

[dataset]
dataset_path = text.txt

[training_config]
max_steps = 4
train_batch_size = 4
eval_every_steps = 2
save_every_steps = 2
log_every_steps = 1
ckpt_path = run
device = cpu

[generation_config]
num_generated_tokens = 12
prompt = "the "
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with a text and a job that takes a moment."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("job.ini").write_text(JOB, encoding="utf-8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments: str) -> int:
    return cli.main(arguments)


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Every file but the text as tokens, which each start of a training writes anew."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "tokens"]
    return {path: path.read_bytes() for path in files}


# What works


def test_train_writes_a_run_folder(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini") == 0
    output = capsys.readouterr()
    for words in ("parameters", "tokens seen", "held-out loss", "bits per character", "perplexity", "time", "tokens/s"):
        assert words in output.out, words
    assert "sample at step 4" in output.out
    assert output.err == ""
    assert {path.name for path in Path("run").iterdir()} == {
        ".lock", "checkpoint", "config.ini", "loss.png", "manifest.json", "metrics.jsonl", "samples.txt", "tokenizer",
        "tokens",
    }  # fmt: skip
    assert load_config("run/config.ini") == load_config("job.ini")
    assert Path("run/samples.txt").read_text().startswith("--- step 4 ---\nthe ")
    assert Path("run/loss.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation_loss" in row] == [2, 4]
    assert all("bits_per_character" in row for row in rows if "validation_loss" in row)
    model, tokenizer = load_model("run")
    assert model.config.vocab_size == tokenizer.vocab_size == len(set(TEXT)) + 1


def test_train_is_the_default_command_and_overrides_work() -> None:
    assert run("train", "--config=job.ini", "--set", "training_config.max_steps=2") == 0
    assert find_checkpoint("run").name == "step-00000002"
    assert run("-c", "job.ini", "--set", "training_config.max_steps=3") == 0  # and goes on
    assert find_checkpoint("run").name == "step-00000003"


def test_minimal_config_with_only_the_published_keys() -> None:
    Path("minimal.ini").write_text(
        "[model_config]\nblock_size = 16\nn_layer = 1\nd_model = 8\nd_state = 4\nd_conv = 4\nexpand = 2\n"
        "dt_min = 0.001\ndt_max = 0.1\ndt_init = random\ndt_scale = 1.0\ndt_init_floor = 1e-4\nconv_bias = True\n"
        "in_out_proj_bias = False\n[dataset]\ndataset_path = text.txt\n[training_config]\nmax_epoch = 1\n"
        "train_batch_size = 64\neval_batch_size = 8\nnum_workers = 0\nlearning_rate = 1e-3\nweight_decay = 0.1\n"
        "beta_1 = 0.9\nbeta_2 = 0.95\nckpt_path = run\n[generation_config]\nnum_generated_tokens = 5\n"
        "generated_text_path = out/text.txt\n"
    )
    assert run("-c", "minimal.ini") == 0
    assert Path("out/text.txt").read_text().startswith("--- step 1 ---\nWhen the ")
    assert not Path("run/samples.txt").exists()


def test_config_is_looked_up_here_and_then_in_configs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = workplace / "checkout"
    monkeypatch.setattr(cli, "__file__", str(checkout / "src/baby_mamba/cli.py"))
    assert cli._config_path(None) is None  # the defaults
    assert cli._config_path("x.ini") == Path("x.ini")  # which load_config will miss
    for path in (checkout / "configs/x.ini", Path("configs/x.ini"), Path("x.ini")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert cli._config_path("x.ini") == path
    Path("config.ini").touch()
    assert cli._config_path(None) == Path("config.ini")


def test_the_default_job_is_what_an_installed_program_runs() -> None:
    """But for the limit on its time, which must not surprise those who set their own number of steps."""
    checkout = Path(cli.__file__).parents[2]
    no_limit = ["training_config.max_minutes="]
    assert load_config(checkout / "configs/config.ini", no_limit) == RunConfig()


def test_the_same_command_goes_on_after_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from baby_mamba.training import ConsoleReporter

    with monkeypatch.context() as patch:
        patch.setattr(
            ConsoleReporter,
            "step",
            lambda self, progress: signal.raise_signal(signal.SIGINT) if progress.step == 3 else None,
        )
        assert run("-c", "job.ini") == 130
    assert "stopped: Ctrl-C; run the same command again to go on" in capsys.readouterr().out
    assert find_checkpoint("run").name == "step-00000003"
    assert run("-c", "job.ini") == 0
    assert "going on from step 3 of run" in capsys.readouterr().out
    assert run("-c", "job.ini") == 0
    output = capsys.readouterr().out
    assert "this run is complete: all 4 steps are done" in output
    assert "held-out loss" in output
    assert "sample at step 4" in output


def test_never_replaces_the_run() -> None:
    assert run("-c", "job.ini") == 0
    assert run("-c", "job.ini", "--set", "training_config.resume=never", "--set", "model_config.d_model=4") == 0
    assert load_model("run")[0].config.d_model == 4


def test_generate(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini") == 0
    capsys.readouterr()
    outputs = []
    Path("prompt.txt").write_text("fox ")
    for arguments in (
        ["-c", "job.ini"],
        ["--run", "run"],
        ["--run", str(find_checkpoint("run"))],
        ["--run", "run", "--prompt", "fox "],
        ["--run", "run", "--prompt-file", "prompt.txt"],
        ["--run", "run", "--checkpoint", "last", "--set", "generation_config.sampling_seed=2"],
    ):
        assert run("generate", *arguments) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2] != outputs[5]
    assert outputs[3] == outputs[4]
    assert [output[:4] for output in outputs] == ["the "] * 3 + ["fox "] * 2 + ["the "]
    assert all(len(output) == 4 + 12 + 1 for output in outputs)


def test_generate_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each character is out before the next one is drawn."""
    assert run("-c", "job.ini") == 0
    flushed = []

    class Output(io.StringIO):
        def flush(self) -> None:
            flushed.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Output())
    assert run("generate", "--run", "run") == 0
    assert len({len(text) for text in flushed}) > 10  # of 12; only unknown characters wait for the next one


def test_notices_stand_above_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("-c", "job.ini", "--set", "model_config.backend=auto") == 0
    monkeypatch.setattr("baby_mamba.ops.backend._chosen", {})  # as in a new process: each backend is announced
    with redirect_stdout(io.StringIO()) as shown, redirect_stderr(shown):
        assert run("generate", "--run", "run", "--prompt", "fox ") == 0
    notices, _, text = shown.getvalue().partition("fox ")
    assert "selective_scan: cpu backend on cpu\n" in notices
    assert "backend" not in text


def test_generated_text_is_kept_only_where_asked() -> None:
    assert run("-c", "job.ini") == 0
    before = snapshot(Path("run"))
    assert run("generate", "--run", "run") == 0
    assert snapshot(Path("run")) == before
    for _ in range(2):
        assert run("generate", "--run", "run", "--set", "generation_config.generated_text_path=out.txt") == 0
    assert Path("out.txt").read_text().count("the ") >= 2


def test_generate_stops_at_a_string() -> None:
    assert run("-c", "job.ini") == 0
    whole, cut = io.StringIO(), io.StringIO()
    arguments = ["generate", "--run", "run", "--set", "generation_config.num_generated_tokens=40"]
    with redirect_stdout(whole):
        assert run(*arguments) == 0
    new = whole.getvalue()[len("the ") : -1]
    stop = new[20]
    with redirect_stdout(cut):
        assert run(*arguments, "--set", f"generation_config.stop={json.dumps(stop)}") == 0
    assert cut.getvalue() == "the " + new[: new.index(stop)] + "\n"


def test_interactive(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Lines from a pipe; each is gone on from, and the whole is one text, of which nothing is read twice."""
    Path("text.txt").write_text(TEXT.replace("\n", " "))  # so that each line of output is one turn
    assert run("-c", "job.ini") == 0
    capsys.readouterr()
    greedy = ["--run", "run", "--set", "generation_config.temperature=0"]
    out = ["--set", "generation_config.generated_text_path=out.txt"]

    def answers(typed: str, *arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert run("generate", "--interactive", *greedy, *arguments) == 0
        return capsys.readouterr().out.split("\n")

    first, second, third, end = answers("the fox\nand the dog\n\n", *out)
    assert (len(first), len(second), len(third), end) == (12, 12, 12, "")
    written = f"the fox{first}and the dog{second}"
    assert Path("out.txt").read_text() == f"{written}{third}\n\n"
    assert run("generate", *greedy, "--prompt", written) == 0
    assert capsys.readouterr().out == f"{written}{third}\n"

    assert answers("\n", *out) == [""]  # nothing to go on from yet
    Path("out.txt").unlink()
    assert answers(" and\\n so", "--prompt", "the fox", *out)[0] == first
    assert Path("out.txt").read_text().startswith(f"the fox{first} and\n so")


def test_interactive_ends_and_stops_with_ctrl_c(workplace: Path) -> None:
    """Ctrl-C stops the text that is being written, and ends where a line is waited for."""
    Path("text.txt").write_text(TEXT.replace("\n", " "))  # so that each line of output is one turn
    assert run("-c", "job.ini") == 0
    program = Path(cli.__file__).parents[2] / "main.py"
    arguments = ["generate", "--interactive", "--run", "run", "--set", "generation_config.num_generated_tokens=1000000"]
    process = subprocess.Popen(
        [sys.executable, "-u", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(2):  # having been stopped, it goes on
        process.stdin.write(b"the fox\n")
        process.stdin.flush()
        assert len(process.stdout.read(30)) == 30
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().endswith(b"\n")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"Traceback" not in errors


def number(output: str, row: str) -> float:
    return float(re.search(rf"{row}\D*([\d.]+)", output).group(1))


def test_evaluate(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini") == 0
    trained = number(capsys.readouterr().out, "held-out loss  ")
    before = snapshot(Path.cwd())
    assert run("evaluate", "--run", "run") == 0
    output = capsys.readouterr().out
    assert number(output, "loss") == pytest.approx(trained, abs=1e-3)
    assert "held-out part of text.txt" in output
    assert "bits per character" in output
    Path("other.md").write_text("a dog and a fox, ξ")
    assert run("evaluate", "--run", "run", "--file", "other.md") == 0
    output = capsys.readouterr()
    assert "18 characters, 17 scored tokens" in output.out
    assert "each token predicted from all before it" in output.out
    score = score_text(*load_model("run"), "a dog and a fox, ξ")
    assert number(output.out, "loss") == pytest.approx(score.loss, abs=1e-4)
    assert number(output.out, "perplexity") == pytest.approx(score.perplexity, abs=1e-3)
    bits = [float(value) for value in re.findall(r"([\d.]+) bits per", output.out)]
    assert bits == pytest.approx([score.bits_per_character, score.bits_per_byte], abs=1e-4)
    assert "2 of 18 characters are unknown" in output.err
    assert snapshot(Path.cwd()) == {**before, Path.cwd() / "other.md": "a dog and a fox, ξ".encode()}


def test_evaluate_choices(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini") == 0
    questions = [
        {"context": "the lazy", "choices": [" dog", " zzz"], "answer": 0},
        {"context": "the lazy", "choices": [" dog", " zzz"], "answer": 1},
        {"context": "the quick brown", "choices": [" fox"], "answer": 0},
    ]
    Path("questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    capsys.readouterr()
    assert run("evaluate", "--run", "run", "--choices", "questions.jsonl") == 0
    output = capsys.readouterr().out
    result = score_choices(*load_model("run"), load_questions("questions.jsonl"))
    assert "3 of questions.jsonl" in output
    assert number(output, "acc ") == pytest.approx(result.accuracy, abs=1e-4)
    assert number(output, "acc_norm") == pytest.approx(result.normalised_accuracy, abs=1e-4)
    assert number(output, "perplexity") == pytest.approx(result.perplexity, rel=1e-4)


def test_a_transformer_is_trained_continued_and_used_alike(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("transformers")
    llama = ["-c", "job.ini", "--set", "model_config.architecture=llama"]
    assert run(*llama, "--set", "training_config.max_steps=2") == 0
    output = capsys.readouterr().out
    sizes = re.search(r"llama: .*; ([\d,]+) parameters, [\d.]+% \w+ than the ([\d,]+) of the Mamba", output)
    llama_size, mamba_size = (int(size.replace(",", "")) for size in sizes.groups())
    assert llama_size == pytest.approx(mamba_size, rel=0.02)
    assert run(*llama) == 0
    output = capsys.readouterr().out
    assert "going on from step 2 of run" in output
    model, tokenizer = load_model("run", "last")
    assert model.num_parameters() == llama_size
    trained = number(output, "held-out loss  ")
    assert run("evaluate", "--run", "run", "--checkpoint", "last") == 0
    assert number(capsys.readouterr().out, "loss") == pytest.approx(trained, abs=1e-3)
    assert run("evaluate", "--run", "run", "--checkpoint", "last", "--file", "text.txt") == 0
    assert number(capsys.readouterr().out, "loss") == pytest.approx(score_text(model, tokenizer, TEXT).loss, abs=1e-4)
    assert run("generate", "--run", "run") == 0
    assert len(capsys.readouterr().out) == 4 + 12 + 1
    message = refused("-c", "job.ini", capsys=capsys)
    assert "model_config.architecture is 'llama' there and 'mamba' here" in message


def test_compare(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("transformers")
    lengths = ("shortest_length=8", "longest_training_length=8", "longest_context=8", "tokens_per_step=8", "repeats=1")
    arguments = ["compare", "-c", "job.ini", *(f"--set=comparison.{key}" for key in lengths)]
    assert run(*arguments, "--set=comparison.prompts=the") == 0
    output = capsys.readouterr().out
    results = json.loads(Path("run/results.json").read_text(encoding="utf-8"))
    assert all(f"- {sentence}\n" in output for sentence in results["summary"])
    assert output.endswith(f"report: {Path('run/report.md')}\n")
    assert run("generate", "--run", "run/llama", "--prompt", "the") == 0
    capsys.readouterr()
    assert "longest_context = 1 is not allowed" in refused(
        *arguments, "--set=comparison.longest_context=1", capsys=capsys
    )


def test_keys_are_a_config_file(capsys: pytest.CaptureFixture) -> None:
    assert run("keys") == 0
    Path("all.ini").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_config("all.ini") == RunConfig()
    assert "# peak learning rate of AdamW: a number above 0\nlearning_rate = " in Path("all.ini").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["generate", "evaluate", "--set dataset.dataset_path=novel.txt", "configs/"]),
        (["train", "--help"], ["--config", "SECTION.KEY=VALUE"]),
        (["generate", "--help"], ["--prompt-file", "--run", "--checkpoint", "--interactive", "repetition_penalty"]),
        (["evaluate", "--help"], ["--file", "--choices", '"answer": 0']),
        (["compare", "--help"], ["a Transformer of the same size", "configs/compare.ini"]),
        (["--version"], ["0."]),
    ],
)
def test_help(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as status:
        run(*arguments)
    assert status.value.code == 0
    output = capsys.readouterr().out
    for word in words:
        assert word in output


def test_main_py() -> None:
    program = Path(cli.__file__).parents[2] / "main.py"
    result = subprocess.run(
        [sys.executable, program, "-c", "nowhere.ini"], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert result.returncode == 2
    assert result.stderr == "error: config file nowhere.ini does not exist; see configs/ for examples\n"


def test_a_reader_who_leaves_is_no_error() -> None:
    """As in `main.py keys | head`."""
    program = Path(cli.__file__).parents[2] / "main.py"
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-u", program, "keys"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert result.stderr == b""
    assert result.returncode == 1


# What does not: exit status 2, one message, nothing overwritten


def refused(*arguments: str, capsys: pytest.CaptureFixture) -> str:
    """Run a command that has to fail, and return its message."""
    before = snapshot(Path.cwd())
    capsys.readouterr()
    try:
        status = run(*arguments)
    except SystemExit as error:  # argparse's own
        status = error.code
    output = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in output.err
    assert output.err.count("error: ") == 1
    assert snapshot(Path.cwd()) == before
    return output.err


def test_refused_arguments(capsys: pytest.CaptureFixture) -> None:
    for arguments, words in [
        (["fly"], "unrecognized arguments: fly"),
        (["-c"], "expected one argument"),
        (["generate", "--prompt", "x", "--prompt-file", "y"], "not allowed with argument"),
        (["generate", "--checkpoint", "worst"], "invalid choice: 'worst'"),
        (["evaluate", "--file", "x", "--choices", "y"], "not allowed with argument"),
    ]:
        assert words in refused(*arguments, capsys=capsys)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model_config.n_layers=2", "unknown key model_config.n_layers; did you mean n_layer?"),
        ("modelconfig.n_layer=2", "did you mean model_config?"),
        ("model_config.n_layer=0", "model_config.n_layer = 0 is not allowed; expected a whole number of at least 1"),
        ("training_config.device=gpu", "training_config.device = gpu cannot be used here"),
        ("training_config.ckpt_path=", "training_config.ckpt_path is empty"),
        ("training_config.ckpt_path=text.txt", "training_config.ckpt_path = text.txt cannot be written"),
        ("training_config.ckpt_path=text.txt/run", "text.txt/run cannot be written: Not a directory; choose a folder"),
        ("training_config.ckpt_path=.", "holds other files (job.ini, text.txt); expected a new folder"),
        ("training_config.resume=nowhere", "nowhere holds no checkpoint"),
        ("dataset.dataset_path=missing.txt", "dataset.dataset_path = 'missing.txt' does not exist"),
        ("dataset.dataset_path=job.ini", "is of another kind"),
        ("dataset.tokenizer=words", "dataset.tokenizer = 'words' is not allowed"),
    ],
)
def test_refused_values(override: str, words: str, capsys: pytest.CaptureFixture) -> None:
    assert words in refused("-c", "job.ini", "--set", override, capsys=capsys)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; expected text"),
        (b"short text", "a training window is a sequence of 16 tokens, the corpus has 9"),
        (b"long enough, but caf\xe9 is not UTF-8", "is not UTF-8: byte 0xe9 in line 1, offset 20"),
        (TEXT.encode("utf-16"), "holds a NUL byte at offset"),
        (TEXT[:70].encode(), "a batch of 4 windows is larger than an epoch"),
    ],
    ids=["empty", "short", "encoding", "nul", "batch"],
)
def test_refused_texts_leave_an_old_run_as_it_is(content: bytes, words: str, capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini", "--set", "training_config.ckpt_path=old") == 0
    Path("text.txt").write_bytes(content)
    never = ["--set", "training_config.ckpt_path=old", "--set", "training_config.resume=never"]
    assert words in refused("-c", "job.ini", *never, capsys=capsys)


def test_vocabulary_too_small(capsys: pytest.CaptureFixture) -> None:
    message = refused("-c", "job.ini", "--set", "model_config.vocab_size=3", capsys=capsys)
    assert "model_config.vocab_size = 3, and the tokenizer has 30 tokens" in message


def damage_truncate(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def damage_optimizer(checkpoint: Path) -> None:
    (checkpoint / "optimizer.safetensors").write_bytes(b"")


def damage_remove(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").unlink()


def damage_foreign(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").write_text('{"format": "another", "weights": []}')


def damage_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer/baby_mamba_tokenizer.json").write_text('{"kind": "cha')


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_truncate, "model.safetensors is damaged"),
        (damage_optimizer, "optimizer.safetensors is damaged"),
        (damage_remove, "checkpoint.json is damaged: it is missing"),
        (damage_foreign, "was written by another program"),
        (damage_tokenizer, "cannot be read"),
    ],
)
def test_damaged_checkpoints(damage: Callable[[Path], None], words: str, capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini", "--set", "training_config.max_steps=2") == 0
    damage(find_checkpoint("run"))
    assert words in refused("-c", "job.ini", capsys=capsys)
    if damage is not damage_optimizer:
        for command in ("generate", "evaluate"):
            assert words in refused(command, "--run", "run", capsys=capsys)


def test_run_of_another_configuration(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini") == 0
    message = refused("-c", "job.ini", "--set", "model_config.d_model=16", capsys=capsys)
    assert "holds a run of another configuration: model_config.d_model is 8 there and 16 here" in message


def test_text_that_changed(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini") == 0
    Path("text.txt").write_text(TEXT + "the end")
    assert "the text has changed; restore it" in refused("-c", "job.ini", capsys=capsys)


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_nothing_to_load(command: str, capsys: pytest.CaptureFixture) -> None:
    assert "error: run holds no checkpoint" in refused(command, "-c", "job.ini", capsys=capsys)
    assert "error: nowhere holds no checkpoint" in refused(command, "--run", "nowhere", capsys=capsys)


def test_refused_input_of_generate_and_evaluate(capsys: pytest.CaptureFixture) -> None:
    assert run("-c", "job.ini") == 0
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("empty.txt").write_bytes(b"")
    for arguments, words in [
        (["generate", "--prompt", ""], "the prompt is empty; expected text of at least one token"),
        (["generate", "--prompt-file", "missing.txt"], "missing.txt cannot be read: No such file"),
        (["generate", "--prompt-file", "latin.txt"], "latin.txt is not UTF-8 (byte 3)"),
        (["evaluate", "--file", "empty.txt"], "0 tokens; expected at least 2"),
        (["evaluate", "--file", "."], "cannot be read: Is a directory"),
        (["evaluate", "--choices", "latin.txt"], "latin.txt is not UTF-8 (byte 3)"),
        (["evaluate", "--choices", "text.txt"], "text.txt, line 1 is not a question"),
        (["evaluate", "--set", "dataset.dataset_path=missing.txt"], "does not exist"),
    ]:
        assert words in refused(*arguments, "--run", "run", capsys=capsys)
    Path("run/config.ini").unlink()
    assert "config.ini does not exist; give the configuration" in refused("evaluate", "--run", "run", capsys=capsys)


def test_a_synthetic_task(capsys: pytest.CaptureFixture) -> None:
    """It is trained and evaluated like a text, and what needs a text is refused."""
    assert run("-c", "job.ini", "--set", "dataset.task=induction_heads", "--set", "dataset.task_held_out=20") == 0
    assert "of the tokens right" in capsys.readouterr().out
    assert run("evaluate", "--run", "run", "--checkpoint", "last") == 0
    shown = capsys.readouterr().out
    model, _ = load_model("run", "last")
    task_set = TaskDataset(InductionHeads(16, 16), 20)
    assert "20 held-out rows of 16, 20 answers" in shown
    result = evaluate(model, task_set, 8)
    assert f"{result.loss:.4f} nats per answer" in shown
    assert f"{result.accuracy:.4f} of the answers, {result.sequence_accuracy:.4f} of the rows" in shown
    for command in (["generate"], ["evaluate", "--file", "text.txt"]):
        words = refused(*command, "--run", "run", capsys=capsys)
        assert "has learnt dataset.task = induction_heads and knows no text; expected the run of a text" in words
