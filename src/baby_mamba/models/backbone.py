"""The backbone: tokens in, one vector per token out."""

from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.errors import ConfigError, ShapeError
from baby_mamba.layers import MambaState, ResidualBlock, RMSNorm
from baby_mamba.shapes import AttentionMask, Hidden, SequenceIds, TokenIds


class MambaBackbone(nn.Module):
    """Embedding, n_layer residual blocks, final norm.

    Args:
        config: the model's configuration; vocab_size must be set.

    Raises:
        ConfigError: vocab_size is not set.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = embedding(config)
        self.layers = nn.ModuleList(ResidualBlock(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(
            config.d_model,
            epsilon=config.norm_epsilon,
            residual_in_fp32=config.residual_in_fp32,
            backend=config.backend,
        )

    def forward(
        self,
        input_ids: TokenIds,
        *,
        state: MambaState | None = None,
        attention_mask: AttentionMask | None = None,
        sequence_ids: SequenceIds | None = None,
    ) -> tuple[Hidden, MambaState]:
        """Compute a vector for every token from it and the tokens before it.

        Args:
            input_ids: (batch, length).
            state: what an earlier call returned, one BlockState per layer; None starts afresh.
            attention_mask: (batch, length), 0 where a row is padded on the left.
            sequence_ids: integers (batch, length); a change of id starts a new sequence within a row.

        Returns:
            (hidden, state): hidden is (batch, length, d_model).

        Raises:
            ShapeError: the mask, the ids or the state do not fit.
        """
        check_per_token(input_ids, attention_mask=attention_mask, sequence_ids=sequence_ids)
        if state is not None and len(state) != len(self.layers):
            raise ShapeError(f"state is of {len(state)} layers; expected {len(self.layers)}, as this model has")
        x, residual, new_state = self.embeddings(input_ids), None, []
        for layer, layer_state in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, residual, layer_state = layer(
                x, residual, layer_state, attention_mask=attention_mask, sequence_ids=sequence_ids
            )
            new_state.append(layer_state)
        hidden, _ = self.norm_f(x, residual)
        return hidden, tuple(new_state)


def embedding(config: MambaConfig) -> nn.Embedding:
    """A vector for each token of the vocabulary, drawn from N(0, initializer_range^2).

    Raises:
        ConfigError: vocab_size is not set.
    """
    if config.vocab_size is None:
        raise ConfigError(
            "model_config.vocab_size is not set; give the tokenizer's, e.g. replace(config, vocab_size=256)"
        )
    embeddings = nn.Embedding(config.vocab_size, config.d_model)
    nn.init.normal_(embeddings.weight, std=config.initializer_range)
    return embeddings


def vocabulary_head(config: MambaConfig, embeddings: nn.Embedding) -> nn.Linear:
    """(..., d_model) to the scores of all tokens, (..., vocab_size), with the embedding's weights if they are tied."""
    head = nn.Linear(config.d_model, embeddings.num_embeddings, bias=False)
    if config.tie_embeddings:
        head.weight = embeddings.weight
    else:
        nn.init.normal_(head.weight, std=config.initializer_range)
    return head


def check_per_token(input_ids: Tensor, **per_token: Tensor | None) -> None:
    """Refuse what is not (batch, length), in the words of the caller.

    Raises:
        ShapeError: input_ids or one of the tensors that go with it has another shape.
    """
    if input_ids.ndim != 2:
        raise ShapeError(
            f"input_ids has shape {tuple(input_ids.shape)}; expected (batch, length), "
            "so add the batch dimension with input_ids.unsqueeze(0) if it is missing"
        )
    for name, tensor in per_token.items():
        if tensor is not None and tensor.shape != input_ids.shape:
            raise ShapeError(
                f"{name} has shape {tuple(tensor.shape)}; expected input_ids', {tuple(input_ids.shape)}: "
                "one entry for each token of this call"
            )
