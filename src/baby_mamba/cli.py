"""The command line: train, generate, evaluate, compare, keys. It reads arguments and puts the parts together."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from baby_mamba import __version__
from baby_mamba.comparison import compare
from baby_mamba.comparison.report import REPORT
from baby_mamba.config import GenerationConfig, RunConfig, describe_keys, load_config
from baby_mamba.data import TaskDataset, TokenDataset, Tokenizer, load_corpus
from baby_mamba.errors import BabyMambaError, CheckpointError, DataError
from baby_mamba.models import LanguageModel
from baby_mamba.scoring import load_questions, score_choices, score_text
from baby_mamba.text_generation import TextSession
from baby_mamba.training import ConsoleReporter, check_job, evaluate, load_model, train_job
from baby_mamba.training.checkpoint import find_checkpoint
from baby_mamba.training.device import choose_device
from baby_mamba.training.run_folder import CONFIG
from baby_mamba.training.sampling import append_text

logger = logging.getLogger("baby_mamba")

_DESCRIPTION = """\
Train a Mamba on a text, let it write, and measure it.

  %(prog)s                                         train the default job: a few minutes on a laptop
  %(prog)s -c config.ini                           train as the file says
  %(prog)s -c config.ini --set dataset.dataset_path=novel.txt --set training_config.ckpt_path=runs/novel
  %(prog)s generate --run runs/novel --prompt "It was"
  %(prog)s generate --run runs/novel --interactive      write a text in turns with it
  %(prog)s evaluate --run runs/novel --file other.txt
  %(prog)s compare                                 train a Transformer of the same size beside it, and report
  %(prog)s keys > my.ini                           every key of a configuration with its default and meaning

