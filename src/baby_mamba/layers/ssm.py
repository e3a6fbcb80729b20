"""The selective state space model: a linear recurrence whose step size, input and output depend on the input."""

import math

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from baby_mamba.config import MambaConfig
from baby_mamba.ops import selective_scan
from baby_mamba.shapes import Channels, SequenceIds, SSMState
from baby_mamba.theory.initialisation import s4d_lin, s4d_real


class SelectiveSSM(nn.Module):
    r"""Mamba's S6 layer (arXiv 2312.00752, algorithm 2), (batch, length, d_inner) to the same shape.

    From each token's own features it computes how much to forget and take in (Delta), what enters the state (B) and
    what is read from it (C). A is learnt but the same for all tokens; it acts through exp(Delta A).

        Delta_t = softplus(W_dt W_r u_t + b_dt)      (d_inner)      large: forget and take in; small: keep and ignore
        B_t, C_t = W_B u_t, W_C u_t                  (d_state each)
        h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t u_t
        y_t = C_t . h_t + D u_t

    With selection_norm_epsilon, W_r u_t, B_t and C_t are each divided by their root mean square over features, without
    a learnt scale: Falcon-Mamba's way to keep large models stable (arXiv 2410.05355).

    `config.selective` says which of Delta, B and C are computed so; the others are learnt constants (the ablation of
    table 7): Delta a number per channel, B and C of A's shape, and they start as in S4D (arXiv 2206.11893), B at one
    and C drawn from N(0, 1). With none of them selective the layer is time-invariant, a convolution.

    Args:
        config: d_model, expand, d_state, dt_rank, selective, selection_norm_epsilon, a_init and the dt_* keys are used.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.dt_rank = config.d_inner, config.d_state, config.resolved_dt_rank
        self.selection_norm_epsilon = config.selection_norm_epsilon
        self.backend = config.backend
        widths = {"delta": self.dt_rank, "B": self.d_state, "C": self.d_state}
        self._selected = {name: width for name, width in widths.items() if name in config.selective.split()}
        if self._selected:
            self.x_proj = nn.Linear(self.d_inner, sum(self._selected.values()), bias=False)
        if "delta" in self._selected:
            self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        else:
            self.dt_bias = nn.Parameter(torch.empty(self.d_inner))
        constant = (self.d_inner, self.d_state)
        self.B = None if "B" in self._selected else nn.Parameter(torch.ones(constant))
        self.C = None if "C" in self._selected else nn.Parameter(torch.randn(constant))
        self.A_log = nn.Parameter(torch.log(-initial_A(config.a_init, self.d_inner, self.d_state)))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self._initialise_dt(config)

    @torch.no_grad()
    def _initialise_dt(self, config: MambaConfig) -> None:
        """Step sizes start log-uniform in [dt_min, dt_max] (section 3.6): some channels forget fast, others slowly."""
        bound = config.dt_scale / math.sqrt(self.dt_rank)
        if "delta" in self._selected and config.dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, bound)
        elif "delta" in self._selected:
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        log_min, log_max = math.log(config.dt_min), math.log(config.dt_max)
        dt = torch.empty(self.d_inner).uniform_(log_min, log_max).exp().clamp(min=config.dt_init_floor)
        self.delta_bias.copy_(inverse_softplus(dt))

    @property
    def delta_bias(self) -> Tensor:
        """(d_inner,), added to Delta before the softplus; where Delta is not selective, all there is of it."""
        return self.dt_proj.bias if "delta" in self._selected else self.dt_bias

    @property
    def A(self) -> Tensor:
        """(d_inner, d_state), negative; float32 even if the module was cast down, since A is exponentiated twice."""
        return -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))

    def selection(self, u: Channels) -> tuple[Tensor, Tensor, Tensor]:
        """Delta before bias and softplus (batch, length, d_inner), B and C (batch, length, d_state) for each token.

        A constant Delta is zero here, since all of it is bias; a constant B or C is (d_inner, d_state).
        """
        selected: dict[str, Tensor] = {}
        if self._selected:
            parts = self.x_proj(u).split_with_sizes(list(self._selected.values()), dim=-1)
            if self.selection_norm_epsilon is not None:
                # .to: autocast computes the norm in float32, and the scan is to read B and C as narrow as they were.
                parts = [F.rms_norm(x, x.shape[-1:], eps=self.selection_norm_epsilon).to(x.dtype) for x in parts]
            selected = dict(zip(self._selected, parts, strict=True))
        delta = F.linear(selected["delta"], self.dt_proj.weight) if "delta" in selected else torch.zeros_like(u)
        return delta, selected.get("B", self.B), selected.get("C", self.C)

    def scan(
        self,
        u: Channels,
        *,
        gate: Channels | None = None,
        state: SSMState | None = None,
        sequence_ids: SequenceIds | None = None,
    ) -> tuple[Channels, SSMState]:
        """Run the recurrence.

        Args:
            u: input, (batch, length, d_inner).
            gate: the output is multiplied by silu(gate), of u's shape.
            state: the state before the first step, (batch, d_inner, d_state); zero if None.
            sequence_ids: (batch, length); a change of id resets the state.

        Returns:
            (y, state): y of u's shape and dtype, the state after the last step in float32.
        """
        delta, B, C = self.selection(u)
        return selective_scan(
            u,
            delta,
            self.A,
            B,
            C,
            self.D,
            z=gate,
            delta_bias=self.delta_bias,
            delta_softplus=True,
            initial_state=state,
            sequence_ids=sequence_ids,
            return_final_state=True,
            backend=self.backend,
        )

    forward = scan


def initial_A(a_init: str, channels: int, d_state: int) -> Tensor:
    """Where A starts, (channels, d_state): one of the real ones that the paper compares (section 4.6, table 8).

    s4d_real is -(n + 1) and s4d_lin_real is -1/2, the same for every channel (see `theory.initialisation`); random is
    -exp(N(0, 1)), drawn for each number by itself.
    """
    if a_init == "random":
        return -torch.exp(torch.randn(channels, d_state))
    row = {"s4d_real": s4d_real(d_state), "s4d_lin_real": s4d_lin(d_state).real}[a_init]
    return repeat(row.to(torch.get_default_dtype()), "d_state -> channels d_state", channels=channels).clone()


def inverse_softplus(y: Tensor) -> Tensor:
    """x with softplus(x) = log(1 + exp(x)) = y, for y > 0, without overflow: y + log(1 - exp(-y))."""
    return y + torch.log(-torch.expm1(-y))
