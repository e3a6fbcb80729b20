"""The whole model on a GPU: the same numbers as on the CPU, in bfloat16 under autocast, and text out."""

import pytest
import torch

from baby_mamba import Mamba, MambaConfig, generate

pytestmark = pytest.mark.gpu

CONFIG = MambaConfig(vocab_size=29, d_model=32, n_layer=3)


def model_and_tokens() -> tuple[Mamba, torch.Tensor]:
    torch.manual_seed(0)
    model = Mamba(CONFIG)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model, torch.randint(0, 29, (2, 75))


def loss_and_gradients(model: Mamba, ids: torch.Tensor) -> list[torch.Tensor]:
    loss = model(ids, labels=ids).loss
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def test_same_loss_and_gradients_as_in_float64_on_the_cpu() -> None:
    model, ids = model_and_tokens()
    expected = loss_and_gradients(model.double(), ids)
    got = loss_and_gradients(model.float().cuda(), ids.cuda())
    for a, b in zip(got, expected, strict=True):
        error = (a.cpu().double() - b).norm() / b.norm()
        assert error < 2e-5


def test_bfloat16_autocast() -> None:
    model, ids = model_and_tokens()
    expected = loss_and_gradients(model.double(), ids)
    model, ids = model.float().cuda(), ids.cuda()
    with torch.autocast("cuda", torch.bfloat16):
        output = model(ids, labels=ids)
    gradients = torch.autograd.grad(output.loss, list(model.parameters()))
    assert all(layer.ssm.dtype == torch.float32 for layer in output.state)
    assert abs(output.loss.item() - expected[0].item()) < 0.02 * expected[0].item()
    for a, b in zip(gradients, expected[1:], strict=True):
        assert (a.cpu().double() - b).norm() / b.norm() < 0.1


def test_greedy_text_equals_the_cpus() -> None:
    model, ids = model_and_tokens()
    expected = generate(model.double(), ids[:, :9], max_new_tokens=30, temperature=0)
    got = generate(model.cuda(), ids[:, :9].cuda(), max_new_tokens=30, temperature=0)
    assert torch.equal(got.cpu(), expected)


def test_sampling_on_the_device() -> None:
    model, ids = model_and_tokens()
    generator = torch.Generator("cuda").manual_seed(0)
    assert generate(model.cuda(), ids.cuda(), max_new_tokens=5, top_k=7, top_p=0.9, generator=generator).shape == (
        2,
        80,
    )
