"""Scratch memory for kernels, used again.

The first touch of fresh memory costs a page fault for every 4 KiB, more than the kernel that fills it, and allocators give large pieces back
to the system as soon as they are freed. So what was used is kept, up to a limit, past which sizes not used lately go first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

_LIMIT = 2**26
"""Bytes kept at most."""


class Block:
    """A piece of memory, and where it is."""

    __slots__ = ("address", "bytes")

    def __init__(self, size: int) -> None:
        self.bytes = np.empty(size, np.uint8)
        self.address: int = self.bytes.ctypes.data

    def data_ptr(self) -> int:
        """Its address, as a tensor gives it."""
        return self.address


_free: OrderedDict[int, list[Block]] = OrderedDict()
"""By size; sizes used lately come last."""
_kept = 0
_lock = threading.Lock()


def take(size: int) -> Block:
    """This many bytes of uninitialised memory, to `give` back."""
    global _kept
    with _lock:
        spare = _free.get(size)
        if spare:
            _kept -= size
            return spare.pop()
    return Block(size)


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
