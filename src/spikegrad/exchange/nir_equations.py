"""The neurons that NIR's equations describe, where none of the catalogue computes the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from spikegrad.neuron import Neuron, State, Step
from spikegrad.ranges import Decay
from spikegrad.vocabulary import Array


class LIF(Neuron, spike_at_threshold=False):
    r"""NIR's LIF with a leak potential and a reset potential of their own, by Euler's step.

    .. math:: u_t = \beta v_{t-1} + (1 - \beta) (v_{leak} + I_t), \qquad s_t = [u_t > \theta], \qquad v_t = (1 - s_t) u_t + s_t v_{reset}

    Args:
        beta: ``1 - dt / tau``.
        leak: the potential at which it rests, and where it starts.
        reset_potential: where a spike sets it.
        threshold: potential above which it spikes.
    """

    beta: Decay
    leak: float = 0.0
    reset_potential: float = 0.0
    threshold: float = 1.0

    v: State = 0.0

    def resting(self) -> Mapping[str, Array]:
        """At the leak potential."""
        return {"v": self.leak + self.v}

    def step(self, current: Array, v: Array) -> Step:
        u = self.beta * v + (1 - self.beta) * (self.leak + current)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.reset_to(u, s, self.reset_potential), u=u)


class CubaLIF(Neuron, spike_at_threshold=False):
    r"""NIR's CubaLIF with input and synaptic gain, a leak potential and a reset potential of their own, by Euler's step.

    .. math:: i_t = \alpha i_{t-1} + (1 - \alpha) w_{in} I_t, \qquad u_t = \beta v_{t-1} + (1 - \beta) (v_{leak} + r i_t)
    .. math:: s_t = [u_t > \theta], \qquad v_t = (1 - s_t) u_t + s_t v_{reset}

    Args:
        alpha: ``1 - dt / tau_syn``.
        beta: ``1 - dt / tau_mem``.
        w_in: gain of the input.
        r: gain of the synaptic current.
        leak: the potential at which it rests, and where it starts.
        reset_potential: where a spike sets it.
        threshold: potential above which it spikes.
    """

    alpha: Decay
    beta: Decay
    w_in: float = 1.0
    r: float = 1.0
    leak: float = 0.0
    reset_potential: float = 0.0
    threshold: float = 1.0

    i: State = 0.0
    v: State = 0.0

    def resting(self) -> Mapping[str, Array]:
        """At the leak potential."""
        return {"v": self.leak + self.v}

    def step(self, current: Array, i: Array, v: Array) -> Step:
        i = self.alpha * i + (1 - self.alpha) * self.w_in * current
        u = self.beta * v + (1 - self.beta) * (self.leak + self.r * i)
        s = self.fire(u - self.threshold)
        return Step(s, i=i, v=self.reset_to(u, s, self.reset_potential), u=u)


class LI(Neuron):
    r"""NIR's LI with a leak potential: :math:`v_t = \beta v_{t-1} + (1 - \beta) (v_{leak} + I_t)`, which is the output.

    Args:
        beta: ``1 - dt / tau``.
        leak: the potential at which it rests, and where it starts.
    """

    beta: Decay
    leak: float = 0.0

    v: State = 0.0

    def resting(self) -> Mapping[str, Array]:
        """At the leak potential."""
        return {"v": self.leak + self.v}

    def step(self, current: Array, v: Array) -> Step:
        u = self.beta * v + (1 - self.beta) * (self.leak + current)
        return Step(u, v=u, u=u)


class Elementwise(nn.Module):
    """NIR's Scale: every feature times its factor; and a shift of every feature, for what else of NIR is one.

    Args:
        scale: factors, of the shape of a step's features.
        shift: what is added, likewise.

    Example:
        >>> import torch
        >>> from spikegrad.exchange.nir_equations import Elementwise
        >>> Elementwise(torch.tensor([1.0, 2.0]))(torch.ones(3, 2))[0]
        tensor([1., 2.])
    """

    scale: Tensor
    shift: Tensor | None

    def __init__(self, scale: Tensor, shift: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """``scale * x + shift``, of the shape of `x`."""
        return self.scale * x if self.shift is None else self.scale * x + self.shift

    def extra_repr(self) -> str:
        """Its shape."""
        return f"{tuple(self.scale.shape)}"
