"""The bidirectional encoder and the masked language model on a GPU: the same numbers as on the CPU, padding or not."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from baby_mamba import MambaConfig, MambaForMaskedLM

pytestmark = pytest.mark.gpu

CONFIG = MambaConfig(vocab_size=29, d_model=32, n_layer=3, in_out_proj_bias=True)


def model_and_batch(**changes: object) -> tuple[MambaForMaskedLM, dict[str, torch.Tensor]]:
    """Rows that are padded on the left, on the right and on both sides, and labels for some of the tokens."""
    torch.manual_seed(0)
    model = MambaForMaskedLM(replace(CONFIG, **changes))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    ids = torch.randint(0, 29, (3, 75))
    mask = torch.ones_like(ids)
    mask[0, :20] = mask[1, 50:] = mask[2, :7] = mask[2, 70:] = 0
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.8, -100)
    return model, {"input_ids": ids, "attention_mask": mask, "labels": labels}


def on_gpu(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cuda() for name, tensor in batch.items()}


def loss_and_gradients(model: MambaForMaskedLM, batch: dict[str, torch.Tensor], **options: bool) -> list[torch.Tensor]:
    loss = model(**batch, **options).loss
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("return_logits", [True, False])
@pytest.mark.parametrize("legendre_order", [0, 3])
def test_same_loss_and_gradients_as_in_float64_on_the_cpu(return_logits: bool, legendre_order: int) -> None:
    model, batch = model_and_batch(legendre_order=legendre_order)
    expected = loss_and_gradients(model.double(), batch)
    got = loss_and_gradients(model.float().cuda(), on_gpu(batch), return_logits=return_logits)
    for a, b in zip(got, expected, strict=True):
        assert (a.cpu().double() - b).norm() / b.norm() < 2e-5


def test_bfloat16_autocast() -> None:
    model, batch = model_and_batch(legendre_order=2)
    expected = loss_and_gradients(model.double(), batch)
    model = model.float().cuda()
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(**on_gpu(batch), return_logits=False).loss
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert abs(loss.item() - expected[0].item()) < 0.02 * expected[0].item()
    for a, b in zip(gradients, expected[1:], strict=True):
        assert (a.cpu().double() - b).norm() / b.norm() < 0.1


def test_padding_leaves_no_trace() -> None:
    model, batch = model_and_batch()
    model, ids = model.cuda(), batch["input_ids"].cuda()
    padded, mask = F.pad(ids, (3, 9), value=7), F.pad(torch.ones_like(ids), (3, 9))
    expected = model(ids).logits
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 3:-9], expected, rtol=1e-4, atol=1e-4)
