"""Starts Triton kernels: says when one had to be compiled first, and lets one start before the one before it has ended.

The latter is programmatic dependent launch. A kernel launched with `launch_pdl=True` starts once all programs of the
one before have come to `let_next_kernel_start`, or have ended. What that one writes it may read after `wait`.
"""

import logging
import time

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda

logger = logging.getLogger("baby_mamba")

NOTICEABLE = 1.0  # seconds: no launch takes this long but one that compiles


def is_compiled(kernel: object) -> bool:
    """False if Triton's interpreter runs it, for which inline assembly means nothing."""
    return isinstance(kernel, triton.JITFunction)


def launch(
    kernel: triton.JITFunction, grid: tuple[int, ...], tensor: Tensor, *arguments: object, **options: object
) -> None:
    """Run kernel[grid](tensor, *arguments, **options) where the tensor is, which need not be the current device."""
    start = time.perf_counter()
    with torch.cuda.device_of(tensor):
        kernel[grid](tensor, *arguments, **options)
    seconds = time.perf_counter() - start
    if seconds > NOTICEABLE and is_compiled(kernel):  # Triton's interpreter is slow, but compiles not
        logger.info("compiled %s in %.1f s, kept in Triton's cache", kernel.fn.__qualname__, seconds)


def can_overlap(device: torch.device) -> bool:
    """Whether a kernel can start there before the one before it has ended: from compute capability 9.0 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def early(overlap: bool) -> dict[str, bool]:
    """Options of a kernel that starts before the one before it has ended, or with False of one that does not."""
    return {"OVERLAP": True, "launch_pdl": True} if overlap else {"OVERLAP": False}


@triton.jit
def let_next_kernel_start(OVERLAP: tl.constexpr):
    """Once all programs of this one have come here."""
    if OVERLAP:
        cuda.gdc_launch_dependents()


@triton.jit
def wait(OVERLAP: tl.constexpr):
    """For all that the kernels before have written."""
    if OVERLAP:
        cuda.gdc_wait()
