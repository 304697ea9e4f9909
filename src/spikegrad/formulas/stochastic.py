"""Surrogates that draw noise. Their methods take it as an argument, uniform on (0, 1); 1/2 stands for the mean."""

from __future__ import annotations

from typing import ClassVar

from spikegrad.ranges import NonNegative, Positive
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array, exp, log, step, where


class NoisyThreshold(Surrogate):
    r"""A threshold that trembles: in training the output is a soft spike with logistic noise, and its gradient is the true one.

    .. math:: P(x) = \frac{1}{1 + e^{-z}}, \qquad g(x) = k P(x) (1 - P(x)), \qquad z = k x + \log u - \log(1 - u)

    with k the `slope` and u uniform noise, kept within 1e-6 of its ends. In training the output is P itself, a relaxed draw that is above
    1/2 with the probability of a spike; in evaluation it is the hard step. ``sample=False`` leaves the noise out: the mean field. The
    gradient is exact for the soft network, which is not quite the network that is evaluated.

    Facts:
        peak: slope / 4
        area: 1
        half_width: 2 * log(1 + sqrt(2)) / slope
        support: (-inf, inf)
        noise: logistic, scale 1 / slope

    Elsewhere:
        SpikeDE: ``noisy_threshold_spike(x, scale=slope, training, sample)`` is ``NoisyThreshold(slope, sample)(x, training=training)``;
            ``NoisyThresholdSpikeModule(scale=slope, sample)`` is the module form

    References: maddison2017concrete

    Example:
        >>> import numpy as np
        >>> from spikegrad import NoisyThreshold
        >>> spike, x = NoisyThreshold(slope=5.0), np.array([-0.2, 0.2])
        >>> spike(x)
        array([0., 1.])
        >>> spike.primitive(x, noise=0.9).round(4)
        array([0.768 , 0.9607])
    """

    slope: Positive = 5.0
    sample: bool = True
    soft: ClassVar[bool] = True

    def derivative(self, x: Array, noise: Array = 0.5) -> Array:
        e = exp(-abs(self._noisy(x, noise)))
        return self.slope * e / (1 + e) ** 2

    def primitive(self, x: Array, noise: Array = 0.5) -> Array:
        z = self._noisy(x, noise)
        e = exp(where(z >= 0, -z, z))  # not -abs(z), whose derivative at 0 is 0 to PyTorch
        return where(z >= 0, 1 / (1 + e), e / (1 + e))

    def _noisy(self, x: Array, noise: Array) -> Array:
        if not self.sample:
            return self.slope * x
        u = where(noise < 1e-6, 1e-6, where(noise > 1 - 1e-6, 1 - 1e-6, noise))
        return self.slope * x + (log(u) - log(1 - u))


class StochasticLeak(Surrogate):
    r"""One above threshold and a random number below it, drawn afresh for every neuron and step.

    .. math:: g(x) = \begin{cases} 1 & x > 0 \\ l + r (u - \tfrac{1}{2}) & x \le 0 \end{cases}, \qquad P(x) = g(x)\, x + \frac{1}{2}

    with l the `leak`, r the `spread` and u uniform noise. Silent neurons get a gradient of random sign around the leak: a random walk that
    may bring them back to life. Without noise (1/2) it is a `LeakyStep`.

    Facts:
        peak: max(1, leak)
        area: inf
        half_width: inf
        support: (-inf if leak else 0, inf)
        noise: none

    Elsewhere:
        snnTorch: ``SSO(mean, variance)`` is ``StochasticLeak(leak=mean * variance, spread=variance)``, whose mean and variance are neither
            of the two

    References: eshraghian2023training

    Example:
        >>> import numpy as np
        >>> from spikegrad import StochasticLeak
        >>> StochasticLeak(leak=0.1, spread=0.5).derivative(np.array([-1.0, 1.0]), noise=0.9).round(4)
        array([0.3, 1. ])
    """

    leak: float = 0.0
    spread: NonNegative = 0.2

    def derivative(self, x: Array, noise: Array = 0.5) -> Array:
        below = step(-x)
        return (1 - below) + below * (self.leak + self.spread * (noise - 1 / 2))

    def primitive(self, x: Array, noise: Array = 0.5) -> Array:
        return where(x > 0, x, (self.leak + self.spread * (noise - 1 / 2)) * x) + 1 / 2
