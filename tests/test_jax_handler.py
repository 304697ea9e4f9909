"""What XLA's threads do with a job: they may come late, when the call is over and its buffers are gone."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jax")
pytest.importorskip("numba")

import jax
import jax.numpy as jnp
import numba
import numpy as np

from spikegrad import jax as sj
from spikegrad.kernels import handler
from spikegrad.kernels.cpu import threads
from spikegrad.kernels.cpu.instructions import words


def job(kernel: Any, claimed: int) -> Any:
    """A job of two threads and 128 columns in blocks of 64, so many of which are claimed, in memory that outlives it."""
    address = ctypes.cast(kernel, ctypes.c_void_p).value
    words = threads.job(address or 0, 2, 5, 128, 64, 0, [8, 0] * 3)  # there is no memory at 8
    counters = words[threads.COUNTERS]
    for k in range(2):
        first = counters + k * threads.LINE
        words[first], words[first + 1] = 64 * (k + (k < claimed)), 64 * (k + 1)
    words[counters + handler._ACTIVE], words[counters + handler._HELPERS], words[counters + handler._USERS] = 0, 1, 3
    return words


@pytest.mark.parametrize("claimed", [0, 1, 2])
def test_a_helper_that_comes_late_touches_nothing(claimed):
    """A kernel reads numbers before it claims a block; nobody waits for a helper that begins when all blocks are claimed."""
    called: list[tuple[int, int]] = []
    kernel = threads._SIGNATURE(lambda address, mine: called.append((address, mine)))
    words = job(kernel, claimed)
    address, counters = words.buffer_info()[0], words[threads.COUNTERS]
    helper = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(handler.handler().helper)
    helper(address)
    assert called == ([(address, 1)] if claimed < 2 else [])
    assert words[counters + handler._ACTIVE] == 0
    assert words[counters + handler._USERS] == 2
    assert words[counters + handler._HELPERS] == 2
    assert [words[counters + k * threads.LINE] for k in range(2)] == [64 * (k + (k < claimed)) for k in range(2)]  # it claimed none


def test_one_handler_for_all_kernels():
    """A call says which kernel: equal layers share it, whatever their numbers and sizes; a gradient has its own, as has another type."""

    def called(beta: float, steps: int, dtype: str = "float32") -> tuple[set[str], list[str]]:
        x = jnp.ones((steps, 2, 3), dtype)
        text = jax.jit(jax.value_and_grad(lambda x: sj.leaky(x, beta, backend="numba")[0].sum())).lower(x).as_text()
        return set(re.findall(r"@(spikegrad_generated_\w+)", text)), re.findall(r"kernel = dense<(\d+)>", text)

    names, kernels = called(0.9, 4)
    assert names == {handler.handler().target}
    assert len(set(kernels)) == 2
    assert called(0.5, 7) == (names, kernels)
    others = called(0.9, 4, "bfloat16")
    assert others[0] == names
    assert not set(others[1]) & set(kernels)


def test_kernels_of_one_bucket_are_told_apart():
    find = numba.njit(lambda address, key: handler.found(words(address), key))
    table, address = handler.Table(), lambda key: find(np.uint64(ctypes.addressof(table.memory)), np.uint64(key))
    keys = [17 + k * handler.BUCKETS for k in range(3)]
    for k, key in enumerate(keys[:2]):
        table.add(key, [100 + k])
        table.add(key, [0])  # it is known already
    for k, key in enumerate(keys[:2]):
        assert ctypes.c_uint64.from_address(address(key) + 8 * handler.KNOWN).value == 100 + k
    assert address(keys[2]) == address(3) == 0


def test_large_results_begin_on_huge_pages(monkeypatch):
    """What is asked of the system is about memory inside of the result, and only where it is large."""
    asked: list[tuple[int, int, int]] = []
    advise = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int)
    recorded = advise(lambda *given: asked.append(given) or 0)
    address = ctypes.cast(recorded, ctypes.c_void_p).value
    monkeypatch.setattr(handler, "_advise", advise(address))
    monkeypatch.setattr(handler, "_LINUX", True)
    size, start = 9 * 2**20, 3 * 2**20 + 64
    handler.advised.py_func(np.uint64(start), np.uint64(size))
    handler.advised.py_func(np.uint64(start), np.uint64(handler._FRESH - 1))
    ((first, length, advice),) = asked
    assert advice == 14
    assert first % 2**21 == length % 2**21 == 0
    assert start <= first < first + length <= start + size
    assert length >= size - 2 * 2**21


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in /proc")
def test_a_call_leaves_no_memory_behind():
    """The last who leaves a job frees it, with its scratch of a megabyte."""
    x = jnp.ones((200, 2, 1024))
    call = jax.jit(jax.grad(lambda x: sj.leaky(x, 0.9)[0].sum()))

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    for _ in range(20):
        jax.block_until_ready(call(x))
    before = pages()
    for _ in range(150):
        jax.block_until_ready(call(x))
    grown = (pages() - before) * os.sysconf("SC_PAGE_SIZE")
    assert grown < 50 * 2**20, f"150 calls kept {grown / 2**20:.0f} MiB"


def test_what_threads_read_outlives_python():
    """When Python ends it drops all that it knows, while calls may be under way: something else must hold a kernel's words then."""
    table = handler.Table()
    table.add(5, [1, 2, 3])
    seen = [weakref.ref(table.memory), weakref.ref(table.entries[5])]
    del table
    gc.collect()
    assert all(memory() is not None for memory in seen)
