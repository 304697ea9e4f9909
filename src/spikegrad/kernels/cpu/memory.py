"""Memory for kernels: huge pages under what is large, and scratch that is used again.

The first touch of fresh memory costs a page fault for every 4 KiB, more than the kernel that fills it, and allocators give large pieces
back to the system as soon as they are freed. So what was used is kept, up to a limit, past which sizes not used lately go first. A pass
over memory in small pages also leaves the processor without the addresses of everything else, the interpreter's code included.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikegrad.errors import InputError
from spikegrad.kernels.lock import across_forks

_LINE = 64
"""Bytes of a cache line: a vector that lies on two of them costs two accesses."""
_HUGE = 2**21
"""Bytes of a huge page."""
_LARGE = 2**19
"""Bytes for which a huge page is worth having."""
_MADV_HUGEPAGE = 14
_PIECE = 2**25
"""Bytes above which the C library takes memory from the system for each piece alone."""
_TRIMMED = 2**26
"""Bytes that come and go before what the C library has free is given back: more often costs a page fault for all that is taken again, more
rarely lets a process grow."""
_came_and_went = 0


def limit() -> int:
    """Bytes that results of layers may keep, as the environment says; 256 MiB otherwise.

    Raises:
        InputError: it says something else than a whole number of MiB.
    """
    given = os.environ.get("SPIKEGRAD_KEEP", "256")
    if not given.isdecimal():
        raise InputError(f"SPIKEGRAD_KEEP must be a whole number of MiB that layers may keep to use again, 0 for none, got {given!r}")
    return int(given) * 2**20


_LIMIT = limit() // 4
"""Bytes kept at most: scratch is a block of columns for each thread, where results are whole sequences."""


try:
    _madvise: Any = ctypes.CDLL(None).madvise
    _madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
except (AttributeError, OSError, TypeError):  # not Linux
    _madvise = None


try:
    _trim: Any = ctypes.CDLL(None).malloc_trim
    _trim.argtypes = (ctypes.c_size_t,)
except (AttributeError, OSError, TypeError):  # not glibc
    _trim = None


def prefer_huge_pages(address: int, size: int) -> None:
    """Ask for huge pages where they fit into fresh memory."""
    first, last = -(-address // _HUGE) * _HUGE, (address + size) // _HUGE * _HUGE
    if _madvise is not None and first < last:
        _madvise(first, last - first, _MADV_HUGEPAGE)  # advice: where it is refused nothing is lost


def used(size: int) -> None:
    """Note that tensors of so many bytes came and went; now and then what the C library has free is given back to the system.

    Its aligned allocations do not fit where others were freed (before glibc 2.38), so that a process that runs one large layer after the
    other grows to twice what is ever in use. Pieces above 32 MiB are the system's own, and leave nothing behind.
    """
    global _came_and_went
    if _trim is None or size > _PIECE:
        return
    _came_and_went += size
    if _came_and_went >= _TRIMMED:
        _came_and_went = 0
        _trim(0)


def room(size: int) -> int:
    """How many bytes to allocate for so many that begin, and end, on a cache line or, if they are many, on a huge page."""
    unit = _unit(size)
    return -(-size // unit) * unit + unit


def placed(address: int, size: int) -> int:
    """Where so many bytes begin in memory allocated with `room` for them."""
    unit = _unit(size)
    start = -address % unit
    if unit == _HUGE:
        prefer_huge_pages(address + start, room(size) - unit)
    return start


def _unit(size: int) -> int:
    return _HUGE if size >= _LARGE and _madvise is not None else _LINE


def allocate(size: int) -> NDArray[np.uint8]:
    """This many bytes of uninitialised memory."""
    memory = np.empty(room(size), np.uint8)
    start = placed(memory.ctypes.data, size)
    return memory[start : start + size]


class Block:
    """A piece of memory, and where it is."""

    __slots__ = ("address", "bytes")

    def __init__(self, size: int) -> None:
        self.bytes = allocate(size)
        self.address: int = self.bytes.ctypes.data

    def data_ptr(self) -> int:
        """Its address, as a tensor gives it."""
        return self.address


_free: OrderedDict[int, list[Block]] = OrderedDict()
"""By size; sizes used lately come last."""
_kept = 0
_lock = across_forks(threading.Lock())


def take(size: int) -> Block:
    """This many bytes of uninitialised memory, to `give` back."""
    global _kept
    with _lock:
        spare = _free.get(size)
        if spare:
            _kept -= size
            return spare.pop()
    return Block(size)


def release() -> None:
    """Give all memory that is kept back to the system."""
    global _kept
    with _lock:
        _free.clear()
        _kept = 0


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
