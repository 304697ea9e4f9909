"""Record a formula once with symbols, as a program that can be evaluated, differentiated and printed.

A formula is ordinary Python over the small vocabulary of `spikegrad.vocabulary`. Called with a `Symbol` it does not compute, it
writes itself down; `flatten` turns what was written into a `Program`, plain tuples that compare, hash and pickle; `symbols` turns a program
into symbols again. The recorder optimises nothing, but that what is written twice is computed once: what runs is what was written.
"""

from __future__ import annotations

import hashlib
import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import NoReturn, Union

import numpy as np

from spikegrad.evaluation import evaluate as evaluate
from spikegrad.evaluation import evaluator as evaluator

Operand = str | int | float
"""An argument by its name, an earlier instruction by its index (int), or a literal (float)."""

Instruction = tuple[Operand, ...]
"""``(operation, *operands)``."""

Value = Union["Symbol", float]
"""What a formula being recorded computes with."""

FUNCTIONS = ("exp", "log", "sqrt", "sin", "cos", "tanh", "sigmoid", "arctan", "erf", "floor", "round", "step")
"""Functions of one argument that a formula may call."""

TRANSCENDENTAL = frozenset(("exp", "log", "sin", "cos", "tanh", "sigmoid", "arctan", "erf"))
"""Those of them that take a dozen instructions, and that libraries round differently."""

BOOLEANS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "and", "or", "not")
"""Operations whose result is true or false."""

OPERATIONS: Mapping[str, str] = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "minimum", "maximum", *BOOLEANS[:6]), "nn"),
    **dict.fromkeys(("negative", "abs", "hold", "fire", "fire_above", "quantized", *FUNCTIONS), "n"),
    **dict.fromkeys(("and", "or"), "bb"),
    "not": "b",
    "where": "bnn",
}
"""Every operation of a record, and what it takes: for each operand n, a number, or b, true or false.

Some occur in the step of a neuron alone: `hold`, through which no gradient flows; `fire` (`fire_above` where a value at the threshold does
not spike); `quantized`, the place where a state is rounded if a layer asks for it.
"""

STEP_ONLY = ("hold", "fire", "fire_above", "quantized")
"""Operations that a neuron's step may use, and no other formula."""


def is_name(name: object) -> bool:
    """Whether something may be called so in the languages that programs are printed in."""
    return isinstance(name, str) and re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,99}", name) is not None and not keyword.iskeyword(name)


def is_added(name: str) -> bool:
    """Whether a layer or a pass calls something of its own so: ``bar_…`` are gradients, ``spike_…`` numbers of the surrogate."""
    return name in ("excess", "recurrent", "spike", "weight", "weights") or name.startswith(("bar_", "spike_"))


