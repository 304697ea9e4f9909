"""Neurons that adapt: thresholds and currents that their own spikes change for a while."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Between, Decay, NonNegative, Positive
from spikegrad.vocabulary import Array


class Adaptive(Neuron):
    beta: Decay
    rho: Decay = 0.95
    jump: float = 0.1
    threshold: Positive = 1.0

    v: State = 0.0
    a: State = 0.0

    scale_input: bool = dataclasses.field(default=False, kw_only=True)

    def step(self, current: Array, v: Array, a: Array) -> Step:
        theta = self.threshold + self.jump * a
        u = self.quantized(self.beta * v + ((1 - self.beta) * current if self.scale_input else current))
        s = self.fire(u - theta)
        return Step(s, v=self.after_spike(u, s, theta), a=self.rho * a + s, u=u, theta=theta)


class AdaptiveLeaky(Neuron):
    alpha: Decay = 0.9
    beta: Decay = 0.95
    a: Annotated[float, Between(-1, 1)] = 0.5
    b: Annotated[float, Between(0, 2)] = 1.0
    threshold: Positive = 1.0

    v: State = 0.0
    w: State = 0.0

    def step(self, current: Array, v: Array, w: Array) -> Step:
        s = self.fire(v - self.threshold)
        w = self.beta * w + self.a * v + self.b * s
        u = self.quantized(self.alpha * self.after_spike(v, s, self.threshold) + (1 - self.alpha) * (current - w))
        return Step(self.fire(u - self.threshold), v=u, w=w, u=u)


class SymplecticAdaptiveLeaky(Neuron, reset="zero"):
    alpha: Decay = 0.95
    beta: Decay = 0.98
    a: NonNegative = 0.5
    b: NonNegative = 1.0
    gain: Positive = 60.0
    threshold: Positive = 1.0

    v: State = 0.0
    w: State = 0.0

    def step(self, current: Array, v: Array, w: Array) -> Step:
        u = self.quantized(self.alpha * v + (1 - self.alpha) * (current - w))
        s = self.fire(u - self.threshold)
        v = self.after_spike(u, s, self.threshold)
        w = self.beta * w + (1 - self.beta) * (self.a * v + self.b * s) * self.gain
        return Step(s, v=v, w=w, u=u)
