"""Writes what `record` keeps as one HTML page that needs no network: a text, coloured by what a model does with it.

    write_page(record(model, text, tokenizer), "page.html", title="runs/default")

The page holds Delta, A, B and C, in 16 bits a number, and computes the implicit attention of the token that is chosen.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baby_mamba.errors import DataError
from baby_mamba.visualize.record import LayerRecord, Recording

MAX_TOKENS = 1000  # each is an element of the page
MAX_BYTES = 16 * 2**20

_BINS = 60  # of the distribution of time scales


def write_page(recording: Recording, path: str | Path, *, title: str = "What a Mamba reads") -> None:
    """Write the page.

    Args:
        recording: of at most 1000 tokens.
        path: the .html file; it is replaced if it is there.
        title: the heading, plain text.

    Raises:
        DataError: there are too many tokens, the page would be larger than 16 MiB, the model computes NaN or infinity,
            or the file cannot be written.
    """
    check_length(len(recording.tokens))
    template = resources.files("baby_mamba.visualize").joinpath("page.html").read_text(encoding="utf-8")
    parts = {"title": html.escape(title), "data": _script_safe(json.dumps(_data(recording), separators=(",", ":")))}
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
    if len(page) > MAX_BYTES:
        raise DataError(
            f"the page would have {len(page) / 2**20:.0f} MiB; expected at most {MAX_BYTES / 2**20:.0f}, so take a "
            f"shorter text or fewer layers: there are {len(recording.tokens)} tokens and {len(recording.layers)} layers"
        )
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; choose another place") from None


def check_length(n_tokens: int) -> None:
    """Refuse a text that is too long for a page, before it is recorded.

    Raises:
        DataError: it has more than 1000 tokens.
    """
    if n_tokens > MAX_TOKENS:
        raise DataError(f"the text has {n_tokens:,} tokens; expected at most {MAX_TOKENS:,} on a page, so shorten it")


def _data(recording: Recording) -> dict[str, Any]:
    """What the page reads. Numbers that are many are packed."""
    first = next(iter(recording.layers.values()))
    return {
        "tokens": recording.tokens,
        "d_inner": first.A.shape[0],
        "d_state": first.A.shape[1],
        "layers": [{"number": number, **_layer(layer)} for number, layer in recording.layers.items()],
        "time_scales": _time_scales(list(recording.layers.values())),
    }


def _layer(layer: LayerRecord) -> dict[str, Any]:
    order = layer.most_selective(layer.A.shape[0])
    low, high = layer.delta.quantile(layer.delta.new_tensor([0.05, 0.95]), dim=0)
    spread = [float(f"{ratio:.3g}") for ratio in (high / low)[order].tolist()]
    return {
        "delta": _positive(layer.delta),
        "A": _positive(-layer.A),
        "B": _per_token_or_constant(layer.B),
        "C": _per_token_or_constant(layer.C),
        "channels": list(zip(order, spread, strict=True)),
    }


def _time_scales(layers: list[LayerRecord]) -> dict[str, Any]:
    """The distribution of each layer over powers of ten, in common bins from `low` to `high`."""
    exponents = [layer.time_scales().double().flatten().log10() for layer in layers]
    everything = torch.cat(exponents)
    low, high = math.floor(everything.quantile(0.002)), math.ceil(everything.quantile(0.998))
    rows = [
        {
            "counts": exponent.float().histc(_BINS, low, high).int().tolist(),
            "quantiles": (10 ** exponent.quantile(exponent.new_tensor([0.05, 0.5, 0.95]))).tolist(),
        }
        for exponent in exponents
    ]
    return {"low": low, "high": high, "layers": rows}


def _per_token_or_constant(M: Tensor) -> dict[str, Any]:
    """B or C: a row for each token, or, where it is a constant, a row for each channel."""
    constant = M.shape[1] > 1
    M = M[0] if constant else M[:, 0]
    scale = M.abs().max().item() / 32767 or 1.0
    return {"constant": constant, "scale": scale, "data": _base64((M / scale).round(), "<i2")}


def _positive(values: Tensor) -> dict[str, Any]:
    """Numbers above zero, as low + step * k with k in 0 to 65535 for the logarithm of each."""
    logs = values.clamp(min=torch.finfo(torch.float32).tiny).log()
    low = logs.min().item()
    step = (logs.max().item() - low) / 65535
    return {"low": low, "step": step, "data": _base64(((logs - low) / (step or 1)).round(), "<u2")}


def _base64(values: Tensor, dtype: str) -> str:
    if not values.isfinite().all():
        raise DataError("the model computes NaN or infinity on this text; expected numbers, so use another checkpoint")
    return base64.b64encode(values.numpy().astype(dtype).tobytes()).decode()


def _script_safe(text: str) -> str:
    """JSON that no text can end or escape from, whatever its tokens are."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
