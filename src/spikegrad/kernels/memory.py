"""Memory for large results and for scratch, used again.

The first touch of fresh memory costs a page fault for every 4 KiB, for a layer's output more than the kernel that fills it, and allocators
give large blocks back to the system as soon as they are freed. So freed memory is kept for the next call, up to a limit, past which that of
sizes not used lately goes first; NumPy asks for huge pages under what is allocated anew.
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
"""Bytes from which the memory of results is kept."""
_LIMIT = 2**28
"""Bytes kept at most: enough for the output and the gradient of a layer with 32 million neurons times steps."""


class Block:
    """A piece of memory, and where it is."""

    __slots__ = ("address", "bytes")

    def __init__(self, memory: NDArray[Any]) -> None:
        self.bytes = memory.view(np.uint8)
        self.address: int = memory.ctypes.data

    def data_ptr(self) -> int:
        """Its address, as a tensor gives it."""
        return self.address


_free: OrderedDict[int, list[Block]] = OrderedDict()
"""By size; sizes used lately come last."""
_lent: dict[int, tuple[weakref.ref[Any], Block]] = {}
_kept = 0
_lock = threading.RLock()  # a collection that releases memory may begin while it is held


def take(size: int) -> Block:
    """This many bytes of uninitialised memory, to `give` back."""
    global _kept
    with _lock:
        spare = _free.get(size)
        if spare:
            _kept -= size
            return spare.pop()
    return Block(np.empty(size, np.uint8))


def give(block: Block) -> None:
    """Let memory be taken again."""
    global _kept
    size = len(block.bytes)
    with _lock:
        _free.setdefault(size, []).append(block)
        _free.move_to_end(size)
        _kept += size
        while _kept > _LIMIT:
            oldest, spare = next(iter(_free.items()))
            if spare:
                spare.pop()
                _kept -= oldest
            else:
                del _free[oldest]


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An uninitialised C-contiguous array; its memory is used again when nothing refers to it any more."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _SMALLEST:
        return np.empty(shape, dtype)
    block = take(size)
    # Over a memoryview and not a view of the bytes: so every view of the array keeps this array alive, not what is below it.
    array = np.frombuffer(memoryview(block.bytes), dtype)  # pyright: ignore[reportArgumentType]
    reference = weakref.ref(array, _release)
    _lent[id(reference)] = reference, block
    return array.reshape(shape)


def _release(reference: weakref.ref[Any]) -> None:
    give(_lent.pop(id(reference))[1])
