"""Leaky integrate-and-fire neurons, and what is simplest around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Decay, NonNegative, Positive
from spikegrad.vocabulary import Array, exp, log, maximum, where


class IntegrateAndFire(Neuron):
    threshold: Positive = 1.0

    v: State = 0.0

    def step(self, current: Array, v: Array) -> Step:
        u = self.quantized(v + current)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.after_spike(u, s, self.threshold), u=u)


class Leaky(Neuron):
    beta: Decay
    threshold: Positive = 1.0

    v: State = 0.0

    reset_delay: bool = dataclasses.field(default=False, kw_only=True)
    scale_input: bool = dataclasses.field(default=False, kw_only=True)

    def step(self, current: Array, v: Array) -> Step:
        if self.scale_input:
            current = (1 - self.beta) * current
        if not self.reset_delay:
            u = self.quantized(self.beta * v + current)
            s = self.fire(u - self.threshold)
            return Step(s, v=self.after_spike(u, s, self.threshold), u=u)
        r = self.resetting(self.fire(v - self.threshold))
        if self.reset == "zero":
            v = (1 - r) * v
        u = self.beta * v + current
        if self.reset == "subtract":
            u = u - self.threshold * r
        u = self.quantized(u)
        return Step(self.fire(u - self.threshold), v=u, u=u)


class Synaptic(Neuron):
    alpha: Decay
    beta: Decay
    threshold: Positive = 1.0

    i: State = 0.0
    v: State = 0.0

    reset_delay: bool = dataclasses.field(default=False, kw_only=True)
    scale_input: bool = dataclasses.field(default=False, kw_only=True)

    def step(self, current: Array, i: Array, v: Array) -> Step:
        i = self.alpha * i + current
        u = self.beta * v + ((1 - self.beta) * i if self.scale_input else i)
        if self.reset_delay:
            u = self.after_spike(u, self.fire(v - self.threshold), self.threshold)
        i, u = self.quantized(i), self.quantized(u)
        s = self.fire(u - self.threshold)
        return Step(s, i=i, v=u if self.reset_delay else self.after_spike(u, s, self.threshold), u=u)


class Alpha(Neuron, reset="zero"):
    alpha: Decay
    beta: Decay
    threshold: Positive = 1.0

    rise: State = 0.0
    fall: State = 0.0

    reset_delay: bool = dataclasses.field(default=False, kw_only=True)

    def valid(self) -> Mapping[str, Array]:
        return {"`alpha` above `beta`, and both between 0 and 1": (self.alpha > self.beta) & (self.beta > 0) & (self.alpha < 1)}

    def step(self, current: Array, rise: Array, fall: Array) -> Step:
        gain = log(self.alpha) / (log(self.beta) - log(self.alpha)) + 1
        before = gain * (fall + rise)
        fall, rise = self.alpha * fall + current, self.beta * rise - current
        s = self.fire((before if self.reset_delay else gain * (fall + rise)) - self.threshold)
        after = {"fall": self.after_spike(fall, s, self.threshold / gain), "rise": self.after_spike(rise, s, 0.0)}
        if not self.reset_delay:
            return Step(s, **after, u=gain * (fall + rise))
        u = gain * (after["fall"] + after["rise"])
        return Step(self.fire(u - self.threshold), **after, u=u)


class Lapicque(Neuron):
    resistance: Positive = 5.0
    capacitance: Positive = 0.02
    dt: Positive = 0.001
    threshold: Positive = 1.0

    v: State = 0.0

    def step(self, current: Array, v: Array) -> Step:
        beta = exp(-self.dt / (self.resistance * self.capacitance))
        u = self.quantized(beta * v + (1 - beta) * self.resistance * current)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.after_spike(u, s, self.threshold), u=u)


class LeakyIntegrator(Neuron):
    beta: Decay

    v: State = 0.0

    scale_input: bool = dataclasses.field(default=False, kw_only=True)

    def step(self, current: Array, v: Array) -> Step:
        u = self.beta * v + ((1 - self.beta) * current if self.scale_input else current)
        return Step(u, v=u, u=u)


class RefractoryLeaky(Neuron):
    beta: Decay
    period: NonNegative = 3.0
    threshold: Positive = 1.0

    v: State = 0.0
    wait: State = 0.0

    scale_input: bool = dataclasses.field(default=False, kw_only=True)

    def step(self, current: Array, v: Array, wait: Array) -> Step:
        if self.scale_input:
            current = (1 - self.beta) * current
        u = where(wait > 0.0, v, self.beta * v + current)
        s = where(wait > 0.0, 0.0, self.fire(u - self.threshold))
        wait = where(s > 0.0, self.period, maximum(wait - 1.0, 0.0))
        return Step(s, v=self.after_spike(u, s, self.threshold), wait=self.hold(wait), u=u)
