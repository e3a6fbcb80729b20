import signal
import threading

import pytest

from baby_mamba.training.interrupt import stop_on_ctrl_c


def test_first_is_noted_and_second_raises() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with stop_on_ctrl_c() as requested:
        assert not requested
        signal.raise_signal(signal.SIGINT)
        assert requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_handler_is_put_back() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with stop_on_ctrl_c():
        assert signal.getsignal(signal.SIGINT) is not handler
    assert signal.getsignal(signal.SIGINT) is handler


def test_other_threads_are_left_alone() -> None:
    outcome = []

    def work() -> None:
        with stop_on_ctrl_c() as requested:
            outcome.append(list(requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [[]]
