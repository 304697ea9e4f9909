"""Derivatives that do not fall off on at least one side: straight-through estimators and their leaky relatives."""

from __future__ import annotations

from spikegrad.ranges import NonNegative
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array, log, maximum, step, where


class StraightThrough(Surrogate):
    r"""One everywhere: the backward pass takes the neuron for a wire.

    .. math:: g(x) = 1, \qquad P(x) = x + \frac{1}{2}

    Every neuron learns at every step, however far it is from threshold. Simple and strong in shallow networks and for quantisation;
    in deep spiking networks it does markedly worse than any bump, since most of what it propagates concerns neurons that could not have
    fired.

    Facts:
        peak: 1
        area: inf
        half_width: inf
        support: (-inf, inf)
        noise: none

    Elsewhere:
        snnTorch: ``straight_through_estimator()``
        SpikingJelly: ``DeterministicPass()``, and the backward of ``PoissonPass()``
        sinabs: the backward of ``Quantize`` and ``StochasticRounding``

    References: bengio2013estimating, zenke2021remarkable

    Example:
        >>> import numpy as np
        >>> from spikegrad import StraightThrough
        >>> StraightThrough().derivative(np.array([-7.0, 0.0]))
        array([1., 1.])
    """

    def derivative(self, x: Array) -> Array:
        return 1.0

    def primitive(self, x: Array) -> Array:
        return x + 1 / 2


class LeakyStep(Surrogate):
    r"""Two constants, one below threshold and one above it: the derivative of a leaky ReLU.

    .. math:: g(x) = \begin{cases} l & x < 0 \\ h & x \ge 0 \end{cases}, \qquad P(x) = g(x)\, x + \frac{1}{2}

    with l the `leak` and h the `height`; ``closed=False`` gives the leak at x = 0 too. Silent neurons keep a small gradient, firing ones a
    full one.

    Facts:
        peak: max(leak, height)
        area: inf * (leak + height) if leak + height else 0
        half_width: inf
        support: (-inf if leak else 0, inf if height else 0)
        noise: none

    Elsewhere:
        snnTorch: ``LSO(slope)``, which fails when called, is ``LeakyStep(leak=slope, closed=False)``; ``triangular(threshold)`` is no
            triangle but ``LeakyStep(leak=threshold, height=-threshold)``, whose sign is wrong for every neuron that fires
        braintools: ``LeakyRelu(alpha=leak, beta=height)``
        SpikingJelly: ``LeakyKReLU(leak=leak, k=height)``

    References: eshraghian2023training

    Example:
        >>> import numpy as np
        >>> from spikegrad import LeakyStep
        >>> LeakyStep(leak=0.1).derivative(np.array([-1.0, 0.0, 1.0]))
        array([0.1, 1. , 1. ])
    """

    leak: float = 0.1
    height: float = 1.0
    closed: bool = True

    def derivative(self, x: Array) -> Array:
        above = step(x) if self.closed else 1 - step(-x)
        return self.height * above + self.leak * (1 - above)

    def primitive(self, x: Array) -> Array:
        return where(x < 0, self.leak * x, self.height * x) + 1 / 2


class Heaviside(Surrogate):
    r"""A step as its own derivative: neurons above a level learn, those below do not.

    .. math:: g(x) = \begin{cases} h & x \ge c \\ 0 & x < c \end{cases}, \qquad P(x) = \frac{1}{2} + h \max(0, x - c)

    with h the `height` and c the `shift`; ``closed=False`` leaves out x = c. With c = 0 only neurons that fire learn, so that a silent one
    stays silent for ever; a negative shift admits those that come close.

    Facts:
        peak: height
        area: inf
        half_width: inf
        support: (shift, inf)
        noise: none

    Elsewhere:
        snnTorch: ``heaviside()`` is ``Heaviside(closed=False)``
        sinabs: ``Heaviside(window)`` at threshold theta is ``Heaviside(height=1 / theta, shift=-window)``

    References: eshraghian2023training

    Example:
        >>> import numpy as np
        >>> from spikegrad import Heaviside
        >>> Heaviside(shift=-1.0).derivative(np.array([-2.0, -1.0, 1.0]))
        array([0., 1., 1.])
    """

    height: NonNegative = 1.0
    shift: float = 0.0
    closed: bool = True

    def derivative(self, x: Array) -> Array:
        z = x - self.shift
        return self.height * (step(z) if self.closed else 1 - step(-z))

    def primitive(self, x: Array) -> Array:
        return self.height * maximum(x - self.shift, 0) + 1 / 2


class LogTailedReLU(Surrogate):
    r"""A ReLU that turns into a logarithm: full gradient just above threshold, then one over the potential.

    .. math:: g(x) = \begin{cases} l & x \le 0 \\ 1 & 0 < x \le 1 \\ 1/x & x > 1 \end{cases}, \qquad
              P(x) = \frac{1}{2} + \begin{cases} l x & x \le 0 \\ x & 0 < x \le 1 \\ 1 + \log x & x > 1 \end{cases}

    with l the `leak`. From quantised networks, where large potentials are outliers that should not dominate. Without a leak a silent
    neuron never learns.

    Facts:
        peak: max(1, leak)
        area: inf
        half_width: 1 if leak < 1 / 2 else inf
        support: (-inf if leak else 0, inf)
        noise: none

    Elsewhere:
        braintools: ``LogTailedRelu(alpha=leak)``
        SpikingJelly: ``LogTailedReLU(alpha=leak)``

    References: cai2017deep

    Example:
        >>> import numpy as np
        >>> from spikegrad import LogTailedReLU
        >>> LogTailedReLU(leak=0.1).derivative(np.array([-1.0, 0.5, 4.0]))
        array([0.1 , 1.  , 0.25])
    """

    leak: NonNegative = 0.0

    def derivative(self, x: Array) -> Array:
        return where(x > 0, 1 / where(x > 1, x, 1.0), self.leak)

    def primitive(self, x: Array) -> Array:
        tail = 1 + log(where(x > 1, x, 1.0))
        return where(x > 0, where(x > 1, tail, x), self.leak * x) + 1 / 2
