"""Memory for large results, used again.

The first touch of fresh memory costs a page fault for every 4 KiB, for a layer's output more than the kernel that fills it, and allocators
give large blocks back to the system as soon as they are freed. So freed results are kept for the next call, up to a limit; NumPy asks for
huge pages under what is allocated anew.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 2**20
"""Bytes from which memory is kept."""
_LIMIT = 2**28
"""Bytes kept at most: enough for the output and the gradient of a layer with 32 million neurons times steps."""

_free: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)
_lent: dict[int, tuple[weakref.ref[Any], NDArray[np.uint8]]] = {}
_kept = 0
_lock = threading.RLock()  # a collection that releases memory may begin while it is held


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An uninitialised C-contiguous array; its memory is used again when nothing refers to it any more."""
    global _kept
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _SMALLEST:
        return np.empty(shape, dtype)
    with _lock:
        memory = _free[size].pop() if _free[size] else None
        _kept -= size if memory is not None else 0
    if memory is None:
        memory = np.empty(size, np.uint8)
    # Over a memoryview and not a view of `memory`: so every view of the array keeps this array alive, not what is below it.
    array = np.frombuffer(memoryview(memory), dtype)  # pyright: ignore[reportArgumentType]
    reference = weakref.ref(array, _release)
    _lent[id(reference)] = reference, memory
    return array.reshape(shape)


def _release(reference: weakref.ref[Any]) -> None:
    global _kept
    _, memory = _lent.pop(id(reference))
    with _lock:
        if _kept + memory.nbytes <= _LIMIT:
            _kept += memory.nbytes
            _free[memory.nbytes].append(memory)
