"""Configuration: one frozen dataclass per section of an .ini file, and a strict reader.

    run = load_config("config.ini", overrides=["training_config.learning_rate=1e-3"])
    model = Mamba(replace(run.model_config, vocab_size=tokenizer.vocab_size))

Every key has a type, a default, a range and one line of help, all in its `_key(...)` declaration below. The reader
refuses unknown sections and keys, values of the wrong type and values out of range, before anything else happens, and
says which section.key it was, what is allowed and which valid name is nearest. The same checks run when a dataclass is
built in Python.
"""

from __future__ import annotations

import configparser
import difflib
import json
import math
import operator
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from baby_mamba.errors import ConfigError

_LIMITS = {
    "at_least": ("of at least", operator.ge),
    "above": ("above", operator.gt),
    "at_most": ("of at most", operator.le),
    "below": ("below", operator.lt),
}


def _key(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] | None = None,
    words: tuple[str, ...] = (),
) -> Any:
    """Declare a key: its default, its help line and what is allowed. `words` are allowed beside numbers."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata={"help": help, "limits": limits, "choices": choices, "words": words})


class _Section:
    """Checks every field of a config dataclass against its `_key` declaration."""

    section: ClassVar[str]

    def __post_init__(self) -> None:
        types = _types(type(self))
        for f in fields(self):
            value = getattr(self, f.name)
            if types[f.name] == (float,) and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            else:
                _check_type(self.section, f, types[f.name], value)
            _check_range(self.section, f, types[f.name], getattr(self, f.name))


@dataclass(frozen=True)
class MambaConfig(_Section):
    """Shape, initialisation and backend of a Mamba. Names are those of the original code and of the paper.

    Raises:
        ConfigError: a field has the wrong type or is out of range.
    """

    section: ClassVar[str] = "model_config"

    architecture: str = _key(
        "mamba",
        "mamba, or a Transformer of the transformers library (llama, gpt2, ...) with as many parameters as that Mamba",
    )
    objective: str = _key(
        "next_token",
        "what is predicted: the next token, from those before it; or masked tokens, from those on both sides, for "
        "which each block reads in both directions",
        choices=("next_token", "masked"),
    )
    block_size: int = _key(256, "tokens in a training window; the model itself has no limit", at_least=2)
    vocab_size: int | None = _key(None, "size of the vocabulary; empty takes the tokenizer's", at_least=1)
    n_labels: int | None = _key(
        None, "labels of a classifier of tokens, which reads in both directions; empty is a language model", at_least=2
    )
    n_layer: int = _key(4, "number of residual blocks", at_least=1)
    d_model: int = _key(128, "width of the residual stream", at_least=1)
    d_state: int = _key(16, "N: numbers of memory per channel", at_least=1, at_most=256)
    d_conv: int = _key(4, "taps of the causal convolution", at_least=1)
    expand: int = _key(2, "E: a block is expand * d_model channels wide", at_least=1)
    legendre_order: int = _key(
        0,
        "degree up to which the inputs of a block are expanded in Legendre polynomials; 0 is Mamba, without them",
        at_least=0,
        at_most=10,
    )
    a_init: str = _key(
        "s4d_real",
        "initial A, which is real: s4d_real is -(n + 1), the eigenvalues of HiPPO-LegS; s4d_lin_real is -1/2, the real "
        "part of S4D-Lin; random is -exp(N(0, 1))",
        choices=("s4d_real", "s4d_lin_real", "random"),
    )
    selective: str = _key(
        "delta B C",
        "which of Delta, B and C depend on the token; the others are learnt constants, and with none of them the model "
        "is time-invariant, as S4 is",
        choices=("delta B C", "delta B", "delta C", "B C", "delta", "B", "C", "none"),
    )
    dt_rank: int | str = _key(
        "auto", "rank of the projection that makes Delta; auto is ceil(d_model / 16)", at_least=1, words=("auto",)
    )
    dt_min: float = _key(0.001, "smallest initial step size", above=0)
    dt_max: float = _key(0.1, "largest initial step size", above=0)
    dt_init: str = _key("random", "initial weights of dt_proj", choices=("random", "constant"))
    dt_scale: float = _key(1.0, "scale of the initial weights of dt_proj", above=0)
    dt_init_floor: float = _key(1e-4, "initial step sizes below this are raised to it", above=0)
    conv_bias: bool = _key(True, "bias in the convolution")
    in_out_proj_bias: bool = _key(False, "bias in in_proj and out_proj")
    norm_epsilon: float = _key(1e-5, "added to the mean square in RMSNorm", above=0)
    selection_norm_epsilon: float | None = _key(
        None, "RMS norm on Delta, B and C with this epsilon, as in Falcon-Mamba (1e-6); empty has none", above=0
    )
    residual_in_fp32: bool = _key(True, "keep the residual stream in float32 under autocast")
    rescale_prenorm_residual: bool = _key(True, "divide the initial out_proj by sqrt(n_layer)")
    initializer_range: float = _key(0.02, "standard deviation of the initial embedding", above=0)
    tie_embeddings: bool = _key(True, "the output head shares the embedding's weights")
    backend: str = _key(
        "auto",
        "implementation of the operations; auto follows the device",
        choices=("auto", "reference", "parallel", "cpu", "triton"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dt_min > self.dt_max:
            raise ConfigError(
                f"model_config.dt_min = {self.dt_min} is above model_config.dt_max = {self.dt_max}; "
                "initial step sizes are drawn between them, so swap or correct the two"
            )

    @property
    def d_inner(self) -> int:
        """Width inside a block: expand * d_model."""
        return self.expand * self.d_model

    @property
    def is_causal(self) -> bool:
        """Whether it reads from left to right and predicts the next token; otherwise it reads in both directions."""
        return self.objective == "next_token" and self.n_labels is None

    @property
    def resolved_dt_rank(self) -> int:
        """dt_rank with "auto" worked out as ceil(d_model / 16)."""
        return math.ceil(self.d_model / 16) if isinstance(self.dt_rank, str) else self.dt_rank


@dataclass(frozen=True)
class DatasetConfig(_Section):
    """Which text, and how it is cut into tokens, or which synthetic task.

    Raises:
        ConfigError: a field has the wrong type or is out of range.
    """

    section: ClassVar[str] = "dataset"

    dataset_path: str = _key(
        "python-manual",
        "python-manual or python-library (come with Python), tinyshakespeare (fetched once), or the path of a .txt "
        "file, a folder of .txt files or a .jsonl file",
    )
    text_field: str = _key("text", "the field of each .jsonl line that holds the text")
    validation_fraction: float = _key(0.1, "share of the text, at its end, that is held out", above=0, below=1)
    tokenizer: str = _key(
        "char", "char, byte, bpe (fitted on the training split), or the path of a transformers tokenizer"
    )
    bpe_vocab_size: int = _key(1024, "size of the vocabulary of tokenizer = bpe", at_least=257)
    task: str = _key(
        "text",
        "what is learnt: the text; a synthetic task of the Mamba paper; or cv_extraction, to find institutions, "
        "degrees and years in invented CVs; in rows of block_size tokens",
        choices=("text", "selective_copying", "induction_heads", "cv_extraction"),
    )
    task_vocab_size: int = _key(16, "size of the vocabulary of a synthetic task, special tokens included", at_least=4)
    task_data_tokens: int = _key(16, "tokens to remember in task = selective_copying", at_least=1)
    task_held_out: int = _key(512, "held-out examples of a synthetic task", at_least=1)


@dataclass(frozen=True)
class TrainerConfig(_Section):
    """How a model is trained, evaluated and saved. Counts are in optimiser steps unless they say otherwise.

    Raises:
        ConfigError: a field has the wrong type or is out of range.
    """

    section: ClassVar[str] = "training_config"

    max_epoch: int = _key(6, "passes over the training split", at_least=1)
    max_steps: int | None = _key(None, "stop after this many steps, whatever max_epoch says", at_least=1)
    max_minutes: float | None = _key(
        None, "stop after this many minutes at the latest; the schedule then ends with them", above=0
    )
    train_batch_size: int = _key(8, "windows per optimiser step", at_least=1)
    eval_batch_size: int = _key(32, "windows per evaluation batch", at_least=1)
    gradient_accumulation_steps: int = _key(1, "parts in which a batch is computed to save memory", at_least=1)
    num_workers: int = _key(0, "processes that prepare batches; 0 prepares them in the main process", at_least=0)
    mask_fraction: float = _key(
        0.15, "share of the tokens that are to be found again with objective = masked", above=0, below=1
    )
    learning_rate: float = _key(4e-3, "peak learning rate of AdamW", above=0)
    min_learning_rate: float = _key(0.0, "learning rate at the end of the schedule", at_least=0)
    schedule: str = _key("cosine", "learning rate after the warm-up", choices=("cosine", "wsd", "constant"))
    warmup_steps: int = _key(50, "steps of linear warm-up", at_least=0)
    decay_fraction: float = _key(0.2, "share of the steps in which schedule = wsd decays", above=0, at_most=1)
    weight_decay: float = _key(0.1, "weight decay of matrices; vectors, A_log and D have none", at_least=0)
    beta_1: float = _key(0.9, "AdamW's beta_1", at_least=0, below=1)
    beta_2: float = _key(0.95, "AdamW's beta_2", at_least=0, below=1)
    gradient_clip: float = _key(1.0, "largest norm of the gradient; 0 does not clip", at_least=0)
    target_loss: float | None = _key(
        None, "stop once the held-out loss is this low, in nats per token; empty never", above=0
    )
    early_stopping_patience: int = _key(0, "evaluations without improvement before stopping; 0 never", at_least=0)
    eval_every_steps: int = _key(200, "steps between evaluations", at_least=1)
    save_every_steps: int = _key(200, "steps between checkpoints", at_least=1)
    sample_every_steps: int = _key(200, "steps between sample texts; 0 none before the end", at_least=0)
    log_every_steps: int = _key(10, "steps between lines of metrics.jsonl", at_least=1)
    ckpt_path: str = _key("runs/default", "the run folder: checkpoints, metrics, samples, plot")
    resume: str = _key("auto", "auto (continue the run in ckpt_path), never (start afresh), or another run folder")
    seed: int = _key(1337, "seed of the weights and of the order of the windows", at_least=0)
    device: str = _key("auto", "auto (cuda if there is one, else cpu), cpu, cuda, cuda:1, mps, ...")
    precision: str = _key(
        "auto", "auto is bfloat16 autocast on GPUs and float32 elsewhere", choices=("auto", "float32", "bfloat16")
    )
    cuda_graph: bool = _key(
        True,
        "replay a language model's step on an NVIDIA GPU as one CUDA graph, which spares the host launches",
    )
    num_threads: int = _key(0, "threads of PyTorch on the CPU; 0 leaves its own choice", at_least=0)
    tensorboard: bool = _key(False, "write TensorBoard events into the run folder")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                f"training_config.min_learning_rate = {self.min_learning_rate:g} is above "
                f"training_config.learning_rate = {self.learning_rate:g}; it is where the schedule ends, so lower it"
            )
        if self.gradient_accumulation_steps > self.train_batch_size:
            raise ConfigError(
                f"training_config.gradient_accumulation_steps = {self.gradient_accumulation_steps} is above "
                f"training_config.train_batch_size = {self.train_batch_size}, which it divides into parts; lower it"
            )


@dataclass(frozen=True)
class Sampling(_Section):
    """How the next token is drawn from its scores, in the order of the fields; each filter sees what the last one left.

    The defaults change nothing: a token is drawn from the model's own distribution.

    Raises:
        ConfigError: a field has the wrong type or is out of range.
    """

    section: ClassVar[str] = "sampling"

    repetition_penalty: float = _key(
        1.0, "divides the positive scores of tokens already there and multiplies the negative ones; 1 is off", above=0
    )
    temperature: float = _key(1.0, "divides the scores; 0 takes the likeliest token", at_least=0)
    top_k: int = _key(0, "sample among the k likeliest tokens; 0 is all", at_least=0)
    top_p: float = _key(1.0, "sample among the likeliest tokens that hold this probability", above=0, at_most=1)
    min_p: float = _key(
        0.0, "sample among tokens with at least this share of the likeliest one's probability", at_least=0, at_most=1
    )


@dataclass(frozen=True)
class GenerationConfig(Sampling):
    """How text is sampled: a `Sampling` with defaults for text, and what to go on from, how far and where to.

    Raises:
        ConfigError: a field has the wrong type or is out of range.
    """

    section: ClassVar[str] = "generation_config"

    temperature: float = _key(0.7, "divides the scores; 0 takes the likeliest token", at_least=0)
    top_p: float = _key(0.95, "sample among the likeliest tokens that hold this probability", above=0, at_most=1)
    sampling_seed: int = _key(1, "seed of the sampling", at_least=0)
    num_generated_tokens: int = _key(300, "tokens in a sample", at_least=1)
    generated_text_path: str = _key("", "file to which samples are appended; empty is samples.txt in the run folder")
    prompt: str = _key("When the ", "text that a sample continues; within double quotes, \\n is a line break")
    stop: str = _key("", "a sample ends before this text, which is quoted as the prompt is; empty is off")


@dataclass(frozen=True)
class ComparisonConfig(_Section):
    """What `compare` sets beside the model, and where it measures. Lengths are in tokens.

    Raises:
        ConfigError: a field has the wrong type or is out of range.
    """

    section: ClassVar[str] = "comparison"

    architecture: str = _key("llama", "the Transformer: a causal language model of the transformers library")
    shortest_length: int = _key(64, "where the measurements begin; each next length is four times the last", at_least=2)
    longest_training_length: int = _key(16384, "where those of a training step end", at_least=2)
    longest_context: int = _key(16384, "where those of decoding end", at_least=2)
    tokens_per_step: int = _key(
        16384, "in a measured training step: many short sequences or few long ones, at least one", at_least=2
    )
    decoded_tokens: int = _key(32, "drawn in a measurement of decoding", at_least=1)
    repeats: int = _key(5, "measurements of which the median counts", at_least=1)
    prompts: str = _key("When the |A function |For example, ", "texts that both continue, with | between them")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("longest_training_length", "longest_context"):
            if self.shortest_length > getattr(self, name):
                raise ConfigError(
                    f"comparison.shortest_length = {self.shortest_length} is above comparison.{name} = "
                    f"{getattr(self, name)}, where the measurements end; lower it"
                )


@dataclass(frozen=True)
class RunConfig:
    """Everything that one run needs; one attribute per section of the .ini file."""

    model_config: MambaConfig = field(default_factory=MambaConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    training_config: TrainerConfig = field(default_factory=TrainerConfig)
    generation_config: GenerationConfig = field(default_factory=GenerationConfig)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)

    def to_ini(self) -> str:
        """The resolved configuration as the text of an .ini file that `load_config` reads back to an equal value."""
        parts = []
        for section in fields(self):
            config = getattr(self, section.name)
            lines = [f"{f.name} = {_to_text(getattr(config, f.name))}".rstrip() for f in fields(config)]
            parts.append("\n".join([f"[{section.name}]", *lines]))
        return "\n\n".join(parts) + "\n"


SECTIONS: dict[str, type[_Section]] = {
    "model_config": MambaConfig,
    "dataset": DatasetConfig,
    "training_config": TrainerConfig,
    "generation_config": GenerationConfig,
    "comparison": ComparisonConfig,
}


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read an .ini file and apply overrides.

    Args:
        path: the .ini file; None starts from the defaults.
        overrides: strings of the form "section.key=value"; later ones win, and all win over the file.

    Raises:
        ConfigError: the file cannot be read or parsed, or a section, key or value is not allowed.
    """
    texts: dict[str, dict[str, str]] = {name: {} for name in SECTIONS}
    if path is not None:
        for section, values in _read_ini(Path(path)).items():
            _known(section, SECTIONS, "section", f"[{section}] in {path}")
            for key, text in values.items():
                _known_key(section, key)
                texts[section][key] = text
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"--set {override!r} is not of the form section.key=value, e.g. dataset.tokenizer=byte")
        _known(section, SECTIONS, "section", f"{section!r} in --set {override}")
        _known_key(section, key)
        texts[section][key] = text.strip()
    return RunConfig(
        **{
            section: cls(**{key: _parse(section, cls, key, text) for key, text in texts[section].items()})
            for section, cls in SECTIONS.items()
        }
    )


