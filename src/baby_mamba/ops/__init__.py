"""Operations: one folder each, with a contract, a plain PyTorch reference and fused backends."""

from baby_mamba.ops.causal_conv1d import causal_conv1d
from baby_mamba.ops.rms_norm import rms_norm
from baby_mamba.ops.selective_scan import selective_scan

__all__ = ["causal_conv1d", "rms_norm", "selective_scan"]
