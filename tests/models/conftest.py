"""What the tests of the models share."""

from collections.abc import Iterator

import pytest
from jaxtyping import config as jaxtyping_config


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Turn jaxtyping off, so that the library's own messages are seen as a user sees them."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)
