"""The compiled convolution and norm against the float64 reference, and what only a GPU can show."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from baby_mamba.errors import ShapeError
from baby_mamba.ops import causal_conv1d, rms_norm

pytestmark = pytest.mark.gpu

LIMIT = {torch.float32: 1e-5, torch.float16: 5e-4, torch.bfloat16: 4e-3}
Op = Callable[..., tuple[Tensor, Tensor]]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed + sum(shape))
    return torch.randn(*shape, device="cuda", generator=generator).to(dtype)


def conv_arguments(
    batch: int, length: int, channels: int, width: int = 4, dtype: torch.dtype = torch.float32, state: bool = True
) -> dict[str, Tensor]:
    arguments = {
        "x": normal(batch, length, channels, dtype=dtype),
        "weight": normal(channels, width, seed=1),
        "bias": normal(channels, seed=2),
    }
    return arguments | ({"initial_state": normal(batch, width - 1, channels, dtype=dtype, seed=3)} if state else {})


def norm_arguments(*shape: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {
        "x": normal(*shape, dtype=dtype),
        "weight": normal(shape[-1], seed=1),
        "residual": normal(*shape, seed=2),
    }


def conv(backend: str, ids: Tensor | None = None) -> Op:
    return lambda **tensors: causal_conv1d(
        **tensors, activation="silu", sequence_ids=ids, return_final_state=True, backend=backend
    )


def norm(backend: str) -> Op:
    return lambda **tensors: rms_norm(**tensors, backend=backend)


def results(op: Op, arguments: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Both results and every gradient, for a random cotangent of both; computed on `dtype` copies."""
    leaves = {name: t.to(dtype or t.dtype).detach().requires_grad_() for name, t in arguments.items()}
    both = op(**leaves)
    # Rounded to x's dtype, so that every computation is given the same numbers.
    cotangents = [normal(*r.shape, dtype=arguments["x"].dtype, seed=i).to(r.dtype) for i, r in enumerate(both)]
    gradients = torch.autograd.grad(both, list(leaves.values()), cotangents)
    return dict(enumerate(both)) | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def check(op: Callable[[str], Op], arguments: dict[str, Tensor]) -> None:
    """Within the limit of each tensor's dtype, and at most twice the error of the reference in float32."""
    got = results(op("triton"), arguments)
    exact = results(op("reference"), arguments, torch.float64)
    plain = results(op("reference"), arguments, torch.float32)
    for name, value in exact.items():
        error, dtype = relative_error(got[name], value), got[name].dtype
        assert error <= LIMIT[dtype], f"{name}: relative error {error:.1e}"
        allowed = 2 * relative_error(plain[name].to(dtype), value) + torch.finfo(torch.float32).eps
        assert error <= allowed, f"{name}: relative error {error:.1e}, twice the float32 reference's is {allowed:.1e}"


