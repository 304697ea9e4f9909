"""What a class of neurons says when it is defined: its fields checked, its step recorded in every branch of its options."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Collection, Generator, Hashable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from spikegrad import derive, ranges, required, trace
from spikegrad.errors import meant
from spikegrad.remembering import remember
from spikegrad.trace import StepRecord, Symbol, Value
from spikegrad.vocabulary import Array

if TYPE_CHECKING:
    from spikegrad.neuron import Neuron

T = TypeVar("T")

Reset = Literal["subtract", "zero", "none"]
"""What a spike does to the potential: take the threshold from it, set it to zero, or nothing."""

OPTIONS = ("spike", "reset", "detach_reset", "spike_at_threshold")


class Step:
    """What a step returns.

    First its outputs, of which the first are usually the spikes; by name every state after the step, and what else can be recorded, such as
    ``u=u``.

    Example:
        >>> from spikegrad import Neuron, State, Step
        >>> class Counter(Neuron):
        ...     v: State = 0.0
        ...
        ...     def step(self, current, v):
        ...         u = v + current
        ...         s = self.fire(u - 1)
        ...         return Step(s, v=self.after_spike(u, s, 1.0), u=u)
        >>> Counter().record.recorded
        ('u', 'excess')
    """

    def __init__(self, *outputs: Array, **named: Array) -> None:
        self.outputs, self.named = outputs, named


def _require_name(cls: type, what: str, name: str) -> None:
    if trace.is_added(name) or not trace.is_name(name):
        why = "what a layer adds is called so" if trace.is_added(name) else "names are of ASCII letters, digits and underscores"
        raise TypeError(f"{cls.__name__}: {what} cannot be called `{name}`: {why}; call it otherwise")


def declare(cls: type[Neuron], base: type[Neuron], defaults: Mapping[str, object]) -> None:
    """Make a class's own declarations fit for a dataclass: states and options by keyword, so that numbers alone go by position.

    `base` is `Neuron`, whose words are no names of fields.
    """
    own = inspect.get_annotations(cls)
    kinds = ranges.hints(cls)
    for name in own:
        if name in OPTIONS:
            raise TypeError(
                f"{cls.__name__}: `{name}` is an option of every neuron; for another default write class {cls.__name__}(Neuron, {name}=...)"
            )
        if hasattr(base, name) or name in base.__annotations__ or name.startswith("_"):
            raise TypeError(f"{cls.__name__}: a field cannot be called `{name}`, which is a word of Neuron; call it otherwise")
        _require_name(cls, "a field", name)
        if ranges.is_state(kinds[name]):
            given = cls.__dict__.get(name, 0.0)
            setattr(cls, name, given if isinstance(given, dataclasses.Field) else dataclasses.field(default=given))
            cls.__dict__[name].kw_only = True
    for name, value in defaults.items():
        if name not in OPTIONS:
            raise TypeError(f"{cls.__name__}: there is no option `{name}`{meant(name, OPTIONS)}")
        own[name] = kinds[name]
        setattr(cls, name, dataclasses.field(default=value, kw_only=True))
    cls.__annotations__ = own


def inputs_of(cls: type[Neuron]) -> tuple[str, ...]:
    """The names of what a step takes before the states."""
    parameters = list(inspect.signature(cls.step).parameters.values())[1:]
    names = [p.name for p in parameters]
    for name in names:
        _require_name(cls, "an argument", name)
    inputs = tuple(name for name in names if name not in cls.states)
    wrong: str | None = None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        wrong = "takes any number of arguments"
    elif clash := [name for name in inputs if name in cls.numbers]:
        wrong = f"takes `{clash[0]}`, which is a number: read `self.{clash[0]}`"
    elif missing := [name for name in cls.states if name not in names]:
        wrong = f"does not take the state `{missing[0]}`"
    elif not inputs:
        wrong = "takes no input"
    elif names[: len(inputs)] != list(inputs):
        late = next(name for name, first in zip(inputs, names, strict=False) if name != first)
        wrong = f"takes a state before an input; if `{late}` is a state, declare it: {late}: State = 0.0"
    if wrong is not None:
        raise TypeError(f"{cls.__name__}.step {wrong}; it takes the inputs, then every state by its name")
    return inputs


def structure_of(cls: type[Neuron]) -> list[str]:
    """The names of the fields whose values make different formulas."""
    return [f.name for f in dataclasses.fields(cls) if f.name not in cls.numbers and f.name not in cls.states and f.name != "spike"]


def choices(kind: Any) -> tuple[Hashable, ...]:
    """The values that a field of this annotation may have, if it names them."""
    return (False, True) if kind is bool else get_args(kind) if get_origin(kind) is Literal else ()


def record_all(cls: type[Neuron], kinds: Mapping[str, Any]) -> Collection[str]:
    """Record every structure that the options of a class make, if the rest of its structure has defaults; returns what any of them reads.

    What a step does not read makes no difference, so that only what one was seen to read is varied.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.name in structure_of(cls)}
    if dataclasses.MISSING in defaults.values():
        return OPTIONS
    waiting, seen, read = [defaults], [defaults], set[str]()
    while waiting:
        given = waiting.pop()
        reads = recorded(cls, tuple(given.items()))[1]
        read |= reads
        for name in reads & defaults.keys():
            for value in choices(kinds[name]):
                if (other := given | {name: value}) not in seen:
                    seen.append(other)
                    waiting.append(other)
    return read


