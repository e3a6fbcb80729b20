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


SELECTIVE = ["delta B", "delta C", "B C", "delta", "B", "C", "none"]


@pytest.mark.parametrize("selective", SELECTIVE)
def test_what_is_not_selective_is_a_learnt_constant(selective: str) -> None:
    """Delta, B and C of a token: those named depend on it, the others are the same for all and get a gradient, too."""
    torch.manual_seed(0)
    ssm = SelectiveSSM(MambaConfig(d_model=8, d_state=5, selective=selective, backend="reference")).double()
    u = torch.randn(2, 7, 16, dtype=torch.float64)
    delta, B, C = ssm.selection(u)
    assert delta.shape == (2, 7, 16)
    assert (delta.std() > 0) == ("delta" in selective.split())
    for name, M in (("B", B), ("C", C)):
        assert M.shape == ((2, 7, 5) if name in selective.split() else (16, 5))
    ssm(u)[0].square().sum().backward()
    for name, parameter in ssm.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_constants_start_as_in_s4d() -> None:
    torch.manual_seed(0)
    ssm = SelectiveSSM(MambaConfig(d_model=256, d_state=16, selective="none", dt_min=0.01, dt_max=0.2))
    assert {name for name, _ in ssm.named_parameters()} == {"A_log", "B", "C", "D", "dt_bias"}
    assert (ssm.B == 1).all()
    assert abs(ssm.C.mean()) < 0.05
    assert abs(ssm.C.std() - 1) < 0.05
    dt = F.softplus(ssm.dt_bias)
    assert 0.01 * (1 - 1e-5) <= dt.min() < dt.max() <= 0.2 * (1 + 1e-5)


def test_only_without_selection_it_is_a_convolution() -> None:
    """Time-invariant: a later input gives a later output, and outputs add up as inputs do. Any selection breaks it."""
    for selective in ("none", "delta", "B", "C"):
        torch.manual_seed(0)
        ssm = SelectiveSSM(MambaConfig(d_model=8, d_state=5, selective=selective, backend="reference")).double()
        one, other = torch.randn(2, 1, 9, 16, dtype=torch.float64)
        linear = torch.allclose(ssm(one + other)[0], ssm(one)[0] + ssm(other)[0])
        assert linear == (selective == "none")
    impulse = torch.zeros(1, 30, 16, dtype=torch.float64)
    impulse[:, 0] = 1
    ssm = SelectiveSSM(MambaConfig(d_model=8, d_state=5, selective="none", backend="reference")).double()
    kernel = ssm(impulse)[0]
    u = torch.randn(1, 30, 16, dtype=torch.float64)
    by_fft = torch.fft.irfft(torch.fft.rfft(u, 60, dim=1) * torch.fft.rfft(kernel, 60, dim=1), 60, dim=1)[:, :30]
    torch.testing.assert_close(ssm(u)[0], by_fft)


@pytest.mark.parametrize("selective", SELECTIVE)
@pytest.mark.parametrize("backend", ["parallel", "cpu"])
def test_every_backend_takes_the_constants(selective: str, backend: str) -> None:
    torch.manual_seed(0)
    config = MambaConfig(d_model=8, d_state=5, selective=selective, backend="reference")
    ssm = SelectiveSSM(config)
    u = torch.randn(2, 7, 16)

    def outputs_and_gradients(backend: str) -> list[torch.Tensor]:
        ssm.backend = backend
        y, state = ssm(u)
        return [y, state, *torch.autograd.grad(y.sin().sum() + state.sum(), list(ssm.parameters()))]

    for got, expected in zip(outputs_and_gradients(backend), outputs_and_gradients("reference"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_norm_of_the_selection_leaves_constants_alone() -> None:
    ssm = SelectiveSSM(MambaConfig(d_model=8, d_state=5, selective="B", selection_norm_epsilon=1e-6))
    delta, B, C = ssm.selection(torch.randn(2, 7, 16))
    torch.testing.assert_close(B.square().mean(-1), torch.ones(2, 7), rtol=1e-3, atol=1e-3)
    assert not delta.any()
    assert C is ssm.C
