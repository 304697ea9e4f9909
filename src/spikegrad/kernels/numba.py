"""Fused CPU kernels: a layer over all time steps in one pass forward and one backward, on NumPy arrays.

They reproduce `spikegrad.kernels.reference` bit for bit. Arrays have one column for each neuron of each sample: currents are ``(time,
columns)``, states and parameters ``(columns,)``.

Columns are independent, so they are split over a small pool of threads: Numba's own pools do not survive a fork, or abort when two threads
use them. The kernels release the interpreter's lock, and the result does not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikegrad.kernels import memory
from spikegrad.kernels.compiler import Variant, compiled
from spikegrad.kernels.reference import Options
from spikegrad.surrogate import Surrogate

Floats = NDArray[Any]
"""float32 or float64, C-contiguous."""

_SCRATCH = 96 * 1024
"""Elements of scratch that a block of columns may use: less than a core's second-level cache."""
_SMALL = 32 * 1024
"""Below this many elements a second thread costs more than it saves."""

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork


@dataclass(frozen=True)
class Layer:
    """What a pass needs to know of a layer besides its arrays.

    Attributes:
        options: how it fires and resets; inhibition and quantisation stay with the reference.
        started: whether a state was given; a layer at rest has no spikes to reset.
        features: neurons of one sample, if they are connected.
        threads: how many threads may work.
    """

    options: Options
    started: bool = False
    features: int = 0
    threads: int = 1


class Result(NamedTuple):
    """Spikes ``(time, columns)``, the state after the last step, and potentials before reset if they were recorded."""

    spikes: Floats
    state: tuple[Floats, ...]
    potentials: Floats


class Gradients(NamedTuple):
    """Gradients of the currents, of the initial state, and of the parameters by column: beta and threshold, for Synaptic alpha first.

    Those of the parameters are missing unless they were asked for.
    """

    currents: Floats
    state: tuple[Floats, ...]
    parameters: tuple[Floats, ...]


class Incoming(NamedTuple):
    """Gradients that arrive at a layer's outputs; those of the potentials are None if these were not recorded."""

    spikes: Floats
    state: tuple[Floats, ...]
    potentials: Floats | None


def _switches(layer: Layer, kind: str, **given: bool) -> frozenset[str]:
    """The options of `spikegrad.kernels.loops` that are on for a layer, and those given by name."""
    o = layer.options
    gated = kind == "synaptic" and o.reset == "zero" and o.reset_delay
    on = {
        "ATTACHED": not o.detach_reset and o.reset != "none",
        "DELAYED": o.reset_delay,
        "GATED": gated,
        "SPIKE_AT_THRESHOLD": o.spike_at_threshold,
        "SUBTRACT": o.reset == "subtract",
        "ZERO": o.reset == "zero" and not gated,
        **given,
    }
    return frozenset(name for name, value in on.items() if value)