class Symbol:
    """A node of a formula being recorded: an operation and its arguments.

    Arithmetic and comparisons on symbols give symbols. Whatever a scalar kernel could not do (branching on a value, a function
    outside the vocabulary) raises a `TypeError` that names it.
    """

    __slots__ = ("arguments", "is_array", "name", "operation", "sign")

    def __init__(self, operation: str, *arguments: Value, name: str = "", sign: int | None = None, is_array: bool | None = None):
        """`sign` is 1 where the value is known to be positive, 0 where it is known not to be negative, else -1.

        `name` is that of an argument; `is_array` says whether it is an array when the formula runs as it is written, and not a number.
        """
        self.operation, self.arguments, self.name = operation, arguments, name
        self.sign = _sign(operation, arguments) if sign is None else sign
        self.is_array = any(isinstance(a, Symbol) and a.is_array for a in arguments) if is_array is None else is_array

    def __add__(self, other: Value) -> Symbol:
        return Symbol("add", self, operand(other))

    def __radd__(self, other: Value) -> Symbol:
        return Symbol("add", operand(other), self)

    def __sub__(self, other: Value) -> Symbol:
        return Symbol("subtract", self, operand(other))

    def __rsub__(self, other: Value) -> Symbol:
        return Symbol("subtract", operand(other), self)

    def __mul__(self, other: Value) -> Symbol:
        return Symbol("multiply", self, operand(other))

    def __rmul__(self, other: Value) -> Symbol:
        return Symbol("multiply", operand(other), self)

    def __truediv__(self, other: Value) -> Symbol:
        return Symbol("divide", self, operand(other))

    def __rtruediv__(self, other: Value) -> Symbol:
        return Symbol("divide", operand(other), self)

    def __neg__(self) -> Symbol:
        return Symbol("negative", self)

    def __abs__(self) -> Symbol:
        return Symbol("abs", self)

    def __lt__(self, other: Value) -> Symbol:
        return Symbol("less", self, operand(other))

    def __le__(self, other: Value) -> Symbol:
        return Symbol("less_equal", self, operand(other))

    def __gt__(self, other: Value) -> Symbol:
        return Symbol("greater", self, operand(other))

    def __ge__(self, other: Value) -> Symbol:
        return Symbol("greater_equal", self, operand(other))

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return Symbol("equal", self, operand(other))

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return Symbol("not_equal", self, operand(other))

    def __and__(self, other: Value) -> Symbol:
        return Symbol("and", self, operand(other))

    def __or__(self, other: Value) -> Symbol:
        return Symbol("or", self, operand(other))

    def __invert__(self) -> Symbol:
        return Symbol("not", self)

    __hash__ = object.__hash__

    def __pow__(self, exponent: Value) -> Symbol:
        exponent = operand(exponent)
        if isinstance(exponent, float) and exponent.is_integer() and abs(exponent) <= 64:
            power = _product(self, int(abs(exponent)))
            return power if exponent >= 0 else 1 / power
        if self.sign != 1:
            raise TypeError(
                "a power that is not a whole number up to 64 needs a base known to be positive: build it from abs(...), exp(...), positive "
                "numbers and parameters annotated `Positive`"
            )
        return Symbol("exp", exponent * Symbol("log", self))

    def __rpow__(self, base: float) -> Symbol:
        if not (isinstance(operand(base), float) and base > 0):
            raise TypeError(f"a power of a number needs one that is positive, got {base}")
        return Symbol("exp", self * math.log(base))

    def __bool__(self) -> bool:
        raise TypeError("a formula cannot branch on its input (`if`, `and`, `or`, `not`, `min`, `max`); use where(condition, a, b)")

    def __float__(self) -> float:
        raise TypeError("a formula cannot turn its input into a number; use the functions of `spikegrad.vocabulary`, not `math`")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or name in Symbol.__slots__:
            raise AttributeError(name)
        raise TypeError(f"`.{name}` is outside the vocabulary of a formula, which is: {_vocabulary()}")

    def __array_ufunc__(self, function: Callable[..., object], method: str, *given: object, **_: object) -> Symbol:
        """What a number of NumPy makes of a symbol on its right: of some operators it is an array without dimensions by then."""
        if method == "__call__" and function.__name__ in (*_OPERATORS, "power"):
            a, b = (operand(x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x) for x in given)
            return a**b if function.__name__ == "power" else Symbol(function.__name__, a, b)
        raise TypeError(f"`numpy.{function.__name__}` is outside the vocabulary of a formula, which is: {_vocabulary()}")

    @classmethod
    def __torch_function__(cls, function: Callable[..., object], *_: object, **__: object) -> NoReturn:
        raise TypeError(f"`torch.{function.__name__}` is outside the vocabulary of a formula, which is: {_vocabulary()}")

    @property
    def __jax_array__(self) -> NoReturn:  # for which JAX looks before anything else
        raise TypeError(f"a function of JAX is outside the vocabulary of a formula, which is: {_vocabulary()}")


_OPERATORS = ("add", "subtract", "multiply", "divide", *BOOLEANS[:6])
"""Operations on two numbers that are written between them; NumPy calls its own so, too."""


def _vocabulary() -> str:
    return f"+ - * / ** abs {' '.join(FUNCTIONS)} minimum maximum where < <= > >= == != & | ~"


def operand(value: object) -> Value:
    """What a symbol may be combined with: another one, or a number."""
    if isinstance(value, Symbol):
        return value
    if isinstance(value, Real):  # those of NumPy, too
        if value != value:
            raise TypeError("a formula cannot be given NaN")
        return float(value)
    raise TypeError(f"a formula can combine its input with numbers and its own parameters, not with {type(value).__name__}")


