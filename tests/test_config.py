import dataclasses
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baby_mamba.config import (
    SECTIONS,
    DatasetConfig,
    GenerationConfig,
    MambaConfig,
    RunConfig,
    TrainerConfig,
    describe_keys,
    load_config,
)
from baby_mamba.errors import BabyMambaError, ConfigError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.ini"))

# A file of the kind that is around, with these keys and no other.
MINIMAL = """
[model_config]
block_size = 64
n_layer = 2
d_model = 32
d_state = 8
d_conv = 3
expand = 3
dt_min = 0.002
dt_max = 0.2
dt_init = constant
dt_scale = 2.0
dt_init_floor = 1e-3
conv_bias = False
in_out_proj_bias = True

[dataset]
dataset_path = some/text.txt

[training_config]
max_epoch = 3
train_batch_size = 8
eval_batch_size = 9
num_workers = 2
learning_rate = 1e-4
weight_decay = 0.05
beta_1 = 0.8
beta_2 = 0.9
ckpt_path = runs/x

[generation_config]
num_generated_tokens = 50
generated_text_path = out.txt
"""


@pytest.fixture
def load(tmp_path: Path):
    def load(text: str, *overrides: str) -> RunConfig:
        path = tmp_path / "job.ini"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return load


# Reading


def test_minimal_file(load) -> None:
    assert load(MINIMAL) == RunConfig(
        MambaConfig(
            block_size=64,
            n_layer=2,
            d_model=32,
            d_state=8,
            d_conv=3,
            expand=3,
            dt_min=0.002,
            dt_max=0.2,
            dt_init="constant",
            dt_scale=2.0,
            dt_init_floor=1e-3,
            conv_bias=False,
            in_out_proj_bias=True,
        ),
        DatasetConfig(dataset_path="some/text.txt"),
        TrainerConfig(
            max_epoch=3,
            train_batch_size=8,
            eval_batch_size=9,
            num_workers=2,
            learning_rate=1e-4,
            weight_decay=0.05,
            beta_1=0.8,
            beta_2=0.9,
            ckpt_path="runs/x",
        ),
        GenerationConfig(num_generated_tokens=50, generated_text_path="out.txt"),
    )


def test_no_file_and_an_empty_file_are_the_defaults(load) -> None:
    assert load_config() == load("") == RunConfig()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_file_loads(path: Path) -> None:
    load_config(path)


def test_there_are_shipped_files() -> None:
    assert "config.ini" in {path.name for path in CONFIGS}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model_config.n_layer", "1e1", 10),
        ("model_config.dt_rank", "auto", "auto"),
        ("model_config.dt_rank", "7", 7),
        ("model_config.vocab_size", "", None),
        ("model_config.vocab_size", "none", None),
        ("model_config.conv_bias", "off", False),
        ("model_config.conv_bias", "YES", True),
        ("training_config.learning_rate", "1", 1.0),
        ("training_config.max_minutes", "2.5", 2.5),
        ("dataset.dataset_path", r"C:\new\text.txt", r"C:\new\text.txt"),
        ("generation_config.prompt", '"To be,\\n"', "To be,\n"),
        ("generation_config.prompt", '"The "', "The "),
        ("generation_config.prompt", "100 % sure", "100 % sure"),
        ("generation_config.prompt", "x = y", "x = y"),
    ],
)
def test_values(load, key: str, text: str, value: object) -> None:
    section, name = key.split(".")
    for config in (load(f"[{section}]\n{name} = {text}"), load("", f"{key}={text}")):
        got = getattr(getattr(config, section), name)
        assert got == value
        assert type(got) is type(value)


def test_comments_and_byte_order_mark(load) -> None:
    config = load("\ufeff# a job\n[model_config]\nn_layer = 2  # small\n; and\nd_model = 8 ; narrow\n")
    assert (config.model_config.n_layer, config.model_config.d_model) == (2, 8)


# Overrides


def test_overrides_win_and_the_last_one_counts(load) -> None:
    config = load(MINIMAL, "model_config.n_layer=5", "model_config.n_layer = 6", "dataset.tokenizer=byte")
    assert config.model_config.n_layer == 6
    assert config.model_config.d_model == 32
    assert config.dataset.tokenizer == "byte"


