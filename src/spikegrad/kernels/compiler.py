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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from spikegrad import trace
from spikegrad.kernels import elementary
from spikegrad.trace import Record

_NUMBERS = {"first": "uint64", "last": "uint64", "block": "uint64", "recorded": "uint64", "closed": "boolean"}
_MATRICES = {"currents", "weights", "back_weights", "initial", "spikes", "potentials"}
_HELPERS = ("fired", "collect", "spread")
_LOCK = threading.Lock()

_HEADER = """
import math
import numpy as np
import numba
from spikegrad.kernels.compiler import NoAlias

U = np.uint64
real, integer = np.{dtype}, np.int{bits}
arctan, erf, floor, sqrt = math.atan, math.erf, np.floor, np.sqrt
inf = np.inf
vector, matrix = numba.{dtype}[::1], numba.{dtype}[:, ::1]
scalar, uint64, boolean = numba.{dtype}, numba.uint64, numba.boolean
helper = numba.njit(error_model="numpy")


def entry(*signature):
    return numba.njit(signature, error_model="numpy", nogil=True, cache=True, pipeline_class=NoAlias)
"""


class NoAlias(CompilerBase):
    """Numba's compiler, told that the arrays given to a kernel do not overlap; otherwise it would not vectorise."""

    def define_pipelines(self) -> list[Any]:
        """The passes of Numba's own pipeline."""
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


@functools.cache
def _template() -> dict[str, ast.FunctionDef]:
    tree = ast.parse(Path(__file__).with_name("loops.py").read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _signature(name: str, numbers: int) -> str:
    """The Numba types of an entry point's arguments, by their names."""
    tuples = {"options": 6, "numbers": numbers}
    types: list[str] = []
    for argument in _template()[name].args.args:
        plain = argument.arg.removeprefix("grad_")
        if argument.arg in _NUMBERS:
            types.append(_NUMBERS[argument.arg])
        elif argument.arg in tuples:
            types.append(f"numba.types.UniTuple(scalar, {tuples[argument.arg]})")
        else:
            types.append("matrix" if plain in _MATRICES else "vector")
    return ", ".join(types)


@dataclass(frozen=True)
class Variant:
    """What one compiled kernel is made of.

    Attributes:
        entry: name of a function of `spikegrad.kernels.loops`.
        dtype: ``"float32"`` or ``"float64"``.
        formula: the surrogate's record, for a backward pass through spikes.
        recurrent: whether it has recurrent weights.
        learned: whether parameters receive gradients.
    """

    entry: str
    dtype: str
    formula: Record | None = None
    recurrent: bool = False
    learned: bool = False


class _Decided(ast.NodeTransformer):
    """Puts True or False in place of the template's options, so that what is not needed is not compiled."""

    def __init__(self, variant: Variant) -> None:
        self.values = {"RECURRENT": variant.recurrent, "LEARNED": variant.learned}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace an option by its value."""
        return ast.Constant(self.values[node.id]) if node.id in self.values else node


def source(variant: Variant) -> str:
    """The module that defines one entry point."""
    dtype, formula = variant.dtype, variant.formula
    count = 0 if formula is None else len(formula.arguments) - 1
    parts = [_HEADER.format(dtype=dtype, bits=dtype[-2:])]
    if formula is not None:
        given = ", ".join(f"numbers[{k}]" for k in range(count))
        functions = f"{elementary.source(dtype)}\n\n{trace.source(formula.derivative, formula.arguments, 'formula', 'numba')}"
        functions += f"\n\ndef derivative(x, numbers):\n    return formula(x, {given})\n"
        parts.append(functions.replace("\ndef ", "\n@helper\ndef "))
    parts += [f"@helper\n{ast.unparse(_template()[name])}" for name in _HELPERS]
    body = _Decided(variant).visit(copy.deepcopy(_template()[variant.entry]))
    parts.append(f"@entry({_signature(variant.entry, count)})\n{ast.unparse(body)}")
    return "\n\n".join(parts) + "\n"


@functools.cache
def compiled(variant: Variant) -> Callable[..., None]:
    """An entry point, compiled; from the disk cache where it has been before."""
    text = source(variant)
    module_name = f"{variant.entry}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    with _LOCK:
        path = _written(_directory(), f"{module_name}.py", text)
        spec = importlib.util.spec_from_file_location(f"spikegrad_generated_{module_name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # Numba's cache finds functions by the name of their module
        spec.loader.exec_module(module)
    return getattr(module, variant.entry)


def _written(directory: Path, name: str, text: str) -> Path:
    """The file with this text, written so that another process sees all of it or nothing."""
    path = directory / name
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
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
