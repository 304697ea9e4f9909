"""The base class `Surrogate`: a step whose gradient a subclass writes in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spikegrad.vocabulary import fits

Array = Any
"""What `jax.numpy` takes for a floating-point array."""


class Surrogate:
    """Base class of surrogates: a step forward, in backward whatever `surrogate_grad` of a subclass says.

    A subclass overrides `surrogate_grad` and, if it likes, `surrogate_fun`, which is for looking at: training never calls it. Every
    transform of JAX applies, to the second order too: the derivative of the spikes is `surrogate_grad`, and its derivative is that of the
    code in it, also with respect to arrays that the code takes from `self`. The spikes themselves do not change with those arrays: their
    gradient is 0. (Those of the named surrogates have the gradient of `surrogate_fun`.) Code that cannot be differentiated belongs
    behind ``x = jax.lax.stop_gradient(x)``.

    NaN gives NaN, forward and backward, and infinite potentials have gradient 0.

    Two surrogates are equal if their class and their attributes are, arrays being compared by value, and equal ones hash alike, so that
    they are one static argument to `jax.jit`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from spikegrad.compat.braintools import surrogate
        >>> class Cosine(surrogate.Surrogate):
        ...     def __init__(self, width=1.0):
        ...         super().__init__()
        ...         self.width = width
        ...
        ...     def surrogate_grad(self, x):
        ...         return jnp.where(abs(x) < self.width, (jnp.cos(jnp.pi * x / self.width) + 1) / 2, 0)
        >>> x = jnp.array([-0.5, 0.0, 2.0])
        >>> Cosine()(x).tolist()
        [0.0, 1.0, 1.0]
        >>> jax.grad(lambda x: Cosine()(x).sum())(x).round(3).tolist()
        [0.5, 1.0, 0.0]
    """

    def __call__(self, x: Array) -> jax.Array:
        """Spikes: 1 where `x` reaches 0, else 0.

        Args:
            x: potential minus threshold, without unit: a JAX or NumPy array or a number, of any shape.

        Returns:
            Array of the shape and dtype of `x`. Whole numbers give whole numbers, which have no gradient.

        Raises:
            TypeError: `x` is boolean, complex, has a unit, or is not an array.
            ValueError: what `surrogate_grad` returns does not broadcast to the shape of `x`.
            NotImplementedError: the class does not override `surrogate_grad`.
        """
        x = potential(x)
        return self._spikes(x) if jnp.issubdtype(x.dtype, jnp.floating) else (x >= 0).astype(x.dtype)

    def _spikes(self, x: jax.Array) -> jax.Array:
        infinite = jnp.isinf(x)
        slope = _fitted(self, self.surrogate_grad(jnp.where(infinite, 0, x)), x)
        return _step(x, jnp.where(x == x, jnp.where(infinite, 0, slope), x))

    def surrogate_fun(self, x: Array) -> jax.Array:
        """The smooth function that stands in for the step; optional."""
        raise NotImplementedError(f"{type(self).__name__} does not define `surrogate_fun(self, x)`, which is optional")

    def surrogate_grad(self, x: Array) -> jax.Array:
        """The derivative that stands in for the step's; it broadcasts to the shape of `x`."""
        raise NotImplementedError(f"{type(self).__name__} must define `surrogate_grad(self, x)`, the gradient of its spikes")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, structure = jax.tree.flatten(vars(self))
        theirs, like = jax.tree.flatten(vars(other))
        return structure == like and all(map(_equal, mine, theirs))

    def __hash__(self) -> int:
        leaves, structure = jax.tree.flatten(vars(self))
        return hash((type(self), structure, *map(_hash, leaves)))


@jax.custom_jvp
def _step(x: jax.Array, slope: jax.Array) -> jax.Array:
    """The step of `x`, with `slope` for its derivative.

    The slope comes in as an array rather than as a function: it may hold tracers of the caller, which a rule that runs later could
    not see, and as an operand it is batched like any other. The rule takes the derivative of neither for granted: differentiated once
    more, the slope brings its own.
    """
    return jnp.where(x == x, (x >= 0).astype(x.dtype), x)


@_step.defjvp
def _rule(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    x, slope = primals
    return _step_again(x, slope), slope * tangents[0]


@jax.custom_jvp
def _step_again(x: jax.Array, slope: jax.Array) -> jax.Array:
    """The same, with a derivative that `jax.lax.scan` keeps: differentiated in reverse, it forgets the rules of what it has run forward."""
    fixed = jax.lax.stop_gradient((x, slope))
    change = (slope + fixed[1]) / 2 * (x - fixed[0])  # 0, whose derivative is the slope, and whose second that of the slope
    return jax.lax.stop_gradient(_step(x, slope)) + jnp.where(change == change, change, 0).astype(x.dtype)


_step_again.defjvp(_rule)


def potential(x: Any) -> jax.Array:
    """`x` as a JAX array of real numbers, or an error that says why it is not one."""
    if hasattr(x, "mantissa") and hasattr(x, "unit"):
        raise TypeError(
            f"`x` must be a plain array, got a quantity in {x.unit}; divide by a unit, as in (V - V_th) / mV, or by another potential"
        )
    if not isinstance(x, (jax.Array, np.ndarray, np.generic, int, float, complex)):
        raise TypeError(
            f"`x` must be a JAX or NumPy array or a number, got {type(x).__module__}.{type(x).__qualname__}; convert it with "
            "jax.numpy.asarray (for PyTorch, take a surrogate of spikegrad itself)"
        )
    x = jnp.asarray(x)
    if x.dtype == bool or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"`x` must be potential minus threshold, real numbers, got {x.dtype}; convert it with x.astype('float32')")
    return x


def _fitted(owner: Surrogate, slope: Array, x: jax.Array) -> jax.Array:
    slope = jnp.asarray(slope, x.dtype)
    if not fits(slope.shape, x.shape):
        raise ValueError(
            f"`surrogate_grad` of {type(owner).__name__} must return an array that broadcasts to the shape of `x`, {x.shape}, "
            f"got shape {slope.shape}"
        )
    return jnp.broadcast_to(slope, x.shape)


def is_array(value: object) -> bool:
    """Whether a parameter is an array, which may be traced, rather than a number."""
    return isinstance(value, (np.ndarray, jax.Array))


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    if is_array(a) or is_array(b):
        return is_array(a) and is_array(b) and a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())
    return bool(a == b)


def _hash(value: Any) -> int:
    """A hash that is equal for values that `_equal` calls equal; 0 for what has none."""
    if is_array(value):
        return id(value) if isinstance(value, Tracer) else hash((value.shape, str(value.dtype)))
    try:
        return hash(value)
    except TypeError:
        return 0
