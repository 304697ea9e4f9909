"""Fused CPU kernels: a layer over all time steps in one pass forward and one backward, on NumPy arrays.

They reproduce `spikegrad.kernels.reference` bit for bit. Arrays have one column for each neuron of each sample: currents are ``(time,
columns)``, states and parameters ``(columns,)``. Columns are independent, so that blocks of them are shared out over threads, which release
the interpreter's lock; the result does not depend on their number.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikegrad.kernels import memory, threads
from spikegrad.kernels.compiler import Kernel, Variant, compiled
from spikegrad.kernels.reference import Options
from spikegrad.surrogate import Surrogate
from spikegrad.trace import Record

Floats = NDArray[Any]
"""float32 or float64, C-contiguous."""

_SCRATCH = 2 * 2**20
"""Bytes of scratch that a block of columns may use, about a core's second-level cache. A narrower block costs more than what it spills: its
rows are short stretches of memory, each on a page of its own."""
_BLOCKS = 4
"""Blocks that each thread should have at least, so that who is early can take over some of who is late."""
_WIDEST = 2048
"""Columns of a block at most: its rows of states and parameters should stay in a core's first-level cache."""
_SMALL = 2**17
"""Elements below which waking a second thread costs more than it saves."""


class Layer(NamedTuple):
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
    potentials: Floats | None


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


@functools.lru_cache(maxsize=1024)
def _kernel(entry: str, dtype: np.dtype[Any], options: Options, formula: Record | None, **given: bool) -> tuple[Kernel, frozenset[str]]:
    """The kernel of a layer with these options, and the switches of `spikegrad.kernels.loops` that are on; further ones by name."""
    o = options
    gated = entry.startswith("synaptic") and o.reset == "zero" and o.reset_delay
    on = {
        "ATTACHED": not o.detach_reset and o.reset != "none",
        "DELAYED": o.reset_delay,
        "GATED": gated,
        "SPIKE_AT_THRESHOLD": o.spike_at_threshold,
        "SUBTRACT": o.reset == "subtract",
        "ZERO": o.reset == "zero" and not gated,
        **given,
    }
    switches = frozenset(name for name, value in on.items() if value)
    return compiled(Variant(entry, dtype.name, formula, switches)), switches


