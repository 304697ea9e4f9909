"""A spiking layer of snnTorch over a whole sequence: one call of the fused kernels where they compute exactly that, else its own steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.compat.snntorch.fusion.undisturbed import has_hooks, own_state
from spikegrad.compat.snntorch.leaky import Leaky
from spikegrad.compat.snntorch.neuron import SpikingNeuron
from spikegrad.compat.snntorch.recurrent import Recurrent, RLeaky, RSynaptic
from spikegrad.compat.snntorch.surrogate import SpikeGradient
from spikegrad.compat.snntorch.synaptic import Synaptic
from spikegrad.gradient.torch import transforming
from spikegrad.kernels.call import INTEGRATOR, called
from spikegrad.kernels.reference import Options
from spikegrad.nn.backend import INSTALLED, run_fused
from spikegrad.surrogate import Surrogate

KINDS: dict[type[SpikingNeuron], str] = {Leaky: "leaky", RLeaky: "leaky", Synaptic: "synaptic", RSynaptic: "synaptic"}
"""The neurons that the kernels know, and what they call them."""


def obstacle(neuron: SpikingNeuron) -> str | None:
    """Why the kernels cannot compute what this layer computes, whatever its input; None if they can."""
    if type(neuron) not in KINDS:
        return f"there is no kernel for {type(neuron).__name__}"
    fired = _formula(neuron)
    if fired is None:
        kind = type(neuron.spike_grad).__name__
        return "surrogate_disable leaves no gradient" if neuron.surrogate_disable else f"its spike_grad, a {kind}, is run as it is"
    if fired[0].stochastic:
        return f"{type(fired[0]).__name__} draws noise"
    if not neuron.reset_delay:
        return "with reset_delay=False the gradient of its spikes flows through the reset"
    if neuron.inhibition:
        return "it has inhibition"
    if neuron.state_quant:
        return "its state is quantised"
    if has_hooks(neuron):
        return "it has hooks, which are called at each step"
    if not INSTALLED:
        return "Numba is not installed"
    return _recurrent_obstacle(neuron)


def _formula(neuron: SpikingNeuron) -> tuple[Surrogate, bool] | None:
    """The surrogate, and whether the layer spikes at its threshold; None for a function of one's own."""
    spike_grad: Any = neuron.spike_grad
    if isinstance(spike_grad, Surrogate):  # used directly, one of spikegrad's fires as it documents
        return spike_grad, True
    return (spike_grad.surrogate, False) if isinstance(spike_grad, SpikeGradient) else None


def _recurrent_obstacle(neuron: SpikingNeuron) -> str | None:
    if not isinstance(neuron, Recurrent):
        return None
    if KINDS[type(neuron)] == "leaky" and neuron.reset_mechanism == "zero":
        return "the reset to zero of a recurrent layer comes after its input, and the kernel's before it"
    if neuron.all_to_all and type(neuron.recurrent) is not nn.Linear:
        return f"its recurrent connection is a {type(neuron.recurrent).__name__}"
    if has_hooks(neuron.recurrent):
        return "its recurrent connection has hooks"
    return None if bool((neuron.graded_spikes_factor == 1).all()) else "its graded spikes feed back"


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


def _obstacle_here(neuron: SpikingNeuron, currents: Tensor, start: Mapping[str, Tensor]) -> str | None:
    """What of this input, or of the values of parameters, the kernels cannot run."""
    if currents.device.type != "cpu":
        return f"its input is on {currents.device}"
    if currents.dtype not in (torch.float32, torch.float64):
        return f"its input is {currents.dtype}"
    if currents.ndim < 2 or not len(currents) or transforming():
        return "it runs inside a torch.func transform" if transforming() else f"its input has shape {tuple(currents.shape)}"
    parameters = [getattr(neuron, name) for name in ("alpha", "beta", "threshold") if hasattr(neuron, name)]
    if any(p.ndim >= currents.ndim for p in parameters):
        return "a parameter has more dimensions than a step"
    if not isinstance(neuron, Recurrent):
        return None
    if _weights(neuron, currents) is None:
        return "its recurrent weights do not fit the features"
    # The kernels take the reset from the spikes of the step before, snnTorch from its potential.
    mem, spk = (start.get(name, currents.new_zeros(currents.shape[1:])) for name in ("mem", "spk"))
    above = mem - neuron.threshold
    fired = _formula(neuron)
    if not torch.equal((above >= 0 if fired and fired[1] else above > 0).to(spk.dtype), spk):
        return "it starts from spikes that are not those of its potential"
    return None


