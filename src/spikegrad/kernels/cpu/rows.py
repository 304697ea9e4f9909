"""What passes over events have in common: rows of weights added, taken apart and multiplied, and lists made of rows of numbers.

Weights lie by sender, a row for each: a spike adds its sender's row to the currents. A few registers hold a stretch of columns while the
rows of all senders pass by, in the order of the list, so that sums do not depend on who computes them. Lists are made without a branch for
each element: sixteen numbers are compared at once, and what is to be listed is moved together in a register.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types

from spikegrad.kernels.cpu.instructions import WORD, Node, instruction, pointer
from spikegrad.kernels.lock import LOCK

LANES = 16
"""Numbers that are looked at at once. Memory that lists are written to has room for so many more."""
REGISTERS = 8
"""Vectors of a tile of columns."""

_FEATURES = binding.get_host_cpu_features()
COMPRESSES = bool(_FEATURES.get("avx512f", False))
"""Whether the processor moves the lanes of a mask together. That into memory is slow on some processors, in a register on none."""
_SINGLE, _32, _PLACE = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_VECTOR, _PLACES, _MASK = ir.VectorType(_SINGLE, LANES), ir.VectorType(_32, LANES), ir.VectorType(ir.IntType(1), LANES)
_VECTOR_BYTES = LANES * 4

U = np.uint64
reals, narrow, wide = pointer(types.float32), pointer(types.uint16), pointer(types.int32)


def _at(builder: Node, address: Node, offset: int, kind: Node) -> Node:
    return builder.inttoptr(builder.add(address, WORD(offset)) if offset else address, kind.as_pointer())


def _loaded(builder: Node, address: Node, offset: int = 0, kind: Node = _VECTOR) -> Node:
    return builder.load(_at(builder, address, offset, kind), align=4)


def _stored(builder: Node, value: Node, address: Node, offset: int = 0) -> None:
    builder.store(value, _at(builder, address, offset, value.type), align=2)


def _everywhere(builder: Node, value: Node, kind: Node) -> Node:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _32(0))
    return builder.shuffle_vector(one, one, ir.Constant(_PLACES, [0] * LANES))


def _compared(builder: Node, address: Node, comparison: str, bound: Node) -> Node:
    """A bit for each of sixteen numbers; comparisons hold for NaN as well."""
    found = builder.fcmp_unordered(comparison, _loaded(builder, address), _everywhere(builder, bound, _VECTOR))
    return builder.zext(builder.bitcast(found, ir.IntType(LANES)), _32)


@instruction(types.uint32, types.uint64, types.float32, types.float32)
def within(builder: Node, address: Node, low: Node, high: Node) -> Node:
    """Which of sixteen numbers are in a closed interval, or NaN."""
    return builder.and_(_compared(builder, address, ">=", low), _compared(builder, address, "<=", high))


@instruction(types.uint32, types.uint64, types.float32)
def beyond(builder: Node, address: Node, low: Node) -> Node:
    """Which of sixteen numbers are above a number, or NaN."""
    return _compared(builder, address, ">", low)


@instruction(types.uint32, types.uint64, types.float32)
def other(builder: Node, address: Node, value: Node) -> Node:
    """Which of sixteen numbers are others, or NaN."""
    return _compared(builder, address, "!=", value)


@instruction(types.uint64, types.uint32)
def ones(builder: Node, mask: Node) -> Node:
    """How many bits are set."""
    return builder.zext(builder.ctpop(mask), WORD)


@instruction(types.none, types.uint64)
def foreseen(builder: Node, address: Node) -> None:
    """Have the cache line at an address brought, which will be read soon; nothing happens where there is no memory."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _32, _32, _32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, byte), _32(0), _32(3), _32(1)])


_CONTROLS = "x86" in binding.get_process_triple()
_FLUSH = 0x8040
"""Bits of the control register: results and arguments below the smallest normal number are 0."""


def _control(builder: Node, name: str, memory: Node) -> None:
    byte = ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [byte]), f"llvm.x86.sse.{name}mxcsr")
    builder.call(function, [builder.bitcast(memory, byte)])