def _run(kernel: Kernel, layer: Layer, steps: int, columns: int, given: dict[str, Any]) -> None:
    """Call a kernel on all columns with those of the given arrays that it takes."""
    names = kernel.names
    small = layer.threads == 1 or steps * columns < _SMALL
    rows = [name for name in ("scratch", "synapses") if name in names]
    block = layer.features
    if not block:
        share = -(-columns // (1 if small else _BLOCKS * layer.threads))
        fits = _SCRATCH // given["beta"].itemsize // (len(rows) * (steps + 1)) if rows else _WIDEST
        block = max(64, min(_WIDEST, fits, share + 63) // 64 * 64)
    workers = 1 if small else min(layer.threads, -(-columns // block))
    for name in rows:
        given[name] = memory.empty((workers, steps + 1, block), given["beta"].dtype)
    arguments: list[int] = []
    for name in names:
        array = given[name]
        arguments.append(array.__array_interface__["data"][0])
        if array.ndim > 1:
            arguments.extend(array.shape)
    threads.run(kernel.address, workers, columns, block, arguments)


def _fired(x: Floats, layer: Layer) -> Floats:
    fires = x >= 0 if layer.options.spike_at_threshold else x > 0
    return np.where(x == x, fires.astype(x.dtype), x)


def _start(state: tuple[Floats, ...], synapses: int, threshold: Floats, layer: Layer, on: frozenset[str]) -> dict[str, Floats]:
    """What the first step takes over: w and lag, for Synaptic also i and gate; and the `spikes` before it, if any matter."""
    v = state[synapses]
    given = {"i": state[0].copy()} if synapses else {}
    if len(state) > synapses + 1:
        given["spikes"] = state[-1]
    elif "DELAYED" in on:
        given["spikes"] = _fired(v - threshold, layer) if layer.started else np.zeros_like(v)
    delayed = "DELAYED" in on
    given["w"] = (1 - given["spikes"]) * v if delayed and "ZERO" in on else v.copy()
    if delayed and "SUBTRACT" in on:
        given["lag"] = threshold * given["spikes"]
    if "GATED" in on:
        given["gate"] = 1 - given["spikes"]
    return given


def _parameters(parameters: tuple[Floats, ...]) -> dict[str, Floats]:
    names = ("beta", "theta") if len(parameters) == 2 else ("alpha", "beta", "theta")
    return dict(zip(names, parameters, strict=True))


def _weights(weights: Floats | None) -> dict[str, Floats]:
    """Recurrent weights by sending and by receiving neuron, as the loops take them."""
    if weights is None:
        return {}
    if weights.ndim == 1:
        return {"weights": weights[None], "back_weights": weights[None]}
    return {"weights": np.ascontiguousarray(weights.T), "back_weights": np.ascontiguousarray(weights)}


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
    dtype, synapses, (steps, columns) = currents.dtype, len(parameters) - 2, currents.shape
    recurrent = weights is not None
    kernel, on = _kernel(f"{kind}_forward", dtype, layer.options, None, RECURRENT=recurrent, RECORDED=record)
    start = _start(state, synapses, parameters[-1], layer, on)
    spikes = out[0] if out else memory.empty(currents.shape, dtype)
    given = {**start, **_parameters(parameters), **_weights(weights), "currents": currents}
    if recurrent:
        given["initial"] = start["spikes"][None]
    given["spikes"] = spikes
    if "potentials" in kernel.names:
        given["potentials"] = out[1] if out and record else memory.empty((steps if record else 1, columns), dtype)
    potentials = given.get("potentials")
    _run(kernel, layer, steps, columns, given)
    if not steps:
        return Result(spikes, tuple(part.copy() for part in state), potentials if record else None)
    # A delayed reset to zero has not acted yet on the potential after the last step.
    v = given["w"] if potentials is None or not {"ZERO", "DELAYED"} <= on else potentials[-1].copy()
    last = (given["i"], v) if synapses else (v,)
    return Result(spikes, (*last, spikes[-1].copy()) if recurrent else last, potentials if record else None)


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
    dtype, synapses, (steps, columns) = currents.dtype, len(parameters) - 2, currents.shape
    recurrent = weights is not None
    kernel, on = _kernel(
        f"{kind}_backward", dtype, layer.options, surrogate.structure,
        RECURRENT=recurrent, RECORDED=incoming.potentials is not None, LEARNED=learned,
    )  # fmt: skip
    delayed = "DELAYED" in on
    start = _start(state, synapses, parameters[-1], layer, on)
    grad = memory.empty(currents.shape, dtype) if out is None else out
    paths = tuple([part.copy() for part in incoming.state[: synapses + 1]])
    path = paths[-1]
    names = _parameters(parameters)
    grads = {f"grad_{name}": np.zeros(columns, dtype) for name in names} if learned else {}
    if not steps:  # the state passes through
        return Gradients(grad, tuple(part.copy() for part in incoming.state), tuple(grads.values()))
    given: dict[str, Any] = {**start, **names, **_weights(weights), **grads, "currents": currents, "path": path, "grad_currents": grad}
    given["numbers"] = _numbers(surrogate, dtype)
    given["grad_spikes"], given["grad_potentials"] = incoming.spikes, incoming.potentials
    if synapses:
        given["synapse_path"] = paths[0]
    if learned:
        given["w"], given["carried"] = start["w"].copy(), np.zeros(columns, dtype)
    if "downstream" in kernel.names:
        given["downstream"] = np.zeros(columns, dtype) if delayed else path.copy()
    if "GATED" in on:
        given["dropped"] = np.zeros(columns, dtype)
    if "initial" in kernel.names:
        given["initial"] = start["spikes"][None]
    grad_feedback = np.zeros(columns if recurrent else 0, dtype)
    if recurrent:  # the last spikes are part of the state
        given["spikes"], given["grad_initial"] = spikes, grad_feedback[None]
        given["grad_spikes"] = incoming.spikes.copy()
        given["grad_spikes"][-1:] += incoming.state[-1]
    _run(kernel, layer, steps, columns, given)
    if learned:
        grads["grad_beta"] += given["carried"] * start["w"]
    if not delayed or not (layer.started or recurrent):
        return Gradients(grad, (*paths, grad_feedback) if recurrent else paths, tuple(grads.values()))
    # The reset of the given state, which acts on the first step.
    v, s, threshold = state[synapses], start["spikes"], parameters[-1]
    through, lost = np.zeros(columns, dtype), np.zeros(columns, dtype)
    if "SUBTRACT" in on and "downstream" in given:
        through, lost = threshold * given["downstream"], s * given["downstream"]
    elif "ZERO" in on:
        through, path = v * path, (1 - s) * path
    elif "GATED" in on:
        through = given["dropped"]
    through = -through if "ATTACHED" in on else np.zeros(columns, dtype)
    decided = np.zeros(columns, dtype) if recurrent else through * surrogate.derivative(v - threshold)
    if learned:
        grads["grad_theta"] -= lost + decided
    into = (*paths[:-1], path + decided)
    return Gradients(grad, (*into, grad_feedback + through) if recurrent else into, tuple(grads.values()))


@functools.lru_cache(maxsize=1024)
def _numbers(surrogate: Surrogate, dtype: np.dtype[Any]) -> Floats:
    """The surrogate's numbers as the kernels take them."""
    return np.array([*surrogate.parameters.values()], dtype)


def leaky_integrator(
    currents: Floats, state: Floats, beta: Floats, workers: int = 1, *, out: Floats | None = None
) -> tuple[Floats, Floats]:
    """See `spikegrad.kernels.reference.leaky_integrator`; the potentials are written into `out` if given."""
    potentials, v = memory.empty(currents.shape, currents.dtype) if out is None else out, state.copy()
    kernel = compiled(Variant("integrator_forward", currents.dtype.name))
    given = {"currents": currents, "v": v, "beta": beta, "potentials": potentials}
    _run(kernel, Layer(Options(), threads=workers), len(currents), len(v), given)
    return potentials, v


def leaky_integrator_backward(
    potentials: Floats | None,
    state: Floats,
    beta: Floats,
    grad_potentials: Floats,
    grad_state: Floats,
    workers: int = 1,
    *,
    out: Floats | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Gradients of the currents, the initial state and beta (by column; zero without `potentials`, the output of the forward pass)."""
    grad, path = memory.empty(grad_potentials.shape, grad_potentials.dtype) if out is None else out, grad_state.copy()
    carried, grad_beta = np.zeros_like(path), np.zeros_like(path)
    kernel = compiled(Variant("integrator_backward", grad.dtype.name, None, frozenset({"LEARNED"} if potentials is not None else ())))
    given = {
        "potentials": potentials, "beta": beta, "grad_potentials": grad_potentials, "path": path, "carried": carried,
        "grad_currents": grad, "grad_beta": grad_beta,
    }  # fmt: skip
    _run(kernel, Layer(Options(), threads=workers), len(grad), len(path), given)
    return grad, path, grad_beta + carried * state
