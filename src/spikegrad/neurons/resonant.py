"""Neurons whose potential oscillates, and which answer best to inputs of their own frequency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Between, Decay, NonNegative, Positive
from spikegrad.vocabulary import Array, cos, exp, sin, sqrt


class ResonateAndFire(Neuron, reset="zero"):
    damping: Annotated[float, Between(high=0)] = -0.2
    omega: Positive = 1.0
    dt: Positive = 1.0
    threshold: Positive = 1.0

    x: State = 0.0
    v: State = 0.0

    def step(self, current: Array, x: Array, v: Array) -> Step:
        shrink = exp(self.damping * self.dt)
        c, s = shrink * cos(self.omega * self.dt), shrink * sin(self.omega * self.dt)
        x, u = c * x - s * v + current, s * x + c * v
        z = self.fire(u - self.threshold)
        return Step(z, x=x, v=self.after_spike(u, z, self.threshold), u=u)


class BalancedResonateAndFire(Neuron):
    omega: Positive = 10.0
    offset: NonNegative = 1.0
    dt: Positive = 0.01
    gamma: Decay = 0.9
    threshold: Positive = 1.0

    x: State = 0.0
    y: State = 0.0
    q: State = 0.0

    def valid(self) -> Mapping[str, Array]:
        return {"`dt * omega` of at most 1": self.dt * self.omega <= 1}

    def step(self, current: Array, x: Array, y: Array, q: Array) -> Step:
        b = (sqrt(1 - (self.dt * self.omega) ** 2) - 1) / self.dt - self.offset - q
        u = x + self.dt * (b * x - self.omega * y + current)
        y = y + self.dt * (self.omega * x + b * y)
        s = self.fire(u - self.threshold - q)
        return Step(s, x=u, y=y, q=self.gamma * q + s, u=u)


class BalancedHarmonic(Neuron):
    omega: Positive = 10.0
    offset: NonNegative = 1.0
    dt: Positive = 0.01
    gamma: Decay = 0.9
    threshold: Positive = 1.0

    v: State = 0.0
    y: State = 0.0
    q: State = 0.0

    def step(self, current: Array, v: Array, y: Array, q: Array) -> Step:
        b = self.omega**2 * (self.dt / 2) + self.offset + q
        y = y + self.dt * v
        u = v + self.dt * (current - 2 * b * v - self.omega**2 * y)
        s = self.fire(u - self.threshold - q)
        return Step(s, v=u, y=y, q=self.gamma * q + s, u=u)
