"""The decoding step of a whole model as the few kernels of `kernels`, over buffers that stay where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from baby_mamba.decoding.buffers import StateBuffer
from baby_mamba.models import Mamba

_MAX_BATCH = 256  # beyond it the weights' way from memory no longer counts, and cuBLAS is better at the rest
_LARGE_SHARED_MEMORY = 160 * 1024  # bytes of a program, for three pairs of tiles with 256 columns; an H100 has 227 KiB
_MAX_WIDTH_WITH_NORM = 1024  # of a row that a program of project_in normalises and holds in registers
_MAX_WIDTH, _MAX_RANK, _MAX_CHANNELS, _MAX_TAPS = 8192, 512, 16384, 16  # what a program can hold in registers


def can_fuse(model: Mamba, batch: int) -> bool:
    """Whether the kernels compute what the layers of this model compute, for a batch of this size."""
    config, head = model.config, model.lm_head.weight
    narrow = [parameter.dtype for parameter in model.parameters()]
    matrices = [module.weight.dtype for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    return (
        config.backend in ("auto", "triton")
        and all(dtype in (torch.float32, torch.float16, torch.bfloat16) for dtype in narrow)
        and all(dtype == head.dtype for dtype in matrices)
        and all(parameter.is_contiguous() for parameter in model.parameters())
        and config.legendre_order == 0
        and batch <= _MAX_BATCH
        and config.d_model <= _MAX_WIDTH
        and config.d_inner <= _MAX_CHANNELS
        and config.resolved_dt_rank <= _MAX_RANK
        and config.d_conv <= _MAX_TAPS
    )


@dataclass(frozen=True)
class Tiling:
    """How a product of rows and a matrix is cut into programs; the names are those of the kernels' arguments."""

    rows: int  # of the batch, for a program; 1 multiplies and adds, 16 and more use tensor cores
    block: int  # outputs for a program
    k: int  # columns of a tile
    early: int  # tiles that are loaded before the kernel waits
    stages: int  # tiles on their way, with tensor cores
    warps: int
    parts: int = 1  # terms that columns are added up to, with tensor cores

    def arguments(self, weight: Tensor) -> dict[str, int]:
        """Compile-time arguments for a matrix."""
        width = weight.shape[1]
        tiles, lines = -(-width // self.k), -(-width * weight.element_size() // 128)
        return {
            "ROWS": self.rows, "BLOCK": self.block, "K": self.k, "TILES": tiles, "EARLY": min(self.early, tiles),
            "STAGES": self.stages, "LINES": _power_of_2(lines), "num_warps": self.warps,
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The kernels' tilings for a shape of model and a batch."""

    norm_first: bool  # as a kernel of its own
    project_in: Tiling
    project_out: Tiling
    head: Tiling | None  # None leaves the head to cuBLAS
    project_delta: Tiling | None  # None at batch 1, where advance_state does it
    state_rows: int  # of the batch, for a program of advance_state or advance_states
    state_block: int  # channels for such a program
    state_warps: int
    overlap: bool  # let a kernel start before the one before it has ended

    @classmethod
    def of(cls, model: Mamba, batch: int) -> Plan:
        """The fastest plan that is known."""
        from baby_mamba.ops.triton_support import can_overlap

        config, device = model.config, model.lm_head.weight.device
        overlap = can_overlap(device)
        if batch == 1:
            k_in, k_out = (min(256, max(32, _power_of_2(width))) for width in (config.d_model, config.d_inner))
            return cls(
                norm_first=config.d_model > _MAX_WIDTH_WITH_NORM,
                project_in=_for_one_row(32, k_in, config.d_model, matrices=2, warps=max(4, k_in // 16)),
                project_out=_for_one_row(16, k_out, config.d_inner, matrices=1, warps=16),
                head=_for_one_row(8, k_in, config.d_model, matrices=1, warps=8),
                project_delta=None,
                state_rows=1,
                state_block=16,
                state_warps=4,
                overlap=overlap,
            )
        rows = min(64, max(16, _power_of_2(batch)))
        k = 32
        if model.lm_head.weight.dtype != torch.float32:
            k = 256 if _shared_memory(device) >= _LARGE_SHARED_MEMORY else 64
        tiling = Tiling(rows=rows, block=16, k=k, early=0, stages=3, warps=4)
        k_delta = max(16, min(k, _power_of_2(config.resolved_dt_rank)))
        return cls(
            norm_first=True,
            project_in=tiling,
            project_out=replace(tiling, block=32, parts=3),
            head=None,
            project_delta=replace(tiling, block=32, k=k_delta),
            state_rows=4 if batch >= 16 else 1,
            state_block=max(1, min(512 // _power_of_2(config.d_state), _power_of_2(config.d_inner))),
            state_warps=4,
            overlap=overlap,
        )


def _for_one_row(block: int, k: int, width: int, *, matrices: int, warps: int) -> Tiling:
    """A tiling in which a thread holds 96 weights at most while it waits."""
    early = max(1, 96 * 32 * warps // (matrices * block * k))
    return Tiling(rows=1, block=block, k=k, early=min(early, -(-width // k)), stages=1, warps=warps)


def _shared_memory(device: torch.device) -> int:
    """Bytes that a program can have."""
    if device.type != "cuda":
        return _LARGE_SHARED_MEMORY
    from triton.runtime import driver

    return driver.active.utils.get_device_properties(device.index)["max_shared_mem"]


def _power_of_2(n: int) -> int:
    """The next power of two."""
    return 1 << max(n - 1, 0).bit_length()


class FusedStep:
    """Reads `tokens` and the states in one buffer; writes `logits` and the states after them into another.

    Args:
        model: one that `can_fuse` accepts. It is not kept, and its weights are read where they are now.
        batch: number of rows.
        plan: how the work is cut; None takes what is known to be fast.
    """

    def __init__(self, model: Mamba, batch: int, plan: Plan | None = None) -> None:
        config, weight = model.config, model.lm_head.weight
        self.plan = plan or Plan.of(model, batch)
        self.tokens = torch.zeros(batch, dtype=torch.long, device=weight.device)
        self.logits = weight.new_empty(batch, weight.shape[0], requires_grad=False)
        stream = torch.float32 if config.residual_in_fp32 else weight.dtype
        self._x, self._normalised = (self.logits.new_empty(batch, config.d_model) for _ in range(2))
        parts = self.plan.project_out.parts
        self._parts = self.logits.new_empty(parts, batch, config.d_model, dtype=torch.float32) if parts > 1 else self._x
        self._residuals = [self.logits.new_empty(batch, config.d_model, dtype=stream) for _ in range(2)]
        self._u, self._z, self._y = (self.logits.new_empty(batch, config.d_inner) for _ in range(3))
        shares = -(-config.d_inner // self.plan.project_in.block)
        mixer = model.backbone.layers[0].mixer
        selected = mixer.x_proj.out_features if hasattr(mixer, "x_proj") else 0
        self._shares = self.logits.new_empty(shares, batch, selected, dtype=torch.float32)
        rank = mixer.dt_rank if hasattr(mixer, "dt_proj") else 0
        self._low_rank, self._BC = self.logits.new_empty(batch, rank), self.logits.new_empty(batch, selected - rank)
        self._delta = self.logits.new_empty(batch, config.d_inner)

    @torch.no_grad()
    def __call__(self, model: Mamba, before: StateBuffer, after: StateBuffer) -> None:
        """Start the kernels; `before` and `after` are two buffers."""
        torch.index_select(model.backbone.embeddings.weight, 0, self.tokens, out=self._x)
        x, residual, total = self._x, None, self._residuals[0]
        for i, layer in enumerate(model.backbone.layers):
            if self.plan.norm_first:
                self._normalise(x, layer.norm, residual, total)
            self._project_in(layer, residual, total, before.conv[i], after.conv[i])
            self._advance_state(layer.mixer, before.ssm[i], after.ssm[i])
            out_proj = layer.mixer.out_proj
            self._project(self.plan.project_out, self._y, out_proj.weight, out_proj.bias, self._parts)
            x, residual, total = self._parts, total, self._residuals[i % 2 - 1]
        self._normalise(x, model.backbone.norm_f, residual, total)
        if self.plan.head is None:
            torch.mm(self._normalised, model.lm_head.weight.t(), out=self.logits)
        else:
            self._project(self.plan.head, self._normalised, model.lm_head.weight, None, self.logits)

    def _launch(self, kernel: object, grid: tuple[int, ...], *arguments: object, **options: object) -> None:
        from baby_mamba.ops.triton_support import early, launch

        launch(kernel, grid, *arguments, **options, **early(self.plan.overlap))

    def _normalise(self, x: Tensor, norm: nn.Module, residual: Tensor | None, total: Tensor) -> None:
        from baby_mamba.decoding.kernels import normalise

        batch, width = self._x.shape
        block = _power_of_2(width)
        self._launch(
            normalise, (batch,), x, residual, norm.weight, total, self._normalised, norm.epsilon,
            D_MODEL=width, PARTS=x.numel() // (batch * width), BLOCK=block, num_warps=min(16, max(4, block // 256)),
        )  # fmt: skip

    def _project_in(
        self, layer: nn.Module, residual: Tensor | None, total: Tensor, past: Tensor, new_past: Tensor
    ) -> None:
        from baby_mamba.decoding.kernels import project_in

        mixer, tiling = layer.mixer, self.plan.project_in
        (batch, width), (shares, _, selected) = self._x.shape, self._shares.shape
        stream = (self._x, residual, layer.norm.weight, total)
        if self.plan.norm_first:
            stream = (self._normalised, None, None, None)
        self._launch(
            project_in, (shares, -(-batch // tiling.rows)),
            *stream, mixer.in_proj.weight, mixer.in_proj.bias,
            mixer.conv1d.weight, mixer.conv1d.bias, past, new_past, mixer.x_proj.weight if selected else None,
            self._u, self._z, self._shares, batch, layer.norm.epsilon,
            D_MODEL=width, CHANNELS=self._u.shape[1], TAPS=mixer.conv1d.weight.shape[-1], SELECTED=selected,
            SELECTED_BLOCK=max(16, _power_of_2(selected)), **tiling.arguments(mixer.in_proj.weight),
        )  # fmt: skip

    def _advance_state(self, mixer: nn.Module, state: Tensor, new_state: Tensor) -> None:
        from baby_mamba.decoding.kernels import advance_state, advance_states, select

        plan, (batch, channels), (shares, _, selected) = self.plan, self._u.shape, self._shares.shape
        norm, epsilon = mixer.selection_norm_epsilon is not None, mixer.selection_norm_epsilon or 0.0
        states = {"D_STATE": mixer.d_state, "PADDED": _power_of_2(mixer.d_state)}
        adding = {"SELECTED": selected, "SHARES": shares, "GROUP": min(32, _power_of_2(shares)), "NORM": norm}
        blocks = -(-channels // plan.state_block)
        block = {"CHANNELS": channels, "BLOCK": plan.state_block, "num_warps": plan.state_warps}
        parameters = mixer.delta_bias, mixer.A_log, mixer.B, mixer.C, mixer.D
        rank = self._low_rank.shape[1]
        if plan.project_in.rows == 1:
            weight = mixer.dt_proj.weight if rank else None
            self._launch(
                advance_state, (blocks,),
                self._shares, self._u, self._z, weight, *parameters, state, new_state, self._y, epsilon,
                RANK=mixer.dt_rank, RANK_PADDED=_power_of_2(mixer.dt_rank), **states, **adding, **block,
            )  # fmt: skip
            return
        if selected:
            parts = (selected - rank) // mixer.d_state + (rank > 0)
            self._launch(
                select, (batch, parts), self._shares, self._low_rank, self._BC, batch, epsilon,
                RANK=rank, RANK_PADDED=_power_of_2(rank), **states, **adding,
            )  # fmt: skip
        if rank:
            self._project(plan.project_delta, self._low_rank, mixer.dt_proj.weight, None, self._delta)
        self._launch(
            advance_states, (blocks, -(-batch // plan.state_rows)),
            self._u, self._z, self._delta if rank else None, self._BC, *parameters, state, new_state, self._y, batch,
            PARTS=(selected - rank) // mixer.d_state, ROWS=plan.state_rows, **states, **block,
        )  # fmt: skip

    def _project(self, tiling: Tiling, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        from baby_mamba.decoding.kernels import project

        (batch, inputs), outputs = x.shape, y.shape[-1]
        self._launch(
            project, (-(-outputs // tiling.block), -(-batch // tiling.rows), tiling.parts),
            x, weight, bias, y, batch, outputs, INPUTS=inputs, **tiling.arguments(weight),
        )  # fmt: skip
