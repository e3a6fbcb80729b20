"""One place chooses the backend, says so once, and never falls back quietly."""

import logging

import pytest
import torch

from baby_mamba.errors import BackendUnavailableError
from baby_mamba.ops import backend, causal_conv1d, rms_norm, selective_scan

ALL = ("triton", "cpu", "parallel", "reference")


@pytest.fixture(autouse=True)
def _forget_choices():
    backend._chosen.clear()
    yield
    backend._chosen.clear()


def choose(requested: str, device: str, backends: tuple[str, ...] = ALL) -> str:
    return backend.choose_backend("op", requested, torch.device(device), backends)


@pytest.mark.parametrize(("device", "name"), [("cpu", "cpu"), ("cuda", "triton"), ("mps", "parallel")])
def test_auto_follows_the_device_and_says_so_once(
    device: str, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_installed", {"numba": True, "triton": True})
    with caplog.at_level(logging.INFO, logger="baby_mamba"):
        assert choose("auto", device) == name
        assert choose("auto", device) == name
    assert caplog.messages == [f"op: {name} backend on {device}"]


def test_a_remembered_choice_is_for_its_own_operation_device_and_candidates() -> None:
    assert choose("auto", "cpu") == "cpu"
    assert choose("auto", "cpu", ("parallel", "reference")) == "parallel"
    assert choose("auto", "mps") == "parallel"
    assert choose("auto", "cpu") == "cpu"


def test_a_missing_package_is_named_with_its_remedy(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_installed", {"numba": False, "triton": False})
    with pytest.raises(BackendUnavailableError, match="needs numba, which is not installed; pip install 'numba"):
        choose("cpu", "cpu")
    with caplog.at_level(logging.INFO, logger="baby_mamba"):
        choose("auto", "cpu")
    assert "op: parallel backend on cpu" in caplog.text
    assert "pip install 'numba" in caplog.text


def test_the_wrong_device_and_unknown_names_are_refused() -> None:
    with pytest.raises(BackendUnavailableError, match="'triton' runs on cuda, and these tensors are on cpu"):
        choose("triton", "cpu")
    with pytest.raises(BackendUnavailableError, match="'fast' does not exist here; choose auto or one of triton, cpu"):
        choose("fast", "cpu")
    with pytest.raises(BackendUnavailableError, match="no backend runs on mps: triton runs on cuda"):
        choose("auto", "mps", ("triton",))


def test_every_operation_refuses_triton_on_the_cpu() -> None:
    x = torch.zeros(1, 2, 3)
    with pytest.raises(BackendUnavailableError):
        selective_scan(x, x, -torch.ones(3, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), backend="triton")
    with pytest.raises(BackendUnavailableError):
        causal_conv1d(x, torch.zeros(3, 4), backend="triton")
    with pytest.raises(BackendUnavailableError):
        rms_norm(x, torch.zeros(3), backend="triton")
