"""Instructions of the processor that Numba has no word for, written as LLVM code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

Node = Any
"""A value or a type of LLVM, or the builder of its code: llvmlite tells type checkers wrong things of them."""

WORD = ir.IntType(64)
WORDS = types.CPointer(types.uint64)


class Words(Protocol):
    """Memory, by its words, in machine code."""

    def __getitem__(self, place: int | np.uint64, /) -> np.uint64: ...
    def __setitem__(self, place: int | np.uint64, value: int | np.uint32 | np.uint64, /) -> None: ...


def instruction(result: types.Type, *given: types.Type) -> Callable[[Callable[..., Node]], Callable[..., Node]]:
    """A decorator for what writes the code of an instruction, from a builder and the values of its arguments, of these types."""

    def made(write: Callable[..., Node]) -> Callable[..., Node]:
        def typing(_: Node, *arguments: types.Type) -> tuple[Node, Callable[..., Node]]:
            def generate(context: Node, builder: Node, signature: Node, values: Node) -> Node:
                cast = [context.cast(builder, *each) for each in zip(values, signature.args, given, strict=True)]
                found = write(builder, *cast)
                return context.get_dummy_value() if result is types.none else found

            return result(*given), generate

        # Numba looks up the names of arguments, and would hand on `*arguments` as one tuple.
        names = ("typing", *(f"a{k}" for k in range(len(given))))
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        typing.__signature__ = inspect.Signature(parameters)
        return intrinsic(typing)

    return made


def element(kind: types.Type) -> Node:
    """LLVM's type of numbers of this type."""
    return {"float32": ir.FloatType(), "float64": ir.DoubleType()}.get(str(kind)) or ir.IntType(int(str(kind).lstrip("uint")))


def pointer(kind: types.Type) -> Callable[[np.uint64], Words]:
    """A function from an address to a pointer to numbers of this type."""

    @instruction(types.CPointer(kind), types.uint64)
    def to(builder: Node, address: Node) -> Node:
        return builder.inttoptr(address, element(kind).as_pointer())

    return to


words = pointer(types.uint64)


@instruction(types.uint64, WORDS, types.intp, types.uint64)
def added(builder: Node, memory: Node, place: Node, value: Node) -> Node:
    """Add to a word as one indivisible operation; what it was before."""
    return builder.atomic_rmw("add", builder.gep(memory, [place]), value, "acq_rel")


@instruction(types.uint64, WORDS, types.intp)
def seen(builder: Node, memory: Node, place: Node) -> Node:
    """A word that another thread may change."""
    return builder.load_atomic(builder.gep(memory, [place]), "acquire", 8)


@instruction(types.none, types.uint64, types.uint64, types.uint64)
def called(builder: Node, function: Node, first: Node, second: Node) -> Node:
    """Call the function at an address with two words."""
    return builder.call(builder.inttoptr(function, ir.FunctionType(ir.VoidType(), [WORD, WORD]).as_pointer()), [first, second])


@instruction(types.uint64, types.uint64, types.uint64)
def answered(builder: Node, function: Node, argument: Node) -> Node:
    """What the function at an address returns for a word."""
    return builder.call(builder.inttoptr(function, ir.FunctionType(WORD, [WORD]).as_pointer()), [argument])
