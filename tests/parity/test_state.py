"""One property: whole = chunked = stepped = packed = left-padded, for logits and for every gradient.

It holds for every backend; a new one joins by joining BACKENDS.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baby_mamba import Mamba, MambaConfig

BACKENDS = ["reference", "parallel"]
LENGTH = 37

Run = Callable[[Mamba, Tensor], Tensor]


def whole(model: Mamba, ids: Tensor) -> Tensor:
    return model(ids).logits


def in_chunks_of(*lengths: int) -> Run:
    def run(model: Mamba, ids: Tensor) -> Tensor:
        state, logits = None, []
        for chunk in ids.split(list(lengths), dim=1):
            output = model(chunk, state=state)
            state = output.state
            logits.append(output.logits)
        return torch.cat(logits, dim=1)

    return run


def packed_into_one_row(model: Mamba, ids: Tensor) -> Tensor:
    sequence_ids = torch.arange(len(ids)).repeat_interleave(ids.shape[1]).unsqueeze(0)
    return model(ids.reshape(1, -1), sequence_ids=sequence_ids).logits.view(*ids.shape, -1)


def packed_and_in_chunks(model: Mamba, ids: Tensor) -> Tensor:
    """The boundary of the second chunk lies within a sequence."""
    row = ids.reshape(1, -1)
    sequence_ids = torch.arange(len(ids)).repeat_interleave(ids.shape[1]).unsqueeze(0)
    cut = ids.shape[1] + 5
    first = model(row[:, :cut], sequence_ids=sequence_ids[:, :cut])
    second = model(row[:, cut:], state=first.state, sequence_ids=sequence_ids[:, cut:])
    return torch.cat([first.logits, second.logits], dim=1).view(*ids.shape, -1)


def left_padded(model: Mamba, ids: Tensor) -> Tensor:
    padding = 3
    mask = F.pad(torch.ones_like(ids), (padding, 0))
    return model(F.pad(ids, (padding, 0), value=7), attention_mask=mask).logits[:, padding:]


def left_padded_and_in_chunks(model: Mamba, ids: Tensor) -> Tensor:
    """Padding fills the first chunk and reaches into the second."""
    padding = 9
    mask = F.pad(torch.ones_like(ids), (padding, 0)).bool()
    ids = F.pad(ids, (padding, 0), value=7)
    first = model(ids[:, :5], attention_mask=mask[:, :5])
    second = model(ids[:, 5:], state=first.state, attention_mask=mask[:, 5:])
    return torch.cat([first.logits, second.logits], dim=1)[:, padding:]


WAYS = {
    "chunks": in_chunks_of(1, 2, 16, 18),
    "steps": in_chunks_of(*[1] * LENGTH),
    "packed": packed_into_one_row,
    "packed-chunks": packed_and_in_chunks,
    "left-padded": left_padded,
    "left-padded-chunks": left_padded_and_in_chunks,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_same_logits_and_gradients(backend: str, way: str) -> None:
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=11, d_model=8, n_layer=2, d_state=4, backend=backend)).double()
    for parameter in model.parameters():  # leave the initialisation, where some effects are small
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    ids = torch.randint(0, 11, (3, LENGTH))
    weights = torch.randn(3, LENGTH, 11, dtype=torch.float64)

    def logits_and_gradients(run: Run) -> list[Tensor]:
        logits = run(model, ids)
        return [logits, *torch.autograd.grad((logits * weights).sum(), list(model.parameters()))]

    expected = logits_and_gradients(whole)
    got = logits_and_gradients(WAYS[way])
    names = ["logits", *(name for name, _ in model.named_parameters())]
    for name, a, b in zip(names, got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_padding_that_is_not_masked_would_be_seen() -> None:
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=11, d_model=8, n_layer=2)).double()
    ids = torch.randint(0, 11, (1, 5))
    unmasked = model(F.pad(ids, (3, 0), value=7)).logits[:, 3:]
    assert not torch.allclose(unmasked, whole(model, ids), rtol=1e-4)
