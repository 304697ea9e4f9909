"""JAX: a step with a surrogate's gradient, as a `jax.custom_jvp`, so that forward and reverse mode and every transform apply."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from spikegrad.vocabulary import widen

if TYPE_CHECKING:
    from spikegrad.surrogate import Surrogate

Moved = tuple[jax.Array | SymbolicZero, dict[str, jax.Array | SymbolicZero], tuple[jax.Array, ...]]
"""A potential, numbers and noise, or how each changes."""


def spike(
    surrogate: Surrogate,
    x: jax.Array,
    parameters: Mapping[str, ArrayLike],
    spike_at_threshold: bool,
    training: bool,
    random: jax.Array | None,
) -> jax.Array:
    """See `Surrogate.__call__`."""
    wide = widen(x)
    numbers = {name: jnp.asarray(value, wide.dtype) for name, value in parameters.items()}
    noise: tuple[jax.Array, ...] = ()
    if training:
        if random is None:
            raise ValueError(f"{type(surrogate).__name__} draws noise; pass random=jax.random.key(seed)")
        noise = (jax.random.uniform(random, x.shape, wide.dtype),)
    if training and surrogate.soft:
        return surrogate.bind(numbers).primitive(wide, *noise).astype(x.dtype)
    return _spike(surrogate, spike_at_threshold, x, numbers, noise)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _spike(
    surrogate: Surrogate,
    spike_at_threshold: bool,
    x: jax.Array,
    numbers: dict[str, jax.Array],
    noise: tuple[jax.Array, ...],
) -> jax.Array:
    x = jnp.asarray(x)  # JAX may hand in the number that a weakly typed array was made from
    fired = x >= 0 if spike_at_threshold else x > 0
    return jnp.where(x == x, fired.astype(x.dtype), x)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _spike_again(
    surrogate: Surrogate,
    spike_at_threshold: bool,
    x: jax.Array,
    numbers: dict[str, jax.Array],
    noise: tuple[jax.Array, ...],
) -> jax.Array:
    """The same spikes where a derivative is taken, computed so that they have two more without a rule.

    `jax.lax.scan`, differentiated in reverse, forgets the rules of what it has run forward: the second derivative would miss what spikes do
    to later steps. What is added is 0, and has the derivatives of the integral from x to itself, as in `spikegrad.gradient.torch`.
    """
    x = jnp.asarray(x)
    wide = widen(jnp.where(jnp.isinf(x), 0, x))
    fixed, frozen = jax.lax.stop_gradient((wide, numbers))
    slope = surrogate.bind(frozen).derivative(wide, *noise)
    change = (slope + jax.lax.stop_gradient(slope)) / 2 * (wide - fixed)
    if numbers:
        change = change + surrogate.bind(numbers).primitive(wide, *noise) - surrogate.bind(frozen).primitive(wide, *noise)
    change -= jax.lax.stop_gradient(change)  # XLA may round each of the two primitives in its own way
    spikes = _spike(surrogate, spike_at_threshold, x, numbers, noise)
    return jax.lax.stop_gradient(spikes) + jnp.where(change == change, change, 0).astype(x.dtype)


def _rule(surrogate: Surrogate, spike_at_threshold: bool, primals: Moved, tangents: Moved) -> tuple[jax.Array, jax.Array]:
    x, numbers, noise = jnp.asarray(primals[0]), *primals[1:]
    x_dot, number_dots, _ = tangents
    infinite = jnp.isinf(x)
    wide = widen(jnp.where(infinite, 0, x))
    change: jax.Array | float = 0.0
    if not isinstance(x_dot, SymbolicZero):
        change = surrogate.bind(numbers).derivative(wide, *noise) * x_dot
    moving = {name: dot for name, dot in number_dots.items() if not isinstance(dot, SymbolicZero)}
    if moving:

        def primitive(given: dict[str, jax.Array]) -> jax.Array:
            return surrogate.bind({**numbers, **given}).primitive(wide, *noise)

        change = change + jax.jvp(primitive, ({name: numbers[name] for name in moving},), (moving,))[1]
    out = _spike_again(surrogate, spike_at_threshold, x, numbers, noise)
    return out, jnp.where(infinite, 0, change).astype(x.dtype)


_spike.defjvp(_rule, symbolic_zeros=True)
_spike_again.defjvp(_rule, symbolic_zeros=True)
