"""What the surrogates with a name have in common: a curve of spikegrad with braintools' parameters, as a class and as a function."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, Concatenate, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

import spikegrad
from spikegrad.compat.braintools.step import Array, Surrogate, is_array, potential
from spikegrad.vocabulary import fits, widen

Curve = tuple[spikegrad.Surrogate, dict[str, Array]]
"""One of spikegrad's surrogates, and the numbers or arrays to put in place of its own, by name."""

P = ParamSpec("P")


class Named(Surrogate):
    """A surrogate whose curve is one of spikegrad's, which `_curve` of a subclass names.

    The parameters are plain attributes, as in braintools. Numbers among them go into a surrogate of spikegrad when it is needed; arrays
    are passed beside it, cast to the dtype in which the potential is computed.
    """

    _kinds: ClassVar[dict[str, str]] = {"alpha": "positive"}
    """What each parameter must be, where it may not be any number: "positive" or "zero or positive"."""
    _offset: ClassVar[float] = 0.0
    """`surrogate_fun` minus the primitive: some functions of braintools are 0 at threshold, where our primitives are 1/2."""

    def __init__(self, **parameters: Array):
        super().__init__()
        for name, value in parameters.items():
            _check(type(self).__name__, name, value, self._kinds.get(name, "a number"))
            setattr(self, name, value)

    def _curve(self, p: SimpleNamespace) -> Curve:
        """The curve for parameters ``p.alpha`` and so on: numbers, or arrays of one dtype."""
        raise NotImplementedError

    @property
    def spikegrad(self) -> spikegrad.Surrogate:
        """The surrogate of spikegrad with this curve, for its layers, kernels, plots and citations.

        Raises:
            ValueError: a parameter is an array, which spikegrad takes beside the surrogate.
        """
        curve, arrays = self._bound(None)
        if arrays:
            known = f"{type(curve).__name__}()(x, {', '.join(f'{name}=array' for name in arrays)})"
            raise ValueError(f"{self!r} holds an array, which a surrogate of spikegrad does not; pass it beside one: {known}")
        return curve

    def _bound(self, dtype: np.dtype | None) -> Curve:
        """The curve with the numbers put in, and the arrays that go beside it, in `dtype`."""
        given = {name: jnp.asarray(value, dtype) if is_array(value) else value for name, value in vars(self).items()}
        curve, values = self._curve(SimpleNamespace(**given))
        arrays = {name: value for name, value in values.items() if is_array(value)}
        return dataclasses.replace(curve, **{name: value for name, value in values.items() if name not in arrays}), arrays

    def _spikes(self, x: jax.Array) -> jax.Array:
        # A subclass, or an instance, that has a gradient of its own gets it.
        if getattr(self.surrogate_grad, "__func__", None) is not Named.surrogate_grad:
            return super()._spikes(x)
        for name, value in vars(self).items():
            if is_array(value) and not fits(value.shape, x.shape):
                raise ValueError(
                    f"`{name}` of {type(self).__name__} must broadcast to the shape of `x`, {x.shape}, got shape {value.shape}; "
                    "give it one value for each neuron, or a number"
                )
        curve, arrays = self._bound(widen(x).dtype)
        return curve(x, **arrays)

    def surrogate_fun(self, x: Array) -> jax.Array:
        """The soft step: the antiderivative of `surrogate_grad`, at the height at which braintools has it; `x` as for a call."""
        return self._evaluated(x, "primitive") + self._offset

    def surrogate_grad(self, x: Array) -> jax.Array:
        """The derivative that stands in for the step's; `x` as for a call."""
        return self._evaluated(x, "derivative")

    def _evaluated(self, x: Array, which: str) -> jax.Array:
        x = potential(x)
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
        curve, arrays = self._bound(widen(x).dtype)
        return getattr(curve.bind(arrays), which)(x)


def _check(owner: str, name: str, value: Any, wanted: str) -> None:
    if is_array(value):
        return  # its values may not be known yet
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"`{name}` of {owner} must be a number or an array, got {type(value).__name__}")
    right = {"positive": value > 0, "zero or positive": value >= 0}.get(wanted, value == value)
    if not (right and np.isfinite(value)):
        raise ValueError(f"`{name}` of {owner} must be {'finite' if right else wanted}, got {value}")


def alias(*, default: float, **names: Array) -> Array:
    """The value of a parameter with two names, ``alias(w=w, alpha=alpha, default=1.0)``: the second one's, where it is given.

    Raises:
        TypeError: both are given.
    """
    (name, value), (other, given) = names.items()
    if given is None:
        return value
    if is_array(value) or value != default:
        raise TypeError(f"`{other}` is another name for `{name}`; give one of them, got {name}={value} and {other}={given}")
    return given


def as_function(name: str, cls: Callable[P, Surrogate]) -> Callable[Concatenate[Array, P], jax.Array]:
    """The function that makes a surrogate and applies it: ``sigmoid(x, alpha=4.0)`` is ``Sigmoid(alpha=4.0)(x)``."""

    def call(x: Array, *arguments: P.args, **named: P.kwargs) -> jax.Array:
        return cls(*arguments, **named)(x)

    x = inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Array)
    signature = inspect.Signature([x, *inspect.signature(cls).parameters.values()], return_annotation=jax.Array)
    described = f"""Spikes of `x` with the gradient of `{cls.__name__}`, whose parameters it takes.

    Example:
        >>> {name}(0.5).item(), {name}(-0.5).item()
        (1.0, 0.0)
    """
    call.__name__ = call.__qualname__ = name
    call.__module__, call.__doc__ = cls.__module__, described
    vars(call)["__signature__"] = signature  # where `inspect.signature` looks
    return call
