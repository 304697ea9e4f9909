"""Neurons with synapses: an input pulse becomes a current with a time course of its own, or acts through a conductance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Decay, Positive
from spikegrad.vocabulary import Array, exp, log, where


class Synaptic(Neuron):
    r"""Leaky integrate-and-fire whose input is a current that decays by itself: the current-based neuron, in short CUBA.

    .. math:: i_t = \alpha i_{t-1} + I_t, \qquad u_t = \beta v_{t-1} + i_t, \qquad s_t = H(u_t - \theta), \qquad v_t = u_t - \theta s_t

    Every input pulse acts for some 1 / (1 - alpha) steps. The current survives the spikes, so that gradients reach back through it past
    every reset: the second, slower path is why it often learns better than `Leaky` from inputs that are apart in time. With `reset_delay`
    the reset is due a step later, :math:`r_t = H(v_{t-1} - \theta)`, and v is u: subtracting,
    :math:`u_t = \beta v_{t-1} + i_t - \theta r_t`; to zero, :math:`u_t = (1 - r_t)(\beta v_{t-1} + i_t)`.

    Args:
        alpha: what is left of the current after a step, from 0 to 1: ``spikegrad.decay(tau_syn, dt)`` for a time constant.
        beta: what is left of the potential after a step, from 0 to 1, likewise.
        threshold: potential at which it spikes.

    States:
        i: current, at rest 0.
        v: potential after the reset, at rest 0.

    Options:
        reset_delay: let a spike reset the potential one step later.
        scale_input: multiply the current by 1 - beta where the potential takes it.
        reset, detach_reset, spike_at_threshold: as `Neuron` says.

    Elsewhere:
        snnTorch: ``Synaptic(alpha, beta, threshold)`` is ``Synaptic(alpha, beta, threshold, reset_delay=True, spike_at_threshold=False)``;
            its own ``reset_delay=False`` also takes off the reset of the step before
        SpikingJelly: ``CUBALIFNode(c_decay=alpha, v_decay=beta, v_threshold=threshold, v_reset=None)``; ``v_reset=0.0``, its default, is
            ``reset="zero"``
        Norse: ``LIFCell`` is ``Synaptic(1 - dt * tau_syn_inv, 1 - dt * tau_mem_inv, v_th, scale_input=True, reset="zero",
            detach_reset=False, spike_at_threshold=False)``; its state ``i`` is alpha times ours, decayed already
        sinabs: ``LIF(tau_mem, tau_syn, spike_fn=SingleSpike)`` is ``Synaptic(decay(tau_syn), decay(tau_mem), scale_input=True,
            detach_reset=False)`` of alpha times the input
        spyx: ``CuBaLIF(alpha=alpha, beta=beta)`` is ``Synaptic(alpha, beta, detach_reset=False, spike_at_threshold=False)`` whose spikes
            come one step later
        lava-dl: ``cuba.Neuron(threshold, current_decay=1 - alpha, voltage_decay=1 - beta)`` is ``reset="zero"`` in fixed-point numbers
        none: braintools, braincell

    References: zenke2018superspike, neftci2019surrogate

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> spikes, state = nn.Synaptic(0.5, 0.75)(torch.tensor([[0.875], [0.0], [0.0], [0.0]]))
        >>> spikes.ravel().tolist(), state.i.item(), state.v.item()
        ([0.0, 1.0, 0.0, 0.0], 0.109375, 0.326171875)
    """

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
    r"""A potential that is a sum of alpha functions: after each input pulse it rises smoothly, and falls more slowly than it rose.

    .. math:: f_t = \alpha f_{t-1} + I_t, \qquad n_t = \beta n_{t-1} - I_t, \qquad u_t = g (f_t + n_t), \qquad s_t = H(u_t - \theta),
              \qquad g = \frac{\log \alpha}{\log \beta - \log \alpha} + 1

    the spike response model of Gerstner, without refractory kernel. The two traces f and n cancel at the moment of a pulse, so that a
    potential answers first one step after its input: gradients to that input start there as well. The reset to zero clears both traces;
    the one by subtraction takes what makes a threshold from the slow trace f. Learned together, alpha and beta may meet, and where they
    are equal there is no neuron.

    Args:
        alpha: what is left of the fall after a step, above `beta`, below 1: ``spikegrad.decay(tau_fall, dt)`` for a time constant.
        beta: what is left of the rise after a step, above 0.
        threshold: potential at which it spikes.

    States:
        rise: the fast trace, negative, at rest 0.
        fall: the slow trace, at rest 0.

    Options:
        reset_delay: let a spike reset the traces one step later.
        reset, detach_reset, spike_at_threshold: as `Neuron` says; a reset is to zero by default.

    Elsewhere:
        snnTorch: ``Alpha(alpha, beta, threshold)`` is ``Alpha(alpha, beta, threshold, reset_delay=True, spike_at_threshold=False)``; its
            ``reset_mechanism="subtract"`` is another, which takes the threshold from ``syn_exc`` and all of ``syn_inh``
        none: SpikingJelly, Norse, sinabs, spyx, braintools, braincell, lava-dl

    References: gerstner2002spiking, eshraghian2023training

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import Alpha
        >>> spikes, _, u = nn.Layer(Alpha(0.875, 0.75))(torch.tensor([[4.0], [0.0], [0.0], [0.0]]), record=True)
        >>> spikes.ravel().tolist(), [round(x, 4) for x in u.ravel().tolist()]
        ([0.0, 0.0, 1.0, 0.0], [0.0, 0.9331, 1.5163, 0.0])
    """

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


class ConductanceLeaky(Neuron, reset="zero"):
    r"""Leaky integrate-and-fire whose two inputs open conductances, which pull the potential towards their own levels: COBA.

    .. math:: e_t = \rho_e e_{t-1} + [E_t]_+, \qquad i_t = \rho_i i_{t-1} + [J_t]_+, \qquad g_t = 1 + e_t + i_t
    .. math:: u_t = v_\infty + (v_{t-1} - v_\infty) e^{-\Delta g_t}, \qquad v_\infty = \frac{e_t v_e + i_t v_i}{g_t}, \qquad
              s_t = H(u_t - \theta), \qquad v_t = (1 - s_t) u_t

    with v_e and v_i the reversal potentials: the exact solution for conductances that are constant over a step, so that the potential stays
    between the levels however strong the input; Euler's step overshoots, and strong inhibition makes it spike. Much input makes the
    neuron fast and divides instead of subtracting: it normalises itself. It takes two inputs, excitation and inhibition; what is negative
    of either counts as zero. Conductances are in units of the leak's, potentials count from rest. The defaults are the benchmark of Brette
    et al. 2007 at steps of 1 ms, without its refractory period; a unit of potential is 10 mV.

    Args:
        rho_e: what is left of the excitatory conductance after a step: ``spikegrad.decay(5, dt=1)``.
        rho_i: what is left of the inhibitory one: ``spikegrad.decay(10, dt=1)``.
        dt: length of a step, in time constants of the membrane at rest.
        reversal_e: potential that excitation pulls to, above the threshold.
        reversal_i: potential that inhibition pulls to.
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest 0.
        e: excitatory conductance, at rest 0.
        i: inhibitory conductance, at rest 0.

    Options:
        reset, detach_reset, spike_at_threshold: as `Neuron` says; a reset is to zero, the potential at rest, by default.

    Elsewhere:
        Norse: ``coba_lif_feed_forward_step`` takes Euler's step, of conductances that have decayed already: nearly ``ConductanceLeaky(
            1 - dt * tau_syn_exc_inv, 1 - dt * tau_syn_inh_inv, dt * c_m_inv * g_l, e_rev_E - v_rest, e_rev_I - v_rest, v_thresh - v_rest)``
            of rho times its inputs over `g_l`, for small `dt`, if it resets to rest. In ``CobaLIFCell`` the input has no effect: what is
            fed back overwrites it
        braintools, braincell: none; ``brainpy.state.LIF`` with synapses that are projections, by an exponential Euler step
        none: SpikingJelly, sinabs, spyx, snnTorch, lava-dl

    References: vogels2005signal, brette2007simulation

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import ConductanceLeaky
        >>> excitation, inhibition = torch.full((60, 2), 0.125), torch.tensor([0.0, 0.5]).expand(60, 2)
        >>> spikes, _ = nn.Layer(ConductanceLeaky())((excitation, inhibition))
        >>> spikes.sum(0).tolist()
        [8.0, 0.0]
    """

    rho_e: Decay = 0.82
    rho_i: Decay = 0.9
    dt: Positive = 0.05
    reversal_e: float = 6.0
    reversal_i: float = -2.0
    threshold: Positive = 1.0

    v: State = 0.0
    e: State = 0.0
    i: State = 0.0

    def step(self, excitation: Array, inhibition: Array, v: Array, e: Array, i: Array) -> Step:
        e = self.rho_e * e + where(excitation <= 0.0, 0.0, excitation)
        i = self.rho_i * i + where(inhibition <= 0.0, 0.0, inhibition)
        g = 1 + e + i
        level = (e * self.reversal_e + i * self.reversal_i) / g
        u = level + (v - level) * exp(-self.dt * g)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.after_spike(u, s, self.threshold), e=e, i=i, u=u)
