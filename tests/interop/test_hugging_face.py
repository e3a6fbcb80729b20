"""Published checkpoints, read and written: the same logits, the same bits, and errors that say what a file holds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from baby_mamba import Mamba, MambaConfig, generate
from baby_mamba.data import load_tokenizer
from baby_mamba.data.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer, TransformersTokenizer
from baby_mamba.errors import CheckpointError
from baby_mamba.interop import hugging_face

IDS = torch.randint(0, 53, (2, 37), generator=torch.Generator().manual_seed(1))
CONFIG = MambaConfig(vocab_size=53, d_model=30, n_layer=3, d_state=5, d_conv=3, dt_rank=3, backend="reference")

VARIANTS = {
    "odd": {},
    "biases": {"use_bias": True},
    "no-biases": {"use_conv_bias": False},
    "untied": {"tie_word_embeddings": False},
    "narrow-stream": {"expand": 3, "hidden_size": 17, "state_size": 1, "conv_kernel": 2, "time_step_rank": "auto"},
    "epsilon": {"layer_norm_epsilon": 0.5},
}


def random_model(config: MambaConfig, noise: float = 0.1) -> Mamba:
    """As `published`, but built here."""
    torch.manual_seed(0)
    model = Mamba(config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=noise)
    return model.eval()


@torch.no_grad()
def assert_same_logits(model: Mamba, theirs: transformers.PreTrainedModel) -> None:
    expected = theirs(IDS).logits
    assert expected.std() > 0.1  # so that 1e-5 means something
    torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-5)


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name], other[name]), name


# From transformers and to it


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_what_transformers_wrote(tmp_path: Path, published: Callable, model_type: str, variant: str) -> None:
    theirs = published(model_type, **VARIANTS[variant])
    theirs.save_pretrained(tmp_path)
    for backend in ("cpu", "reference", "parallel"):
        model = Mamba.from_pretrained(tmp_path, backend=backend)
        assert model.config.backend == backend
        assert not model.training
        assert (model.lm_head.weight is model.backbone.embeddings.weight) == model.config.tie_embeddings
        assert_same_logits(model, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_out_proj_bias": True, "norm_epsilon": 0.5},
        {"conv_bias": False, "tie_embeddings": False},
        {"selection_norm_epsilon": 0.1},
        {"selection_norm_epsilon": 1e-6, "tie_embeddings": False, "dt_rank": "auto", "expand": 1},
    ],
)
def test_logits_of_what_transformers_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    model = random_model(replace(CONFIG, **options))
    model.save_pretrained(tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report  # nothing missing, unexpected or of another shape
    falcon = model.config.selection_norm_epsilon is not None
    assert type(theirs).__name__ == ("FalconMambaForCausalLM" if falcon else "MambaForCausalLM")
    assert_same_logits(model, theirs)


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba"])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trips_are_bitwise(tmp_path: Path, published: Callable, model_type: str, tied: bool) -> None:
    theirs = published(model_type, tie_word_embeddings=tied, use_bias=True)
    theirs.save_pretrained(tmp_path / "theirs")
    model = Mamba.from_pretrained(tmp_path / "theirs", backend="reference")
    model.save_pretrained(tmp_path / "ours")
    again = Mamba.from_pretrained(tmp_path / "ours", backend="reference")
    assert again.config == model.config
    assert_same_bits(again.state_dict(), model.state_dict())
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert_same_bits(back.state_dict(), theirs.state_dict())
    for key in hugging_face._MODEL_TYPES[model_type][1]:
        assert getattr(back.config, key) == getattr(theirs.config, key), key


def test_the_whole_configuration_survives(tmp_path: Path) -> None:
    """Every key that shapes a model, at a value that is neither our default nor transformers'."""
    config = MambaConfig(
        vocab_size=53,
        n_layer=1,
        d_model=10,
        d_state=3,
        d_conv=2,
        expand=3,
        dt_rank="auto",
        dt_min=0.002,
        dt_max=0.2,
        dt_init="constant",
        dt_scale=2.0,
        dt_init_floor=1e-3,
        conv_bias=False,
        in_out_proj_bias=True,
        norm_epsilon=1e-3,
        selection_norm_epsilon=1e-4,
        residual_in_fp32=False,
        rescale_prenorm_residual=False,  # never written: see the next test
        initializer_range=0.03,
        tie_embeddings=False,
    )
    Mamba(config).save_pretrained(tmp_path)
    assert Mamba.from_pretrained(tmp_path).config == config


