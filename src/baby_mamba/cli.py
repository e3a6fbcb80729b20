"""The command line: train, generate, fill, extract, evaluate, compare, visualize, keys.

It reads arguments and puts the parts together.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from baby_mamba import __version__
from baby_mamba.comparison import compare
from baby_mamba.comparison.report import REPORT
from baby_mamba.config import GenerationConfig, RunConfig, describe_keys, load_config
from baby_mamba.data import MaskedDataset, MaskTokenizer, TokenDataset, Tokenizer, load_corpus
from baby_mamba.errors import BabyMambaError, CheckpointError, ConfigError, DataError
from baby_mamba.extraction import Education, extract_education, read_document
from baby_mamba.filling import fill_blanks, with_best
from baby_mamba.models import LanguageModel, MambaForMaskedLM, MambaForTokenClassification, Model
from baby_mamba.scoring import load_questions, score_choices, score_text
from baby_mamba.text_generation import TextSession
from baby_mamba.training import ConsoleReporter, check_job, evaluate, load_model, train_job
from baby_mamba.training.checkpoint import find_checkpoint
from baby_mamba.training.device import choose_device
from baby_mamba.training.files import replace_text
from baby_mamba.training.job import task_dataset
from baby_mamba.training.run_folder import CONFIG
from baby_mamba.training.sampling import append_text
from baby_mamba.visualize import record, write_page
from baby_mamba.visualize.page import check_length

logger = logging.getLogger("baby_mamba")

_DESCRIPTION = """\
Train a Mamba on a text, let it write, and measure it.

  %(prog)s                                         train the default job: a few minutes on a laptop
  %(prog)s -c config.ini                           train as the file says
  %(prog)s -c config.ini --set dataset.dataset_path=novel.txt --set training_config.ckpt_path=runs/novel
  %(prog)s generate --run runs/novel --prompt "It was"
  %(prog)s generate --run runs/novel --interactive      write a text in turns with it
  %(prog)s evaluate --run runs/novel --file other.txt
  %(prog)s -c masked.ini                           train a model that fills blanks, and then
  %(prog)s fill -c masked.ini --text "The ___ statement"
  %(prog)s -c cv_extraction.ini                    train a model that finds degrees in a CV, and then
  %(prog)s extract -c cv_extraction.ini --file cv.pdf
  %(prog)s visualize --run runs/novel              a web page of what it does with a text
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
    fill = commands.add_parser(
        "fill",
        parents=[configured, trained],
        help="fill the blanks of a text",
        description="Fill the blanks of a text with a model that was trained with model_config.objective = masked. A "
        "blank is a row of underscores: with a tokenizer of characters or bytes one for each, and with pieces of words "
        "any number for one piece. Each blank is filled as if the others were empty.",
    )
    fill.add_argument("--text", metavar="TEXT", help="text with blanks; otherwise generation_config.prompt")
    fill.add_argument("--candidates", metavar="N", type=int, default=5, help="shown for each blank (default: 5)")
    fill.add_argument(
        "--blank", metavar="CHARACTER", default="_", help="what blanks are made of (default: _), if the text has some"
    )
    extract = commands.add_parser(
        "extract",
        parents=[configured, trained],
        help="find the institutions, degrees and years in CVs",
        description="Find institutions, degrees and years of the education in CVs, with a model that was trained with "
        "dataset.task = cv_extraction: a table with one row for each degree.",
    )
    extract.add_argument("--file", metavar="FILE", nargs="+", required=True, help=".pdf, .docx or .txt files")
    extract.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write JSON into this file, or instead of the table"
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
    visualize = commands.add_parser(
        "visualize",
        parents=[configured, trained],
        help="write a web page that shows what the model does with a text",
        description="Write one HTML page that needs no network: a text, coloured by the step size Delta of each token, "
        "in the layer and channel that you choose; which earlier tokens a token reads from; how long each layer "
        "remembers. Without --text or --file it is the beginning of the held-out part of the run's text.",
    )
    shown = visualize.add_mutually_exclusive_group()
    shown.add_argument("--text", metavar="TEXT", help="the text")
    shown.add_argument("--file", metavar="FILE", help="read it from a file")
    visualize.add_argument(
        "--layers", metavar="NUMBERS", help="e.g. 0,12,23: only these, for a large model; otherwise all"
    )
    visualize.add_argument(
        "--output", metavar="FILE", help="the page (default: page.html in the run folder); replaced if it is there"
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
    config, checkpoint, model, tokenizer = _load_run(args)
    _must_predict_the_next_token(model, checkpoint)
    generation, prompt = config.generation_config, args.prompt
    if args.prompt_file is not None:
        prompt = _read_text(args.prompt_file)
    session = TextSession(model, tokenizer, seed=generation.sampling_seed, sampling=generation)
    if args.interactive:
        return _write_in_turns(session, generation, prompt)
    text = generation.prompt if prompt is None else prompt
    pieces = _go_on(session, generation, text)
    text += next(pieces, "")  # what is logged meanwhile, such as which backend runs, then stands above the text
    print(text, end="", flush=True)
    for piece in pieces:
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


def _fill(args: argparse.Namespace) -> int:
    _log_to(Console(stderr=True, highlight=False))
    config, checkpoint, model, tokenizer = _load_run(args)
    if not isinstance(model, MambaForMaskedLM):
        raise CheckpointError(
            f"{checkpoint} is of a {type(model).__name__}, which fills no blanks; expected a run with "
            "model_config.objective = masked, such as that of configs/masked.ini; `generate` goes on from a text"
        )
    text = config.generation_config.prompt if args.text is None else args.text
    blanks = fill_blanks(model, tokenizer, text, n_candidates=args.candidates, blank=args.blank)
    if not blanks:
        raise DataError(f"the text {text!r} has no blank; expected e.g. --text {'She is a ' + 3 * args.blank!r}")
    _warn_of_unknown(text.replace(args.blank, ""), tokenizer)
    table = Table("blank", "candidate", "probability", "in the text")
    for number, blank in enumerate(blanks, start=1):
        for candidate in blank.candidates:
            found = _printable(candidate.text)
            before = _printable(text[max(0, blank.start - _AROUND) : blank.start])
            after = _printable(text[blank.end : blank.end + _AROUND])
            in_text = Text.assemble(before, (found, "bold"), after)
            table.add_row(str(number), Text(found.strip() or found), f"{candidate.probability:.1%}", in_text)
        table.add_section()
    Console(highlight=False).print(table)
    print(with_best(text, blanks))
    return 0


def _extract(args: argparse.Namespace) -> int:
    _log_to(Console(stderr=True, highlight=False))
    _, checkpoint, model, _ = _load_run(args, reads_text=False)
    if not isinstance(model, MambaForTokenClassification):
        raise CheckpointError(
            f"{checkpoint} was not trained to find anything in CVs; expected a run with dataset.task = cv_extraction, "
            "such as that of configs/cv_extraction.ini"
        )
    texts = {path: read_document(path) for path in args.file}  # complain of any before the first is shown
    found = {path: extract_education(model, text) for path, text in texts.items()}
    if args.json is not None:
        documents = [{"file": path, "education": [e._asdict() for e in entries]} for path, entries in found.items()]
        text = json.dumps(documents, indent=1, ensure_ascii=False) + "\n"
        if args.json == "-":
            print(text, end="")
            return 0
        try:
            replace_text(Path(args.json), text)
        except OSError as error:
            raise DataError(f"{args.json} cannot be written: {error.strerror}; choose another --json") from None
    for path, entries in found.items():
        table = Table(*Education._fields, title=path, title_justify="left")
        for entry in entries:
            table.add_row(*(Text("" if value is None else str(value)) for value in entry))
        console = Console(highlight=False)
        console.print(table if entries else f"{path}: no education found", markup=False)
    return 0


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _evaluate(args: argparse.Namespace) -> int:
    _log_to(Console(stderr=True, highlight=False))
    reads_text = args.choices is not None or args.file is not None
    config, checkpoint, model, tokenizer = _load_run(args, reads_text=reads_text)
    if reads_text:
        _must_predict_the_next_token(model, checkpoint)
    if args.choices is not None:
        rows = _choices_rows(args.choices, model, tokenizer)
    elif args.file is not None:
        rows = _file_rows(args.file, model, tokenizer)
    elif isinstance(model, MambaForMaskedLM):
        rows = _masked_rows(config, model, tokenizer)
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


def _masked_rows(config: RunConfig, model: MambaForMaskedLM, tokenizer: MaskTokenizer) -> list[tuple[str, str]]:
    text, block_size = load_corpus(config.dataset).validation, config.model_config.block_size
    _warn_of_unknown(text, tokenizer)
    fraction = config.training_config.mask_fraction
    held_out = MaskedDataset(
        TokenDataset.from_array(tokenizer.encode(text), block_size), mask_id=tokenizer.mask_id, fraction=fraction
    )
    result = evaluate(model, held_out, config.training_config.eval_batch_size)
    return [
        ("text", f"held-out part of {config.dataset.dataset_path}"),
        ("size", f"{len(text):,} characters, {held_out.n_tokens:,} tokens, {result.n_tokens:,} of them hidden"),
        ("read", f"in windows of {block_size} tokens, as in training"),
        ("loss", f"{result.loss:.4f} nats per hidden token"),
        ("perplexity", f"{result.perplexity:.3f}"),
        ("accuracy", f"{result.accuracy:.4f} of the hidden tokens"),
    ]


def _task_rows(config: RunConfig, model: LanguageModel) -> list[tuple[str, str]]:
    task_set = task_dataset(config.dataset, config.model_config.block_size)
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


_SHOWN_TOKENS = 400  # of the held-out text, where `visualize` is given none


def _visualize(args: argparse.Namespace) -> int:
    _log_to(Console(stderr=True, highlight=False))
    config, checkpoint, model, tokenizer = _load_run(args)
    text = args.text if args.file is None else _read_text(args.file)
    if text is None:
        ids = tokenizer.encode(load_corpus(config.dataset).validation)[:_SHOWN_TOKENS]
    else:
        _warn_of_unknown(text, tokenizer)
        ids = tokenizer.encode(text)
    check_length(len(ids))
    run_folder = checkpoint.parents[1]
    page = Path(args.output or run_folder / "page.html")
    recording = record(model, ids, tokenizer, layers=_layer_numbers(args.layers))
    write_page(recording, page, title=f"What {run_folder} reads")
    print(page)
    return 0


def _layer_numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--layers {text} is no list of layers; expected numbers such as 0,12,23") from None


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
    "fill": _fill,
    "extract": _extract,
    "evaluate": _evaluate,
    "compare": _compare,
    "visualize": _visualize,
    "keys": _keys,
}


# Small parts

_AROUND = 24  # characters of the text that are shown on each side of a filled blank


def _config_path(name: str | None) -> Path | None:
    """The config file that is meant; without a name config.ini if there is one, and else None, for the defaults."""
    wanted = Path(name or "config.ini")
    checkout = Path(__file__).parents[2]
    candidates = [wanted, "configs" / wanted, checkout / "configs" / wanted]
    found = next((path for path in candidates if path.is_file()), None)
    return found or (wanted if name else None)


def _must_predict_the_next_token(model: Model, checkpoint: Path) -> None:
    if not isinstance(model, LanguageModel):
        raise CheckpointError(
            f"{checkpoint} is of a {type(model).__name__}, which reads in both directions, so it neither goes on from "
            "a text nor scores one token after the other; expected the run of a language model, with "
            "model_config.objective = next_token. With objective = masked, `fill` uses it, and `evaluate` without "
            "--file and --choices measures it"
        )


def _load_run(args: argparse.Namespace, *, reads_text: bool = True) -> tuple[RunConfig, Path, Model, Tokenizer | None]:
    """The configuration, checkpoint folder, model and tokenizer that a command is to use.

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
