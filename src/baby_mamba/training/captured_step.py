"""A training step as one CUDA graph.

A step of a small model on a GPU is thousands of short kernels, and the host needs longer to launch them than the GPU to
run them. Captured once and replayed, they cost the host one call.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from baby_mamba.errors import TrainingError

WARM_UP = 3  # steps before the capture: what is compiled, chosen or allocated at a first call must not be captured


class CapturedStep:
    """Gradients and the optimiser's update in one graph, which takes no step whose loss or gradient is not finite.

    Args:
        gradients: computes them from (input_ids, labels) without ever waiting for the GPU, and returns the loss and the
            norm of the gradient as one tensor.
        optimizer: a fused AdamW over parameters on a CUDA device.
    """

    def __init__(self, gradients: Callable[[Tensor, Tensor], Tensor], optimizer: torch.optim.AdamW) -> None:
        self._gradients, self._optimizer = gradients, optimizer
        self._device = optimizer.param_groups[0]["params"][0].device
        self._steps_before = WARM_UP
        self._stream = torch.cuda.Stream(self._device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, input_ids: Tensor, labels: Tensor, rate: float) -> list[float]:
        """Take a step with a learning rate, and return [loss, norm].

        Raises:
            TrainingError: the step cannot be captured.
        """
        with torch.cuda.device(self._device):
            self._set_rate(rate)
            return self._replay(input_ids, labels).tolist()

    def _replay(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        if self._steps_before or (self._graph is not None and input_ids.shape != self._input_ids.shape):
            self._steps_before = max(0, self._steps_before - 1)
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):  # that of the capture: autograd remembers streams
                result = self._step(input_ids, labels)
            torch.cuda.current_stream().wait_stream(self._stream)
            return result
        if self._graph is None:
            self._input_ids, self._labels = input_ids.clone(), labels.clone()
            self._graph = torch.cuda.CUDAGraph()
            generator = torch.cuda.default_generators[self._device.index]
            state = generator.clone_state()
            try:
                # thread_local: the threads that prepare batches may go on allocating memory meanwhile.
                with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                    self._result = self._step(self._input_ids, self._labels)
            except RuntimeError as error:
                generator.graphsafe_set_state(state)  # PyTorch leaves it in a capture that never ends
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                reason = str(error).splitlines()[0]
                raise TrainingError(
                    f"this model's step cannot become a CUDA graph ({reason}): it waits for the GPU or moves numbers "
                    "to the host; set training_config.cuda_graph = no"
                ) from error
        self._input_ids.copy_(input_ids)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._result

    def _set_rate(self, rate: float) -> None:
        """A graph can only read the rate from the GPU's memory."""
        for group in self._optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):
                group["lr"] = torch.tensor(rate, device=self._device)
                group["capturable"] = True
            group["lr"].fill_(rate)

    def _step(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        self._optimizer.zero_grad()
        result = self._gradients(input_ids, labels)
        self._optimizer.found_inf = (~result.isfinite().all()).float()  # the fused kernels then change nothing
        self._optimizer.step()
        return result