def test_an_override_may_mend_the_file(load) -> None:
    assert load("[model_config]\nn_layer = 0\n", "model_config.n_layer=1").model_config.n_layer == 1


@pytest.mark.parametrize("override", ["n_layer=3", "model_config.n_layer", "model_config=3", "", "="])
def test_override_of_another_form(override: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form section\.key=value"):
        load_config(overrides=[override])


# Refusals: what was got, what is allowed, which name is nearest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model]\nn_layer = 2", ["unknown section [model]", "did you mean model_config?"]),
        ("[zzz]\n", ["unknown section [zzz]", "valid names are model_config, dataset"]),
        ("[model_config]\nn_layers = 2", ["unknown key model_config.n_layers", "did you mean n_layer?"]),
        ("[model_config]\nlearning_rate = 2", ["model_config.learning_rate", "it belongs in [training_config]"]),
        ("[model_config]\nN_layer = 2", ["unknown key model_config.N_layer", "did you mean n_layer?"]),
        (
            "[model_config]\nqqq = 2",
            ["unknown key model_config.qqq", "valid names are architecture, objective, block_size"],
        ),
        ("[model_config]\nn_layer = two", ["model_config.n_layer = 'two'", "expected a whole number of at least 1"]),
        ("[model_config]\nn_layer = 2.5", ["model_config.n_layer = '2.5'", "a whole number"]),
        ("[model_config]\nn_layer = inf", ["model_config.n_layer = 'inf'", "a whole number"]),
        ("[model_config]\nn_layer =", ["model_config.n_layer = ''", "a whole number"]),
        ("[model_config]\nn_layer = 0", ["model_config.n_layer = 0", "a whole number of at least 1"]),
        ("[model_config]\nd_state = 257", ["model_config.d_state = 257", "at least 1 and of at most 256"]),
        ("[model_config]\nconv_bias = maybe", ["model_config.conv_bias = 'maybe'", "true or false"]),
        ("[model_config]\ndt_rank = big", ["model_config.dt_rank = 'big'", "a whole number of at least 1 or auto"]),
        ("[model_config]\ndt_init = randm", ["'randm'", "random or constant", "did you mean random?"]),
        ("[model_config]\nbackend = gpu", ["'gpu'", "auto, reference, parallel, cpu or triton"]),
        ("[model_config]\ndt_min = 1", ["dt_min = 1.0 is above model_config.dt_max = 0.1"]),
        ("[training_config]\nlearning_rate = nan", ["training_config.learning_rate = nan", "a number above 0"]),
        ("[training_config]\nlearning_rate = 0", ["training_config.learning_rate = 0.0", "a number above 0"]),
        ("[training_config]\nbeta_1 = 1", ["training_config.beta_1 = 1.0", "of at least 0 and below 1"]),
        ("[training_config]\nmin_learning_rate = 1", ["min_learning_rate = 1 is above training_config.learning_rate"]),
        (
            "[training_config]\ngradient_accumulation_steps = 17",
            ["= 17 is above training_config.train_batch_size = 8"],
        ),
        ("[dataset]\nvalidation_fraction = 1.0", ["dataset.validation_fraction = 1.0", "above 0 and below 1"]),
        ("[generation_config]\ntop_p = 0", ["generation_config.top_p = 0.0", "above 0 and of at most 1"]),
        ('[generation_config]\nprompt = "a" "b"', ["generation_config.prompt"]),
        ("n_layer = 2", ["job.ini cannot be parsed", "expected [section] and key = value"]),
        ("[model_config]\nn_layer", ["job.ini cannot be parsed"]),
        ("[model_config]\nn_layer = 1\nn_layer = 2", ["job.ini cannot be parsed", "already exists"]),
        ("[model_config]\n[model_config]", ["job.ini cannot be parsed", "already exists"]),
    ],
)
def test_refused(load, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(text)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_are_checked_like_the_file() -> None:
    for override, word in [
        ("model_config.n_layers=2", "did you mean n_layer?"),
        ("modl_config.n_layer=2", "did you mean model_config?"),
        ("model_config.n_layer=x", "a whole number"),
    ]:
        with pytest.raises(ConfigError, match=word.replace("?", r"\?")):
            load_config(overrides=[override])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.ini does not exist; see configs/"):
        load_config(tmp_path / "nowhere.ini")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.ini").write_bytes(b"[dataset]\ndataset_path = caf\xe9.txt")
    with pytest.raises(ConfigError, match=r"not UTF-8 \(byte 28\); save it as UTF-8"):
        load_config(tmp_path / "latin.ini")


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (MambaConfig, {"n_layer": 0}),
        (MambaConfig, {"n_layer": True}),
        (MambaConfig, {"n_layer": "4"}),
        (MambaConfig, {"n_layer": 4.0}),
        (MambaConfig, {"dt_rank": "big"}),
        (MambaConfig, {"dt_rank": 0}),
        (MambaConfig, {"conv_bias": 1}),
        (MambaConfig, {"dt_max": float("nan")}),
        (TrainerConfig, {"schedule": "linear"}),
        (TrainerConfig, {"max_minutes": 0.0}),
        (DatasetConfig, {"dataset_path": None}),
        (GenerationConfig, {"top_p": 1.5}),
    ],
)
def test_the_same_checks_in_python(cls: type, values: dict[str, object]) -> None:
    (key,) = values
    with pytest.raises(ConfigError, match=rf"{cls.section}\.{key} = .* is not allowed; expected") as error:
        cls(**values)
    assert isinstance(error.value, BabyMambaError)
    assert isinstance(error.value, ValueError)


