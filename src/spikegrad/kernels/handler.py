"""What XLA calls on the CPU: machine code that fills in a job from a call frame and runs it, without Python and its lock.

XLA calls a handler with the address of a frame of words; ``xla/ffi/api/c_api.h``, which jaxlib ships, describes it. There is one handler
for all kernels. A call carries which kernel it is for by the hash of all that it depends on, and not by an address, so that a compiled
program means the same in every process; what its buffers are stands beside the kernel in a table, and not in the program.

Blocks of columns are shared out as in `spikegrad.kernels.cpu.threads`; the helpers are threads of XLA's own pool, which may come late or
never. So nobody waits for a helper that has not begun; one that finds no block left may not touch XLA's buffers, which may be gone; and the
job is freed by whoever leaves last.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types

from spikegrad.kernels.cpu import passes
from spikegrad.kernels.cpu.compiler import compiled, header, loaded
from spikegrad.kernels.cpu.instructions import WORD, Node, Words, added, answered, called, instruction, pointer, seen, words
from spikegrad.kernels.cpu.source import Variant
from spikegrad.kernels.cpu.threads import (
    ARGUMENTS,
    BLOCK,
    COLUMNS,
    COUNTERS,
    KERNEL,
    LINE,
    SCRATCH,
    SHARE,
    STEPS,
    THREADS,
    shared_out,
)
from spikegrad.kernels.lock import LOCK, once

U = np.uint64
Memory = TypeVar("Memory", bound="ctypes.Array[Any]")
_FRAME_EXTENSION, FRAME_API, FRAME_CONTEXT = 1, 2, 3
ARGUMENT_COUNT, ARGUMENT_BUFFERS, RESULT_COUNT, RESULT_BUFFERS = 7, 9, 12, 14
_ATTRIBUTE_COUNT, _ATTRIBUTE_TYPES, _ATTRIBUTES = 17, 18, 20
_ERROR_CREATE, _ERROR_DESTROY, _SCHEDULE = 6, 8, 17
BUFFER_DATA, _BUFFER_RANK, _BUFFER_DIMS = 3, 4, 5
"""Words of a call frame, of the interface, and of a buffer."""
_METADATA, _ARRAY = 1, 1
"""The kind of the extension that asks for metadata; the type of an attribute of several numbers."""
INVALID, ABSENT = 3, 5
"""Codes of errors: of the caller's, and of something that is not there."""
_ACTIVE, _HELPERS, _USERS = 2, 3, 4
"""Words of a job's first counter line that are the handler's: helpers at work, helpers that have begun, who still has its address."""
BUCKETS = 1024
"""Of a table of kernels: the first kernel of each, by the lowest bits of their hashes."""
NEXT, HASH, KNOWN = range(3)
"""Words of a kernel in it: the next one of its bucket, its hash, and the first of all that is known of it."""
_ADDRESS, _HELP, _THREADS, _ARGUMENTS, _RESULTS, _WHOLE, _EACH, _ITEM, _NARROWEST, _FED, _COUNT, _PLACES = range(KNOWN, KNOWN + 12)
"""Of a kernel here: its address, what XLA's threads are given to run, how many of these may, buffers that are given and made, rows of
scratch of a block and of each step, bytes of a number, columns of a page, whether it is fed back, and its arguments.

Then four for each of these: where it comes from, which buffer of these it is, what it is, and bytes: of a number of a large result, or of
one of a share that starts at zero.
"""
_NOWHERE, _GIVEN, _MADE = range(3)
_NUMBERS, _ROWS, _WEIGHTS = range(3)
_FRESH = 2**23
"""Bytes of a result from which XLA's memory comes from the system each time, and is worth huge pages."""
_HUGE, _MADV_HUGEPAGE = 2**21, 14

ints = pointer(types.int32)
allocated = types.ExternalFunction("malloc", types.uint64(types.uint64))
freed = types.ExternalFunction("free", types.void(types.uint64))
_clear = types.ExternalFunction("memset", types.uint64(types.uint64, types.int32, types.uint64))
_yield = types.ExternalFunction("sched_yield", types.int32()) if hasattr(os, "sched_yield") else numba.njit(lambda: 0)
_advise = types.ExternalFunction("madvise", types.int32(types.uint64, types.uint64, types.int32))
_LINUX = os.uname().sysname == "Linux" if hasattr(os, "uname") else False


def _interface() -> tuple[int, int]:
    """The version of the interface that this jaxlib speaks; what is used of it has been the same since 0.1."""
    try:
        text = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text(encoding="utf-8")
        found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
        return int(found[0][1]), int(found[1][1])  # pyright: ignore[reportOptionalSubscript]
    except (OSError, TypeError):
        return 0, 1


