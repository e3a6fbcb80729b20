"""Checkpoints of the `transformers` library, in both directions, and of the original release, to be read.

    model = Mamba.from_pretrained("state-spaces/mamba-130m")  # or a folder
    model.save_pretrained("folder", tokenizer)  # for AutoModelForCausalLM, pipeline("text-generation"), lm-eval

| | original (state-spaces/mamba-130m ... 2.8b) | transformers (state-spaces/mamba-130m-hf, tiiuae/falcon-mamba-7b) |
|---|---|---|
| config.json | d_model, n_layer, ssm_cfg, ... | model_type mamba or falcon_mamba, hidden_size, ... |
| weights | pytorch_model.bin | model.safetensors or pytorch_model.bin, or shards of either with an index |
| embedding | backbone.embedding.weight | backbone.embeddings.weight |
| vocabulary | vocab_size, rounded up to a multiple of pad_vocab_size_multiple | vocab_size |

A model reads and writes ids. The text of a published one goes through the tokenizer that it was trained with:

    tokenizer = transformers.AutoTokenizer.from_pretrained("EleutherAI/gpt-neox-20b")  # of all state-spaces/mamba-*
    input_ids = tokenizer("Mamba is", return_tensors="pt").input_ids
    print(tokenizer.decode(generate(model, input_ids, max_new_tokens=20)[0]))

`baby_mamba.data.tokenizer.TransformersTokenizer(tokenizer)` makes it one of this library's.

This module knows files, names and numbers, not models, so models may import it: it is handed what builds one.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.data import Tokenizer
from baby_mamba.errors import CheckpointError, ConfigError
from baby_mamba.interop.hugging_face_tokenizer import save_tokenizer

Model = TypeVar("Model", bound=nn.Module)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_FORMATS = (_WEIGHTS, "pytorch_model.bin")  # each whole, or in shards that NAME.index.json lists

_EMBEDDING, _HEAD = "backbone.embeddings.weight", "lm_head.weight"
_RENAMED = {"backbone.embedding.weight": _EMBEDDING}  # from the original
_KEPT_IN_FLOAT32 = (".A_log", ".D")

# transformers' key: (ours, what transformers assumes where the key is missing)
_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 50280),
    "hidden_size": ("d_model", 768),
    "num_hidden_layers": ("n_layer", 32),
    "state_size": ("d_state", 16),
    "conv_kernel": ("d_conv", 4),
    "expand": ("expand", 2),
    "time_step_rank": ("dt_rank", "auto"),
    "time_step_min": ("dt_min", 0.001),
    "time_step_max": ("dt_max", 0.1),
    "time_step_init_scheme": ("dt_init", "random"),
    "time_step_scale": ("dt_scale", 1.0),
    "time_step_floor": ("dt_init_floor", 1e-4),
    "use_conv_bias": ("conv_bias", True),
    "use_bias": ("in_out_proj_bias", False),
    "layer_norm_epsilon": ("norm_epsilon", 1e-5),
    "residual_in_fp32": ("residual_in_fp32", True),
    "rescale_prenorm_residual": ("rescale_prenorm_residual", False),
    "initializer_range": ("initializer_range", 0.1),
    "tie_word_embeddings": ("tie_embeddings", True),
}
_FALCON_KEYS = {**_KEYS, "mixer_rms_eps": ("selection_norm_epsilon", 1e-6)}
_MODEL_TYPES = {"mamba": ("MambaForCausalLM", _KEYS), "falcon_mamba": ("FalconMambaForCausalLM", _FALCON_KEYS)}

# the original's ssm_cfg: its keys are the arguments of mamba_ssm's Mamba
_SSM_KEYS = {
    **{key: key for key in ("d_state", "d_conv", "expand", "dt_rank", "conv_bias")},
    **{key: key for key in ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor")},
    "bias": "in_out_proj_bias",
}
_SSM_KEYS_WITHOUT_EFFECT = ("layer", "use_fast_path")


def load_pretrained(
    build: Callable[[MambaConfig], Model],
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    backend: str = "auto",
) -> Model:
    """See `Mamba.from_pretrained`; `build` is the class."""
    folder = _fetch(name, _CONFIG, revision)  # first and alone: what is not a Mamba is not downloaded
    config = replace(read_config(folder), backend=backend)
    with torch.device("meta"):  # without memory and without initialisation: every parameter is replaced
        model = build(config)
    tensors = _read_weights(_weight_files(name, revision), model.state_dict(), config.tie_embeddings, dtype, device)
    model.load_state_dict(tensors, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.backbone.embeddings.weight
    return model.eval()


def save_pretrained(
    model: nn.Module, config: MambaConfig, folder: str | Path, tokenizer: Tokenizer | None = None
) -> None:
    """See `Mamba.save_pretrained`."""
    folder = Path(folder)
    if config.selective != MambaConfig.selective:
        raise CheckpointError(
            f"model_config.selective = {config.selective} cannot be written for transformers, whose Mamba has "
            f"Delta, B and C of every token; expected {MambaConfig.selective}, so keep this model in its run folder"
        )
    if config.legendre_order:
        raise CheckpointError(
            f"model_config.legendre_order = {config.legendre_order} cannot be written for transformers, whose Mamba "
            "has no such expansion; expected 0, so keep this model in its run folder"
        )
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}; expected the tokenizer "
            "that the model was trained with"
        )
    model_type = "mamba" if config.selection_norm_epsilon is None else "falcon_mamba"
    architecture, keys = _MODEL_TYPES[model_type]
    tensors = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}  # tied ones once
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Written even where they are null: transformers would take token 0 for the end of a text.
        special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        if tokenizer is not None:
            special.update(save_tokenizer(tokenizer, folder))
        description = {
            "model_type": model_type,
            "architectures": [architecture],
            "torch_dtype": str(model.backbone.embeddings.weight.dtype).removeprefix("torch."),
            **{theirs: getattr(config, ours) for theirs, (ours, _) in keys.items()},
            "rescale_prenorm_residual": False,  # it was done at the start; transformers does it again to loaded weights
            "hidden_act": "silu",
            **special,
        }
        _write_json(folder / _CONFIG, description)
        _write_json(folder / "generation_config.json", special)
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {folder} cannot be written: {getattr(error, 'strerror', None) or error}; free space or choose "
            "another folder"
        ) from error


# Configuration


def read_config(folder: Path) -> MambaConfig:
    """The configuration in a checkpoint's config.json, the original's or transformers'.

    Raises:
        CheckpointError: it is missing, damaged, not of a Mamba, or of one that cannot be built.
    """
    path = folder / _CONFIG
    found = _read_json(path)
    model_type = found.get("model_type")
    try:
        if model_type in _MODEL_TYPES:
            return _from_transformers(path, found)
        if model_type is None and {"d_model", "n_layer", "vocab_size"} <= found.keys():
            return _from_original(path, found)
    except (ArithmeticError, AttributeError, ConfigError, TypeError) as error:  # values of other types
        raise CheckpointError(f"{path} describes a model that cannot be built: {error}") from error
    architectures = ", ".join(map(str, found.get("architectures") or ["no architecture"]))
    raise _foreign(path, f"{architectures} of model type {model_type!r}, whatever its name says")


def _from_transformers(path: Path, found: dict[str, Any]) -> MambaConfig:
    _, keys = _MODEL_TYPES[found["model_type"]]
    if found.get("hidden_act", "silu") not in ("silu", "swish"):
        raise _foreign(path, f"a Mamba with hidden_act = {found['hidden_act']!r} in place of 'silu'")
    if found.get("quantization_config"):
        raise _foreign(path, "a quantised Mamba (quantization_config)")
    config = MambaConfig(**{ours: found.get(theirs, default) for theirs, (ours, default) in keys.items()})
    width = found.get("intermediate_size", config.d_inner)  # it wins over expand, which some published files have wrong
    if width % config.d_model:
        raise _foreign(path, f"a Mamba with intermediate_size = {width}, no multiple of hidden_size = {config.d_model}")
    return replace(config, expand=width // config.d_model)


def _from_original(path: Path, found: dict[str, Any]) -> MambaConfig:
    ssm = found.get("ssm_cfg") or {}
    layer = ssm.get("layer", "Mamba1")
    unknown = sorted(ssm.keys() - {*_SSM_KEYS, *_SSM_KEYS_WITHOUT_EFFECT})
    variants = {
        f"a model of {layer} layers (ssm_cfg.layer)": layer != "Mamba1",
        f"a Mamba with options that are unknown here (ssm_cfg: {', '.join(unknown)})": unknown,
        "a mixture of Mamba and attention (attn_layer_idx)": found.get("attn_layer_idx"),
        "a Mamba with an MLP in each layer (d_intermediate)": found.get("d_intermediate"),
        "a Mamba with LayerNorm in place of RMSNorm (rms_norm = false)": not found.get("rms_norm", True),
    }
    for variant, present in variants.items():
        if present:
            raise _foreign(path, variant)
    multiple = found.get("pad_vocab_size_multiple", 8)
    return MambaConfig(
        vocab_size=math.ceil(found["vocab_size"] / multiple) * multiple,
        d_model=found["d_model"],
        n_layer=found["n_layer"],
        residual_in_fp32=found.get("residual_in_fp32", True),
        tie_embeddings=found.get("tie_embeddings", True),
        **{ours: ssm[theirs] for theirs, ours in _SSM_KEYS.items() if theirs in ssm},
    )


def _foreign(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is of {what}; expected a Mamba: model_type mamba or falcon_mamba, or the original format with "
        "d_model, n_layer, vocab_size and ssm_cfg. Load it with the library that it was written for, e.g. with "
        "transformers.AutoModelForCausalLM"
    )


# Weights


def _weight_files(name: str | Path, revision: str | None) -> list[Path]:
    """The files that hold the weights, safetensors if there are any."""
    for whole in _FORMATS:
        stem, suffix = whole.split(".")
        folder = _fetch(name, f"{stem}*.{suffix}*", revision)
        if (folder / whole).is_file():
            return [folder / whole]
        index = folder / f"{whole}.index.json"
        if index.is_file():
            shard_of = _read_json(index).get("weight_map")
            if not isinstance(shard_of, dict) or not shard_of:
                raise _damaged(index, "it has no weight_map")
            return [folder / shard for shard in sorted(set(shard_of.values()))]
    raise CheckpointError(
        f"{name} holds no weights; expected {' or '.join(_FORMATS)}, or shards of either with an index; if they are "
        "there in another format, convert them with the library that wrote them"
    )


def _read_weights(
    files: list[Path], expected: dict[str, Tensor], tied: bool, dtype: torch.dtype, device: str | torch.device
) -> dict[str, Tensor]:
    """Read, rename, check and convert, one file at a time, so that a model and a shard are all that is held."""
    tensors, problems = {}, []
    for path in files:
        for name, tensor in _read_tensors(path).items():
            name = _RENAMED.get(name, name)
            if name not in expected:
                problems.append(f"{name} is not part of it")
            elif tensor.shape != expected[name].shape:
                problems.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
            elif not tensor.is_floating_point():
                problems.append(f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, expected floating point")
            else:
                wide = name.endswith(_KEPT_IN_FLOAT32)
                to = torch.promote_types(dtype, torch.float32) if wide else dtype
                tensors[name] = tensor.to(device, to, copy=True)  # the file itself may be overwritten later
    if tied:
        shared = [tensors[name] for name in (_EMBEDDING, _HEAD) if name in tensors]
        if len(shared) == 2 and not torch.equal(*shared):
            problems.append(f"{_HEAD} differs from {_EMBEDDING}, expected the same, since {_CONFIG} ties them")
        tensors.update({name: shared[0] for name in (_EMBEDDING, _HEAD) if shared})
    problems += [f"{name} is missing" for name in expected if name not in tensors]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(
            f"{files[0].parent} does not hold the Mamba that its {_CONFIG} describes: {'; '.join(problems[:8])}{more}. "
            f"The files are of different models, or {_CONFIG} was edited; fetch them again"
        )
    return tensors


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except pickle.UnpicklingError as error:
        raise _damaged(path, "it holds other things than tensors, and those could run code") from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise _damaged(path, f"it cannot be read ({str(error).partition(chr(10))[0]})") from error
    if not (isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values())):
        raise _damaged(path, "it is not a dictionary of tensors")
    return tensors


# Files


def _fetch(name: str | Path, files: str, revision: str | None) -> Path:
    """The folder `name`, or where the files of the hub's repository `name` that match a pattern were downloaded to."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(name), allow_patterns=[files], revision=revision))
    except Exception as error:  # no such repository, no network, no package, no space, ...
        raise CheckpointError(
            f"{name} is not a folder here and cannot be downloaded ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); correct the path or name, or, where there is a network, run "
            f"`hf download {name} --local-dir FOLDER` and give that folder"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _damaged(path, "it is missing (a run of baby_mamba itself is read by load_model)") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"it cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds a {type(value).__name__}, not an object")
    return value


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"checkpoint file {path} cannot be used: {what}; fetch or write the checkpoint again")
