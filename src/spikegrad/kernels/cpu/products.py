"""Matrix products inside of a kernel: recurrent weights, once in each time step, by each thread on its share of the samples.

A few rows of the product stay in registers while the other matrix passes by. That is as fast as a BLAS for matrices of this size,
and unlike there no other threads are started, the sums of a row do not depend on how many rows there are, and the same code runs in PyTorch
and in JAX. Where few neurons spike, the rows of weights of those that
did are added instead, and to the weights' gradient the rows of what was received.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types

from spikegrad.kernels.cpu.instructions import WORD, Node, instruction, pointer

RARE = 0.4
"""Share of neurons that spike below which rows are added forward."""
RARE_TO_LEARN, FEWEST_TO_LEARN = 0.1, 192
"""The same for the gradient of weights, and the smallest number of neurons for which it holds. Measured: see `benchmarks recurrent`."""

U = np.uint64
_WIDE = binding.get_host_cpu_features().get("avx512f", False)
_REGISTER = 64 if _WIDE else 32
"""Bytes of a vector register."""
_ROWS = 8 if _WIDE else 6
"""Rows of a product that are computed at once, two registers of each."""


class _Builder:
    """What the intrinsics of one dtype have in common."""

    def __init__(self, dtype: str) -> None:
        self.item = ir.FloatType() if dtype == "float32" else ir.DoubleType()
        self.size = np.dtype(dtype).itemsize

    def vector(self, lanes: int) -> Node:
        return ir.VectorType(self.item, lanes)

    def at(self, builder: Node, address: Node, offset: int, kind: Node) -> Node:
        return builder.inttoptr(builder.add(address, WORD(offset)), kind.as_pointer())

    def broadcast(self, builder: Node, value: Node, lanes: int) -> Node:
        one = builder.insert_element(ir.Constant(self.vector(lanes), ir.Undefined), value, ir.IntType(32)(0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))

    def plus(self, builder: Node, total: Node, a: Node, b: Node, *, fused: bool) -> Node:
        """``total + a * b``, in one rounding where the processor can and it is `fused`."""
        flags = ("contract",) if fused else ()
        return builder.fadd(total, builder.fmul(a, b, flags=flags), flags=flags)


def _block(dtype: str, rows: int, lanes: int, vectors: int) -> Callable[..., None]:
    """An intrinsic that computes some rows of a product, as many columns as the vectors have lanes.

    Its arguments: address of a, bytes between its rows and between its columns; address of b and bytes between its rows; the same of c; the
    length of the sums; and whether they are added to what is there.
    """
    of = _Builder(dtype)
    vector = of.vector(lanes)

    @instruction(types.none, *[types.uint64] * 9)
    def block(builder: Node, a: Node, ai: Node, ak: Node, b: Node, bk: Node, c: Node, ci: Node, k: Node, add: Node) -> None:
        firsts = [builder.add(c, builder.mul(ci, WORD(i))) for i in range(rows)]
        places = [[of.at(builder, first, v * lanes * of.size, vector) for v in range(vectors)] for first in firsts]
        sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]
        for i, v in np.ndindex(rows, vectors):
            before = builder.load(places[i][v], align=of.size)
            start = builder.select(builder.icmp_unsigned("!=", add, WORD(0)), before, ir.Constant(vector, [0.0] * lanes))
            builder.store(start, sums[i][v])
        with cgutils.for_range_slice(builder, WORD(0), k, WORD(1), WORD) as (e, _):
            row, column = builder.add(b, builder.mul(e, bk)), builder.add(a, builder.mul(e, ak))
            others = [builder.load(of.at(builder, row, v * lanes * of.size, vector), align=of.size) for v in range(vectors)]
            for i in range(rows):
                value = builder.load(of.at(builder, builder.add(column, builder.mul(ai, WORD(i))), 0, of.item))
                factor = of.broadcast(builder, value, lanes)
                for v in range(vectors):
                    builder.store(of.plus(builder, builder.load(sums[i][v]), factor, others[v], fused=True), sums[i][v])
        for i, v in np.ndindex(rows, vectors):
            builder.store(builder.load(sums[i][v]), places[i][v], align=of.size)

    return block


def _rows(dtype: str, *, gathers: bool) -> Callable[..., None]:
    """An intrinsic that adds senders' rows, times what each sent, to four registers of a row; or these, times that, to the senders' rows.

    Its arguments are addresses: of the row; of the same columns of the first sender's; of the senders' places; of what they sent; then the
    number of senders, and the bytes between two rows.
    """
    of = _Builder(dtype)
    lanes = _REGISTER // of.size
    vector = of.vector(lanes)

    @instruction(types.none, *[types.uint64] * 6)
    def rows(builder: Node, own: Node, others: Node, places: Node, values: Node, count: Node, stride: Node) -> None:
        places = builder.inttoptr(places, ir.IntType(32).as_pointer())
        values = builder.inttoptr(values, of.item.as_pointer())
        held = [cgutils.alloca_once(builder, vector) for _ in range(4)]
        for k, register in enumerate(held):
            builder.store(builder.load(of.at(builder, own, k * _REGISTER, vector), align=of.size), register)
        with cgutils.for_range_slice(builder, WORD(0), count, WORD(1), WORD) as (e, _):
            sender = builder.zext(builder.load(builder.gep(places, [e])), WORD)
            value = of.broadcast(builder, builder.load(builder.gep(values, [e])), lanes)
            row = builder.add(others, builder.mul(sender, stride))
            for k, register in enumerate(held):
                place = of.at(builder, row, k * _REGISTER, vector)
                mine, theirs = builder.load(register), builder.load(place, align=of.size)
                if gathers:
                    builder.store(of.plus(builder, mine, value, theirs, fused=False), register)
                else:
                    builder.store(of.plus(builder, theirs, value, mine, fused=False), place, align=of.size)
        if gathers:
            for k, register in enumerate(held):
                builder.store(builder.load(register), of.at(builder, own, k * _REGISTER, vector), align=of.size)

    return rows


def functions(dtype: str) -> Sequence[Callable[..., None]]:
    """What weights make of outputs, and of gradients of what was received. All arguments are addresses or whole numbers.

    ``feed(count, sent, fed, weights, places, features)``, with weights by sender and room for two rows at `places`, where before
    ``examine(weights, places, features)`` has noted whether all weights are finite;
    ``send(count, gradient, back, weights, features)``, with weights by receiver; and
    ``learn(count, sent, gradient, weights, places, features)``, which adds to the gradient of the weights, by sender.
    """
    reals, ints = pointer(getattr(types, dtype)), pointer(types.uint32)
    infinite = np.uint32(0x7F800000) if dtype == "float32" else np.uint64(0x7FF0 << 48)
    none = infinite - infinite
    bits = pointer(types.uint32 if dtype == "float32" else types.uint64)
    size, lanes, real = np.dtype(dtype).itemsize, _REGISTER // np.dtype(dtype).itemsize, np.dtype(dtype).type
    shapes = (lanes, 2), (min(4, lanes), max(1, 4 // lanes)), (1, 1)
    many_wide, many_narrow, many_single = (_block(dtype, _ROWS, *shape) for shape in shapes)
    one_wide, one_narrow, one_single = (_block(dtype, 1, *shape) for shape in shapes)
    gather, spread = _rows(dtype, gathers=True), _rows(dtype, gathers=False)
    item, together, wide, tile = U(size), U(_ROWS), U(2 * lanes), U(4 * lanes)

    @numba.njit(error_model="numpy")
    def product(m: U, n: U, k: U, a: U, ai: U, ak: U, b: U, bk: U, c: U, ci: U, add: U) -> None:
        """``c = a @ b``, m by n, of sums of length k, by addresses and bytes between rows and columns; or that added to c."""
        for j in range(U(0), n // wide * wide, wide):
            for i in range(U(0), m // together * together, together):
                many_wide(a + i * ai, ai, ak, b + j * item, bk, c + i * ci + j * item, ci, k, add)
            for i in range(m // together * together, m):
                one_wide(a + i * ai, ai, ak, b + j * item, bk, c + i * ci + j * item, ci, k, add)
        for j in range(n // wide * wide, n // U(4) * U(4), U(4)):
            for i in range(U(0), m // together * together, together):
                many_narrow(a + i * ai, ai, ak, b + j * item, bk, c + i * ci + j * item, ci, k, add)
            for i in range(m // together * together, m):
                one_narrow(a + i * ai, ai, ak, b + j * item, bk, c + i * ci + j * item, ci, k, add)
        for j in range(n // U(4) * U(4), n):
            for i in range(U(0), m // together * together, together):
                many_single(a + i * ai, ai, ak, b + j * item, bk, c + i * ci + j * item, ci, k, add)
            for i in range(m // together * together, m):
                one_single(a + i * ai, ai, ak, b + j * item, bk, c + i * ci + j * item, ci, k, add)

    @numba.njit(error_model="numpy")
    def counted(row: U, count: U) -> U:
        """How many neurons sent something."""
        given, found = reals(row), U(0)
        for k in range(count):
            found += U(given[k] != real(0.0))
        return found

    @numba.njit(error_model="numpy")
    def listed(row: U, places: U, values: U, features: U) -> U:
        """How many neurons of a sample sent something; which, and what, are listed."""
        given, into, value = reals(row), ints(places), reals(values)
        found = U(0)
        for k in range(features):
            into[found], value[found] = np.uint32(k), given[k]
            found += U(given[k] != real(0.0))
        return found

    @numba.njit(error_model="numpy")
    def finite(address: U, count: U) -> np.bool_:
        """Whether all numbers are finite: their largest exponent, among whole numbers, which the vectoriser can take apart."""
        given, largest = bits(address), none
        for k in range(count):
            size = given[k] & infinite
            largest = size if size > largest else largest
        return largest < infinite

    def examine(weights: U, places: U, features: U) -> None:
        ints(places + (features + U(8)) * item)[0] = np.uint32(finite(weights, features * features))  # between the two rows

    def feed(count: U, sent: U, fed: U, weights: U, places: U, features: U) -> None:
        stride = features * item
        # What is not finite times the 0 of a silent neuron is NaN, so that no row may be left out.
        if float(counted(sent, count)) >= RARE * float(count) or ints(places + (features + U(8)) * item)[0] == np.uint32(0):
            product(count // features, features, features, sent, stride, item, weights, stride, fed, stride, U(0))
            return
        values, whole, received = places + (features + U(16)) * item, features // tile * tile, reals(fed)
        for k in range(count):
            received[k] = real(0.0)
        for sample in range(U(0), count * item, stride):
            found = listed(sent + sample, places, values, features)
            for j in range(U(0), whole, tile):
                gather(fed + sample + j * item, weights + j * item, places, values, found, stride)
            for e in range(found):
                row, value = reals(weights + U(ints(places)[e]) * stride), reals(values)[e]
                for j in range(whole, features):
                    reals(fed + sample)[j] += value * row[j]

    def send(count: U, gradient: U, back: U, weights: U, features: U) -> None:
        stride = features * item
        product(count // features, features, features, gradient, stride, item, weights, stride, back, stride, U(0))

    def learn(count: U, sent: U, gradient: U, weights: U, places: U, features: U) -> None:
        stride = features * item
        few = features >= U(FEWEST_TO_LEARN) and float(counted(sent, count)) < RARE_TO_LEARN * float(count)
        if not few or not finite(gradient, count):
            product(features, features, count // features, sent, item, stride, gradient, stride, weights, stride, U(1))
            return
        values, whole = places + (features + U(16)) * item, features // tile * tile
        for sample in range(U(0), count * item, stride):
            found = listed(sent + sample, places, values, features)
            for j in range(U(0), whole, tile):
                spread(gradient + sample + j * item, weights + j * item, places, values, found, stride)
            for e in range(found):
                row, value = reals(weights + U(ints(places)[e]) * stride), reals(values)[e]
                for j in range(whole, features):
                    row[j] += value * reals(gradient + sample)[j]

    return examine, feed, send, learn


_COUNTS = {"examine": 3, "feed": 6, "send": 5, "learn": 6}


@functools.cache
def known(dtype: str) -> str:
    """Compile the functions of a dtype, or take them from the cache, and tell LLVM their names; how a generated module imports them."""
    from spikegrad.kernels.cpu.compiler import linked

    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    found = linked("products", dtype, dtype, version, {name: (count, "void") for name, count in _COUNTS.items()})
    return "".join(f"{name} = {there}\n" for name, there in found.items())
