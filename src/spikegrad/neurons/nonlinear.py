"""Neurons whose potential runs away by itself once it is high enough: the upstroke of a spike is part of the equation."""

from __future__ import annotations

from collections.abc import Mapping

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Positive
from spikegrad.vocabulary import Array, exp, minimum

# An upstroke that overflowed would be NaN for ever, since a reset multiplies it by zero. Both are far above any threshold.
_STEEPEST = 50.0
"""The largest exponent of an exponential neuron."""
_HIGHEST = 1e6
"""The highest potential of a quadratic neuron: a large negative one, squared, is a large positive one at the next step."""


class QuadraticIF(Neuron):
    r"""Integrate-and-fire with a parabola in place of the leak: above a critical potential it runs away by itself.

    .. math:: u_t = v_{t-1} + \frac{1}{\tau} \left(I_t + c (v_{t-1} - v_{rest})(v_{t-1} - v_{crit})\right), \qquad s_t = H(u_t - \theta),
              \qquad v_t = \begin{cases} v_{reset} & s_t = 1 \\ u_t & \text{otherwise} \end{cases}

    with c the `curvature`. What every neuron looks like near the point where it begins to fire at low rates. A gradient that goes back in
    time shrinks where the potential is below the middle between rest and `critical`, and grows above it, so that a neuron about to spike
    gets more of it than one that is not. The defaults are SpikingJelly's: pure numbers, with rest 0 and threshold 1.

    Args:
        tau: time constant, in steps.
        critical: potential above which it runs away without input.
        curvature: how steeply, per potential.
        rest: potential at which it rests.
        reset_potential: potential after a spike.
        threshold: potential at which it spikes, above `critical`.

    States:
        v: potential after the reset, at rest the `rest`.

    Options:
        detach_reset, spike_at_threshold: as `Neuron` says; the reset is to `reset_potential`.

    Elsewhere:
        SpikingJelly: ``QIFNode(tau, v_c=critical, a0=curvature, v_threshold=threshold, v_rest=rest, v_reset=reset_potential)`` starts at
            the reset potential, not at rest
        braintools, braincell: none; ``brainpy.state.QuaIF`` takes an exponential Euler step
        none: Norse, sinabs, spyx, snnTorch, lava-dl

    References: ermentrout1986parabolic, latham2000intrinsic

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import QuadraticIF
        >>> spikes, v = nn.Layer(QuadraticIF(reset_potential=-0.25))(torch.full((5, 1), 0.75))
        >>> spikes.ravel().tolist(), round(v.item(), 4)
        ([0.0, 0.0, 1.0, 0.0, 0.0], 0.5616)
    """

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
        u = v + 1 / self.tau * (current + self.curvature * (v - self.rest) * (v - self.critical))
        u = self.quantized(minimum(u, _HIGHEST))
        s = self.fire(u - self.threshold)
        return Step(s, v=self.reset_to(u, s, self.reset_potential), u=u)


