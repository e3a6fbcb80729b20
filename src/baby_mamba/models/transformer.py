"""A Transformer to compare with: any causal language model of `transformers`, behind the interface of `Mamba`.

    model = build_model(MambaConfig(vocab_size=256, architecture="llama"))
    logits, loss, state = model(input_ids, labels=input_ids)

So what trains, evaluates, scores and writes with a Mamba does so with a Transformer. Its state, too, is a named tuple
of tensors for each layer, but it holds the keys and values of all tokens, and grows with each.

The Transformer gets as many parameters as the Mamba that the same configuration describes. Vocabulary, embedding and
width of the residual stream are the same, there are `block_size` positions, and no dropout. A Transformer's layer has
about twice the weights of a Mamba block (Mamba, section 3.4), so it gets half as many layers, and MLPs as wide as it
takes to meet the number.
"""

from __future__ import annotations

import difflib
import functools
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.models.heads import Mamba, MambaOutput, next_token_loss, next_token_targets
from baby_mamba.shapes import AttentionMask, Hidden, SequenceIds, TokenIds

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger("baby_mamba")

TOLERANCE = 0.02  # by which the numbers of parameters may differ
_MLP_WIDTHS = ("intermediate_size", "ffn_dim", "n_inner")  # what the width of the MLP is called, here and there


class AttentionState(NamedTuple):
    """What a Transformer layer remembers between two calls: every token."""

    keys: Tensor  # (batch, heads, context, head size)
    values: Tensor  # (batch, heads, context, head size)
    attended: Tensor | None  # (batch, context), False at padding; None if there is none


TransformerState = tuple[AttentionState, ...]  # one AttentionState per layer


class Transformer(nn.Module):
    """A causal language model of `transformers` that is called as a `Mamba` is.

    Args:
        config: `architecture` is its model type; the rest describes the Mamba that it is to be as large as.

    Raises:
        ConfigError: transformers is not installed, knows no such causal language model, or the model does not keep
            keys and values as a Transformer does; or no shape of it has about as many parameters.

    Attributes:
        shape_in_words: depth, width, heads and MLP.
        size_in_words: its number of parameters, beside that of the Mamba.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        with torch.device("meta"):
            n_parameters = Mamba(replace(config, architecture="mamba")).num_parameters()
        shape = _shape_with(n_parameters, config)
        self.config = config
        self.model = _build(shape)
        _check_interface(self)
        self.shape_in_words = _in_words(shape)
        n_own = self.num_parameters()
        difference = f"{abs(n_own / n_parameters - 1):.2%} {'more' if n_own > n_parameters else 'less'}"
        self.size_in_words = (
            f"{n_own:,} parameters, {difference} than the {n_parameters:,} of the Mamba of this configuration"
        )

    @property
    def lm_head(self) -> nn.Linear:
        """Makes the scores of the next token."""
        return self.model.get_output_embeddings()

    def forward(
        self,
        input_ids: TokenIds,
        labels: TokenIds | None = None,
        *,
        state: TransformerState | None = None,
        attention_mask: AttentionMask | None = None,
        sequence_ids: SequenceIds | None = None,
        return_logits: bool = True,
    ) -> MambaOutput:
        """Score the next token at every position; as `Mamba.forward`, but with labels no state is returned.

        Raises:
            ShapeError: an argument does not fit input_ids, positions are used up, or sequences are packed.
        """
        hidden, state = self._read(input_ids, state, attention_mask, sequence_ids, keep_state=labels is None)
        logits = self.lm_head(hidden) if return_logits or self.lm_head.bias is not None else None
        loss = None
        if labels is not None:
            targets = next_token_targets(labels, attention_mask)
            loss = next_token_loss(hidden, logits, targets, self.lm_head, backend=self.config.backend)
        return MambaOutput(logits, loss, state)

    def backbone(
        self,
        input_ids: TokenIds,
        *,
        state: TransformerState | None = None,
        attention_mask: AttentionMask | None = None,
        sequence_ids: SequenceIds | None = None,
    ) -> tuple[Hidden, TransformerState]:
        """All but the head; as `MambaBackbone.forward`. The state that is given is not changed."""
        return self._read(input_ids, state, attention_mask, sequence_ids, keep_state=True)

    def num_parameters(self) -> int:
        """Number of trainable numbers, a shared embedding counted once."""
        return sum(p.numel() for p in self.parameters())

    def _read(
        self,
        input_ids: Tensor,
        state: TransformerState | None,
        attention_mask: Tensor | None,
        sequence_ids: Tensor | None,
        *,
        keep_state: bool,
    ) -> tuple[Tensor, TransformerState | None]:
        if sequence_ids is not None:
            raise ShapeError(
                f"sequence_ids is given, and attention in {self.config.architecture} would cross from one sequence to "
                "the next; give each sequence a row of its own, padded on the left, with an attention_mask"
            )
        n_before = state[0].keys.shape[2] if state else 0
        self._check_positions(n_before + input_ids.shape[1])
        attended = _attended(state, attention_mask, n_before, input_ids.shape)
        use_cache = keep_state or state is not None
        cache = _cache(state) if use_cache else _no_cache()
        options: dict[str, Any] = {"use_cache": use_cache, "past_key_values": cache}
        if attended is not None:
            positions = attended.cumsum(dim=1) - 1  # of the tokens that are not padding
            options |= {"attention_mask": attended, "position_ids": positions[:, n_before:].clamp(min=0)}
        output = self.model.base_model(input_ids=input_ids, **options)
        new_state = None
        if keep_state:
            cache = output.past_key_values.layers
            new_state = tuple(AttentionState(layer.keys, layer.values, attended) for layer in cache)
        return output.last_hidden_state, new_state

    def _check_positions(self, n_tokens: int) -> None:
        if n_tokens <= self.config.block_size:
            return
        if self.max_length is not None:
            raise ShapeError(
                f"{self.config.architecture} has {self.max_length} positions, model_config.block_size, and is asked to "
                f"read {n_tokens} tokens; shorten the text, lower generation_config.num_generated_tokens, or train it "
                "with a larger block_size"
            )
        if not getattr(self, "_warned", False):
            self._warned = True
            logger.warning(
                "%s reads on beyond the %d tokens of its training windows, for which it has not learnt positions; "
                "expect worse text, or train it with a larger model_config.block_size",
                *(self.config.architecture, self.config.block_size),
            )

    @property
    def max_length(self) -> int | None:
        """Tokens that it can read at all: block_size where positions are rows of a table, as in gpt2; else None."""
        tables = sum(isinstance(module, nn.Embedding) for module in self.model.modules())
        return self.config.block_size if tables > 1 else None


# The call


def _cache(state: TransformerState | None) -> Any:
    """transformers' cache with these keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache()
    cache.layers.extend(_cache_layer(layer) for layer in state or ())
    return cache


