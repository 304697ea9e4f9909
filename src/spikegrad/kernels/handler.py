"""What XLA calls on the CPU: machine code that fills in a job from a call frame and runs it, without Python and its lock.

XLA calls a handler with the address of a frame of words; ``xla/ffi/api/c_api.h``, which jaxlib ships, describes it. Each kernel has a
handler of its own, registered under its hash. Blocks of columns are shared out as in `spikegrad.kernels.cpu.threads`; the helpers are
threads of XLA's own pool, which may come late or never. So nobody waits for a helper that has not begun; one that finds no block left may
not touch XLA's buffers, which may be gone; and the job is freed by whoever leaves last.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

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

U = np.uint64
_FRAME_EXTENSION, FRAME_API, FRAME_CONTEXT = 1, 2, 3
ARGUMENT_COUNT, ARGUMENT_BUFFERS, RESULT_COUNT, RESULT_BUFFERS = 7, 9, 12, 14
_ERROR_CREATE, _ERROR_DESTROY, _SCHEDULE = 6, 8, 17
BUFFER_DATA, _BUFFER_RANK, _BUFFER_DIMS = 3, 4, 5
"""Words of a call frame, of the interface, and of a buffer."""
_METADATA, INVALID = 1, 3
"""The kind of the extension that asks for metadata; the code of an error of the caller's."""
_ACTIVE, _HELPERS, _USERS = 2, 3, 4
"""Words of a job's first counter line that are the handler's: helpers at work, helpers that have begun, who still has its address."""
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
def begun(
    buffer: Words, threads: np.uint64, whole: np.uint64, each: np.uint64, item: np.uint64, narrowest: np.uint64, arguments: np.uint64,
    fed: bool,
) -> np.uint64:  # fmt: skip
    """The address of a new job for sequences like that in a buffer; its blocks need so many rows of scratch for all and for each step."""
    dims = words(buffer[_BUFFER_DIMS])
    steps, columns = dims[0], U(1)
    for k in range(U(1), buffer[_BUFFER_RANK]):
        columns *= dims[k]
    rows = max(whole + each * steps, U(1))
    if threads == U(1) or steps * columns < U(passes.SMALL):
        threads = U(1)
    share = (columns + threads * U(passes.BLOCKS) - U(1)) // (threads * U(passes.BLOCKS)) if threads > U(1) else columns
    fits = max(U(passes.CACHE) // (item * rows), min(narrowest, U(passes.ROOM) // (item * rows)))
    block = max(U(64), min(U(passes.WIDEST), min(fits, share + U(63))) // U(64) * U(64))
    if fed:
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
def absent(job: Words, place: np.uint64) -> None:
    """Write into a job that nobody wants this result."""
    job[U(ARGUMENTS) + place * U(2)], job[U(ARGUMENTS) + place * U(2) + U(1)] = U(0), U(0)


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


_SOURCE = """
from spikegrad.kernels.handler import absent, advised, asked, begun, code, connected, done, placed, refused, wrong
# The handler's own version is {version}.
kernel, helper = code("{symbol}"), code("spikegrad_helper")


@entry(1, numba.uint64)
def handle(address):
    frame = words(address)
    if asked(frame):
        return U(0)
    if frame[{argument_count}] != U({arguments}) or frame[{result_count}] != U({results}):
        return refused(frame, wrong(), U({invalid}))
    given, made = words(frame[{argument_buffers}]), words(frame[{result_buffers}])
    address = begun(words(given[0]), U({threads}), U({whole}), U({each}), SIZE, U({narrowest}), U({count}), {fed})
    job = words(address)
{lines}
    done(frame, address, kernel(), helper())
    return U(0)
"""
_HELPER = """
from spikegrad.kernels.handler import helped
# The handler's own version is {version}.


@entry(1)
def helper(address):
    helped(address)
"""


def version() -> str:
    """Of this file, of what it takes from `passes`, and of the interface."""
    files = (Path(each).read_bytes() for each in (__file__, passes.__file__))
    return hashlib.sha256(b"".join(files)).hexdigest()[:16] + f" {_MAJOR}.{_MINOR}"


@functools.cache
def _helper() -> int:
    """The address of what XLA's threads are given to run; it must have its name before a handler is loaded that knows it."""
    address = loaded("helper", header("float32") + _HELPER.format(version=version())).helper.address
    binding.add_symbol("spikegrad_helper", address)
    return address


@functools.lru_cache(maxsize=4096)
def registered(variant: Variant, arguments: tuple[str, ...], results: tuple[str, ...]) -> str:
    """The name of a call target that runs a kernel, whose buffers are these of its arguments, in this order."""
    _helper()
    address, symbol = compiled(variant)
    binding.add_symbol(symbol, address)
    lines: list[str] = []
    single = {f"bar.{name}" for name in variant.single}
    for place, name in enumerate(variant.arguments()):
        source = "given" if name in arguments else "made" if name in results else ""
        if not source:
            lines.append(f"absent(job, U({place}))")
            continue
        number = (arguments if source == "given" else results).index(name)
        if name in ("weights", "grad.weights"):
            clear = np.dtype(variant.real).itemsize if source == "made" else 0
            lines.append(f"connected(job, U({place}), words({source}[{number}]), U({clear}))")
            continue
        rows = name in variant.rows and name not in single
        lines.append(f"placed(job, U({place}), words({source}[{number}]), {rows})")
        if rows and source == "made":
            item = 8 if variant.real == "float64" else 2 if name in variant.sequences and variant.dtype in ("float16", "bfloat16") else 4
            lines.append(f"advised(words(made[{number}])[3], job[2] * job[3] * U({item}))")
    whole, each = variant.working()
    source = _SOURCE.format(
        version=version(),
        symbol=symbol,
        narrowest=passes.narrowest(variant),
        invalid=INVALID,
        argument_count=ARGUMENT_COUNT,
        result_count=RESULT_COUNT,
        argument_buffers=ARGUMENT_BUFFERS,
        result_buffers=RESULT_BUFFERS,
        arguments=len(arguments),
        results=len(results),
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        whole=whole,
        each=each,
        count=len(variant.arguments()),
        fed=variant.fed,
        lines="\n".join(f"    {line}" for line in lines),
    )
    module = loaded("handler", header(variant.dtype) + source)
    name = module.__name__
    capsule = jax.ffi.pycapsule(ctypes.cast(module.handle.address, ctypes.c_void_p).value)
    jax.ffi.register_ffi_target(name, capsule, platform="cpu", api_version=1)
    return name