class ExponentialIF(Neuron):
    r"""Integrate-and-fire with an upstroke that grows exponentially above a soft threshold: EIF.

    .. math:: u_t = v_{t-1} + \frac{1}{\tau} \left(I_t + v_{rest} - v_{t-1} + \Delta e^{(v_{t-1} - v_T) / \Delta}\right), \qquad
              s_t = H(u_t - \theta), \qquad v_t = \begin{cases} v_{reset} & s_t = 1 \\ u_t & \text{otherwise} \end{cases}

    with Delta the `sharpness` and v_T the `rheobase`. Fits measured neurons well for its one variable. `threshold` is only where the
    upstroke is cut off; a surrogate sees it alone, so that it should not be far above `rheobase`. The numbers of Fourcaud-Trocmé et al.,
    in units in which rest is 0 and v_T is 1, are a sharpness of 0.68 and a reset to -0.59, with a tau of 10 ms. The defaults are
    SpikingJelly's: pure numbers. An exponent above 50 counts as 50.

    Args:
        tau: time constant, in steps.
        sharpness: width of the soft threshold; towards 0 the neuron becomes `Leaky`.
        rheobase: potential at which the upstroke takes over.
        rest: potential at which it would rest without upstroke.
        reset_potential: potential after a spike.
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest the `rest`.

    Options:
        detach_reset, spike_at_threshold: as `Neuron` says; the reset is to `reset_potential`.

    Elsewhere:
        SpikingJelly: ``EIFNode(tau, delta_T=sharpness, theta_rh=rheobase, v_threshold=threshold, v_rest=rest, v_reset=reset_potential)``
            starts at the reset potential, not at rest
        Norse: ``LIFExCell`` is, after a synapse ``LeakyIntegrator(1 - dt * tau_syn_inv)``, ``ExponentialIF(1 / (dt * tau_mem_inv), delta_T,
            v_th, v_leak, v_reset, v_th, detach_reset=False, spike_at_threshold=False)``: one `v_th` for both thresholds
        braintools, braincell: none; ``brainpy.state.ExpIF`` takes an exponential Euler step
        none: sinabs, spyx, snnTorch, lava-dl

    References: fourcaudtrocme2003spike

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import ExponentialIF
        >>> spikes, v = nn.Layer(ExponentialIF(sharpness=0.25, reset_potential=-0.25))(torch.full((5, 1), 1.0))
        >>> spikes.ravel().tolist(), round(v.item(), 4)
        ([0.0, 0.0, 1.0, 0.0, 0.0], 0.7114)
    """

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
        upstroke = self.sharpness * exp(minimum(1 / self.sharpness * (v - self.rheobase), _STEEPEST))
        u = self.quantized(v + 1 / self.tau * (current + self.rest - v + upstroke))
        s = self.fire(u - self.threshold)
        return Step(s, v=self.reset_to(u, s, self.reset_potential), u=u)


class AdEx(Neuron):
    r"""Exponential integrate-and-fire with an adaptation current: two variables that show almost every way in which neurons fire.

    .. math:: u_t = v_{t-1} + \frac{1}{\tau} \left(I_t + v_{rest} - v_{t-1} + \Delta e^{(v_{t-1} - v_T) / \Delta} - w_{t-1}\right), \qquad
              s_t = H(u_t - \theta)
    .. math:: v_t = \begin{cases} v_{reset} & s_t = 1 \\ u_t & \text{otherwise} \end{cases}, \qquad
              w_t = w_{t-1} + \frac{1}{\tau_w} \left(a (v_{t-1} - v_{rest}) - w_{t-1}\right) + b s_t

    with Delta the `sharpness` and v_T the `rheobase`. For models of measured neurons, and where bursts or adaptation should be learned. The
    defaults are Brette and Gerstner's regular spiking neuron at steps of 1 ms, in units in which potentials count from rest (-70.6 mV) to
    v_T (-50.4 mV) and the leak conductance is 1: a current of 1 is 0.6 nA. `threshold` is where the upstroke is cut off, five times
    the sharpness above v_T as in Brian's example of it; much higher a surrogate sees nothing. An exponent above 50 counts as 50.

    Args:
        tau: time constant of the potential, in steps: the capacitance over the leak conductance.
        tau_w: time constant of the adaptation current, in steps.
        sharpness: width of the soft threshold.
        rheobase: potential at which the upstroke takes over.
        rest: potential at which it would rest without upstroke.
        a: adaptation current per potential above rest: the paper's a over the leak conductance.
        b: adaptation current per spike.
        reset_potential: potential after a spike.
        threshold: potential at which it spikes.

    States:
        v: potential after the reset, at rest the `rest`.
        w: adaptation current, at rest 0. The spike that adds to it is never detached.

    Options:
        detach_reset, spike_at_threshold: as `Neuron` says; the reset is to `reset_potential`.

    Elsewhere:
        Norse: ``LIFAdExCell`` is, after a synapse ``LeakyIntegrator(1 - dt * tau_syn_inv)``, ``AdEx(1 / (dt * tau_mem_inv), 1 / (dt *
            tau_ada_inv), delta_T, v_th, v_leak, adaptation_current, adaptation_spike, v_reset, v_th, detach_reset=False,
            spike_at_threshold=False)``: one `v_th` for both thresholds
        braintools, braincell: none; ``brainpy.state.AdExIF`` takes exponential Euler steps, and adapts from the new potential
        none: SpikingJelly, whose ``IzhikevichNode`` adapts likewise from a quadratic upstroke; sinabs, spyx, snnTorch, lava-dl

    References: brette2005adaptive

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import AdEx
        >>> spikes, _ = nn.Layer(AdEx())(torch.full((200, 1), 1.65))  # 1 nA for 200 ms
        >>> spikes.ravel().nonzero().ravel().tolist()
        [12, 27, 44, 63, 86, 112, 141, 173]
    """

    tau: Positive = 9.37
    tau_w: Positive = 144.0
    sharpness: Positive = 0.1
    rheobase: float = 1.0
    rest: float = 0.0
    a: float = 0.13
    b: float = 0.13
    reset_potential: float = 0.0
    threshold: float = 1.5

    v: State = 0.0
    w: State = 0.0

    def resting(self) -> Mapping[str, Array]:
        return {"v": self.rest}

    def step(self, current: Array, v: Array, w: Array) -> Step:
        upstroke = self.sharpness * exp(minimum(1 / self.sharpness * (v - self.rheobase), _STEEPEST))
        u = self.quantized(v + 1 / self.tau * (current + self.rest - v + upstroke - w))
        s = self.fire(u - self.threshold)
        w = w + 1 / self.tau_w * (self.a * (v - self.rest) - w)
        return Step(s, v=self.reset_to(u, s, self.reset_potential), w=w + self.b * s, u=u)


