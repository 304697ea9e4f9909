"""Neurons with gates, complementary memories, compartments and gains."""

from __future__ import annotations

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Fraction, Positive
from spikegrad.vocabulary import Array, sigmoid, where


class GatedLeaky(Neuron):
    r"""A neuron that learns what kind of neuron it is: gates choose between two leaks, two ways to take input and two resets, GLIF.

    .. math:: u_t = (1 - \alpha (1 - \tau)) v_{t-1} (1 - \gamma s_{t-1}) - (1 - \alpha) \ell + (1 - \beta (1 - g_t)) I_t
              - (1 - \gamma) r s_{t-1}, \qquad s_t = H(u_t - \theta), \qquad v_t = u_t

    with l the `leak`, r the `drop` and g the second input, a conductance of each step. With every gate at 1 the leak is by the factor tau,
    the input is weighted by the conductance and the reset is to zero; with every gate at 0 the leak is a constant, the input is taken as it
    is and the reset subtracts. All numbers are learned, different for each channel; the paper also learns a conductance for each step,
    ``torch.sigmoid(parameter)`` of shape ``(time, 1, channels)``, expanded to that of the currents.

    Args:
        alpha: gate of the leak, from 0, linear, to 1, exponential.
        beta: gate of the input, from 0, plain, to 1, weighted by the conductance.
        gamma: gate of the reset, from 0, by subtraction, to 1, to zero.
        tau: what is left of the potential after a step under the exponential leak.
        leak: what the linear leak takes a step; the default is the paper's for four steps, threshold / (2 * 4).
        drop: what the reset by subtraction takes.
        threshold: potential at which it spikes.

    States:
        v: potential, the reset still due, at rest 0.
        s: the spike of the step before, at rest 0. It is never detached.

    Options:
        spike_at_threshold: as `Neuron` says; the authors spike above the threshold. The gates are the reset.

    Elsewhere:
        SpikingJelly: ``GatedLIFNode(T, inplane)``, whose parameters are the logits of these numbers, and of a conductance for each step
        none: Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl

    References: yao2022glif

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import GatedLeaky
        >>> currents, conductances = torch.full((5, 1), 0.5), torch.full((5, 1), 0.5)
        >>> spikes, state = nn.Layer(GatedLeaky())((currents, conductances))
        >>> spikes.ravel().tolist(), round(state.v.item(), 4)
        ([0.0, 1.0, 0.0, 1.0, 0.0], 0.2536)
    """

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
    r"""Leaky integrate-and-fire beside a second memory, which a spike strengthens and which deepens the reset: CLIF.

    .. math:: u_t = \left(1 - \tfrac{1}{\tau}\right) v_{t-1} + I_t, \qquad s_t = H(u_t - \theta), \qquad
              m_t = m_{t-1} \sigma\left(\tfrac{u_t}{\tau}\right) + s_t, \qquad v_t = u_t - s_t (\theta + \sigma(m_t))

    with the logistic function sigma. A neuron that has fired much is reset deeper. What counts is the gradient: the memory m carries it
    over many steps where the potential's has vanished, for convolutional networks of few steps, without a number to tune. For that the
    spikes stay attached, in the memory and in the reset, and there is nothing to detach.

    Args:
        tau: time constant of both, in steps.
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest 0.
        m: complementary potential, at rest 0.

    Options:
        spike_at_threshold: as `Neuron` says.

    Elsewhere:
        SpikingJelly: ``ComplementaryLIFNode(tau, v_threshold=threshold)``, whose surrogate is by default ``Boxcar(width=0.5)``
        none: Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl

    References: huang2024clif

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import ComplementaryLeaky
        >>> spikes, state = nn.Layer(ComplementaryLeaky())(torch.full((5, 1), 1.0))
        >>> spikes.ravel().tolist(), round(state.v.item(), 4), round(state.m.item(), 4)
        ([1.0, 0.0, 1.0, 0.0, 1.0], -0.4448, 1.5462)
    """

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
    r"""A dendrite that takes the input and a soma that spikes, without a leak but coupled so that neither runs away: TC-LIF.

    .. math:: d_t = d'_{t-1} - \beta_d v_{t-1} + I_t, \qquad u_t = v_{t-1} + \beta_s d_t, \qquad s_t = H(u_t - \theta), \qquad
              v_t = u_t - \theta s_t, \qquad d'_t = d_t - \gamma s_t

    with the couplings `dendrite` and `soma`. The two together oscillate undamped, so that a gradient over hundreds of steps neither
    vanishes nor grows: made for long sequences. Both couplings are learned, in the paper as the logistic function of parameters.

    Args:
        dendrite: what the soma takes from the dendrite, per potential and step.
        soma: what of the dendrite's potential reaches the soma in a step.
        gamma: what a spike takes from the dendrite.
        threshold: potential of the soma at which it spikes.

    States:
        d: potential of the dendrite after the reset, at rest 0.
        v: potential of the soma after the reset, at rest 0.

    Options:
        reset: as `Neuron` says; only the one by subtraction, the paper's, reaches the dendrite.
        detach_reset, spike_at_threshold: as `Neuron` says.

    Elsewhere:
        none: SpikingJelly, Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl; the authors' own is ``TCLIFNode`` of TC-LIF,
            whose ``hard_reset=True`` is ``reset="zero"``

    References: zhang2024tclif

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import TwoCompartment
        >>> spikes, state = nn.Layer(TwoCompartment())(torch.full((5, 1), 0.75))
        >>> spikes.ravel().tolist(), state.d.item(), state.v.item()
        ([0.0, 1.0, 0.0, 1.0, 1.0], 1.2685546875, 0.63623046875)
    """

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
        d = self.after_spike(d, s, self.gamma) if self.reset == "subtract" else d
        return Step(s, d=d, v=self.after_spike(u, s, self.threshold), u=u)


