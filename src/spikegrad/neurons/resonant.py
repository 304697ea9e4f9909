"""Neurons whose potential oscillates, and which answer best to inputs of their own frequency."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Between, Decay, NonNegative, Positive
from spikegrad.vocabulary import Array, cos, exp, maximum, sin, sqrt

_NO_ROOM = 1e-12
"""What takes the place of a square root's argument that learning has made negative: no NaN, and no gradient."""


class ResonateAndFire(Neuron, reset="zero"):
    r"""A damped oscillation that input pushes along one axis, and a spike when the other axis crosses the threshold.

    .. math:: x_t + i u_t = e^{(d + i \omega) \Delta} (x_{t-1} + i v_{t-1}) + I_t, \qquad s_t = H(u_t - \theta), \qquad
              (x, v)_t = \begin{cases} (0, \theta) & s_t = 1 \\ (x_t, u_t) & \text{otherwise} \end{cases}

    with d the `damping` and Delta the step `dt`. Two pulses a period apart make it spike and two half a period apart do not: it finds
    frequencies where `Leaky` finds sums. The step is exact, so that any `dt` is stable. Learned frequencies have a rough loss; start them
    spread over those of the data, different for each neuron. A spike puts the oscillation at the threshold at rest, as the paper does; with
    ``reset_phase=False`` x goes on, and v is reset like any potential, by default to zero.

    Args:
        damping: real part of the eigenvalue, per unit of `dt`; at most 0.
        omega: angular frequency, in radians per unit of `dt`.
        dt: length of a step.
        threshold: v at which it spikes.

    States:
        x: current-like part, which takes the input, at rest 0.
        v: potential-like part, which spikes, at rest 0.

    Options:
        reset_phase: let a spike put the oscillation at ``(x, v) = (0, threshold)``; else it changes v alone, as `reset` says.
        reset: as `Neuron` says, with ``reset_phase=False``.
        detach_reset, spike_at_threshold: as `Neuron` says.

    Elsewhere:
        SpikingJelly: ``RAFNode(b=damping, omega=omega, dt=dt, v_threshold=threshold)`` is ``ResonateAndFire(..., reset_phase=False)``;
            ``v_reset=None`` is ``reset="subtract"``
        spyx: ``phasor.ResonateFire(lambda_init=-damping)`` has the same oscillation without reset, and spikes by its real part, x
        lava-dl: ``rf_iz.Neuron(threshold, period, decay)`` sets x to 0 and leaves v, in fixed-point numbers; its damping is
            ``log(1 - decay)`` and its frequency ``2 * pi / period`` a step
        none: Norse, sinabs, snnTorch, braintools, braincell

    References: izhikevich2001resonate

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import ResonateAndFire
        >>> layer = nn.Layer(ResonateAndFire(damping=-0.1, omega=torch.pi / 2))  # a period of four steps
        >>> pulses = torch.tensor([[0.75, 0.75], [0.0, 0.0], [0.0, 0.75], [0.0, 0.0], [0.75, 0.0], [0.0, 0.0]])
        >>> layer(pulses)[0].sum(0).tolist()
        [1.0, 0.0]
    """

    damping: Annotated[float, Between(high=0)] = -0.2
    omega: Positive = 1.0
    dt: Positive = 1.0
    threshold: Positive = 1.0

    x: State = 0.0
    v: State = 0.0

    reset_phase: bool = dataclasses.field(default=True, kw_only=True)

    def step(self, current: Array, x: Array, v: Array) -> Step:
        shrink = exp(self.damping * self.dt)
        c, s = shrink * cos(self.omega * self.dt), shrink * sin(self.omega * self.dt)
        x, u = c * x - s * v + current, s * x + c * v
        z = self.fire(u - self.threshold)
        if self.reset_phase:
            return Step(z, x=self.reset_to(x, z, 0.0), v=self.reset_to(u, z, self.threshold), u=u)
        return Step(z, x=x, v=self.after_spike(u, z, self.threshold), u=u)


