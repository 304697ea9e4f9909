"""What XLA calls for a GPU: machine code that launches a kernel by the driver's own functions, without Python and its lock.

There is one handler for all kernels. What a call launches is a *recipe*, whole numbers that the program carries: which kernel, how it is
laid out on the device, and what each of its parameters is. Kernels are found by the hash of all that they depend on, and not by an address,
so that a compiled program means the same in every process. A kernel is loaded when it is first launched in a context, which each device has
one of. The driver's functions stand in a table, in whose place `spikegrad.kernels.gpu.driver` also puts functions of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from llvmlite import ir
from numba.core import types

from spikegrad.kernels import handler
from spikegrad.kernels.cpu.compiler import header, loaded
from spikegrad.kernels.cpu.instructions import WORD, Node, Words, added, answered, instruction, seen, words
from spikegrad.kernels.handler import refused, text

U = np.uint64
_FRAME_API, _FRAME_CONTEXT = handler.FRAME_API, handler.FRAME_CONTEXT
_STREAM_GET = 10
"""A word of the interface."""
_INTERNAL = 13
"""The code of an error of something that should not happen."""


STREAM_CONTEXT, PUSH, POP, LOAD, FUNCTION, ATTRIBUTE, LAUNCH, NAME, KERNELS = range(9)
"""Words of the table: the driver's functions, then the address of the table of kernels."""

IMAGE, CALLED, SHARED, CONTEXTS_KNOWN, PLACES = range(handler.KNOWN, handler.KNOWN + 5)
"""Words of a kernel: machine code and name, bytes of shared memory, and how many contexts know it.

Then, for each of these, the context and the function there.
"""
CONTEXTS = 64
"""That a kernel is remembered in; in more of them it is loaded again for each launch."""

KEY, STREAMED, PROGRAMS, THREADS, ARGUMENTS, RESULTS, COUNT, PARAMETERS = range(8)
"""Words of a recipe: the kernel's hash, whether there is a stream, programs, threads of each, buffers that are given and made, parameters.

Then two for each parameter, which is a buffer that is given, one that is made, or a whole number: what it is, and which.
"""
GIVEN, MADE, NUMBER = range(3)
ALIGNED = 16
"""Bytes by which buffers are aligned, as the kernels are told."""
_DYNAMIC_SHARED = 8
"""The driver's attribute of a function that says how much shared memory it may have, above what every function may."""
_USUAL_SHARED = 48 * 1024

_length = types.ExternalFunction("strlen", types.uint64(types.uint64))
_copy = types.ExternalFunction("memcpy", types.uint64(types.uint64, types.uint64, types.uint64))


def _driver(kinds: str) -> Callable[..., np.int32]:
    """A function that calls the driver's at an address, whose arguments are words, ``w``, or whole numbers of 32 bits, ``i``."""
    given = [WORD if kind == "w" else ir.IntType(32) for kind in kinds]

    @instruction(types.int32, types.uint64, *[types.uint64] * len(kinds))
    def call(builder: Node, function: Node, *values: Node) -> Node:
        narrow = [value if kind is WORD else builder.trunc(value, kind) for value, kind in zip(values, given, strict=True)]
        return builder.call(builder.inttoptr(function, ir.FunctionType(ir.IntType(32), given).as_pointer()), narrow)

    return call


_one, _two, _three, _attribute, _launch = (_driver(kinds) for kinds in ("w", "ww", "www", "wii", "wiiiiiiiwww"))
_unaligned = text("spikegrad: a buffer does not begin at a multiple of 16 bytes")
_failed = text("spikegrad: a kernel could not be launched: the driver says ")
_nameless = text("an error without a name")


@numba.njit(error_model="numpy")
def function_in(table: Words, kernel: Words, context: np.uint64, room: Words, at: np.uint64) -> np.int32:
    """Write the function of a kernel in a context, the current one, to the beginning of some memory; what the driver says.

    Two threads may both load it, which does no harm.
    """
    for k in range(CONTEXTS):
        if seen(kernel, PLACES + 2 * k) == context:
            room[0] = kernel[PLACES + 2 * k + 1]
            return np.int32(0)
    code = _two(table[LOAD], at, kernel[IMAGE])
    if code == 0:
        code = _three(table[FUNCTION], at, room[0], kernel[CALLED])
    if code == 0 and kernel[SHARED] > U(_USUAL_SHARED):
        code = _attribute(table[ATTRIBUTE], room[0], U(_DYNAMIC_SHARED), kernel[SHARED])
    if code == 0:
        place = U(2) * added(kernel, CONTEXTS_KNOWN, U(1)) + U(PLACES)
        if place < U(PLACES + 2 * CONTEXTS):
            kernel[place + U(1)] = room[0]
            added(kernel, place, context)  # last: whoever sees it sees the function too
    return code


