"""What the passes of a layer read, keep, compute and write; it knows no backend.

A `Call` says what a layer is apart from its arrays. Its `Plan` is cut from the recorded step: what depends on numbers alone is computed
once a call, by whatever library the numbers belong to, and the passes take the results, the *parameters*; the rest are straight-line
programs. Where a layer's input comes from and where its gradient goes, memory or the feedback of recurrent weights, is not the plan's
business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from spikegrad import cut, derive, trace
from spikegrad.cut import Passes
from spikegrad.trace import Operand, Program, Record, StepRecord, Symbol, Value, argument
from spikegrad.vocabulary import OPERATIONS, Array, library, namespace

Connection = Literal["none", "one-to-one", "all-to-all"]

WEIGHTS = {"one-to-one": "weight", "all-to-all": "weights"}
"""What a step calls its recurrent weights."""

FED = "fed"
"""The input that recurrent weights make of the first outputs of the step before."""

QUANTIZED = ("quantize.low", "quantize.high", "quantize.spacing")
"""The numbers of a quantised state: its lowest and highest level, and the distance between two."""


@dataclass(frozen=True)
class Call:
    """The static part of a layer: everything but arrays and numbers.

    Attributes:
        record: the neuron's step.
        surrogate: the formula of its surrogate.
        recorded: names of the values that are returned besides the outputs.
        quantized: whether states are rounded to levels; the numbers `QUANTIZED` say which.
        connection: ``"one-to-one"`` where each neuron also receives its own first output of the step before, times its `weight`;
            ``"all-to-all"`` where it receives that of all through `weights`, the input `FED`.
    """

    record: StepRecord
    surrogate: Record
    recorded: tuple[str, ...] = ()
    quantized: bool = False
    connection: Connection = "none"

    plan: Plan = field(init=False, repr=False, compare=False)
    """What the passes compute."""
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        key = trace.digest(self.record.key, self.surrogate.key, self.recorded, self.quantized, self.connection)
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "plan", Plan(self))

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[object, ...]:
        return Call, (self.record, self.surrogate, self.recorded, self.quantized, self.connection)


@dataclass(frozen=True)
class Pass:
    """One of the two passes of a layer.

    Attributes:
        call: the layer.
        backward: which pass.
        dtype: of the sequences: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``. All else is float32, or float64.
    """

    call: Call
    backward: bool
    dtype: str

    @property
    def real(self) -> str:
        """The dtype in which is computed."""
        return "float64" if self.dtype == "float64" else "float32"


class Plan:
    """The programs of a layer, and the names of what they take.

    Attributes:
        call: the layer.
        inputs: names of what arrives at each step.
        states: names of the states of each neuron; without the fed back outputs of an ``"all-to-all"`` layer.
        numbers: names of the numbers that a call gives.
        parameters: names of what the passes take in their place.
        constants: the program of the parameters.
        step: the step without what depends on numbers alone: outputs, states, recorded values.
    """

    def __init__(self, call: Call) -> None:
        record = composed(call)
        self.call, self.inputs, self.states, self.numbers = call, record.inputs, record.states, record.numbers
        wanted = [record.outputs + len(record.states) + record.recorded.index(name) for name in call.recorded]
        results = (*record.step.results[: record.outputs + len(record.states)], *(record.step.results[k] for k in wanted))
        step = Program(record.step.instructions, results, record.step.names)
        self.constants, self.parameters, self.step = derive.hoisted(step, self.numbers, (*self.inputs, *self.states))
        self.outputs, self.resting = record.outputs, record.resting
        self._passes: dict[frozenset[str], Passes] = {}

    def passes(self, learned: frozenset[str] = frozenset()) -> Passes:
        """The passes that give gradients to the `learned` parameters."""
        found = self._passes.get(learned)
        if found is None:
            given = self.inputs, self.states, self.parameters, self.outputs, self.call.recorded
            found = self._passes[learned] = cut.passes(self.step, *given, sorted(learned), passing=(FED,))
        return found

    def computed(self, numbers: Mapping[str, Array], like: Array) -> dict[str, Array]:
        """The parameters from the numbers, each a float or an array that broadcasts to a step of `like`, an array of the working dtype.

        Parameters of floats alone are floats, rounded as the working dtype rounds.
        """
        return dict(zip(self.parameters, _evaluated(self.constants, numbers, like), strict=True))

    def rested(self, numbers: Mapping[str, Array], like: Array) -> dict[str, Array]:
        """Where each state rests, likewise; `numbers` also have the resting numbers of the states."""
        return dict(zip(self.states, _evaluated(self.resting, numbers, like), strict=True))

    @functools.cached_property
    def sources(self) -> dict[str, frozenset[str]]:
        """Which numbers each parameter is computed from, and each resting state, as ``first.v``."""
        names = (*self.parameters, *(f"first.{name}" for name in self.states))
        programs = (self.constants, self.resting)
        each = [Program(program.instructions, (result,)) for program in programs for result in program.results]
        return {name: frozenset(_needed(program)) for name, program in zip(names, each, strict=True)}

    def pulled_back(self, numbers: Mapping[str, Array], adjoints: Mapping[str, Array], like: Array) -> Iterator[tuple[str, Array]]:
        """Adjoints of numbers, for where PyTorch does not differentiate, from those of what is computed from them, named as in `sources`.

        Parts, which are to be added, each by the name of its number and in the shape of what it came from: to be summed over what was
        broadcast.
        """
        given = {name: argument(name) for name in numbers}
        arrays = {name: array(x, like) for name, x in numbers.items()}
        results = [x for program in (self.constants, self.resting) for x in trace.symbols(program, given)[0]]
        for name, result in zip(self.sources, results, strict=True):
            if name in adjoints:
                found = dict(zip(given, derive.reverse([result], [argument("bar")], list(given.values())), strict=True))
                there = {number: bar for number, bar in found.items() if bar is not None}
                evaluate = trace.evaluator(trace.flatten(list(there.values())), lambda x: array(x, like))
                yield from zip(there, evaluate(arrays | {"bar": adjoints[name]}, OPERATIONS), strict=True)


def _needed(program: Program) -> set[str]:
    """The arguments that the one result of a program is computed from."""
    found, waiting = set[str](), list(program.results)
    while waiting:
        o = waiting.pop()
        if isinstance(o, str):
            found.add(o)
        elif isinstance(o, int):
            waiting += program.instructions[o][1:]
    return found


def _evaluated(program: Program, numbers: Mapping[str, Array], like: Array) -> list[Array]:
    """Results of a program of numbers, floats where they come from floats alone: NumPy computes these, for every library."""
    if all(library(value) != "number" for value in numbers.values()):
        return trace.evaluator(program, lambda x: array(x, like))(numbers, OPERATIONS)
    values: list[Array] = []
    real = np.dtype(str(like.dtype).removeprefix("torch.")).type

    def value(o: Operand) -> Array:
        found = numbers[o] if isinstance(o, str) else values[o] if isinstance(o, int) else o
        return real(found) if isinstance(found, float) else found

    with np.errstate(all="ignore") if program.instructions else contextlib.nullcontext():
        for operation, *operands in program.instructions:
            given = [value(o) for o in operands]
            if any(library(o) != "numpy" for o in given):  # conditions stay conditions
                given = [array(o, like) != 0 if str(o.dtype).endswith("bool") else array(o, like) for o in given]
            values.append(OPERATIONS[str(operation)](*given))
    return [float(each) if library(each := value(o)) == "numpy" else each for o in program.results]


def array(value: Array, like: Array) -> Array:
    """A number as an array without dimensions, of the library, dtype and device of `like`; an array in that dtype."""
    owner = library(like)
    if owner == "torch":
        torch = namespace(owner)
        if library(value) == "torch":
            return value.to(like.dtype)
        if torch.compiler.is_exporting():  # as an operation: PyTorch cannot functionalise a constant tensor inside of a scan
            return torch.full((), float(value), dtype=like.dtype, device=like.device)
        # not `new_tensor`, which wants memory that tensors marked as negative or zero do not have
        return torch.tensor(float(value), dtype=like.dtype, device=like.device)
    return namespace(owner).asarray(value, dtype=like.dtype)


def composed(call: Call) -> StepRecord:
    """The record of the step with what a layer adds to it."""
    record = call.record
    if call.connection != "none":
        record = _fed_back(record, own=call.connection == "one-to-one")
    return _with_levels(record) if call.quantized else record


def fed_as_input(call: Call) -> Call:
    """A layer with ``"all-to-all"`` connections as one without, which is given what is fed back as its last input."""
    return dataclasses.replace(call, record=_fed_back(call.record, own=False, name="fed_back"), connection="none")


def _fed_back(record: StepRecord, *, own: bool, name: str = FED) -> StepRecord:
    """The step of neurons that receive what is fed back: as their input `FED` if they have one, else added to their first input.

    If it is each neuron's own first output of the step before, that is a state more, and its weight a number more; else it is an input
    more, of this name, which whoever runs the layer computes.
    """
    given: dict[str, Value] = {name: argument(name) for name in (*record.inputs, *record.states, *record.numbers)}
    fed = argument("weight") * argument("recurrent") if own else argument(name)
    first = record.inputs[0]
    given |= {FED: fed} if FED in record.inputs else {first: given[first] + fed}
    inputs = tuple(name for name in record.inputs if name != FED)
    results, called = trace.symbols(record.step, given)
    if not own:
        return dataclasses.replace(record, inputs=(*inputs, name), step=trace.flatten(results, called))
    results.insert(record.outputs + len(record.states), results[0])
    return dataclasses.replace(
        record,
        inputs=inputs,
        states=(*record.states, "recurrent"),
        numbers=(*record.numbers, "weight"),
        step=trace.flatten(results, called),
        resting=Program(record.resting.instructions, (*record.resting.results, 0.0)),
    )


def _with_levels(record: StepRecord) -> StepRecord:
    """The step with its `quantized` values on the nearest level, and the gradient of a clamp: 1 between the ends, 0 outside."""
    low, high, spacing = (argument(name) for name in QUANTIZED)

    def rule(node: Symbol, arguments: tuple[Value, ...]) -> Value:
        if node.operation != "quantized":
            return derive.again(node, arguments)
        (x,) = arguments
        clamped = Symbol("where", x < low, low, Symbol("where", x > high, high, x))
        level = Symbol("round", (clamped - low) * (1.0 / spacing)) * spacing + low  # one division a call
        return clamped + Symbol("hold", level - clamped)

    given = {name: argument(name) for name in (*record.inputs, *record.states, *record.numbers)}
    results, called = trace.symbols(record.step, given)
    results, called = derive.rewritten(results, rule, called)
    return dataclasses.replace(record, numbers=(*record.numbers, *QUANTIZED), step=trace.flatten(results, called))