def test_transformers_does_not_rescale_what_it_loads(tmp_path: Path) -> None:
    """With rescale_prenorm_residual in config.json, it divides the out_proj of a checkpoint by sqrt(n_layer)."""
    model = random_model(replace(CONFIG, rescale_prenorm_residual=True))
    model.save_pretrained(tmp_path)
    assert_same_bits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_every_key_of_the_configuration_has_its_place() -> None:
    """A new key of MambaConfig fails this: let transformers' config.json say it, or refuse to write such a model."""
    written = {ours for ours, _ in hugging_face._FALCON_KEYS.values()}
    refused = {"legendre_order", "selective"}
    elsewhere = {"a_init", "architecture", "block_size", "backend", "n_labels", "objective"}
    assert written | refused | elsewhere == {f.name for f in fields(MambaConfig)}


def test_a_model_with_a_constant_selection_is_refused(tmp_path: Path) -> None:
    model = Mamba(replace(CONFIG, selective="delta B"))
    with pytest.raises(CheckpointError, match=r"selective = delta B cannot be written .* expected delta B C"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_model_with_a_legendre_expansion_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"legendre_order = 3 cannot be written .* expected 0"):
        Mamba(replace(CONFIG, legendre_order=3)).save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_defaults_of_missing_keys_are_those_of_transformers() -> None:
    for model_type, (_, keys) in hugging_face._MODEL_TYPES.items():
        defaults = transformers.AutoConfig.for_model(model_type)
        for theirs, (ours, default) in keys.items():
            expected = getattr(defaults, theirs)
            assert default == (expected if ours != "dt_rank" else "auto"), theirs


def test_intermediate_size_wins_over_expand(tmp_path: Path, published: Callable) -> None:
    published().save_pretrained(tmp_path)
    edit(tmp_path, expand=16, intermediate_size=60)
    assert Mamba.from_pretrained(tmp_path).config.expand == 2


@pytest.mark.parametrize("layout", ["model.safetensors", "sharded", "pytorch_model.bin", "sharded .bin"])
def test_every_layout_of_the_weights(tmp_path: Path, published: Callable, layout: str) -> None:
    theirs = published(tie_word_embeddings=False)
    if layout == "sharded":
        theirs.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    elif layout == "model.safetensors":
        theirs.save_pretrained(tmp_path)
    else:
        theirs.config.save_pretrained(tmp_path)
        names = sorted(theirs.state_dict())
        shards = [names] if layout == "pytorch_model.bin" else [names[:7], names[7:]]
        files = ["pytorch_model.bin"] if len(shards) == 1 else [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
        for file, shard in zip(files, shards, strict=True):
            torch.save({name: theirs.state_dict()[name] for name in shard}, tmp_path / file)
        if len(shards) > 1:
            weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
            (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_bits(Mamba.from_pretrained(tmp_path).state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", ["backbone.embeddings.weight", "lm_head.weight"])
def test_tied_weights_may_be_stored_under_either_name_or_both(tmp_path: Path, published: Callable, name: str) -> None:
    theirs = published()
    theirs.save_pretrained(tmp_path)
    shared = theirs.lm_head.weight.detach()
    change_tensors(
        tmp_path, lambda tensors: (tensors.pop("backbone.embeddings.weight"), tensors.update({name: shared}))
    )
    assert_same_logits(Mamba.from_pretrained(tmp_path), theirs)
    both = {"backbone.embeddings.weight": shared, "lm_head.weight": shared.clone()}
    change_tensors(tmp_path, lambda tensors: tensors.update(both))
    assert_same_logits(Mamba.from_pretrained(tmp_path), theirs)


def test_bfloat16(tmp_path: Path, published: Callable) -> None:
    """What is stored in bfloat16 is widened exactly; a model in bfloat16 keeps A and D in float32."""
    theirs = published().bfloat16()
    theirs.save_pretrained(tmp_path)
    wide, narrow = Mamba.from_pretrained(tmp_path), Mamba.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert_same_bits(wide.state_dict(), {name: tensor.float() for name, tensor in theirs.state_dict().items()})
    for name, parameter in narrow.named_parameters():
        assert parameter.dtype == (torch.float32 if name.endswith(("A_log", ".D")) else torch.bfloat16), name
        assert parameter.requires_grad
    with torch.no_grad():
        expected, got = wide(IDS).logits, narrow(IDS).logits
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).std() < 0.05 * expected.std()
    narrow.save_pretrained(tmp_path / "narrow")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "narrow")
    assert_same_bits(back.state_dict(), theirs.state_dict())


def test_a_loaded_model_does_not_depend_on_its_files(tmp_path: Path, published: Callable) -> None:
    """The weights are not mapped from the file, so a model can be trained and saved where it came from."""
    theirs = published()
    theirs.save_pretrained(tmp_path)
    model = Mamba.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * (tmp_path / "model.safetensors").stat().st_size)
    assert_same_logits(model, theirs)
    model.save_pretrained(tmp_path)
    assert_same_logits(Mamba.from_pretrained(tmp_path), theirs)


