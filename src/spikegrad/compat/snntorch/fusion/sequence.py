"""A spiking layer of snnTorch over a whole sequence: one call of the fused kernels where they compute exactly that, else its own steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.compat.snntorch.fusion.undisturbed import has_hooks, own_state
from spikegrad.compat.snntorch.neuron import SpikingNeuron
from spikegrad.compat.snntorch.recurrent import Recurrent
from spikegrad.compat.snntorch.surrogate import SpikeGradient
from spikegrad.kernels import gate
from spikegrad.kernels.plan import Call, Connection
from spikegrad.nn.backend import INSTALLED
from spikegrad.surrogate import Surrogate
from spikegrad.trace import Record
from spikegrad.vocabulary import fits


def run(
    neuron: SpikingNeuron, currents: Tensor, start: Mapping[str, Tensor], wanted: frozenset[str]
) -> tuple[dict[str, Tensor], str | None]:
    """A layer over a sequence.

    Args:
        neuron: the layer; its own state is neither used nor changed.
        currents: ``(time, *step)``.
        start: states before the first step, each of the shape of one step or empty; rest if left out.
        wanted: which outputs are needed: ``"spk"`` and names of states.

    Returns:
        The wanted outputs after each step, ``(time, *step)``, and why it was not the kernels that computed them, or None.
    """
    start = {name: _fitted(state, currents) for name, state in start.items() if state.numel()}
    reason = obstacle(neuron) or _obstacle_here(neuron, currents, start)
    return (_kernels(neuron, currents, start, wanted) if reason is None else _steps(neuron, currents, start, wanted)), reason


def _fitted(state: Tensor, currents: Tensor) -> Tensor:
    shape = currents.shape[1:]
    return state if state.shape == shape else (state.reshape(()) if state.numel() == 1 else state).expand(shape)


def obstacle(neuron: SpikingNeuron) -> str | None:
    """Why the kernels cannot compute what this layer computes, whatever its input; None if they can."""
    fired = _fired(neuron)
    if fired is None:
        kind = type(neuron.spike_grad).__name__
        return "surrogate_disable leaves no gradient" if neuron.surrogate_disable else f"its spike_grad, a {kind}, is run as it is"
    if fired[0].stochastic:
        return f"{type(fired[0]).__name__} draws noise"
    if neuron.inhibition:
        return "it has inhibition"
    if neuron.state_quant:
        return "its state is quantised"
    if has_hooks(neuron):
        return "it has hooks, which are called at each step"
    if not INSTALLED["numba"]:
        return "Numba is not installed"
    if not isinstance(neuron, Recurrent):
        return None
    if neuron.all_to_all and type(neuron.recurrent) is not nn.Linear:
        return f"its recurrent connection is a {type(neuron.recurrent).__name__}"
    if has_hooks(neuron.recurrent):
        return "its recurrent connection has hooks"
    return None if bool((neuron.graded_spikes_factor == 1).all()) else "its graded spikes feed back"


def _fired(neuron: SpikingNeuron) -> tuple[Surrogate, bool] | None:
    """The surrogate, and whether the layer spikes at its threshold; None for a function of one's own."""
    spike_grad: Any = neuron.spike_grad
    if isinstance(spike_grad, Surrogate):  # used directly, one of spikegrad's fires as it documents
        return spike_grad, True
    return (spike_grad.surrogate, False) if isinstance(spike_grad, SpikeGradient) else None


def _obstacle_here(neuron: SpikingNeuron, currents: Tensor, start: Mapping[str, Tensor]) -> str | None:
    """What of this input, or of the values of parameters, the kernels cannot run."""
    if currents.ndim < 2 or not len(currents):
        return f"its input has shape {tuple(currents.shape)}"
    if not currents.dtype.is_floating_point:
        return f"its input is {currents.dtype}"
    fixed = [b for name, b in neuron._buffers.items() if b is not None and name not in neuron.STATES]  # pyright: ignore[reportPrivateUsage]
    parameters = [p for p in (*neuron.parameters(recurse=False), *fixed) if p.is_floating_point()]
    if any(not fits(p.shape, currents.shape[1:]) for p in parameters):
        return "a parameter has more dimensions than a step"
    if isinstance(neuron, Recurrent) and neuron.all_to_all:
        weight: Any = neuron.recurrent.weight
        if weight.shape != (currents.shape[-1],) * 2:
            return "its recurrent weights do not fit the features"
        parameters += neuron.recurrent.parameters()
    return gate.surroundings() or gate.obstacle(currents, *parameters, *start.values())


