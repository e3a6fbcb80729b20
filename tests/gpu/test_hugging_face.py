"""A published model on a GPU: transformers' logits and greedy tokens, alone and in a batch of unequal prompts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from baby_mamba import Mamba, generate, prefill
from baby_mamba.generation import pad_left

pytestmark = pytest.mark.gpu


Pair = tuple[transformers.PreTrainedModel, Mamba]


@pytest.fixture(params=["mamba", "falcon_mamba"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[float], Pair]:
    """A random model of odd sizes, on the CPU as transformers computes it, and on the GPU as this library does.

    `noise` is added to every parameter: with 0.1 rounding errors stay far below 1e-5, with 0.5 greedy text is varied.
    """

    def build(noise: float) -> Pair:
        torch.manual_seed(0)
        sizes = {"hidden_size": 30, "num_hidden_layers": 3, "state_size": 5, "time_step_rank": 3, "conv_kernel": 3}
        config = transformers.AutoConfig.for_model(
            request.param, vocab_size=53, use_bias=True, eos_token_id=None, pad_token_id=None, **sizes
        )
        theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in theirs.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=noise)
        theirs.save_pretrained(tmp_path)
        model = Mamba.from_pretrained(tmp_path, device="cuda")
        assert all(parameter.is_cuda for parameter in model.parameters())
        return theirs, model

    return build


def prompt_of(length: int) -> torch.Tensor:
    return torch.randint(0, 53, (1, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_logits_whole_chunked_and_stepped(build: Callable[[float], Pair]) -> None:
    theirs, model = build(0.1)
    ids = prompt_of(74).view(2, 37)
    expected = theirs(ids).logits
    torch.testing.assert_close(model(ids.cuda()).logits.cpu(), expected, rtol=0, atol=1e-5)
    for chunk_length in (1, 5, 36):
        logits, _ = prefill(model, ids.cuda(), chunk_length=chunk_length)
        torch.testing.assert_close(logits.cpu(), expected[:, -1], rtol=0, atol=1e-5)


def test_256_greedy_tokens(build: Callable[[float], Pair]) -> None:
    theirs, model = build(0.5)
    ids = prompt_of(19)
    got = generate(model, ids.cuda(), max_new_tokens=256, temperature=0).cpu()
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=256, do_sample=False)
    assert torch.equal(got, expected)


def test_unequal_prompts_in_one_batch(build: Callable[[float], Pair]) -> None:
    _, model = build(0.5)
    prompts = [prompt_of(19)[0, :length].cuda() for length in (19, 1, 2, 7)]
    ids, mask = pad_left(prompts, "cuda")
    together = generate(model, ids, max_new_tokens=64, temperature=0, attention_mask=mask)[:, 19:]
    for prompt, row in zip(prompts, together, strict=True):
        alone = generate(model, prompt.unsqueeze(0), max_new_tokens=64, temperature=0)[0, len(prompt) :]
        assert torch.equal(row, alone)
