"""Memory for large results, used again.

The first touch of fresh memory costs a page fault for every 4 KiB, for a layer's output more than the kernel that fills it, and allocators
give large blocks back to the system as soon as they are freed. So freed results are kept for the next call, up to a limit, past which those
of sizes not used lately go first; NumPy asks for huge pages under what is allocated anew.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 2**20
"""Bytes from which memory is kept."""
_LIMIT = 2**28
"""Bytes kept at most: enough for the output and the gradient of a layer with 32 million neurons times steps."""

_free: OrderedDict[int, list[NDArray[np.uint8]]] = OrderedDict()
"""By size; sizes used lately come last."""
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
        memory = _free[size].pop() if _free.get(size) else None
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
        _free.setdefault(memory.nbytes, []).append(memory)
        _free.move_to_end(memory.nbytes)
        _kept += memory.nbytes
        while _kept > _LIMIT:
            size, spare = next(iter(_free.items()))
            if spare:
                _kept -= spare.pop().nbytes
            else:
                del _free[size]
