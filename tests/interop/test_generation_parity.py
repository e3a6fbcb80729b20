"""Text from a published model: the tokens of transformers' generate, however the prompt is read and batched."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from baby_mamba import Mamba, generate, prefill
from baby_mamba.generation import pad_left

MODEL_TYPES = ["mamba", "falcon_mamba"]
BACKENDS = ["cpu", "reference"]
PROMPT = torch.randint(0, 53, (1, 19), generator=torch.Generator().manual_seed(2))


def theirs_and_ours(
    folder: Path, published: Callable, model_type: str, backend: str, noise: float = 0.5
) -> tuple[transformers.PreTrainedModel, Mamba]:
    theirs = published(model_type, noise=noise, use_bias=True, eos_token_id=None, pad_token_id=None)
    theirs.save_pretrained(folder)
    return theirs, Mamba.from_pretrained(folder, backend=backend)


def greedy(theirs: transformers.PreTrainedModel, ids: Tensor, n: int) -> Tensor:
    return theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_256_greedy_tokens(tmp_path: Path, published: Callable, model_type: str, backend: str) -> None:
    theirs, model = theirs_and_ours(tmp_path, published, model_type, backend)
    got = generate(model, PROMPT, max_new_tokens=256, temperature=0)
    assert got.shape == (1, 19 + 256)
    assert len(got[0, -128:].unique()) > 30  # the text does not run in a small circle, where all is easy
    assert torch.equal(got, greedy(theirs, PROMPT, 256))


@pytest.mark.parametrize("backend", [*BACKENDS, "parallel"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_whole_is_chunked_is_stepped(tmp_path: Path, published: Callable, model_type: str, backend: str) -> None:
    theirs, model = theirs_and_ours(tmp_path, published, model_type, backend, noise=0.1)
    ids = torch.randint(0, 53, (2, 37), generator=torch.Generator().manual_seed(3))
    expected = theirs(ids).logits
    for lengths in ([37], [1, 2, 16, 18], [1] * 37):
        state, logits = None, []
        for chunk in ids.split(lengths, dim=1):
            output = model(chunk, state=state)
            state = output.state
            logits.append(output.logits)
        torch.testing.assert_close(torch.cat(logits, dim=1), expected, rtol=0, atol=1e-5)
    for chunk_length in (1, 5, 37, 99):
        logits, _ = prefill(model, ids, chunk_length=chunk_length)
        torch.testing.assert_close(logits, expected[:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_unequal_prompts_in_one_batch(tmp_path: Path, published: Callable, model_type: str, backend: str) -> None:
    theirs, model = theirs_and_ours(tmp_path, published, model_type, backend)
    prompts = [PROMPT[0, :length] for length in (19, 1, 2, 7)]  # 1 and 2 are shorter than the convolution
    ids, mask = pad_left(prompts)
    together = generate(model, ids, max_new_tokens=32, temperature=0, attention_mask=mask)[:, 19:]
    for prompt, row in zip(prompts, together, strict=True):
        alone = generate(model, prompt.unsqueeze(0), max_new_tokens=32, temperature=0)[0, len(prompt) :]
        assert torch.equal(row, alone)
        assert torch.equal(row, greedy(theirs, prompt.unsqueeze(0), 32)[0, len(prompt) :])
    assert len(together.unique(dim=0)) == len(prompts)