@functools.cache
def _no_cache() -> Any:
    """A cache that keeps nothing, for all.

    Without any, transformers looks at the positions for packed sequences, and to look it waits for the GPU; in a CUDA
    graph it cannot, and makes a mask of all pairs of tokens instead.
    """
    from transformers import DynamicCache

    class Nothing(DynamicCache):
        def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
            return keys, values

    return Nothing()


def _cache_layer(layer: AttentionState) -> Any:
    """A layer of transformers' cache that holds these tensors. It concatenates to them, and leaves them as they are."""
    from transformers.cache_utils import DynamicLayer

    cached = DynamicLayer()
    cached.keys, cached.values = layer.keys, layer.values
    cached.dtype, cached.device, cached.is_initialized = layer.keys.dtype, layer.keys.device, True
    return cached


def _attended(state: TransformerState | None, mask: Tensor | None, n_before: int, shape: torch.Size) -> Tensor | None:
    """Which tokens of the state and of this call are text, (batch, all) bool; None if all are."""
    before = state[0].attended if state else None
    if mask is not None and mask.shape != shape:
        raise ShapeError(
            f"attention_mask has shape {tuple(mask.shape)}; expected input_ids', {tuple(shape)}: one entry for each "
            "token of this call"
        )
    if before is None and mask is None:
        return None
    device = before.device if mask is None else mask.device
    before = torch.ones(shape[0], n_before, dtype=torch.bool, device=device) if before is None else before
    now = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask.bool()
    return torch.cat([before, now], dim=1)


@torch.no_grad()
def _check_interface(model: Transformer) -> None:
    """Refuse what is no Transformer, or does more than to apply its head, by trying it: whole, and in two calls."""
    name, theirs = model.config.architecture, model.model.eval()
    input_ids = torch.arange(6).remainder(model.config.vocab_size)[None, : model.config.block_size]
    try:
        initial = model.lm_head.weight.clone()
        model.lm_head.weight.mul_(100)  # as after some training: a head that bounds its scores leaves small ones alone
        expected = theirs(input_ids, use_cache=False).logits
        first, state = model.backbone(input_ids[:, :2])
        second, _ = model.backbone(input_ids[:, 2:], state=state) if input_ids.shape[1] > 2 else (first[:, 2:], state)
        got = model.lm_head(torch.cat([first, second], dim=1))
        same = torch.allclose(got, expected, rtol=1e-4, atol=1e-3)
        model.lm_head.weight.copy_(initial)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"model_config.architecture = {name} cannot be used here ({type(error).__name__}: {error}); expected a "
            "Transformer that keeps keys and values, such as llama, qwen3, gpt2 or opt"
        ) from error
    finally:
        theirs.train()
    if not same:
        raise ConfigError(
            f"model_config.architecture = {name} does more than attention with a cache and a linear head; expected a "
            "plain Transformer, such as llama, qwen3, gpt2 or opt"
        )


