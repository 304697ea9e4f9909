"""From printed loops to machine code: source named by its hash, compiled once, cached on disk.

Numba's disk cache knows a function by its file and ignores its globals, so that two formulas compiled from one file would load each other's
machine code; hence one file for each. It lies in ``$SPIKEGRAD_CACHE``, else in the user's cache directory. Whoever can write there can run
code here: a directory that others can write to is not used. Then, and where nothing can be written, there are no files, and every process
compiles for itself.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.runtime.nrt import rtsys
from numba.core.typed_passes import NativeLowering
from numpy.typing import NDArray

from spikegrad.kernels import cache
from spikegrad.kernels.cpu import elementary, instructions, source, threads
from spikegrad.kernels.cpu.instructions import Node, instruction
from spikegrad.kernels.cpu.source import Variant
from spikegrad.kernels.lock import LOCK

_HEADER = """
import math
import numpy as np
import numba
from spikegrad.kernels.cpu.compiler import bfloat16, clear, entry, fill, float16, formulas, row
# All of the machine code depends on them; their version is {version}.
from spikegrad.kernels.cpu.instructions import called, pointer, words
from spikegrad.kernels.cpu.threads import (
    ARGUMENTS, BLOCK, COLUMNS, KERNEL, SCRATCH, SHARE, STEPS, THREADS, claimed, claimed_back, row_at, row_from, row_held, shared_out,
)
U = np.uint64
real, integer = np.{real}, np.int{bits}
SIZE = U(np.dtype(real).itemsize)
reals, reals_at, reals_from, reals_held = (f(numba.{real}) for f in (pointer, row_at, row_from, row_held))
arctan, erf, floor, sqrt = math.atan, math.erf, np.floor, np.sqrt
inf = np.inf
"""
_HALVES = """
elements, elements_at, (load, store, emit) = pointer(numba.uint16), row_at(numba.uint16), {dtype}
"""


_SLOWED = ("skylake-avx512", "cascadelake", "cooperlake", "cannonlake")
"""Processors whose clock falls where they use all of their 512 bits."""
_WHOLE = bool(binding.get_host_cpu_features().get("avx512f")) and binding.get_host_cpu_name() not in _SLOWED


_dynfunc: Any = importlib.import_module("numba._dynfunc")


class _Part(JITCodeLibrary):
    """What the code of other functions takes in: LLVM optimises it there and makes machine code of it there, not by itself before."""

    def _optimize_functions(self, ll_module: Any) -> None:
        pass

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _Lower(Lower):
    def setup_function(self, fndesc: Any) -> None:
        super().setup_function(fndesc)
        if fndesc.noalias:
            self.function.attributes.add("noinline")  # what does not overlap is known of arguments alone
        if _WHOLE:  # where LLVM, for the sake of their ancestors, would take half of a register
            set.add(self.function.attributes, '"prefer-vector-width"="512"')  # llvmlite's own `add` knows only some


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "spikegrad_lowering"
    lowering_class: Any = _Lower

    def run_pass(self, state: Any) -> Literal[True]:
        """As Numba's, without an address for Python."""
        library = state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        fndesc = state.cr.fndesc
        known = _dynfunc.make_function(fndesc.lookup_module(), fndesc.qualname, "", 0, state.cr.env, (library,))
        state.targetctx.insert_user_function(known, fndesc, [library])
        state.cr = state.cr._replace(cfunc=known)
        return True


class Inner(CompilerBase):
    """Numba's compiler for what nothing but a kernel calls."""

    noalias = False

    def define_pipelines(self) -> list[Any]:
        """The passes of Numba's own pipeline."""
        self.state.flags.noalias = self.noalias
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_Lowering if each is NativeLowering else each, what) for each, what in passes.passes]
        passes.finalize()
        return [passes]


class Row(Inner):
    """The same, told that the memory given to a function does not overlap, or it would not vectorise, and to take whole vectors."""

    noalias = True


