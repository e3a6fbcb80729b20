"""Ctrl-C, without an optimiser step cut in half."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_on_ctrl_c() -> Iterator[list[int]]:
    """Collect the first Ctrl-C in a list, which the loop looks at between steps; the second one raises as usual.

    An exception in the middle of an optimiser step would leave half of the weights updated.
    """
    requested: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield requested
        return

    def request(signal_number: int, frame: object) -> None:
        requested.append(signal_number)
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGINT, previous)
