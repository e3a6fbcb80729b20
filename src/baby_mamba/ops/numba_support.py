"""Compiles and runs the loops of the `cpu` backends: one version per dtype, kept on disk, on PyTorch's own threads.

The loops are serial functions that release the interpreter's lock, and a team of threads shares their work. The team is
the one of the OpenMP library that PyTorch has loaded: a second team would fight for the cores with the threads of the
first, which spin for milliseconds after each of PyTorch's operations (measured: a quarter of a training step). Where
PyTorch brings no such library, or after a fork, which its threads do not survive, Python's threads do the same.

This module imports numba; only the `cpu` backends import this module.
"""

import ctypes
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

from baby_mamba.errors import BackendUnavailableError

logger = logging.getLogger("baby_mamba")

SERIAL_WORK = 1 << 16  # with fewer elements, waking the other threads takes longer than the work


class Kernel:
    """A loop over independent units of work, compiled by numba at its first call.

    The function is called as function(first, last, *arguments) and must do the units first ... last - 1, so that the
    result depends neither on the number of threads nor on which thread does what.

    numba notices changes of the file in which the function is written, not of those that it imports: after an edit of
    `lanes.py`, remove the `__pycache__` folders.
    """

    def __init__(self, function: Callable) -> None:
        self._function = function
        self._compiled: dict[Hashable, Callable] = {}
        self._lock = threading.Lock()

    def __call__(self, variant: Hashable, units: int, work: int, *arguments: np.ndarray | int | float | bool) -> None:
        """Do all units, on at most torch.get_num_threads() threads.

        Args:
            variant: what decides the numba types of the arguments, for example their dtype.
            units: how many units there are.
            work: how many elements they process together.
            arguments: passed on; arrays may have any strides.
        """
        compiled = self._compiled.get(variant) or self._compile(variant, arguments)
        threads = min(torch.get_num_threads(), units) if work > SERIAL_WORK else 1
        if threads <= 1:
            compiled(0, units, *arguments)
            return
        step = -(-units // (4 * threads))  # several helpings a thread: a slow core takes fewer
        starts = iter(range(0, units, step))

        def take_helpings() -> None:
            for first in starts:
                compiled(first, min(first + step, units), *arguments)

        _run_on_threads(threads, take_helpings)

    def _compile(self, variant: Hashable, arguments: tuple) -> Callable:
        with self._lock:
            if variant in self._compiled:
                return self._compiled[variant]
            start = time.perf_counter()
            signature = numba.void(numba.int64, numba.int64, *map(_numba_type, arguments))
            options = {"nogil": True, "error_model": "numpy"}
            try:
                compiled = numba.njit([signature], cache=True, **options)(self._function)
            except RuntimeError as error:
                if "cannot cache" not in str(error):
                    raise
                logger.warning("%s; set NUMBA_CACHE_DIR to a folder that can be written", error)
                compiled = numba.njit([signature], **options)(self._function)
            if not compiled.stats.cache_hits:
                name = f"{self._function.__module__}.{self._function.__name__}"
                seconds = time.perf_counter() - start
                logger.info("compiled %s in %.1f s, kept in %s", name, seconds, compiled.stats.cache_path or "memory")
            self._compiled[variant] = compiled
            return compiled


def register(
    name: str, forward: Callable, backward: Callable, setup_context: Callable, differentiate: Callable
) -> Callable:
    """Implement the operators baby_mamba::{name}_cpu and, for its gradients, baby_mamba::{name}_cpu_backward.

    Returns what calls the first of them.
    """

    def refuse(*_):
        raise BackendUnavailableError(
            f"{name}: backend 'cpu' has no derivatives of its derivatives; use backend='parallel' for them"
        )

    for suffix, run, derivative, setup in (
        ("", forward, differentiate, setup_context),
        ("_backward", backward, refuse, None),
    ):
        torch.library.impl(f"baby_mamba::{name}_cpu{suffix}", "CPU", run)
        torch.library.register_autograd(f"baby_mamba::{name}_cpu{suffix}", derivative, setup_context=setup)
    operator = getattr(torch.ops.baby_mamba, f"{name}_cpu").default

    def call(*inputs):
        # In inference mode nobody records a plain tensor, and the dispatcher would be a tenth of a decoding step.
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled() and type(inputs[0]) is Tensor:
            return forward(*inputs)
        return operator(*inputs)

    return call


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor itself if it has this dtype, else a copy that has."""
    # `tensor.to` takes a microsecond to find nothing to do, and decoding asks a hundred times a token.
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


def to_numpy(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """The tensor's memory if it has this dtype, else a converted copy; without its history."""
    return converted(tensor, dtype).numpy(force=True)


def rows_to_numpy(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """As `to_numpy`, with the numbers of the last dimension side by side: what `lanes.load` needs."""
    return to_numpy(tensor if tensor.stride(-1) == 1 else tensor.contiguous(), dtype)


@functools.cache
def absent(dtype: torch.dtype, dimensions: int) -> np.ndarray:
    """The empty array that stands for a tensor that is not given."""
    return torch.empty((0,) * dimensions, dtype=dtype).numpy()


def _numba_type(argument: np.ndarray | int | float | bool) -> numba.types.Type:
    if isinstance(argument, np.ndarray):
        # "A": any strides. One compiled version then serves contiguous, sliced and expanded tensors.
        return numba.types.Array(numba.from_dtype(argument.dtype), argument.ndim, "A")
    return numba.typeof(argument)


# ----------------------------------------------------------------------------------------------------------- threads

_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()


def _run_on_threads(count: int, function: Callable[[], None]) -> None:
    """Call function() on `count` threads at once, the calling one among them, and wait for all."""
    parallel = _openmp_parallel()
    if parallel is None or os.getpid() != _PROCESS:
        others = [_pool(os.getpid(), count - 1).submit(function) for _ in range(count - 1)]
        try:
            function()
        finally:
            for other in others:
                other.result()
        return

    errors: list[BaseException] = []

    def guarded(_) -> None:
        try:
            function()
        except BaseException as error:  # an exception cannot cross the C library
            errors.append(error)

    parallel(_Callback(guarded), None, count, 0)
    if errors:
        raise errors[0]


@functools.cache
def _openmp_parallel() -> Callable | None:
    """GOMP_parallel(function, data, threads, flags) of PyTorch's OpenMP library; GNU's and LLVM's both have it."""
    if os.name == "nt":
        return None
    # PyTorch loads its OpenMP library for the whole process (torch._load_global_deps).
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if parallel is not None:
        parallel.argtypes = [_Callback, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
    return parallel


@functools.cache
def _pool(process_id: int, threads: int) -> ThreadPoolExecutor:
    """Waiting threads. The process is part of the key because threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="baby_mamba")
