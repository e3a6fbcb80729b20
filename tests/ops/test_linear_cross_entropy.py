"""The head with its loss: every way to compute it against torch, and that the logits are never there all at once."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from baby_mamba.errors import BackendUnavailableError, ShapeError
from baby_mamba.ops import linear_cross_entropy
from baby_mamba.ops.linear_cross_entropy import chunked

TOKENS, D_MODEL, VOCABULARY = (2, 150), 6, 37


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 128 tokens: two whole ones and a rest."""
    monkeypatch.setattr(chunked, "CPU_LOGITS_BYTES", 1)


@pytest.fixture
def triton_loss():
    """The loss by the Triton kernel, which its interpreter runs on the CPU."""
    if torch.cuda.is_available():
        pytest.skip("the compiled kernel is tested in tests/gpu")
    pytest.importorskip("triton")  # tests/conftest.py has it interpret

    def loss(hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, weight.dtype)
        arguments = (hidden.flatten(0, -2), weight, labels.flatten(), ignore_index, dtype)
        return chunked.linear_cross_entropy(*arguments, use_triton=True)

    return loss


def random_arguments(
    dtype: torch.dtype = torch.float64,
    tokens: tuple[int, ...] = TOKENS,
    vocabulary: int = VOCABULARY,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden, weight and labels; every fifth label is not scored."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*tokens, D_MODEL, generator=generator, dtype=torch.float64).to(dtype)
    weight = 0.4 * torch.randn(vocabulary, D_MODEL, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(vocabulary, tokens, generator=generator)
    labels.view(-1)[::5] = ignore_index
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def expected(
    hidden: Tensor, weight: Tensor, labels: Tensor, factor: float = 1.0, **options: int | str
) -> dict[str, Tensor]:
    """torch's loss and gradients in float64."""
    leaves = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    loss = F.cross_entropy(F.linear(*leaves).flatten(0, -2), labels.flatten(), **options)
    return dict(zip(("loss", "hidden", "weight"), (loss, *torch.autograd.grad(factor * loss, leaves)), strict=True))


def check(loss: Tensor, hidden: Tensor, weight: Tensor, wanted: dict[str, Tensor], limit: float, factor: float = 1.0):
    gradients = torch.autograd.grad(factor * loss, [hidden, weight])
    for name, got in zip(("loss", "hidden", "weight"), (loss, *gradients), strict=True):
        error = ((got.double() - wanted[name]).norm() / wanted[name].norm()).item()
        assert error <= limit, f"{name}: relative error {error:.1e}"
    assert [g.dtype for g in gradients] == [hidden.dtype, weight.dtype]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("backend", ["reference", "parallel"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_equals_torch(backend: str, reduction: str, ignore_index: int) -> None:
    options = {"reduction": reduction, "ignore_index": ignore_index}
    arguments = random_arguments(ignore_index=ignore_index)
    loss = linear_cross_entropy(*arguments, backend=backend, **options)
    check(loss, *arguments[:2], expected(*arguments, factor=-0.3, **options), 1e-14, factor=-0.3)


@pytest.mark.usefixtures("small_chunks")
def test_gradcheck() -> None:
    hidden, weight, labels = random_arguments(tokens=(130,), vocabulary=3)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, labels, backend="parallel"), (hidden, weight), fast_mode=True
    )


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 4e-3)])
def test_triton_kernel(triton_loss, dtype: torch.dtype, limit: float) -> None:
    arguments = random_arguments(dtype, tokens=(130,))
    loss = triton_loss(*arguments)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    check(loss, *arguments[:2], expected(*arguments, reduction="sum"), limit)


