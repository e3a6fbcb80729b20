"""The README is true: its code runs, and the commands, files and tables in it are those of this repository."""

import re
import shlex
from pathlib import Path

import pytest

from baby_mamba import cli, load_config
from baby_mamba.ops import backend

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def section(heading: str) -> str:
    """From a heading to the next one."""
    return re.search(rf"^#+ {heading}\n(.*?)(?=^#+ )", README, flags=re.DOTALL | re.MULTILINE).group(1)


def commands() -> list[list[str]]:
    """The arguments of every `python main.py`, in blocks of shell commands and in tables."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += re.findall(r"^\| `(python main\.py[^`]*)`", README, flags=re.MULTILINE)
    return [shlex.split(line.split("python main.py")[1]) for line in lines if "python main.py" in line]


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(block, names)
    assert "held-out loss: " in capsys.readouterr().out
    assert names["ids"].shape == (1, names["prompt"].shape[1] + 80)


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_commands_are_understood(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ran = []
    monkeypatch.setattr(cli, "_COMMANDS", dict.fromkeys(cli._COMMANDS, lambda args: ran.append(args) or 0))
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            cli.main(arguments)
        return
    assert cli.main(arguments) == 0
    (args,) = ran
    load_config(cli._config_path(getattr(args, "config", None)), getattr(args, "overrides", []))


def test_console_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("console")
    command, expected = block.split("\n", 1)
    assert cli.main(shlex.split(command.removeprefix("$ python main.py"))) == 2
    assert capsys.readouterr().err == expected


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(targets) > 20
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_figures_have_descriptions() -> None:
    figures = re.findall(r"!\[([^\]]*)\]\(assets/([^)]+)\)", README)
    pictures = [path.relative_to(ROOT / "assets").as_posix() for path in (ROOT / "assets").rglob("*.png")]
    assert sorted(file for _, file in figures) == sorted(pictures)
    assert all(len(description) > 40 for description, _ in figures)


def test_tree_has_every_file() -> None:
    (tree,) = blocks("text")
    listed, folders = {}, []
    for line in tree.splitlines():
        indent, name, meaning = re.fullmatch(r"( *)(\S+) *(.*)", line).groups()
        folders[len(indent) // 2 :] = [name]
        if not name.endswith("/"):
            listed["".join(folders)] = meaning
    assert [path for path in listed if not (ROOT / path).is_file()] == []
    assert [path for path, meaning in listed.items() if not meaning] == []
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*.py") if path.name != "__init__.py"}
    assert modules - listed.keys() == set()


def test_every_configuration_is_in_the_table() -> None:
    named = re.findall(r"^\| \[`(.*?)`\]", section("Configurations"), flags=re.MULTILINE)
    assert sorted(named) == sorted(
        path.relative_to(ROOT / "configs").as_posix() for path in ROOT.glob("configs/**/*.ini")
    )


def test_every_backend_is_in_the_table() -> None:
    named = re.findall(r"^\| `(\w+)`", section("Backends"), flags=re.MULTILINE)
    assert sorted(named) == sorted(backend._NEEDS)


def test_run_folder_is_as_described(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Call me Ishmael. " * 40, encoding="utf-8")
    settings = {
        "dataset.dataset_path": text,
        "model_config.block_size": 16,
        "model_config.d_model": 8,
        "model_config.n_layer": 1,
        "training_config.train_batch_size": 2,
        "training_config.max_steps": 1,
        "training_config.ckpt_path": tmp_path / "run",
        "generation_config.num_generated_tokens": 1,
        "generation_config.prompt": "me",
    }
    assert cli.main(["train", *(f"--set={key}={value}" for key, value in settings.items())]) == 0
    described = re.findall(r"^\| `(.*?)/?` \|", section("What a run leaves behind"), flags=re.MULTILINE)
    found = {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")}
    assert set(described) - {"tensorboard"} == found