def _run(kernel: Callable[..., None], layer: Layer, shape: tuple[int, ...], rows: int, *arguments: Any) -> None:
    """Call a kernel on all columns, a contiguous share of the blocks for each thread."""
    global _pool
    steps, columns = shape
    block = layer.features or max(64, min(2048, _SCRATCH // max(1, rows * steps) // 64 * 64))
    blocks = -(-columns // block)
    threads = min(layer.threads, blocks) if steps * columns >= _SMALL else 1
    edges = [min(columns, blocks * k // max(1, threads) * block) for k in range(threads)] + [columns]
    if threads > 1 and (_pool is None or _pool._max_workers < threads - 1):  # pyright: ignore[reportPrivateUsage]
        _pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="spikegrad")
    futures = [_pool.submit(kernel, edges[k], edges[k + 1], block, *arguments) for k in range(1, threads)] if _pool else []
    kernel(edges[0], edges[1], block, *arguments)
    for future in futures:
        future.result()


def _fired(x: Floats, layer: Layer) -> Floats:
    fires = x >= 0 if layer.options.spike_at_threshold else x > 0
    return np.where(x == x, fires.astype(x.dtype), x)


class _Start(NamedTuple):
    """What the first step takes over: for Leaky w and lag, for Synaptic i, w, lag and gate; and the spikes before it."""

    carries: tuple[Floats, ...]
    spikes: Floats


def _start(state: tuple[Floats, ...], synapses: int, threshold: Floats, layer: Layer, on: frozenset[str]) -> _Start:
    v, unused = state[synapses], np.empty(0, threshold.dtype)
    spikes = unused
    if len(state) > synapses + 1:
        spikes = state[-1]
    elif "DELAYED" in on:
        spikes = _fired(v - threshold, layer) if layer.started else np.zeros_like(v)
    w = (1 - spikes) * v if {"ZERO", "DELAYED"} <= on else v.copy()
    lag = threshold * spikes if {"SUBTRACT", "DELAYED"} <= on else unused
    gate = 1 - spikes if "GATED" in on else unused
    return _Start((state[0].copy(), w, lag, gate) if synapses else (w, lag), spikes)


def _weights(weights: Floats | None, dtype: Any) -> tuple[Floats, Floats]:
    """Recurrent weights by sending and by receiving neuron, as the loops take them."""
    if weights is None:
        none = np.empty((0, 0), dtype)
        return none, none
    if weights.ndim == 1:
        return weights[None], weights[None]
    return np.ascontiguousarray(weights.T), np.ascontiguousarray(weights)


def forward(
    kind: str,
    currents: Floats,
    state: tuple[Floats, ...],
    parameters: tuple[Floats, ...],
    layer: Layer,
    weights: Floats | None = None,
    *,
    record: bool = False,
    out: tuple[Floats, ...] = (),
) -> Result:
    """See `leaky` and `synaptic`, the kinds, in `spikegrad.kernels.reference`; parameters are decays and threshold in their order there.

    The state is ``(v,)`` or ``(i, v)``, with recurrent weights followed by the spikes of the step before. The spikes, and the potentials if
    they are recorded, are written into the arrays of `out` if given.
    """
    dtype, synapses = currents.dtype, len(parameters) - 2
    on = _switches(layer, kind, RECURRENT=weights is not None, RECORDED=record)
    start = _start(state, synapses, parameters[-1], layer, on)
    spikes = out[0] if out else memory.empty(currents.shape, dtype)
    potentials = out[1] if out and record else memory.empty((len(currents) if record else 1, currents.shape[1]), dtype)
    _run(
        compiled(Variant(f"{kind}_forward", dtype.name, None, on)), layer, currents.shape, 0,
        currents, *start.carries, *parameters, _weights(weights, dtype)[0], start.spikes[None], spikes, potentials,
    )  # fmt: skip
    if not len(currents):
        return Result(spikes, tuple(part.copy() for part in state), potentials)
    # A delayed reset to zero has not acted yet on the potential after the last step.
    v = potentials[-1].copy() if {"ZERO", "DELAYED"} <= on else start.carries[synapses]
    last = (*start.carries[:synapses], v)
    return Result(spikes, last if weights is None else (*last, spikes[-1].copy()), potentials)


def backward(
    kind: str,
    currents: Floats,
    state: tuple[Floats, ...],
    parameters: tuple[Floats, ...],
    layer: Layer,
    weights: Floats | None,
    spikes: Floats | None,
    surrogate: Surrogate,
    incoming: Incoming,
    *,
    learned: bool,
    out: Floats | None = None,
) -> Gradients:
    """Gradients of `forward`.

    `spikes` are those of the forward pass, needed for recurrent weights only. The parameters have gradients if `learned`. That of the
    currents is written into `out` if given.
    """
    dtype, synapses, steps = currents.dtype, len(parameters) - 2, len(currents)
    recorded = incoming.potentials is not None
    on = _switches(layer, kind, RECURRENT=weights is not None, RECORDED=recorded, LEARNED=learned)
    delayed = "DELAYED" in on
    start = _start(state, synapses, parameters[-1], layer, on)
    grad = memory.empty(currents.shape, dtype) if out is None else out
    paths = tuple(part.copy() for part in incoming.state[: synapses + 1])
    path = paths[-1]
    unused = np.empty(0, dtype)
    downstream = np.zeros_like(path) if delayed else path.copy()
    dropped = np.zeros_like(path) if "GATED" in on else unused
    grad_feedback = unused if weights is None else np.zeros_like(path)
    carried = np.zeros_like(path) if learned else unused
    grads: list[Floats] = [np.zeros_like(path) for _ in parameters] if learned else []
    if not steps:  # the state passes through
        return Gradients(grad, tuple(part.copy() for part in incoming.state), tuple(grads))
    grad_spikes = incoming.spikes
    if weights is not None:  # the last spikes are part of the state
        grad_spikes = grad_spikes.copy()
        grad_spikes[-1:] += incoming.state[-1]
    _run(
        compiled(Variant(f"{kind}_backward", dtype.name, surrogate.structure, on)), layer, currents.shape, 1 + synapses,
        currents, *(carry.copy() for carry in start.carries), *parameters, *_weights(weights, dtype), start.spikes[None],
        np.empty((0, 0), dtype) if spikes is None else spikes, grad_spikes,
        incoming.potentials if recorded else np.empty((0, 0), dtype),
        *paths, downstream, *(dropped,) * synapses, carried, grad, *(grads or [unused] * len(parameters)), grad_feedback[None],
        tuple(map(dtype.type, surrogate.parameters.values())),
    )  # fmt: skip
    w, threshold = start.carries[synapses], parameters[-1]
    if learned:
        grads[-2][:] += carried * w
    if not delayed or not (layer.started or weights is not None):
        into = (*paths, grad_feedback)
        return Gradients(grad, into if weights is not None else paths, tuple(grads))
    # The reset of the given state, which acts on the first step.
    v, s = state[synapses], start.spikes
    through, lost = np.zeros_like(v), np.zeros_like(v)
    if "SUBTRACT" in on:
        through, lost = threshold * downstream, s * downstream
    elif "ZERO" in on:
        through, path = v * path, (1 - s) * path
    elif "GATED" in on:
        through = dropped
    through = -through if "ATTACHED" in on else np.zeros_like(v)
    decided = np.zeros_like(v) if weights is not None else through * surrogate.derivative(v - threshold)
    if learned:
        grads[-1][:] -= lost + decided
    into = (*paths[:-1], path + decided)
    return Gradients(grad, into if weights is None else (*into, grad_feedback + through), tuple(grads))


def leaky_integrator(
    currents: Floats, state: Floats, beta: Floats, threads: int = 1, *, out: Floats | None = None
) -> tuple[Floats, Floats]:
    """See `spikegrad.kernels.reference.leaky_integrator`; the potentials are written into `out` if given."""
    potentials, v = memory.empty(currents.shape, currents.dtype) if out is None else out, state.copy()
    kernel = compiled(Variant("integrator_forward", currents.dtype.name))
    _run(kernel, Layer(Options(), threads=threads), currents.shape, 0, currents, v, beta, potentials)
    return potentials, v


def leaky_integrator_backward(
    potentials: Floats | None,
    state: Floats,
    beta: Floats,
    grad_potentials: Floats,
    grad_state: Floats,
    threads: int = 1,
    *,
    out: Floats | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Gradients of the currents, the initial state and beta (by column; zero without `potentials`, the output of the forward pass)."""
    grad, path = memory.empty(grad_potentials.shape, grad_potentials.dtype) if out is None else out, grad_state.copy()
    carried, grad_beta = np.zeros_like(path), np.zeros_like(path)
    kernel = compiled(Variant("integrator_backward", grad.dtype.name, None, frozenset({"LEARNED"} if potentials is not None else ())))
    given = np.empty((0, 0), grad.dtype) if potentials is None else potentials
    _run(kernel, Layer(Options(), threads=threads), grad.shape, 0, given, beta, grad_potentials, path, carried, grad, grad_beta)
    return grad, path, grad_beta + carried * state