_MAJOR, _MINOR = _interface()
_VERSION = U(_MAJOR | _MINOR << 32)


def code(symbol: str) -> Callable[[], np.uint64]:
    """A function without arguments that returns the address of a symbol: machine code in the disk cache knows names, not addresses."""

    @instruction(types.uint64)
    def address(builder: Node) -> Node:
        return builder.ptrtoint(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), symbol), WORD)

    return address


def text(value: str) -> Callable[[], np.uint64]:
    """A function without arguments that returns the address of a constant text."""

    @instruction(types.uint64)
    def address(builder: Node) -> Node:
        return builder.ptrtoint(cgutils.global_constant(builder, "text", cgutils.make_bytearray(value.encode() + bytes(1))), WORD)

    return address


wrong = text("spikegrad: this call has other buffers than its kernel takes; trace the program again")
unknown = text("spikegrad: this program was traced in another process, which knows its kernels; trace it again")


@numba.njit(error_model="numpy")
def refused(frame: Words, message: np.uint64, code: np.uint64) -> np.uint64:
    """An error for XLA, with a text at an address, which it copies."""
    address = allocated(U(32))
    given = words(address)
    given[0], given[1], given[2], given[3] = U(32), U(0), message, code
    made = answered(words(frame[FRAME_API])[_ERROR_CREATE], address)
    freed(address)
    return made


@numba.njit(error_model="numpy")
def asked(frame: Words) -> bool:
    """Whether the frame only asks which version of the interface the handler speaks; then that is answered."""
    if frame[_FRAME_EXTENSION] == U(0) or ints(frame[_FRAME_EXTENSION] + U(8))[0] != _METADATA:
        return False
    metadata = words(frame[_FRAME_EXTENSION])[3]
    words(metadata)[3] = _VERSION
    ints(metadata + U(32))[0] = 0
    return True


@numba.njit(error_model="numpy")
def attribute(frame: Words) -> np.uint64:
    """The address of the whole numbers that are a call's only attribute; 0 of a call that has none such."""
    if frame[_ATTRIBUTE_COUNT] != U(1) or ints(frame[_ATTRIBUTE_TYPES])[0] != _ARRAY:
        return U(0)
    array = words(words(frame[_ATTRIBUTES])[0])
    return array[2] if array[1] > U(0) else U(0)


@numba.njit(error_model="numpy")
def found(table: Words, key: np.uint64) -> np.uint64:
    """The address of a kernel, 0 if it is not known."""
    address = table[key % U(BUCKETS)]
    while address != U(0) and words(address)[HASH] != key:
        address = words(address)[NEXT]
    return address


