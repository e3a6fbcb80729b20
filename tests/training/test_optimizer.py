import torch
from torch import nn

from baby_mamba.config import MambaConfig, TrainerConfig
from baby_mamba.models import Mamba
from baby_mamba.training.optimizer import build_optimizer, decay_groups, decays

# The matrices of a block, and the embedding. Everything else is a vector, or A_log.
DECAYED = {"in_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight", "embeddings.weight"}


def model(**changes: object) -> Mamba:
    config = {"vocab_size": 11, "n_layer": 2, "d_model": 8, "d_state": 4, "in_out_proj_bias": True}
    return Mamba(MambaConfig(**{**config, **changes}))


def test_only_matrices_decay() -> None:
    built = model()
    names = {id(p): name for name, p in built.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in decay_groups(built, 0.1))
    assert {".".join(name.split(".")[-2:]) for name in decayed} == DECAYED
    assert decayed | spared == set(names.values())
    for ending in ("A_log", ".D", "dt_proj.bias", "in_proj.bias", "conv1d.bias", "norm.weight", "norm_f.weight"):
        assert any(name.endswith(ending) for name in spared), ending


def test_every_parameter_is_in_one_group_and_the_tied_embedding_once() -> None:
    for tied in (True, False):
        built = model(tie_embeddings=tied)
        groups = decay_groups(built, 0.1)
        members = [id(p) for group in groups for p in group["params"]]
        assert len(members) == len(set(members))
        assert set(members) == {id(p) for p in built.parameters()}
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
        assert (id(built.lm_head.weight) == id(built.backbone.embeddings.weight)) == tied


def test_frozen_parameters_are_left_out() -> None:
    built = model()
    built.backbone.embeddings.weight.requires_grad_(False)
    members = {id(p) for group in decay_groups(built, 0.1) for p in group["params"]}
    assert id(built.backbone.embeddings.weight) not in members


def test_rule_looks_at_names_and_shapes() -> None:
    matrix, vector = torch.zeros(2, 2), torch.zeros(2)
    assert decays("layers.0.mixer.in_proj.weight", matrix)
    assert not decays("layers.0.mixer.A_log", matrix)
    assert not decays("layers.0.norm.weight", matrix)
    for constant in ("B", "C", "dt_bias"):  # of a model in which it is not selective
        assert not decays(f"layers.0.mixer.{constant}", matrix if constant != "dt_bias" else vector)
    assert not decays("layers.0.mixer.in_proj.bias", vector)


def test_decay_reaches_the_first_group_only() -> None:
    built = model()
    optimizer = build_optimizer(built, TrainerConfig(learning_rate=0.5, weight_decay=0.5, beta_1=0.8, beta_2=0.9))
    before = {name: p.detach().clone() for name, p in built.named_parameters()}
    for p in built.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in built.named_parameters():
        factor = 1 - 0.5 * 0.5 if decays(name, p) else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["fused"]


def test_fused_step_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    fused, plain = nn.Linear(3, 3), nn.Linear(3, 3)
    plain.load_state_dict(fused.state_dict())
    config = TrainerConfig(learning_rate=0.1)
    optimizers = [
        build_optimizer(fused, config),
        torch.optim.AdamW(decay_groups(plain, config.weight_decay), lr=0.1, betas=(0.9, 0.95), fused=False),
    ]
    for _ in range(3):
        x = torch.randn(4, 3)
        for layer, optimizer in zip((fused, plain), optimizers, strict=True):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(fused.weight, plain.weight)
