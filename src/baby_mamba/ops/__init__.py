"""Operations: one folder each, with a contract, a plain PyTorch reference and fused backends."""

from baby_mamba.ops.causal_conv1d import causal_conv1d
from baby_mamba.ops.linear_cross_entropy import linear_cross_entropy
from baby_mamba.ops.rms_norm import rms_norm
from baby_mamba.ops.selective_scan import selective_scan
from baby_mamba.ops.selective_state_update import selective_state_update

__all__ = ["causal_conv1d", "linear_cross_entropy", "rms_norm", "selective_scan", "selective_state_update"]
