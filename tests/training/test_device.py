import pytest
import torch

from baby_mamba.errors import ConfigError
from baby_mamba.training.device import choose_device


def test_auto_follows_the_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto") == torch.device(expected)


def test_by_name() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:x"])
def test_missing_device(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used here .*expected auto, cpu, or a device of this computer"):
        choose_device(name)
