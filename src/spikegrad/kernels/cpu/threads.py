"""How a job's columns are shared out, and who works on them: the threads of PyTorch's own OpenMP team.

PyTorch's threads go on looking for work for a moment after each of its operations, and keep the processor's cores from anybody else: after
a matrix product a thread of our own begins late, or not at all. So the kernels run on that team, through the libgomp that PyTorch has
loaded. Without it a plain executor does; in a child process, where a team does not survive, the caller alone.

A job is an array of words: the kernel's address and how its columns are shared out, then its arguments, then the counters. Each thread
claims a block of columns at a time, of its own share or, when that is done, of another's, so that one that starts late takes fewer. Which
thread computes a column changes nothing in it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
from llvmlite import binding
from numba.core import types

from spikegrad.kernels.cpu.instructions import WORD, WORDS, Node, Words, added, element, instruction

KERNEL, THREADS, STEPS, COLUMNS, BLOCK, COUNTERS, SCRATCH, SHARE, ARGUMENTS = range(9)
"""Words of a job: the kernel's address; number of threads, of time steps, of columns, and of columns in a block; where the counters are;
the address of scratch, and how many bytes of it each thread has; and the first argument, which has two words, like each after it."""
LINE = 8
"""Words of a cache line. Each thread has one for its counters: the next column of its share, and the end of the share."""
MOST = 256
"""Threads at most."""

U = np.uint64


@numba.njit(forceinline=True)
def claimed(job: Words, mine: np.uint64) -> np.uint64:
    """The first column of a block for this thread, of its own share or, when that is done, of another's; if none is left, past the last."""
    for k in range(job[THREADS]):
        place = job[COUNTERS] + (mine + k) % job[THREADS] * LINE
        start = added(job, place, job[BLOCK])
        if start < job[place + 1]:
            return start
    return job[COLUMNS]


@numba.njit(forceinline=True)
def claimed_back(job: Words, mine: np.uint64) -> np.uint64:
    """As `claimed`, the last block first: that of a forward pass just before may still be in the cache."""
    start = claimed(job, job[THREADS] - U(1) - mine)
    if start == job[COLUMNS]:
        return start
    return (job[COLUMNS] - U(1)) // job[BLOCK] * job[BLOCK] - start


