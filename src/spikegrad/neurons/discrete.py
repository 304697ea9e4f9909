"""Neurons whose output is not one spike or none: signed, whole or real numbers, and zero most of the time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Decay, Positive
from spikegrad.vocabulary import Array, where


class IntegerLeaky(Neuron):
    r"""A leaky neuron that gives up to `levels` spikes at once, as one whole number: I-LIF.

    .. math:: u_t = \beta v_{t-1} + I_t, \qquad s_t = \sum_{k=1}^{D} H\left(\frac{u_t}{\theta} - k + \frac{1}{2}\right), \qquad
              v_t = u_t - \theta s_t

    with D the `levels`: the potential in thresholds, rounded to the nearest whole number from 0 to D, halves up. Trained with few steps and
    whole numbers, run with D times as many steps of single spikes. The gradient is the surrogate's at each of the D stairs, one threshold
    apart; the paper's, 1 from 0 to D, is ``spike=Boxcar(width=0.5)``.

    Args:
        beta: what is left of the potential after a step; the paper's default.
        threshold: potential per spike.
        levels: the largest number of spikes in a step, 4 in the paper.

    States:
        v: potential after the reset, at rest 0; below zero if it was rounded up.

    Options:
        detach_reset, spike_at_threshold: as `Neuron` says; the reset takes off a threshold for each spike. The paper detaches it.

    Elsewhere:
        SpikingJelly: ``ILIFNode(tau, v_threshold, MultiLevelSpikeCount(levels))`` is ``IntegerLeaky(1 - 1 / tau, v_threshold, levels,
            spike=Boxcar(width=0.5))``, but for potentials at a half exactly, which it rounds to the even number
        sinabs: ``MaxSpike(levels)`` in a ``LIF`` rounds down, and its surrogate is not that of the stairs
        none: Norse, spyx, snnTorch, braintools, braincell, lava-dl

    References: luo2024integer

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import IntegerLeaky
        >>> spikes, v = nn.Layer(IntegerLeaky())(torch.tensor([[2.25], [0.75], [7.0], [-1.0]]))
        >>> spikes.ravel().tolist(), v.item()
        ([2.0, 1.0, 4.0, 0.0], -0.26171875)
    """

    beta: Decay = 0.25
    threshold: Positive = 1.0
    levels: int = 4

    v: State = 0.0

    def valid(self) -> Mapping[str, Array]:
        return {"`levels` of at least 1": self.levels >= 1}

    def step(self, current: Array, v: Array) -> Step:
        u = self.beta * v + current
        s = self.fire(u / self.threshold - 0.5)
        for level in range(1, self.levels):
            s = s + self.fire(u / self.threshold - (level + 0.5))
        return Step(s, v=u - self.threshold * self.resetting(s), u=u)


class SigmaDelta(Neuron):
    r"""A rectified unit that adds up changes it receives, and sends its own change only when that is large enough.

    .. math:: \sigma_t = \sigma_{t-1} + I_t, \qquad u_t = [\sigma_t]_+, \qquad \delta_t = u_t - \mathrm{sent}_{t-1}, \qquad
              s_t = \delta_t \left(H(\delta_t - \theta) + H(-\delta_t - \theta)\right), \qquad \mathrm{sent}_t = \mathrm{sent}_{t-1} + s_t

    For signals that change slowly, as video does: a network of these computes what the rectified one would, each unit off by less than a
    threshold, and works only where something changes. It has no leak and no reset. The gradient of the output is exact where something is
    sent, plus the surrogate's of the decision to send it, times what would be sent: the larger the threshold, the more it counts.

    Args:
        threshold: smallest change that is sent.

    States:
        sigma: sum of the input, at rest 0.
        sent: sum of the output, which is what the receivers know of u, at rest 0.

    Options:
        spike_at_threshold: as `Neuron` says.

    Elsewhere:
        lava-dl: ``sigma_delta.Neuron(threshold, activation=relu)``, up to its rounding of the output; its gradient is the one of a unit
            without threshold
        none: SpikingJelly, Norse, sinabs, spyx, braintools, braincell; snnTorch, whose ``DeltaLeaky`` spikes at changes, but 0 or 1

    References: oconnor2017sigma

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import SigmaDelta
        >>> sent, state = nn.Layer(SigmaDelta(threshold=0.5))(torch.tensor([[1.0], [0.25], [0.25], [-2.0]]))
        >>> sent.ravel().tolist(), state.sigma.item(), state.sent.item()
        ([1.0, 0.0, 0.5, -1.5], -0.5, 0.0)
    """

    threshold: Positive = 0.1

    sigma: State = 0.0
    sent: State = 0.0

    def step(self, current: Array, sigma: Array, sent: Array) -> Step:
        sigma = sigma + current
        u = where(sigma <= 0.0, 0.0, sigma)
        change = u - sent
        s = (self.fire(change - self.threshold) + self.fire(-change - self.threshold)) * change
        return Step(s, sigma=sigma, sent=sent + s, u=u)


class Ternary(Neuron, reset="zero"):
    r"""Leaky integrate-and-fire with a threshold on either side of rest: spikes are 1, 0 or -1.

    .. math:: u_t = \beta v_{t-1} + I_t, \qquad s_t = H(u_t - \theta) - H(-u_t - \theta), \qquad v_t = (1 - |s_t|) u_t

    Negative spikes say what `Leaky` is silent about, at the same cost: a spike still only adds or subtracts a weight, and carries log 3
    instead of log 2. Inputs around zero, as after a normalisation, suit it. The gradient is the sum of the surrogate's at both thresholds.

    Args:
        beta: what is left of the potential after a step; the paper's default.
        threshold: potential at which it spikes; at its negative it spikes negatively. The paper's default.

    States:
        v: potential after the reset, at rest 0.

    Options:
        scale_input: multiply the input by 1 - beta, so that under a constant input I the potential tends to I.
        reset, detach_reset, spike_at_threshold: as `Neuron` says; a spike of either sign resets to zero by default, and by subtraction it
            moves the potential one threshold towards rest.

    Elsewhere:
        SpikingJelly: ``TernaryLIFNode(tau, decay_input, v_threshold)`` is ``Ternary(1 - 1 / tau, v_threshold, scale_input=decay_input)``;
            ``v_reset=None`` is ``reset="subtract"``; ``TernaryIFNode(v_threshold)`` is ``Ternary(1.0, v_threshold)``
        none: Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl

    References: guo2024ternary

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import Ternary
        >>> spikes, v = nn.Layer(Ternary())(torch.tensor([[0.75], [-0.25], [-0.5], [0.25]]))
        >>> spikes.ravel().tolist(), v.item()
        ([1.0, 0.0, -1.0, 0.0], 0.25)
    """

    beta: Decay = 0.25
    threshold: Positive = 0.5

    v: State = 0.0

    scale_input: bool = dataclasses.field(default=False, kw_only=True)

    def step(self, current: Array, v: Array) -> Step:
        u = self.beta * v + ((1 - self.beta) * current if self.scale_input else current)
        above, below = self.fire(u - self.threshold), self.fire(-u - self.threshold)
        s = above - below
        # Both thresholds reset alike; the sum has a gradient at s = 0, where abs(s) has none.
        return Step(s, v=self.after_spike(u, s if self.reset == "subtract" else above + below, self.threshold), u=u)
