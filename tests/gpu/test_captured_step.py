"""A training step as a CUDA graph is the same step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baby_mamba import MambaConfig, Trainer, TrainerConfig, build_model
from baby_mamba.data import TokenDataset
from baby_mamba.errors import TrainingError
from baby_mamba.training.captured_step import WARM_UP

pytestmark = pytest.mark.gpu

MODEL = MambaConfig(vocab_size=50, d_model=48, n_layer=2, block_size=33)
CONFIG = TrainerConfig(
    max_steps=8, train_batch_size=4, warmup_steps=2, learning_rate=1e-2, sample_every_steps=0, eval_every_steps=4,
    save_every_steps=100, ckpt_path="", device="cuda", precision="float32",
)  # fmt: skip


def make(config: TrainerConfig = CONFIG, architecture: str = "mamba", **changes: object) -> Trainer:
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (4000,), generator=torch.Generator().manual_seed(1)).sort().values.numpy()
    dataset = TokenDataset.from_array(tokens, block_size=33)
    model = build_model(replace(MODEL, architecture=architecture))
    return Trainer(model, dataset, dataset, replace(config, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"precision": "bfloat16"},
        *({"architecture": name} for name in ("llama", "qwen3", "gpt2", "opt", "gpt_neox")),
    ],
    ids=str,
)
def test_the_same_training(changes: dict[str, object]) -> None:
    captured, plain = make(**changes), make(**changes, cuda_graph=False)
    losses = captured.train().train_loss, plain.train().train_loss
    assert captured._captured_step._graph is not None
    assert plain._captured_step is None
    limit = 1e-5 if not changes else 2e-3
    assert losses[0] == pytest.approx(losses[1], rel=limit)
    for (name, p), q in zip(captured.model.named_parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=10 * limit, msg=lambda text, name=name: f"{name}: {text}")


def test_a_model_that_waits_for_the_gpu() -> None:
    trainer = make()

    def wait(_: object, __: object, output: tuple[torch.Tensor, ...]) -> None:
        output[0].sum().item()

    trainer.model.backbone.register_forward_hook(wait)
    with pytest.raises(TrainingError, match=r"(?s)cannot become a CUDA graph .* set training_config.cuda_graph = no"):
        trainer.train()
    assert torch.rand(100, device="cuda").unique().numel() > 90  # the GPU is as it was, and its random numbers
    for cuda_graph in (False, True):
        assert make(cuda_graph=cuda_graph).train().step == 8


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    trainer = make()
    input_ids = torch.randint(0, 50, (4, 33), device="cuda")
    for _ in range(WARM_UP + 2):
        trainer.training_step(input_ids, 1e-3)
    with torch.no_grad():
        trainer.model.backbone.norm_f.weight[0] = torch.nan
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(TrainingError, match="the step was not taken"):
        trainer.training_step(input_ids, 1e-3)
    for p, q in zip(trainer.model.parameters(), before, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0, equal_nan=True)
    with torch.no_grad():
        trainer.model.backbone.norm_f.weight[0] = 1
    trainer.training_step(input_ids, 1e-3)


def test_a_batch_of_another_shape() -> None:
    captured, plain = make(), make(cuda_graph=False)
    for length in (33, 33, 33, 33, 20, 33):
        input_ids = torch.randint(0, 50, (4, length), device="cuda")
        ours, theirs = (trainer.training_step(input_ids, 1e-3) for trainer in (captured, plain))
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_run_goes_on(tmp_path: Path) -> None:
    through = make(ckpt_path=str(tmp_path / "through")).train()
    make(ckpt_path=str(tmp_path / "halted"), max_steps=8, max_minutes=None, save_every_steps=5, target_loss=1e9).train()
    config = replace(CONFIG, ckpt_path=str(tmp_path / "halted"))
    again = make(config).train()
    assert again.step == through.step == 8
    assert again.evaluation.loss == pytest.approx(through.evaluation.loss, rel=1e-3)
