"""Neurons that adapt: thresholds and currents that their own spikes change for a while."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Between, Decay, Fraction, Positive
from spikegrad.vocabulary import Array


class Adaptive(Neuron):
    r"""Leaky integrate-and-fire whose threshold rises with every spike and decays: the ALIF neuron of networks called LSNN.

    .. math:: \theta_t = \theta + j a_{t-1}, \qquad u_t = \beta v_{t-1} + I_t, \qquad s_t = H(u_t - \theta_t), \qquad
              v_t = u_t - \theta_t s_t, \qquad a_t = \rho a_{t-1} + s_t

    with j the `jump`. The threshold is a memory of the neuron's own spikes that lasts some 1 / (1 - rho) steps, much longer than the
    potential's, and that no reset clears; gradients reach back through it. That is what lets such networks learn what a recurrent
    network of `Leaky` neurons forgets. The spike that raises the threshold is never detached.

    In Bellec et al. 2018 a spike adds 1 - rho to its variable b, and the threshold is b0 + 1.8 b: a `jump` of 1.8 (1 - rho). There the
    reset comes a step later and has not decayed by then: it is 1 / beta times ours. Bellec et al. 2020 add 1, as here.

    Args:
        beta: what is left of the potential after a step, from 0 to 1: ``spikegrad.decay(tau, dt)`` for a time constant.
        rho: what is left of the adaptation after a step, from 0 to 1, likewise.
        jump: by how much a spike raises the threshold.
        threshold: potential at which it spikes at rest.

    States:
        v: potential after the reset, at rest 0.
        a: spikes of the past, each decayed by rho a step, at rest 0.

    Options:
        scale_input: multiply the input by 1 - beta, so that under a constant input I the potential tends to I.
        reset, detach_reset, spike_at_threshold: as `Neuron` says; the reset by subtraction takes off the raised threshold.

    Elsewhere:
        sinabs: ``ALIF(tau_mem, tau_adapt, adapt_scale=adapt_scale, spike_threshold=threshold)`` is ``Adaptive(decay(tau_mem), rho,
            adapt_scale * (1 - rho), threshold, scale_input=True, detach_reset=False)`` with ``rho = decay(tau_adapt)``, but there no
            gradient flows through the threshold of the spike
        Norse: ``LSNNCell`` is, after a synapse ``LeakyIntegrator(1 - dt * tau_syn_inv)``, of the input of the step before,
            ``Adaptive(1 - dt * tau_mem_inv, rho, rho * beta, v_th, scale_input=True, reset="zero", detach_reset=False,
            spike_at_threshold=False)`` with ``rho = 1 - dt * tau_adapt_inv``
        spyx: ``ALIF(beta=beta, gamma=rho)`` is ``Adaptive(beta, rho, 1 - rho, detach_reset=False, spike_at_threshold=False)`` whose
            spikes come one step later, but for the reset, which is the one of the paper; with ``beta=1`` they are the same
        braintools, braincell: none; ``brainpy.state.ALIF`` resets by the threshold at rest
        lava-dl: ``alif.Neuron`` adapts likewise, but resets by a refractory term that decays
        none: SpikingJelly, snnTorch

    References: bellec2018long, bellec2020solution, yin2021accurate

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import Adaptive
        >>> spikes, _, theta = nn.Layer(Adaptive(0.5, rho=0.5, jump=1.0))(torch.full((4, 1), 1.25), record="theta")
        >>> spikes.ravel().tolist(), theta.ravel().tolist()
        ([1.0, 0.0, 1.0, 0.0], [1.0, 2.0, 1.5, 2.25])
    """

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
    r"""Leaky integrate-and-fire with a current that follows the potential and the spikes, and works against them: adLIF.

    .. math:: s'_t = H(v_{t-1} - \theta), \qquad w_t = \beta w_{t-1} + a v_{t-1} + b s'_t, \qquad
              u_t = \alpha (v_{t-1} - \theta s'_t) + (1 - \alpha) (I_t - w_t), \qquad s_t = H(u_t - \theta), \qquad v_t = u_t

    Positive `a` makes the potential resonate, negative `a` makes it linger; `b` spreads spikes out. Cheap, and strong on speech, with every
    number learned and different for each neuron. The reset acts one step later, as the paper has it; the current sees the potential
    before it. The spike that drives the current is never detached.

    Args:
        alpha: what is left of the potential after a step; the authors learn it between 0.82 and 0.96, time constants of 5 to 25 steps.
        beta: what is left of the current after a step; theirs is between 0.967 and 0.992, time constants of 30 to 120 steps.
        a: current per potential and step, from -1 to 1; they start anywhere between.
        b: current per spike, from 0 to 2; likewise.
        threshold: potential at which it spikes.

    States:
        v: potential, the reset still due, at rest 0.
        w: adaptation current, at rest 0; the authors start at random.

    Options:
        reset, detach_reset, spike_at_threshold: as `Neuron` says; the authors' reset has a gradient, and they spike above the threshold.

    Elsewhere:
        none: SpikingJelly, Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl; the authors' own is ``adLIFLayer`` of sparch

    References: bittar2022surrogate

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import AdaptiveLeaky
        >>> spikes, state = nn.Layer(AdaptiveLeaky(0.5, 0.5, a=0.5, b=1.0))(torch.full((5, 1), 2.0))
        >>> spikes.ravel().tolist(), state.v.item(), state.w.item()
        ([1.0, 0.0, 0.0, 0.0, 1.0], 1.04296875, 0.8671875)
    """

    alpha: Decay = 0.9
    beta: Decay = 0.98
    a: Annotated[float, Between(-1, 1)] = 0.1
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
    r"""adLIF in a discretisation that keeps its oscillations: the adaptation current follows the potential of this step, SE-adLIF.

    .. math:: u_t = \alpha v_{t-1} + (1 - \alpha) (I_t - w_{t-1}), \qquad s_t = H(u_t - \theta), \qquad v_t = (1 - s_t) u_t, \qquad
              w_t = \beta w_{t-1} + (1 - \beta) q (a v_t + b s_t)

    with q the `gain`. Euler's step, which takes the potential of the step before in both equations, lets oscillations grow in part of the
    range of a and b; the symplectic one is stable over all of it, so that learning may use it all. Recurrent networks of it are among the
    best on spoken digits. The reset comes first, and the spike that drives the current is never detached.

    Args:
        alpha: what is left of the potential after a step; the authors learn it between 0.82 and 0.96, time constants of 5 to 25 steps.
        beta: what is left of the current after a step; theirs is between 0.983 and 0.997, time constants of 60 to 300 steps.
        a: coupling of the current to the potential, from 0 to 1; they start anywhere between.
        b: coupling of the current to the spikes, from 0 to 2; likewise.
        gain: what both couplings are multiplied by, so that they need not be large; theirs is 120, and 60 for their Euler variant.
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest 0.
        w: adaptation current, at rest 0.

    Options:
        reset, detach_reset, spike_at_threshold: as `Neuron` says; a reset is to zero by default. The authors spike above the threshold.

    Elsewhere:
        none: SpikingJelly, Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl; the authors' own is ``SEAdLIF`` of SE-adlif

    References: baronig2025advancing

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import SymplecticAdaptiveLeaky
        >>> spikes, _, u = nn.Layer(SymplecticAdaptiveLeaky(0.5, 0.5, a=0.5, b=1.0, gain=2.0))(torch.full((5, 1), 2.5), record=True)
        >>> spikes.ravel().tolist(), u.ravel().tolist()
        ([1.0, 0.0, 1.0, 0.0, 1.0], [1.25, 0.75, 1.1875, 0.53125, 1.0234375])
    """

    alpha: Decay = 0.93
    beta: Decay = 0.994
    a: Fraction = 0.5
    b: Annotated[float, Between(0, 2)] = 1.0
    gain: Positive = 120.0
    threshold: Positive = 1.0

    v: State = 0.0
    w: State = 0.0

    def step(self, current: Array, v: Array, w: Array) -> Step:
        u = self.quantized(self.alpha * v + (1 - self.alpha) * (current - w))
        s = self.fire(u - self.threshold)
        v = self.after_spike(u, s, self.threshold)
        w = self.beta * w + (1 - self.beta) * self.gain * (self.a * v + self.b * s)
        return Step(s, v=v, w=w, u=u)