@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize(
    ("width", "length", "channels"), [(4, 1, 70), (4, 256, 256), (4, 301, 70), (2, 130, 64), (3, 33, 72), (8, 140, 130)]
)
def test_conv_accuracy(dtype: torch.dtype, width: int, length: int, channels: int) -> None:
    check(conv, conv_arguments(2, length, channels, width, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conv_of_packed_sequences(dtype: torch.dtype) -> None:
    ids = torch.arange(1000, device="cuda").div(7, rounding_mode="floor").expand(2, -1)
    check(lambda backend: conv(backend, ids), conv_arguments(2, 1000, 512, 4, dtype))


def test_conv_where_all_programs_have_work() -> None:
    check(conv, conv_arguments(2, 4096, 2048, dtype=torch.bfloat16))


@pytest.mark.parametrize("width", [1, 11])
def test_conv_of_other_widths(width: int) -> None:
    check(conv, conv_arguments(1, 40, 33, width, state=width > 1))


def test_conv_of_one_channel() -> None:
    check(conv, conv_arguments(2, 40, 1))


@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize("shape", [(300, 1), (2, 5, 70), (4, 100, 768), (1000, 2560), (37, 16384)])
def test_norm_accuracy(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check(norm, norm_arguments(*shape, dtype=dtype))


def test_norm_of_many_rows() -> None:
    check(norm, norm_arguments(20000, 768, dtype=torch.bfloat16))


CASES = [
    (conv, lambda: conv_arguments(4, 600, 320, dtype=torch.bfloat16)),
    (norm, lambda: norm_arguments(4, 600, 320, dtype=torch.bfloat16)),
]


@pytest.mark.parametrize(("op", "arguments"), CASES)
def test_gradients_repeat_bit_by_bit(op, arguments) -> None:
    arguments = arguments()
    first = results(op("triton"), arguments)
    for _ in range(20):
        for name, value in results(op("triton"), arguments).items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize(("op", "arguments"), CASES)
def test_compiles_without_a_graph_break(op, arguments) -> None:
    leaves = {name: t.requires_grad_() for name, t in arguments().items()}

    def step(**tensors: Tensor) -> Tensor:
        first, second = op("triton")(**tensors)
        return first.float().square().sum() + second.float().square().sum()

    eager = torch.autograd.grad(step(**leaves), list(leaves.values()))
    compiled = torch.autograd.grad(torch.compile(step, fullgraph=True)(**leaves), list(leaves.values()))
    for name, a, b in zip(leaves, compiled, eager, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("op", "arguments"), CASES)
def test_captured_in_a_cuda_graph(op, arguments) -> None:
    arguments = arguments()
    expected = results(op("triton"), arguments)
    leaves = {name: t.requires_grad_() for name, t in arguments.items()}
    cotangents = [normal(*expected[i].shape, dtype=torch.bfloat16, seed=i).to(expected[i].dtype) for i in range(2)]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        both = op("triton")(**leaves)
        gradients = torch.autograd.grad(both, list(leaves.values()), cotangents)
    for t in (*both, *gradients):
        t.detach().fill_(torch.nan)
    graph.replay()
    for a, b in zip((*both, *gradients), expected.values(), strict=True):
        assert torch.equal(a, b)


def kernels_of(function: Callable[[], object]) -> list[str]:
    """Names of the kernels that a call runs, after one to compile."""
    function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    return [event.name for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]


def test_a_decoding_step_is_one_kernel() -> None:
    arguments = conv_arguments(2, 1, 1536, dtype=torch.bfloat16)
    residual = norm_arguments(2, 1, 768, dtype=torch.bfloat16)
    with torch.no_grad():
        assert kernels_of(lambda: conv("triton")(**arguments)) == ["convolve"]
        assert kernels_of(lambda: norm("triton")(**residual)) == ["normalise"]


def test_half_of_a_projection_is_not_copied() -> None:
    arguments = conv_arguments(2, 512, 256, dtype=torch.bfloat16)
    expected = results(conv("triton"), arguments)
    half = normal(2, 512, 512, dtype=torch.bfloat16).chunk(2, dim=-1)[1]
    half.copy_(arguments["x"])
    leaves = {**arguments, "x": half}
    with torch.no_grad():
        assert kernels_of(lambda: conv("triton")(**leaves)) == ["convolve"]
        y, state = conv("triton")(**leaves)
    assert torch.equal(y, expected[0])
    assert torch.equal(state, expected[1])


def test_conv_of_more_elements_than_an_int32_can_count() -> None:
    """The last batch entry lies beyond 2^31 elements; it has to agree with the same entry alone."""
    last = conv_arguments(1, 65536, 4096, dtype=torch.bfloat16, state=False)
    many = {**last, "x": last["x"].expand(9, -1, -1).contiguous().requires_grad_()}
    assert many["x"].numel() > 2**31
    y, _ = conv("triton")(**many)
    (dx,) = torch.autograd.grad(y, many["x"], y.detach())
    alone = last["x"].requires_grad_()
    y_alone, _ = conv("triton")(**{**last, "x": alone})
    (dx_alone,) = torch.autograd.grad(y_alone, alone, y_alone.detach())
    assert torch.equal(y[-1], y_alone[0])
    assert torch.equal(dx[-1], dx_alone[0])


def test_norm_of_more_elements_than_an_int32_can_count() -> None:
    x = normal(1, 4096, dtype=torch.bfloat16).expand(2**19 + 1, -1).contiguous().requires_grad_()
    weight = normal(4096, seed=1)
    assert x.numel() > 2**31
    y, total = rms_norm(x, weight, backend="triton")
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    for t in (y, total, dx):
        assert torch.equal(t[-1], t[0])
        assert t[-1].any()


def test_float64_goes_to_the_reference_unless_triton_is_named() -> None:
    arguments = {name: t.double() for name, t in conv_arguments(1, 5, 3).items()}
    assert relative_error(conv("auto")(**arguments)[0], conv("reference")(**arguments)[0]) == 0
    with pytest.raises(ShapeError, match="float64"):
        conv("triton")(**arguments)
    arguments = {name: t.double() for name, t in norm_arguments(5, 3).items()}
    assert relative_error(norm("auto")(**arguments)[0], norm("reference")(**arguments)[0]) == 0
    with pytest.raises(ShapeError, match="float64"):
        norm("triton")(**arguments)


def test_weight_elsewhere_is_an_error() -> None:
    with pytest.raises(ShapeError, match="weight is on cpu; move it to cuda"):
        rms_norm(normal(2, 3), torch.ones(3), backend="triton")