def recorder(cls: type[Neuron]) -> type[Neuron]:
    """A subclass whose instances stand for `self` while a step is recorded: they note what is read of them."""

    def read(self: Neuron, name: str) -> object:
        known = object.__getattribute__(self, "__dict__")
        if name in known:
            known["_read"].add(name)
            if name in known["_hidden"]:
                raise TypeError(f"`self.{name}` is where the state {name} rests; the state itself is the argument `{name}` of step")
        return object.__getattribute__(self, name)

    return type("Recorder", (cls,), {"__getattribute__": read}, _recording=True)


def recorded(cls: type[Any], structure: tuple[tuple[str, Hashable], ...]) -> tuple[StepRecord, frozenset[str]]:
    """The record of a class with this structure, and the names of the fields that its step reads."""
    key = tuple((name, type(value), value) for name, value in structure)
    required.hashable(cls, key)
    found = cls._records.get(key)
    if found is None:
        found = _record(cls, dict(structure))
        remember(cls._records, key, found)
    return found


@contextlib.contextmanager
def _naming(cls: type[Neuron], method: str) -> Generator[None]:
    """Put before an error of a method that is being recorded whose it is."""
    try:
        yield
    except (TypeError, AttributeError) as error:
        text = str(error)
        if isinstance(error, AttributeError):
            if not isinstance(error.obj, cls):
                raise
            text = f"`self.{error.name}` is not there{meant(str(error.name), (*cls.numbers, *cls.states, *structure_of(cls)))}"
        raise TypeError(text if text.startswith(cls.__name__) else f"{cls.__name__}.{method}: {text}") from None


def _surrogate(*_: object, **__: object) -> NoReturn:
    """What `self.spike` is while a step is recorded."""
    raise TypeError("`self.spike` is not called: `self.fire(x)` is 1 where x reaches 0, with the gradient of the surrogate")


def _record(cls: type[Any], structure: Mapping[str, Hashable]) -> tuple[StepRecord, frozenset[str]]:
    numbers = {name: trace.argument(name, within.sign) for name, within in cls.numbers.items()}
    states = {name: trace.argument(name) for name in cls.states}
    inputs = [trace.argument(name) for name in cls.inputs]
    recorder = object.__new__(cls._recorder)
    known = object.__getattribute__(recorder, "__dict__")
    known |= {"_read": set(), "_hidden": (), "spike": _surrogate, **structure, **numbers, **states}
    with _naming(cls, "resting"):
        rests = _rests(cls, recorder, states)
    known["_hidden"] = cls.states
    with _naming(cls, "step"):
        made, names = _with_names(cls.step, recorder, *inputs, **states)
        recorded = _results(cls, made)
        results = [*made.outputs, *(made.named[name] for name in cls.states), *recorded.values()]
        _require_kinds(results, cls.numbers)
        results = [trace.operand(result) for result in results]
    called = {id(value): name for name, value in recorded.items() if isinstance(value, Symbol)}
    results, called = derive.guarded(results, {id(value): name for value, name in names} | called)
    record = StepRecord(
        inputs=cls.inputs,
        states=cls.states,
        numbers=tuple(cls.numbers),
        outputs=len(made.outputs),
        recorded=tuple(recorded),
        step=trace.flatten(results, called),
        resting=trace.flatten(rests),
    )
    return record, frozenset(known["_read"] | ({"spike"} if record.fires else set()))


