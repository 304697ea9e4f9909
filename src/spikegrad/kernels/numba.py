"""Fused CPU kernels: a layer over all time steps in one pass forward and one backward.

They reproduce `spikegrad.kernels.reference` bit for bit. Arrays have one column for each neuron of each sample: currents are ``(time,
columns)``, states and parameters ``(columns,)``. Columns are independent, so that blocks of them are shared out over threads; the result
does not depend on their number.

What is handed in is memory, C-contiguous and of one dtype: NumPy arrays, tensors, or whatever else knows its ``data_ptr()``. What is given
decides what is computed: with a state a layer starts from it, with places for them the parameters get gradients.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import numpy as np

from spikegrad.kernels import memory, threads
from spikegrad.kernels.call import Call
from spikegrad.kernels.compiler import Variant, compiled

Memory = Any
"""Of numbers in float32 or float64."""

_SCRATCH = 2 * 2**20
"""Bytes of scratch that a block of columns may use, about a core's second-level cache. A narrower block costs more than what it spills: its
rows are short stretches of memory, each on a page of its own."""
_BLOCKS = 4
"""Blocks that each thread should have at least, so that who is early can take over some of who is late."""
_WIDEST = 2048
"""Columns of a block at most: its rows of states and parameters should stay in a core's first-level cache."""
_SMALL = 2**17
"""Elements below which waking a second thread costs more than it saves."""
_LINE = 64
"""Bytes of a cache line, where each working row begins."""

_PASSES = 256
"""Passes that a call keeps: one for each length and size of batch."""

_STATES = {"integrator": ("v",), "leaky": ("v",), "synaptic": ("i0", "v")}
_PARAMETERS = {"integrator": ("beta",), "leaky": ("beta", "theta"), "synaptic": ("alpha", "beta", "theta")}
_LAST = {"integrator": ("w",), "leaky": ("w",), "synaptic": ("i", "w")}
_ARRIVING = {"integrator": ("arriving",), "leaky": ("arriving",), "synaptic": ("arriving_synapse", "arriving")}
_PATHS = {"integrator": ("path",), "leaky": ("path",), "synaptic": ("synapse_path", "path")}
"""The loops' names for the parts of a state, parameters, the last state, its gradients, and the gradients of the first."""


class Sizes(NamedTuple):
    """What there is to know of a layer's arrays.

    Attributes:
        dtype: ``"float32"`` or ``"float64"``.
        steps: of time.
        columns: neurons of all samples.
        threads: how many threads may work.
        uniform: whether each parameter is one number, for all columns.
        features: neurons of one sample, if they are connected.
        senders: neurons that each of them receives spikes from.
    """

    dtype: str
    steps: int
    columns: int
    threads: int = 1
    uniform: bool = False
    features: int = 0
    senders: int = 0


class Weights(NamedTuple):
    """Recurrent weights by sending and by receiving neuron, ``(senders, features)``, as the loops take them."""

    sending: Memory
    receiving: Memory


class Gradients(NamedTuple):
    """Gradients of what goes into a layer, places to fill: the currents, the given state and the parameters, if they are wanted."""

    currents: Memory
    state: tuple[Memory, ...] = ()
    parameters: tuple[Memory, ...] = ()


class Incoming(NamedTuple):
    """Gradients of what comes out of a layer: its spikes, the last state if any arrives, potentials if they were recorded."""

    spikes: Memory
    state: tuple[Memory, ...] = ()
    potentials: Memory | None = None


class _Pass(NamedTuple):
    """A kernel and its job, which lacks only where the given memory is, and where working rows and scratch.

    Attributes:
        job: its words.
        given: what is given by name, and the word that says where.
        working: words of the rest, and where it lies in `size` bytes.
        numbers: of the surrogate, to which a word points.
    """

    job: array[int]
    given: tuple[tuple[str, int], ...]
    working: tuple[tuple[int, int], ...]
    size: int
    numbers: Any


