"""The norm against torch.nn.functional.rms_norm and against finite differences."""

import pytest
import torch
import torch.nn.functional as F

from baby_mamba.errors import ShapeError
from baby_mamba.ops import rms_norm


@pytest.mark.parametrize("with_residual", [False, True])
def test_equals_torch(with_residual: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    residual = torch.randn_like(x) if with_residual else None
    y, total = rms_norm(x, weight, epsilon=1e-3, residual=residual)
    expected_total = x + residual if with_residual else x
    torch.testing.assert_close(total, expected_total)
    torch.testing.assert_close(y, F.rms_norm(expected_total, (7,), weight, eps=1e-3))


def test_dtypes() -> None:
    x, weight = torch.randn(3, 8).bfloat16(), torch.ones(8)
    y, total = rms_norm(x, weight, residual=torch.randn(3, 8), backend="reference")
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    y, total = rms_norm(x, weight, residual_dtype=torch.float32, backend="reference")
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    assert rms_norm(x, weight)[1].dtype == torch.bfloat16


def test_gradcheck() -> None:
    torch.manual_seed(1)
    arguments = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4), (4,), (2, 3, 4))]
    assert torch.autograd.gradcheck(lambda x, w, r: rms_norm(x, w, residual=r, backend="reference"), arguments)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ShapeError, match=r"weight has shape \(3,\); expected \(4,\)"):
        rms_norm(torch.zeros(2, 4), torch.zeros(3))
    with pytest.raises(ShapeError, match="residual has shape"):
        rms_norm(torch.zeros(2, 4), torch.zeros(4), residual=torch.zeros(2, 3))
