"""Matrix products inside of a kernel: recurrent weights, once in each time step, by each thread on its share of the samples.

They are those of the BLAS that PyTorch carries, called with one thread; without PyTorch's, SciPy's. Where few neurons spike, the rows of
weights of those that did are added instead, and to the weights' gradient the rows of what was received. A tile of a row stays in registers
while the senders pass by.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from spikegrad.kernels.cpu.threads import pointer

U = np.uint64
_LETTERS = {"float32": "s", "float64": "d"}
RARE = 0.4
"""Share of neurons that spike below which rows are added forward."""
RARE_TO_LEARN = 0.1, 192
"""The same for the gradient of weights, and the smallest number of neurons for which it holds. Measured: see `benchmarks recurrent`."""
_TILE = 256
"""Bytes of a tile: four registers of 512 bits, or eight of 256."""
_ROW, _REGISTERS = 64, 4


@functools.cache
def available() -> str | None:
    """Whose products can be called from machine code, or None; their symbols are known to LLVM from then on."""
    found = _of_torch() or _of_scipy()
    if found is None:
        return None
    owner, addresses = found
    for symbol, address in addresses.items():
        binding.add_symbol(symbol, address)
    return owner


def _of_torch() -> tuple[str, dict[str, int]] | None:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    try:
        library = ctypes.CDLL(str(next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))))
        addresses = {f"spikegrad_{letter}gemm": _address(getattr(library, f"{letter}gemm_")) for letter in "sd"}
        # MKL shares its products out among threads unless it is told; other libraries that PyTorch is built with are asked for one thread's.
        return "PyTorch", addresses | {"spikegrad_alone": _address(library.MKL_Set_Num_Threads_Local)}
    except (OSError, AttributeError, StopIteration):
        return None


def _of_scipy() -> tuple[str, dict[str, int]] | None:
    try:
        from scipy.linalg import cython_blas
    except ImportError:
        return None
    get, name = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_GetName
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    capsules = cython_blas.__pyx_capi__
    addresses = {f"spikegrad_{letter}gemm": get(capsules[f"{letter}gemm"], name(capsules[f"{letter}gemm"])) for letter in "sd"}
    return "SciPy", addresses | {"spikegrad_alone": _same.address}


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@numba.cfunc("int32(int32)")
def _same(threads: int) -> int:
    return threads


alone: Any = types.ExternalFunction("spikegrad_alone", types.int32(types.int32))
"""Set how many threads a product of this thread takes; it returns what was set."""


def _tile(dtype: str, *, gathers: bool) -> Any:
    """An intrinsic that adds senders' rows, times what each sent, to a tile; or the tile, times what each sent, to the senders' rows.

    Its arguments are addresses: of the tile; of the same columns of the first sender's row; of the senders' places; of what they sent; then
    the number of senders, and the bytes between two rows.
    """
    item = ir.FloatType() if dtype == "float32" else ir.DoubleType()
    lanes = _ROW // np.dtype(dtype).itemsize
    vector, whole = ir.VectorType(item, lanes), ir.IntType(64)

    @intrinsic
    def tile(typing_context: Any, own: Any, rows: Any, places: Any, values: Any, count: Any, stride: Any) -> Any:  # pyright: ignore
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            own, rows, places, values, count, stride = arguments

            def at(address: Any, k: int) -> Any:
                return builder.inttoptr(builder.add(address, whole(k * _ROW)), vector.as_pointer())

            def load(pointer: Any) -> Any:
                return builder.load(pointer, align=dtype_size)

            places = builder.inttoptr(places, ir.IntType(32).as_pointer())
            values = builder.inttoptr(values, item.as_pointer())
            held = [cgutils.alloca_once(builder, vector) for _ in range(_REGISTERS)]
            for k, register in enumerate(held):
                builder.store(load(at(own, k)), register)
            with cgutils.for_range_slice(builder, whole(0), count, whole(1), whole) as (e, _):
                sender = builder.zext(builder.load(builder.gep(places, [e])), whole)
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), builder.load(builder.gep(values, [e])), ir.IntType(32)(0))
                value = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))
                other = builder.add(rows, builder.mul(sender, stride))
                for k, register in enumerate(held):
                    mine, theirs = builder.load(register), load(at(other, k))
                    if gathers:
                        builder.store(builder.fadd(mine, builder.fmul(value, theirs)), register)
                    else:
                        builder.store(builder.fadd(theirs, builder.fmul(value, mine)), at(other, k), align=dtype_size)
            if gathers:
                for k, register in enumerate(held):
                    builder.store(builder.load(register), at(own, k), align=dtype_size)
            return context.get_dummy_value()

        return types.none(*[types.uint64] * 6), generate

    dtype_size = np.dtype(dtype).itemsize
    return tile


@functools.cache
def products(dtype: str) -> tuple[Any, Any, Any]:
    """Functions for what weights make of rows of outputs, and of the gradients of what was received; all arguments are addresses.

    ``feed(count, sent, fed, weights, places, features)`` and ``send(count, gradient, back, weights, features)``, weights by sender; and
    ``learn(count, sent, gradient, weights, places, features)``, which adds to the gradient of the weights. `places` has room for a row.
    """
    letter, real = _LETTERS[dtype], np.dtype(dtype).type
    gemm = types.ExternalFunction(f"spikegrad_{letter}gemm", types.void(*[types.uint64] * 13))
    reals, ints = pointer(getattr(types, dtype)), pointer(types.uint32)
    size = U(np.dtype(dtype).itemsize)
    columns = U(_TILE) // size
    gather, spread = (_tile(dtype, gathers=gathers) for gathers in (True, False))

    @numba.njit(error_model="numpy")
    def product(samples, a, b, c, features, turned):  # type: ignore[no-untyped-def]
        """``c = a @ b``, or ``a @ b.T``, each of rows of features."""
        before = alone(np.int32(1))
        whole = np.array([features, samples], np.int32)
        factors = np.array([1.0, 0.0]).astype(real)
        letters = np.array([78, 84], np.uint8)
        n, m = U(whole.ctypes.data), U(whole.ctypes.data) + U(4)
        one, zero = U(factors.ctypes.data), U(factors.ctypes.data) + size
        plain = U(letters.ctypes.data)
        gemm(plain + U(1) if turned else plain, plain, n, m, n, one, b, n, a, n, zero, c, n)
        alone(before)

    @numba.njit(error_model="numpy")
    def listed(row, places, values, features):  # type: ignore[no-untyped-def]
        """How many neurons of a sample sent something; which, and what, are listed."""
        given, into, value = reals(row), ints(places), reals(values)
        found = U(0)
        for k in range(features):
            into[found], value[found] = np.uint32(k), given[k]
            found += U(given[k] != real(0.0))
        return found

    @numba.njit(error_model="numpy")
    def feed(count, sent, fed, weights, places, features):  # type: ignore[no-untyped-def]
        given, active = reals(sent), U(0)
        for k in range(count):
            active += U(given[k] != real(0.0))
        if float(active) >= RARE * float(count):
            product(count // features, sent, weights, fed, features, False)
            return
        values, stride = places + (features + U(16)) * size, features * size
        received = reals(fed)
        for k in range(count):
            received[k] = real(0.0)
        whole = features // columns * columns
        for sample in range(count // features):
            first = U(sample) * stride
            found = listed(sent + first, places, values, features)
            for j in range(U(0), whole, columns):
                gather(fed + first + j * size, weights + j * size, places, values, found, stride)
            for e in range(found):
                row, value = reals(weights + U(ints(places)[e]) * stride), reals(values)[e]
                for j in range(whole, features):
                    reals(fed + first)[j] += value * row[j]

    @numba.njit(error_model="numpy")
    def send(count, gradient, back, weights, features):  # type: ignore[no-untyped-def]
        product(count // features, gradient, weights, back, features, True)

    @numba.njit(error_model="numpy")
    def learn(count, sent, gradient, weights, places, features):  # type: ignore[no-untyped-def]
        values, stride = places + (features + U(16)) * size, features * size
        whole = features // columns * columns
        for sample in range(count // features):
            first = U(sample) * stride
            found = listed(sent + first, places, values, features)
            for j in range(U(0), whole, columns):
                spread(gradient + first + j * size, weights + j * size, places, values, found, stride)
            for e in range(found):
                row, value = reals(weights + U(ints(places)[e]) * stride), reals(values)[e]
                for j in range(whole, features):
                    row[j] += value * reals(gradient + first)[j]

    return feed, send, learn
