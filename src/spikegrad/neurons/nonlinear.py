"""Neurons whose potential runs away by itself once it is high enough: the upstroke of a spike is part of the equation."""

from __future__ import annotations

from collections.abc import Mapping

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Positive
from spikegrad.vocabulary import Array, exp, minimum

_STEEPEST = 50.0
"""The largest exponent of an exponential neuron: past it the potential is above any threshold, and once infinite it would be NaN for ever."""


class QuadraticIF(Neuron):
    tau: Positive = 2.0
    critical: float = 0.8
    curvature: Positive = 1.0
    rest: float = 0.0
    reset_potential: float = -0.1
    threshold: float = 1.0

    v: State = 0.0

    def resting(self) -> Mapping[str, Array]:
        return {"v": self.rest}

    def step(self, current: Array, v: Array) -> Step:
        u = self.quantized(v + (current + self.curvature * (v - self.rest) * (v - self.critical)) / self.tau)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.reset_to(u, s, self.reset_potential), u=u)


class ExponentialIF(Neuron):
    tau: Positive = 2.0
    sharpness: Positive = 1.0
    rheobase: float = 0.8
    rest: float = 0.0
    reset_potential: float = -0.1
    threshold: float = 1.0

    v: State = 0.0

    def resting(self) -> Mapping[str, Array]:
        return {"v": self.rest}

    def step(self, current: Array, v: Array) -> Step:
        upstroke = self.sharpness * exp(minimum((v - self.rheobase) / self.sharpness, _STEEPEST))
        u = self.quantized(v + (current + self.rest - v + upstroke) / self.tau)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.reset_to(u, s, self.reset_potential), u=u)


class AdEx(Neuron):
    tau: Positive = 10.0
    tau_w: Positive = 50.0
    sharpness: Positive = 0.5
    rheobase: float = 1.0
    rest: float = 0.0
    a: float = 0.1
    b: float = 0.02
    reset_potential: float = 0.0
    threshold: float = 1.0

    v: State = 0.0
    w: State = 0.0

    def resting(self) -> Mapping[str, Array]:
        return {"v": self.rest}

    def step(self, current: Array, v: Array, w: Array) -> Step:
        upstroke = self.sharpness * exp(minimum((v - self.rheobase) / self.sharpness, _STEEPEST))
        u = self.quantized(v + (current + self.rest - v + upstroke - w) / self.tau)
        s = self.fire(u - self.threshold)
        w = w + (self.a * (v - self.rest) - w) / self.tau_w
        return Step(s, v=self.reset_to(u, s, self.reset_potential), w=w + self.b * s, u=u)


class Izhikevich(Neuron):
    a: float = 0.02
    b: float = 0.2
    c: float = -65.0
    d: float = 8.0
    dt: Positive = 0.25
    threshold: float = 30.0

    v: State = 0.0
    w: State = 0.0

    def resting(self) -> Mapping[str, Array]:
        return {"v": self.c, "w": self.b * self.c}

    def step(self, current: Array, v: Array, w: Array) -> Step:
        u = self.quantized(v + self.dt * (0.04 * v * v + 5 * v + 140 - w + current))
        s = self.fire(u - self.threshold)
        w = w + self.dt * self.a * (self.b * v - w)
        return Step(s, v=self.reset_to(u, s, self.c), w=w + self.d * self.resetting(s), u=u)
