"""The compiled decoding step against the float64 reference, and what only a GPU can show."""

import pytest
import torch
from torch import Tensor

from baby_mamba.interop.mamba_ssm import Mamba
from baby_mamba.ops import selective_state_update

pytestmark = pytest.mark.gpu

LIMIT = {torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def random_arguments(
    batch: int, channels: int, d_state: int = 16, dtype: torch.dtype = torch.float32, groups: int | None = None
) -> dict[str, Tensor]:
    generator = torch.Generator("cuda").manual_seed(batch + 10 * channels + 100 * d_state)

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator).to(dtype)

    selection = (batch, d_state) if groups is None else (batch, groups, d_state)
    return {
        "state": normal(batch, channels, d_state),
        "u": normal(batch, channels, dtype=dtype),
        "delta": normal(batch, channels, dtype=dtype),
        "A": -torch.rand(channels, d_state, device="cuda", generator=generator) * 2 - 0.1,
        "B": normal(*selection, dtype=dtype),
        "C": normal(*selection, dtype=dtype),
        "D": normal(channels),
        "z": normal(batch, channels, dtype=dtype),
        "delta_bias": normal(channels) - 1,
    }


def check(arguments: dict[str, Tensor], indices: Tensor | None = None) -> None:
    limit = LIMIT[arguments["u"].dtype]
    wide = {name: t.double() for name, t in arguments.items()}
    expected = selective_state_update(**wide, delta_softplus=True, state_indices=indices, backend="reference")
    y = selective_state_update(**arguments, delta_softplus=True, state_indices=indices)
    for name, got, value in (("y", y, expected), ("state", arguments["state"], wide["state"])):
        error = (got.double() - value).norm() / value.norm()
        assert error <= limit, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize(("batch", "channels", "d_state"), [(1, 1536, 16), (64, 1536, 16), (3, 70, 5), (2, 33, 256)])
def test_accuracy(dtype: torch.dtype, batch: int, channels: int, d_state: int) -> None:
    check(random_arguments(batch, channels, d_state, dtype))


def test_groups() -> None:
    check(random_arguments(4, 64, groups=4))


def test_a_narrow_state_is_rounded_once() -> None:
    arguments = random_arguments(2, 64)
    arguments["state"] = arguments["state"].bfloat16()
    wide = {**arguments, "state": arguments["state"].float()}
    torch.testing.assert_close(selective_state_update(**arguments), selective_state_update(**wide))
    torch.testing.assert_close(arguments["state"].float(), wide["state"], rtol=2**-8, atol=0)  # half a step of bfloat16


@pytest.mark.parametrize("transposed", [("state", "u", "B", "z"), ("delta", "A", "C", "z")])
def test_strides_do_not_matter(transposed: tuple[str, ...]) -> None:
    arguments = random_arguments(3, 50, groups=5)
    for name in transposed:
        arguments[name] = arguments[name].transpose(0, -1).contiguous().transpose(0, -1)
    check(arguments)


def test_rows_by_index_with_padding() -> None:
    arguments = random_arguments(4, 100)
    pool = random_arguments(9, 100)["state"]
    before = pool.clone()
    arguments["z"][1] = torch.nan
    check({**arguments, "state": pool}, torch.tensor([5, -1, 0, 2], device="cuda", dtype=torch.int32))
    assert torch.equal(pool[[1, 3, 4, 6, 7, 8]], before[[1, 3, 4, 6, 7, 8]])


def test_a_pool_of_more_numbers_than_an_int32_can_count() -> None:
    slots, channels, d_state = 2**16 + 1, 2048, 16
    pool = torch.zeros(slots, channels, d_state, dtype=torch.bfloat16, device="cuda")
    assert pool.numel() > 2**31
    arguments = random_arguments(1, channels, d_state)
    pool[-1] = arguments["state"][0].bfloat16()
    alone = pool[-1:].clone()
    y = selective_state_update(**{**arguments, "state": pool}, state_indices=torch.tensor([slots - 1], device="cuda"))
    torch.testing.assert_close(y, selective_state_update(**{**arguments, "state": alone}))
    torch.testing.assert_close(pool[-1:], alone)
    assert not pool[:-1].any()


def test_compiles_without_a_graph_break() -> None:
    arguments = random_arguments(2, 64, dtype=torch.bfloat16)
    expected_state = arguments["state"].clone()
    expected = selective_state_update(**{**arguments, "state": expected_state}, delta_softplus=True)
    compiled = torch.compile(lambda **given: selective_state_update(**given, delta_softplus=True), fullgraph=True)
    assert torch.equal(compiled(**arguments), expected)
    assert torch.equal(arguments["state"], expected_state)


def test_captured_in_a_cuda_graph() -> None:
    arguments = random_arguments(4, 64, dtype=torch.bfloat16)
    indices = torch.tensor([3, -1, 0, 2], device="cuda")
    states, outputs = [arguments["state"].clone() for _ in range(2)], []
    for _ in range(3):
        outputs.append(selective_state_update(**{**arguments, "state": states[0]}, state_indices=indices))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = selective_state_update(**{**arguments, "state": states[1]}, state_indices=indices)
    for expected in outputs:
        graph.replay()
        assert torch.equal(y, expected)
    assert torch.equal(states[0], states[1])


def test_a_block_decodes_in_a_cuda_graph() -> None:
    """The official calling convention, `step` with states updated in place, captured once and replayed."""
    torch.manual_seed(0)
    block = Mamba(d_model=64, device="cuda", dtype=torch.bfloat16)
    tokens = torch.randn(5, 2, 1, 64, device="cuda", dtype=torch.bfloat16)
    states = block.allocate_inference_cache(2, 5)
    expected = torch.stack([block.step(token, *states)[0] for token in tokens])
    token, states = tokens[0].clone(), block.allocate_inference_cache(2, 5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _, _ = block.step(token, *states)
    for state in states:
        state.zero_()
    for t in range(5):
        token.copy_(tokens[t])
        graph.replay()
        torch.testing.assert_close(y, expected[t])
