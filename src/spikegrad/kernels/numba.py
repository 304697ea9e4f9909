"""Fused CPU kernels: a layer over all time steps in one pass forward and one backward.

They reproduce `spikegrad.kernels.reference` bit for bit. Arrays have one column for each neuron of each sample: currents are ``(time,
columns)``, states and parameters ``(columns,)``. Columns are independent, so that blocks of them are shared out over threads; the result
does not depend on their number.

What is handed in is memory, C-contiguous and of one dtype: NumPy arrays, tensors, or whatever else knows its ``data_ptr()``. What is given
decides what is computed: with a state a layer starts from it, with places for them the parameters get gradients.
"""

from __future__ import annotations

import math
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

_LAYERS = 256
"""Layers that a call keeps: one for each length and size of batch."""

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
        numbers: decays and threshold where each is one number for all columns; else they are given.
        features: neurons of one sample, if they are connected.
        senders: neurons that each of them receives spikes from.
    """

    dtype: str
    steps: int
    columns: int
    threads: int = 1
    numbers: tuple[float, ...] = ()
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
        places: the words that say where the given memory is; those of what the kernel has no use for are past the job's end.
        working: words of the rest, and where it lies in `size` bytes.
        numbers: of the layer and of the surrogate, to which words point.
    """

    job: array[int]
    places: tuple[int, ...]
    working: tuple[tuple[int, int], ...]
    size: int
    numbers: dict[str, Any]


