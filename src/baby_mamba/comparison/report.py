"""The results of a comparison in words and tables. Every number and every sentence is computed from the results."""

from __future__ import annotations

import html
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from baby_mamba.training.files import replace_text

MAMBA, TRANSFORMER = "Mamba", "Transformer"  # the two contenders
REPORT = "report.md"
_EQUAL_LOSS = 0.005  # nats per token, and
_EQUAL_RATIO = 1.05  # of speeds and sizes: below these, neither is said to be better
_UNITS = [(1, "bytes"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")]
_NO_POSITIONS = "too long for its positions"

Results = dict[str, Any]


# In words


def summarise(results: Results) -> list[str]:
    """What the results say, in sentences, whichever of the two is ahead."""
    a, b = results["models"]
    sentences = [
        _same_tokens(results, a, b),
        _same_time(results, a, b),
        _against_length(
            "A training step", results["training_steps"], "length", "tokens_per_second", (a, b), "is {} times as fast"
        ),
        _against_length(
            "Beyond weights and optimizer, a training step", results["training_steps"], "length", "peak_bytes", (a, b),
            "needs {} times less memory", lower_is_better=True,
        ),
        _against_length(
            "Decoding", results["decoding"], "context", "tokens_per_second", (a, b), "is {} times as fast"
        ),
        _kept(results["decoding"], a, b),
    ]  # fmt: skip
    return [sentence for sentence in sentences if sentence]


def _same_tokens(results: Results, a: str, b: str) -> str:
    training = results["training"]
    tokens = [training[name]["tokens"] for name in (a, b)]
    losses = [training[name]["held_out_loss"] for name in (a, b)]
    after = f"{tokens[0]:,} tokens each" if tokens[0] == tokens[1] else f"{tokens[0]:,} and {tokens[1]:,} tokens"
    return f"After {after}, the held-out loss is {_two_losses(a, b, losses)}"


def _same_time(results: Results, a: str, b: str) -> str:
    """The losses when the faster one is done; the slower one's is read off its curve."""
    training = results["training"]
    faster, slower = sorted((a, b), key=lambda name: training[name]["seconds"])
    seconds = training[faster]["seconds"]
    sentence = (
        f"At their median speeds {_the(faster)} takes {seconds:.0f} s for them and {_the(slower)} "
        f"{training[slower]['seconds']:.0f} s."
    )
    curve = training[slower]["curve"]
    if not curve or curve[0]["seconds"] > seconds:
        return f"{sentence} {_sentence(_the(slower))} is not yet evaluated when {_the(faster)} is done."
    loss = np.interp(seconds, *zip(*((point["seconds"], point["held_out_loss"]) for point in curve), strict=True))
    losses = {faster: training[faster]["held_out_loss"], slower: float(loss)}
    return f"{sentence} After {seconds:.0f} s, the held-out loss is {_two_losses(a, b, [losses[a], losses[b]])}"


def _two_losses(a: str, b: str, losses: list[float]) -> str:
    difference = abs(losses[0] - losses[1])
    verdict = (
        "they are equal to within " + str(_EQUAL_LOSS)
        if difference < _EQUAL_LOSS
        else f"{_the(a if losses[0] < losses[1] else b)} is better by {difference:.3f}"
    )
    return f"{losses[0]:.3f} nats per token for {_the(a)} and {losses[1]:.3f} for {_the(b)}: {verdict}."


def _against_length(
    what: str,
    rows: list[Results],
    axis: str,
    key: str,
    names: tuple[str, str],
    phrase: str,
    *,
    lower_is_better: bool = False,
) -> str:
    """Who is ahead where, and by how much at both ends; nothing where there are no numbers."""
    ratios = {}  # of how much better the first is, by length
    for row in rows:
        first, second = (row[name] and row[name][key] for name in names)
        if first and second:
            ratios[row[axis]] = second / first if lower_is_better else first / second
    if not ratios:
        return ""
    lengths = list(ratios)
    ends = [lengths[0], lengths[-1]][: len(lengths)]
    at_the_ends = ", ".join(f"at {n:,} tokens {_ahead(names, ratios[n], phrase)}" for n in ends)
    leads = [(n, _lead(names, ratio)) for n, ratio in ratios.items()]
    changes = [(n, lead) for (_, before), (n, lead) in pairwise(leads) if lead != before]
    course = ", ".join(f"{lead} from {n:,} tokens on" for n, lead in changes) or f"{leads[0][1]} at every length"
    return f"{what}: {at_the_ends}; {course}."


def _lead(names: tuple[str, str], ratio: float) -> str:
    level = max(ratio, 1 / ratio) < _EQUAL_RATIO
    return "they are level" if level else f"{_the(names[ratio < 1])} is ahead"


def _ahead(names: tuple[str, str], ratio: float, phrase: str) -> str:
    lead = _lead(names, ratio)
    return lead.replace("is ahead", phrase.format(f"{max(ratio, 1 / ratio):.1f}"))


def _kept(rows: list[Results], a: str, b: str) -> str:
    """What each keeps of the context that it has read."""
    parts = []
    for name in (a, b):
        sizes = {row["context"]: row[name]["state_bytes"] for row in rows if row[name]}
        if not sizes:
            continue
        (first, least), *_, (last, most) = [*sizes.items()] * 2  # twice, so that one is enough
        parts.append(
            f"{_the(name)} keeps {_bytes(least)} at every length"
            if least == most
            else f"{_the(name)} keeps {_bytes(least)} after {first:,} tokens and {_bytes(most)} after {last:,}"
        )
    return f"To go on from what it has read, {'; '.join(parts)}." if parts else ""


def _the(name: str) -> str:
    return name if name == MAMBA else f"the {name}"


def _on_gpu(training: Results) -> str:
    """What is a CUDA graph there, and what is not."""
    runs = "In the training runs the steps of both are replayed as CUDA graphs. " if training["cuda_graph"] else ""
    return (
        f" {runs}Decoding replays Mamba's step as one; the Transformer's kernels are launched one by one, as "
        "transformers does."
    )


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _bytes(n: float) -> str:
    """For example "1.57 MB"."""
    unit = next((unit for unit in _UNITS if n < 1000 * unit[0]), _UNITS[-1])
    return f"{n / unit[0]:.3g} {unit[1]}"


# The file


def write_report(results: Results, folder: Path) -> None:
    """Write report.md, which shows the pictures beside it.

    Raises:
        OSError: it cannot be written.
    """
    names = list(results["models"])
    models, config, environment = results["models"], results["config"], results["environment"]
    training, data = config["training"], config["dataset"]
    source = f"`{data['dataset_path']}`" if data["task"] == "text" else f"the task {data['task']}"
    parts = [
        f"# A {names[0]} and a {names[1]} of the same size",
        "What this says is computed from `results.json`, which `python main.py compare` wrote.",
        "## In words",
        "\n".join(f"- {sentence}" for sentence in results["summary"]),
        "## Conditions",
        _table(
            ["", "architecture", "shape", "parameters"],
            [[name, m["architecture"], m["shape"], f"{m['parameters']:,}"] for name, m in models.items()],
        ),
        f"Both read the same windows of {config['block_size']} tokens of {source} in the same order, "
        f"{training['train_batch_size']} in a step, with the same schedule (AdamW, peak learning rate "
        f"{training['learning_rate']:g}, {training['schedule']}). What is held out "
        "is scored in windows of the same length. One run of each: another seed can move a loss by a few hundredths. "
        "Seconds of training are tokens at the median speed of the run, evaluations left out. The other speeds are "
        "medians, the two taking turns. Decoding is one stream; the Transformer has its cache of keys and values, as "
        f"transformers keeps it by default.{_on_gpu(training) if config['device'] == 'cuda' else ''}",
        "Measured with " + "; ".join(f"{key} {value}" for key, value in environment.items()) + ".",
        "## Held-out loss",
        "![Held-out loss of both against the tokens read, and against the seconds of training](loss.png)",
        _table(
            ["", "tokens", "steps", "tokens/s", "seconds", "held-out loss, nats per token", "the lowest"],
            [
                [name, f"{t['tokens']:,}", f"{t['steps']:,}", f"{t['tokens_per_second']:,.0f}", f"{t['seconds']:.0f}",
                 f"{t['held_out_loss']:.4f}", f"{t['lowest_held_out_loss']:.4f}"]
                for name, t in results["training"].items()
            ],
        ),
        "## A training step against the length of its sequences",
        "![Tokens per second and peak memory of a training step against the length of its sequences](training.png)",
        "Peak memory is what a step holds at most beyond weights and optimizer.",
        _table_against("length", results["training_steps"], names, ("peak_bytes", "peak memory")),
        "## Decoding against what was read before",
        "![Tokens per second of decoding, and bytes of state or cache, against the tokens read before](decoding.png)",
        _table_against("context", results["decoding"], names, ("state_bytes", "state or cache")),
    ]  # fmt: skip
    if results["texts"]:
        parts += ["## What they write", "The same prompts, sampling and seed, within one training window."]
        parts += [_side_by_side(texts, names) for texts in results["texts"]]
    replace_text(folder / REPORT, "\n\n".join(parts) + "\n")


def _table_against(axis: str, rows: list[Results], names: list[str], size: tuple[str, str]) -> str:
    key, meaning = size
    header = [axis, *(f"{name}, tokens/s" for name in names), *(f"{name}, {meaning}" for name in names)]
    return _table(
        header,
        [
            [
                f"{row[axis]:,}",
                *(f"{row[name]['tokens_per_second']:,.0f}" if row[name] else _NO_POSITIONS for name in names),
                *(_cell(row[name], key) for name in names),
            ]
            for row in rows
        ],
    )


def _cell(measured: Results | None, key: str) -> str:
    if measured is None:
        return _NO_POSITIONS
    return "not measured here" if measured[key] is None else _bytes(measured[key])


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _side_by_side(text: dict[str, str], names: list[str]) -> str:
    """A table of two columns in HTML, since Markdown's has no place for line breaks and bars."""
    heads = "".join(f'<th width="50%">{name}</th>' for name in names)
    cells = "".join(f'<td valign="top"><b>{_escape(text["prompt"])}</b>{_escape(text[name])}</td>' for name in names)
    return f"<table><tr>{heads}</tr><tr>{cells}</tr></table>"


def _escape(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