@numba.njit(error_model="numpy")
def begun(kernel: Words, buffer: Words) -> np.uint64:
    """The address of a new job of a kernel, for sequences like that in a buffer."""
    dims, threads, item, arguments = words(buffer[_BUFFER_DIMS]), kernel[_THREADS], kernel[_ITEM], kernel[_COUNT]
    steps, columns = dims[0], U(1)
    for k in range(U(1), buffer[_BUFFER_RANK]):
        columns *= dims[k]
    rows = max(kernel[_WHOLE] + kernel[_EACH] * steps, U(1))
    if threads == U(1) or steps * columns < U(passes.SMALL):
        threads = U(1)
    share = (columns + threads * U(passes.BLOCKS) - U(1)) // (threads * U(passes.BLOCKS)) if threads > U(1) else columns
    fits = max(U(passes.CACHE) // (item * rows), min(kernel[_NARROWEST], U(passes.ROOM) // (item * rows)))
    block = max(U(64), min(U(passes.WIDEST), min(fits, share + U(63))) // U(64) * U(64))
    if kernel[_FED] > U(0):
        block = dims[buffer[_BUFFER_RANK] - U(1)] * U(passes.SAMPLES)
    threads = max(U(1), min(threads, (columns + block - U(1)) // block))
    scratch = (rows * block * item + U(63)) // U(64) * U(64)
    counters = U(ARGUMENTS) + arguments * U(2)
    size = (counters + U(LINE) * threads) * U(8)
    size = (size + U(63)) // U(64) * U(64)
    address = allocated(size + scratch * threads + U(64))
    job = words(address)
    job[THREADS], job[STEPS], job[COLUMNS], job[BLOCK], job[COUNTERS] = threads, steps, columns, block, counters
    job[SCRATCH], job[SHARE] = (address + size + U(63)) // U(64) * U(64), scratch
    shared_out(job)
    job[counters + U(_ACTIVE)], job[counters + U(_HELPERS)], job[counters + U(_USERS)] = U(0), U(1), U(1)
    return address


@numba.njit(error_model="numpy")
def placed(job: Words, place: np.uint64, buffer: Words, rows: bool) -> None:
    """Write a buffer into a job as one of its arguments: of rows, of columns, or one number for all columns."""
    job[U(ARGUMENTS) + place * U(2)] = buffer[BUFFER_DATA]
    job[U(ARGUMENTS) + place * U(2) + U(1)] = job[COLUMNS] if rows else U(1) if buffer[_BUFFER_RANK] > U(0) else U(0)


@numba.njit(error_model="numpy")
def connected(job: Words, place: np.uint64, buffer: Words, clear: np.uint64) -> None:
    """Write a buffer of recurrent weights into a job, or of each block's share of their gradient, which starts at zero."""
    dims = words(buffer[_BUFFER_DIMS])
    features = dims[buffer[_BUFFER_RANK] - U(1)]
    job[U(ARGUMENTS) + place * U(2)] = buffer[BUFFER_DATA]
    job[U(ARGUMENTS) + place * U(2) + U(1)] = features
    if clear > U(0):
        _clear(buffer[BUFFER_DATA], np.int32(0), dims[0] * features * features * clear)


@numba.njit(error_model="numpy")
def advised(address: np.uint64, size: np.uint64) -> None:
    """Ask for huge pages under a large result, where they fit; advice, so that where it is refused nothing is lost."""
    if _LINUX and size >= U(_FRESH):
        first = (address + U(_HUGE - 1)) // U(_HUGE) * U(_HUGE)
        _advise(first, (address + size) // U(_HUGE) * U(_HUGE) - first, np.int32(_MADV_HUGEPAGE))


@numba.njit(error_model="numpy")
def left(address: np.uint64) -> None:
    """Free the job if nobody else has its address."""
    job = words(address)
    if added(job, job[COUNTERS] + U(_USERS), U(2**64 - 1)) == U(1):
        freed(address)


@numba.njit(error_model="numpy")
def unclaimed(job: Words) -> bool:
    """Whether a block was left. Whoever claims it then knows all that this thread did before: it asks by the operation that claims."""
    for k in range(job[THREADS]):
        place = job[COUNTERS] + k * U(LINE)
        if added(job, place, U(0)) < job[place + U(1)]:
            return True
    return False


@numba.njit(error_model="numpy")
def helped(address: np.uint64) -> None:
    """What a thread of XLA's pool does: blocks of the job, until none is left."""
    job = words(address)
    added(job, job[COUNTERS] + U(_ACTIVE), U(1))
    mine = added(job, job[COUNTERS] + U(_HELPERS), U(1))
    if unclaimed(job):  # else nobody waits for this thread, and a kernel reads its numbers before it claims
        called(job[KERNEL], address, mine)
    added(job, job[COUNTERS] + U(_ACTIVE), U(2**64 - 1))
    left(address)


@numba.njit(error_model="numpy")
def done(frame: Words, address: np.uint64, kernel: np.uint64, helper: np.uint64) -> None:
    """Run a kernel's job, with the help of XLA's threads."""
    job = words(address)
    job[KERNEL] = kernel
    if job[THREADS] > U(1):
        given = allocated(U(40))
        request = words(given)
        request[0], request[1], request[2], request[3], request[4] = U(40), U(0), frame[FRAME_CONTEXT], helper, address
        for _ in range(job[THREADS] - U(1)):
            added(job, job[COUNTERS] + U(_USERS), U(1))
            error = answered(words(frame[FRAME_API])[_SCHEDULE], given)
            if error != U(0):  # there is no pool: alone, then
                request[0], request[2] = U(24), error
                answered(words(frame[FRAME_API])[_ERROR_DESTROY], given)
                left(address)
                break
        freed(given)
    called(kernel, address, U(0))
    while seen(job, job[COUNTERS] + U(_ACTIVE)) != U(0):
        _yield()
    left(address)


@numba.njit(error_model="numpy")
def ran(frame: Words, table: Words) -> np.uint64:
    """Run the kernel that a call frame is for; an error for XLA, or 0."""
    carried = attribute(frame)
    known = U(0) if carried == U(0) else found(table, words(carried)[0])
    if known == U(0):
        return refused(frame, unknown(), U(ABSENT))
    kernel = words(known)
    if frame[ARGUMENT_COUNT] != kernel[_ARGUMENTS] or frame[RESULT_COUNT] != kernel[_RESULTS]:
        return refused(frame, wrong(), U(INVALID))
    given, made = words(frame[ARGUMENT_BUFFERS]), words(frame[RESULT_BUFFERS])
    address = begun(kernel, words(made[0]))  # of what is given, nothing need be a sequence
    job = words(address)
    for k in range(kernel[_COUNT]):
        place = U(k)
        first = U(_PLACES) + place * U(4)
        source, which, what, item = kernel[first], kernel[first + U(1)], kernel[first + U(2)], kernel[first + U(3)]
        if source == U(_NOWHERE):  # nobody wants this result
            job[U(ARGUMENTS) + place * U(2)], job[U(ARGUMENTS) + place * U(2) + U(1)] = U(0), U(0)
            continue
        buffer = words(given[which] if source == U(_GIVEN) else made[which])
        if what == U(_WEIGHTS):
            connected(job, place, buffer, item)
            continue
        placed(job, place, buffer, what == U(_ROWS))
        if item > U(0):
            advised(buffer[BUFFER_DATA], job[STEPS] * job[COLUMNS] * item)
    done(frame, address, kernel[_ADDRESS], kernel[_HELP])
    return U(0)


def lasting(memory: Memory) -> Memory:
    """Memory that nothing frees: XLA's threads may still read it when Python has tidied up at its end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
    return memory


class Table:
    """Kernels by their hashes, as machine code finds them."""

    def __init__(self) -> None:
        self.memory = lasting((ctypes.c_uint64 * BUCKETS)())
        self.entries: dict[int, ctypes.Array[ctypes.c_uint64]] = {}

    def add(self, key: int, known: Sequence[int]) -> None:
        """Make a kernel known, unless it is: the words that are known of it."""
        with LOCK:
            if key not in self.entries:
                entry = lasting((ctypes.c_uint64 * (KNOWN + len(known)))(self.memory[key % BUCKETS], key, *known))
                self.entries[key], self.memory[key % BUCKETS] = entry, ctypes.addressof(entry)


_SOURCE = """
from spikegrad.kernels.handler import asked, code, helped, ran
# The handler's own version is {version}.
table = code("spikegrad_kernels")


@entry(1)
def helper(address):
    helped(address)


@entry(1, numba.uint64)
def handle(address):
    frame = words(address)
    return U(0) if asked(frame) else ran(frame, words(table()))
"""


def version() -> str:
    """Of this file, of what it takes from `passes`, and of the interface."""
    files = (Path(each).read_bytes() for each in (__file__, passes.__file__))
    return hashlib.sha256(b"".join(files)).hexdigest()[:16] + f" {_MAJOR}.{_MINOR}"


def key_of(text: str) -> int:
    """The hash of what a kernel depends on, which a program can carry."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class Handler(NamedTuple):
    """The handler: the name of what XLA calls, the address of what its threads are given to run, and the kernels that it knows."""

    target: str
    helper: int
    table: Table


@once
def handler() -> Handler:
    """The handler, compiled and registered."""
    table = Table()
    binding.add_symbol("spikegrad_kernels", ctypes.addressof(table.memory))
    module = loaded("handler", header("float32") + _SOURCE.format(version=version()))
    capsule = jax.ffi.pycapsule(ctypes.cast(module.handle.address, ctypes.c_void_p).value)
    jax.ffi.register_ffi_target(module.__name__, capsule, platform="cpu", api_version=1)
    return Handler(module.__name__, module.helper.address, table)


@functools.lru_cache(maxsize=4096)
def registered(variant: Variant, arguments: tuple[str, ...], results: tuple[str, ...]) -> int:
    """The hash of a kernel, compiled and known to the handler, whose buffers are these of its arguments, in this order."""
    address, symbol = compiled(variant)
    key, single = key_of(f"{symbol} {arguments} {results}"), {f"bar.{name}" for name in variant.single}
    known, real = handler(), np.dtype(variant.real).itemsize
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    entry = [address, known.helper, threads, len(arguments), len(results), *variant.working()]
    entry += [real, passes.narrowest(variant), int(variant.fed), len(variant.arguments())]
    for name in variant.arguments():
        source = _GIVEN if name in arguments else _MADE if name in results else _NOWHERE
        if source == _NOWHERE:
            entry += [source, 0, 0, 0]
            continue
        which = (arguments if source == _GIVEN else results).index(name)
        if name in ("weights", "grad.weights"):
            entry += [source, which, _WEIGHTS, real if source == _MADE else 0]
            continue
        rows = name in variant.rows and name not in single
        item = 2 if name in variant.sequences and variant.dtype in ("float16", "bfloat16") else real
        entry += [source, which, _ROWS if rows else _NUMBERS, item if rows and source == _MADE else 0]
    known.table.add(key, entry)
    return key
