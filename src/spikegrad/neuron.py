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
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Self, dataclass_transform

from spikegrad import cut, definition, derive, printing, ranges, required, trace
from spikegrad.definition import Reset, Step
from spikegrad.errors import meant
from spikegrad.formulas.rational import ATan
from spikegrad.ranges import Between
from spikegrad.ranges import State as State
from spikegrad.surrogate import Surrogate
from spikegrad.trace import Program, StepRecord, Symbol
from spikegrad.vocabulary import Array


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
@dataclasses.dataclass(frozen=True, repr=False)
class Neuron:
    """Base class of every neuron; a subclass declares its numbers and states, and gives `step`.

    Fields annotated float, or with a range (`Decay`, `Fraction`, `Positive`, `NonNegative`, ``Annotated[float, Between(low, high)]``), are
    numbers; they can be learned, or be different for each neuron of a layer. Fields annotated `State` are states, with the number at which
    they rest. Fields of other types are structure: the step may branch on them, and each of their values is a formula of its own.

    ``step(self, *inputs, *states)`` takes what arrives at this step, usually one current, and the states after the step before, by the
    names of their fields. It returns a `Step`. It is written in the words of `spikegrad.vocabulary`, with numbers, ``+ - * / **`` and
    comparisons, and in the words below: `fire`, `hold`, `resetting`, `after_spike`, `reset_to`, `quantized`.

    Attributes:
        spike: the surrogate gradient of the spikes.
        reset: what a spike does to the potential, for a neuron that uses `after_spike`.
        detach_reset: keep gradients from flowing through the spike that resets.
        spike_at_threshold: whether a potential equal to the threshold spikes.

    A class without `step`, or with an `abc.abstractmethod`, is for others to derive from, and has no instances.

    A class whose default for one of these options is another says so: ``class Mine(Neuron, reset="zero")``. An option that a step never
    reads cannot be changed.

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
    unwritten: ClassVar[tuple[str, ...]] = ("step",)
    """Methods that the class leaves to its subclasses: it has no instances while there are any."""

    _records: ClassVar[dict[Hashable, tuple[StepRecord, frozenset[str]]]]
    """The record of each structure, and the options that it reads."""
    _recorder: ClassVar[type[Neuron]]

    def __init_subclass__(cls, *, _recording: bool = False, **defaults: Any) -> None:
        if _recording:
            return
        definition.declare(cls, Neuron, defaults)
        dataclasses.dataclass(frozen=True, repr=False)(cls)
        kinds = ranges.hints(cls)
        names = [field.name for field in dataclasses.fields(cls)]
        cls.states = tuple(name for name in names if ranges.is_state(kinds[name]))
        cls.numbers = {n: within for n in names if n not in cls.states and (within := ranges.of(kinds[n])) is not None}
        cls.unwritten = required.unwritten(cls, Neuron, "step")
        if cls.unwritten:
            return
        cls.inputs = definition.inputs_of(cls)
        cls._records = {}
        cls._recorder = definition.recorder(cls)
        for name, value in defaults.items():
            cls._checked(name, kinds[name], value)
        read = definition.record_all(cls, kinds)
        for name in defaults:
            cls._require_use(name, read)

    def __post_init__(self) -> None:
        required.written(type(self), self.unwritten, "step(self, current, ...)")
        kinds = ranges.hints(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, self._checked(field.name, kinds[field.name], getattr(self, field.name)))
        read = definition.recorded(type(self), self._structure)[1]
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                self._require_use(field.name, read)
        self.require_valid()

    @classmethod
    def _checked(cls, name: str, kind: Any, value: Any) -> Any:
        """The value that a field may have."""
        label, choices = f"`{name}` of {cls.__name__}", definition.choices(kind)
        if name in cls.numbers or name in cls.states:
            try:
                return cls.numbers.get(name, Between()).checked(label, value)
            except TypeError as error:
                if not hasattr(value, "shape"):
                    raise
                given = "state={1}" if name in cls.states else "values={{{0!r}: {1}}}"
                layer = "nn.Layer(neuron)(currents, " if name in cls.states else "nn.Layer(neuron, "
                beside = f"spikegrad.{layer}{given.format(name, 'tensor')}), or spikegrad.jax.run(neuron, currents, "
                raise TypeError(f"{error}; pass tensors beside the neuron: {beside}{given.format(name, 'array')})") from None
        if name == "spike" and not isinstance(value, Surrogate):
            raise TypeError(f"{label} must be a surrogate such as ATan(), got {value!r}")
        if kind is bool and not isinstance(value, bool):
            raise TypeError(f"{label} must be True or False, got {value!r}")
        if choices and value not in choices:
            near = meant(str(value), map(str, choices))
            near = near if "did you mean" in near else ""
            raise ValueError(f"{label} must be one of {', '.join(map(repr, choices))}, got {value!r}{near}")
        return value

    @classmethod
    def _require_use(cls, name: str, read: Collection[str]) -> None:
        """Refuse an option that a step does not read."""
        if name in definition.OPTIONS and name not in read:
            raise ValueError(f"{cls.__name__} has no use for `{name}`: its step never reads it")

    def learnable(self, name: str) -> bool:
        """Whether the number `name` receives a gradient."""
        record = self.record
        given = {each: trace.argument(each) for each in (*record.inputs, *record.states, *record.numbers)}
        results = [value for program in (record.step, record.resting) for value in trace.symbols(program, given)[0]]
        return derive.reverse(results, [trace.argument("bar")] * len(results), [given[name]])[0] is not None

    def require_learnable(self, name: str) -> None:
        """Raise an error that says why, unless the number `name` receives a gradient."""
        if name not in self.numbers:
            raise ValueError(f"{type(self).__name__} has no number {name!r}{meant(name, self.numbers)}")
        if not self.learnable(name):
            raise ValueError(f"`{name}` of {type(self).__name__} cannot be learned: nothing has a gradient with respect to it")

    def require_valid(self) -> None:
        """Raise an error that names the first condition of `valid` that does not hold."""
        conditions = self.valid()
        if not isinstance(conditions, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{type(self).__name__}.valid must return conditions, by what they ask for, got {type(conditions).__name__}")
        for words, holds in conditions.items():
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
        return definition.recorded(type(self), self._structure)[0]

    def source(self, dialect: str, of: str = "forward") -> str:
        """What a fused pass runs in each step, as straight-line source with the formula's own names.

        Args:
            dialect: ``"numba"``, ``"triton"`` or ``"javascript"``.
            of: ``"forward"``, the step; or ``"backward"``, its reverse, before it the step again as far as that uses it. What depends on
                numbers alone is a function of its own, called once.

        Raises:
            ValueError: the dialect is unknown, or has no word for an operation; `of` is neither.

        Example:
            >>> from spikegrad.neurons import Leaky
            >>> print(Leaky(0.9).source("javascript"), end="")
            function Leaky_forward(current, v, beta, threshold) {
              // returns output, v
              const u = beta * v + current;
              const excess = u - threshold;
              const s = (excess >= 0 ? 1 : excess < 0 ? 0 : NaN);
              return [s, u - threshold * s];
            }
        """
        if of not in ("forward", "backward"):
            raise ValueError(f"`of` must be 'forward' or 'backward', got {of!r}")
        record, name, spike = self.record, type(self).__name__, type(self.spike).__name__
        step = Program(record.step.instructions, record.step.results[: record.outputs + len(record.states)], record.step.names)
        constants, parameters, step = derive.hoisted(step, record.numbers, (*record.inputs, *record.states))
        passes = cut.passes(step, record.inputs, record.states, parameters, record.outputs, ())
        parts: list[str] = []

        def add(part: str, program: Program, arguments: Sequence[str], results: Sequence[str]) -> None:
            given = ", ".join(f"spike_{each}" for each in self.spike.parameters)
            words = {"derivative": f"{spike}_derivative({{0}}, {given})"}
            comment = f"returns {', '.join(results)}"
            parts.append(printing.function(program, arguments, f"{name}_{part}", dialect, words, comment))

        if set(parameters) - set(record.numbers):
            add("constants", constants, record.numbers, parameters)
        outputs = ["output"] if record.outputs == 1 else [f"output {place}" for place in range(record.outputs)]
        given = (*record.inputs, *record.states, *parameters)
        if of == "forward":
            add("forward", passes.forward, given, (*outputs, *record.states))
        else:
            if passes.kept:
                add("kept", passes.recompute, given, (*passes.kept, *record.states))
            if passes.restored:
                add("restored", passes.restore, (*passes.kept, *parameters), passes.restored)
            parts.append(self.spike.source(dialect))
            known = dict.fromkeys((*passes.kept, *passes.reread, *passes.restored, *parameters))
            bars = (f"bar_{each}" for each in (*map(str, range(record.outputs)), *record.states))
            arguments = (*known, *(f"spike_{each}" for each in self.spike.parameters), *bars)
            add("backward", passes.reverse, arguments, [f"the gradient of {each}" for each in passes.adjoints])
        return "\n".join(parts)

    @property
    def parameters(self) -> dict[str, float]:
        """The numbers by name."""
        return {name: getattr(self, name) for name in self.numbers}

    @property
    def _structure(self) -> tuple[tuple[str, Hashable], ...]:
        return tuple((name, getattr(self, name)) for name in definition.structure_of(type(self)))

    def bind(self, values: Mapping[str, Array]) -> Self:
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
            f"`{operation}` got {type(x).__name__}: a step is a formula that is recorded; spikegrad.nn.Layer or spikegrad.jax.run runs it"
        )
    return Symbol(operation, x)
