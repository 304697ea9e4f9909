"""Tensors for the results of kernels, in memory that is used again.

The first touch of fresh memory costs a page fault for every 4 KiB, for a layer's output more than the kernel that fills it, and allocators
give large pieces back to the system as soon as they are freed, some time or other. So the memory of large results stays here, and a new
result takes it when nothing else refers to it any more.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from spikegrad.kernels import memory

_SMALLEST = 2**20
"""Bytes from which memory is kept."""
_LIMIT = 2**28
"""Bytes kept at most, used or not: enough for the output and the gradient of a layer with 32 million neurons times steps."""
_OURS = 1
"""Who refers to the memory of a result when only the tensor that is kept here does."""

_users: Any = getattr(torch._C, "_storage_Use_Count", None)  # pyright: ignore[reportPrivateUsage]
"""How many refer to a storage; without that nothing is kept."""
_Key = tuple[tuple[int, ...], torch.dtype]
_kept: OrderedDict[_Key, list[tuple[Tensor, int, int]]] = OrderedDict()
"""Tensors, and where their storages are and their memory is; shapes used lately come last."""
_lock = threading.Lock()


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised contiguous tensor on the CPU, without gradient."""
    key = shape, dtype
    with _lock:
        tensors = _kept.get(key, [])
        for k in range(len(tensors) - 1, -1, -1):  # what was given out last may still be in the processor's cache
            tensor, storage, address = tensors[k]
            # A storage that moved to where another process may read it has its memory elsewhere.
            if _users(storage) == _OURS and tensor.data_ptr() == address:
                tensors.append(tensors.pop(k))
                return tensor.data
    size = math.prod(shape) * dtype.itemsize
    if _users is None or size < _SMALLEST:
        return torch.empty(shape, dtype=dtype)
    with torch.inference_mode(False):
        tensor = torch.from_numpy(memory.allocate(size).view(str(dtype).removeprefix("torch.")).reshape(shape))
    storage: Any = tensor.untyped_storage()
    with _lock:
        _kept.setdefault(key, []).append((tensor, storage._cdata, tensor.data_ptr()))
        _kept.move_to_end(key)
        _forget()
        return tensor.data


def _forget() -> None:
    """Keep what the limit allows."""
    while sum(tensor.nbytes for tensors in _kept.values() for tensor, *_ in tensors) > _LIMIT:
        oldest, tensors = next(iter(_kept.items()))
        tensors.pop(0)
        if not tensors:
            del _kept[oldest]
