"""The bidirectional encoder: tokens in, one vector per token out, made from the tokens on both sides of it.

A Mamba reads from left to right, so a token knows nothing of what comes after it. That is right for writing, and a
waste for understanding a text that is already there: to fill a blank, or to tell what a word is.
"""

from torch import nn

from baby_mamba.config import MambaConfig
from baby_mamba.data import IGNORE_INDEX
from baby_mamba.errors import ConfigError
from baby_mamba.layers import MambaBlock, RMSNorm
from baby_mamba.models.backbone import check_per_token, embedding
from baby_mamba.shapes import AttentionMask, Hidden, TokenIds


class BidirectionalBlock(nn.Module):
    """forward(x) + reverse(backward(reverse(x))): two Mamba blocks, one for each direction of reading, summed.

    The two have the same in_proj and out_proj (and Legendre expansion, if any), which hold most of a block's parameters
    and act on each token alone, and each its own convolution and SSM. So a bidirectional block is little larger than a
    Mamba block. This is BiMamba of Caduceus (arXiv 2403.03234, section 3.1); Vision Mamba (arXiv 2401.09417,
    algorithm 1) shares as much.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.left_to_right = MambaBlock(config)
        self.right_to_left = MambaBlock(config)
        for name in ("legendre", "in_proj", "out_proj"):
            setattr(self.right_to_left, name, getattr(self.left_to_right, name))

    def forward(self, x: Hidden, *, attention_mask: AttentionMask | None = None) -> Hidden:
        """Mix information along time, in both directions; see `MambaEncoder.forward`."""
        reversed_mask = None if attention_mask is None else attention_mask.flip(1)
        ahead, _ = self.left_to_right(x, attention_mask=attention_mask)
        back, _ = self.right_to_left(x.flip(1), attention_mask=reversed_mask)
        return ahead + back.flip(1)


class EncoderLayer(nn.Module):
    """A bidirectional block in the residual stream, as `ResidualBlock` is a causal one.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = _norm(config)
        self.mixer = BidirectionalBlock(config)

    def forward(
        self, x: Hidden, residual: Hidden | None = None, *, attention_mask: AttentionMask | None = None
    ) -> tuple[Hidden, Hidden]:
        """Return (x, residual); x is not yet added to the residual stream. Both (batch, length, d_model)."""
        x, residual = self.norm(x, residual)
        return self.mixer(x, attention_mask=attention_mask), residual


class MambaEncoder(nn.Module):
    """Embedding, n_layer bidirectional blocks, final norm. Its cost grows with the length, not with its square.

        encoder = MambaEncoder(MambaConfig(vocab_size=256))
        hidden = encoder(input_ids, attention_mask=attention_mask)  # (batch, length, d_model)

    It keeps no state: what a token gets depends on all that follow, so a text is read as a whole.

    Args:
        config: the model's configuration; vocab_size must be set.

    Raises:
        ConfigError: vocab_size is not set, or the architecture is another one.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        if config.architecture != "mamba":
            raise ConfigError(
                f"model_config.architecture = {config.architecture} is no Mamba, and only a Mamba is built as a "
                "bidirectional encoder; expected architecture = mamba"
            )
        self.config = config
        self.embeddings = embedding(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layer))
        self.norm_f = _norm(config)

    def forward(self, input_ids: TokenIds, *, attention_mask: AttentionMask | None = None) -> Hidden:
        """Compute a vector for every token from it and the tokens on both sides.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length), 0 where a row is padded, on its left, on its right or on both, else 1. The
                tokens of a padded row get what they would get without padding; what stands at padding means nothing.

        Returns:
            (batch, length, d_model).

        Raises:
            ShapeError: the mask does not fit.
        """
        check_per_token(input_ids, attention_mask=attention_mask)
        x, residual = self.embeddings(input_ids), None
        for layer in self.layers:
            x, residual = layer(x, residual, attention_mask=attention_mask)
        hidden, _ = self.norm_f(x, residual)
        return hidden


def own_targets(input_ids: TokenIds, labels: TokenIds, attention_mask: AttentionMask | None) -> TokenIds:
    """What the scores at each token are compared with, (batch, length): its own label, and at padding -100, none.

    Raises:
        ShapeError: labels does not fit input_ids.
    """
    check_per_token(input_ids, labels=labels)
    return labels if attention_mask is None else labels.masked_fill(attention_mask == 0, IGNORE_INDEX)


def _norm(config: MambaConfig) -> RMSNorm:
    return RMSNorm(
        config.d_model, epsilon=config.norm_epsilon, residual_in_fp32=config.residual_in_fp32, backend=config.backend
    )