# The other direction


def values_of(f: dataclasses.Field, kinds: tuple[type, ...]) -> st.SearchStrategy:
    limits = f.metadata["limits"]
    if f.metadata["choices"]:
        return st.sampled_from(f.metadata["choices"])
    if bool in kinds:
        return st.booleans()
    if float in kinds:
        found = st.floats(
            limits.get("at_least", limits.get("above", -1e9)),
            limits.get("at_most", limits.get("below", 1e9)),
            exclude_min="above" in limits,
            exclude_max="below" in limits,
        )
    elif int in kinds:
        found = st.integers(limits.get("at_least", -(10**9)), limits.get("at_most", 10**9))
    else:
        found = st.text(st.characters(codec="utf-8"))
    others = [*f.metadata["words"], *([None] if type(None) in kinds else [])]
    return found | st.sampled_from(others) if others else found


@st.composite
def run_configs(draw: st.DrawFn) -> RunConfig:
    parts = {}
    for name, cls in SECTIONS.items():
        hints = typing.get_type_hints(cls)
        values = {}
        for f in dataclasses.fields(cls):
            values[f.name] = draw(values_of(f, typing.get_args(hints[f.name]) or (hints[f.name],)))
        for low, high in (
            ("dt_min", "dt_max"),
            ("min_learning_rate", "learning_rate"),
            ("gradient_accumulation_steps", "train_batch_size"),
            ("shortest_length", "longest_training_length"),
            ("shortest_length", "longest_context"),
        ):
            if low in values:
                values[low] = min(values[low], values[high])
        parts[name] = cls(**values)
    return RunConfig(**parts)


@settings(max_examples=60, deadline=None)
@given(config=run_configs())
def test_what_is_written_is_read_back(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ini") / "config.ini"
    path.write_text(config.to_ini(), encoding="utf-8")
    assert load_config(path) == config


def test_every_key_is_described() -> None:
    described = describe_keys()
    assert [name for name, *_ in described] == [
        f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in dataclasses.fields(cls)
    ]
    assert all(help and allowed for _, _, allowed, help in described)
    for name, default, _, _ in described:  # the printed default is a value that can be typed
        assert load_config(overrides=[f"{name}={default}"]) == RunConfig()


def test_derived_values() -> None:
    config = MambaConfig(d_model=40, expand=3)
    assert (config.d_inner, config.resolved_dt_rank) == (120, 3)
    assert MambaConfig(dt_rank=5).resolved_dt_rank == 5