class KLIF(Neuron, reset="zero"):
    r"""Leaky integrate-and-fire whose potential is multiplied by a learned gain and rectified before it spikes.

    .. math:: u_t = \left[k \left(v_{t-1} + \tfrac{1}{\tau} (I_t - v_{t-1})\right)\right]_+, \qquad s_t = H(u_t - \theta), \qquad
              v_t = (1 - s_t) u_t

    A learned gain is a learned slope and width of the surrogate, and at the same time scales the gradient that goes back in time. The
    potential is never negative: inhibition is forgotten at once. Where it is rectified no gradient flows, so that a neuron that only gets
    negative input does not learn.

    Args:
        tau: time constant, in steps.
        k: gain, learned from 1 in the paper.
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest 0.

    Options:
        reset, detach_reset, spike_at_threshold: as `Neuron` says; a reset is to zero by default.

    Elsewhere:
        SpikingJelly: ``KLIFNode(tau=tau, v_threshold=threshold)``, which learns k; ``v_reset=None`` is ``reset="subtract"``; its
            ``scale_reset=True``, which divides by k again, and ``decay_input=False`` have no like here
        none: Norse, sinabs, spyx, snnTorch, braintools, braincell, lava-dl

    References: jiang2023klif

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import KLIF
        >>> spikes, v = nn.Layer(KLIF(k=1.5))(torch.tensor([[1.0], [1.0], [-2.0], [1.25]]))
        >>> spikes.ravel().tolist(), v.item()
        ([0.0, 1.0, 0.0, 0.0], 0.9375)
    """

    tau: Positive = 2.0
    k: Positive = 1.0
    threshold: Positive = 1.0

    v: State = 0.0

    def step(self, current: Array, v: Array) -> Step:
        x = self.k * (v + (current - v) / self.tau)
        u = where(x <= 0.0, 0.0, x)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.after_spike(u, s, self.threshold), u=u)
