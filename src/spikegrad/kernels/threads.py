"""How threads share out the columns of a call: each claims a block at a time from a counter, until none is left.

Waking a thread takes as long as a small layer, so nobody waits for one: the caller begins at once, the others take what is left when they
arrive, and the caller looks for their last blocks before it would sleep. Numba's own pools do not survive a fork, or abort when two
threads use them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

_LINE = 8
"""Counters to a cache line. Each counter has one of its own: first that of the columns that are done, then for each thread the next column
of its share, followed by the end of the share."""
_LOOKS = 20_000
"""How often the caller looks for the others' last blocks, which take some ten microseconds, before it sleeps."""

_queues: list[SimpleQueue[Any]] = []
"""One for each thread, so that a thread always has the same share, some of which its cache may still hold."""


@intrinsic
def _added(typing_context: Any, array: Any, place: Any, value: Any) -> Any:  # pyright: ignore[reportUnusedParameter]
    """Add to an element of an array as one indivisible operation; what it was before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given, at, by = (context.cast(builder, a, t, w) for a, t, w in zip(arguments, signature.args, wanted.args, strict=True))
        data = context.make_array(array)(context, builder, given).data
        return builder.atomic_rmw("add", builder.gep(data, [at]), by, "acq_rel")

    wanted = types.uint64(array, types.intp, types.uint64)
    return wanted, generate


_add: Any = _added


@numba.njit(forceinline=True)
def claimed(shared: Any, mine: Any, block: Any, columns: Any) -> Any:
    """The first column of a block for this thread, of its own share or, when that is done, of another's; `columns` if none is left."""
    threads = shared.shape[0] // _LINE - 1
    for k in range(threads):
        place = ((mine + k) % threads + 1) * _LINE
        start = _add(shared, place, block)
        if start < shared[place + 1]:
            return start
    return columns


@numba.njit(forceinline=True)
def settle(shared: Any, count: Any) -> None:
    """Report columns as done."""
    _add(shared, 0, count)


@numba.njit(forceinline=True)
def finished(shared: Any, columns: Any) -> bool:
    """Whether all columns are done, now or very soon."""
    for _ in range(_LOOKS):  # noqa: SIM110
        if _add(shared, 0, 0) == columns:
            return True
    return False


def run(kernel: Callable[..., bool], threads: int, columns: int, block: int, arguments: tuple[Any, ...]) -> None:
    """Run a kernel on all columns: ``kernel(counters, number of the thread, block, *arguments)``."""
    shared = np.zeros((threads + 1) * _LINE, np.uint64)
    blocks = -(-columns // block)
    for k in range(threads):
        place = (k + 1) * _LINE
        shared[place], shared[place + 1] = blocks * k // threads * block, min(columns, blocks * (k + 1) // threads * block)
    if threads == 1:
        kernel(shared, 0, block, *arguments)
        return
    left: SimpleQueue[None] = SimpleQueue()
    while len(_queues) < threads - 1:
        jobs: SimpleQueue[Any] = SimpleQueue()  # has its thread before another caller can find it
        threading.Thread(target=_work, args=(jobs,), name=f"spikegrad-{len(_queues) + 1}", daemon=True).start()
        _queues.append(jobs)
    for k in range(1, threads):
        _queues[k - 1].put((kernel, shared, k, block, arguments, left))
    if kernel(shared, 0, block, *arguments):
        return
    for _ in range(threads - 1):
        left.get()
        if shared[0] == columns:
            return
    raise RuntimeError("a thread ended before its columns were done")


def _work(jobs: SimpleQueue[Any]) -> None:
    while True:
        _take(*jobs.get())


def _take(kernel: Callable[..., bool], shared: Any, mine: int, block: int, arguments: tuple[Any, ...], left: SimpleQueue[None]) -> None:
    """In a function of its own, so that a waiting thread holds no arrays."""
    try:
        kernel(shared, mine, block, *arguments)
    finally:
        left.put(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_queues.clear)  # threads do not survive a fork
