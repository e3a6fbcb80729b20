"""Every Triton kernel at ten odd shapes, for NVIDIA's memory checker, on a machine with a GPU:

    compute-sanitizer --tool memcheck --error-exitcode 1 python tests/sanitize_kernels.py
    compute-sanitizer --tool racecheck --error-exitcode 1 python tests/sanitize_kernels.py

Compile first, by running it once without the checker: that takes a minute, and under it many. Two numbers K and N take
every Nth case from K on, so that several processes can share the work.
"""

import sys
from itertools import product

import torch

from baby_mamba.ops import causal_conv1d, linear_cross_entropy, rms_norm, selective_scan

SHAPES = [  # batch, length, channels, d_state; the last two are cut into segments
    (1, 1, 1, 1), (2, 31, 33, 16), (1, 33, 64, 4), (3, 64, 31, 16), (1, 100, 96, 8),
    (2, 129, 65, 3), (1, 65, 128, 16), (4, 7, 40, 16), (1, 1024, 64, 16), (2, 777, 33, 16),
]  # fmt: skip


def run(batch: int, length: int, channels: int, d_state: int, dtype: torch.dtype) -> None:
    """Forward and backward of each operation; inputs end where their storage does, so that one number too far shows."""

    def normal(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype).requires_grad_()

    u, delta, z = (normal(batch, length, channels) for _ in range(3))
    B, C = normal(batch, length, d_state), normal(batch, length, d_state)
    A = (-torch.rand(channels, d_state, device="cuda")).requires_grad_()
    D, bias = normal(channels, dtype=torch.float32), normal(channels, dtype=torch.float32)
    initial = normal(batch, channels, d_state, dtype=torch.float32)
    ids = torch.arange(length, device="cuda").expand(batch, -1) // 50
    y, state = selective_scan(
        u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True, initial_state=initial, sequence_ids=ids,
        return_final_state=True, backend="triton",
    )  # fmt: skip
    (y.float().sum() + state.sum()).backward()

    taps = normal(channels, 4, dtype=torch.float32)
    causal_conv1d(z, taps, bias, activation="silu", sequence_ids=ids, backend="triton").float().sum().backward()
    normed, residual = rms_norm(u, D, residual=delta, backend="triton")
    (normed.float().sum() + residual.float().sum()).backward()
    labels = torch.randint(0, 77, (batch, length), device="cuda")
    linear_cross_entropy(u, normal(77, channels), labels, backend="triton").backward()


if __name__ == "__main__":
    first, step = map(int, sys.argv[1:]) if len(sys.argv) > 1 else (0, 1)
    for shape, dtype in list(product(SHAPES, (torch.float32, torch.bfloat16)))[first::step]:
        run(*shape, dtype)
        torch.cuda.synchronize()
        print(*shape, dtype, flush=True)
