"""Leaky integrate-and-fire neurons, and what is simplest around them."""

from __future__ import annotations

import dataclasses

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Decay, NonNegative, Positive
from spikegrad.vocabulary import Array, exp, maximum, where


class IntegrateAndFire(Neuron):
    r"""The sum of all input since the last spike, and a spike when it reaches the threshold.

    .. math:: u_t = v_{t-1} + I_t, \qquad s_t = H(u_t - \theta), \qquad v_t = u_t - \theta s_t

    Nothing is forgotten, so that with the reset by subtraction the number of spikes is the input's sum in thresholds, rounded down, while
    that is at most one a step: the neuron of networks converted from rectified linear units. Gradients neither shrink nor grow over time;
    to forget, take `Leaky`.

    Args:
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest 0.

    Options:
        reset, detach_reset, spike_at_threshold: as `Neuron` says.

    Elsewhere:
        SpikingJelly: ``IFNode(v_threshold=threshold, v_reset=None)``; ``v_reset=0.0``, its default, is ``reset="zero"``
        Norse: ``IAFCell`` is ``IntegrateAndFire(reset="zero", detach_reset=False, spike_at_threshold=False)``
        sinabs: ``IAF(spike_threshold=threshold, spike_fn=SingleSpike)`` is ``IntegrateAndFire(detach_reset=False)``; its default,
            MultiSpike, may give several spikes a step
        spyx: ``IF`` is ``IntegrateAndFire(detach_reset=False, spike_at_threshold=False)`` whose spikes come one step later
        snnTorch: ``Leaky(beta=1.0)``, a `Leaky`
        lava-dl: ``cuba.Neuron(threshold, current_decay=1, voltage_decay=0)`` is ``reset="zero"`` in fixed-point numbers
        braintools, braincell: none; ``brainpy.state.IF`` leaks and is a `Leaky`

    References: abbott1999lapicque, gerstner2002spiking

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import IntegrateAndFire
        >>> spikes, v = nn.Layer(IntegrateAndFire())(torch.full((6, 1), 0.375))
        >>> spikes.ravel().tolist(), v.item()
        ([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 0.25)
    """

    threshold: Positive = 1.0

    v: State = 0.0

    def step(self, current: Array, v: Array) -> Step:
        u = self.quantized(v + current)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.after_spike(u, s, self.threshold), u=u)


class Leaky(Neuron):
    r"""Leaky integrate-and-fire: the potential forgets a part of itself at every step, adds its input, and spikes at a threshold.

    .. math:: u_t = \beta v_{t-1} + I_t, \qquad s_t = H(u_t - \theta), \qquad v_t = u_t - \theta s_t

    The neuron that most spiking networks are made of. It remembers some 1 / (1 - beta) steps, and a gradient that goes back over T of them
    shrinks to beta to the power of T: tasks with long gaps need a beta near 1, learned or different for each neuron. With `reset_delay` the
    reset is due a step later, :math:`r_t = H(v_{t-1} - \theta)`, and v is u: subtracting, :math:`u_t = \beta v_{t-1} + I_t - \theta r_t`;
    to zero, :math:`u_t = \beta (1 - r_t) v_{t-1} + I_t`.

    Args:
        beta: what is left of the potential after a step, from 0 to 1: ``spikegrad.decay(tau, dt)`` for a time constant.
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest 0.

    Options:
        reset_delay: let a spike reset the potential one step later.
        scale_input: multiply the input by 1 - beta, so that under a constant input I the potential tends to I.
        reset, detach_reset, spike_at_threshold: as `Neuron` says.

    Elsewhere:
        snnTorch: ``Leaky(beta, threshold)`` is ``Leaky(beta, threshold, reset_delay=True, spike_at_threshold=False)``; its own
            ``reset_delay=False`` also takes off the reset of the step before
        SpikingJelly: ``LIFNode(tau, decay_input, v_threshold, v_reset=None)`` is ``Leaky(1 - 1 / tau, v_threshold,
            scale_input=decay_input)``; ``v_reset=0.0``, its default, is ``reset="zero"``. ``ParametricLIFNode`` learns beta
        Norse: ``LIFBoxCell`` is ``Leaky(1 - dt * tau_mem_inv, v_th, scale_input=True, reset="zero", detach_reset=False,
            spike_at_threshold=False)``; ``reset_method=reset_subtract`` is ``reset="subtract"``
        sinabs: ``LIF(tau_mem, spike_threshold=threshold, spike_fn=SingleSpike)`` is ``Leaky(decay(tau_mem), threshold, scale_input=True,
            detach_reset=False)``; ``norm_input=False`` does not scale; ``MembraneReset()`` is ``reset="zero", detach_reset=True``
        spyx: ``LIF(beta=beta)`` is ``Leaky(beta, reset_delay=True, detach_reset=False, spike_at_threshold=False)`` whose spikes come one
            step later
        lava-dl: ``cuba.Neuron(threshold, current_decay=1, voltage_decay=1 - beta)`` is ``reset="zero"`` in fixed-point numbers
        braintools, braincell: none; ``brainpy.state.LIF(tau=tau)`` is ``Leaky(decay(tau, dt), scale_input=True, detach_reset=False)``

    References: gerstner2002spiking, neftci2019surrogate, eshraghian2023training

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> spikes, v = nn.Leaky(0.5)(torch.tensor([[0.75], [0.75], [0.0], [1.0]]))
        >>> spikes.ravel().tolist(), v.item()
        ([0.0, 1.0, 0.0, 1.0], 0.03125)
    """

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


