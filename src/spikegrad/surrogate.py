"""A surrogate: a step forward, a smooth bump backward, written once as a formula.

A surrogate is a value. Its class is the formula, its fields are the numbers in it::

    class ATan(Surrogate):
        slope: Positive = 2.0

        def derivative(self, x):
            return self.slope / 2 / (1 + (pi / 2 * self.slope * x) ** 2)

Subclassing `Surrogate` makes the class a frozen dataclass and records the formula with symbols, so that a formula no backend could
run fails where it is written.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Self, dataclass_transform

import numpy as np

from spikegrad import facts, printing, ranges, required, trace
from spikegrad.ranges import Between
from spikegrad.remembering import remember
from spikegrad.trace import Record, Symbol
from spikegrad.vocabulary import Array, cast, fits, inf, library, quiet, where, widen


@dataclass_transform(frozen_default=True)
@dataclasses.dataclass(frozen=True, repr=False)
class Surrogate:
    """Base class of every surrogate; a subclass gives `derivative` and, where one exists, `primitive`.

    Float fields are the surrogate's numbers: finite unless annotated `Unbounded`, positive where annotated `Positive`. Fields of other
    types (int, bool, str) are part of its structure. `scale` multiplies the derivative and the primitive of any surrogate, so that
    normalising to unit peak or area is ``replace(surrogate, scale=...)``.

    A class without `derivative`, or with an `abc.abstractmethod`, is for others to derive from, and has no instances.

    Both methods are given `x`, potential minus threshold: a floating-point array of any shape. What a subclass writes is completed: half
    precision is computed in float32 and rounded back, NaN gives NaN, plus and minus infinity give a derivative of 0. A stochastic
    surrogate's methods take a second argument `noise`, uniform on (0, 1), of which 1/2 stands for the mean.

    Example:
        >>> import numpy as np
        >>> from spikegrad import Surrogate
        >>> class Hat(Surrogate):
        ...     width: float = 1.0
        ...
        ...     def derivative(self, x):
        ...         return 1 / (1 + (x / self.width) ** 2) ** 2
        >>> Hat(width=0.5).derivative(np.array([0.0, 0.5]))
        array([1.  , 0.25])
    """

    scale: float = dataclasses.field(default=1.0, kw_only=True)

    has_primitive: ClassVar[bool] = False
    """Whether the class gives a primitive; its parameters can be learned only then."""
    stochastic: ClassVar[bool] = False
    """Whether the formula takes noise."""
    numbers: ClassVar[Mapping[str, Between]] = {"scale": Between()}
    """The float fields, and the range of each. `scale` is the last."""
    soft: ClassVar[bool] = False
    """Whether the output in training is the primitive itself, not the step (NoisyThreshold)."""
    unwritten: ClassVar[tuple[str, ...]] = ("derivative",)
    """Methods that the class leaves to its subclasses: it has no instances while there are any."""

    _records: ClassVar[dict[Hashable, Record]]
    """The record of each structure."""

    def __init_subclass__(cls) -> None:
        for name in ("derivative", "primitive"):
            if name in cls.__dict__:
                setattr(cls, name, _completed(cls.__dict__[name]))
        dataclasses.dataclass(frozen=True, repr=False)(cls)
        cls.numbers, cls._records = _numbers(cls), {}
        cls.has_primitive = cls.primitive is not Surrogate.primitive
        cls.unwritten = required.unwritten(cls, Surrogate, "derivative")
        cls.stochastic = "noise" in inspect.signature(cls.derivative).parameters
        structure = {f.name: f.default for f in dataclasses.fields(cls) if f.name not in cls.numbers}
        if not cls.unwritten and dataclasses.MISSING not in structure.values():
            _recorded(cls, tuple(structure.items()))

    def __post_init__(self) -> None:
        required.written(type(self), self.unwritten, "derivative(self, x)")
        for name, within in self.numbers.items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, within.checked(f"`{name}` of {type(self).__name__}", value))
            except TypeError as error:
                raise TypeError(
                    f"{error}; pass arrays beside the surrogate: spike(x, {name}=array), or learn it with "
                    f"spikegrad.nn.Spike(spike, learn={name!r})"
                ) from None

    def derivative(self, x: Array) -> Array:
        """The bump: what the backward pass uses in place of the derivative of the step. Same shape and dtype as `x`, 1/potential."""
        raise NotImplementedError

    def primitive(self, x: Array) -> Array:
        """An antiderivative of `derivative`: the soft step, 1/2 at threshold or, for an escape noise, the probability of a spike."""
        raise ValueError(f"{type(self).__name__} has no primitive")

    def __call__(
        self,
        x: Array,
        threshold: Array | None = None,
        /,
        *,
        spike_at_threshold: bool = True,
        training: bool = False,
        random: Any = None,
        **parameters: Array,
    ) -> Array:
        """Spikes: 1 where `x` reaches 0, else 0, with this surrogate's gradient.

        Args:
            x: potential minus threshold, any shape; a NumPy array (no gradient), PyTorch tensor or JAX array of floating point.
            threshold: deprecated: sinabs's convention, by which the derivative is returned where the potential is `x`.
            spike_at_threshold: whether ``x == 0`` spikes.
            training: whether a stochastic surrogate draws its noise; others ignore it.
            random: where that noise comes from: a `torch.Generator` (default: PyTorch's own), a `jax.random.key`, a
                `numpy.random.Generator`.
            **parameters: arrays in place of this surrogate's numbers, broadcast against `x`; they receive the gradient of the
                primitive.

        Returns:
            Array of the shape and dtype of `x`. NaN gives NaN.

        Raises:
            TypeError: `x` is not a floating-point array, or a parameter is unknown.
            ValueError: a parameter is given and the surrogate has no primitive, or its shape does not broadcast to that of `x`; noise
                is needed and `random` is missing.
        """
        for name, value in parameters.items():
            self.require_learnable(name)
            _require_fit(name, getattr(value, "shape", ()), getattr(x, "shape", ()))
        if threshold is not None:
            name = type(self).__name__
            warnings.warn(
                f"a surrogate called with a potential and a threshold, as sinabs does it, will be refused in the next release: write "
                f"surrogate_grad_fn=spikegrad.compat.sinabs.adapt({name}(...)), or {name}(...).derivative(potential - threshold)",
                DeprecationWarning,
                stacklevel=2,
            )
            wide = widen(x)
            value = self.bind(parameters).derivative(wide - threshold)
            return value if wide is x else cast(value, x)
        owner = library(x)
        if owner == "torch":
            from spikegrad.gradient import torch as gradient
        elif owner == "jax":
            from spikegrad.gradient import jax as gradient
        else:
            from spikegrad.gradient import numpy as gradient
        return gradient.spike(self, x, parameters, spike_at_threshold, training and self.stochastic, random)

    @property
    def spiking(self) -> bool:
        """Deprecated: what SpikingJelly's neurons ask of a surrogate."""
        warnings.warn(
            f"`spiking` of a surrogate will be gone in the next release: write "
            f"surrogate_function=spikegrad.compat.spikingjelly.adapt({type(self).__name__}(...))",
            DeprecationWarning,
            stacklevel=2,
        )
        return True

    def require_learnable(self, name: str) -> None:
        """Raise an error that says why, unless an array may take the place of the number `name`."""
        if name not in self.numbers:
            known = ", ".join(self.numbers)
            raise TypeError(f"{type(self).__name__} has no parameter {name!r}; its parameters are {known}")
        if not self.has_primitive:
            raise ValueError(
                f"`{name}` of {type(self).__name__} cannot be learned: its gradient is that of the primitive, and this surrogate has none"
            )

    @property
    def parameters(self) -> dict[str, float]:
        """The numbers of this surrogate by name, in the order in which printed functions take them."""
        return {name: getattr(self, name) for name in self.numbers}

    @property
    def structure(self) -> Record:
        """The static part: the recorded formula without its numbers. Hashable, picklable, the same for every slope."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in self.numbers]
        return _recorded(type(self), tuple((name, getattr(self, name)) for name in names))

    def source(self, dialect: str, of: str = "derivative") -> str:
        """The formula as straight-line source of one scalar function ``name(x, *parameters)``.

        Args:
            dialect: ``"numba"``, ``"triton"`` or ``"javascript"``.
            of: ``"derivative"`` or ``"primitive"``.

        Example:
            >>> from spikegrad import StraightThrough
            >>> print(StraightThrough().source("javascript"), end="")
            function StraightThrough_derivative(x, scale) {
              return (Math.abs(x) < Infinity ? 1.0 * scale : (x == x ? 0.0 : x));
            }
        """
        record = self.structure
        program = {"derivative": record.derivative, "primitive": record.primitive}[of]
        if program is None:
            raise ValueError(f"{type(self).__name__} has no primitive")
        return printing.function(program, record.arguments, f"{type(self).__name__}_{of}", dialect)

    def bind(self, parameters: Mapping[str, Array]) -> Self:
        """This surrogate with arrays in place of numbers: something to evaluate the formula with, not a value to keep."""
        if not parameters:
            return self
        bound = object.__new__(type(self))
        for f in dataclasses.fields(self):
            object.__setattr__(bound, f.name, parameters.get(f.name, getattr(self, f.name)))
        return bound

    def __repr__(self) -> str:
        shown = [f.name for f in dataclasses.fields(self) if f.name != "scale"] + ["scale"] * (self.scale != 1)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def peak(self) -> float:
        """Largest value of the derivative."""
        return facts.of(self).peak

    @property
    def area(self) -> float:
        """Integral of the derivative over all potentials; 1 for a density, infinite where it does not converge."""
        return facts.of(self).area

    @property
    def half_width(self) -> float:
        """Half of the width, in potential, over which the derivative is at least half of its peak."""
        return facts.of(self).half_width

    @property
    def support(self) -> tuple[float, float]:
        """The smallest interval of `x` outside of which the derivative is 0."""
        return facts.of(self).support

    def matched_to(self, other: Surrogate | float) -> Self:
        """This surrogate with its `slope` or `width` changed so that its half width is that of `other` (or the given number).

        The scale of a surrogate decides whether a network trains, its shape hardly matters (Zenke & Vogels 2021), so compare shapes at
        equal half width.

        Raises:
            ValueError: either half width is infinite, or there is no slope or width to change.

        Example:
            >>> from spikegrad import ATan, FastSigmoid
            >>> FastSigmoid().matched_to(ATan()).slope.__round__(4)
            1.3013
        """
        return facts.matched(self, other if isinstance(other, int | float) else other.half_width)

    @classmethod
    def cite(cls) -> str:
        """BibTeX of the papers that this surrogate comes from."""
        from spikegrad.citation import cite

        return cite(cls)


def _require_fit(name: str, shape: tuple[int, ...], x_shape: tuple[int, ...]) -> None:
    """A parameter may not have more elements than the potential: spikes have the shape of `x`."""
    if not fits(shape, x_shape):
        raise ValueError(f"`{name}` must broadcast to the shape of `x`, {tuple(x_shape)}, got shape {tuple(shape)}")


def _completed(formula: Callable[..., Array]) -> Callable[..., Array]:
    """A formula as a subclass wrote it, made good for every dtype, for infinities and NaN, and multiplied by the scale."""

    @functools.wraps(formula)
    def complete(self: Surrogate, x: Array, *noise: Array, **named: Array) -> Array:
        if library(x) == "number":
            return float(complete(self, np.float64(x), *noise, **named))
        wide = widen(x)
        unscaled = isinstance(self.scale, float) and self.scale == 1.0
        with quiet(x):
            value = formula(self if unscaled else self.bind({"scale": 1.0}), wide, *noise, **named)
            if not unscaled:
                value = value * self.scale
            if formula.__name__ == "derivative":
                value = where(abs(wide) < inf, value, where(wide == wide, 0.0, wide))
            # A constant of NumPy's is a float64, which makes one of every array that is narrower.
            return value if library(x) == "symbol" or value.dtype == x.dtype else cast(value, x)

    return complete


def _numbers(cls: type[Surrogate]) -> dict[str, Between]:
    found = ranges.hints(cls)
    names = (*(f.name for f in dataclasses.fields(cls) if f.name != "scale"), "scale")
    return {name: within for name in names if (within := ranges.of(found[name])) is not None}


def _recorded(cls: Any, structure: tuple[tuple[str, Hashable], ...]) -> Record:
    """The record of a class with this structure; the class keeps it, and nothing keeps the class."""
    required.hashable(cls, structure)
    found = cls._records.get(structure)
    if found is None:
        found = _record(cls, structure)
        remember(cls._records, structure, found)
    return found


def _record(cls: type[Surrogate], structure: tuple[tuple[str, Hashable], ...]) -> Record:
    symbols = object.__new__(cls)
    for name, value in structure:
        object.__setattr__(symbols, name, value)
    for name, within in cls.numbers.items():
        object.__setattr__(symbols, name, trace.argument(name, within.sign, is_array=False))
    inputs = ("x", "noise") if cls.stochastic else ("x",)
    given = [trace.argument(name) for name in inputs]

    def program(name: str) -> trace.Program:
        try:
            result: Symbol | float = getattr(symbols, name)(*given)
            return trace.flatten([trace.operand(result)])
        except TypeError as error:
            raise TypeError(f"{cls.__name__}.{name}: {error}") from None

    primitive = program("primitive") if cls.has_primitive else None
    return Record((*inputs, *cls.numbers), program("derivative"), primitive)
