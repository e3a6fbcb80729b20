"""One decoding step as a CUDA graph: started by one call, whatever the number of its kernels."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from baby_mamba.decoding.buffers import LentState, StateBuffer
from baby_mamba.decoding.fused import FusedStep, can_fuse
from baby_mamba.layers import MambaState
from baby_mamba.models import Mamba

_WARM_UP_STEPS = 2  # compile kernels, choose algorithms, allocate workspaces: a capture allows none of these


class OrdinaryStep:
    """The step by the model's own layers, as `FusedStep`."""

    def __init__(self, model: Mamba, batch: int) -> None:
        weight = model.lm_head.weight
        self.tokens = torch.zeros(batch, dtype=torch.long, device=weight.device)
        self.logits = weight.new_empty(batch, weight.shape[0], requires_grad=False)

    @torch.no_grad()
    def __call__(self, model: Mamba, before: StateBuffer, after: StateBuffer) -> None:
        """Run the layers; `before` and `after` are two buffers."""
        hidden, state = model.backbone(self.tokens.unsqueeze(1), state=before.layers())
        self.logits.copy_(model.lm_head(hidden[:, -1]))
        after.load(state)


class Decoder:
    """Advances a batch by a token at a time, by replaying a captured step.

    There are two buffers of states. A step reads one and writes the other, so the state that the last step gave is
    whole while the next one runs, and a reader who has let go of it by then costs no copy.

    Args:
        model: it is not kept. Its weights are read where they are now, so they may change, but not move.
        batch: number of rows.
        step: what is captured; None is fused kernels where they cover the model, and else its own layers.
        capture: False runs the step as it is, each time; for tests without a GPU.
    """

    def __init__(
        self, model: Mamba, batch: int, *, step: FusedStep | OrdinaryStep | None = None, capture: bool = True
    ) -> None:
        if step is None:
            step = (FusedStep if can_fuse(model, batch) else OrdinaryStep)(model, batch)
        self.step, self.device = step, step.logits.device
        self._buffers = [StateBuffer(model.config, batch, step.logits) for _ in range(2)]
        self._lent: list[weakref.ref[LentState] | None] = [None, None]  # whose state lies in each buffer
        self._current = 0
        one, other = self._buffers
        self._run = [lambda: step(model, one, other), lambda: step(model, other, one)]
        if capture:
            self._run = _capture(*self._run, self.device)

    def advance(self, tokens: Tensor, state: MambaState | LentState) -> tuple[Tensor, LentState]:
        """Read one token for each row.

        Args:
            tokens: (batch,).
            state: the state before; what the last call returned is in its place already.

        Returns:
            (logits, state): the scores of the next token, (batch, vocab_size), overwritten by the next call, and the
            state, which is not.
        """
        if state is not self._newest():
            self._load(state.get() if isinstance(state, LentState) else state)
        source, target = self._current, 1 - self._current
        self._clear(target)
        self.step.tokens.copy_(tokens)
        self._run[source]()
        self._current = target
        return self.step.logits, self._lend(target)

    def _newest(self) -> LentState | None:
        lent = self._lent[self._current]
        return None if lent is None else lent()

    def _load(self, state: MambaState) -> None:
        self._clear(self._current)
        self._buffers[self._current].load(state)

    def _lend(self, buffer: int) -> LentState:
        state = LentState(self._buffers[buffer])
        self._lent[buffer] = weakref.ref(state)
        return state

    def _clear(self, buffer: int) -> None:
        """Let whoever still holds the state in a buffer keep it, before it is overwritten."""
        lent = self._lent[buffer]
        state = None if lent is None else lent()
        if state is not None:
            state.get()
        self._lent[buffer] = None


def _capture(first: Callable[[], None], second: Callable[[], None], device: torch.device) -> list[Callable[[], None]]:
    """Two steps as CUDA graphs that share their memory: they never run at once."""
    graphs: list[torch.cuda.CUDAGraph] = []
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                first()
                second()
        torch.cuda.current_stream().wait_stream(stream)
        for step in (first, second):
            graph = torch.cuda.CUDAGraph()
            pool = graphs[0].pool() if graphs else None
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                step()
            graphs.append(graph)
    return [graph.replay for graph in graphs]
