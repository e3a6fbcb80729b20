"""The block computes the paper's figure 3, and its parameters have the published names and sizes."""

import math

import torch
import torch.nn.functional as F

from baby_mamba import MambaBlock, MambaConfig
from baby_mamba.layers import ResidualBlock, RMSNorm
from baby_mamba.ops import selective_scan


def test_forward_is_the_figure() -> None:
    torch.manual_seed(0)
    config = MambaConfig(d_model=6, d_state=3, d_conv=3, in_out_proj_bias=True, backend="reference")
    block = MambaBlock(config).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)

    u, z = F.linear(x, block.in_proj.weight, block.in_proj.bias).split(12, dim=-1)
    u = F.silu(F.conv1d(F.pad(u.mT, (2, 0)), block.conv1d.weight, block.conv1d.bias, groups=12).mT)
    dt, B, C = F.linear(u, block.x_proj.weight).split([1, 3, 3], dim=-1)
    delta = F.softplus(F.linear(dt, block.dt_proj.weight, block.dt_proj.bias))
    y = selective_scan(u, delta, -block.A_log.exp(), B, C, block.D, backend="reference") * F.silu(z)
    expected = F.linear(y, block.out_proj.weight, block.out_proj.bias)

    torch.testing.assert_close(block(x)[0], expected)


def test_published_names_and_shapes() -> None:
    block = MambaBlock(MambaConfig(d_model=32, d_state=8, d_conv=4, expand=2, in_out_proj_bias=True))
    assert {name: tuple(p.shape) for name, p in block.named_parameters()} == {
        "A_log": (64, 8),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "in_proj.bias": (128,),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (2 + 16, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
        "out_proj.bias": (32,),
    }


def test_out_proj_is_rescaled_by_the_number_of_layers() -> None:
    weights = []
    for rescale in (False, True):
        torch.manual_seed(0)
        weights.append(MambaBlock(MambaConfig(d_model=8, n_layer=9, rescale_prenorm_residual=rescale)).out_proj.weight)
    torch.testing.assert_close(weights[1], weights[0] / 3)
    assert weights[0].abs().max() <= 1 / math.sqrt(16)  # nn.Linear's own bound, 1 / sqrt(d_inner)


def test_without_biases() -> None:
    names = dict(MambaBlock(MambaConfig(d_model=8, conv_bias=False)).named_parameters())
    assert not {"conv1d.bias", "in_proj.bias", "out_proj.bias"} & set(names)


def test_residual_stream_adds_what_the_mixers_gave() -> None:
    torch.manual_seed(1)
    block = ResidualBlock(MambaConfig(d_model=8)).double()
    x, residual = torch.randn(2, 2, 3, 8, dtype=torch.float64)
    y, total, _ = block(x, residual)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(y, block.mixer(F.rms_norm(total, (8,), eps=1e-5))[0])


def test_residual_dtype() -> None:
    x = torch.randn(1, 2, 8).bfloat16()
    assert RMSNorm(8)(x)[1].dtype == torch.float32
    assert RMSNorm(8, residual_in_fp32=False)(x)[1].dtype == torch.bfloat16
