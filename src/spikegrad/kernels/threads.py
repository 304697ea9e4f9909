"""How threads share out the columns of a call: each claims a block at a time from a counter, until none is left.

Waking a thread takes as long as a small layer. So nobody waits for one: the caller begins at once, the others take what is left when they
arrive, and who has not arrived by the end is no longer expected. And who has worked stays awake for a moment, ready for the next call: a
worker looks for jobs in machine code, without the interpreter's lock, and only then goes to sleep. Numba's own pools do not survive a fork,
or abort when two threads use them.

A job is an array of words: the kernel's address and how its columns are shared out, then the kernel's arguments, then the counters. Each
worker has a box, a state and the address of a job. The caller posts the job in the boxes of those who are idle, and takes back what nobody
took; a worker that serves another caller is not waited for.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from array import array
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

KERNEL, THREADS, COLUMNS, BLOCK, COUNTERS, ARGUMENTS = range(6)
"""Words of a job: the kernel's address, number of threads, columns, columns of a block, where the counters are, and the first argument."""
_LINE = 8
"""Words of a cache line. Each thread has one for its counters: the next column of its share, and the end of the share. A box is another."""
_STATE, _JOB = range(2)
_IDLE, _ASLEEP, _RESERVED, _POSTED, _TAKEN = range(5)
MOST = 256
"""Threads at most."""
_LOOKS = 100
"""How often the caller looks for the others' last blocks before it lets others run."""
_PATIENCE = 2000
"""How often a worker looks for the next job before it sleeps, letting others run each time: some tenths of a millisecond, more than lies
between two passes of a small layer."""

U = np.uint64
WORDS = types.CPointer(types.uint64)


@intrinsic
def _added(typing_context: Any, words: Any, place: Any, value: Any) -> Any:  # pyright: ignore[reportUnusedParameter]
    """Add to a word as one indivisible operation; what it was before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given, at, by = (context.cast(builder, a, t, w) for a, t, w in zip(arguments, signature.args, wanted.args, strict=True))
        return builder.atomic_rmw("add", builder.gep(given, [at]), by, "acq_rel")

    wanted = types.uint64(WORDS, types.intp, types.uint64)
    return wanted, generate


@intrinsic
def _changed(typing_context: Any, words: Any, place: Any, before: Any, after: Any) -> Any:  # pyright: ignore[reportUnusedParameter]
    """Change a word as one indivisible operation, if it is what it should be; whether it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given, at, old, new = (context.cast(builder, a, t, w) for a, t, w in zip(arguments, signature.args, wanted.args, strict=True))
        return builder.extract_value(builder.cmpxchg(builder.gep(given, [at]), old, new, "acq_rel", "acquire"), 1)

    wanted = types.boolean(WORDS, types.intp, types.uint64, types.uint64)
    return wanted, generate


@intrinsic
def _seen(typing_context: Any, words: Any, place: Any) -> Any:  # pyright: ignore[reportUnusedParameter]
    """A word that another thread may change."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given, at = (context.cast(builder, a, t, w) for a, t, w in zip(arguments, signature.args, wanted.args, strict=True))
        return builder.load_atomic(builder.gep(given, [at]), "acquire", 8)

    wanted = types.uint64(WORDS, types.intp)
    return wanted, generate


@intrinsic
def _called(typing_context: Any, job: Any, mine: Any) -> Any:  # pyright: ignore[reportUnusedParameter]
    """Call the kernel of a job."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        job, mine = (context.cast(builder, a, t, w) for a, t, w in zip(arguments, signature.args, wanted.args, strict=True))
        kernel = ir.FunctionType(ir.VoidType(), [job.type, mine.type]).as_pointer()
        builder.call(builder.inttoptr(builder.load(job), kernel), [job, mine])
        return context.get_dummy_value()

    wanted = types.none(WORDS, types.uint64)
    return wanted, generate


@intrinsic
def _words(typing_context: Any, address: Any) -> Any:  # pyright: ignore[reportUnusedParameter]
    """The words at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(WORDS))

    return WORDS(types.uint64), generate


add: Any = _added
changed: Any = _changed
seen: Any = _seen
call: Any = _called
words: Any = _words

if hasattr(os, "sched_yield"):
    _yield = types.ExternalFunction("sched_yield", types.int32())
else:

    @numba.njit
    def _yield() -> int:
        return 0


@numba.njit(forceinline=True)
def claimed(job: Any, mine: Any) -> Any:
    """The first column of a block for this thread, of its own share or, when that is done, of another's; if none is left, past the last."""
    for k in range(job[THREADS]):
        place = job[COUNTERS] + (mine + k) % job[THREADS] * _LINE
        start = add(job, place, job[BLOCK])
        if start < job[place + 1]:
            return start
    return job[COLUMNS]


