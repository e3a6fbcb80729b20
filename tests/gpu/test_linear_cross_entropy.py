"""The head with its loss on a GPU: accuracy, memory, no waiting for the host, torch.compile and CUDA graphs."""

import pytest
import torch
from torch import Tensor

from baby_mamba.ops import linear_cross_entropy
from baby_mamba.ops.linear_cross_entropy import chunked

pytestmark = pytest.mark.gpu


def random_arguments(
    tokens: int, vocabulary: int, d_model: int = 64, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden, weight and labels; every fifth label is not scored."""
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(tokens, d_model, device="cuda", generator=generator).to(dtype)
    weight = (d_model**-0.5 * torch.randn(vocabulary, d_model, device="cuda", generator=generator)).to(dtype)
    labels = torch.randint(vocabulary, (tokens,), device="cuda", generator=generator)
    labels[::5] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def loss_and_gradients(hidden: Tensor, weight: Tensor, labels: Tensor, **options: str) -> list[Tensor]:
    loss = linear_cross_entropy(hidden, weight, labels, **options)
    return [loss, *torch.autograd.grad(loss, [hidden, weight])]


def check(got: list[Tensor], expected: list[Tensor], limit: float) -> None:
    for name, a, b in zip(("loss", "hidden", "weight"), got, expected, strict=True):
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error <= limit, f"{name}: relative error {error:.1e}"


# 300,000 words: chunks are short; 50,277 and 65: rows do not end where memory is aligned.
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 65), (1000, 65), (5000, 50277), (700, 300_000)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
def test_accuracy(tokens: int, vocabulary: int, dtype: torch.dtype, limit: float) -> None:
    arguments = random_arguments(tokens, vocabulary, dtype=dtype)
    if tokens == 1:
        arguments[2].fill_(7)
    wide = [t.detach().double().requires_grad_() for t in arguments[:2]]
    expected = loss_and_gradients(*wide, arguments[2], backend="reference")
    check(loss_and_gradients(*arguments), expected, limit)


def test_autocast_rounds_only_the_products() -> None:
    hidden, weight, labels = random_arguments(5000, 50280)
    with torch.autocast("cuda", torch.bfloat16):
        got = loss_and_gradients(hidden, weight, labels)
    assert [t.dtype for t in got] == [torch.float32] * 3
    rounded = [t.detach().bfloat16().double().requires_grad_() for t in (hidden, weight)]
    check(got, loss_and_gradients(*rounded, labels, backend="reference"), 4e-3)


def test_plain_chunks_agree() -> None:
    arguments = random_arguments(3000, 50277, dtype=torch.bfloat16)
    check(
        loss_and_gradients(*arguments, backend="parallel"), [t.double() for t in loss_and_gradients(*arguments)], 4e-3
    )


def test_repeats_bit_by_bit_and_without_waiting_for_the_host() -> None:
    arguments = random_arguments(5000, 50280, dtype=torch.bfloat16)
    first = loss_and_gradients(*arguments)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        repeats = [loss_and_gradients(*arguments) for _ in range(5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for repeat in repeats:
        assert all(torch.equal(a, b) for a, b in zip(repeat, first, strict=True))


def test_a_label_outside_of_the_vocabulary_makes_the_loss_nan() -> None:
    hidden, weight, labels = random_arguments(10, 65)
    labels[3] = 65
    assert linear_cross_entropy(hidden, weight, labels).isnan()


def test_memory_of_a_training_step() -> None:
    """16,384 tokens and 50,280 words: all logits are 1.65 GB in bfloat16; what is taken is a chunk of them."""
    hidden, weight, labels = random_arguments(16384, 50280, 768)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, labels)
    loss.backward()
    peak = torch.cuda.max_memory_allocated() - before
    gradients = hidden.grad.nbytes + weight.grad.nbytes
    chunk = torch.cuda.get_device_properties(hidden.device).total_memory // chunked.GPU_SHARE
    assert peak < gradients + weight.nbytes // 2 + chunk + 2**26


def test_compiles_without_a_graph_break() -> None:
    arguments = random_arguments(300, 1000, dtype=torch.bfloat16)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True)
    loss = compiled(*arguments)
    got = [loss, *torch.autograd.grad(loss, arguments[:2])]
    torch.testing.assert_close(got, loss_and_gradients(*arguments))


def test_captured_in_a_cuda_graph() -> None:
    arguments = random_arguments(300, 1000, dtype=torch.bfloat16)
    stream = torch.cuda.Stream()  # the leaves' gradients flow on the stream on which they were first asked for
    with torch.cuda.stream(stream):
        expected = loss_and_gradients(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        got = loss_and_gradients(*arguments)
    for tensor in got:
        tensor.detach().fill_(torch.nan)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
