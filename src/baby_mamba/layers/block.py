"""The Mamba block: figure 3 of the paper, read from bottom to top."""

import math

from torch import nn

from baby_mamba.config import MambaConfig
from baby_mamba.layers.convolution import CausalConv1d
from baby_mamba.layers.legendre import LegendreExpansion
from baby_mamba.layers.ssm import SelectiveSSM
from baby_mamba.layers.state import BlockState
from baby_mamba.shapes import AttentionMask, Hidden, SequenceIds


class MambaBlock(SelectiveSSM):
    """A selective SSM between two projections, behind a short convolution, with a gate (Mamba, section 3.4, figure 3).

    It is a SelectiveSSM, rather than holding one, so that its parameters have the published names.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(config)
        self.legendre = LegendreExpansion(config.d_model, config.legendre_order) if config.legendre_order else None
        self.in_proj = nn.Linear(config.d_model, 2 * config.d_inner, bias=config.in_out_proj_bias)
        self.conv1d = CausalConv1d(config.d_inner, config.d_conv, bias=config.conv_bias, backend=config.backend)
        self.out_proj = nn.Linear(config.d_inner, config.d_model, bias=config.in_out_proj_bias)
        for projection in (self.in_proj, self.out_proj):
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        if config.rescale_prenorm_residual:
            # n_layer contributions are summed in the residual stream; keep its variance (GPT-2, section 2.3).
            self.out_proj.weight.data.div_(math.sqrt(config.n_layer))

    def forward(
        self,
        x: Hidden,
        state: BlockState | None = None,
        *,
        attention_mask: AttentionMask | None = None,
        sequence_ids: SequenceIds | None = None,
    ) -> tuple[Hidden, BlockState]:
        """Mix information along time.

        Args:
            x: (batch, length, d_model).
            state: what an earlier call returned; None starts afresh.
            attention_mask: (batch, length), 0 where a row is padded on the left, else 1. Padding then leaves no trace
                in the state: the convolution sees zeros, and so does the scan, whatever the convolution's bias.
            sequence_ids: integers (batch, length); a change of id starts a new sequence within a row.

        Returns:
            (y, state): y of x's shape and dtype; the state has the same size after any length.

        Raises:
            ShapeError: the state, mask or ids do not fit x.
        """
        conv_state, ssm_state = state if state is not None else (None, None)
        padding = None if attention_mask is None else (attention_mask == 0).unsqueeze(-1)

        if self.legendre is not None:
            x = self.legendre(x)
        u, gate = self.in_proj(x).chunk(2, dim=-1)  # each (batch, length, d_inner)
        if padding is not None:
            u = u.masked_fill(padding, 0)
        u, conv_state = self.conv1d(u, conv_state, sequence_ids=sequence_ids)
        if padding is not None:
            u = u.masked_fill(padding, 0)
        y, ssm_state = self.scan(u, gate=gate, state=ssm_state, sequence_ids=sequence_ids)
        return self.out_proj(y), BlockState(conv_state, ssm_state)