@numba.njit(forceinline=True)
def shared_out(job: Words) -> None:
    """Give each thread its share of the blocks."""
    threads, block = job[THREADS], job[BLOCK]
    blocks = (job[COLUMNS] + block - U(1)) // block
    for k in range(threads):
        place = job[COUNTERS] + k * U(LINE)
        job[place] = blocks * k // threads * block
        job[place + U(1)] = min(job[COLUMNS], blocks * (k + U(1)) // threads * block)


# One instruction where Numba would have ten to infer the types of, which is what compiling takes its time for.


def row_at(kind: types.Type) -> Callable[..., Words]:
    """A function to where an argument, by its place among them, has the row of a time, from a column on, as numbers of this type."""

    @instruction(types.CPointer(kind), WORDS, types.intp, types.uint64, types.uint64)
    def at(builder: Node, job: Node, argument: Node, time: Node, column: Node) -> Node:
        place = builder.add(builder.mul(argument, WORD(2)), WORD(ARGUMENTS))
        address, stride = (builder.load(builder.gep(job, [builder.add(place, WORD(k))])) for k in range(2))
        return _offset(builder, address, builder.add(builder.mul(time, stride), column), kind)

    return at


def row_from(kind: types.Type) -> Callable[..., Words]:
    """A function to where an argument, by its place among them, has one row, from a column on, as numbers of this type."""

    @instruction(types.CPointer(kind), WORDS, types.intp, types.uint64)
    def since(builder: Node, job: Node, argument: Node, column: Node) -> Node:
        address = builder.load(builder.gep(job, [builder.add(builder.mul(argument, WORD(2)), WORD(ARGUMENTS))]))
        return _offset(builder, address, column, kind)

    return since


def row_held(kind: types.Type) -> Callable[..., Words]:
    """A function to a row of scratch, of which one has so many bytes: the first of a few, and that of a time, which has so many."""

    @instruction(types.CPointer(kind), types.uint64, types.uint64, types.uint64, types.uint64, types.uint64)
    def held(builder: Node, rows: Node, line: Node, first: Node, time: Node, each: Node) -> Node:
        number = builder.add(first, builder.mul(time, each))
        return builder.inttoptr(builder.add(rows, builder.mul(number, line)), element(kind).as_pointer())

    return held


def _offset(builder: Node, address: Node, count: Node, kind: Node) -> Node:
    """A pointer to what lies behind so many elements."""
    return builder.inttoptr(builder.add(address, builder.mul(count, WORD(kind.bitwidth // 8))), element(kind).as_pointer())


def job(kernel: int, threads: int, steps: int, columns: int, block: int, share: int, arguments: Sequence[int]) -> array[int]:
    """The words of a job: run the kernel at an address on all columns, with at most this many threads."""
    counters = ARGUMENTS + len(arguments)
    return array("Q", (kernel, threads, steps, columns, block, counters, 0, share, *arguments, *(0,) * (LINE * threads)))


def loaded_libraries(*names: str) -> list[Path]:
    """The shared libraries of this process whose file names begin like this; none where it cannot be told."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return []
    paths = {Path(fields[5].strip()) for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if path.name.startswith(names))


def openmp() -> Path | None:
    """The OpenMP library whose team PyTorch uses in this process, or None if there is none that we know."""
    torch = sys.modules.get("torch")
    found = loaded_libraries("libgomp", "libiomp5")
    own = [path for path in found if torch is not None and Path(str(torch.__file__)).parent in path.parents]
    return own[0] if own else found[0] if len(found) == 1 else None


_SOURCE = """
types = numba.types
team_number = types.ExternalFunction("spikegrad_thread_number", types.int32())
parallel = types.ExternalFunction("spikegrad_parallel", types.void(types.uint64, types.uint64, types.uint32, types.uint32))


@entry(2)
def member(address, _):
    called(words(address)[KERNEL], address, U(team_number()))


@entry(2)
def launch(address, member):
    job = words(address)
    shared_out(job)
    if job[THREADS] == U(1):
        called(job[KERNEL], address, U(0))
    else:
        parallel(member, address, np.uint32(job[THREADS]), np.uint32(0))
"""
_ALONE = """
@entry(2)
def launch(address, _):
    job = words(address)
    shared_out(job)
    if job[THREADS] == U(1):
        called(job[KERNEL], address, U(0))
"""
_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64)


@functools.cache
def _launcher() -> tuple[Callable[[int, int], None], int]:
    """What starts a job, and the address of what each thread of a team runs, 0 where there is none."""
    from spikegrad.kernels.cpu.compiler import header, loaded

    library = openmp()
    if library is None:
        return _SIGNATURE(loaded("launch", header("float32") + _ALONE).launch.address), 0
    functions = ctypes.CDLL(str(library))
    for symbol, name in (("spikegrad_thread_number", "omp_get_thread_num"), ("spikegrad_parallel", "GOMP_parallel")):
        binding.add_symbol(symbol, ctypes.cast(getattr(functions, name), ctypes.c_void_p).value or 0)
    module = loaded("team", header("float32") + _SOURCE)
    return _SIGNATURE(module.launch.address), module.member.address


@functools.cache
def _executor() -> Executor:
    return ThreadPoolExecutor(MOST, thread_name_prefix="spikegrad")


_forked = False


def run(job: array[int]) -> None:
    """Do a job."""
    if _forked:
        job[THREADS] = 1
    launch, member = _launcher()
    address = job.buffer_info()[0]
    launch(address, member)
    threads = job[THREADS]
    if not member and threads > 1:
        kernel = _SIGNATURE(job[KERNEL])
        others = [_executor().submit(kernel, address, k) for k in range(1, threads)]
        kernel(address, 0)
        for other in others:
            other.result()


def _alone() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