@instruction(types.uint32)
def flushing(builder: Node) -> Node:
    """Have the processor take numbers below the smallest normal one for 0, in this thread; how it was before, to be `restored`."""
    if not _CONTROLS:  # other processors compute with them as fast
        return _32(0)
    memory = cgutils.alloca_once(builder, _32)
    _control(builder, "st", memory)
    before = builder.load(memory)
    builder.store(builder.or_(before, _32(_FLUSH)), memory)
    _control(builder, "ld", memory)
    return before


@instruction(types.none, types.uint32)
def restored(builder: Node, before: Node) -> None:
    """Undo `flushing`."""
    if _CONTROLS:
        _control(builder, "ld", cgutils.alloca_once_value(builder, before))


def _together(builder: Node, values: Node, mask: Node) -> Node:
    """The lanes of a mask moved to the front of a vector."""
    name = f"llvm.x86.avx512.mask.compress.v{LANES}{'f32' if values.type == _VECTOR else 'i32'}"
    kind = ir.FunctionType(values.type, [values.type, values.type, _MASK])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    lanes = builder.bitcast(builder.trunc(mask, ir.IntType(LANES)), _MASK)
    return builder.call(function, [values, ir.Constant(values.type, None), lanes])


def _one_by_one(builder: Node, mask: Node, store: Callable[[Node, Node], None]) -> None:
    """The same without such an instruction: ``store(lane, place)`` for each bit that is set."""
    left, place = cgutils.alloca_once_value(builder, mask), cgutils.alloca_once_value(builder, WORD(0))
    loop, after = builder.append_basic_block("bits"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_unsigned("!=", mask, _32(0)), loop, after)
    with builder.goto_block(loop):
        now, at = builder.load(left), builder.load(place)
        store(builder.zext(builder.cttz(now, ir.IntType(1)(1)), WORD), at)
        builder.store(builder.add(at, WORD(1)), place)
        rest = builder.and_(now, builder.sub(now, _32(1)))
        builder.store(rest, left)
        builder.cbranch(builder.icmp_unsigned("!=", rest, _32(0)), loop, after)
    builder.position_at_end(after)


@instruction(types.none, types.uint64, types.uint64, types.uint32)
def put_values(builder: Node, into: Node, row: Node, mask: Node) -> Node:
    """Write the numbers of a row that a mask names to an address; sixteen places there may change."""
    if COMPRESSES:
        _stored(builder, _together(builder, _loaded(builder, row), mask), into)
        return

    def store(lane: Node, place: Node) -> None:
        value = builder.load(builder.inttoptr(builder.add(row, builder.mul(lane, WORD(4))), _SINGLE.as_pointer()))
        builder.store(value, builder.inttoptr(builder.add(into, builder.mul(place, WORD(4))), _SINGLE.as_pointer()))

    _one_by_one(builder, mask, store)


def _put_places(kind: Node) -> Callable[..., None]:
    size = kind.width // 8

    @instruction(types.none, types.uint64, types.uint64, types.uint32)
    def put(builder: Node, into: Node, first: Node, mask: Node) -> Node:
        if COMPRESSES:
            start = _everywhere(builder, builder.trunc(first, _32), _PLACES)
            places = _together(builder, builder.add(start, ir.Constant(_PLACES, list(range(LANES)))), mask)
            _stored(builder, builder.trunc(places, ir.VectorType(kind, LANES)) if size < 4 else places, into)
            return

        def store(lane: Node, place: Node) -> None:
            found = builder.trunc(builder.add(first, lane), kind)
            builder.store(found, builder.inttoptr(builder.add(into, builder.mul(place, WORD(size))), kind.as_pointer()))

        _one_by_one(builder, mask, store)

    return put


put_narrow, put_wide = _put_places(_PLACE), _put_places(_32)
"""Write the places of the lanes of a mask, the first of them given, to an address; sixteen places there may change."""