def _rests(cls: type[Any], recorder: Neuron, states: Mapping[str, Symbol]) -> list[Symbol | float]:
    """Where each state rests."""
    resting = cls.resting(recorder)
    if not isinstance(resting, Mapping):
        raise TypeError(f"it must return where states rest, by their names, got {type(resting).__name__}")
    if unknown := [name for name in resting if name not in states]:
        raise TypeError(f"{cls.__name__}.resting names `{unknown[0]}`, which is no state{meant(unknown[0], states)}")
    rests = [trace.operand(resting.get(name, state)) for name, state in states.items()]
    if only := [node.operation for node in trace.ordered(rests) if node.operation in trace.STEP_ONLY]:
        raise TypeError(f"`{only[0]}` is a word of a step; where a state rests follows from numbers alone")
    if comparisons := [name for name, value in zip(states, rests, strict=True) if _is_boolean(value)]:
        raise TypeError(f"`{comparisons[0]}` cannot rest at a comparison: choose a number with where(...)")
    _require_kinds(rests, cls.numbers)
    return rests


def _results(cls: type[Neuron], made: object) -> dict[str, Array]:
    """What a step returns to be recorded besides outputs and states, if all of it is in order."""
    if not isinstance(made, Step):
        raise TypeError(f"{cls.__name__}.step must return Step(...), got {type(made).__name__}")
    if not made.outputs:
        raise TypeError(f"{cls.__name__}.step returns no output: Step(spikes, ...)")
    if missing := [name for name in cls.states if name not in made.named]:
        raise TypeError(f"{cls.__name__}.step does not return the state `{missing[0]}`: Step(..., {missing[0]}=...)")
    recorded = {name: value for name, value in made.named.items() if name not in cls.states}
    for name in recorded:
        _require_name(cls, "what is recorded", name)
        if name in cls.inputs:
            raise TypeError(f"{cls.__name__}.step returns `{name}`, which is an input; if it is a state, declare it: {name}: State = 0.0")
        if name in cls.numbers:
            raise TypeError(f"{cls.__name__}.step returns `{name}`, which is a number; record it under another name")
    for name, value in (*(("an output", output) for output in made.outputs), *made.named.items()):
        if _is_boolean(value):
            raise TypeError(f"{cls.__name__}.step returns a comparison as {name}: choose a number with where(...) or fire(...)")
    if (excess := _excess(made.outputs[0])) is not None:
        recorded["excess"] = excess
    return recorded


def _is_boolean(value: object) -> bool:
    return isinstance(value, Symbol) and value.operation in trace.BOOLEANS


def _require_kinds(results: Sequence[Value], numbers: Collection[str]) -> None:
    """Refuse arithmetic with comparisons, choices by numbers, and spikes of what never changes."""
    varying: set[int] = set()
    for node in trace.ordered(results):
        if node.name not in numbers if node.operation == "argument" else any(id(a) in varying for a in node.arguments):
            varying.add(id(node))
        elif node.operation in ("fire", "fire_above"):
            raise TypeError(f"`{node.operation}` is given numbers alone: it fires in every step or in none")
        for kind, operand in zip(trace.OPERATIONS.get(node.operation, ""), node.arguments, strict=False):
            if _is_boolean(operand) and kind == "n":
                raise TypeError(f"`{node.operation}` is given a comparison for a number: choose one with where(...)")
            if kind == "b" and not _is_boolean(operand):
                raise TypeError(f"`{node.operation}` is given a number for a comparison, such as x > 0")


def _excess(output: Value) -> Value | None:
    """The potential over the threshold: what the first of the output's own fires saw, or None."""
    found: list[Symbol] = []
    stack = [output]
    while stack:
        node = stack.pop()
        if isinstance(node, Symbol):
            if node.operation.startswith("fire"):
                found.append(node)
            else:
                stack += node.arguments
    order = {id(node): place for place, node in enumerate(trace.ordered([output]))}
    return min(found, key=lambda node: order[id(node)]).arguments[0] if found else None


def _with_names(function: Callable[..., T], *arguments: Array, **named: Array) -> tuple[T, list[tuple[Symbol, str]]]:
    """What a function returns, and how it called the symbols among its local variables; under a profiler they stay without names."""
    found: list[tuple[Symbol, str]] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame.f_code is code:
            values = ((value, name) for name, value in frame.f_locals.items() if isinstance(value, Symbol) and name.isascii())
            found.extend((value, name) for value, name in values if value.operation != "argument")

    code = getattr(function, "__code__", None)
    if sys.getprofile() is not None:
        return function(*arguments, **named), found
    sys.setprofile(watch)
    try:
        return function(*arguments, **named), found
    finally:
        sys.setprofile(None)
