"""Starts Triton kernels, and says when one had to be compiled first."""

import logging
import time

import torch
import triton
from torch import Tensor

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