@numba.njit(forceinline=True)
def claimed_back(job: Any, mine: Any) -> Any:
    """As `claimed`, the last block first: that of a forward pass just before may still be in the cache."""
    start = claimed(job, job[THREADS] - U(1) - mine)
    if start == job[COLUMNS]:
        return start
    return (job[COLUMNS] - U(1)) // job[BLOCK] * job[BLOCK] - start


@numba.njit
def launch(job: Any, boxes: Any) -> None:
    """Do the job at an address, with the help of the workers who are awake."""
    address, job, boxes = job, words(job), words(boxes)
    threads, block = job[THREADS], job[BLOCK]
    blocks = (job[COLUMNS] + block - 1) // block
    for k in range(threads):
        place = job[COUNTERS] + k * _LINE
        job[place] = blocks * k // threads * block
        job[place + 1] = min(job[COLUMNS], blocks * (k + 1) // threads * block)
    for k in range(threads - 1):
        box = k * _LINE
        if changed(boxes, box + _STATE, _IDLE, _RESERVED):
            boxes[box + _JOB] = address
            changed(boxes, box + _STATE, _RESERVED, _POSTED)
    call(job, 0)
    for k in range(threads - 1):
        box = k * _LINE
        if seen(boxes, box + _JOB) == address:
            changed(boxes, box + _STATE, _POSTED, _IDLE)
    looks = 0
    for k in range(threads - 1):
        box = k * _LINE
        while seen(boxes, box + _STATE) == _TAKEN and seen(boxes, box + _JOB) == address:
            looks += 1
            if looks > _LOOKS:
                _yield()


@numba.njit
def serve(box: Any, mine: Any) -> None:
    """Do the jobs that are posted in the box at an address, until there has been none for a while."""
    box, looks = words(box), 0
    while True:
        if seen(box, _STATE) == _POSTED and changed(box, _STATE, _POSTED, _TAKEN):
            call(words(box[_JOB]), mine)
            changed(box, _STATE, _TAKEN, _IDLE)
            looks = 0
        elif looks >= _PATIENCE and changed(box, _STATE, _IDLE, _ASLEEP):
            return
        _yield()
        looks += 1


class _Pool:
    """The workers of this process, of which there are as many as a call has asked for, less the caller."""

    def __init__(self) -> None:
        from spikegrad.kernels.compiler import pool

        signature = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64)
        self.launch, self.serve = (signature(address) for address in pool())
        boxes: Any = np.zeros(MOST * _LINE, np.uint64)
        self.states, self.address = memoryview(boxes)[_STATE:], int(boxes.ctypes.data)
        self.signals: list[SimpleQueue[bool]] = []
        self.workers: list[threading.Thread] = []
        self.lock = threading.Lock()

    def wake(self, number: int) -> None:
        """Have this many workers awake soon."""
        while len(self.workers) < number:
            with self.lock:
                if len(self.workers) < number:
                    self._hire()
        for k in range(number):
            if self.states[k * _LINE] == _ASLEEP:
                with self.lock:  # another caller may wake the same worker
                    if self.states[k * _LINE] == _ASLEEP:
                        self.states[k * _LINE] = _IDLE
                        self.signals[k].put(True)

    def _hire(self) -> None:
        k, signal = len(self.workers), SimpleQueue[bool]()
        self.states[k * _LINE] = _ASLEEP
        self.signals.append(signal)
        worker = threading.Thread(target=self._work, args=(k, signal), name=f"spikegrad-{k + 1}", daemon=True)
        worker.start()
        self.workers.append(worker)

    def _work(self, k: int, signal: SimpleQueue[bool]) -> None:
        while signal.get():
            self.serve(self.address + k * _LINE * 8, k + 1)

    def close(self) -> None:
        """Send the workers home: at the interpreter's end none may be in machine code that is about to go."""
        for signal in self.signals:
            signal.put(False)
        for worker in self.workers:
            worker.join(1.0)


_lock = threading.Lock()
_pools: list[_Pool] = []
"""None or one."""


def _pool() -> _Pool:
    if not _pools:
        with _lock:
            if not _pools:
                pool = _Pool()
                atexit.register(pool.close)
                _pools.append(pool)
    return _pools[0]


def job(kernel: int, threads: int, columns: int, block: int, arguments: Sequence[int]) -> array[int]:
    """The words of a job: run the kernel at an address on all columns, with at most this many threads."""
    counters = ARGUMENTS + len(arguments)
    return array("Q", (kernel, threads, columns, block, counters, *arguments, *(0,) * (_LINE * threads)))


def run(job: array[int]) -> None:
    """Do a job."""
    pool = _pool()
    if job[THREADS] > 1:
        pool.wake(job[THREADS] - 1)
    pool.launch(job.buffer_info()[0], pool.address)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork
