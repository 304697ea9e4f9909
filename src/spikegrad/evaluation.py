"""Recorded programs as Python functions of arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikegrad.trace import Operand, Program

Array = Any
"""A NumPy array or scalar, a PyTorch tensor or a JAX array; inside the recorder a `Symbol`. No protocol says so to a type checker: what the
three declare of their arithmetic differs, and differs from that of numbers."""

pytorch: Any = None
"""PyTorch, once our part for it is imported. Its compiler traces through here, and must not look through all modules, which may change
meanwhile."""

_ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def evaluator(program: Program, literal: Callable[[float], Array] = float) -> Callable[..., list[Array]]:
    """A function of arguments by name, and of Python functions by operation, that runs a program, with a value for each literal."""
    torch = pytorch if pytorch is not None else sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():  # which cannot follow an exec, and needs none to be fast
        return lambda given, words: evaluate(program, words, given, literal)  # pyright: ignore[reportUnknownLambdaType]
    literals: list[Array] = []

    def operand(o: Operand) -> str:
        if isinstance(o, float):
            literals.append(literal(o))
            return f"literals[{len(literals) - 1}]"
        return f"given[{o!r}]" if isinstance(o, str) else f"v{o}"

    lines = ["def run(given, words):"]
    for place, (operation, *operands) in enumerate(program.instructions):
        a, *rest = map(operand, operands)
        sign = _ARITHMETIC.get(str(operation))
        lines.append(f"    v{place} = " + (f"{a} {sign} {rest[0]}" if sign else f"words[{operation!r}]({', '.join((a, *rest))})"))
    lines.append(f"    return [{', '.join(map(operand, program.results))}]")
    made: dict[str, Any] = {"literals": tuple(literals)}
    exec("\n".join(lines), made)
    return made["run"]


def evaluate(
    program: Program,
    functions: Mapping[str, Callable[..., Array]],
    arguments: Mapping[str, Array],
    literal: Callable[[float], Array] = float,
) -> list[Array]:
    """Run a program on values, with a Python function for each operation."""
    made: list[Array] = []

    def value(o: Operand) -> Array:
        return arguments[o] if isinstance(o, str) else made[o] if isinstance(o, int) else literal(o)

    for operation, *operands in program.instructions:
        made.append(functions[str(operation)](*map(value, operands)))
    return [value(o) for o in program.results]
