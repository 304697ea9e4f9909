"""Memory that is used again: only when nothing refers to it, up to a limit, the sizes used lately for longest."""

import gc
import math

import numpy as np
import pytest

from spikegrad.kernels import memory

ALLOCATE = memory.empty  # without the poison that the tests of kernels put in its place
FLOATS = 2**18
"""float32 numbers that are one MiB, the smallest that is kept."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(memory, "_free", type(memory._free)())
    monkeypatch.setattr(memory, "_kept", 0)


def address(array):
    return array.ctypes.data


def test_memory_is_used_again_when_nothing_refers_to_it():
    first = ALLOCATE((4, FLOATS // 4), "float32")
    assert first.shape == (4, FLOATS // 4)
    assert first.flags.c_contiguous
    view, where = first[1:, ::2], address(first)
    del first
    gc.collect()
    assert address(ALLOCATE((FLOATS,), "float32")) != where, "a view still refers to it"
    del view
    gc.collect()
    assert address(ALLOCATE((FLOATS,), "float32")) == where
    assert address(ALLOCATE((FLOATS // 2,), "float64")) == where, "by bytes, whatever they hold"


def test_small_arrays_are_numpys_own():
    assert ALLOCATE((FLOATS - 1,), "float32").base is None
    assert ALLOCATE((0, 5), "float32").shape == (0, 5)


def test_past_the_limit_sizes_not_used_lately_go_first(monkeypatch):
    monkeypatch.setattr(memory, "_LIMIT", 6 * 2**20)
    small = [ALLOCATE((FLOATS,), "float32") for _ in range(3)]
    large = [ALLOCATE((2, FLOATS), "float32") for _ in range(2)]
    del small
    gc.collect()
    del large
    gc.collect()
    kept = {size: len(spare) for size, spare in memory._free.items() if spare}
    assert kept == {2 * 2**20: 2, 2**20: 2}
    huge = ALLOCATE((7, FLOATS), "float32")
    del huge
    gc.collect()
    assert memory._kept == sum(size * len(spare) for size, spare in memory._free.items()) <= 6 * 2**20


def test_torch_keeps_it_as_long_as_it_needs_it():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(ALLOCATE((FLOATS,), "float32").reshape(2, -1))[1]
    tensor.fill_(3.0)
    gc.collect()
    others = [ALLOCATE((FLOATS,), "float32") for _ in range(3)]
    for other in others:
        other.fill(np.nan)
    assert math.isclose(float(tensor.sum()), 3.0 * FLOATS / 2)
