"""Bumps with negative lobes: no noise makes them, and some potentials are pushed the other way."""

from __future__ import annotations

from spikegrad.ranges import NonNegative, Positive
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array, cos, erf, exp, floor, pi, sin, sqrt


class MultiGaussian(Surrogate):
    r"""A Gaussian with a broad, shallow negative Gaussian to either side.

    .. math:: g(x) = (1 + h) N(x; c, w) - h N(x; w, s w) - h N(x; -w, s w)

    where :math:`N(x; \mu, \sigma)` is the normal density, w the `width`, h the `lobe`, s the `spread`, and c the `shift`, which moves the
    central bump only. The negative lobes push neurons that are far from threshold, on either side, away from it: a leaky
    rectifier's idea on both sides, found to help adaptive neurons in recurrent networks.

    Facts:
        area: 1 - lobe
        support: (-inf, inf)
        noise: none

    Elsewhere:
        braintools: ``MultiGaussianGrad(h=lobe, s=spread, sigma=width, scale=scale)``
        sinabs: ``MultiGaussian(mu=shift, sigma=width, h=lobe, s=spread, grad_scale=scale)``

    References: yin2021accurate

    Example:
        >>> import numpy as np
        >>> from spikegrad import MultiGaussian
        >>> MultiGaussian().derivative(np.array([0.0, 3.0])).round(4)
        array([ 0.8782, -0.0242])
    """

    width: Positive = 0.5
    lobe: NonNegative = 0.15
    spread: Positive = 6.0
    shift: float = 0.0

    def derivative(self, x: Array) -> Array:
        def bump(offset: Array, width: Array) -> Array:
            return exp(-((offset / width) ** 2) / 2) / (width * sqrt(2 * pi))

        broad = self.spread * self.width
        sides = bump(x - self.width, broad) + bump(x + self.width, broad)
        return (1 + self.lobe) * bump(x - self.shift, self.width) - self.lobe * sides

    def primitive(self, x: Array) -> Array:
        broad = self.spread * self.width * sqrt(2.0)
        sides = erf((x - self.width) / broad) + erf((x + self.width) / broad)
        centre = erf((x - self.shift) / (self.width * sqrt(2.0)))
        return ((1 + self.lobe) * centre - self.lobe * sides + 1) / 2


class Fourier(Surrogate):
    r"""The derivative of a square wave's first Fourier terms: a bump at threshold that comes back, with alternating sign, for ever.

    .. math:: g(x) = \frac{4}{T} \sum_{i=1}^{n} \cos \frac{2\pi (2i - 1) x}{T}, \qquad
              P(x) = \frac{1}{2} + \frac{2}{\pi} \sum_{i=1}^{n} \frac{1}{2i - 1} \sin \frac{2\pi (2i - 1) x}{T}

    with n the `terms` and T the `period`. More terms make a narrower, higher bump and more ripples. Take a period several times the range
    of potentials, else neurons beyond a quarter of it are trained backwards.

    Facts:
        peak: 4 * terms / period
        area: inf
        support: (-inf, inf)
        noise: none

    Elsewhere:
        braintools: ``SquarewaveFourierSeries(n=terms, t_period=period)``
        SpikingJelly: ``SquarewaveFourierSeries(n, T_period=period)`` is ``Fourier(terms=n - 1, period=period)``: it sums one term less
            than it says

    References: fang2023spikingjelly

    Example:
        >>> import numpy as np
        >>> from spikegrad import Fourier
        >>> Fourier(terms=2, period=8.0).derivative(np.array([0.0, 4.0]))
        array([ 1., -1.])
    """

    terms: int = 2
    period: Positive = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms < 1:
            raise ValueError(f"`terms` of Fourier must be at least 1, got {self.terms}")

    def derivative(self, x: Array) -> Array:
        sign, angle = self._reduced(x)
        return 4 / self.period * sign * sum(cos((2 * i + 1) * angle) for i in range(self.terms))

    def primitive(self, x: Array) -> Array:
        sign, angle = self._reduced(x)
        return 2 / pi * sign * sum(sin((2 * i + 1) * angle) / (2 * i + 1) for i in range(self.terms)) + 1 / 2

    def _reduced(self, x: Array) -> tuple[Array, Array]:
        # Half a period flips the sign of every term. Angles beyond a quarter turn, whose rounding the multiples would amplify, never arise.
        halves = floor(2 * x / self.period + 1 / 2)
        sign = 1 - 2 * (halves - 2 * floor(halves / 2))
        return sign, 2 * pi * ((x - halves * (self.period / 2)) / self.period)
