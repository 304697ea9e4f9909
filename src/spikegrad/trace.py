"""Record a formula once with symbols, and print the record as straight-line source.

A formula is ordinary Python over the small vocabulary of `spikegrad.vocabulary`. Called with a `Symbol` it does not compute, it
writes itself down; `record` flattens what was written into a `Program`, a plain tuple of instructions that compares, hashes and
pickles; `source` prints a program for a scalar language. The recorder optimises nothing: what runs is what was written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Operand = str | int | float
"""An argument by its name, an earlier instruction by its index (int), or a literal (float)."""

Program = tuple[tuple[Operand, ...], ...]
"""Instructions ``(operation, *operands)``; the last one is the result."""

INPUTS = ("x", "noise")
"""Names of the arguments that are arrays; every other argument is a parameter."""

FUNCTIONS = ("exp", "log", "sqrt", "sin", "cos", "arctan", "erf", "floor", "step")
"""Functions of one argument that a formula may call."""


class Symbol:
    """A node of a formula being recorded: an operation and its arguments.

    Arithmetic and comparisons on symbols give symbols. Whatever a scalar kernel could not do (branching on a value, a function
    outside the vocabulary) raises a `TypeError` that names it.
    """

    __slots__ = ("arguments", "operation", "sign")

    def __init__(self, operation: str, *arguments: Symbol | float | str, sign: int | None = None):
        """`sign` is 1 where the value is known to be positive, 0 where it is known not to be negative, else None."""
        self.operation, self.arguments = operation, arguments
        self.sign = _sign(operation, arguments) if sign is None else sign

    def __add__(self, other: Any) -> Symbol:
        return Symbol("add", self, _operand(other))

    def __radd__(self, other: Any) -> Symbol:
        return Symbol("add", _operand(other), self)

    def __sub__(self, other: Any) -> Symbol:
        return Symbol("subtract", self, _operand(other))

    def __rsub__(self, other: Any) -> Symbol:
        return Symbol("subtract", _operand(other), self)

    def __mul__(self, other: Any) -> Symbol:
        return Symbol("multiply", self, _operand(other))

    def __rmul__(self, other: Any) -> Symbol:
        return Symbol("multiply", _operand(other), self)

    def __truediv__(self, other: Any) -> Symbol:
        return Symbol("divide", self, _operand(other))

    def __rtruediv__(self, other: Any) -> Symbol:
        return Symbol("divide", _operand(other), self)

    def __neg__(self) -> Symbol:
        return Symbol("negative", self)

    def __abs__(self) -> Symbol:
        return Symbol("abs", self)

    def __lt__(self, other: Any) -> Symbol:
        return Symbol("less", self, _operand(other))

    def __le__(self, other: Any) -> Symbol:
        return Symbol("less_equal", self, _operand(other))

    def __gt__(self, other: Any) -> Symbol:
        return Symbol("greater", self, _operand(other))

    def __ge__(self, other: Any) -> Symbol:
        return Symbol("greater_equal", self, _operand(other))

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return Symbol("equal", self, _operand(other))

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return Symbol("not_equal", self, _operand(other))

    def __and__(self, other: Any) -> Symbol:
        return Symbol("and", self, _operand(other))

    def __or__(self, other: Any) -> Symbol:
        return Symbol("or", self, _operand(other))

    def __invert__(self) -> Symbol:
        return Symbol("not", self)

    __hash__ = object.__hash__

    def __pow__(self, exponent: Any) -> Symbol:
        if isinstance(exponent, int | float) and float(exponent).is_integer() and abs(exponent) <= 64:
            power = _product(self, int(abs(exponent)))
            return power if exponent >= 0 else 1 / power
        if self.sign != 1:
            raise TypeError(
                "a power that is not a whole number needs a base known to be positive: build it from abs(...), exp(...), positive "
                "numbers and parameters annotated `Positive`"
            )
        return Symbol("exp", exponent * Symbol("log", self))

    def __rpow__(self, base: Any) -> Symbol:
        return Symbol("exp", self * math.log(base))

    def __bool__(self) -> bool:
        raise TypeError("a formula cannot branch on its input (`if`, `and`, `or`, `not`, `min`, `max`); use where(condition, a, b)")

    def __float__(self) -> float:
        raise TypeError("a formula cannot turn its input into a number; use the functions of `spikegrad.vocabulary`, not `math`")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Symbol.__slots__:
            raise AttributeError(name)
        raise TypeError(f"`.{name}` is outside the vocabulary of a formula, which is: {_vocabulary()}")

    def __array_ufunc__(self, function: Any, *_: Any, **__: Any) -> Any:
        raise TypeError(f"`numpy.{function.__name__}` is outside the vocabulary of a formula, which is: {_vocabulary()}")

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> Any:
        raise TypeError(f"`torch.{function.__name__}` is outside the vocabulary of a formula, which is: {_vocabulary()}")

    def __jax_array__(self) -> Any:
        raise TypeError(f"a function of JAX is outside the vocabulary of a formula, which is: {_vocabulary()}")


def _vocabulary() -> str:
    return f"+ - * / ** abs {' '.join(FUNCTIONS)} where < <= > >= == != & | ~"


def _operand(value: Any) -> Symbol | float:
    if isinstance(value, Symbol):
        return value
    if isinstance(value, int | float):
        return float(value)
    raise TypeError(f"a formula can combine its input with numbers and its own parameters, not with {type(value).__name__}")


def _product(base: Symbol, count: int) -> Any:
    if count == 0:
        return base * 0 + 1
    if count == 1:
        return base
    half = _product(base, count // 2)
    return half * half if count % 2 == 0 else half * half * base


def _sign(operation: str, arguments: tuple[Any, ...]) -> int:
    """1 if the node is certainly positive, 0 if certainly not negative, -1 if neither is known."""

    def known(argument: Any) -> int:
        if isinstance(argument, Symbol):
            return argument.sign
        return 1 if argument > 0 else 0 if argument == 0 else -1

    match operation:
        case "exp":
            return 1
        case "abs" | "sqrt" | "step":
            return 0
        case "add":
            signs = [known(a) for a in arguments]
            return max(signs) if min(signs) >= 0 else -1
        case "multiply" if arguments[0] is arguments[1]:
            return max(0, known(arguments[0]))
        case "multiply" | "divide":
            return min(known(a) for a in arguments)
        case _:
            return -1


def where(condition: Symbol, a: Any, b: Any) -> Symbol:
    """`a` where the condition holds, else `b`; one of them must depend on the input, which gives the dtype."""
    if not (_varies(a) or _varies(b)):
        raise TypeError("where(condition, a, b) needs a branch that depends on the input, for its dtype; use step(...), or x * 0 + a")
    return Symbol("where", condition, _operand(a), _operand(b))


def _varies(value: Any) -> bool:
    """Whether a value depends on the input of the formula, and not on numbers and parameters alone."""
    if not isinstance(value, Symbol):
        return False
    if value.operation == "argument":
        return value.arguments[0] in INPUTS
    return any(map(_varies, value.arguments))


def flatten(result: Symbol | float) -> Program:
    """The instructions that compute `result`, each distinct node once, in the order in which they were written."""
    program: list[tuple[Operand, ...]] = []
    seen: dict[int, Operand] = {}

    def visit(node: Symbol | float | str) -> Operand:
        if not isinstance(node, Symbol):
            return node
        if node.operation == "argument":
            return str(node.arguments[0])
        if id(node) not in seen:
            program.append((node.operation, *map(visit, node.arguments)))
            seen[id(node)] = len(program) - 1
        return seen[id(node)]

    last = visit(result)
    if last != len(program) - 1 or not isinstance(last, int):
        program.append(("copy", last))
    return tuple(program)


@dataclass(frozen=True)
class Record:
    """What a surrogate is apart from its numbers: its class and structure, written down.

    Attributes:
        arguments: names of the scalar inputs, in the order that printed functions take them: ``x``, for stochastic surrogates
            ``noise``, then the parameters.
        derivative: the program of the derivative.
        primitive: the program of the primitive, or None.
    """

    arguments: tuple[str, ...]
    derivative: Program
    primitive: Program | None = None
    key: str = field(init=False, repr=False)
    """Hash of the record, the same in every process: what kernels and caches are keyed by. It is compared too, since to Python the
    instruction index 1 and the literal 1.0 are equal."""

    def __post_init__(self) -> None:
        text = repr((self.arguments, self.derivative, self.primitive))
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:16])

    def __hash__(self) -> int:
        return hash(self.key)


def argument(name: str, sign: int = -1) -> Symbol:
    """A symbol for an input; `sign` as in `Symbol`."""
    return Symbol("argument", name, sign=sign)


def evaluate(program: Program, functions: Mapping[str, Callable[..., Any]], arguments: Mapping[str, Any]) -> Any:
    """Run a program on values, with a Python function for each operation."""
    values: list[Any] = []
    for operation, *operands in program:
        given = [arguments[o] if isinstance(o, str) else values[o] if isinstance(o, int) else o for o in operands]
        values.append(functions[str(operation)](*given))
    return values[-1]


@dataclass(frozen=True)
class Dialect:
    """How one language writes a function, an assignment, a literal and each operation."""

    head: str
    line: str
    result: str
    literal: str
    operations: Mapping[str, str]
    infinity: str = "inf"


_OPERATORS = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "negative": "-{}",
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "greater": "{} > {}",
    "greater_equal": "{} >= {}",
    "equal": "{} == {}",
    "not_equal": "{} != {}",
    "and": "{} & {}",
    "or": "{} | {}",
    "copy": "{}",
}


def _calls(template: str, **names: str) -> dict[str, str]:
    return {name: template.format(names.get(name, name)) for name in ("abs", *FUNCTIONS)}


DIALECTS = {
    "numba": Dialect(
        head="def {name}({arguments}):",
        line="    {target} = {value}",
        result="    return {value}",
        literal="real({})",
        operations={
            **_calls("{}({{}})"),
            **_OPERATORS,
            "not": "not {}",
            "where": "({1} if {0} else {2})",
            "step": "(real(1.0) if {} >= real(0.0) else real(0.0))",
        },
    ),
    "triton": Dialect(
        head="def {name}({arguments}):",
        line="    {target} = {value}",
        result="    return {value}",
        literal="{}",
        infinity='float("inf")',
        operations={
            **{name: text for name, text in _calls("tl.{}({{}})").items() if name != "arctan"},
            **_OPERATORS,
            "not": "{} == 0",
            "where": "tl.where({}, {}, {})",
            "step": "tl.where({} >= 0, 1.0, 0.0)",
        },
    ),
    "javascript": Dialect(
        head="function {name}({arguments}) {{",
        line="  const {target} = {value};",
        result="  return {value};\n}}",
        literal="{}",
        infinity="Infinity",
        operations={
            **{name: text for name, text in _calls("Math.{}({{}})", arctan="atan").items() if name != "erf"},
            **_OPERATORS,
            "and": "{} && {}",
            "or": "{} || {}",
            "not": "!{}",
            "where": "({} ? {} : {})",
            "step": "({} >= 0 ? 1 : 0)",
        },
    ),
}


def source(program: Program, arguments: tuple[str, ...], name: str, dialect: str) -> str:
    """The program as the source of one function ``name(*arguments)``.

    Raises:
        ValueError: if the dialect is unknown or has no word for an operation.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"unknown dialect {dialect!r}; there are {', '.join(sorted(DIALECTS))}")
    words = DIALECTS[dialect]

    def operand(value: Operand) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int):
            return f"t{value}"
        text = words.infinity if math.isinf(value) else repr(abs(value))
        text = words.literal.format(text)
        return text if value >= 0 else f"(-{text})"

    lines = [words.head.format(name=name, arguments=", ".join(arguments))]
    for index, (operation, *operands) in enumerate(program):
        if operation not in words.operations:
            raise ValueError(f"{dialect} has no {operation}, which the formula {name} needs")
        value = words.operations[str(operation)].format(*map(operand, operands))
        lines.append(words.line.format(target=f"t{index}", value=value))
    lines.append(words.result.format(value=f"t{len(program) - 1}"))
    return "\n".join(lines) + "\n"
