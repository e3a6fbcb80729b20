"""The teaching version of S6: a real recurrence, and the same as the layer that models use."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baby_mamba import MambaConfig, SelectiveSSM
from baby_mamba.theory import S6


@pytest.fixture
def s6() -> S6:
    torch.manual_seed(0)
    layer = S6(channels=6, d_state=3).double()
    nn.init.normal_(layer.to_delta.bias)  # away from the small steps of a new layer
    return layer


@pytest.fixture
def u() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 9, 6, dtype=torch.float64)


def test_it_is_the_selective_ssm_given_the_same_weights() -> None:
    torch.manual_seed(0)
    ssm = SelectiveSSM(MambaConfig(d_model=6, d_state=3, dt_rank=2, backend="reference")).double()
    for parameter in ssm.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    layer = S6(channels=12, d_state=3).double()
    rank, B, C = ssm.x_proj.weight.split([2, 3, 3])
    layer.load_state_dict(
        {
            "to_delta.weight": ssm.dt_proj.weight @ rank,
            "to_delta.bias": ssm.dt_proj.bias,
            "to_B.weight": B,
            "to_C.weight": C,
            "A_log": ssm.A_log,
            "D": ssm.D,
        }
    )
    u, state = torch.randn(2, 9, 12, dtype=torch.float64), torch.randn(2, 12, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(u), ssm(u))
    torch.testing.assert_close(layer(u, state), ssm(u, state=state))


def test_the_state_matters(s6: S6, u: Tensor) -> None:
    """An early token reaches all later outputs, and through nothing but the state."""
    changed = u.clone()
    changed[:, 0] += 1
    difference = (s6(changed)[0] - s6(u)[0]).abs().amax(dim=(0, 2))
    assert (difference > 1e-6).all()
    alone = torch.cat([s6(token)[0] for token in u.split(1, dim=1)], dim=1)  # a new state for every token
    torch.testing.assert_close(alone[:, 0], s6(u)[0][:, 0])
    assert ((alone - s6(u)[0])[:, 1:].abs().amax(dim=(0, 2)) > 1e-3).all()


def test_it_goes_on_from_a_state(s6: S6, u: Tensor) -> None:
    whole, last = s6(u)
    first, state = s6(u[:, :4])
    second, state = s6(u[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(state, last)


def test_a_long_step_forgets_and_a_short_one_ignores(s6: S6, u: Tensor) -> None:
    state = torch.randn(2, 6, 3, dtype=torch.float64)
    nn.init.constant_(s6.to_delta.bias, 100.0)
    torch.testing.assert_close(s6(u, state)[0], s6(u)[0])
    nn.init.constant_(s6.to_delta.bias, -100.0)
    torch.testing.assert_close(s6(u, state)[1], state)


def test_a_new_layer_takes_small_steps() -> None:
    layer = S6(channels=4)
    torch.testing.assert_close(F.softplus(layer.to_delta.bias), torch.full((4,), 0.01))
    torch.testing.assert_close(-layer.A_log.exp(), -torch.arange(1.0, 17.0).expand(4, 16))