def test_building_does_not_touch_the_random_numbers(tmp_path: Path, published: Callable) -> None:
    published().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    Mamba.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# The original format


def write_original(folder: Path, theirs: transformers.MambaForCausalLM, **config: object) -> None:
    """A checkpoint as state-spaces/mamba-130m is one, with the weights of a transformers model."""
    described = {
        "d_model": theirs.config.hidden_size,
        "n_layer": theirs.config.num_hidden_layers,
        "vocab_size": theirs.config.vocab_size - 3,
        "ssm_cfg": {"d_state": 5, "d_conv": 3, "dt_rank": 3, "use_fast_path": True},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    (folder / "config.json").write_text(json.dumps({**described, **config}))
    names = {"backbone.embeddings.weight": "backbone.embedding.weight"}
    tensors = {names.get(name, name): tensor for name, tensor in theirs.state_dict().items()}
    assert "lm_head.weight" in tensors
    torch.save(tensors, folder / "pytorch_model.bin")


def test_the_original_format(tmp_path: Path, published: Callable) -> None:
    theirs = published(vocab_size=56)  # 53, padded
    write_original(tmp_path, theirs)
    model = Mamba.from_pretrained(tmp_path)
    assert model.config.vocab_size == 56
    assert model.config.tie_embeddings
    assert_same_logits(model, theirs)
    model.save_pretrained(tmp_path / "converted")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
    assert_same_bits(back.state_dict(), theirs.state_dict())


def test_options_of_the_original_format(tmp_path: Path, published: Callable) -> None:
    theirs = published(vocab_size=56, use_bias=True, use_conv_bias=False, expand=1, tie_word_embeddings=False)
    ssm = {"layer": "Mamba1", "d_state": 5, "d_conv": 3, "expand": 1, "dt_rank": 3, "conv_bias": False, "bias": True}
    steps = {"dt_min": 0.01, "dt_max": 0.5, "dt_init": "constant", "dt_scale": 2.0, "dt_init_floor": 0.1}
    write_original(
        tmp_path, theirs, ssm_cfg={**ssm, **steps}, tie_embeddings=False, attn_layer_idx=[], d_intermediate=0
    )
    model = Mamba.from_pretrained(tmp_path)
    assert all(getattr(model.config, key) == value for key, value in steps.items())
    assert_same_logits(model, theirs)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, r"of a model of Mamba2 layers \(ssm_cfg\.layer\); expected a Mamba"),
        ({"attn_layer_idx": [1]}, "a mixture of Mamba and attention"),
        ({"d_intermediate": 64}, "a Mamba with an MLP in each layer"),
        ({"rms_norm": False}, "LayerNorm in place of RMSNorm"),
        ({"ssm_cfg": {"chunk": 3, "headdim": 64}}, r"unknown here \(ssm_cfg: chunk, headdim\)"),
        ({"ssm_cfg": {"d_state": 1000}}, r"cannot be built: model_config\.d_state = 1000 is not allowed"),
        ({"ssm_cfg": [1]}, "cannot be built"),
        ({"pad_vocab_size_multiple": 0}, "cannot be built"),
        ({"n_layer": "3"}, r"cannot be built: model_config\.n_layer = '3' is not allowed"),
    ],
)
def test_relatives_in_the_original_format(
    tmp_path: Path, published: Callable, config: dict[str, Any], message: str
) -> None:
    write_original(tmp_path, published(vocab_size=56), **config)
    with pytest.raises(CheckpointError, match=message):
        Mamba.from_pretrained(tmp_path)


# What is no Mamba


