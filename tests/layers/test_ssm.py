"""The selective state space model: its initialisation as published, and what selection does."""

import math

import pytest
import torch
import torch.nn.functional as F

from baby_mamba import MambaConfig, SelectiveSSM
from baby_mamba.errors import ConfigError
from baby_mamba.layers.ssm import inverse_softplus


@pytest.mark.parametrize("dt_init", ["random", "constant"])
def test_published_initialisation(dt_init: str) -> None:
    config = MambaConfig(d_model=40, d_state=5, dt_min=0.01, dt_max=0.2, dt_init=dt_init, dt_scale=2.0)
    ssm = SelectiveSSM(config)
    torch.testing.assert_close(ssm.A, -torch.arange(1.0, 6.0).expand(80, 5))
    torch.testing.assert_close(ssm.D, torch.ones(80))
    dt = F.softplus(ssm.dt_proj.bias)
    assert 0.01 * (1 - 1e-5) <= dt.min() < dt.max() <= 0.2 * (1 + 1e-5)
    bound = 2.0 / math.sqrt(config.resolved_dt_rank)
    weight = ssm.dt_proj.weight.abs()
    assert weight.max() <= bound
    assert (weight.min() == bound) if dt_init == "constant" else (weight.min() < 0.2 * bound)
    assert ssm.x_proj.bias is None


def test_step_sizes_are_log_uniform() -> None:
    torch.manual_seed(0)
    ssm = SelectiveSSM(MambaConfig(d_model=1024, dt_min=1e-3, dt_max=1e-1))
    median = F.softplus(ssm.dt_proj.bias).median()
    assert 0.8e-2 < median < 1.25e-2  # the geometric mean of the two ends


def test_the_floor_raises_small_steps() -> None:
    ssm = SelectiveSSM(MambaConfig(d_model=16, dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-3))
    torch.testing.assert_close(F.softplus(ssm.dt_proj.bias), torch.full((32,), 1e-3))


def test_inverse_softplus() -> None:
    y = torch.logspace(-6, 2, 50, dtype=torch.float64)
    torch.testing.assert_close(F.softplus(inverse_softplus(y), threshold=1e9), y, rtol=1e-9, atol=0)


def test_a_large_step_resets_the_state_and_a_small_one_keeps_it() -> None:
    ssm = SelectiveSSM(MambaConfig(d_model=8, backend="reference")).double()
    u = torch.randn(1, 1, 16, dtype=torch.float64)
    before = torch.randn(1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        ssm.dt_proj.weight.zero_()
        ssm.dt_proj.bias.fill_(-30)  # Delta about 1e-13
        torch.testing.assert_close(ssm(u, state=before)[1], before)
        ssm.dt_proj.bias.fill_(50)  # Delta 50: exp(-50) of the past is left
        torch.testing.assert_close(ssm(u, state=before)[1], ssm(u)[1])


def test_the_norm_of_the_selection_has_no_scale() -> None:
    """With a norm on W_r u, B and C, as in Falcon-Mamba, only the direction of each counts, not the size of x_proj."""
    torch.manual_seed(0)
    u = torch.randn(2, 5, 16)
    for epsilon, same in [(1e-12, True), (None, False)]:
        ssm = SelectiveSSM(MambaConfig(d_model=8, d_state=5, dt_rank=3, selection_norm_epsilon=epsilon))
        before = ssm.selection(u)
        with torch.no_grad():
            ssm.x_proj.weight.mul_(7)
        for one, other in zip(before, ssm.selection(u), strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-6) == same
    ssm = SelectiveSSM(MambaConfig(d_model=8, d_state=5, selection_norm_epsilon=0.25))
    raw = ssm.x_proj(u)[..., -5:]
    expected = raw / (raw.square().mean(-1, keepdim=True) + 0.25).sqrt()
    torch.testing.assert_close(ssm.selection(u)[2], expected)


def test_A_stays_float32_in_a_module_that_is_cast_down() -> None:
    assert SelectiveSSM(MambaConfig(d_model=8)).bfloat16().A.dtype == torch.float32


def test_where_A_may_start() -> None:
    torch.manual_seed(0)
    s4d_lin_real = SelectiveSSM(MambaConfig(d_model=8, d_state=3, a_init="s4d_lin_real"))
    torch.testing.assert_close(s4d_lin_real.A, torch.full((16, 3), -0.5))
    random = SelectiveSSM(MambaConfig(d_model=256, d_state=16, a_init="random"))
    assert (random.A < 0).all()
    assert abs(random.A_log.mean()) < 0.05
    assert abs(random.A_log.std() - 1) < 0.05
    assert random.A_log.unique().numel() > 0.99 * random.A_log.numel()  # each by itself
    with pytest.raises(ConfigError, match="did you mean s4d_lin_real"):
        MambaConfig(a_init="s4d_lin")