class Izhikevich(Neuron):
    r"""Izhikevich's simple model: a parabola and a recovery variable in millivolts, with four numbers for the kinds of cortical neurons.

    .. math:: u_t = v_{t-1} + \Delta \left(0.04 v_{t-1}^2 + 5 v_{t-1} + 140 - w_{t-1} + I_t\right), \qquad s_t = H(u_t - \theta)
    .. math:: v_t = \begin{cases} c & s_t = 1 \\ u_t & \text{otherwise} \end{cases}, \qquad
              w_t = w_{t-1} + \Delta a (b v_{t-1} - w_{t-1}) + d s_t

    with Delta the step `dt` in milliseconds and w what the paper calls u. A current of 5 to 10 makes it fire. The defaults spike
    regularly; c of -55 and d of 4 burst, c of -50 and d of 2 chatter, a of 0.1 and d of 2 spike fast. In millivolts a surrogate is narrow:
    take one of a small slope, ``ATan(0.1)``. Euler's step wants a `dt` of at most 0.5. A potential above 1e6 counts as that.

    Args:
        a: recovery per millisecond.
        b: recovery per millivolt.
        c: potential after a spike, in mV.
        d: recovery that a spike adds.
        dt: length of a step, in ms.
        threshold: potential at which it spikes, in mV.

    States:
        v: potential after the reset, in mV, at rest c.
        w: recovery, at rest b times c. The spike that adds to it is never detached.

    Options:
        detach_reset, spike_at_threshold: as `Neuron` says; the reset is to c.

    Elsewhere:
        Norse: ``IzhikevichCell(IzhikevichSpikingBehavior(p, s))`` is ``Izhikevich(p.a, p.b, p.c, p.d, p.tau_inv * dt, p.v_th,
            detach_reset=False, spike_at_threshold=False)`` started at the state s
        SpikingJelly: ``IzhikevichNode(tau=1 / dt, v_c, a0=0.04, v_threshold=threshold, v_reset=c, v_rest, tau_w=1 / (dt * a), a=b, b=d)``
            with the roots of the parabola, -42.344 and -82.656, for ``v_c`` and ``v_rest``, and with w and the input less ``b * v_rest``;
            but its recovery follows the new potential before the reset
        braintools, braincell: none; ``brainpy.state.Izhikevich`` takes exponential Euler steps, and its recovery starts at 0
        none: sinabs, spyx, snnTorch, lava-dl

    References: izhikevich2003simple

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.neurons import Izhikevich
        >>> spikes, _ = nn.Layer(Izhikevich(dt=0.5))(torch.full((400, 1), 10.0))  # 200 ms
        >>> (spikes.ravel().nonzero().ravel() * 0.5).tolist()
        [3.5, 28.5, 74.5, 120.5, 166.5]
    """

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
        u = v + self.dt * (0.04 * v * v + 5 * v + 140 - w + current)
        u = self.quantized(minimum(u, _HIGHEST))
        s = self.fire(u - self.threshold)
        w = w + self.dt * self.a * (self.b * v - w)
        return Step(s, v=self.reset_to(u, s, self.c), w=w + self.d * s, u=u)
