"""A neuron: a step, written once as a formula, from which everything else is derived.

A neuron is a value. Its class is the formula, its fields are the numbers in it and the states it keeps::

    class Leaky(Neuron):
        beta: Decay
        threshold: Positive = 1.0
        v: State = 0.0

        def step(self, current, v):
            u = self.beta * v + current
            s = self.fire(u - self.threshold)
            return Step(s, v=self.after_spike(u, s, self.threshold), u=u)

Subclassing `Neuron` makes the class a frozen dataclass and records the step with symbols, in every branch of its options, so that a step
no backend could run fails where it is written. The record is what runs: in a plain loop, in fused passes forward and backward.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, dataclass_transform, get_args

from spikegrad import ranges, trace
from spikegrad.errors import meant
from spikegrad.formulas.rational import ATan
from spikegrad.ranges import Between
from spikegrad.surrogate import Surrogate
from spikegrad.trace import StepRecord, Symbol
from spikegrad.vocabulary import Array

State = Annotated[float, "where it rests"]
"""A float field that names a state of the neuron; its value is where the state rests."""

Reset = Literal["subtract", "zero", "none"]
"""What a spike does to the potential: take the threshold from it, set it to zero, or nothing."""

_OPTIONS = ("spike", "reset", "detach_reset", "spike_at_threshold")


class Step:
    """What a step returns: its outputs in order, the first of them usually the spikes; by name every state after it, and what else can be
    recorded, such as ``u=u``.
    """  # noqa: D205

    def __init__(self, *outputs: Array, **named: Array) -> None:
        self.outputs, self.named = outputs, named


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
@dataclasses.dataclass(frozen=True, repr=False)
class Neuron:
    """Base class of every neuron; a subclass declares its numbers and states, and gives `step`.

    Fields annotated float, or with a range (`Decay`, `Fraction`, `Positive`, `NonNegative`, ``Annotated[float, Between(low, high)]``), are
    numbers; they can be learned, or be different for each neuron of a layer. Fields annotated `State` are states, with the number at which
    they rest. Fields of other types are structure: the step may branch on them, and each of their values is a formula of its own.

    ``step(self, *inputs, *states)`` takes what arrives at this step, usually one current, and the states after the step before, by the names
    of their fields. It returns a `Step`. It is written in the words of `spikegrad.vocabulary`, with numbers, ``+ - * / **`` and comparisons,
    and in the words below: `fire`, `hold`, `resetting`, `after_spike`, `reset_to`, `quantized`.

    Attributes:
        spike: the surrogate gradient of the spikes.
        reset: what a spike does to the potential, for a neuron that uses `after_spike`.
        detach_reset: keep gradients from flowing through the spike that resets.
        spike_at_threshold: whether a potential equal to the threshold spikes.

    A class whose default for one of these options is another says so: ``class Mine(Neuron, reset="zero")``. An option that a step never reads
    cannot be changed.

    Raises:
        TypeError: at the definition, a step that no backend could run, or that forgets a state; the message names the culprit. At a call, a
            number that is not a number.
        ValueError: a number out of its range, an unknown option, or one that the step has no use for.

    Example:
        >>> import torch
        >>> from spikegrad import Decay, Neuron, Positive, State, Step, nn
        >>> class Adaptive(Neuron):
        ...     beta: Decay
        ...     rho: Decay = 0.95
        ...     jump: float = 0.1
        ...     threshold: Positive = 1.0
        ...     v: State = 0.0
        ...     a: State = 0.0
        ...
        ...     def step(self, current, v, a):
        ...         theta = self.threshold + self.jump * a
        ...         u = self.beta * v + current
        ...         s = self.fire(u - theta)
        ...         return Step(s, v=self.after_spike(u, s, theta), a=self.rho * a + s, u=u)
        >>> spikes, state = nn.Layer(Adaptive(0.5))(torch.tensor([[1.5], [0.75], [0.0]]))
        >>> spikes.ravel().tolist(), [round(part.item(), 4) for part in state]
        ([1.0, 0.0, 0.0], [0.5, 0.9025])
    """

    spike: Surrogate = dataclasses.field(default=ATan(), kw_only=True)
    reset: Reset = dataclasses.field(default="subtract", kw_only=True)
    detach_reset: bool = dataclasses.field(default=True, kw_only=True)
    spike_at_threshold: bool = dataclasses.field(default=True, kw_only=True)

    numbers: ClassVar[Mapping[str, Between]] = {}
    """The number fields, and the range of each."""
    states: ClassVar[tuple[str, ...]] = ()
    """The state fields, in the order in which a layer takes and returns them."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """What arrives at each step."""
    step: ClassVar[Callable[..., Step]]

    _records: ClassVar[dict[Any, tuple[StepRecord, frozenset[str]]]]
    """The record of each structure, and the options that it reads."""
    _recorder: ClassVar[type[Neuron]]

    def __init_subclass__(cls, *, _recording: bool = False, **defaults: Any) -> None:
        if _recording:
            return
        _declared(cls, defaults)
        dataclasses.dataclass(frozen=True, repr=False)(cls)
        kinds = ranges.hints(cls)
        names = [field.name for field in dataclasses.fields(cls)]
        cls.states = tuple(name for name in names if _is_state(kinds[name]))
        cls.numbers = {n: within for n in names if n not in cls.states and (within := ranges.of(kinds[n])) is not None}
        cls.inputs = _inputs(cls)
        cls._records = {}
        cls._recorder = _recorder(cls)
        _record_all(cls, kinds)

    def __post_init__(self) -> None:
        name = type(self).__name__
        kinds = ranges.hints(type(self))
        for field in dataclasses.fields(self):
            value, label = getattr(self, field.name), f"`{field.name}` of {name}"
            choices = get_args(kinds[field.name])
            if field.name in self.numbers or field.name in self.states:
                try:
                    value = self.numbers.get(field.name, Between()).checked(label, value)
                except TypeError as error:
                    raise TypeError(
                        f"{error}; pass tensors beside the neuron: spikegrad.nn.Layer(neuron, values={{{field.name!r}: tensor}}), "
                        f"or spikegrad.jax.run(neuron, currents, values={{{field.name!r}: array}})"
                    ) from None
                object.__setattr__(self, field.name, value)
            elif field.name == "spike" and not isinstance(value, Surrogate):
                raise TypeError(f"{label} must be a surrogate such as ATan(), got {value!r}")
            elif kinds[field.name] is bool and not isinstance(value, bool):
                raise TypeError(f"{label} must be True or False, got {value!r}")
            elif choices and value not in choices:
                near = meant(str(value), map(str, choices))
                near = near if "did you mean" in near else ""
                raise ValueError(f"{label} must be one of {', '.join(map(repr, choices))}, got {value!r}{near}")
        read = _recorded(type(self), self._structure)[1]
        for field in dataclasses.fields(self):
            if field.name in _OPTIONS and field.name not in read and getattr(self, field.name) != field.default:
                raise ValueError(f"{name} has no use for `{field.name}`: its step never reads it")
        self.require_valid()

    def require_valid(self) -> None:
        """Raise an error that names the first condition of `valid` that does not hold."""
        for words, holds in self.valid().items():
            if not bool(holds.all() if hasattr(holds, "all") else holds):
                raise ValueError(f"{type(self).__name__} needs {words}")

    def resting(self) -> Mapping[str, Array]:
        """Where states rest that do not rest at the number of their field: formulas of the numbers, by the names of the states."""
        return {}

    def valid(self) -> Mapping[str, Array]:
        """Conditions between numbers beyond their ranges, by what they ask for in words, such as ``{"alpha above beta": …}``."""
        return {}

    # The words of a step beside those of the vocabulary.

    def fire(self, x: Array) -> Array:
        """1 where `x`, potential minus threshold, reaches 0, else 0, with the gradient of the neuron's surrogate."""
        assert self.spike is not None
        return _word("fire" if self.spike_at_threshold else "fire_above", x)

    def hold(self, x: Array) -> Array:
        """`x` as a constant: no gradient flows through it."""
        return _word("hold", x) if isinstance(x, Symbol) else trace.operand(x)

    def resetting(self, s: Array) -> Array:
        """The spike that resets: held, if the neuron is to `detach_reset`."""
        return self.hold(s) if self.detach_reset else s

    def after_spike(self, u: Array, s: Array, threshold: Array) -> Array:
        """The potential `u` after the spike `s`, as the neuron's `reset` says: less the threshold, zero, or as it was."""
        r = self.resetting(s)
        return u - threshold * r if self.reset == "subtract" else (1 - r) * u if self.reset == "zero" else u

    def reset_to(self, u: Array, s: Array, value: Array) -> Array:
        """The potential `u`, set to a value by the spike `s`."""
        r = self.resetting(s)
        return (1 - r) * u + r * value

    def quantized(self, x: Array) -> Array:
        """`x`, in the place where a layer rounds its states if it has `quantize`."""
        return _word("quantized", x)

    @property
    def record(self) -> StepRecord:
        """The static part: the recorded step without its numbers. Hashable, picklable, the same for all numbers and surrogates."""
        return _recorded(type(self), self._structure)[0]

    @property
    def parameters(self) -> dict[str, float]:
        """The numbers by name."""
        return {name: getattr(self, name) for name in self.numbers}

    @property
    def _structure(self) -> tuple[tuple[str, Any], ...]:
        return tuple((name, getattr(self, name)) for name in _structure(type(self)))

    def bind(self, values: Mapping[str, Any]) -> Self:
        """This neuron with arrays in place of numbers: something to evaluate `valid` with, not a value to keep."""
        bound = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(bound, field.name, values.get(field.name, getattr(self, field.name)))
        return bound

    def __repr__(self) -> str:
        shown = [f.name for f in dataclasses.fields(self) if f.name in self.numbers or getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @classmethod
    def cite(cls) -> str:
        """BibTeX of the papers that this neuron comes from."""
        from spikegrad.citation import cite

        return cite(cls)


def _word(operation: str, x: Array) -> Symbol:
    if not isinstance(x, Symbol):
        raise TypeError(
            f"`{operation}` got {type(x).__name__}: a step is a formula, which is recorded and then run by spikegrad.nn.Layer or spikegrad.jax.run"
        )
    return Symbol(operation, x)


def _is_state(hint: Any) -> bool:
    return getattr(hint, "__metadata__", ())[:1] == State.__metadata__  # pyright: ignore[reportAttributeAccessIssue]


def _declared(cls: type[Neuron], defaults: Mapping[str, Any]) -> None:
    """Make a class's own declarations fit for a dataclass: states and options by keyword, so that numbers alone go by position."""
    own = dict(cls.__dict__.get("__annotations__", {}))
    kinds = ranges.hints(cls)
    for name in own:
        if name in _OPTIONS:
            raise TypeError(
                f"{cls.__name__}: `{name}` is an option of every neuron; for another default write class {cls.__name__}(Neuron, {name}=...)"
            )
        if hasattr(Neuron, name) or name.startswith("_"):
            raise TypeError(f"{cls.__name__}: a field cannot be called `{name}`, which is a word of Neuron; call it otherwise")
        if _is_state(kinds[name]) and not isinstance(cls.__dict__.get(name), dataclasses.Field):
            setattr(cls, name, dataclasses.field(default=cls.__dict__.get(name, 0.0), kw_only=True))
    for name, value in defaults.items():
        if name not in _OPTIONS:
            raise TypeError(f"{cls.__name__}: there is no option `{name}`{meant(name, _OPTIONS)}")
        own[name] = kinds[name]
        setattr(cls, name, dataclasses.field(default=value, kw_only=True))
    cls.__annotations__ = own


def _inputs(cls: type[Neuron]) -> tuple[str, ...]:
    """The names of what a step takes before the states."""
    if not hasattr(cls, "step"):
        raise TypeError(f"{cls.__name__} does not define `step(self, current, ...)`")
    parameters = list(inspect.signature(cls.step).parameters.values())[1:]
    names = [p.name for p in parameters]
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
        wrong = "takes a state before an input"
    if wrong is not None:
        raise TypeError(f"{cls.__name__}.step {wrong}; it takes the inputs, then every state by its name")
    return inputs


def _structure(cls: type[Neuron]) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.name not in cls.numbers and f.name not in cls.states and f.name != "spike"]