class Lapicque(Neuron):
    r"""Integrate-and-fire as the circuit it is: a resistor beside a capacitor, charged by a current, in units of physics.

    .. math:: \beta = e^{-\Delta / RC}, \qquad u_t = \beta v_{t-1} + (1 - \beta) R I_t, \qquad s_t = H(u_t - \theta), \qquad
              v_t = u_t - \theta s_t

    the exact solution of :math:`R C \dot u = R I - u` for a current that is constant over each step of length Delta. In a network it is
    `Leaky` with other coordinates: learning R scales the input and slows the neuron at once, learning C only slows it.

    Args:
        resistance: R; R times C is the time constant, in the unit of `dt`.
        capacitance: C.
        dt: length of a step.
        threshold: potential at which it spikes, in units of R times a current.

    States:
        v: potential after the reset, at rest 0.

    Options:
        reset, detach_reset, spike_at_threshold: as `Neuron` says.

    Elsewhere:
        snnTorch: ``Lapicque(R, C, time_step)`` takes Euler's step and resets one step later: it is ``Leaky(1 - time_step / (R * C),
            reset_delay=True, spike_at_threshold=False)`` of ``time_step / C`` times the current; with ``reset_mechanism="zero"`` it loses
            the input of the step of the reset as well
        none: SpikingJelly, Norse, sinabs, spyx, braintools, braincell, lava-dl; their LIF neurons take a time constant, see `Leaky`

    References: lapicque1907recherches, abbott1999lapicque

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import Lapicque
        >>> spikes, v = nn.Layer(Lapicque(resistance=5.0, capacitance=2.0, dt=5.0))(torch.full((5, 1), 0.375))  # time constant: two steps
        >>> spikes.ravel().tolist(), round(v.item(), 4)
        ([0.0, 1.0, 0.0, 1.0, 0.0], 0.8914)
    """

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
    r"""A leaky potential that never spikes and is itself the output: a readout, or a synapse before any neuron.

    .. math:: u_t = \beta v_{t-1} + I_t, \qquad v_t = u_t

    As the last layer it turns spikes into smooth values, of which a loss takes the last, the mean or the largest. Before a neuron it is a
    synapse with an exponential current: ``nn.Sequential(nn.LeakyIntegrator(0.8), nn.Layer(AdEx()))``. It is linear, so that its gradient is
    exact.

    Args:
        beta: what is left of the potential after a step, from 0 to 1: ``spikegrad.decay(tau, dt)`` for a time constant.

    States:
        v: potential, at rest 0.

    Options:
        scale_input: multiply the input by 1 - beta, so that under a constant input I the potential tends to I.

    Elsewhere:
        SpikingJelly: ``NonSpikingLIFNode(tau)`` is ``LeakyIntegrator(1 - 1 / tau, scale_input=True)``
        Norse: ``LIBoxCell`` is ``LeakyIntegrator(1 - dt * tau_mem_inv, scale_input=True)``; ``LI`` is that after a
            ``LeakyIntegrator(1 - dt * tau_syn_inv)``
        sinabs: ``ExpLeak(tau_mem)`` is ``LeakyIntegrator(decay(tau_mem))``; ``norm_input=True`` is ``scale_input=True``
        spyx: ``LI(beta=beta)``
        snnTorch: the potentials of ``Leaky(beta, reset_mechanism="none")``
        none: braintools, braincell, lava-dl

    References: neftci2019surrogate

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> potentials, v = nn.LeakyIntegrator(0.5)(torch.tensor([[1.0], [0.0], [1.0]]))
        >>> potentials.ravel().tolist(), v.item()
        ([1.0, 0.5, 1.25], 1.25)
    """

    beta: Decay

    v: State = 0.0

    scale_input: bool = dataclasses.field(default=False, kw_only=True)

    def step(self, current: Array, v: Array) -> Step:
        u = self.beta * v + ((1 - self.beta) * current if self.scale_input else current)
        return Step(u, v=u, u=u)


