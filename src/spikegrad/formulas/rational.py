"""Bumps whose tails fall as a power of the potential: far from threshold they still carry a little gradient."""

from __future__ import annotations

from spikegrad.surrogate import Positive, Surrogate
from spikegrad.vocabulary import Array, arctan, pi


class ATan(Surrogate):
    r"""Derivative of a scaled arctangent: a Cauchy density, smooth at its top, with tails that fall as 1/x^2.

    .. math:: g(x) = \frac{a / 2}{1 + (\frac{\pi}{2} a x)^2}, \qquad P(x) = \frac{1}{\pi} \arctan(\tfrac{\pi}{2} a x) + \frac{1}{2}

    with a the `slope`. The default has peak 1, and tails heavy enough that neurons far from threshold go on learning: a safe
    first choice, and the default everywhere in spikegrad.

    Facts:
        peak: slope / 2
        area: 1
        half_width: 2 / (pi * slope)
        support: (-inf, inf)
        noise: Cauchy, scale 2 / (pi * slope)

    Elsewhere:
        snnTorch: ``atan(alpha=slope)``
        SpikeDE: ``arctan_surrogate(scale=slope)``
        braintools: ``Arctan(alpha=slope)``
        SpikingJelly: ``ATan(alpha=slope)``
        spyx: ``arctan(k)`` is ``ATan(slope=2 * k, scale=1 / (pi * k))``

    References: fang2021incorporating, huh2018gradient

    Example:
        >>> import numpy as np
        >>> from spikegrad import ATan
        >>> ATan(slope=2.0).derivative(np.array([0.0, 0.5])).round(4)
        array([1.    , 0.2884])
    """

    slope: Positive = 2.0

    def derivative(self, x: Array) -> Array:
        return self.slope / 2 / (1 + (pi / 2 * self.slope * x) ** 2)

    def primitive(self, x: Array) -> Array:
        return arctan(pi / 2 * self.slope * x) / pi + 1 / 2