def _record_all(cls: type[Neuron], kinds: Mapping[str, Any]) -> None:
    """Record every structure that the options of a class make, if the rest of its structure has defaults.

    What a step does not read makes no difference, so that only what one was seen to read is varied.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.name in _structure(cls)}
    if dataclasses.MISSING in defaults.values():
        return
    waiting, seen = [defaults], [defaults]
    while waiting:
        given = waiting.pop()
        for name in _recorded(cls, tuple(given.items()))[1] & defaults.keys():
            for value in (False, True) if kinds[name] is bool else get_args(kinds[name]):
                if (other := given | {name: value}) not in seen:
                    seen.append(other)
                    waiting.append(other)


def _recorder(cls: type[Neuron]) -> type[Neuron]:
    """A subclass whose instances stand for `self` while a step is recorded: they note what is read of them."""

    def __getattribute__(self: Any, name: str) -> Any:
        known = object.__getattribute__(self, "__dict__")
        if name in known:
            known["_read"].add(name)
            if name in known["_hidden"]:
                raise TypeError(f"`self.{name}` is where the state {name} rests; the state itself is the argument `{name}` of step")
        return object.__getattribute__(self, name)

    class Recorder(cls, _recording=True):
        pass

    Recorder.__getattribute__ = __getattribute__
    return Recorder


def _recorded(cls: type[Neuron], structure: tuple[tuple[str, Any], ...]) -> tuple[StepRecord, frozenset[str]]:
    """The record of a class with this structure, and the names of the fields that its step reads."""
    key = tuple((name, type(value), value) for name, value in structure)
    if key not in cls._records:
        try:
            cls._records[key] = _record(cls, dict(structure))
        except TypeError as error:
            text = str(error)
            raise TypeError(text if text.startswith(cls.__name__) else f"{cls.__name__}.step: {text}") from None
    return cls._records[key]


def _record(cls: type[Neuron], structure: Mapping[str, Any]) -> tuple[StepRecord, frozenset[str]]:
    numbers = {name: trace.argument(name, within.sign) for name, within in cls.numbers.items()}
    states = {name: trace.argument(name) for name in cls.states}
    inputs = [trace.argument(name) for name in cls.inputs]
    recorder: Any = object.__new__(cls._recorder)
    known = object.__getattribute__(recorder, "__dict__")
    known |= {"_read": set(), "_hidden": (), "spike": True, **structure, **numbers, **states}
    resting = cls.resting(recorder)
    known["_hidden"] = cls.states
    made, names = _with_names(cls.step, recorder, *inputs, **states)
    if not isinstance(made, Step):
        raise TypeError(f"{cls.__name__}.step must return Step(...), got {type(made).__name__}")
    if missing := [name for name in cls.states if name not in made.named]:
        raise TypeError(f"{cls.__name__}.step does not return the state `{missing[0]}`: Step(..., {missing[0]}=...)")
    if unknown := [name for name in resting if name not in cls.states]:
        raise TypeError(f"{cls.__name__}.resting names `{unknown[0]}`, which is no state{meant(unknown[0], cls.states)}")
    recorded = {name: value for name, value in made.named.items() if name not in cls.states}
    if undeclared := [name for name in recorded if name in cls.inputs or name in cls.numbers or name == "excess"]:
        name = undeclared[0]
        is_input = name in cls.inputs
        raise TypeError(
            f"{cls.__name__}.step returns `{name}`, which is {'an input' if is_input else 'taken'}; "
            + (f"if it is a state, declare it: {name}: State = 0.0" if is_input else "record it under another name")
        )
    if not made.outputs:
        raise TypeError(f"{cls.__name__}.step returns no output: Step(spikes, ...)")
    if (excess := _excess(made.outputs[0])) is not None:
        recorded["excess"] = excess
    results = [*made.outputs, *(made.named[name] for name in cls.states), *recorded.values()]
    for name, value in zip((*["an output"] * len(made.outputs), *cls.states, *recorded), results, strict=True):
        if isinstance(value, Symbol) and value.operation in trace.BOOLEANS:
            raise TypeError(f"{cls.__name__}.step returns a comparison as {name}: choose a number with where(...) or fire(...)")
    called = {
        id(value): name for value, name in (*((value, name) for name, value in recorded.items() if isinstance(value, Symbol)), *names)
    }
    record = StepRecord(
        inputs=cls.inputs,
        states=cls.states,
        numbers=tuple(cls.numbers),
        outputs=len(made.outputs),
        recorded=tuple(recorded),
        step=trace.flatten([trace.operand(r) for r in results], called),
        resting=trace.flatten([trace.operand(resting.get(name, states[name])) for name in cls.states]),
    )
    return record, frozenset(known["_read"])


def _excess(output: Any) -> Any:
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


def _with_names(function: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[Any, list[tuple[Symbol, str]]]:
    """What a function returns, and how it called the symbols among its local variables; under a profiler they stay without names."""
    found: list[tuple[Symbol, str]] = []

    def watch(frame: Any, event: str, _: Any) -> None:
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