# What only other machine code calls needs no way in from Python or C.
_jit: Any = numba.njit
_inside: Any = functools.partial(_jit, error_model="numpy", no_rewrites=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
inner: Any = functools.partial(_inside, pipeline_class=Inner)
"""Makes a decorator for a function that nothing but a kernel calls."""
row: Any = _inside(pipeline_class=Row)
"""A decorator for a loop over a row, whose arguments do not overlap."""
# Where spikes are decided nothing may fuse a product and a sum; the surrogate's formulas and elementary functions may.
formulas: Any = inner(forceinline=True, fastmath={"contract"})


@row
def fill(count: int, row: NDArray[np.float64], given: NDArray[np.float64], stride: int) -> None:
    """Fill a row with what lies so far apart."""
    for j in range(count):
        row[j] = given[j * stride]


@row
def clear(count: int, row: NDArray[np.float64]) -> None:
    """Fill a row with zeros."""
    for j in range(count):
        row[j] = 0.0


def entry(count: int, result: types.Type = types.void) -> Callable[[Callable[..., None]], CFunc]:
    """A decorator that compiles a function of a generated module, which takes so many words, or takes it from the disk cache."""

    def compiled(function: Callable[..., None]) -> CFunc:
        made: Any = CFunc(function, ((types.uint64,) * count, result), {}, {"error_model": "numpy", "no_rewrites": True})
        if not function.__code__.co_filename.startswith("<"):  # it has a file, and so may its machine code
            made.enable_caching()
        cache = made._cache
        # Numba first learns all the types it knows, a quarter of a second, though only compiling needs them; running needs its allocator.
        if hasattr(cache, "_load_overload"):
            rtsys.initialize(made._targetdescr.target_context)
            cache.load_overload = functools.partial(_found, cache)
        made.compile()
        return made

    return compiled


def _found(cache: Any, signature: Any, context: Any) -> Any:
    """Machine code of a cache, or None, also where its files are damaged, which are then written again."""
    try:
        return cache._load_overload(signature, context)
    except Exception:  # whatever unpickling damaged data raises
        with contextlib.suppress(OSError):
            cache.flush()
        return None


_HALF, _SINGLE, _16, _32 = ir.HalfType(), ir.FloatType(), ir.IntType(16), ir.IntType(32)


def _widened_by_bits(builder: Node, x: Node) -> Node:
    """A float16 widened with integers, for processors that have no instruction for it, on which LLVM would ask for a function it lacks."""
    bits = builder.zext(x, _32)
    magnitude, sign = builder.and_(bits, _32(0x7FFF)), builder.shl(builder.and_(bits, _32(0x8000)), _32(16))
    # As a subnormal float32 of the same digits, whose exponent a product then puts right; it is exact, and right for subnormals too.
    scaled = builder.fmul(builder.bitcast(builder.shl(magnitude, _32(13)), _SINGLE), _SINGLE(2.0**112))
    infinite = builder.icmp_unsigned(">=", magnitude, _32(0x7C00))
    special = builder.or_(builder.shl(magnitude, _32(13)), _32(0x7F800000))
    return builder.bitcast(builder.or_(builder.select(infinite, special, builder.bitcast(scaled, _32)), sign), _SINGLE)


def _narrowed_by_bits(builder: Node, x: Node) -> Node:
    """A float32 rounded to float16 with integers, half to even."""
    bits = builder.bitcast(x, _32)
    sign = builder.trunc(builder.lshr(builder.and_(bits, _32(0x80000000)), _32(16)), _16)
    magnitude = builder.bitcast(builder.and_(bits, _32(0x7FFFFFFF)), _SINGLE)
    # A sum with a number whose last digit is a half's last digit rounds as the processor rounds: right for normal and subnormal halves.
    exponent = builder.and_(builder.bitcast(magnitude, _32), _32(0x7F800000))
    smallest = builder.icmp_unsigned("<", exponent, _32((127 - 14) << 23))
    anchor = builder.bitcast(builder.add(builder.select(smallest, _32((127 - 14) << 23), exponent), _32(13 << 23)), _SINGLE)
    digits = builder.sub(builder.bitcast(builder.fadd(magnitude, anchor), _32), builder.bitcast(anchor, _32))
    biased = builder.lshr(builder.select(smallest, _32(0), builder.sub(exponent, _32((127 - 14) << 23))), _32(13))
    whole = builder.add(biased, digits)
    large = builder.fcmp_ordered(">=", magnitude, _SINGLE(65520.0))
    nan = builder.fcmp_unordered("uno", magnitude, magnitude)
    found = builder.trunc(builder.select(nan, _32(0x7E00), builder.select(large, _32(0x7C00), whole)), _16)
    return builder.or_(found, sign)


def _from_bfloat16(builder: Node, x: Node) -> Node:
    return builder.bitcast(builder.shl(builder.zext(x, _32), _32(16)), _SINGLE)


def _to_bfloat16(builder: Node, x: Node) -> Node:
    bits = builder.bitcast(x, _32)
    odd = builder.and_(builder.lshr(bits, _32(16)), _32(1))
    rounded = builder.trunc(builder.lshr(builder.add(builder.add(bits, _32(0x7FFF)), odd), _32(16)), _16)
    return builder.select(builder.fcmp_unordered("uno", x, x), _16(0x7FC0), rounded)


def _spike_to_bfloat16(builder: Node, x: Node) -> Node:
    """What has no more digits than a bfloat16: 0, 1, or what an operation made NaN, whose first digit is 1."""
    return builder.trunc(builder.lshr(builder.bitcast(x, _32), _32(16)), _16)


def _from_float16(builder: Node, x: Node) -> Node:
    return builder.fpext(builder.bitcast(x, _HALF), _SINGLE)


def _to_float16(builder: Node, x: Node) -> Node:
    return builder.bitcast(builder.fptrunc(x, _HALF), _16)


_converts = binding.get_host_cpu_features().get("f16c", False) or "x86" not in binding.get_process_triple()
_float16 = (_from_float16, _to_float16) if _converts else (_widened_by_bits, _narrowed_by_bits)
float16, bfloat16 = (
    (instruction(types.float32, types.uint16)(load), *(instruction(types.uint16, types.float32)(each) for each in stores))
    for load, *stores in ((*_float16, _float16[1]), (_from_bfloat16, _to_bfloat16, _spike_to_bfloat16))
)
"""How the elements of half-precision sequences, their bits as whole numbers, become numbers and back, and how spikes do."""


def header(dtype: str) -> str:
    """What precedes the functions of a generated module whose sequences are of this dtype."""
    files = (Path(__file__), Path(threads.__file__), Path(elementary.__file__), Path(instructions.__file__))
    version = cache.digest("".join(path.read_text(encoding="utf-8") for path in files))
    real = "float64" if dtype == "float64" else "float32"
    text = _HEADER.format(real=real, bits=real[-2:], version=f"{version} {_converts}")
    return text + (_HALVES.format(dtype=dtype) if dtype in ("float16", "bfloat16") else "")


@functools.lru_cache(maxsize=4096)
def compiled(variant: Variant) -> tuple[int, str]:
    """The address of a kernel, and a name for it that says all there is to it; from the disk cache where it has been compiled before."""
    name = "backward" if variant.backward else "forward"
    functions = loaded("elementary", f"{header(variant.real)}\n\n{elementary.source(variant.real)}")
    parts = [header(variant.dtype), f"from {functions.__name__} import {', '.join(elementary.WORDS)}", source.source(variant)]
    if variant.fed:
        with LOCK:
            from spikegrad.kernels.cpu import products

        parts[0] += f"\n{products.known(variant.real)}"
    module = loaded(name, "\n\n".join(parts))
    return module.kernel.address, module.__name__


_LINKED = """
from spikegrad.kernels.cpu.compiler import entry
from spikegrad.kernels.cpu.{module} import functions
# Their version is {version}.
made = functions({of!r})
"""
_LINKED_FUNCTION = """
_{name} = numba.njit(error_model="numpy")(made[{place}])


@entry({count}, numba.types.{result})
def {name}({arguments}):
    return _{name}({arguments})
"""


def linked(module: str, of: str, dtype: str, version: str, functions: Mapping[str, tuple[int, str]]) -> dict[str, str]:
    """Compile the ``functions(of)`` of a module here once for all kernels, and tell LLVM their names.

    Args:
        module: its name.
        of: what its functions are made for.
        dtype: of the generated module.
        version: what their machine code depends on.
        functions: for the name of each, in their order, how many words it takes, and the type of its result.

    Returns:
        For each name an expression for it in the module of a kernel.
    """
    text = header(dtype) + _LINKED.format(module=module, of=of, version=version)
    for place, (name, (count, result)) in enumerate(functions.items()):
        arguments = ", ".join(f"a{k}" for k in range(count))
        text += _LINKED_FUNCTION.format(name=name, place=place, count=count, arguments=arguments, result=result)
    made, found = loaded(module, text), dict[str, str]()
    for name, (count, result) in functions.items():
        symbol = f"spikegrad_{name}_{of}_{version.replace(' ', '_')}"
        binding.add_symbol(symbol, getattr(made, name).address)
        found[name] = f'numba.types.ExternalFunction("{symbol}", numba.types.{result}(*[numba.types.uint64] * {count}))'
    return found


def loaded(kind: str, text: str) -> ModuleType:
    """The module with this text; machine code from the disk cache where it has been before."""
    return cache.module(kind, text, f"numba-{numba.__version__}")
