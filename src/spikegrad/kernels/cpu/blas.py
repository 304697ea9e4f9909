"""Matrix products called from inside of a kernel: recurrent weights, once in each time step, by each thread on its share of the samples.

The products are those of the BLAS that PyTorch carries, called with one thread; without PyTorch's, SciPy's. Where few neurons spike, rows of
the weights are added instead.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba.core import types

from spikegrad.kernels.cpu.compiler import row
from spikegrad.kernels.cpu.threads import pointer

U = np.uint64
_LETTERS = {"float32": "s", "float64": "d"}
RARE = 5
"""Rows are added where fewer than one in so many neurons spikes: measured crossings lie between 15 and 25 % of them."""


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


@row
def scaled_row(count, to, scale, given):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, D103
    for j in range(count):
        to[j] += scale * given[j]


@functools.cache
def products(dtype: str) -> tuple[Any, Any]:
    """Functions for what weights make of rows of outputs, and of the gradients of what was received; all arguments are addresses.

    ``feed(count, sent, fed, weights, features)`` and ``send(count, gradient, back, weights, features)``, weights by sender.
    """
    letter, real = _LETTERS[dtype], np.dtype(dtype).type
    kind = getattr(types, dtype)
    gemm = types.ExternalFunction(f"spikegrad_{letter}gemm", types.void(*[types.uint64] * 13))
    reals, ints, bytes_ = pointer(kind), pointer(types.int32), pointer(types.uint8)
    size = U(np.dtype(dtype).itemsize)

    @numba.njit(error_model="numpy")
    def product(samples, a, b, c, features, turned):  # type: ignore[no-untyped-def]
        """``c = a @ b``, or ``a @ b.T``, each of rows of features."""
        whole = np.array([features, samples], np.int32)
        factors = np.array([1.0, 0.0]).astype(real)
        letters = np.array([78, 84], np.uint8)
        n, m = U(whole.ctypes.data), U(whole.ctypes.data) + U(4)
        one, zero = U(factors.ctypes.data), U(factors.ctypes.data) + size
        plain = U(letters.ctypes.data)
        gemm(plain + U(1) if turned else plain, plain, n, m, n, one, b, n, a, n, zero, c, n)

    @numba.njit(error_model="numpy")
    def feed(count, sent, fed, weights, features):  # type: ignore[no-untyped-def]
        given, active = reals(sent), U(0)
        for k in range(count):
            active += U(given[k] != real(0.0))
        if active * U(RARE) >= count:
            before = alone(np.int32(1))
            product(count // features, sent, weights, fed, features, False)
            alone(before)
            return
        received = reals(fed)
        for k in range(count):
            received[k] = real(0.0)
        for sample in range(count // features):
            first = U(sample) * features
            to = reals(fed + first * size)
            for k in range(features):
                value = given[first + k]
                if value != real(0.0):
                    scaled_row(features, to, value, reals(weights + k * features * size))

    @numba.njit(error_model="numpy")
    def send(count, gradient, back, weights, features):  # type: ignore[no-untyped-def]
        before = alone(np.int32(1))
        product(count // features, gradient, weights, back, features, True)
        alone(before)

    return feed, send
