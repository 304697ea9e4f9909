"""The steps of snnTorch's neurons, in spikegrad's language of neurons.

With F the step with its surrogate gradient, and R the spikes ``F(mem - threshold)`` of the potential before this step, without a gradient:

1. ``u``, the decayed potential and the input, then the reset of the step before: ``u - R threshold`` ("subtract"), ``u - R u`` ("zero");
2. ``u`` and the synaptic currents quantised, if the layer does that;
3. ``s = F(u - threshold)``;
4. without `reset_delay`, the reset of this step less what R took before: ``u - (s - R) threshold`` or ``u - (s - R) u``, with the gradient
   of s.

`fed` is what a recurrent connection makes of the spikes of the step before.
"""
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import dataclasses

from spikegrad.neuron import Neuron, State, Step
from spikegrad.vocabulary import Array, log


class Lagging(Neuron):
    """What the steps share: numbers that may be anything, as in snnTorch, and a reset that lags behind.

    `factor` divides the spike that resets at once where neurons inhibit each other.
    """

    threshold: float = 1.0
    factor: float = 1.0

    mem: State = 0.0

    reset_delay: bool = dataclasses.field(default=True, kw_only=True)
    inhibition: bool = dataclasses.field(default=False, kw_only=True)

    def step(self, current: Array, mem: Array) -> Step:
        """Without decay."""
        return self.fired(self.lagged(mem + current, mem), mem)

    def lag(self, mem: Array) -> Array:
        """The spikes whose reset is due."""
        return self.hold(self.fire(mem - self.threshold))

    def lagged(self, u: Array, mem: Array) -> Array:
        """A potential after the reset of the step before."""
        if self.reset == "none":
            return u
        return u - self.lag(mem) * (self.threshold if self.reset == "subtract" else u)

    def fired(self, u: Array, mem: Array, **currents: Array) -> Step:
        """The end of a step."""
        currents = {name: self.quantized(value) for name, value in currents.items()}
        u = self.quantized(u)
        s = self.fire(u - self.threshold)
        v = u
        if not self.reset_delay and self.reset != "none":
            resetting = s / self.factor if self.inhibition else s
            v = u - (resetting - self.lag(mem)) * (self.threshold if self.reset == "subtract" else u)
        return Step(s, **currents, mem=v, **{f"after_{name}": value for name, value in (*currents.items(), ("mem", v))})


class Leaky(Lagging):
    """``snntorch.Leaky``, whose reset to zero clears the potential before the input is added."""

    beta: float = 0.9

    def step(self, current: Array, mem: Array) -> Step:
        if self.reset == "zero":
            return self.fired(self.beta * ((1 - self.lag(mem)) * mem) + current, mem)
        return self.fired(self.lagged(self.beta * mem + current, mem), mem)


class RLeaky(Lagging):
    """``snntorch.RLeaky``, whose reset to zero acts after the input is added."""

    beta: float = 0.9

    def step(self, current: Array, fed: Array, mem: Array) -> Step:
        return self.fired(self.lagged(self.beta * mem + current + fed, mem), mem)


class Synaptic(Lagging):
    """``snntorch.Synaptic``."""

    alpha: float = 0.8
    beta: float = 0.9

    syn: State = 0.0

    def step(self, current: Array, syn: Array, mem: Array) -> Step:
        syn = self.alpha * syn + current
        return self.fired(self.lagged(self.beta * mem + syn, mem), mem, syn=syn)


class RSynaptic(Lagging):
    """``snntorch.RSynaptic``."""

    alpha: float = 0.8
    beta: float = 0.9

    syn: State = 0.0

    def step(self, current: Array, fed: Array, syn: Array, mem: Array) -> Step:
        syn = self.alpha * syn + current + fed
        return self.fired(self.lagged(self.beta * mem + syn, mem), mem, syn=syn)


class Alpha(Lagging):
    """``snntorch.Alpha``, whose "subtract" takes the threshold off the excitation and clears the inhibition."""

    alpha: float = 0.9
    beta: float = 0.8

    syn_exc: State = 0.0
    syn_inh: State = 0.0

    def step(self, current: Array, syn_exc: Array, syn_inh: Array, mem: Array) -> Step:
        exc, inh = self.alpha * syn_exc + current, self.beta * syn_inh - current
        tau = log(self.alpha) / (log(self.beta) - log(self.alpha)) + 1
        u = tau * (exc + inh)
        if self.reset != "none":
            r = self.lag(mem)
            if self.reset == "subtract":
                exc, inh, u = exc - self.threshold * r, inh - inh * r, u + syn_inh * r
            else:
                exc, inh, u = exc - exc * r, inh - inh * r, u - u * r
        return self.fired(u, mem, syn_exc=exc, syn_inh=inh)


class Lapicque(Lagging):
    """``snntorch.Lapicque``, in the order of its operations, whose rounding decides spikes."""

    R: float = 1.0
    C: float = 10.0
    time_step: float = 1.0

    def step(self, current: Array, mem: Array) -> Step:
        u = current * self.R * (1 / (self.R * self.C)) * self.time_step + (1 - self.time_step / (self.R * self.C)) * mem
        return self.fired(self.lagged(u, mem), mem)