def edit(folder: Path, **config: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_llama_that_is_called_mamba(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=53, **sizes))
    llama.save_pretrained(tmp_path / "mamba-gpt")
    with pytest.raises(CheckpointError, match=r"mamba-gpt.*LlamaForCausalLM of model type 'llama'.*expected a Mamba"):
        Mamba.from_pretrained(tmp_path / "mamba-gpt")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"]}, "Mamba2ForCausalLM of model type 'mamba2'"),
        ({"model_type": "jamba", "architectures": ["JambaForCausalLM"]}, "JambaForCausalLM of model type 'jamba'"),
        ({"model_type": "bert", "architectures": None}, "no architecture of model type 'bert'"),
        ({"model_type": None}, "of model type None"),
        ({"model_type": []}, "cannot be built"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' in place of 'silu'"),
        ({"quantization_config": {"bits": 4}}, "a quantised Mamba"),
        ({"intermediate_size": 61}, "intermediate_size = 61, no multiple of hidden_size = 30"),
        ({"intermediate_size": None}, "cannot be built"),
        ({"hidden_size": 0}, r"cannot be built: model_config\.d_model = 0"),
        ({"state_size": "many"}, r"cannot be built: model_config\.d_state = 'many'"),
    ],
)
def test_other_models(tmp_path: Path, published: Callable, config: dict[str, Any], message: str) -> None:
    published().save_pretrained(tmp_path)
    edit(tmp_path, **config)
    with pytest.raises(CheckpointError, match=message):
        Mamba.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("backbone.layers.1.mixer.A_log"), r"backbone\.layers\.1\.mixer\.A_log is missing"),
        (lambda t: t.update(scale=torch.zeros(1)), "scale is not part of it"),
        (
            lambda t: t.update({"backbone.norm_f.weight": torch.zeros(31)}),
            r"backbone\.norm_f\.weight is \(31,\), expected \(30,\)",
        ),
        (
            lambda t: t.update({"backbone.norm_f.weight": torch.zeros(30, dtype=torch.int8)}),
            r"backbone\.norm_f\.weight holds int8, expected floating point",
        ),
        (lambda t: t.update({"lm_head.weight": torch.zeros(53, 30)}), r"lm_head\.weight differs from .* ties them"),
        (lambda t: [t.pop(name) for name in list(t)[1:]], r"is missing; and \d+ more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, published: Callable, change: Callable[[dict], object], message: str
) -> None:
    published().save_pretrained(tmp_path)
    change_tensors(tmp_path, change)
    with pytest.raises(CheckpointError, match=rf"does not hold the Mamba that its config\.json describes: .*{message}"):
        Mamba.from_pretrained(tmp_path)


class RunsCode:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('code of a checkpoint was run')",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json cannot be used: it is missing .*load_model"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json cannot be used: it cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "holds a list, not an object"),
        (lambda f: (f / "model.safetensors").unlink(), r"holds no weights; expected model\.safetensors or"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), r"model\.safetensors cannot be used: it cannot"),
        (lambda f: as_bin(f, RunsCode()), "other things than tensors, and those could run code"),
        (lambda f: as_bin(f, {"a": 1}), "not a dictionary of tensors"),
        (lambda f: as_bin(f, {}).write_bytes(b""), r"pytorch_model\.bin cannot be used: it cannot be read"),
        (lambda f: as_index(f, {"weight_map": {"a": "elsewhere.safetensors"}}), r"elsewhere\.safetensors .*is missing"),
        (lambda f: as_index(f, {}), "it has no weight_map"),
    ],
)
def test_damaged_files(tmp_path: Path, published: Callable, spoil: Callable[[Path], object], message: str) -> None:
    published().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        Mamba.from_pretrained(tmp_path)


