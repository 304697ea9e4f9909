"""From the template of loops and a printed formula to machine code: source named by its hash, compiled once, cached on disk.

Numba's disk cache knows a function by its file and ignores its globals, so that two formulas compiled from one file would load each other's
machine code; hence one file for each. It lies in ``$SPIKEGRAD_CACHE``, else in the user's cache directory; where that cannot be written,
in a temporary directory of this process, and every process compiles for itself.
"""

from __future__ import annotations

import ast
import atexit
import copy
import functools
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic
from numba.np import arrayobj

from spikegrad import printing
from spikegrad.kernels import elementary
from spikegrad.kernels.threads import ARGUMENTS, COLUMNS, WORDS
from spikegrad.trace import Record

_MATRICES = {"currents", "weights", "back_weights", "feedback", "initial", "spikes", "potentials"}
_TYPES = {
    "scratch": "cube",
    "synapses": "cube",
    **dict.fromkeys(_MATRICES, "matrix"),
}
_HELPERS = ("collect", "spread")
_PARAMETERS = {"alpha", "beta", "theta"}
_SWITCHES = (
    "ARRIVING", "ATTACHED", "DELAYED", "GATED", "GIVEN", "LEARNED", "RECORDED", "RECURRENT", "SPIKE_AT_THRESHOLD", "SUBTRACT", "UNIFORM",
    "ZERO",
)  # fmt: skip
_LOCK = threading.Lock()

_HEADER = """
import math
import numpy as np
import numba
from spikegrad.kernels.compiler import entry, given, loops
# All of the machine code depends on them; their version is {version}.
from spikegrad.kernels.threads import BLOCK, COLUMNS, claimed, claimed_back, launch, serve, words
U = np.uint64
real, integer = np.{dtype}, np.int{bits}
arctan, erf, floor, sqrt = math.atan, math.erf, np.floor, np.sqrt
inf = np.inf
vector, matrix, cube = numba.{dtype}[::1], numba.{dtype}[:, ::1], numba.{dtype}[:, :, ::1]
scalar = numba.{dtype}
# A call left in a loop would keep it from being vectorised. Formulas may fuse a product and a sum; where spikes are decided nothing may.
helper = numba.njit(error_model="numpy", forceinline=True)
formulas = numba.njit(error_model="numpy", forceinline=True, fastmath={{"contract"}})
"""


class NoAlias(CompilerBase):
    """Numba's compiler, told that the arrays given to a kernel do not overlap; otherwise it would not vectorise."""

    def define_pipelines(self) -> list[Any]:
        """The passes of Numba's own pipeline."""
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


