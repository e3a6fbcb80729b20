"""Small random models that the package transformers builds: what is published, in small."""

from collections.abc import Callable

import pytest
import torch
import transformers

Build = Callable[..., transformers.PreTrainedModel]

ODD_SIZES = {
    "vocab_size": 53,
    "hidden_size": 30,
    "num_hidden_layers": 3,
    "state_size": 5,
    "time_step_rank": 3,
    "conv_kernel": 3,
}


@pytest.fixture
def published() -> Build:
    """Build a model of a type ("mamba", "falcon_mamba", ...) with options of its config; odd sizes unless told.

    `noise` is added to every parameter, to leave the initialisation, where biases are 0 and all rows of A alike. With
    0.1 rounding errors stay far below 1e-5; with 0.5 greedy text is varied and its tokens are clear choices.
    """

    def build(model_type: str = "mamba", *, noise: float = 0.1, **options: object) -> transformers.PreTrainedModel:
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **{**ODD_SIZES, **options})
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=noise)
        return model.eval()

    return build