class RefractoryLeaky(Neuron):
    r"""Leaky integrate-and-fire that after a spike is deaf for some steps: its potential stays where the reset left it.

    .. math:: (u_t, s_t) = \begin{cases} (v_{t-1}, 0) & w_{t-1} > 0 \\ (\beta v_{t-1} + I_t,\; H(u_t - \theta)) & \text{otherwise}
              \end{cases} \qquad v_t = u_t - \theta s_t, \qquad w_t = \begin{cases} p & s_t = 1 \\ \max(w_{t-1} - 1, 0) & \text{otherwise}
              \end{cases}

    with p the `period`. No neuron fires more often than every p + 1 steps, which keeps rates and the energy of a network down by
    construction, where a penalty only asks for it. In the refractory steps no gradient reaches the input, and the one of the potential
    passes unchanged. The counter w is held: how long a neuron waits has no gradient, so that a learned `period` gets no gradient.

    Args:
        beta: what is left of the potential after a step, from 0 to 1: ``spikegrad.decay(tau, dt)`` for a time constant.
        period: steps without a spike after each spike; one with a fraction counts as the next whole one.
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest 0.
        wait: refractory steps still to come, at rest 0.

    Options:
        scale_input: multiply the input by 1 - beta, so that under a constant input I the potential tends to I.
        reset, detach_reset, spike_at_threshold: as `Neuron` says.

    Elsewhere:
        Norse: ``LIFRefracCell`` is, after a synapse ``LeakyIntegrator(1 - dt * tau_syn_inv)``, ``RefractoryLeaky(1 - dt * tau_mem_inv,
            rho_reset, v_th, scale_input=True, reset="zero", detach_reset=False, spike_at_threshold=False)``; there the
            counter has the gradient of the surrogate as well, which adds to that of the input
        braintools, braincell: none; ``brainpy.state.LIFRef`` counts from the time of the last spike
        none: SpikingJelly, sinabs, spyx, snnTorch; lava-dl, whose ``alif.Neuron`` raises its threshold instead

    References: gerstner2002spiking

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import RefractoryLeaky
        >>> spikes, state = nn.Layer(RefractoryLeaky(0.5, period=2))(torch.full((6, 1), 1.25))
        >>> spikes.ravel().tolist(), state.v.item(), state.wait.item()
        ([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], 0.375, 0.0)
    """

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
