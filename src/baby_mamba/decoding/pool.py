"""Which generations use a captured step, and where these are kept between calls."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from baby_mamba.decoding.decoder import Decoder
from baby_mamba.layers import CausalConv1d, LegendreExpansion, MambaBlock, ResidualBlock, RMSNorm
from baby_mamba.models import LanguageModel, Mamba, MambaBackbone

MIN_TOKENS = 16  # a capture takes as long as about ten steps without one
KEPT = 4  # decoders of a model that are kept while nobody uses them
_MODULES = {
    *(Mamba, MambaBackbone, ResidualBlock, RMSNorm, MambaBlock, CausalConv1d, LegendreExpansion),
    *(nn.Embedding, nn.Linear, nn.ModuleList),
}


@dataclass
class _Idle:
    """A decoder that nobody uses."""

    decoder: Decoder
    batch: int
    weights: tuple
    last_use: torch.cuda.Event | None  # None on a CPU


@dataclass
class _Pool:
    idle: list[_Idle] = field(default_factory=list)  # the one used last at the end


_pools: weakref.WeakKeyDictionary[Mamba, _Pool] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def borrow_decoder(model: LanguageModel, batch: int, max_new_tokens: int) -> Iterator[Decoder | None]:
    """A decoder for one generation alone, or None where steps run as they are.

    A step is captured for a Mamba on a CUDA device from `MIN_TOKENS` new tokens on, whatever was captured before, so
    that the same call always computes in the same way. It is not for a model with hooks or with modules of other
    types, nor under autocast.

    A decoder is captured once for a model and a batch, and kept until the model goes, or its weights move, or `KEPT`
    others were used since. Generations that take turns get one each.
    """
    if max_new_tokens < MIN_TOKENS or not can_capture(model):
        yield None
        return
    weights = _addresses(model)
    decoder = _take(model, batch, weights)
    if decoder is None:
        with torch.inference_mode(False), torch.no_grad():
            decoder = Decoder(model, batch)
    try:
        yield decoder
    finally:
        _give_back(model, decoder, batch, weights)


def can_capture(model: LanguageModel) -> bool:
    """Whether a step of this model can be captured here and now."""
    device = next(model.parameters()).device
    return (
        type(model) is Mamba
        and device.type == "cuda"
        and not torch.is_autocast_enabled("cuda")
        and not torch.cuda.is_current_stream_capturing()
        and all(parameter.device == device for parameter in model.parameters())
        and all(map(_is_plain, model.modules()))
    )


def _is_plain(module: nn.Module) -> bool:
    """Whether a call runs the module's own forward and nothing else."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl
    return type(module) in _MODULES and not hooked and "forward" not in vars(module)


def _addresses(model: Mamba) -> tuple:
    return tuple((parameter.data_ptr(), parameter.dtype, parameter.stride()) for parameter in model.parameters())


def _take(model: Mamba, batch: int, weights: tuple) -> Decoder | None:
    with _lock:
        pool = _pools.setdefault(model, _Pool())
        pool.idle = [idle for idle in pool.idle if idle.weights == weights]
        for i in reversed(range(len(pool.idle))):
            if pool.idle[i].batch == batch:
                idle = pool.idle.pop(i)
                if idle.last_use is not None:  # which may have been on another stream
                    torch.cuda.current_stream(idle.decoder.device).wait_event(idle.last_use)
                return idle.decoder
    return None


def _give_back(model: Mamba, decoder: Decoder, batch: int, weights: tuple) -> None:
    on_gpu = decoder.device.type == "cuda"
    last_use = torch.cuda.current_stream(decoder.device).record_event() if on_gpu else None
    with _lock:
        pool = _pools.setdefault(model, _Pool())
        pool.idle = [*pool.idle, _Idle(decoder, batch, weights, last_use)][-KEPT:]