def _prepare(direction: str, call: Call, sizes: Sizes, given: tuple[str, ...]) -> _Pass:
    """The pass of a layer when memory for these names is given."""
    o, backward = call.options, direction == "backward"
    gated = call.kind == "synaptic" and o.reset == "zero" and o.reset_delay
    spiking = call.kind != "integrator"
    on = {
        "ARRIVING": "arriving" in given,
        "ATTACHED": spiking and backward and not o.detach_reset and o.reset != "none",
        "DELAYED": spiking and o.reset_delay,
        "GATED": gated,
        "GIVEN": "v" in given,
        "LEARNED": "grad_beta" in given,
        "RECORDED": spiking and ("potentials" in given or "grad_potentials" in given),
        "RECURRENT": "weights" in given,
        "SPIKE_AT_THRESHOLD": spiking and o.spike_at_threshold,
        "SUBTRACT": spiking and o.reset == "subtract",
        "UNIFORM": sizes.uniform,
        "ZERO": spiking and o.reset == "zero" and not gated,
    }
    formula = call.surrogate.structure if spiking and backward else None
    kernel = compiled(Variant(f"{call.kind}_{direction}", sizes.dtype, formula, frozenset(name for name, value in on.items() if value)))
    steps, columns, item = sizes.steps, sizes.columns, np.dtype(sizes.dtype).itemsize
    small = sizes.threads == 1 or steps * columns < _SMALL
    rows = [name for name in ("scratch", "synapses") if name in kernel.names]
    block = sizes.features
    if not block:
        share = -(-columns // (1 if small else _BLOCKS * sizes.threads))
        fits = _SCRATCH // item // (len(rows) * (steps + 1)) if rows else _WIDEST
        block = max(64, min(_WIDEST, fits, share + 63) // 64 * 64)
    workers = 1 if small else min(sizes.threads, -(-columns // block))
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
        ("currents", "spikes", "potentials", "grad_currents", "grad_spikes", "grad_potentials"), (steps, columns)
    )
    shapes |= dict.fromkeys(("weights", "back_weights"), (sizes.senders, sizes.features))
    shapes |= dict.fromkeys(("initial", "grad_initial"), (1, columns)) | dict.fromkeys(rows, (workers, steps + 1, block))
    numbers = np.array([*call.surrogate.parameters.values()], sizes.dtype)
    arguments: list[int] = []
    places: dict[str, int] = {}
    for name in kernel.names:
        places[name] = threads.ARGUMENTS + len(arguments)
        shape = shapes.get(name, (columns,))
        arguments += [0, *(shape if len(shape) > 1 else ())]
    working: list[tuple[int, int]] = []
    size = 0
    for name, place in places.items():
        if name == "numbers":
            arguments[place - threads.ARGUMENTS] = numbers.ctypes.data
        elif name not in given:
            working.append((place, size))
            size += -(-int(np.prod(shapes.get(name, (columns,)))) * item // _LINE) * _LINE
    job = threads.job(kernel.address, workers, columns, block, arguments)
    return _Pass(job, tuple((name, places[name]) for name in given if name in places), tuple(working), size, numbers)


def _address(given: Memory) -> int:
    return given.data_ptr() if hasattr(given, "data_ptr") else given.__array_interface__["data"][0]


def _run(direction: str, call: Call, sizes: Sizes, given: dict[str, Memory]) -> None:
    """Run a pass on memory given by the loops' names for it."""
    key = direction, sizes, *given
    ready: _Pass | None = call.passes.get(key)
    if ready is None:
        if len(call.passes) >= _PASSES:
            call.passes.clear()
        ready = call.passes[key] = _prepare(direction, call, sizes, tuple(given))
    job = ready.job[:]
    for name, place in ready.given:
        job[place] = _address(given[name])
    if not ready.size:
        threads.run(job)
        return
    working = memory.take(ready.size)
    for place, offset in ready.working:
        job[place] = working.address + offset
    threads.run(job)
    memory.give(working)


def _inputs(
    call: Call, currents: Memory, state: tuple[Memory, ...], parameters: tuple[Memory, ...], weights: Weights | None
) -> dict[str, Memory]:
    given = {"currents": currents, **dict(zip(_PARAMETERS[call.kind], parameters, strict=True))}
    if state:
        given.update(zip(_STATES[call.kind], state, strict=False))
    if weights is not None:
        given["initial"], given["weights"] = state[-1], weights.sending
    return given


def forward(
    call: Call,
    sizes: Sizes,
    currents: Memory,
    state: tuple[Memory, ...],
    parameters: tuple[Memory, ...],
    weights: Weights | None,
    spikes: Memory,
    last: tuple[Memory, ...],
    potentials: Memory | None = None,
) -> None:
    """See `leaky`, `synaptic` and `leaky_integrator`, the kinds, in `spikegrad.kernels.reference`.

    Args:
        call: the layer.
        sizes: of its arrays.
        currents: ``(time, columns)``.
        state: ``(v,)`` or ``(i, v)``, with recurrent weights, which need one, followed by the spikes of the step before; empty for rest.
        parameters: decays and threshold, in the order of the reference: ``(columns,)``, or one number each.
        weights: recurrent ones.
        spikes: is filled, ``(time, columns)``; of an integrator with the potentials.
        last: are filled with the last state, but for its spikes.
        potentials: is filled with the potentials before reset, if given.
    """
    given = _inputs(call, currents, state, parameters, weights)
    given["potentials" if call.kind == "integrator" else "spikes"] = spikes
    if potentials is not None:
        given["potentials"] = potentials
    names = _LAST[call.kind]
    if call.kind == "leaky" and call.options.reset == "zero" and call.options.reset_delay:
        names = ("after",)
    given.update(zip(names, last, strict=False))
    _run("forward", call, sizes, given)


def backward(
    call: Call,
    sizes: Sizes,
    currents: Memory,
    state: tuple[Memory, ...],
    parameters: tuple[Memory, ...],
    weights: Weights | None,
    spikes: Memory | None,
    incoming: Incoming,
    gradients: Gradients,
) -> None:
    """Fill the gradients of what goes into a layer from those of what comes out of it.

    The first arguments are those of `forward`; `spikes` those it filled, needed for recurrent weights only. There the last spikes are part of
    the state: its gradient must be in that of the spikes.
    """
    given = _inputs(call, currents, state, parameters, weights)
    given["grad_currents"] = gradients.currents
    given.update(zip(_ARRIVING[call.kind], incoming.state, strict=False))
    given.update(zip(_PATHS[call.kind], gradients.state, strict=False))
    given.update(zip([f"grad_{name}" for name in _PARAMETERS[call.kind]], gradients.parameters, strict=False))
    if call.kind == "integrator":
        given["grad_potentials"] = incoming.spikes
        if gradients.parameters:
            given["potentials"] = potentials = memory.empty((sizes.steps, sizes.columns), sizes.dtype)
            forward(call, sizes, currents, state, parameters, None, potentials, ())
    else:
        given["grad_spikes"] = incoming.spikes
        if incoming.potentials is not None:
            given["grad_potentials"] = incoming.potentials
    if weights is not None:
        given["back_weights"], given["spikes"], given["grad_initial"] = weights.receiving, spikes, gradients.state[-1]
    _run("backward", call, sizes, given)