def _tile(registers: int, lanes: int, kind: Node, *, gathers: bool) -> Callable[..., None]:
    """An intrinsic that adds senders' rows of weights to a stretch of a row, of so many vectors; or this to the senders' rows.

    Its arguments: addresses of the row; of the same columns of the first sender's; of the list of senders; where in the list to begin and
    to end, and the bytes between two senders' rows.
    """
    vector, size = ir.VectorType(_SINGLE, lanes), 4 * lanes

    @instruction(types.none, *[types.uint64] * 6)
    def tile(builder: Node, row: Node, weights: Node, index: Node, start: Node, stop: Node, stride: Node) -> None:
        listed = builder.inttoptr(index, kind.as_pointer())
        held = [cgutils.alloca_once(builder, vector) for _ in range(registers)]
        for k, register in enumerate(held):
            builder.store(_loaded(builder, row, k * size, vector), register)
        with cgutils.for_range_slice(builder, start, stop, WORD(1), WORD) as (e, _):
            sender = builder.zext(builder.load(builder.gep(listed, [e])), WORD)
            theirs = builder.add(weights, builder.mul(sender, stride))
            for k, register in enumerate(held):
                total = builder.fadd(_loaded(builder, theirs, k * size, vector), builder.load(register))
                if gathers:
                    builder.store(total, register)
                else:
                    _stored(builder, total, theirs, k * size)
        if gathers:
            for k, register in enumerate(held):
                _stored(builder, builder.load(register), row, k * size)

    return tile


_TOGETHER = 4
"""Rows that are multiplied at once: their sums do not wait for each other."""


def _products(rows: int, kind: Node) -> Callable[..., None]:
    """An intrinsic for the products of some senders' rows with one row.

    Its arguments: addresses of the results, of weights, of the row, of the list of senders where it begins; the bytes of whole vectors of
    a row, of all of it, and between two senders' rows.
    """

    @instruction(types.none, *[types.uint64] * 7)
    def products(builder: Node, into: Node, weights: Node, row: Node, index: Node, whole: Node, size: Node, stride: Node) -> None:
        listed = builder.inttoptr(index, kind.as_pointer())
        theirs = [
            builder.add(weights, builder.mul(builder.zext(builder.load(builder.gep(listed, [WORD(k)])), WORD), stride)) for k in range(rows)
        ]
        sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in range(rows)]
        rest = [cgutils.alloca_once_value(builder, _SINGLE(0.0)) for _ in range(rows)]
        flags = ("contract",)
        with cgutils.for_range_slice(builder, WORD(0), whole, WORD(_VECTOR_BYTES), WORD) as (j, _):
            mine = _loaded(builder, builder.add(row, j))
            for other, total in zip(theirs, sums, strict=True):
                part = builder.fmul(_loaded(builder, builder.add(other, j)), mine, flags=flags)
                builder.store(builder.fadd(builder.load(total), part, flags=flags), total)
        with cgutils.for_range_slice(builder, whole, size, WORD(4), WORD) as (j, _):
            mine = builder.load(builder.inttoptr(builder.add(row, j), _SINGLE.as_pointer()))
            for other, total in zip(theirs, rest, strict=True):
                part = builder.fmul(builder.load(builder.inttoptr(builder.add(other, j), _SINGLE.as_pointer())), mine, flags=flags)
                builder.store(builder.fadd(builder.load(total), part, flags=flags), total)
        for k, (total, other) in enumerate(zip(sums, rest, strict=True)):
            value, lanes = builder.load(total), LANES
            while lanes > 1:  # halves onto each other
                lanes //= 2
                upper = ir.Constant(ir.VectorType(_32, lanes), list(range(lanes, 2 * lanes)))
                lower = ir.Constant(ir.VectorType(_32, lanes), list(range(lanes)))
                value = builder.fadd(builder.shuffle_vector(value, value, lower), builder.shuffle_vector(value, value, upper))
            found = builder.fadd(builder.extract_element(value, _32(0)), builder.load(other))
            builder.store(found, _at(builder, into, 4 * k, _SINGLE))

    return products


