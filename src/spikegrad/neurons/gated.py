"""Neurons with gates, compartments and other outputs than single spikes."""

from __future__ import annotations

from typing import Annotated

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Between, Decay, Fraction, Positive
from spikegrad.vocabulary import Array, sigmoid, where


class GatedLeaky(Neuron):
    alpha: Fraction = 0.5
    beta: Fraction = 0.5
    gamma: Fraction = 0.5
    tau: Fraction = 0.25
    leak: Fraction = 0.0625
    drop: Fraction = 0.5
    threshold: Positive = 0.5

    v: State = 0.0
    s: State = 0.0

    def step(self, current: Array, conductance: Array, v: Array, s: Array) -> Step:
        decay = 1 - self.alpha * (1 - self.tau)
        u = decay * v - (1 - self.alpha) * self.leak + current * (1 - self.beta * (1 - conductance))
        u = u - decay * v * self.gamma * s - (1 - self.gamma) * self.drop * s
        s = self.fire(u - self.threshold)
        return Step(s, v=u, s=s, u=u)


class ComplementaryLeaky(Neuron):
    tau: Positive = 2.0
    threshold: Positive = 1.0

    v: State = 0.0
    m: State = 0.0

    def step(self, current: Array, v: Array, m: Array) -> Step:
        u = v - v / self.tau + current
        s = self.fire(u - self.threshold)
        m = m * sigmoid(u / self.tau) + s
        return Step(s, v=u - s * (self.threshold + sigmoid(m)), m=m, u=u)


class TwoCompartment(Neuron):
    dendrite: Fraction = 0.5
    soma: Fraction = 0.5
    gamma: float = 0.5
    threshold: Positive = 1.0

    d: State = 0.0
    v: State = 0.0

    def step(self, current: Array, d: Array, v: Array) -> Step:
        d = d - self.dendrite * v + current
        u = v + self.soma * d
        s = self.fire(u - self.threshold)
        return Step(s, d=d - self.gamma * self.resetting(s), v=self.after_spike(u, s, self.threshold), u=u)


class KLIF(Neuron, reset="zero"):
    tau: Positive = 2.0
    k: Positive = 1.0
    threshold: Positive = 1.0

    v: State = 0.0

    def step(self, current: Array, v: Array) -> Step:
        x = self.k * (v + (current - v) / self.tau)
        u = where(x <= 0.0, 0.0, x)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.after_spike(u, s, self.threshold), u=u)


class IntegerLeaky(Neuron):
    beta: Decay = 0.25
    threshold: Positive = 1.0
    levels: int = 4

    v: State = 0.0

    def step(self, current: Array, v: Array) -> Step:
        u = self.beta * v + current
        s = self.fire(u / self.threshold - 0.5)
        for level in range(1, self.levels):
            s = s + self.fire(u / self.threshold - (level + 0.5))
        return Step(s, v=u - self.threshold * self.resetting(s), u=u)


class SigmaDelta(Neuron):
    threshold: Positive = 0.1

    sigma: State = 0.0
    sent: State = 0.0

    def step(self, current: Array, sigma: Array, sent: Array) -> Step:
        sigma = sigma + current
        change = where(sigma <= 0.0, 0.0, sigma) - sent
        s = (self.fire(change - self.threshold) + self.fire(-change - self.threshold)) * change
        return Step(s, sigma=sigma, sent=sent + s)


class Ternary(Neuron):
    beta: Decay = 0.5
    threshold: Positive = 1.0

    v: State = 0.0

    def step(self, current: Array, v: Array) -> Step:
        u = self.beta * v + (1 - self.beta) * current
        s = self.fire(u - self.threshold) - self.fire(-u - self.threshold)
        return Step(s, v=self.after_spike(u, s if self.reset == "subtract" else abs(s), self.threshold), u=u)


class ConductanceLeaky(Neuron, reset="zero"):
    rho_e: Decay = 0.8
    rho_i: Decay = 0.8
    dt: Annotated[float, Between(0, 1, above=True)] = 0.1
    reversal_e: float = 3.0
    reversal_i: float = -1.0
    threshold: Positive = 1.0

    v: State = 0.0
    e: State = 0.0
    i: State = 0.0

    def step(self, excitation: Array, inhibition: Array, v: Array, e: Array, i: Array) -> Step:
        e, i = self.rho_e * e + excitation, self.rho_i * i + inhibition
        u = v + self.dt * (-v + e * (self.reversal_e - v) + i * (self.reversal_i - v))
        s = self.fire(u - self.threshold)
        return Step(s, v=self.after_spike(u, s, self.threshold), e=e, i=i, u=u)