def _product(base: Symbol, count: int) -> Symbol:
    if count == 0:
        return base * 0 + 1
    if count == 1:
        return base
    half = _product(base, count // 2)
    return half * half if count % 2 == 0 else half * half * base


def _sign(operation: str, arguments: Sequence[Value]) -> int:
    """1 if the node is certainly positive, 0 if certainly not negative, -1 if neither is known."""

    def known(argument: Value) -> int:
        if isinstance(argument, Symbol):
            return argument.sign
        return 1 if argument > 0 else 0 if argument == 0 else -1

    match operation:
        case "exp":
            return 1
        case "abs" | "sqrt" | "step" | "sigmoid":
            return 0
        case "add":
            signs = [known(a) for a in arguments]
            return max(signs) if min(signs) >= 0 else -1
        case "multiply" if arguments[0] is arguments[1]:
            return max(0, known(arguments[0]))
        case "multiply" | "divide" | "minimum":
            return min(known(a) for a in arguments)
        case "maximum":
            return max(known(a) for a in arguments)
        case "hold" | "quantized":
            return known(arguments[0])
        case _:
            return -1


def where(condition: Symbol, a: Value, b: Value) -> Symbol:
    """`a` where the condition holds, else `b`; one of them must depend on the input, which gives the dtype."""
    if not any(isinstance(x, Symbol) and x.is_array for x in (a, b)):
        raise TypeError("where(condition, a, b) needs a branch that depends on the input, for its dtype; use step(...), or x * 0 + a")
    return Symbol("where", condition, operand(a), operand(b))


def argument(name: str, sign: int = -1, *, is_array: bool = True) -> Symbol:
    """A symbol for an input; see `Symbol`."""
    return Symbol("argument", name=name, sign=sign, is_array=is_array)


def ordered(roots: Iterable[Value | None]) -> list[Symbol]:
    """Every symbol that the roots are computed from, each after its arguments, in the order in which they were written."""
    found: list[Symbol] = []
    seen: set[int] = set()
    for root in roots:
        stack: list[tuple[Value | None, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if not isinstance(node, Symbol) or (id(node) in seen and not ready):
                continue
            if ready:
                found.append(node)
                continue
            seen.add(id(node))
            stack.append((node, True))
            stack += [(a, False) for a in reversed(node.arguments)]
    return found


@dataclass(frozen=True)
class Program:
    """Straight-line code.

    Attributes:
        instructions: in the order in which they run.
        results: what it computes: instructions by their index, arguments by their name, or literals.
        names: what the formula's author calls instructions, by their index; for whoever reads a print.
    """

    instructions: tuple[Instruction, ...]
    results: tuple[Operand, ...]
    names: tuple[tuple[int, str], ...] = field(default=(), compare=False)

    def arguments(self) -> set[str]:
        """The names of the arguments that it reads."""
        operands = [o for _, *operands in self.instructions for o in operands]
        return {o for o in (*operands, *self.results) if isinstance(o, str)}


def flatten(results: Sequence[Symbol | float], names: Mapping[int, str] | None = None) -> Program:
    """The instructions that compute the results, each distinct one once, in the order in which they were written.

    `names` are the names of symbols, by their id.
    """
    instructions: list[Instruction] = []
    known: dict[tuple[object, ...], int] = {}
    place: dict[int, Operand] = {}
    named: dict[int, str] = {}

    def placed(value: Value) -> Operand:
        return place[id(value)] if isinstance(value, Symbol) else value

    for node in ordered(results):
        if node.operation == "argument":
            place[id(node)] = node.name
            continue
        instruction: Instruction = (node.operation, *map(placed, node.arguments))
        key = tuple((type(o), o, str(o)) for o in instruction)  # 1, 1.0, 0.0 and -0.0 are equal to Python
        if key not in known:
            known[key] = len(instructions)
            instructions.append(instruction)
        place[id(node)] = known[key]
        if names and id(node) in names:
            named.setdefault(known[key], names[id(node)])
    return Program(tuple(instructions), tuple(map(placed, results)), tuple(named.items()))


def symbols(program: Program, arguments: Mapping[str, Value]) -> tuple[list[Value], dict[int, str]]:
    """The program's results as symbols of these arguments, and the names of symbols by their id."""
    made: list[Value] = []

    def value(o: Operand) -> Value:
        return arguments[o] if isinstance(o, str) else made[o] if isinstance(o, int) else o

    for operation, *operands in program.instructions:
        made.append(Symbol(str(operation), *map(value, operands)))
    return [value(o) for o in program.results], {id(made[k]): name for k, name in program.names}


def digest(*parts: object) -> str:
    """A hash of what is written down, the same in every process: what kernels and caches are keyed by."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


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
    """Hash of the record. It is compared too, since to Python the instruction index 1 and the literal 1.0 are equal."""

    def __post_init__(self) -> None:
        parts = (p and (p.instructions, p.results) for p in (self.derivative, self.primitive))
        object.__setattr__(self, "key", digest(self.arguments, *parts))

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class StepRecord:
    """What a neuron is apart from its numbers: its step and its resting states, written down.

    Attributes:
        inputs: names of what arrives at each step.
        states: names of the states.
        numbers: names of the numbers.
        outputs: how many outputs there are.
        recorded: names of what else can be recorded; ``excess`` is the potential over the threshold, what `fire` saw.
        step: from inputs, states and numbers: the outputs, the states after the step, and what can be recorded.
        resting: from numbers, and the resting numbers of states under the names of the states: where each state rests.
    """

    inputs: tuple[str, ...]
    states: tuple[str, ...]
    numbers: tuple[str, ...]
    outputs: int
    recorded: tuple[str, ...]
    step: Program
    resting: Program
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        programs = ((p.instructions, p.results) for p in (self.step, self.resting))
        object.__setattr__(self, "key", digest(self.inputs, self.states, self.numbers, self.outputs, self.recorded, *programs))

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def fires(self) -> bool:
        """Whether the step has any use for a surrogate."""
        return any(operation in ("fire", "fire_above") for operation, *_ in self.step.instructions)
