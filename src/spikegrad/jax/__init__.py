"""Spiking layers as pure functions for JAX; they run under `jit`, `vmap`, `grad`, `jvp`, `checkpoint` and inside `scan`.

`run` takes any neuron; the others are the neurons most used, by their names. On the CPU a layer runs in kernels that take all time steps at
once, bit for bit what a `jax.lax.scan` over the recorded step computes. On several devices each computes the samples that lie there, and
the neurons, where none feeds another; time is never cut, and dimensions that do not divide evenly are not either.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spikegrad import neurons
from spikegrad.errors import meant
from spikegrad.formulas.rational import ATan
from spikegrad.kernels import arguments, loop, sharding
from spikegrad.kernels.plan import Call, Connection
from spikegrad.neuron import Neuron, Reset
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array, cast

__all__ = ["leaky", "leaky_integrator", "recurrent_leaky", "recurrent_synaptic", "run", "synaptic"]

State = jax.Array | Sequence[jax.Array] | None
Backend = Literal["auto", "numba", "triton", "reference"]
_INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("numba", "triton")}
_ATAN = ATan()


def run(
    neuron: Neuron,
    currents: jax.Array | Sequence[jax.Array],
    *,
    values: Mapping[str, ArrayLike] | None = None,
    weights: jax.Array | None = None,
    state: State = None,
    record: bool | str | Sequence[str] = False,
    inhibition: bool = False,
    quantize: Callable[[jax.Array], jax.Array] | None = None,
    training: bool = False,
    key: jax.Array | None = None,
    lengths: ArrayLike | Sequence[int] | None = None,
    backend: Backend = "auto",
) -> tuple[Any, ...]:
    """A layer of any neuron over a sequence.

    Args:
        neuron: the neuron, with its numbers and options.
        currents: ``(time, batch, *features)`` or ``(time, features)``, floating point; several inputs as one tuple.
        values: arrays in place of numbers, by name, which receive gradients: of one number, or broadcasting over the features. Those of the
            surrogate are called ``"spike.slope"``; their gradient is that of the primitive.
        weights: of recurrent connections from the first output to the first input of the next step: ``(features, features)``, used as
            ``weights @ s``, or ``(features,)``, each neuron to itself.
        state: the states to start from, as they were returned, each of the shape of one step; rest if None.
        record: also return other values of the step: True for the potentials ``u``, or their names for a dict.
        inhibition: winner takes all among the features of a sample.
        quantize: a function of the state, applied where the step says `quantized`.
        training: whether a stochastic surrogate draws noise.
        key: a `jax.random.key` for that noise.
        lengths: of each sample, ``(batch,)``, whole numbers, where a batch is filled up to the longest; they may be traced. Each sample
            runs as it would by itself: the state is that at its own end, outputs and recorded values are 0 from there on, what fills up has
            no effect and a gradient of 0. By the scan.
        backend: ``"reference"`` is the scan; ``"numba"`` the fused kernels, which run on the CPU and do first derivatives in reverse mode,
            or an error that says what they cannot do; ``"triton"`` likewise those that run on GPUs of NVIDIA;
            ``"auto"`` the kernels where they can, else the scan. Forward mode and second derivatives go through
            the scan, also around a layer that runs in the kernels.

    Returns:
        ``(spikes, state)`` or ``(spikes, state, recorded)``. Outputs have the shape and dtype of the currents, a tuple of them if the
        neuron has several; states and recorded values are at least float32. One state is an array, several are a tuple with names; fed back
        spikes are the last, ``recurrent``.

    Raises:
        TypeError: an input that is no JAX array of floating point.
        ValueError: shapes that do not fit, numbers out of their range where they are known, an unknown name or backend, or
            ``backend="numba"`` or ``"triton"`` where its kernels cannot run the layer.
        NotImplementedError: forward mode or a second derivative with ``backend="numba"`` or ``"triton"``.

    Example:
        >>> import jax.numpy as jnp
        >>> from spikegrad.jax import run
        >>> from spikegrad.neurons import Adaptive
        >>> spikes, state = run(Adaptive(0.5), jnp.array([[1.5], [0.75], [0.0]]), values={"jump": jnp.array(0.2)})
        >>> spikes.ravel().tolist(), [round(part.item(), 4) for part in state]
        ([1.0, 0.0, 0.0], [0.5, 0.9025])
    """
    arguments.layer(neuron, quantize)
    surrogate, record_ = neuron.spike, neuron.record
    wanted = ("u",) if record is True else () if record is False else (record,) if isinstance(record, str) else tuple(record)
    if unknown := [name for name in wanted if name not in record_.recorded]:
        known = ", ".join(record_.recorded) or "nothing"
        raise ValueError(f"record={unknown[0]!r}: the step of {type(neuron).__name__} names {known}")
    if backend not in get_args(Backend):
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")
    given = arguments.inputs(neuron.inputs, currents, "jax")
    like = arguments.working(given[0])
    numbers, learned = _numbers(neuron, dict(values or {}), like)
    given, numbers, learned, weights, state, key = sharding.alike((given, numbers, learned, weights, state, key))
    like = arguments.working(given[0])
    connection: Connection = "none"
    if weights is not None:
        arguments.weights(weights, like)
        weights = weights.astype(like.dtype)
        connection = "one-to-one" if weights.ndim == 1 else "all-to-all"
        numbers |= {"weight": weights} if weights.ndim == 1 else {}
    call = Call(record_, surrogate.structure, wanted, False, connection)
    plan = call.plan
    parameters = plan.computed(numbers, like)
    names = (*neuron.states, *(("recurrent",) if weights is not None else ()))
    rest = plan.rested(numbers | {name: getattr(neuron, name) for name in neuron.states}, like)
    start: tuple[ArrayLike, ...] = tuple(rest.values()) if state is None else arguments.state(names, state, like)
    reason = _obstacle(backend, connection, surrogate, inhibition, quantize)
    if lengths is not None:
        lengths, reason = _lengths(lengths, like), reason or "its samples have lengths of their own"
    if backend in _INSTALLED and reason is not None:
        raise ValueError(f"backend={backend!r} cannot run this layer: {reason}; use backend='auto' or 'reference'")
    if backend != "reference" and reason is None:
        from spikegrad.kernels import jax as kernels

        same = tuple(cast(x, given[0]) for x in given)
        connections = weights if connection == "all-to-all" else None
        start = (*start, 0.0) if state is None and connections is not None else start
        found = kernels.run(call, surrogate, same, start, parameters, learned, connections, backend=backend)
    else:
        if state is None:
            fed = {"recurrent": 0.0} if connection == "all-to-all" else {}
            start = arguments.filled(rest | fed, like)

        def fire(x: jax.Array, spike_at_threshold: bool, draw: jax.Array | None) -> jax.Array:
            return surrogate(x, spike_at_threshold=spike_at_threshold, training=training, random=draw, **learned)

        draws = None if key is None else jax.random.split(key, given[0].shape[0] + 1)
        found = loop.run(
            call,
            fire,
            tuple(cast(x, like) for x in given),
            start,
            parameters,
            weights if connection == "all-to-all" else None,
            quantize=quantize,
            inhibition=inhibition,
            noisy=surrogate.stochastic and training,
            draws=draws,
            rested=state is None,
            lengths=lengths,
        )
    outputs, last, recorded = found
    outputs = tuple(cast(x, given[0]) for x in outputs)
    made = outputs[0] if len(outputs) == 1 else outputs
    after = last[0] if len(last) == 1 else arguments.state_type(f"{type(neuron).__name__}State", names)(*last)
    if record is False:
        return made, after
    return made, after, recorded[0] if record is True or isinstance(record, str) else dict(zip(wanted, recorded, strict=True))


def _numbers(neuron: Neuron, values: dict[str, ArrayLike], like: jax.Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """The numbers of the neuron, arrays where they are given, and the arrays in place of numbers of its surrogate."""
    known = (*neuron.numbers, *(f"spike.{name}" for name in neuron.spike.numbers))
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{type(neuron).__name__} has no number {name!r}{meant(name, known)}")
        of_spike = name.startswith("spike.")
        if of_spike:
            neuron.spike.require_learnable(name[6:])
        within = (neuron.spike if of_spike else neuron).numbers[name[6:] if of_spike else name]
        arguments.real(f"`{name}`", value)
        if not isinstance(value, jax.core.Tracer) and not np.all(within.holds(np.asarray(value))):
            raise ValueError(f"`{name}` must be {within.words}, got {value}")
    arrays = {name: jnp.asarray(value, like.dtype) for name, value in values.items()}
    numbers: dict[str, Array] = neuron.parameters | {name: x for name, x in arrays.items() if not name.startswith("spike.")}
    arguments.numbers(arrays, like)
    if not any(isinstance(x, jax.core.Tracer) for x in values.values()):  # by NumPy: what JAX computes while it traces is not known yet
        neuron.bind({name: np.asarray(x) for name, x in values.items()}).require_valid()
    return numbers, {name[6:]: x for name, x in arrays.items() if name.startswith("spike.")}


def _lengths(lengths: ArrayLike | Sequence[int], like: jax.Array) -> jax.Array:
    """The lengths of samples, checked as far as they are known."""
    if not isinstance(lengths, jax.core.Tracer):
        return jnp.asarray(arguments.ends(lengths, like), int)
    if like.ndim < 3 or lengths.shape != like.shape[1:2] or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"`lengths` must be whole numbers, one for each sample of currents (time, batch, *features), got {lengths.dtype} of shape "
            f"{lengths.shape} for currents of shape {like.shape}"
        )
    return lengths


def _obstacle(
    backend: Backend, connection: Connection, surrogate: Surrogate, inhibition: bool, quantize: Callable[[jax.Array], jax.Array] | None
) -> str | None:
    """Why the kernels of a backend cannot run a layer with these, or None."""
    platform, interpreted = jax.default_backend(), os.environ.get("TRITON_INTERPRET") == "1"
    on_card = backend == "triton" or (backend == "auto" and platform == "gpu" and not interpreted)
    for name in ("numba", "triton")[: 1 + on_card]:  # what Numba compiles launches Triton's kernels
        if not _INSTALLED[name]:
            return f"{name.capitalize()} is not installed (`pip install {name}`)"
    if not on_card and platform != "cpu":
        return f"JAX runs on {platform}"
    if backend == "triton" and platform != ("cpu" if interpreted else "gpu"):
        where = f"JAX runs on {platform}{', and TRITON_INTERPRET=1 is set' if interpreted else ''}"
        return f"{where}; Triton's kernels run on GPUs, and on the CPU with TRITON_INTERPRET=1, slowly, to be tested"
    if on_card and connection == "all-to-all":
        return "its neurons are connected all to all"
    if surrogate.stochastic:
        return f"{type(surrogate).__name__} draws noise"
    if type(surrogate).__call__ is not Surrogate.__call__:
        return f"{type(surrogate).__name__} has a __call__ of its own"
    if inhibition:
        return "it has inhibition"
    return "its state is quantised" if quantize is not None else None


class Keywords(TypedDict, total=False):
    """Options of the layers below; those that `run` has too are described there.

    Attributes:
        reset: ``"subtract"`` the threshold, set the potential to ``"zero"``, or ``"none"``.
        reset_delay: let the reset act one step later.
        detach_reset: keep gradients from flowing through the spike that resets.
        spike_at_threshold: whether a potential equal to the threshold spikes.
        scale_input: multiply the input by ``1 - beta``.
        inhibition: see `run`.
        quantize: see `run`.
        spike_parameters: arrays in place of the surrogate's numbers, by name, which receive gradients.
        training: see `run`.
        key: see `run`.
        lengths: see `run`.
        record: also return the potentials before reset.
        backend: see `run`.
    """

    reset: Reset
    reset_delay: bool
    detach_reset: bool
    spike_at_threshold: bool
    scale_input: bool
    inhibition: bool
    quantize: Callable[[jax.Array], jax.Array] | None
    spike_parameters: Mapping[str, jax.Array]
    training: bool
    key: jax.Array | None
    lengths: ArrayLike | Sequence[int] | None
    record: bool
    backend: Backend


_OF_NEURON = ("reset", "reset_delay", "detach_reset", "spike_at_threshold", "scale_input")


def _named(
    kind: type[Neuron],
    currents: jax.Array,
    numbers: Mapping[str, ArrayLike],
    weights: jax.Array | None,
    state: State,
    options: dict[str, Any],
) -> tuple[Any, ...]:
    """`run` for a neuron whose numbers are floats or arrays."""
    own = {name: options.pop(name) for name in _OF_NEURON if name in options}
    spike = options.pop("spike", None)
    arrays = {name: value for name, value in numbers.items() if not isinstance(value, int | float)}
    values = arrays | {f"spike.{name}": value for name, value in options.pop("spike_parameters", {}).items()}
    floats = {name: 0.5 if name in arrays else value for name, value in numbers.items()}
    neuron = kind(**floats, **own, **({} if spike is None else {"spike": spike}))
    return run(neuron, currents, values=values, weights=weights, state=state, **options)


def leaky(
    currents: jax.Array,
    beta: ArrayLike,
    threshold: ArrayLike = 1.0,
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
    return _named(neurons.Leaky, currents, {"beta": beta, "threshold": threshold}, None, state, {"spike": spike, **options})


def recurrent_leaky(
    currents: jax.Array,
    weights: jax.Array,
    beta: ArrayLike,
    threshold: ArrayLike = 1.0,
    spike: Surrogate = _ATAN,
    *,
    state: tuple[jax.Array, jax.Array] | None = None,
    **options: Unpack[Keywords],
) -> tuple[Any, ...]:
    """`leaky` neurons that also receive their own spikes of the step before.

    `weights` of shape ``(features, features)`` connect all to all, as ``weights @ s``; of shape ``(features,)`` each neuron to itself. The
    state is ``(v, recurrent)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from spikegrad.jax import recurrent_leaky
        >>> spikes, state = recurrent_leaky(jnp.array([[1.0], [0.0], [0.0]]), weights=jnp.ones(1), beta=0.5)
        >>> spikes.ravel().tolist(), state._fields
        ([1.0, 1.0, 1.0], ('v', 'recurrent'))
    """
    return _named(neurons.Leaky, currents, {"beta": beta, "threshold": threshold}, weights, state, {"spike": spike, **options})


def synaptic(
    currents: jax.Array,
    alpha: ArrayLike,
    beta: ArrayLike,
    threshold: ArrayLike = 1.0,
    spike: Surrogate = _ATAN,
    *,
    state: tuple[jax.Array, jax.Array] | None = None,
    **options: Unpack[Keywords],
) -> tuple[Any, ...]:
    """`leaky` neurons with an exponential synapse, ``i[t] = alpha i[t-1] + I[t]``; the state is ``(i, v)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from spikegrad.jax import synaptic
        >>> spikes, state = synaptic(jnp.array([[0.75], [0.0], [0.0]]), alpha=0.5, beta=1.0)
        >>> spikes.ravel().tolist(), [part.item() for part in state]
        ([0.0, 1.0, 0.0], [0.1875, 0.3125])
    """
    numbers = {"alpha": alpha, "beta": beta, "threshold": threshold}
    return _named(neurons.Synaptic, currents, numbers, None, state, {"spike": spike, **options})


def recurrent_synaptic(
    currents: jax.Array,
    weights: jax.Array,
    alpha: ArrayLike,
    beta: ArrayLike,
    threshold: ArrayLike = 1.0,
    spike: Surrogate = _ATAN,
    *,
    state: tuple[jax.Array, jax.Array, jax.Array] | None = None,
    **options: Unpack[Keywords],
) -> tuple[Any, ...]:
    """`synaptic` neurons that also receive their own spikes, as in `recurrent_leaky`; the state is ``(i, v, recurrent)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from spikegrad.jax import recurrent_synaptic
        >>> spikes, state = recurrent_synaptic(jnp.ones((3, 2)), jnp.zeros((2, 2)), alpha=0.5, beta=0.5)
        >>> spikes.shape, state._fields
        ((3, 2), ('i', 'v', 'recurrent'))
    """
    numbers = {"alpha": alpha, "beta": beta, "threshold": threshold}
    return _named(neurons.Synaptic, currents, numbers, weights, state, {"spike": spike, **options})


def leaky_integrator(
    currents: jax.Array, beta: ArrayLike, *, state: jax.Array | None = None, backend: Backend = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Leaky integrators, which do not spike: ``u[t] = beta u[t-1] + I[t]``. Returns the potentials and the last of them.

    Example:
        >>> import jax.numpy as jnp
        >>> from spikegrad.jax import leaky_integrator
        >>> potentials, last = leaky_integrator(jnp.array([[1.0], [0.0], [1.0]]), beta=0.5)
        >>> potentials.ravel().tolist(), last.item()
        ([1.0, 0.5, 1.25], 1.25)
    """
    return _named(neurons.LeakyIntegrator, currents, {"beta": beta}, None, state, {"backend": backend})