def _weights(neuron: Recurrent, currents: Tensor) -> Tensor | None:
    """Recurrent weights as the kernels take them, or None if they do not fit."""
    features = currents.shape[-1]
    if isinstance(neuron.recurrent, nn.Linear):
        weight = neuron.recurrent.weight
        return weight if weight.shape == (features, features) else None
    if neuron.V.numel() == 1:
        return neuron.V.reshape(1).expand(features)
    return neuron.V if neuron.V.shape == (features,) else None


def _kernels(neuron: SpikingNeuron, currents: Tensor, start: Mapping[str, Tensor], wanted: frozenset[str]) -> dict[str, Tensor]:
    reset: Any = neuron.reset_mechanism
    fired = _formula(neuron)
    assert fired is not None
    surrogate, at_threshold = fired
    options = Options(reset, reset_delay=True, detach_reset=True, spike_at_threshold=at_threshold)
    kind = KINDS[type(neuron)]
    decays = {name: _clamped(_plain(getattr(neuron, name))) for name in ("alpha", "beta")[kind == "leaky" :]}
    threshold = _plain(neuron.threshold)
    weights = _weights(neuron, currents) if isinstance(neuron, Recurrent) else None
    bias: Tensor | None = getattr(neuron.recurrent, "bias", None) if isinstance(neuron, Recurrent) else None
    driven = currents if bias is None else currents + bias
    names = (*(name for name in neuron.STATES if name != "spk"), *(("spk",) if weights is not None else ()))
    state = None
    if start or (bool((threshold <= 0).any()) if isinstance(threshold, Tensor) else threshold <= 0):  # rest may be above the threshold
        parts = [start.get(name, currents.new_zeros(currents.shape[1:])) for name in names]
        state = tuple(parts) if len(parts) > 1 else parts[0]
    call = called(kind, surrogate, options, state is not None, "mem" in wanted)
    out = run_fused(call, "", driven, state, names, (*decays.values(), threshold), weights)
    spikes, found = out[0], {"mem": out[-1]} if call.record else {}
    factor = _plain(neuron.graded_spikes_factor)
    found["spk"] = spikes if factor == 1.0 and not isinstance(factor, Tensor) else spikes * factor
    if "syn" in wanted:
        received = driven if weights is None else driven + _received(weights, spikes, start.get("spk"))
        syn = start.get("syn", currents.new_zeros(currents.shape[1:]))
        found["syn"] = run_fused(INTEGRATOR, "", received, syn, ("v",), (decays["alpha"],))[0]
    return found


def _plain(parameter: Tensor) -> Tensor | float:
    """One number that does not learn as a number: reading it costs less than computing with it."""
    return parameter.item() if parameter.ndim == 0 and parameter.is_cpu and not parameter.requires_grad else parameter


def _clamped(decay: Tensor | float) -> Tensor | float:
    return decay.clamp(0, 1) if isinstance(decay, Tensor) else min(max(decay, 0.0), 1.0)


def _received(weights: Tensor, spikes: Tensor, before: Tensor | None) -> Tensor:
    """What a recurrent layer sends itself at each step."""
    first = torch.zeros_like(spikes[:1]) if before is None else before[None]
    sent = torch.cat([first, spikes[:-1]])
    return sent @ weights.T if weights.ndim == 2 else sent * weights


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