class Layer:
    """A layer whose arrays have these sizes. It keeps what passes have in common; ask `layer` for it.

    Attributes:
        call: the layer.
        sizes: of its arrays.
        last: the loops' names for the parts of the last state.
    """

    def __init__(self, call: Call, sizes: Sizes) -> None:
        self.call, self.sizes = call, sizes
        o = call.options
        self.last = ("after",) if call.kind == "leaky" and o.reset == "zero" and o.reset_delay else _LAST[call.kind]
        self._passes: dict[tuple[str, ...], _Pass] = {}

    def run(self, direction: str, given: dict[str, Memory]) -> None:
        """Run a pass on memory given by the loops' names for it."""
        key = direction, *given
        ready = self._passes.get(key)
        if ready is None:
            ready = self._passes[key] = self._prepare(direction, tuple(given))
        job = ready.job[:]
        for place, memory_of in zip(ready.places, given.values(), strict=True):
            job[place] = memory_of.data_ptr() if hasattr(memory_of, "data_ptr") else memory_of.__array_interface__["data"][0]
        if not ready.size:
            threads.run(job)
            return
        working = memory.take(ready.size)
        for place, offset in ready.working:
            job[place] = working.address + offset
        threads.run(job)
        memory.give(working)

    def _prepare(self, direction: str, given: tuple[str, ...]) -> _Pass:
        """The pass when memory for these names is given."""
        call, sizes, o, backward = self.call, self.sizes, self.call.options, direction == "backward"
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
            "UNIFORM": bool(sizes.numbers),
            "ZERO": spiking and o.reset == "zero" and not gated,
        }
        formula = call.surrogate.structure if spiking and backward else None
        kernel = compiled(Variant(f"{call.kind}_{direction}", sizes.dtype, formula, frozenset(name for name, value in on.items() if value)))
        steps, columns, item = sizes.steps, sizes.columns, np.dtype(sizes.dtype).itemsize
        rows = [name for name in ("scratch", "synapses") if name in kernel.names]
        workers, block = self._shares(len(rows))
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("currents", "spikes", "potentials", "grad_currents", "grad_spikes", "grad_potentials"), (steps, columns)
        )
        shapes |= dict.fromkeys(("weights", "back_weights"), (sizes.senders, sizes.features))
        shapes |= dict.fromkeys(("initial", "grad_initial"), (1, columns)) | dict.fromkeys(rows, (workers, steps + 1, block))
        shapes["feedback"] = workers, block
        numbers = {"numbers": np.array([*call.surrogate.parameters.values()], sizes.dtype)}
        numbers |= {name: np.full(1, number, sizes.dtype) for name, number in zip(_PARAMETERS[call.kind], sizes.numbers, strict=False)}
        arguments: list[int] = []
        working: list[tuple[int, int]] = []
        places: dict[str, int] = {}
        size = 0
        for name in kernel.names:
            places[name] = threads.ARGUMENTS + len(arguments)
            shape = shapes.get(name, (columns,))
            arguments += [numbers[name].ctypes.data if name in numbers else 0, *(shape if len(shape) > 1 else ())]
            if name not in numbers and name not in given:
                working.append((places[name], size))
                size += -(-math.prod(shape) * item // _LINE) * _LINE
        job = threads.job(kernel.address, workers, columns, block, arguments)
        unused = len(job)
        job.append(0)
        return _Pass(job, tuple(places.get(name, unused) for name in given), tuple(working), size, numbers)

    def _shares(self, rows: int) -> tuple[int, int]:
        """How many threads work, and the columns of a block, of which so many rows of scratch are needed for each step."""
        dtype, steps, columns, most, _, features, _ = self.sizes
        small = most == 1 or steps * columns < _SMALL
        block = features
        if not block:
            share = -(-columns // (1 if small else _BLOCKS * most))
            fits = _SCRATCH // np.dtype(dtype).itemsize // (rows * (steps + 1)) if rows else _WIDEST
            block = max(64, min(_WIDEST, fits, share + 63) // 64 * 64)
        return 1 if small else min(most, threads.MOST, -(-columns // block)), block


def layer(call: Call, sizes: Sizes) -> Layer:
    """The layer of these sizes, the same object each time while the call is in use."""
    found = call.layers.get(sizes)
    if found is None:
        if len(call.layers) >= _LAYERS:
            call.layers.clear()
        found = call.layers[sizes] = Layer(call, sizes)
    return found


def _inputs(
    kind: str, currents: Memory, state: tuple[Memory, ...], parameters: tuple[Memory, ...], weights: Weights | None
) -> dict[str, Memory]:
    given = {"currents": currents}
    if parameters:
        given.update(zip(_PARAMETERS[kind], parameters, strict=True))
    if state:
        given.update(zip(_STATES[kind], state, strict=False))
    if weights is not None:
        given["initial"], given["weights"] = state[-1], weights.sending
    return given


def forward(
    layer: Layer,
    currents: Memory,
    state: tuple[Memory, ...],
    parameters: tuple[Memory, ...],
    weights: Weights | None,
    last: tuple[Memory, ...],
    spikes: Memory,
    potentials: Memory | None = None,
) -> None:
    """See `leaky`, `synaptic` and `leaky_integrator`, the kinds, in `spikegrad.kernels.reference`.

    Args:
        layer: the layer.
        currents: ``(time, columns)``.
        state: ``(v,)`` or ``(i, v)``, with recurrent weights, which need one, followed by the spikes of the step before; empty for rest.
        parameters: decays and threshold, ``(columns,)``, in the order of the reference; empty if the layer has them as numbers.
        weights: recurrent ones.
        last: are filled with the last state, but for its spikes.
        spikes: is filled, ``(time, columns)``; of an integrator with the potentials.
        potentials: is filled with the potentials before reset, if given.
    """
    call = layer.call
    given = _inputs(call.kind, currents, state, parameters, weights)
    given["potentials" if call.kind == "integrator" else "spikes"] = spikes
    if potentials is not None:
        given["potentials"] = potentials
    given.update(zip(layer.last, last, strict=False))
    layer.run("forward", given)


def backward(
    layer: Layer,
    currents: Memory,
    state: tuple[Memory, ...],
    parameters: tuple[Memory, ...],
    weights: Weights | None,
    spikes: Memory | None,
    incoming: Incoming,
    gradients: Gradients,
) -> None:
    """Fill the gradients of what goes into a layer from those of what comes out of it.

    The first arguments are those of `forward`; `spikes` those it filled, needed for recurrent weights only. There the last spikes are
    part of the state: its gradient must be in that of the spikes.
    """
    call = layer.call
    given = _inputs(call.kind, currents, state, parameters, weights)
    potentials = None
    given["grad_currents"] = gradients.currents
    given.update(zip(_ARRIVING[call.kind], incoming.state, strict=False))
    given.update(zip(_PATHS[call.kind], gradients.state, strict=False))
    given.update(zip([f"grad_{name}" for name in _PARAMETERS[call.kind]], gradients.parameters, strict=False))
    if call.kind == "integrator":
        given["grad_potentials"] = incoming.spikes
        if gradients.parameters:
            given["potentials"] = potentials = memory.take(layer.sizes.steps * layer.sizes.columns * np.dtype(layer.sizes.dtype).itemsize)
            forward(layer, currents, state, parameters, None, (), potentials)
    else:
        given["grad_spikes"] = incoming.spikes
        if incoming.potentials is not None:
            given["grad_potentials"] = incoming.potentials
    if weights is not None:
        given["back_weights"], given["spikes"], given["grad_initial"] = weights.receiving, spikes, gradients.state[-1]
    layer.run("backward", given)
    if potentials is not None:
        memory.give(potentials)
