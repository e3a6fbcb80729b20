r"""S6, the selective state space model, as one would write it down: a loop over time that carries a state.

    Delta_t = softplus(W_Delta u_t + b)          how long the step is, for each channel
    B_t = W_B u_t,   C_t = W_C u_t               what enters the state, and what is read from it
    h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t u_t
    y_t = C_t . h_t + D u_t

Without h_{t-1} in it, nothing would pass from one token to the next. `layers.ssm.SelectiveSSM` computes the same with a
W_Delta that is the product of two thin matrices, which has fewer weights, and with a scan in place of the loop.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from baby_mamba.theory.initialisation import s4d_real


class S6(nn.Module):
    """The selective SSM of Mamba (arXiv 2312.00752, algorithm 2), for reading and for small experiments.

    Args:
        channels: width of input and output; each channel has a state of its own.
        d_state: N, numbers in the state of a channel.
    """

    def __init__(self, channels: int, d_state: int = 16) -> None:
        super().__init__()
        self.to_delta = nn.Linear(channels, channels)
        self.to_B = nn.Linear(channels, d_state, bias=False)
        self.to_C = nn.Linear(channels, d_state, bias=False)
        self.A_log = nn.Parameter(torch.log(-s4d_real(d_state)).float().repeat(channels, 1))
        self.D = nn.Parameter(torch.ones(channels))
        nn.init.constant_(self.to_delta.bias, math.log(math.expm1(0.01)))  # steps of about 0.01 at the start

    def forward(
        self, u: Float[Tensor, "batch length channels"], h: Float[Tensor, "batch channels d_state"] | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch channels d_state"]]:
        """Return (y, h): the outputs, and the state after the last token, from which the next call may go on.

        Args:
            u: the inputs.
            h: the state before the first token; None is zero.
        """
        delta = F.softplus(self.to_delta(u))  # (batch, length, channels)
        B, C = self.to_B(u), self.to_C(u)  # each (batch, length, d_state)
        A = -torch.exp(self.A_log)  # (channels, d_state), negative: every state decays
        if h is None:
            h = u.new_zeros(u.shape[0], *A.shape)
        outputs = []
        for t in range(u.shape[1]):
            A_bar = torch.exp(delta[:, t, :, None] * A)  # (batch, channels, d_state), as is all in the next line
            h = A_bar * h + delta[:, t, :, None] * B[:, t, None, :] * u[:, t, :, None]
            outputs.append((h * C[:, t, None, :]).sum(dim=-1) + self.D * u[:, t])
        return torch.stack(outputs, dim=1), h