def describe_keys() -> list[tuple[str, str, str, str]]:
    """(section.key, default, what is allowed, help) for every key, in order: the source of `--help` and of the docs."""
    return [
        (f"{section}.{f.name}", _to_text(f.default), _allowed(f, _types(cls)[f.name]), f.metadata["help"])
        for section, cls in SECTIONS.items()
        for f in fields(cls)
    ]


def _read_ini(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"), default_section="")
    parser.optionxform = str  # type: ignore[assignment]  # keys are case-sensitive
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist; see configs/ for examples") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from None
    except configparser.Error as error:
        message = " ".join(str(error).split())
        raise ConfigError(
            f"config file {path} cannot be parsed: {message}; expected [section] and key = value"
        ) from None
    return {section: dict(parser[section]) for section in parser.sections()}


def _known(name: str, valid: Iterable[str], kind: str, where: str) -> None:
    valid = list(valid)
    if name not in valid:
        raise ConfigError(f"unknown {kind} {where}; {_nearest(name, valid)}")


def _known_key(section: str, key: str) -> None:
    keys = [f.name for f in fields(SECTIONS[section])]
    if key in keys:
        return
    elsewhere = [name for name, cls in SECTIONS.items() if key in (f.name for f in fields(cls))]
    remedy = f"it belongs in [{elsewhere[0]}]" if elsewhere else _nearest(key, keys)
    raise ConfigError(f"unknown key {section}.{key}; {remedy}")


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"valid names are {', '.join(valid)}"


def _types(cls: type) -> dict[str, tuple[type, ...]]:
    """Each field's types as a tuple: `int | None` is (int, NoneType)."""
    hints = typing.get_type_hints(cls)
    return {f.name: typing.get_args(hints[f.name]) or (hints[f.name],) for f in fields(cls)}


def _parse(section: str, cls: type, key: str, text: str) -> Any:
    f = next(f for f in fields(cls) if f.name == key)
    types = _types(cls)[key]
    if type(None) in types and text.lower() in ("", "none"):
        return None
    if text in f.metadata["words"]:
        return text
    readers = {bool: _read_bool, int: _read_int, float: float, str: _read_str}
    try:
        return readers[types[0]](text)
    except ValueError:
        raise ConfigError(f"{section}.{key} = {text!r} is not allowed; expected {_allowed(f, types)}") from None


def _read_bool(text: str) -> bool:
    try:
        return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _read_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        if float(text).is_integer():  # 1e4, but neither 1.5 nor inf
            return int(float(text))
        raise


def _read_str(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return json.loads(text) if quoted else text


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if text == text.strip() and text.isprintable() and not any(mark in text for mark in '#;"'):
        return text
    return json.dumps(text, ensure_ascii=False).replace("#", "\\u0023").replace(";", "\\u003b")


def _check_type(section: str, f: Any, types: tuple[type, ...], value: Any) -> None:
    right = type(value) in types and not (
        type(value) is str and f.metadata["words"] and value not in f.metadata["words"]
    )
    if not right:
        raise ConfigError(f"{section}.{f.name} = {value!r} is not allowed; expected {_allowed(f, types)}")


def _check_range(section: str, f: Any, types: tuple[type, ...], value: Any) -> None:
    choices, limits = f.metadata["choices"], f.metadata["limits"]
    wrong = choices is not None and value not in choices
    if type(value) in (int, float):
        within = all(_LIMITS[name][1](value, limit) for name, limit in limits.items())
        wrong = wrong or not (math.isfinite(value) and within)
    if wrong:
        close = difflib.get_close_matches(str(value), choices or (), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{section}.{f.name} = {value!r} is not allowed; expected {_allowed(f, types)}{hint}")


def _allowed(f: Any, types: tuple[type, ...]) -> str:
    if f.metadata["choices"]:
        return " or ".join([", ".join(f.metadata["choices"][:-1]), f.metadata["choices"][-1]])
    name = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[types[0]]
    limits = [f"{_LIMITS[key][0]} {limit:g}" for key, limit in f.metadata["limits"].items()]
    alternatives = [*f.metadata["words"], *(["empty"] if type(None) in types else [])]
    return " or ".join([" ".join([name, " and ".join(limits)]).strip(), *alternatives])