def as_bin(folder: Path, content: object) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def as_index(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


# The hub


class Hub:
    """What snapshot_download does, with a folder in place of the network."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache = repository, cache
        self.calls: list[tuple[str, str | None]] = []

    def snapshot_download(self, name: str, *, allow_patterns: list[str], revision: str | None) -> str:
        self.calls.append((name, revision))
        self.cache.mkdir(exist_ok=True)
        for pattern in allow_patterns:
            for path in self.repository.glob(pattern):
                shutil.copy(path, self.cache)
        return str(self.cache)

    def downloaded(self) -> set[str]:
        return {path.name for path in self.cache.iterdir()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "repository", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_only_what_is_needed_is_downloaded(hub: Hub, published: Callable) -> None:
    theirs = published()
    theirs.save_pretrained(hub.repository, max_shard_size="20KB")
    torch.save(theirs.state_dict(), hub.repository / "pytorch_model.bin")
    (hub.repository / "README.md").write_text("A model.")
    assert_same_logits(Mamba.from_pretrained("some/model", revision="v1"), theirs)
    assert set(hub.calls) == {("some/model", "v1")}
    weights = {path.name for path in hub.repository.glob("model*")}
    assert hub.downloaded() == {"config.json", *weights}


def test_the_original_format_from_the_hub(hub: Hub, published: Callable) -> None:
    theirs = published(vocab_size=56)
    hub.repository.mkdir()
    write_original(hub.repository, theirs)
    assert_same_logits(Mamba.from_pretrained("some/model"), theirs)
    assert hub.downloaded() == {"config.json", "pytorch_model.bin"}


def test_the_weights_of_other_models_are_not_downloaded(hub: Hub, published: Callable) -> None:
    published().save_pretrained(hub.repository)
    edit(hub.repository, model_type="llama")
    with pytest.raises(CheckpointError, match="model type 'llama'"):
        Mamba.from_pretrained("some/mamba-gpt")
    assert hub.downloaded() == {"config.json"}


@pytest.mark.parametrize("name", ["nobody/has-this-model", "no/such/folder/here"])
def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=rf"{name} is not a folder here and cannot be downloaded .*hf download"):
        Mamba.from_pretrained(name)


# With a tokenizer

TEXT = "Ā naïve snake, 15 apples.\n\n  Ω and 🐍 \ttoo; don't!"


def a_transformers_tokenizer() -> Tokenizer:
    backend = BPETokenizer.fit("a snake and a naive apple " * 9, 270)._tokenizer
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    return TransformersTokenizer(fast)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "char": lambda: CharTokenizer("a snake and 15 apples.\nĀï,"),
    "byte": ByteTokenizer,
    "bpe": lambda: BPETokenizer.fit("a snake and a naive apple " * 9, 270),
    "transformers": a_transformers_tokenizer,
}


@pytest.fixture(params=TOKENIZERS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Mamba, Tokenizer]:
    tokenizer = TOKENIZERS[request.param]()
    model = random_model(replace(CONFIG, vocab_size=tokenizer.vocab_size), noise=0.5)
    model.save_pretrained(tmp_path, tokenizer)
    return tmp_path, model, tokenizer


def test_transformers_reads_the_tokenizer(saved: tuple[Path, Mamba, Tokenizer]) -> None:
    folder, _, tokenizer = saved
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "", "a", fast.eos_token, "a" + fast.eos_token + "\ufffd"):
        ids = fast(text).input_ids
        if tokenizer.kind != "transformers":  # whose special tokens are read within a text
            assert ids == tokenizer.encode(text).tolist()
        assert fast.decode(ids) == tokenizer.decode(ids)
    assert fast.pad_token_id == fast.eos_token_id < tokenizer.vocab_size
    assert fast.unk_token_id == (tokenizer.unknown_id if tokenizer.kind == "char" else None)
    if tokenizer.kind != "transformers":
        batch = fast(["a snake", "a"], padding=True)
        assert batch.keys() == {"input_ids", "attention_mask"}  # what a Mamba takes
        assert batch.attention_mask[1][0] == 0 < batch.attention_mask[1][-1]
        assert fast.eos_token_id not in fast("a snake").input_ids
        assert len(fast) == tokenizer.vocab_size


def test_this_library_reads_the_tokenizer(saved: tuple[Path, Mamba, Tokenizer]) -> None:
    folder, _, tokenizer = saved
    again = load_tokenizer(folder)
    assert again.kind == tokenizer.kind
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


def test_pipeline(saved: tuple[Path, Mamba, Tokenizer]) -> None:
    folder, model, tokenizer = saved
    pipeline = transformers.pipeline("text-generation", model=str(folder), device="cpu")
    special = {key: getattr(pipeline.tokenizer, key) for key in ("eos_token_id", "pad_token_id")}
    for config in (pipeline.model.config, pipeline.model.generation_config):
        assert {key: getattr(config, key) for key in special} == special
    prompt = torch.tensor([tokenizer.encode("a snake").tolist()])
    end_id = special["eos_token_id"]
    ids = generate(model, prompt, max_new_tokens=20, temperature=0, stop_ids=[end_id])[0]
    assert len(ids.unique()) > 10
    (result,) = pipeline("a snake", max_new_tokens=20, do_sample=False)
    assert result["generated_text"] == tokenizer.decode(ids[ids != end_id])
    if tokenizer.kind != "transformers":  # padded on the left
        batched, _ = pipeline(["a snake", "5 apples and a snake"], batch_size=2, max_new_tokens=20, do_sample=False)
        assert batched == [result]


def test_without_a_tokenizer_no_token_ends_a_text(tmp_path: Path) -> None:
    """transformers' own default is token 0, which is a letter of the alphabet to us."""
    random_model(CONFIG).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.eos_token_id is None
    assert theirs.generation_config.eos_token_id is None


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer has 256 tokens, the model 53; expected the tokenizer that"):
        random_model(CONFIG).save_pretrained(tmp_path / "new", ByteTokenizer())
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file cannot be written: .*; free space or choose another folder"):
        random_model(CONFIG).save_pretrained(tmp_path / "file")
