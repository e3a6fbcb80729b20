"""On a GPU: the batch of unequal prompts, seeds, kept states and scores, with the Triton scan."""

from pathlib import Path

import pytest
import torch

from baby_mamba import (
    Mamba,
    MambaConfig,
    generate,
    load_state,
    pad_left,
    prefill,
    save_state,
    token_log_probabilities,
)

pytestmark = pytest.mark.gpu

VOCABULARY = 37


def build() -> Mamba:
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, tie_embeddings=False))
    for parameter in model.parameters():  # away from the initialisation, where the past hardly matters
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.fixture(scope="module")
def model() -> Mamba:
    return build().cuda()


def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(model: Mamba) -> None:
    prompts = [torch.randint(0, VOCABULARY, (length,)) for length in (90, 2, 1, 33)]
    batch, mask = pad_left(prompts, "cuda")
    together = generate(model, batch, max_new_tokens=20, temperature=0, attention_mask=mask)
    for row, prompt in zip(together, prompts, strict=True):
        alone = generate(model, prompt[None].cuda(), max_new_tokens=20, temperature=0)
        assert torch.equal(row[90 - len(prompt) :], alone[0])


def test_every_option_at_once(model: Mamba) -> None:
    ids = torch.randint(0, VOCABULARY, (3, 5), device="cuda")

    def text(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return generate(
            model,
            ids,
            max_new_tokens=30,
            generator=torch.Generator("cuda").manual_seed(seed),
            stop_ids=[3],
            return_log_probabilities=True,
            temperature=0.9,
            top_k=20,
            top_p=0.95,
            min_p=0.01,
            repetition_penalty=1.1,
        )

    (one, log_probabilities), (again, _), (other, _) = text(1), text(1), text(2)
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)
    expected = token_log_probabilities(model, one)[:, 4:]
    drawn = log_probabilities != 0
    torch.testing.assert_close(log_probabilities[drawn], expected[drawn], rtol=1e-3, atol=1e-3)


def test_rows_share_the_chunk_that_keeps_a_gpu_busy(model: Mamba, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baby_mamba.generation.GPU_PREFILL", 32)
    lengths = []
    hook = model.backbone.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    prefill(model, torch.randint(0, VOCABULARY, (4, 20), device="cuda"))
    hook.remove()
    assert lengths == [8, 8, 4]


def test_a_state_moves_between_devices(model: Mamba, tmp_path: Path) -> None:
    ids = torch.randint(0, VOCABULARY, (2, 40), device="cuda")
    _, state = prefill(model, ids[:, :30], chunk_length=7)
    save_state(tmp_path / "text.state", state)
    expected = generate(model, ids[:, 30:], state=state, max_new_tokens=20, temperature=0)
    restored = load_state(tmp_path / "text.state", model)
    assert restored[0].ssm.is_cuda
    assert torch.equal(generate(model, ids[:, 30:], state=restored, max_new_tokens=20, temperature=0), expected)
    on_cpu = build()
    restored = load_state(tmp_path / "text.state", on_cpu)
    got, _ = prefill(on_cpu, ids[:, 30:].cpu(), state=restored)
    torch.testing.assert_close(got, prefill(model, ids[:, 30:], state=state)[0].cpu(), rtol=1e-3, atol=1e-3)
