"""A Mamba block in the residual stream."""

from torch import nn

from baby_mamba.config import MambaConfig
from baby_mamba.layers.block import MambaBlock
from baby_mamba.layers.norm import RMSNorm
from baby_mamba.layers.state import BlockState
from baby_mamba.shapes import AttentionMask, Hidden, SequenceIds


class ResidualBlock(nn.Module):
    """r <- r + x;  x <- mixer(norm(r)): pre-norm, with the sum taken at the start of the next block.

    That is the usual r <- r + mixer(norm(r)), cut at another place so that sum and norm are one pass over memory.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(
            config.d_model,
            epsilon=config.norm_epsilon,
            residual_in_fp32=config.residual_in_fp32,
            backend=config.backend,
        )
        self.mixer = MambaBlock(config)

    def forward(
        self,
        x: Hidden,
        residual: Hidden | None = None,
        state: BlockState | None = None,
        *,
        attention_mask: AttentionMask | None = None,
        sequence_ids: SequenceIds | None = None,
    ) -> tuple[Hidden, Hidden, BlockState]:
        """Return (x, residual, state); x is not yet added to the residual stream. All (batch, length, d_model)."""
        x, residual = self.norm(x, residual)
        x, state = self.mixer(x, state, attention_mask=attention_mask, sequence_ids=sequence_ids)
        return x, residual, state
