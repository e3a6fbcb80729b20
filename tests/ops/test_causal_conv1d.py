"""The convolution against torch.nn.functional.conv1d and against finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baby_mamba.errors import ShapeError
from baby_mamba.ops import causal_conv1d


def random_arguments(length: int = 7, width: int = 4) -> dict[str, Tensor]:
    arguments = {
        "x": torch.randn(2, length, 3, dtype=torch.float64),
        "weight": torch.randn(3, width, dtype=torch.float64),
        "bias": torch.randn(3, dtype=torch.float64),
        "initial_state": torch.randn(2, width - 1, 3, dtype=torch.float64),
    }
    return {name: tensor.requires_grad_() for name, tensor in arguments.items()}


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("length", [0, 1, 3, 20])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_equals_torch(width: int, length: int, activation: str | None) -> None:
    torch.manual_seed(0)
    a = random_arguments(length, width)
    y, state = causal_conv1d(**a, activation=activation, return_final_state=True, backend="reference")
    past = torch.cat([a["initial_state"], a["x"]], dim=1)
    torch.testing.assert_close(state, past[:, length:])
    if length:
        expected = F.conv1d(past.mT, a["weight"].unsqueeze(1), a["bias"], groups=3).mT
        torch.testing.assert_close(y, F.silu(expected) if activation else expected)


def test_gradcheck() -> None:
    torch.manual_seed(1)
    arguments = random_arguments(5, 3)
    ids = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]])

    def convolve(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d(
            **dict(zip(arguments, tensors, strict=True)),
            activation="silu",
            sequence_ids=ids,
            return_final_state=True,
            backend="reference",
        )

    assert torch.autograd.gradcheck(convolve, list(arguments.values()))


def test_packed_sequences_do_not_see_each_other() -> None:
    torch.manual_seed(2)
    a = random_arguments(9)
    ids = torch.tensor([[5, 5, 5, 5, 1, 1, 5, 5, 5]] * 2)
    y, state = causal_conv1d(**a, sequence_ids=ids, return_final_state=True)
    pieces = [causal_conv1d(a["x"][:, :4], a["weight"], a["bias"], initial_state=a["initial_state"])]
    pieces += [causal_conv1d(a["x"][:, part], a["weight"], a["bias"]) for part in (slice(4, 6), slice(6, 9))]
    torch.testing.assert_close(y, torch.cat(pieces, dim=1))
    torch.testing.assert_close(state, a["x"][:, 6:])
    _, short = causal_conv1d(**a, sequence_ids=ids.roll(1, dims=1), return_final_state=True)  # ... 1 1 5 5
    torch.testing.assert_close(short[:, 0], torch.zeros_like(short[:, 0]))


def test_chunks_equal_the_whole() -> None:
    torch.manual_seed(3)
    a = random_arguments(11)
    whole = causal_conv1d(**a)
    state, pieces = a["initial_state"], []
    for chunk in a["x"].split([1, 2, 5, 3], dim=1):
        y, state = causal_conv1d(chunk, a["weight"], a["bias"], initial_state=state, return_final_state=True)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 7)}, "x is"),
        ({"weight": torch.zeros(4, 4)}, "weight has shape"),
        ({"weight": torch.zeros(3, 0), "initial_state": None}, "weight has shape"),
        ({"bias": torch.zeros(4)}, "bias has shape"),
        ({"initial_state": torch.zeros(2, 4, 3)}, "initial_state has shape"),
        ({"sequence_ids": torch.zeros(2, 6, dtype=torch.long)}, "sequence_ids has shape"),
        ({"activation": "relu"}, "activation is 'relu'; expected None or 'silu'"),
        ({"bias": torch.zeros(3, device="meta")}, "bias is on meta"),
    ],
)
def test_wrong_arguments_are_named(changed: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        causal_conv1d(**{**random_arguments(), **changed})
