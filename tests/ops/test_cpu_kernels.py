"""How the `cpu` backends compile their loops and share their work among threads."""

import importlib.util
import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from baby_mamba.ops import numba_support
from baby_mamba.ops.numba_support import SERIAL_WORK, Kernel, rows_to_numpy, to_numpy

MARK = """
def mark(first, last, x, step, out):
    for i in range(first, last):
        out[i] += x[i] + step
"""


@pytest.fixture
def mark(tmp_path):
    """A function in a file of its own, so that its compiled code is kept beside it."""
    (tmp_path / "loops.py").write_text(MARK)
    spec = importlib.util.spec_from_file_location("loops", tmp_path / "loops.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mark


@pytest.fixture(params=["openmp", "python"])
def threads(request, monkeypatch):
    """Both providers of threads; where PyTorch brings no OpenMP library, the second alone."""
    if request.param == "python":
        monkeypatch.setattr(numba_support, "_openmp_parallel", lambda: None)
    elif numba_support._openmp_parallel() is None:
        pytest.skip("this PyTorch loads no OpenMP library with GOMP_parallel")
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("units", [0, 1, 7, 100])
def test_every_unit_is_done_once(mark, threads, count, units):
    threads(count)
    kernel, x, out = Kernel(mark), np.arange(100.0), np.zeros(100)
    kernel("float64", units, SERIAL_WORK + 1, x, 0.5, out)
    np.testing.assert_array_equal(out[:units], x[:units] + 0.5)
    assert not out[units:].any()


def test_as_many_threads_as_pytorch_has(threads):
    threads(3)
    seen, everybody = set(), threading.Barrier(3, timeout=30)

    def meet():
        everybody.wait()
        seen.add(threading.get_native_id())

    numba_support._run_on_threads(3, meet)
    assert len(seen) == 3


def test_little_work_wakes_no_thread(mark, monkeypatch):
    monkeypatch.setattr(numba_support, "_run_on_threads", lambda *_: pytest.fail("woke threads"))
    out = np.zeros(100)
    Kernel(mark)("float64", 100, SERIAL_WORK, np.zeros(100), 1.0, out)
    assert out.all()


def test_an_error_in_a_thread_reaches_the_caller(threads):
    def fail():
        raise ZeroDivisionError("in a thread")

    with pytest.raises(ZeroDivisionError, match="in a thread"):
        numba_support._run_on_threads(2, fail)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_works_in_a_forked_process():
    # PyTorch's threads do not survive a fork; those of a DataLoader's workers are such processes. A process of its own,
    # since pytest's has threads that must not be forked.
    script = """
import os, threading
import torch
from baby_mamba.ops import causal_conv1d
from baby_mamba.ops.numba_support import _run_on_threads
torch.set_num_threads(2)
x, weight = torch.ones(4, 300, 200), torch.ones(200, 4)
before = causal_conv1d(x, weight, backend="cpu")
child = os.fork()
if child == 0:
    seen, both = set(), threading.Barrier(2, timeout=30)
    _run_on_threads(2, lambda: (both.wait(), seen.add(threading.get_native_id())))
    torch.set_num_threads(1)  # as a DataLoader does: PyTorch's own operations would wait for threads that are gone
    same = torch.equal(causal_conv1d(x, weight, backend="cpu"), before)
    os._exit(0 if same and len(seen) == 2 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_compiles_once_and_says_so(mark, caplog):
    caplog.set_level(logging.INFO, "baby_mamba")
    out = np.zeros(100)
    for _ in range(2):
        Kernel(mark)("float64", 100, 1, np.zeros(100), 1.0, out)  # the second finds what the first kept on disk
    messages = [record.getMessage() for record in caplog.records if "compiled" in record.getMessage()]
    assert len(messages) == 1
    assert "loops.mark in " in messages[0]


def test_compiles_without_a_place_for_the_result(mark, caplog, monkeypatch):
    njit = numba_support.numba.njit

    def no_place(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'mark': no locator available")
        return njit(*arguments, **options)

    monkeypatch.setattr(numba_support.numba, "njit", no_place)
    out = np.zeros(100)
    Kernel(mark)("float64", 100, 1, np.zeros(100), 1.0, out)
    assert out.all()
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_one_compiled_version_serves_all_strides(mark):
    kernel, x = Kernel(mark), np.arange(400.0)
    for rows in (x[:100], x[::4], torch.ones(1).double().expand(100).numpy()):
        out = np.zeros(100)
        kernel("float64", 100, 1, rows, 0.0, out)
        np.testing.assert_array_equal(out, rows)
    assert len(kernel._compiled) == 1


def test_tensors_become_arrays_without_a_copy_where_possible():
    x = torch.randn(3, 8, requires_grad=True)
    assert to_numpy(x, torch.float32).ctypes.data == x.data_ptr()
    assert rows_to_numpy(x[:, 2:5], torch.float32).ctypes.data == x[:, 2:5].data_ptr()
    assert to_numpy(x.bfloat16(), torch.float32).dtype == np.float32
    for strange in (x.T, x[:, ::2], x[:, :1].expand(3, 8)):
        rows = rows_to_numpy(strange, torch.float32)
        assert rows.strides[-1] == 4
        np.testing.assert_array_equal(rows, strange.detach().numpy())


def test_importing_the_package_does_not_import_numba():
    script = "import sys, baby_mamba, baby_mamba.ops; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
