"""Tensors for the results of kernels, in memory that is used again.

The first touch of fresh memory costs a page fault for every 4 KiB, for a layer's output more than the kernel that fills it, and allocators
give large pieces back to the system as soon as they are freed, some time or other. So the memory of large results stays here, and a new
result takes it when nothing else refers to it any more.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from spikegrad.kernels.cpu import memory
from spikegrad.kernels.lock import across_forks

_SMALLEST = 2**20
"""Bytes from which memory is kept."""
_LIMIT = memory.limit()
"""Bytes kept at most, used or not: by default enough for the output and the gradient of a layer with 32 million neurons times steps."""

_count: Any = getattr(torch._C, "_storage_Use_Count", None)  # pyright: ignore[reportPrivateUsage]
"""How many tensors share a storage, and then some; without that nothing is kept."""


class _Kept:
    """A tensor whose memory may be given out, to one at a time."""

    __slots__ = ("address", "alone", "pointer", "storage", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.address = tensor, tensor.data_ptr()
        self.storage: Any = tensor.untyped_storage()
        self.pointer: int = self.storage._cdata
        self.alone = self.users()

    def users(self) -> int:
        """A number that grows by one with each tensor, and each reference in Python, to the storage."""
        return _count(self.pointer) + sys.getrefcount(self.storage)

    def free(self) -> bool:
        """Whether nothing else refers to the memory. A storage that moved to where another process may read it has it elsewhere."""
        return self.users() == self.alone and self.tensor.data_ptr() == self.address


_kept: OrderedDict[tuple[tuple[int, ...], torch.dtype], list[_Kept]] = OrderedDict()
"""By shape and dtype; those used lately come last."""
_lock = across_forks(threading.Lock())


@functools.lru_cache(maxsize=1024)
def _like(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, bool]:
    """A tensor of this kind without memory, from which one is made in half of the time; and whether its memory is worth keeping."""
    like = torch.empty((), dtype=dtype, device="cpu").expand(shape)
    return like, _count is not None and like.nbytes >= _SMALLEST


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised contiguous tensor on the CPU, without gradient."""
    like, large = _like(shape, dtype)
    if not large:
        return torch.empty_like(like)
    key = shape, dtype
    with _lock:
        found = _kept.get(key, [])
        for k in range(len(found) - 1, -1, -1):  # what was given out last may still be in the processor's cache
            if found[k].free():
                found.append(found.pop(k))
                return found[-1].tensor.data
    with torch.inference_mode(False):
        # PyTorch's own memory, so that a result can be resized; larger than it, for where a huge page begins. Though results are used
        # again this counts: in pairs of processes a layer took 1.12 times as long on small pages at (500, 16, 4096), and 1.5 times at
        # (100, 16, 512) on a busy machine, whose other processes take the processor's few addresses of pages; 1.2 times there if only the
        # huge pages that fit inside of a tensor are asked for.
        whole = torch.empty(memory.room(like.nbytes) // dtype.itemsize, dtype=dtype, device="cpu")
        start = memory.placed(whole.data_ptr(), like.nbytes) // dtype.itemsize
        tensor = whole[start : start + like.numel()].view(shape)
    with _lock:
        _kept.setdefault(key, []).append(_Kept(tensor))
        _kept.move_to_end(key)
        _forget()
        return tensor.data


def release() -> None:
    """Keep nothing; what is in use stays with who has it."""
    with _lock:
        _kept.clear()


def _forget() -> None:
    """Keep what the limit allows."""
    while sum(kept.tensor.nbytes for found in _kept.values() for kept in found) > _LIMIT:
        oldest, found = next(iter(_kept.items()))
        found.pop(0)
        if not found:
            del _kept[oldest]