def functions(kind: str) -> tuple[Callable[..., Any], ...]:
    """What is done with rows and lists, of places of 16 or 32 bits: ``"narrow"`` or ``"wide"``.

    All arguments are addresses or whole numbers, and rows of single precision: ``gather(row, weights, index, start, stop, features)``,
    ``spread`` of the same, ``dots(into, weights, row, index, start, stop, features)`` into the places from `into` on.
    """
    element, places = (_PLACE, narrow) if kind == "narrow" else (_32, wide)
    item = U(element.width // 8)
    put = put_narrow if kind == "narrow" else put_wide
    broad, single, few = U(REGISTERS * LANES), U(LANES), U(4)
    many, one = _products(_TOGETHER, element), _products(1, element)
    together, size, real = U(_TOGETHER), U(4), np.float32

    def of_all_columns(*, gathers: bool) -> Callable[..., None]:
        broad_tile, single_tile = (_tile(registers, LANES, element, gathers=gathers) for registers in (REGISTERS, 1))
        narrow_tile = _tile(1, 4, element, gathers=gathers)

        def rows(row: U, weights: U, index: U, start: U, stop: U, features: U) -> None:
            stride = features * size
            for j in range(U(0), features // broad * broad, broad):
                broad_tile(row + j * size, weights + j * size, index, start, stop, stride)
            for j in range(features // broad * broad, features // single * single, single):
                single_tile(row + j * size, weights + j * size, index, start, stop, stride)
            for j in range(features // single * single, features // few * few, few):
                narrow_tile(row + j * size, weights + j * size, index, start, stop, stride)
            if features % few:
                mine = reals(row)
                for e in range(start, stop):
                    theirs = reals(weights + U(places(index)[e]) * stride)
                    for j in range(features // few * few, features):
                        if gathers:
                            mine[j] += theirs[j]
                        else:
                            theirs[j] += mine[j]

        return rows

    def dots(into: U, weights: U, row: U, index: U, start: U, stop: U, features: U) -> None:
        stride, whole = features * size, features // single * U(_VECTOR_BYTES)
        last = start + (stop - start) // together * together
        for e in range(start, last, together):
            many(into + (e - start) * size, weights, row, index + e * item, whole, stride, stride)
        for e in range(last, stop):
            one(into + (e - start) * size, weights, row, index + e * item, whole, stride, stride)

    def listed(dense: U, features: U, into: U, few: U, ahead: U) -> U:
        """Write the places of what is not 0 in a row; how many, and from bit 32 on whether something is not 1 either.

        Where there are `few`, sixteen zeros are left out by a branch, which can then be foretold.
        """
        row, found, wrong = reals(dense), U(0), np.uint32(0)
        whole = features // single * single
        for j in range(U(0), whole, single):
            foreseen(dense + ahead + j * size)
            mask = other(dense + j * size, real(0.0))
            if few and not mask:
                continue
            wrong |= mask & other(dense + j * size, real(1.0))
            put(into + found * item, j, mask)
            found += ones(mask)
        for j in range(whole, features):
            if row[j] != real(0.0):
                places(into)[found] = j
                found += U(1)
                wrong |= np.uint32(row[j] != real(1.0))
        return found | (U(wrong != np.uint32(0)) << U(32))

    return of_all_columns(gathers=True), of_all_columns(gathers=False), dots, listed


_FUNCTIONS = {"gather": (6, "void"), "spread": (6, "void"), "dots": (7, "void"), "listed": (5, "uint64")}


def version() -> str:
    """What machine code depends on that uses any of this."""
    return f"{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]} {COMPRESSES}"


@functools.cache
def known(kind: str) -> str:
    """Compile the functions of a kind, or take them from the cache, and tell LLVM their names; how a generated module imports them.

    There they have the kind behind their names: ``gather_narrow``.
    """
    with LOCK:
        from spikegrad.kernels.cpu.compiler import linked

    return "".join(f"{name}_{kind} = {there}\n" for name, there in linked("rows", kind, "float32", version(), _FUNCTIONS).items())
