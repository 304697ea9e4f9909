"""What a number of a surrogate or a neuron may be: annotations of float fields, as in ``slope: Positive = 2.0``."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import numpy as np

if TYPE_CHECKING:  # or it would be a word of every class of formulas, too
    from spikegrad.evaluation import Array


@dataclasses.dataclass(frozen=True)
class Between:
    """A number between `low` and `high`, ends included; ``Annotated[float, Between(-1, 1)]`` makes it the range of a field.

    A learned number moves in the coordinate of its range, any real number: the logit where both ends are finite, the logarithm of the
    distance from the one finite end, itself where there is none. So it never leaves the range, and cannot start at an end.

    Attributes:
        low: lowest value.
        high: highest value.
        words: the range in words, for error messages.
        above: whether `low` itself is excluded.
        infinite: whether the number may be infinite.

    Example:
        The others are such ranges by name; `State` names what is no number but a state.

        >>> from typing import Annotated
        >>> from spikegrad import Between, Decay, Fraction, Neuron, NonNegative, Positive, State, Step, Unbounded
        >>> class Several(Neuron):
        ...     beta: Decay = 0.9
        ...     share: Fraction = 0.5
        ...     threshold: Positive = 1.0
        ...     leak: NonNegative = 0.0
        ...     end: Unbounded = float("inf")
        ...     sign: Annotated[float, Between(-1, 1)] = 1.0
        ...     v: State = 0.0
        ...
        ...     def step(self, current, v):
        ...         u = self.beta * v + self.share * self.sign * current - self.leak
        ...         return Step(self.fire(u - self.threshold), v=u)
        >>> Several(sign=2.0)
        Traceback (most recent call last):
        ValueError: `sign` of Several must be between -1 and 1, got 2.0
    """

    low: float = -math.inf
    high: float = math.inf
    words: str = ""
    above: bool = False
    infinite: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"`low` must be below `high`, got {self.low} and {self.high}")
        if not self.words:
            ends = math.isfinite(self.low), math.isfinite(self.high)
            low, high = f"{self.low:g}", f"{self.high:g}"
            words = {(True, True): f"between {low} and {high}", (True, False): f"at least {low}", (False, True): f"at most {high}"}
            object.__setattr__(self, "words", words.get(ends, "a number"))

    @property
    def sign(self) -> int:
        """1 where every number of the range is positive, 0 where none is negative, else -1."""
        return 1 if self.low > 0 or (self.low == 0 and self.above) else 0 if self.low >= 0 else -1

    @property
    def coordinate(self) -> str:
        """In what a number is learned: ``"logit"``, ``"log"`` or ``"value"``."""
        return ("value", "log", "logit")[math.isfinite(self.low) + math.isfinite(self.high)]

    def holds(self, value: Array) -> Array:
        """Whether a number, or each number of an array, is in the range; NaN is in none."""
        inside = (value > self.low if self.above else value >= self.low) & (value <= self.high)
        return inside if self.infinite else inside & (abs(value) < math.inf)

    def inside(self, value: Array) -> Array:
        """Whether a number, or each number of an array, is in the range and at neither end: where learning may start."""
        return (value > self.low) & (value < self.high)

    def checked(self, label: str, value: object) -> float:
        """The value as a float; errors begin with the label.

        Raises:
            TypeError: it is not a number.
            ValueError: it is out of range.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise TypeError(f"{label} must be a number, got {type(value).__name__}")
        try:
            value = float(value)
        except OverflowError:  # a whole number beyond every float
            value = math.inf if value > 0 else -math.inf
        if not self.holds(value):
            infinite = math.isinf(value) and not self.infinite
            raise ValueError(f"{label} must be {'finite' if infinite else self.words}, got {value}")
        return value


Fraction = Annotated[float, Between(0, 1)]
"""A float field between 0 and 1."""

Decay = Annotated[float, Between(0, 1), "what is left after a step"]
"""A `Fraction` that says what of a state is left after a step; `spikegrad.decay` computes it from a time constant."""

Positive = Annotated[float, Between(0, words="positive", above=True)]
"""A float field that must be greater than zero; powers may take it as a positive base."""

NonNegative = Annotated[float, Between(0, words="zero or positive")]
"""A float field that must not be negative."""

Unbounded = Annotated[float, Between(words="a number or infinite", infinite=True)]
"""A float field that may be infinite, as the end of a window may."""


def decay(tau: float, dt: float = 1.0) -> float:
    """What is left of an exponential decay with time constant `tau` after a step of `dt`, in the same unit: ``exp(-dt / tau)``.

    Raises:
        ValueError: `tau` or `dt` is not positive.

    Example:
        >>> import spikegrad
        >>> round(spikegrad.decay(tau=20, dt=1), 4)
        0.9512
    """
    for name, value in (("tau", tau), ("dt", dt)):
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be positive and finite, got {value}")
    return math.exp(-dt / tau)


State = Annotated[float, "where it rests"]
"""A float field that names a state of a neuron; its value is where the state rests."""


def hints(cls: type) -> dict[str, Any]:
    """The annotations of a class's fields, resolved; the names of this module mean what they mean here, wherever the class is written.

    Raises:
        TypeError: an annotation names what is not known.
    """
    try:
        return get_type_hints(cls, localns=_KNOWN, include_extras=True)
    except NameError as error:
        raise TypeError(f"{cls.__name__}: {error}; import what annotations name at the top of the module, not in a function") from None


def is_state(hint: Any) -> bool:
    """Whether an annotation makes a field a state."""
    return getattr(hint, "__metadata__", ())[:1] == getattr(State, "__metadata__", None)


def of(hint: Any) -> Between | None:
    """The range that an annotation gives a float field, or None for a field of another type."""
    if getattr(hint, "__origin__", hint) is not float:
        return None
    return next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Between)), Between())


_KNOWN = {name: globals()[name] for name in ("Annotated", "Between", "Decay", "Fraction", "NonNegative", "Positive", "State", "Unbounded")}
