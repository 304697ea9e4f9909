"""The definition of every neuron: its equations in a plain loop over time.

The same lines serve PyTorch (a Python loop) and JAX (`jax.lax.scan`); every faster kernel is held against them. With currents I, decays
alpha and beta, threshold theta, u the potential before reset and v after it, s spikes and H the step::

    Leaky        u[t] = beta v[t-1] + I[t]              s[t] = H(u[t] - theta)
    Synaptic     i[t] = alpha i[t-1] + I[t]             u[t] = beta v[t-1] + i[t]
    recurrent    W s[t-1] is added to I[t]
    reset        v[t] = u[t] - theta s[t] (subtract), (1 - s[t]) u[t] (zero), u[t] (none)
    delayed      v[t] = u[t], and r[t] = H(v[t-1] - theta) acts on the next potential: u[t] = ... - theta r[t] (subtract);
                 beta (1 - r[t]) v[t-1] + I[t] (zero, Leaky), (1 - r[t]) (beta v[t-1] + i[t]) (zero, Synaptic)

Half-precision currents are widened: states and potentials are float32, spikes have the dtype of the currents.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from spikegrad.vocabulary import Array, cast, detach, library, namespace, where, widen

Reset = Literal["subtract", "zero", "none"]
Fire = Callable[[Array, Any], Array]
"""Spikes from potential minus threshold, given what its noise is drawn from (None for a surrogate without noise)."""
Carry = tuple[Array, ...]


@dataclass(frozen=True)
class Options:
    """How a layer fires and resets; the same in every kernel.

    Attributes:
        reset: what a spike does to the potential: ``"subtract"`` the threshold, set it to ``"zero"``, or ``"none"``.
        reset_delay: whether the reset acts one step later (snnTorch's default) instead of at once.
        detach_reset: whether gradients do not flow through the spike that resets; they always flow through the threshold.
        spike_at_threshold: whether a potential equal to the threshold spikes.
        inhibition: winner takes all: of the features of a sample only the one furthest above its threshold may spike.
        quantize: applied to every state after each integration, before the threshold; differentiable, or with its own gradient.
    """

    reset: Reset = "subtract"
    reset_delay: bool = False
    detach_reset: bool = True
    spike_at_threshold: bool = True
    inhibition: bool = False
    quantize: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        known = get_args(Reset)
        if self.reset not in known:
            close = difflib.get_close_matches(str(self.reset), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"`reset` must be one of {', '.join(map(repr, known))}, got {self.reset!r}{hint}")
        if self.quantize is not None and not callable(self.quantize):
            raise TypeError(f"`quantize` must be a function of an array, got {self.quantize!r}")


def leaky(
    currents: Array,
    state: Any,
    beta: Array,
    threshold: Array,
    fire: Fire,
    options: Options,
    weights: Array | None = None,
    draws: Any = None,
    *,
    record: bool = False,
) -> tuple[Array, Any, Array | None]:
    """A layer of leaky integrate-and-fire neurons.

    Args:
        currents: input currents, ``(time, batch, *features)`` or ``(time, features)``.
        state: where to start: ``v``, or ``(v, s)`` with recurrent weights; None for rest.
        beta: decay of the potential per step, a number or an array that broadcasts over the features.
        threshold: likewise.
        fire: spikes from potential minus threshold.
        options: how the layer fires and resets.
        weights: recurrent weights: ``(features, features)`` all-to-all, as ``weights @ s``; ``(features,)`` one-to-one; or None.
        draws: what noise is drawn from, one for the start and one for each step, or None.
        record: whether to return the potentials before reset.

    Returns:
        Spikes of the shape and dtype of the currents, the state after the last step, and the potentials or None.

    Raises:
        ValueError: the shapes of currents and state do not fit.
    """
    wide = checked(currents)
    beta, threshold, weights = _like(wide, beta, threshold, weights)
    v, s = _start(state, wide, 1, weights, threshold, fire, options, draws)

    def step(carry: Carry, given: Any) -> tuple[Carry, Any]:
        v, s = carry
        current, draw = given
        r = detach(s) if options.detach_reset else s
        if options.reset_delay and options.reset == "zero":
            v = (1 - r) * v
        u = _integrate(beta, v, current, weights, s)
        if options.reset_delay and options.reset == "subtract":
            u = u - r * threshold
        u = u if options.quantize is None else options.quantize(u)
        s, v = _fire_and_reset(u, threshold, fire, options, draw)
        return (v, s), (cast(s, currents), u if record else None)

    (v, s), (spikes, potentials) = _scan(step, (v, s), wide, draws, currents)
    return spikes, v if weights is None else (v, s), potentials


def synaptic(
    currents: Array,
    state: Any,
    alpha: Array,
    beta: Array,
    threshold: Array,
    fire: Fire,
    options: Options,
    weights: Array | None = None,
    draws: Any = None,
    *,
    record: bool = False,
) -> tuple[Array, Any, Array | None]:
    """A layer of neurons with an exponential synapse: a second state, the synaptic current, that decays by `alpha`.

    Arguments, results and errors are those of `leaky`; the state is ``(i, v)``, with recurrent weights ``(i, v, s)``.
    """
    wide = checked(currents)
    alpha, beta, threshold, weights = _like(wide, alpha, beta, threshold, weights)
    i, v, s = _start(state, wide, 2, weights, threshold, fire, options, draws)

    def step(carry: Carry, given: Any) -> tuple[Carry, Any]:
        i, v, s = carry
        current, draw = given
        r = detach(s) if options.detach_reset else s
        i = _integrate(alpha, i, current, weights, s)
        u = _integrate(beta, v, i, None, s)
        if options.reset_delay and options.reset == "subtract":
            u = u - r * threshold
        if options.reset_delay and options.reset == "zero":
            u = (1 - r) * u
        if options.quantize is not None:
            i, u = options.quantize(i), options.quantize(u)
        s, v = _fire_and_reset(u, threshold, fire, options, draw)
        return (i, v, s), (cast(s, currents), u if record else None)

    (i, v, s), (spikes, potentials) = _scan(step, (i, v, s), wide, draws, currents)
    return spikes, (i, v) if weights is None else (i, v, s), potentials


def leaky_integrator(currents: Array, state: Any, beta: Array) -> tuple[Array, Array]:
    """A layer of leaky integrators, which do not spike: ``u[t] = beta u[t-1] + I[t]``.

    Returns the potentials, of the shape and dtype of the currents, and the last of them as the state.
    """
    wide = checked(currents)
    (beta,) = _like(wide, beta)
    start = given_state(state, wide, ("v",))

    def step(carry: Carry, given: Any) -> tuple[Carry, Any]:
        v = _integrate(beta, carry[0], given[0], None, None)
        return (v,), (cast(v, currents), None)

    (last,), (potentials, _) = _scan(step, start, wide, None, currents)
    return potentials, last


def _integrate(decay: Array, state: Array, current: Array, weights: Array | None, spikes: Array) -> Array:
    decayed = decay * state
    if library(state) == "jax":
        # Otherwise XLA contracts the product and the sum below into one rounding on the CPU, and potentials differ in their last bit.
        decayed = where(state == state, decayed, state)
    total = decayed + current
    if weights is not None:
        total = total + (spikes @ weights.T if weights.ndim == 2 else spikes * weights)
    return total


def _fire_and_reset(u: Array, threshold: Array, fire: Fire, options: Options, draw: Any) -> tuple[Array, Array]:
    """Spikes of the potentials, and the potentials after the reset that acts at once."""
    excess = u - threshold
    s = fire(excess, draw)
    if options.inhibition:
        s = s * cast(_winner(detach(excess)), u)
    if options.reset_delay or options.reset == "none":
        return s, u
    r = detach(s) if options.detach_reset else s
    return s, u - threshold * r if options.reset == "subtract" else (1 - r) * u


def _winner(excess: Array) -> Array:
    """True at the largest value of each sample, over all its features; of equals at the first."""
    flat = excess.reshape(excess.shape[0], -1) if excess.ndim > 1 else excess
    places = namespace(library(excess)).arange(flat.shape[-1])
    places = places.to(excess.device) if library(excess) == "torch" else places
    return (places == flat.argmax(-1)[..., None]).reshape(excess.shape)


def checked(currents: Array) -> Array:
    """The currents, widened if they are of half precision.

    Raises:
        TypeError: they are not of floating point.
        ValueError: they have no time axis.
    """
    if currents.ndim < 2:
        raise ValueError(
            f"`currents` must be (time, batch, *features) or (time, features), got shape {tuple(currents.shape)}; "
            "add a time axis with currents[None]"
        )
    return widen(currents)


def _like(wide: Array, *parameters: Any) -> tuple[Any, ...]:
    """Parameters in the dtype of the states; numbers have none."""
    return tuple(p if p is None or library(p) == "number" else cast(p, wide) for p in parameters)


def _start(
    state: Any, wide: Array, states: int, weights: Array | None, threshold: Array, fire: Fire, options: Options, draws: Any
) -> tuple[Array, ...]:
    """The states before the first step, and the spikes that act on it: given by the state if recurrent, else those of its potential."""
    names = ("i", "v")[2 - states :]
    if weights is not None:
        return given_state(state, wide, (*names, "s"))
    start = given_state(state, wide, names)
    if state is None or not options.reset_delay:
        return (*start, *given_state(None, wide, ("s",)))
    s, _ = _fire_and_reset(start[-1], threshold, fire, options, None if draws is None else draws[0])
    return (*start, s)


def given_state(state: Any, wide: Array, names: tuple[str, ...]) -> tuple[Array, ...]:
    """The given state as a tuple in the dtype of the widened currents, or zeros for a layer at rest.

    Raises:
        ValueError: it has not one array for each of the `names`, each of the shape of one step.
    """
    shape = tuple(wide.shape[1:])
    if state is None:
        zeros = namespace(library(wide)).zeros
        given = {"device": wide.device} if library(wide) == "torch" else {}
        return tuple(zeros(shape, dtype=wide.dtype, **given) for _ in names)
    parts = state if isinstance(state, tuple) else (state,)
    wanted = names[0] if len(names) == 1 else f"({', '.join(names)})"
    if len(parts) != len(names):
        raise ValueError(f"`state` must be {wanted}, got {len(parts)} array{'s' * (len(parts) != 1)}")
    for name, part in zip(names, parts, strict=True):
        if tuple(part.shape) != shape:
            raise ValueError(
                f"`state` {name} has shape {tuple(part.shape)}, but `currents` of shape {tuple(wide.shape)} need {shape}; "
                "leave `state` out to start from rest"
            )
    return tuple(cast(widen(part), wide) for part in parts)


def _scan(step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, wide: Array, draws: Any, currents: Array) -> tuple[Carry, Any]:
    """Fold `step` over time: `jax.lax.scan`, or the same in a Python loop for PyTorch."""
    if library(wide) == "jax":
        from jax import lax

        return lax.scan(step, carry, (wide, None if draws is None else draws[1:]))
    import torch

    outputs: list[Any] = []
    # unbind, not indexing: the backward pass of currents[t] costs as much as all of them.
    for current in wide.unbind(0):
        carry, output = step(carry, (current, None))
        outputs.append(output)
    if not outputs:
        return carry, (torch.empty_like(currents), torch.empty_like(wide))
    first, second = zip(*outputs, strict=True)
    return carry, (torch.stack(first), None if second[0] is None else torch.stack(second))
