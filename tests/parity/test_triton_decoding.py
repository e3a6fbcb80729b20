"""The fused decoding step, interpreted on the CPU at small odd shapes, against the model's own layers."""

import os

import pytest
import torch

from baby_mamba import Mamba, MambaConfig, prefill
from baby_mamba.decoding import Decoder, FusedStep, can_fuse, fused

if torch.cuda.is_available():
    pytest.skip("compiled kernels are tested in tests/gpu", allow_module_level=True)
os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it decides there
pytest.importorskip("triton")

VOCABULARY = 19


def check(batch: int, limit: float = 1e-5, dtype: torch.dtype = torch.float32, **options: object) -> None:
    """Two steps, so that what the first one wrote is read: scores and states."""
    torch.manual_seed(0)
    model = Mamba(MambaConfig(**{"vocab_size": VOCABULARY, "d_model": 20, "n_layer": 3, "d_state": 5, **options}))
    for parameter in model.parameters():  # away from the initialisation, where the past hardly matters
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    model = model.to(dtype)
    assert can_fuse(model, batch)
    _, expected_state = prefill(model, torch.randint(VOCABULARY, (batch, 6)))
    decoder, state = Decoder(model, batch, step=FusedStep(model, batch), capture=False), expected_state
    for tokens in torch.randint(VOCABULARY, (2, batch)):
        expected, expected_state = prefill(model, tokens[:, None], state=expected_state)
        got, state = decoder.advance(tokens, state)
        assert got.dtype == dtype
        assert (got.double() - expected.double()).norm() <= limit * expected.double().norm()
    for layer, expected_layer in zip(state.get(), expected_state, strict=True):
        for tensor, expected in zip(layer, expected_layer, strict=True):
            assert tensor.dtype == expected.dtype
            assert (tensor.double() - expected.double()).norm() <= limit * expected.double().norm()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"selective": "none"},
        {"selective": "delta C"},
        {"selective": "B"},
        {"selection_norm_epsilon": 1e-6, "conv_bias": False, "in_out_proj_bias": True},
        {"d_conv": 1, "d_state": 1},
        {"d_conv": 2, "dt_rank": 7, "tie_embeddings": False},
    ],
    ids=str,
)
def test_options(batch: int, options: dict) -> None:
    check(batch, **options)


@pytest.mark.parametrize("batch", [1, 2])
def test_several_tiles_and_groups_of_shares(batch: int) -> None:
    check(batch, d_model=260, n_layer=1)


def test_one_row_of_a_wide_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_MAX_WIDTH_WITH_NORM", 10)
    check(1)


def test_more_rows_than_a_program_has() -> None:
    check(33, n_layer=1)


@pytest.mark.parametrize("residual_in_fp32", [True, False])
def test_narrow_weights(residual_in_fp32: bool) -> None:
    check(1, limit=2e-2, dtype=torch.bfloat16, residual_in_fp32=residual_in_fp32)  # rounding is cut off, interpreted
    check(2, limit=2e-3, dtype=torch.float16, residual_in_fp32=residual_in_fp32)
