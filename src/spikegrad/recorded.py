"""A surrogate from two functions, for notebooks: no class to write, and it pickles all the same."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from spikegrad import trace
from spikegrad.ranges import Positive
from spikegrad.surrogate import Surrogate
from spikegrad.trace import Record, Symbol
from spikegrad.vocabulary import OPERATIONS, Array


def from_formula(
    derivative: Callable[..., Array],
    primitive: Callable[..., Array] | None = None,
    *,
    scale: float = 1.0,
    **parameters: float,
) -> Surrogate:
    """A surrogate whose formula is given as functions, recorded once.

    What is kept is the record, not the functions: the surrogate pickles, copies, compares and hashes by it, even when it came from
    lambdas. Two that are written alike are of the same class.

    Args:
        derivative: the bump, a function of `x` and of the parameters by name, in the words of `spikegrad.vocabulary`.
        primitive: its antiderivative, with the same arguments; without one the parameters cannot be learned.
        scale: multiplies both.
        **parameters: the parameters, as numbers. `slope` and `width` must be positive, as everywhere.

    Raises:
        TypeError: a function's arguments are not `x` and the parameters, or it leaves the vocabulary.

    Example:
        >>> import numpy as np
        >>> from spikegrad import from_formula
        >>> spike = from_formula(lambda x, slope: slope / (1 + (slope * x) ** 2), slope=2.0)
        >>> spike.derivative(np.array([0.0, 0.5]))
        array([2., 1.])
        >>> spike
        Formula(slope=2.0)
    """

    def record(name: str, formula: Callable[..., Array]) -> trace.Program:
        wanted = [n for n in inspect.signature(formula).parameters if n != "x"]
        if unknown := [n for n in wanted if n not in parameters]:
            raise TypeError(
                f"`{name}` takes {', '.join(map(repr, unknown))}, which from_formula was given no number for; it was given "
                f"{', '.join(parameters) or 'none'}. Write e.g. from_formula(..., {unknown[0]}=2.0)"
            )
        symbols = {n: trace.argument(n, 1 if n in ("slope", "width") else -1, is_array=False) for n in wanted}
        try:
            result: Symbol | float = formula(x=trace.argument("x"), **symbols)
            return trace.flatten([trace.operand(result)])
        except TypeError as error:
            raise TypeError(f"`{name}` of from_formula: {error}") from None

    programs = record("derivative", derivative), record("primitive", primitive) if primitive is not None else None
    return _rebuild(Record(("x", *parameters), *programs), {**parameters, "scale": scale})


def _rebuild(record: Record, parameters: dict[str, float]) -> Surrogate:
    return from_record(record)(**parameters)


_classes = WeakValueDictionary[Record, type[Surrogate]]()
"""Every class there is: one that is no longer remembered below, but has instances, is still the class of its record."""


@functools.lru_cache(maxsize=64)
def from_record(record: Record) -> type[Surrogate]:
    """The class of all surrogates with this formula: one for each record, so that equal ones compare equal."""
    found = _classes.get(record)
    if found is None:
        found = _classes[record] = _class(record)
    return found


def _class(record: Record) -> type[Surrogate]:
    names = record.arguments[1:]

    def method(name: str, program: trace.Program) -> Callable[[Surrogate, Array], Array]:
        evaluate = trace.evaluator(program)  # not in a call: torch.compile cannot follow how a program becomes a function

        def run(self: Surrogate, x: Array) -> Array:
            return evaluate({"x": x, **{name: getattr(self, name) for name in names}}, OPERATIONS)[0]

        run.__name__ = name
        return run

    def reduce(self: Surrogate) -> tuple[object, ...]:
        return _rebuild, (record, self.parameters)

    annotations: dict[str, Any] = {name: Positive if name in ("slope", "width") else float for name in names if name != "scale"}
    body: dict[str, Any] = {
        "__annotations__": annotations,
        "__doc__": "A surrogate made by `from_formula`.",
        "__module__": __name__,
        "__reduce__": reduce,
        "derivative": method("derivative", record.derivative),
    }
    if record.primitive is not None:
        body["primitive"] = method("primitive", record.primitive)
    return type("Formula", (Surrogate,), body)
