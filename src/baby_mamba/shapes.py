"""The glossary: each symbol, the paper's name for it, and what it means.

Tensors are laid out (batch, length, channels) everywhere. The letters follow Mamba (Gu and Dao, 2023,
arXiv 2312.00752), section 2 and algorithm 2.

| axis       | paper | meaning                                                       |
|------------|-------|---------------------------------------------------------------|
| `batch`    | B     | independent sequences                                         |
| `length`   | L     | time steps, that is tokens                                    |
| `d_model`  | D     | width of the residual stream                                  |
| `channels` | E D   | width inside a block, `d_inner = expand * d_model`            |
| `d_state`  | N     | numbers of memory per channel                                 |
| `groups`   | -     | channels that share one B and one C; 1 in the published models |
| `dt_rank`  | R     | rank of the projection that makes Delta                       |
| `width`    | -     | taps of the causal convolution, `d_conv`                      |
| `past`     | -     | inputs that the convolution remembers, `d_conv - 1`           |

| tensor  | shape                     | meaning                                                                     |
|---------|---------------------------|-----------------------------------------------------------------------------|
| `u`     | (batch, length, channels) | input of the state space model                                              |
| `delta` | (batch, length, channels) | step size: large takes the input in and forgets, small keeps the state       |
| `A`     | (channels, d_state)       | how each state decays; negative, `-exp(A_log)`                              |
| `B`     | (batch, length, d_state)  | how the input enters the state                                              |
| `C`     | (batch, length, d_state)  | how the state is read                                                       |
| `D`     | (channels,)               | the skip connection                                                         |
| `z`     | (batch, length, channels) | the gate: the output is multiplied by silu(z)                               |
| `h`     | (batch, channels, d_state) | the state, all that is remembered of the past                               |

The names below are `jaxtyping` aliases: as annotations they document a shape, and under pytest they are checked.
"""

from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor

TokenIds = Int[Tensor, "batch length"]
SequenceIds = Int[Tensor, "batch length"]
AttentionMask = Bool[Tensor, "batch length"] | Int[Tensor, "batch length"]
Hidden = Float[Tensor, "batch length d_model"]
Channels = Float[Tensor, "batch length channels"]
ConvState = Float[Tensor, "batch past channels"]
SSMState = Inexact[Tensor, "batch channels d_state"]
Logits = Float[Tensor, "batch length vocabulary"]
