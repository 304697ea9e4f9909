"""Spiking layers as pure functions for JAX; they run under `jit`, `vmap`, `grad`, `jvp`, `checkpoint` and inside `scan`.

The equations stand in `spikegrad.kernels.reference`, which is a `jax.lax.scan` over them. On the CPU a layer runs in kernels that take all
time steps at once, bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack

import jax

from spikegrad.formulas.rational import ATan
from spikegrad.jax.backend import Backend, fused, integrate, obstacle, run_fused
from spikegrad.kernels import reference
from spikegrad.kernels.call import Call
from spikegrad.kernels.reference import Options, Reset
from spikegrad.surrogate import Surrogate

__all__ = ["leaky", "leaky_integrator", "recurrent_leaky", "recurrent_synaptic", "synaptic"]

_ATAN = ATan()


class Keywords(TypedDict, total=False):
    """Options of every spiking layer; `spikegrad.kernels.reference.Options` describes the first six.

    Attributes:
        reset: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: let the reset act one step later.
        detach_reset: keep gradients from flowing through the spike that resets.
        spike_at_threshold: whether a potential equal to the threshold spikes.
        inhibition: winner takes all among the features of a sample.
        quantize: a function of the state, applied after each integration.
        spike_parameters: arrays in place of the surrogate's numbers, by name, which receive gradients.
        training: whether a stochastic surrogate draws noise.
        key: a `jax.random.key` for that noise.
        record: also return the potentials before reset.
        backend: ``"reference"`` is the scan; ``"numba"`` the fused kernels, which run on the CPU and do first derivatives in reverse mode,
            or an error that says what they cannot do; ``"auto"`` the kernels where they can, else the scan. The kernels have no noise, no
            inhibition, no quantisation and no gradients of `spike_parameters`. Forward mode and second derivatives go through the scan,
            also around a layer that runs in the kernels.
    """

    reset: Reset
    reset_delay: bool
    detach_reset: bool
    spike_at_threshold: bool
    inhibition: bool
    quantize: Callable[[jax.Array], jax.Array] | None
    spike_parameters: Mapping[str, jax.Array]
    training: bool
    key: jax.Array | None
    record: bool
    backend: Backend


def leaky(
    currents: jax.Array,
    beta: Any,
    threshold: Any = 1.0,
    spike: Surrogate = _ATAN,
    *,
    state: jax.Array | None = None,
    **options: Unpack[Keywords],
) -> tuple[Any, ...]:
    """Leaky integrate-and-fire neurons over a sequence: ``u[t] = beta v[t-1] + I[t]``, reset where ``u[t]`` reaches the threshold.

    Args:
        currents: ``(time, batch, *features)`` or ``(time, features)``, floating point.
        beta: decay of the potential per step: a number, or an array that broadcasts over the features.
        threshold: likewise.
        spike: the surrogate.
        state: the potential to start from; rest if None.
        **options: see `Keywords`.

    Returns:
        ``(spikes, state)``, with ``record=True`` ``(spikes, state, potentials)``. Spikes have the shape and dtype of the currents.

    Raises:
        ValueError: shapes that do not fit, an unknown reset or backend, or ``backend="numba"`` where its kernels cannot run the layer.
        NotImplementedError: forward mode or a second derivative with ``backend="numba"``.

    Example:
        >>> import jax.numpy as jnp
        >>> from spikegrad.jax import leaky
        >>> spikes, state = leaky(jnp.array([[0.5], [0.75], [0.0]]), beta=0.5)
        >>> spikes.ravel().tolist(), state.tolist()
        ([0.0, 1.0, 0.0], [0.0])
    """
    return _run(reference.leaky, currents, state, (beta, threshold), spike, None, **options)


def recurrent_leaky(
    currents: jax.Array,
    weights: jax.Array,
    beta: Any,
    threshold: Any = 1.0,
    spike: Surrogate = _ATAN,
    *,
    state: tuple[jax.Array, jax.Array] | None = None,
    **options: Unpack[Keywords],
) -> tuple[Any, ...]:
    """`leaky` neurons that also receive their own spikes of the step before.

    `weights` of shape ``(features, features)`` connect all to all, as ``weights @ s``; of shape ``(features,)`` each neuron to itself. The
    state is ``(v, s)``.
    """
    return _run(reference.leaky, currents, state, (beta, threshold), spike, weights, **options)


def synaptic(
    currents: jax.Array,
    alpha: Any,
    beta: Any,
    threshold: Any = 1.0,
    spike: Surrogate = _ATAN,
    *,
    state: tuple[jax.Array, jax.Array] | None = None,
    **options: Unpack[Keywords],
) -> tuple[Any, ...]:
    """`leaky` neurons with an exponential synapse, ``i[t] = alpha i[t-1] + I[t]``; the state is ``(i, v)``."""
    return _run(reference.synaptic, currents, state, (alpha, beta, threshold), spike, None, **options)


def recurrent_synaptic(
    currents: jax.Array,
    weights: jax.Array,
    alpha: Any,
    beta: Any,
    threshold: Any = 1.0,
    spike: Surrogate = _ATAN,
    *,
    state: tuple[jax.Array, jax.Array, jax.Array] | None = None,
    **options: Unpack[Keywords],
) -> tuple[Any, ...]:
    """`synaptic` neurons that also receive their own spikes, as in `recurrent_leaky`; the state is ``(i, v, s)``."""
    return _run(reference.synaptic, currents, state, (alpha, beta, threshold), spike, weights, **options)


def leaky_integrator(
    currents: jax.Array, beta: Any, *, state: jax.Array | None = None, backend: Backend = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Leaky integrators, which do not spike: ``u[t] = beta u[t-1] + I[t]``. Returns the potentials and the last of them."""
    return integrate(backend, currents, state, beta)


def _run(
    layer: Callable[..., Any],
    currents: jax.Array,
    state: Any,
    numbers: tuple[Any, ...],
    spike: Surrogate,
    weights: jax.Array | None,
    *,
    spike_parameters: Mapping[str, jax.Array] | None = None,
    training: bool = False,
    key: jax.Array | None = None,
    record: bool = False,
    backend: Backend = "auto",
    **options: Any,
) -> tuple[Any, ...]:
    chosen = Options(**options)
    learned = dict(spike_parameters or {})
    if fused(backend, obstacle(spike, chosen, learned)):
        call = Call(layer.__name__, spike, chosen, state is not None, record)
        return run_fused(backend, call, currents, state, numbers, weights)
    draws = None if key is None else jax.random.split(key, currents.shape[0] + 1)

    def fire(x: Any, draw: Any) -> Any:
        return spike(x, spike_at_threshold=chosen.spike_at_threshold, training=training, random=draw, **learned)

    out = layer(currents, state, *numbers, fire, chosen, weights, draws, record=record)
    return out if record else out[:2]
