"""What NIR's equations say of a layer of neurons, and what they cannot say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spikegrad import neurons
from spikegrad.exchange import nir_equations
from spikegrad.nn.layer import Layer

Floats = NDArray[np.float64]

NEAREST = 2.0**-24
"""The smallest share of a potential that a neuron forgets in a step, where NIR would need an infinite time constant."""


@dataclass(frozen=True)
class Equations:
    """A layer in the terms of NIR.

    Attributes:
        kind: the class of NIR's node.
        shape: of a step's features.
        leaving: what the potential forgets in a step, 1 - beta; 0 throughout for IF and I.
        gain: what the potential receives of a unit of input.
        synaptic: what the current forgets in a step, 1 - alpha, of a CubaLIF.
        w_in: input gain of a CubaLIF, in units of its default.
        threshold: of the neurons that have one.
        leak: potential at rest.
        reset: potential after a spike.
        unsaid: what of the layer NIR has no words for.
    """

    kind: str
    shape: tuple[int, ...]
    leaving: Floats
    gain: Floats
    synaptic: Floats | None
    w_in: Floats | None
    threshold: Floats | None
    leak: Floats
    reset: Floats
    unsaid: tuple[str, ...]

    @property
    def factor(self) -> Floats | None:
        """What incoming weights are multiplied by if the resistance is to be 1; None where it cannot be."""
        return self.gain / self.leaving if self.kind in ("LIF", "LI") else None

    def fields(self, dt: float, folded: bool, has_reset: bool) -> dict[str, Floats]:
        """The fields of the node; with `folded` its resistance is 1."""
        if self.kind in ("IF", "I"):
            fields = {"r": self.gain / dt}
        elif self.synaptic is not None:
            assert self.w_in is not None
            fields = {"tau_syn": dt / self.synaptic, "tau_mem": dt / self.leaving, "w_in": self.w_in, "r": self.gain / self.leaving}
        else:
            fields = {"tau": dt / self.leaving, "r": np.ones(self.shape) if folded else self.gain / self.leaving}
        if self.kind not in ("IF", "I"):
            fields["v_leak"] = self.leak
        if self.threshold is not None:
            fields["v_threshold"] = self.threshold
            if has_reset:  # NIR's package has had it since 1.0.5; without it files say zero
                fields["v_reset"] = self.reset
        return {name: np.array(x) for name, x in fields.items()}


def equations(layer: Layer, shape: tuple[int, ...]) -> Equations:
    """A layer whose steps have features of this shape in the terms of NIR."""
    neuron, kind = layer.neuron, type(layer.neuron)

    def of(name: str, default: float = 1.0) -> Floats:
        value = getattr(layer, name) if name in neuron.numbers else default
        given = value.detach().double().cpu().numpy() if isinstance(value, Tensor) else np.float64(value)
        return np.array(np.broadcast_to(given, shape))

    zero, one, unsaid = np.zeros(shape), np.ones(shape), _unsaid(layer)
    spikes = kind not in (neurons.LeakyIntegrator, nir_equations.LI)
    if kind is neurons.IntegrateAndFire:
        leaving = zero
    elif kind is neurons.Lapicque:
        leaving = -np.expm1(-of("dt") / (of("resistance") * of("capacitance")))
    else:  # of a neuron that NIR does not know, what is nearest; the rest is in the metadata
        leaving = 1 - np.clip(of("beta", 0.9), 0, 1)
    if leaving.any() and not leaving.all():
        unsaid += ("a potential that never decays, beta=1",)
    known = sayable(layer)
    scaled = getattr(neuron, "scale_input", False) or kind in (neurons.Lapicque, *EQUATIONS)
    synapse = kind in (neurons.Synaptic, nir_equations.CubaLIF)
    leaving = np.maximum(leaving, NEAREST) if leaving.any() or synapse else leaving
    gain = (leaving if scaled else one) * (of("resistance") * of("r") if known else one)
    synaptic = np.maximum(1 - of("alpha"), NEAREST) if synapse else None
    if synapse and (of("alpha") == 1).any():
        unsaid += ("a current that never decays, alpha=1",)
    return Equations(
        kind="CubaLIF" if synapse else ("LIF" if spikes else "LI") if leaving.any() else "IF" if spikes else "I",
        shape=shape,
        leaving=leaving,
        gain=gain,
        synaptic=synaptic,
        w_in=None if synaptic is None else of("w_in") if "w_in" in neuron.numbers else 1 / synaptic,
        threshold=None if not spikes else of("threshold") if known else np.where(of("threshold") > 0, of("threshold"), 1.0),
        leak=of("leak", 0.0) if known else zero,
        reset=of("reset_potential", 0.0) if known else zero,
        unsaid=unsaid,
    )


EQUATIONS = (nir_equations.LIF, nir_equations.LI, nir_equations.CubaLIF)
SAYABLE = (neurons.IntegrateAndFire, neurons.Lapicque, neurons.Leaky, neurons.LeakyIntegrator, neurons.Synaptic, *EQUATIONS)
"""Neurons whose equations are NIR's, with some options at least."""


def sayable(layer: Layer) -> bool:
    """Whether the layer's neuron is one of NIR's, its options apart."""
    return type(layer.neuron) in SAYABLE


def _unsaid(layer: Layer) -> tuple[str, ...]:
    """What NIR has no words for, apart from numbers; in the words of the options."""
    neuron, kind = layer.neuron, type(layer.neuron)
    found: list[str] = []
    if not sayable(layer):
        found.append(f"the neuron {kind.__name__}")
    if any(getattr(neuron, name) != 0 for name in neuron.states):
        rests = ", ".join(f"{name}={getattr(neuron, name):g}" for name in neuron.states if getattr(neuron, name) != 0)
        found.append(f"a start elsewhere than at rest, {rests}")
    if layer.quantize is not None:
        found.append("quantised states")
    if len(neuron.inputs) > 1:
        found.append("several inputs")
    if not sayable(layer) or kind in (neurons.LeakyIntegrator, nir_equations.LI):
        return tuple(found)
    if kind not in EQUATIONS:
        delayed = getattr(neuron, "reset_delay", False)
        if neuron.reset != "zero":
            found.append(f"reset={neuron.reset!r}")
        if delayed and neuron.reset != "none" and not (kind is neurons.Leaky and neuron.reset == "zero"):
            found.append("reset_delay=True")
    if neuron.spike_at_threshold:
        found.append("a spike at the threshold exactly, spike_at_threshold=True")
    if layer.inhibition:
        found.append("inhibition=True")
    return tuple(found)


def differs(node: Any, kind: str, fields: dict[str, Floats]) -> str | None:
    """The first thing in which a node of a file differs from what its own metadata says, or None."""
    if type(node).__name__ != kind:
        return f"it is a {type(node).__name__}, not a {kind}"
    for name, meant in fields.items():
        said = np.asarray(getattr(node, name), dtype=float)
        if said.shape != meant.shape or not np.allclose(said, meant, rtol=1e-5, atol=0):
            return f"`{name}` is another"
    return None


def uniform(x: Any) -> Floats | float:
    """A number if all of an array are one, else the array."""
    array = np.asarray(x, dtype=np.float64)
    first = float(array.reshape(-1)[0]) if array.size else math.nan
    return first if (array == first).all() else array