@functools.lru_cache(maxsize=256)
def _call(
    kind: type[SpikingNeuron],
    surrogate: Record,
    wanted: tuple[str, ...],
    connection: Connection,
    structure: tuple[tuple[str, Any], ...],
) -> Call:
    return Call(kind.FORMULA(**dict(structure)).record, surrogate, wanted, connection=connection)


def _kernels(neuron: SpikingNeuron, currents: Tensor, start: Mapping[str, Tensor], wanted: frozenset[str]) -> dict[str, Tensor]:
    from spikegrad.kernels import torch as kernels

    fired = _fired(neuron)
    assert fired is not None
    surrogate, at_threshold = fired
    connection, driven, fed = "none", currents, ()
    like = currents[0] if currents.dtype.itemsize >= 4 else currents[0].float()
    numbers: dict[str, Any] = {name: _plain(value) for name, value in neuron.numbers(like).items()}
    numbers |= {"factor": 1.0} | dict.fromkeys(neuron.FORMULA.states, 0.0)
    if isinstance(neuron, Recurrent):
        connection, fed = "all-to-all" if neuron.all_to_all else "one-to-one", ("spk",)
        numbers |= {"weights": neuron.recurrent.weight} if neuron.all_to_all else {"weight": neuron.V}
        bias: Tensor | None = getattr(neuron.recurrent, "bias", None)
        driven = currents if bias is None else currents + bias
    recorded = tuple(f"after_{name}" for name in neuron.STATES if name in wanted and name != "spk")
    structure = (*neuron.structure().items(), ("spike_at_threshold", at_threshold))
    call = _call(type(neuron), surrogate.structure, recorded, connection, structure)
    state = [start.get(name, torch.zeros_like(like)) for name in (*neuron.FORMULA.states, *fed)] if start else ()
    spikes, *others = kernels.run(call, [driven], state, numbers, surrogate.parameters)
    found = dict(zip(recorded, others[-len(recorded) :], strict=True)) if recorded else {}
    found = {name.removeprefix("after_"): value for name, value in found.items()}
    found["spk"] = spikes if neuron.is_plain() else (spikes * neuron.graded_spikes_factor).to(currents.dtype)
    return found


def _plain(parameter: Tensor) -> Tensor | float:
    """One number that does not learn as a number: reading it costs less than computing with it."""
    return parameter.item() if parameter.ndim == 0 and parameter.is_cpu and not parameter.requires_grad else parameter


def _steps(neuron: SpikingNeuron, currents: Tensor, start: Mapping[str, Tensor], wanted: frozenset[str]) -> dict[str, Tensor]:
    """The layer's own steps, one after the other."""
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    states = [start.get(name, currents.new_zeros(0)) for name in neuron.STATES]
    with own_state(neuron):
        neuron.reset_mem()
        for name, state in zip(neuron.STATES, states if neuron.init_hidden else (), strict=neuron.init_hidden):
            setattr(neuron, name, state)
        for current in currents.unbind(0):
            out: Any = neuron(current) if neuron.init_hidden else neuron(current, *states)
            spk = out if isinstance(out, Tensor) else out[0]
            states = [getattr(neuron, name) for name in neuron.STATES] if neuron.init_hidden else list(out[-len(states) :])
            outputs = dict(zip(neuron.STATES, states, strict=True)) | {"spk": spk}
            for name, kept in found.items():
                kept.append(outputs[name])
    return {name: torch.stack(kept) for name, kept in found.items()}