def loops(function: Callable[..., Any]) -> Any:
    """A decorator for the loops of a kernel, which are compiled with it, for arrays that do not overlap."""
    jit: Any = numba.njit
    return jit(error_model="numpy", pipeline_class=NoAlias, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def entry(function: Callable[..., Any]) -> Any:
    """A decorator that compiles a function of a generated module, which takes two words, or takes it from the disk cache."""
    kernel: Any = CFunc(function, ((types.uint64, types.uint64), types.void), {}, {"error_model": "numpy"})
    kernel.enable_caching()
    cache = kernel._cache
    # Numba first learns all the types it knows, a quarter of a second, though only compiling needs them; running needs its allocator.
    if hasattr(cache, "_load_overload"):
        rtsys.initialize(kernel._targetdescr.target_context)
        cache.load_overload = cache._load_overload
    kernel.compile()
    return kernel


def given(*wanted: Any) -> Any:
    """A function from a job's address to its arguments, of these types: arrays, and a tuple of numbers.

    An array's words are its address and, if it has more than one dimension, its shape; a vector has an element for each column.
    """

    @intrinsic
    def arguments(typing_context: Any, job: Any) -> Any:  # pyright: ignore[reportUnusedParameter]
        def generate(context: Any, builder: Any, signature: Any, job: Any) -> Any:
            words, whole = builder.inttoptr(job[0], context.get_value_type(WORDS)), ir.IntType(64)
            place = ARGUMENTS

            def at(pointer: Any, k: int) -> Any:
                return builder.load(builder.gep(pointer, [whole(k)]))

            found = []
            for kind in wanted:
                pointer = builder.inttoptr(at(words, place), context.get_data_type(kind.dtype).as_pointer())
                place += 1
                if isinstance(kind, types.UniTuple):
                    found.append(context.make_tuple(builder, kind, [at(pointer, k) for k in range(kind.count)]))
                    continue
                shape = [at(words, COLUMNS)] if kind.ndim == 1 else [at(words, place + k) for k in range(kind.ndim)]
                place += len(shape) if kind.ndim > 1 else 0
                size = whole(kind.dtype.bitwidth // 8)
                strides = [size]
                for length in shape[:0:-1]:
                    strides.insert(0, builder.mul(strides[0], length))
                array = context.make_array(kind)(context, builder)
                arrayobj.populate_array(array, pointer, shape, strides, size, None)
                found.append(array._getvalue())
            return context.make_tuple(builder, signature.return_type, found)

        return types.Tuple(wanted)(types.uint64), generate

    return arguments


def _template() -> dict[str, ast.FunctionDef]:
    """The functions of the template, to change: reading them anew is quicker than copying them."""
    trees = (ast.parse(path.read_text()) for path in Path(__file__).with_name("loops").glob("*.py"))
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def _signature(names: Sequence[str], numbers: int) -> str:
    """The Numba types of an entry point's arguments, by their names."""
    types = _TYPES | {"numbers": f"numba.types.UniTuple(scalar, {numbers})"}
    return ", ".join(types.get(name.removeprefix("grad_"), "vector") for name in names)


@dataclass(frozen=True)
class Variant:
    """What one compiled kernel is made of.

    Attributes:
        entry: name of a function of `spikegrad.kernels.loops`.
        dtype: ``"float32"`` or ``"float64"``.
        formula: the surrogate's record, for a backward pass through spikes.
        switches: the template's options that are on.
    """

    entry: str
    dtype: str
    formula: Record | None = None
    switches: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Kernel:
    """Machine code, and the names of its arguments in their order."""

    address: int
    names: tuple[str, ...]


class _Decided(ast.NodeTransformer):
    """Decides the template's options: what they switch off disappears, so that it is neither compiled nor run."""

    def __init__(self, on: frozenset[str]) -> None:
        self.values = {name: name in on for name in _SWITCHES}

    def _known(self, test: ast.expr) -> bool | None:
        """The value of a condition made of options alone, else None."""
        if not {n.id for n in ast.walk(test) if isinstance(n, ast.Name)} <= self.values.keys():
            return None
        return bool(eval(compile(ast.Expression(test), "loops", "eval"), {}, self.values))

    def visit_If(self, node: ast.If) -> Any:
        """Keep the branch that is taken."""
        self.generic_visit(node)
        known = self._known(node.test)
        return node if known is None else node.body if known else node.orelse

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """Keep the value that is taken."""
        self.generic_visit(node)
        known = self._known(node.test)
        return node if known is None else node.body if known else node.orelse

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """Read the one element of a parameter that all columns share."""
        self.generic_visit(node)
        if self.values["UNIFORM"] and isinstance(node.value, ast.Name) and node.value.id in _PARAMETERS:
            node.slice = ast.parse("U(0)", mode="eval").body
        return node


class _WrittenOut(ast.NodeTransformer):
    """Writes functions of one expression out where they are called: Numba would compile each by itself, for a good part of the time."""

    def __init__(self, functions: Mapping[str, ast.FunctionDef]) -> None:
        self.functions = functions

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Replace the call by the function's expression, its arguments by those given."""
        self.generic_visit(node)
        function = self.functions.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if function is None:
            return node
        result: Any = function.body[-1]
        given = dict(zip((argument.arg for argument in function.args.args), node.args, strict=True))
        return self.visit(_Replaced(given).visit(copy.deepcopy(result.value)))


class _Replaced(ast.NodeTransformer):
    def __init__(self, given: Mapping[str, ast.expr]) -> None:
        self.given = given

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.given.get(node.id, node))


@functools.cache
def _parts(variant: Variant) -> tuple[dict[str, ast.FunctionDef], tuple[str, ...]]:
    """The template's functions that are compiled, with the options decided, and the names of the entry point's arguments."""
    names = [variant.entry]
    if "RECURRENT" in variant.switches:
        names = [*_HELPERS, variant.entry] if variant.entry.endswith("backward") else ["collect", variant.entry]
    decide, template = _Decided(variant.switches), _template()
    write_out = _WrittenOut({name: decide.visit(function) for name, function in template.items() if len(function.body) == 2})
    parts = {name: write_out.visit(decide.visit(template[name])) for name in names}
    entry = parts[variant.entry]
    used = {"job", "mine"} | {node.id for statement in entry.body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    entry.args.args = [argument for argument in entry.args.args if argument.arg in used]
    return parts, tuple([argument.arg for argument in entry.args.args[2:]])


def header(dtype: str) -> str:
    """What precedes the functions of a generated module."""
    version = _digest("".join(Path(__file__).with_name(name).read_text() for name in ("compiler.py", "threads.py")))
    return _HEADER.format(dtype=dtype, bits=dtype[-2:], version=version)


def source(variant: Variant) -> str:
    """The module that defines one entry point."""
    dtype, formula = variant.dtype, variant.formula
    count = 0 if formula is None else len(formula.arguments) - 1
    lines = [header(dtype)]
    if formula is not None:
        given = ", ".join(f"numbers[{k}]" for k in range(count))
        functions = f"{elementary.source(dtype)}\n\n{printing.function(formula.derivative, formula.arguments, 'formula', 'numba')}"
        functions += f"\n\ndef derivative(x, numbers):\n    return formula(x, {given})\n"
        lines.append(functions.replace("\ndef ", "\n@formulas\ndef "))
    parts, names = _parts(variant)
    for name, part in parts.items():
        lines.append(f"{'@loops' if name == variant.entry else '@helper'}\n{ast.unparse(ast.fix_missing_locations(part))}")
    lines.append(f"arguments = given({_signature(names, count)})")
    lines.append(f"@entry\ndef kernel(job, mine):\n    {variant.entry}(words(job), mine, *arguments(job))")
    return "\n\n".join(lines) + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def compiled(variant: Variant) -> Kernel:
    """An entry point, compiled; from the disk cache where it has been before."""
    return Kernel(loaded(variant.entry, source(variant)).kernel.address, _parts(variant)[1])


def pool() -> tuple[int, int]:
    """The addresses of `spikegrad.kernels.threads.launch` and ``serve``, compiled."""
    functions = (f"@entry\ndef start_{name}(first, second):\n    {name}(first, second)\n" for name in ("launch", "serve"))
    module = loaded("pool", "\n\n".join([header("float32"), *functions]))
    return module.start_launch.address, module.start_serve.address


def loaded(name: str, text: str) -> Any:
    """The module with this text; machine code from the disk cache where it has been before."""
    module_name = f"{name}_{_digest(text)}"
    with _LOCK:
        path = _written(_directory(), f"{module_name}.py", text)
        spec = importlib.util.spec_from_file_location(f"spikegrad_generated_{module_name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # Numba's cache finds functions by the name of their module
        spec.loader.exec_module(module)
    return module


def _written(directory: Path, name: str, text: str) -> Path:
    """The file with this text, written so that another process sees all of it or nothing."""
    path = directory / name
    if not path.exists() or path.read_text() != text:
        handle, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.utime(temporary, (0, 0))  # Numba's cache compares times: whoever writes the file, what others compiled stays good
        os.replace(temporary, path)
    return path


@functools.cache
def _directory() -> Path:
    given = os.environ.get("SPIKEGRAD_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikegrad"
    directory = base / f"numba-{numba.__version__}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError:
        directory = Path(tempfile.mkdtemp(prefix="spikegrad-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        return directory