# The shape


def _shape_with(n_parameters: int, config: MambaConfig) -> PretrainedConfig:
    """The configuration of a Transformer with so many parameters.

    The number is linear in the depth, and for each layer linear in the width of its MLP, so three counts at a width
    give all others.

    Raises:
        ConfigError: no shape comes within the tolerance.
    """
    head = _head_size(config.d_model)
    widths = [width for width in range(head, 2 * config.d_model + 1, head) if 2 * width >= config.d_model]
    step = 64 if config.d_model >= 512 else 8 if config.d_model >= 64 else 1  # MLPs are multiples of it
    nearest = math.inf
    for width in sorted(widths, key=lambda width: abs(width - config.d_model)):
        mlp = 2 * width
        shapes = (1, width, mlp), (1, width, 2 * mlp), (2, width, mlp)
        one, wider, deeper = (_count(config, *shape) for shape in shapes)
        per_layer, per_mlp = deeper - one, (wider - one) // mlp
        usual_mlp = width * (8 / 3 if per_mlp > 2.5 * width else 4)  # with three matrices, and with two
        found = []
        for depth in range(1, 2 * config.n_layer + 1):
            missing = n_parameters - one - (depth - 1) * per_layer
            if per_mlp:
                mlp = max(step, step * round((2 * width + missing / (depth * per_mlp)) / step))
            n = n_parameters - missing + depth * per_mlp * (mlp - 2 * width)
            difference = abs(n / n_parameters - 1)
            nearest = min(nearest, difference)
            if difference <= TOLERANCE:
                oddness = abs(math.log(2 * depth / config.n_layer)) + abs(math.log(mlp / usual_mlp)) * (per_mlp > 0)
                found.append((oddness, depth, mlp))
        if found:
            _, depth, mlp = min(found)
            return _transformers_config(config, depth, width, mlp)
    raise ConfigError(
        f"no shape of {config.architecture} has {n_parameters:,} parameters, those of the Mamba of this configuration, "
        f"to within {TOLERANCE:.0%} (the nearest is off by {nearest:.1%}); change model_config.d_model or n_layer, or "
        "take another architecture"
    )


def _head_size(width: int) -> int:
    """64, or so much less, down to 2, that there are four heads."""
    return max(2, 2 ** min(6, int(math.log2(max(4, width))) - 2))


def _count(config: MambaConfig, depth: int, width: int, mlp: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in _build(_transformers_config(config, depth, width, mlp)).parameters())


def _transformers_config(config: MambaConfig, depth: int, width: int, mlp: int) -> PretrainedConfig:
    """transformers' configuration of a shape; keys that an architecture does not know are left unused by it."""
    try:
        from transformers import AutoConfig
        from transformers.cache_utils import DynamicLayer  # noqa: F401  # as `_cache_layer` needs it
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN
    except ImportError:
        raise ConfigError(
            f"model_config.architecture = {config.architecture} needs transformers 5, which is not installed; "
            "pip install 'transformers>=5', or use architecture = mamba"
        ) from None
    name = config.architecture
    if name not in KNOWN:
        close = difflib.get_close_matches(name, KNOWN, n=1)
        raise ConfigError(
            f"model_config.architecture = {name!r} is neither mamba nor a causal language model of transformers; "
            + (f"did you mean {close[0]}?" if close else "expected llama, qwen3, gpt2, opt, ...")
        )
    defaults = AutoConfig.for_model(name).to_dict()
    dropout = {key: 0.0 for key, value in defaults.items() if ("dropout" in key or "pdrop" in key) and value}
    mlp_width = next((key for key in _MLP_WIDTHS if key in defaults), "intermediate_size")
    n_heads = max(1, width // _head_size(config.d_model))
    keys = {
        "vocab_size": config.vocab_size,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_heads,
        "head_dim": width // n_heads,
        mlp_width: mlp,
        "max_position_embeddings": config.block_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **dropout,
    }
    try:
        return AutoConfig.for_model(name, **keys)
    except Exception as error:  # whatever the checks of an architecture raise
        raise ConfigError(
            f"model_config.architecture = {name} does not take this shape: {error}; expected a plain Transformer, such "
            "as llama, qwen3, gpt2 or opt"
        ) from error


def _build(shape: PretrainedConfig) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(shape)


def _in_words(shape: PretrainedConfig) -> str:
    mlp = next((f", MLP {getattr(shape, key)}" for key in _MLP_WIDTHS if getattr(shape, key, None)), "")
    n_heads = shape.num_attention_heads
    return (
        f"{shape.num_hidden_layers} layers, width {shape.hidden_size}, {n_heads} heads of "
        f"{shape.hidden_size // n_heads}{mlp}"
    )