class BalancedResonateAndFire(Neuron):
    r"""An oscillator that cannot diverge and has no reset: a spike damps it for a while and raises its threshold, BRF.

    .. math:: b_t = \frac{\sqrt{1 - (\Delta \omega)^2} - 1}{\Delta} - b' - q_{t-1}, \qquad
              u_t = x_{t-1} + \Delta (b_t x_{t-1} - \omega y_{t-1} + I_t), \qquad
              y_t = y_{t-1} + \Delta (\omega x_{t-1} + b_t y_{t-1})
    .. math:: s_t = H(u_t - \theta - q_{t-1}), \qquad x_t = u_t, \qquad q_t = \gamma q_{t-1} + s_t

    with b' the `offset`, Delta the step `dt`. The first part of the damping is exactly what keeps Euler's step from growing at this
    frequency, which made earlier resonators diverge in training; with the smooth reset gradients pass hundreds of steps, and few spikes
    are enough. `omega` and `offset` are what is learned, different for each neuron.

    Args:
        omega: angular frequency, in radians per unit of `dt`, at most 1 / dt; the authors learn it from values like 15 to 85. Where
            learning takes it beyond, no damping could keep Euler's step from growing, and the least growth is taken.
        offset: damping beyond the boundary of divergence, per unit of `dt`; the authors learn it from values like 0.1 to 1.
        dt: length of a step.
        gamma: what is left of the refractory variable after a step.
        threshold: potential at which it spikes at rest.

    States:
        x: potential, the real part, at rest 0.
        y: imaginary part, at rest 0.
        q: refractory variable: spikes of the past, each decayed by gamma a step, at rest 0. The spike in it is never detached.

    Options:
        spike_at_threshold: as `Neuron` says; the authors spike above the threshold. There is no reset.

    Elsewhere:
        none: SpikingJelly, Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl; the authors' own is ``BRFCell`` of brf-neurons

    References: higuchi2024balanced

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import BalancedResonateAndFire
        >>> wave = 40 * torch.sin(torch.arange(100) * 0.01 * torch.tensor([[20.0], [60.0]])).T  # of two frequencies
        >>> nn.Layer(BalancedResonateAndFire(omega=60.0))(wave)[0].sum(0).tolist()
        [0.0, 16.0]
    """

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
        boundary = (sqrt(maximum(1 - (self.dt * self.omega) ** 2, _NO_ROOM)) - 1) / self.dt
        b = boundary - self.offset - q
        u = x + self.dt * (b * x - self.omega * y + current)
        y = y + self.dt * (self.omega * x + b * y)
        s = self.fire(u - self.threshold - q)
        return Step(s, x=u, y=y, q=self.gamma * q + s, u=u)


class BalancedHarmonic(Neuron):
    r"""The balanced resonator as a harmonic oscillator, a mass on a spring whose speed spikes: BHRF.

    .. math:: b_t = \frac{\Delta}{2} \omega^2 + b' + q_{t-1}, \qquad y_t = y_{t-1} + \Delta v_{t-1}, \qquad
              u_t = v_{t-1} + \Delta (I_t - 2 b_t v_{t-1} - \omega^2 y_t)
    .. math:: s_t = H(u_t - \theta - q_{t-1}), \qquad v_t = u_t, \qquad q_t = \gamma q_{t-1} + s_t

    with b' the `offset`, Delta the step `dt`. The same frequencies as `BalancedResonateAndFire` without its square root, so that `omega` is
    not bounded; the input drives the speed.

    Args:
        omega: angular frequency, in radians per unit of `dt`.
        offset: damping beyond the boundary of divergence, per unit of `dt`.
        dt: length of a step.
        gamma: what is left of the refractory variable after a step.
        threshold: speed at which it spikes at rest.

    States:
        v: speed, at rest 0.
        y: displacement, at rest 0.
        q: refractory variable: spikes of the past, each decayed by gamma a step, at rest 0. The spike in it is never detached.

    Options:
        spike_at_threshold: as `Neuron` says; the authors spike above the threshold. There is no reset.

    Elsewhere:
        none: SpikingJelly, Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl; the authors' own is ``HRFCell`` of brf-neurons

    References: higuchi2024balanced

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import BalancedHarmonic
        >>> wave = 40 * torch.sin(torch.arange(100) * 0.01 * torch.tensor([[5.0], [20.0]])).T  # of two frequencies
        >>> nn.Layer(BalancedHarmonic(omega=20.0))(wave)[0].sum(0).tolist()
        [0.0, 15.0]
    """

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