@numba.njit(error_model="numpy")
def failed(frame: Words, table: Words, code: np.int32) -> np.uint64:
    """An error for XLA that has the driver's word for what happened."""
    room = handler.allocated(U(512))
    words(room)[0] = U(0)
    _two(table[NAME], U(code), room)
    name, message = words(room)[0], room + U(8)
    if name == U(0):
        name = _nameless()
    first = _length(_failed())
    _copy(message, _failed(), first)
    _copy(message + first, name, min(_length(name), U(300)) + U(1))
    words(room)[63] = U(0)
    made = refused(frame, message, U(_INTERNAL))
    handler.freed(room)
    return made


@numba.njit(error_model="numpy")
def launched(frame: Words, table: Words) -> np.uint64:
    """Do what a call frame's recipe says; an error for XLA, or 0."""
    carried = handler.attribute(frame)
    address = U(0) if carried == U(0) else handler.found(words(table[KERNELS]), words(carried)[KEY])
    if address == U(0):
        return refused(frame, handler.unknown(), U(handler.ABSENT))
    recipe = words(carried)
    if frame[handler.ARGUMENT_COUNT] != recipe[ARGUMENTS] or frame[handler.RESULT_COUNT] != recipe[RESULTS]:
        return refused(frame, handler.wrong(), U(handler.INVALID))
    kernel, count = words(address), recipe[COUNT]
    given, made = words(frame[handler.ARGUMENT_BUFFERS]), words(frame[handler.RESULT_BUFFERS])
    at = handler.allocated((U(5) + U(2) * count) * U(8))
    room = words(at)
    stream, context = U(0), U(1)
    if recipe[STREAMED] != U(0):
        room[0], room[1], room[2], room[3] = U(32), U(0), frame[_FRAME_CONTEXT], U(0)
        error = answered(words(frame[_FRAME_API])[_STREAM_GET], at)
        if error != U(0):
            handler.freed(at)
            return error
        stream = room[3]
    for k in range(count):
        kind, value = recipe[U(PARAMETERS) + U(2) * k], recipe[U(PARAMETERS) + U(2) * k + U(1)]
        if kind != U(NUMBER):
            value = words(given[value] if kind == U(GIVEN) else made[value])[handler.BUFFER_DATA]
            if value % U(ALIGNED) != U(0):
                handler.freed(at)
                return refused(frame, _unaligned(), U(_INTERNAL))
        # The driver is given the address of each parameter.
        room[U(5) + count + k] = value
        room[U(5) + k] = at + (U(5) + count + k) * U(8)
    code = np.int32(0)
    if recipe[STREAMED] != U(0):
        code = _two(table[STREAM_CONTEXT], stream, at)
        context = room[0]
    if code == 0:
        code = _one(table[PUSH], context)
        if code == 0:
            code = function_in(table, kernel, context, room, at)
            if code == 0:
                one, grid, threads = U(1), recipe[PROGRAMS], recipe[THREADS]
                shared, parameters = kernel[SHARED], at + U(40)
                code = _launch(table[LAUNCH], room[0], grid, one, one, threads, one, one, shared, stream, parameters, U(0))
            _one(table[POP], at)
    handler.freed(at)
    return U(0) if code == 0 else failed(frame, table, code)


_SOURCE = """
from spikegrad.kernels.handler import asked, code
from spikegrad.kernels.launcher import launched
# Their own version is {version}.
table = code("spikegrad_driver")


@entry(1, numba.uint64)
def handle(address):
    frame = words(address)
    if asked(frame):
        return U(0)
    return launched(frame, words(table()))
"""


def handle() -> tuple[int, str]:
    """The address of the handler, and a name that says all there is to it; the symbol ``spikegrad_driver`` is the address of a table."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16] + " " + handler.version()
    module = loaded("launcher", header("float32") + _SOURCE.format(version=version))
    return module.handle.address, module.__name__
