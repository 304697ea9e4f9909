"""The surrogate's formulas where a program of a pass calls them."""

from __future__ import annotations

from spikegrad import printing
from spikegrad.derive import derivative_by, of_finite, with_reciprocals
from spikegrad.printing import Dialect
from spikegrad.trace import Program, Record


def with_formulas(surrogate: Record, program: Program, language: Dialect) -> tuple[Program, dict[str, str], list[str]]:
    """The program with the surrogate's numbers, ``spike.slope``, among its operands; words for what of it is called; these functions."""
    numbers = [f"spike.{name}" for name in surrogate.arguments[1:]]
    words: dict[str, str] = {}
    functions: list[str] = []
    operations = dict.fromkeys(str(operation) for operation, *_ in program.instructions)
    several = any(operation.startswith("primitive_by_") for operation in operations)
    for operation in operations:
        formula = surrogate.derivative
        if operation.startswith("primitive_by_") and surrogate.primitive is not None:
            formula = derivative_by(surrogate.primitive, surrogate.arguments, operation.removeprefix("primitive_by_"))
        elif operation != "derivative":
            continue
        formula = of_finite(formula, surrogate.arguments)
        formula = with_reciprocals(formula, surrogate.arguments) if several else formula
        functions.append(printing.function(formula, surrogate.arguments, operation, language).rstrip())
        words[operation] = f"{operation}({', '.join(f'{{{k}}}' for k in range(1 + len(numbers)))})"
    instructions = tuple((*i, *numbers) if i[0] in words else i for i in program.instructions)
    return Program(instructions, program.results), words, functions