A run that was stopped goes on when the same command is given again. A config file is looked up in the current folder
and then in configs/; without -c it is config.ini, or else the defaults."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 after an error that is explained, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if not arguments or arguments[0] not in (*_COMMANDS, "-h", "--help", "--version"):
        arguments.insert(0, "train")
    args = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model may write characters that the terminal cannot show
    try:
        return _COMMANDS[args.command](args)
    except BabyMambaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `baby-mamba generate | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py" if Path(sys.argv[0]).name == "main.py" else "baby-mamba",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="command")

    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument("-c", "--config", metavar="FILE", help="an .ini file, here or in configs/")
    configured.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="override a key; may be repeated (the command keys lists them)",
    )
    trained = argparse.ArgumentParser(add_help=False)
    trained.add_argument(
        "--run",
        metavar="FOLDER",
        help="a run folder or a checkpoint folder; otherwise training_config.ckpt_path says it. "
        "Without -c, its own config.ini is used",
    )
    trained.add_argument(
        "--checkpoint", choices=("best", "last"), default="best", help="which one of the run (default: best)"
    )

    commands.add_parser("train", parents=[configured], help="train a model (the default command)")
    generate = commands.add_parser(
        "generate",
        parents=[configured, trained],
        help="write text",
        description="Write text. How it is sampled stands in the section generation_config: temperature, top_k, top_p, "
        "min_p, repetition_penalty, stop, num_generated_tokens, sampling_seed.",
    )
    prompt = generate.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="text to go on from; otherwise generation_config.prompt")
    prompt.add_argument("--prompt-file", metavar="FILE", help="read it from a file")
    generate.add_argument(
        "--interactive",
        action="store_true",
        help="write in turns: a line of yours, then the model goes on, all in one text; \\n in a line is a line break, "
        "an empty line lets the model write on, Ctrl-C stops it, and Ctrl-C or the end of input (Ctrl-D) ends",
    )
    evaluate = commands.add_parser(
        "evaluate",
        parents=[configured, trained],
        help="measure the held-out loss, or score a text or multiple-choice questions",
        description="Without --file or --choices: the loss on the held-out part of the run's text, in windows of "
        "block_size as in training.",
    )
    other = evaluate.add_mutually_exclusive_group()
    other.add_argument(
        "--file", metavar="FILE", help="score this text, each token from all before it: perplexity, bits per byte"
    )
    other.add_argument(
        "--choices",
        metavar="FILE",
        help='score the questions of a .jsonl file, {"context": "It", "choices": [" was", " were"], "answer": 0} in '
        "each line: acc and acc_norm as in lm-evaluation-harness",
    )
    commands.add_parser(
        "compare",
        parents=[configured],
        help="train a Transformer of the same size, too, and report how the two compare",
        description="Train the model and a Transformer of the same size on the same text, or load those that are in "
        "training_config.ckpt_path already; measure both; and write report.md, pictures and results.json there. The "
        "section comparison says what is measured; without -c it is configs/compare.ini.",
    )
    commands.add_parser("keys", help="print an .ini file of all keys with their defaults and meaning")
    return parser


# Commands


def _train(args: argparse.Namespace) -> int:
    config = load_config(_config_path(args.config), args.overrides)
    check_job(config)  # all that can be refused without the text is refused before it is read
    console = Console(highlight=False)
    _log_to(console)
    return 130 if train_job(config, ConsoleReporter(console)).interrupted else 0


def _compare(args: argparse.Namespace) -> int:
    config = load_config(_config_path(args.config or "compare.ini"), args.overrides)
    console = Console(highlight=False)
    _log_to(console)
    results = compare(config, lambda: ConsoleReporter(console))
    for sentence in results["summary"]:
        console.print(f"- {sentence}", markup=False, soft_wrap=True)
    console.print(f"report: {Path(config.training_config.ckpt_path) / REPORT}", markup=False, soft_wrap=True)
    return 0


def _generate(args: argparse.Namespace) -> int:
    _log_to(Console(stderr=True, highlight=False))
    config, _, model, tokenizer = _load_run(args)
    generation, prompt = config.generation_config, args.prompt
    if args.prompt_file is not None:
        prompt = _read_text(args.prompt_file)
    session = TextSession(model, tokenizer, seed=generation.sampling_seed, sampling=generation)
    if args.interactive:
        return _write_in_turns(session, generation, prompt)
    text = generation.prompt if prompt is None else prompt
    print(text, end="", flush=True)
    for piece in _go_on(session, generation, text):
        print(piece, end="", flush=True)
        text += piece
    print()
    if generation.generated_text_path:
        append_text(generation.generated_text_path, text + "\n\n")
    return 0


def _write_in_turns(session: TextSession, generation: GenerationConfig, text: str | None) -> int:
    """A line of the person, then the model goes on, as one text; the state is kept, so that nothing is read again."""
    in_terminal, written = sys.stdin.isatty(), ""
    if in_terminal:
        with suppress(ImportError):  # not on Windows, whose console edits lines itself
            import readline  # noqa: F401  # input() then edits lines and remembers them
    try:
        while True:
            text = input("> " if in_terminal else "").replace("\\n", "\n") if text is None else text
            if text or session.state is not None:
                written += text
                try:
                    for piece in _go_on(session, generation, text):
                        print(piece, end="", flush=True)
                        written += piece
                except KeyboardInterrupt:
                    pass  # this far, and no further
                print(flush=True)
            text = None
    except (EOFError, KeyboardInterrupt):
        if in_terminal:
            print()
    if generation.generated_text_path:
        append_text(generation.generated_text_path, written + "\n\n")
    return 0


def _go_on(session: TextSession, generation: GenerationConfig, text: str) -> Iterator[str]:
    return session.stream(text, max_new_tokens=generation.num_generated_tokens, stop=generation.stop or ())


def _evaluate(args: argparse.Namespace) -> int:
    _log_to(Console(stderr=True, highlight=False))
    reads_text = args.choices is not None or args.file is not None
    config, checkpoint, model, tokenizer = _load_run(args, reads_text=reads_text)
    if args.choices is not None:
        rows = _choices_rows(args.choices, model, tokenizer)
    elif args.file is not None:
        rows = _file_rows(args.file, model, tokenizer)
    elif config.dataset.task != "text":
        rows = _task_rows(config, model)
    else:
        rows = _held_out_rows(config, model, tokenizer)
    table = Table(show_header=False)
    for row in [("checkpoint", str(checkpoint)), *rows]:
        table.add_row(*row)
    Console(highlight=False).print(table)
    return 0


def _held_out_rows(config: RunConfig, model: LanguageModel, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    text, block_size = load_corpus(config.dataset).validation, config.model_config.block_size
    _warn_of_unknown(text, tokenizer)
    tokens = tokenizer.encode(text)
    result = evaluate(
        model,
        TokenDataset.from_array(tokens, block_size),
        config.training_config.eval_batch_size,
        characters_per_token=len(text) / max(1, len(tokens)),
    )
    return [
        ("text", f"held-out part of {config.dataset.dataset_path}"),
        ("size", f"{len(text):,} characters, {result.n_tokens:,} scored tokens"),
        ("read", f"in windows of {block_size} tokens, as in training"),
        ("loss", f"{result.loss:.4f} nats per token"),
        ("", f"{result.bits_per_character:.4f} bits per character"),
        ("perplexity", f"{result.perplexity:.3f}"),
    ]


def _task_rows(config: RunConfig, model: LanguageModel) -> list[tuple[str, str]]:
    task_set = TaskDataset.from_config(config.dataset, config.model_config.block_size)
    result = evaluate(model, task_set, config.training_config.eval_batch_size)
    return [
        ("task", config.dataset.task),
        ("size", f"{task_set.n_held_out:,} held-out rows of {task_set.block_size:,}, {result.n_tokens:,} answers"),
        ("loss", f"{result.loss:.4f} nats per answer"),
        ("accuracy", f"{result.accuracy:.4f} of the answers, {result.sequence_accuracy:.4f} of the rows"),
    ]


def _file_rows(path: str, model: LanguageModel, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    text = _read_text(path)
    _warn_of_unknown(text, tokenizer)
    score = score_text(model, tokenizer, text)
    return [
        ("text", path),
        ("size", f"{score.n_characters:,} characters, {score.n_tokens:,} scored tokens"),
        ("read", "in one go, each token predicted from all before it"),
        ("loss", f"{score.loss:.4f} nats per token"),
        ("", f"{score.bits_per_character:.4f} bits per character"),
        ("", f"{score.bits_per_byte:.4f} bits per byte"),
        ("perplexity", f"{score.perplexity:.3f}"),
    ]


def _choices_rows(path: str, model: LanguageModel, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    questions = load_questions(path)
    _warn_of_unknown("".join(q.context + "".join(q.choices) for q in questions), tokenizer)
    result = score_choices(model, tokenizer, questions)
    return [
        ("questions", f"{len(questions):,} of {path}"),
        *(
            (name, f"{share:.4f}, standard error {result.standard_error(share):.4f}")
            for name, share in (("acc", result.accuracy), ("acc_norm", result.normalised_accuracy))
        ),
        ("perplexity", f"{result.perplexity:.3f} of the right choices"),
    ]


def _warn_of_unknown(text: str, tokenizer: Tokenizer) -> None:
    unknown = sum(tokenizer.unknown_characters(text).values())
    if unknown:
        logger.warning("%d of %d characters are unknown to the tokenizer, which reads them as one", unknown, len(text))


def _keys(args: argparse.Namespace) -> int:
    section = None
    for name, default, allowed, help in describe_keys():
        if name.split(".")[0] != section:
            print("" if section is None else "\n", end="")
            section = name.split(".")[0]
            print(f"[{section}]")
        print(f"# {help}: {allowed}")
        print(f"{name.split('.')[1]} = {default}".rstrip())
    return 0


_COMMANDS = {
    "train": _train,
    "generate": _generate,
    "evaluate": _evaluate,
    "compare": _compare,
    "keys": _keys,
}


# Small parts


def _config_path(name: str | None) -> Path | None:
    """The config file that is meant; without a name config.ini if there is one, and else None, for the defaults."""
    wanted = Path(name or "config.ini")
    checkout = Path(__file__).parents[2]
    candidates = [wanted, "configs" / wanted, checkout / "configs" / wanted]
    found = next((path for path in candidates if path.is_file()), None)
    return found or (wanted if name else None)


def _load_run(
    args: argparse.Namespace, *, reads_text: bool = True
) -> tuple[RunConfig, Path, LanguageModel, Tokenizer | None]:
    """The configuration, checkpoint folder, model and tokenizer that `generate` and `evaluate` are to use.

    The tokenizer is None only for the run of a synthetic task, and only if no text is to be read.
    """
    config = None
    if args.run is None or args.config is not None:
        config = load_config(_config_path(args.config), args.overrides)
    checkpoint = find_checkpoint(args.run or config.training_config.ckpt_path, args.checkpoint)
    if args.config is None:
        own = checkpoint.parents[1] / CONFIG
        if not own.is_file():
            raise CheckpointError(f"{own} does not exist; give the configuration of the run with -c FILE")
        config = load_config(own, args.overrides)
    device = choose_device(config.training_config.device)
    model, tokenizer = load_model(checkpoint, device=device, backend=config.model_config.backend)
    if tokenizer is None and config.dataset.task != "text":
        if not reads_text:
            return config, checkpoint, model, None
        raise CheckpointError(
            f"{checkpoint} has learnt dataset.task = {config.dataset.task} and knows no text; expected the run of a "
            "text, and `evaluate` without --file and --choices measures this one"
        )
    if tokenizer is None:
        raise CheckpointError(
            f"{checkpoint} was saved without a tokenizer, so no text can be read or written; train again with "
            "Trainer(..., tokenizer=tokenizer)"
        )
    return config, checkpoint, model, tokenizer


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path") from None


class _ConsoleHandler(logging.Handler):
    """Prints what the package logs, such as which backend it uses, above the progress bar if there is one."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(self.format(record), style="dim", markup=False, soft_wrap=True)


def _log_to(console: Console) -> None:
    logger.handlers = [_ConsoleHandler(console)]
    logger.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