@pytest.mark.parametrize("vocabulary", [1, 16, 17, 90])
def test_triton_kernel_over_several_blocks(triton_loss, vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that end inside of a block, at its end and just behind it; unequal logits make every block count."""
    triton_kernel = importlib.import_module("baby_mamba.ops.linear_cross_entropy.triton")
    monkeypatch.setattr(triton_kernel, "BLOCK", 16)
    arguments = random_arguments(torch.float32, tokens=(3,), vocabulary=vocabulary)
    loss = triton_loss(*arguments)
    if vocabulary == 1:  # nothing to learn: loss and gradients are zero
        assert loss == 0
        assert all(g.abs().max() == 0 for g in torch.autograd.grad(loss, arguments[:2]))
    else:
        check(loss, *arguments[:2], expected(*arguments, reduction="sum"), 2e-6)


def test_triton_kernel_at_the_edges(triton_loss) -> None:
    hidden, weight, labels = random_arguments(torch.float32, tokens=(4,))
    with torch.no_grad():
        assert triton_loss(hidden, weight, labels.fill_(-100)) == 0
        assert triton_loss(hidden, weight, torch.tensor([1, 2, VOCABULARY, 3])).isnan()
        far = torch.tensor([[300.0], [-300.0]])  # exp(300) is beyond float32
        losses = triton_loss(torch.tensor([[1.0]]), far, torch.tensor([1]))
        torch.testing.assert_close(losses, torch.tensor(600.0))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("backend", ["reference", "parallel"])
@pytest.mark.parametrize("tokens", [(140,), (0,)])
def test_no_label_is_scored(backend: str, tokens: tuple[int, ...]) -> None:
    hidden, weight, labels = random_arguments(tokens=tokens)
    labels = torch.full_like(labels, -100)
    loss = linear_cross_entropy(hidden, weight, labels, backend=backend)
    assert loss.isnan()
    assert all(g.abs().sum() == 0 for g in torch.autograd.grad(loss, [hidden, weight], materialize_grads=True))
    assert linear_cross_entropy(hidden, weight, labels, reduction="sum", backend=backend) == 0


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("hidden_needs", "weight_needs"), [(True, True), (True, False), (False, True), (False, False)])
def test_only_what_needs_a_gradient_has_one(hidden_needs: bool, weight_needs: bool) -> None:
    hidden, weight, labels = random_arguments()
    wanted = expected(hidden, weight, labels)
    hidden, weight = hidden.detach().requires_grad_(hidden_needs), weight.detach().requires_grad_(weight_needs)
    loss = linear_cross_entropy(hidden, weight, labels, backend="parallel")
    torch.testing.assert_close(loss.detach(), wanted["loss"].detach())
    for name, tensor in (("hidden", hidden), ("weight", weight)):
        if tensor.requires_grad:
            torch.testing.assert_close(torch.autograd.grad(loss, tensor, retain_graph=True)[0], wanted[name])
    assert loss.requires_grad == (hidden_needs or weight_needs)


@pytest.mark.usefixtures("small_chunks")
def test_the_backward_pass_can_be_repeated() -> None:
    arguments = random_arguments()
    loss = linear_cross_entropy(*arguments, backend="parallel")
    first = torch.autograd.grad(2 * loss, arguments[:2], retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(2 * loss, arguments[:2]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("small_chunks")
def test_second_derivatives() -> None:
    hidden, weight, labels = random_arguments()
    for backend in ("parallel", "reference"):
        loss = linear_cross_entropy(hidden, weight, labels, backend=backend)
        (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
        if backend == "reference":
            assert torch.autograd.grad(gradient.sum(), weight)[0].abs().sum() > 0
        else:
            with pytest.raises(BackendUnavailableError, match="use backend='reference'"):
                gradient.sum().backward()


@pytest.mark.usefixtures("small_chunks")
def test_autocast() -> None:
    """Products in bfloat16, and everything that is kept in float32: nearer to float64 than plain autocast."""
    hidden, weight, labels = random_arguments(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, labels, backend="parallel")
    assert loss.dtype == torch.float32
    rounded = [t.detach().bfloat16().double() for t in (hidden, weight)]
    check(loss, hidden, weight, expected(*rounded, labels), 4e-3)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("needs_gradient", [True, False])
def test_never_holds_all_logits(needs_gradient: bool) -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, Tensor):
                    self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.itemsize)
            return result

    hidden, weight, labels = (t.detach() for t in random_arguments(tokens=(1000,)))
    with Largest() as largest:
        chunked._loss_and_gradients._init_fn(
            hidden, weight, labels, -100, torch.float64, needs_gradient, needs_gradient, False
        )
    assert largest.numel == max(128 * VOCABULARY, hidden.numel())


def test_registered_operator() -> None:
    hidden, weight, labels = random_arguments(torch.float32, tokens=(4,))
    for needs in ((True, True), (True, False), (False, False)):
        leaves = [t.detach().requires_grad_(n) for t, n in zip((hidden, weight), needs, strict=True)]
        torch.library.opcheck(
            chunked._loss_and_gradients, (*leaves, labels, -100, torch.bfloat16, *needs, False),
            test_utils=("test_schema", "test_faketensor"),
        )  # fmt: skip


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_compiles_without_a_graph_break(backend: str) -> None:
    hidden, weight, labels = random_arguments(torch.float32)

    def loss_and_gradients(function) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = function(hidden, weight, labels, backend=backend)
        return [loss, *torch.autograd.grad(loss, [hidden, weight])]

    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(loss_and_gradients(compiled), loss_and_gradients(linear_cross_entropy))


def test_wrong_arguments_are_named() -> None:
    hidden, weight, labels = random_arguments(tokens=(4,))
    with pytest.raises(ShapeError, match=r"weight is \(37, 5\) float64 on cpu; expected .* d_model = 6"):
        linear_cross_entropy(hidden, weight[:, :5], labels)
    with pytest.raises(ShapeError, match=r"labels is \(3,\) int64 on cpu; expected integers of shape \(4,\)"):
        linear_cross_entropy(hidden, weight, labels[:3])
    with pytest.raises(ShapeError, match=r"hidden is .* int64"):
        linear_cross_entropy(hidden.long(), weight, labels)
    with pytest.raises(ShapeError, match=r"labels is .* float64"):
        linear_cross_entropy(hidden, weight, labels.double())
    with pytest.raises(ValueError, match="reduction = 'none' is not supported; expected 'mean' or 'sum'"):
        linear_cross_entropy(hidden, weight, labels, reduction="none")
    for wrong in (-1, VOCABULARY):
        with pytest.raises(ShapeError, match=rf"a label is {wrong}; expected 0 \.\.\. 36, as weight has 37 rows"):
            linear_cross_entropy(hidden, weight, torch.tensor([0, -100, wrong, 1]))
    with pytest.raises(BackendUnavailableError, match="'triton' runs on cuda"):
        linear_cross_entropy(hidden, weight, labels, backend="triton")
