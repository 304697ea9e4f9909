"""Bumps whose tails fall as a power of the potential: far from threshold they still carry a little gradient."""

from __future__ import annotations

from spikegrad.ranges import Positive
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array, arctan, exp, log, pi, sqrt, step, where


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


class FastSigmoid(Surrogate):
    r"""Derivative of the fast sigmoid x / (1 + k|x|): a cusp at threshold with tails that fall as 1/x^2. Also called SuperSpike.

    .. math:: g(x) = \frac{h}{(1 + k|x|)^2}, \qquad P(x) = \frac{h x}{1 + k|x|} + \frac{1}{2}

    with k the `slope` and h the `height`. Cheap, since it needs no exponential. At the customary slope of 25 the bump is narrow: at rest,
    one threshold below firing, only 0.0015 of the peak is left, and deep networks that start silent may stay silent. Slopes of 1 to 10 are
    more forgiving. The name SuperSpike is used for three curves: height 1, height `slope`, and slope 1 with a free height.

    Facts:
        peak: height
        area: 2 * height / slope
        half_width: (sqrt(2) - 1) / slope
        support: (-inf, inf)
        noise: two-sided Lomax of index 1, scale 1 / slope

    Elsewhere:
        snnTorch: ``fast_sigmoid(slope=slope)``
        braintools: ``InvSquareGrad(alpha=slope)``; ``SoftSign(alpha)`` is ``FastSigmoid(slope=alpha, height=alpha / 2)``
        SpikingJelly: ``SoftSign(alpha)`` is ``FastSigmoid(slope=alpha, height=alpha / 2)``; ``SuperSpike(alpha)`` is
            ``FastSigmoid(slope=1, height=alpha)``
        Norse: ``super_fn(x, alpha)`` is ``FastSigmoid(slope=1)`` in 1.1.0, which ignores alpha, and ``FastSigmoid(slope=alpha)`` since
        spyx: ``superspike(k=slope)``

    References: zenke2018superspike, zenke2021remarkable

    Example:
        >>> import numpy as np
        >>> from spikegrad import FastSigmoid
        >>> FastSigmoid(slope=10.0).derivative(np.array([0.0, 0.1]))
        array([1.  , 0.25])
    """

    slope: Positive = 25.0
    height: Positive = 1.0

    def derivative(self, x: Array) -> Array:
        return self.height / (1 + self.slope * abs(x)) ** 2

    def primitive(self, x: Array) -> Array:
        return self.height * x / (1 + self.slope * abs(x)) + 1 / 2


class QPseudoSpike(Surrogate):
    r"""A cusp whose tail exponent is a parameter, from nearly exponential (large `tail`) to barely falling.

    .. math:: g(x) = (1 + k|x|)^{-q}, \qquad
              P(x) = \frac{1}{2} + \operatorname{sign}(x) \frac{(1 + k|x|)^{1 - q} - 1}{k (1 - q)}

    with q the `tail` and k the `slope`; at q = 1 the primitive is a logarithm. The exponent answers a question of its own, how much
    a neuron far from threshold should learn, apart from how wide the bump is. Two versions are in use, which differ in the slope alone:
    2 / (q - 1), which gives area 1 for every q > 1, and 2 / (q + 1).

    Facts:
        peak: 1
        area: 2 / (slope * (tail - 1)) if tail > 1 else inf
        half_width: (2 ** (1 / tail) - 1) / slope
        support: (-inf, inf)
        noise: two-sided Lomax of index tail - 1, scale 1 / slope, if tail > 1

    Elsewhere:
        SpikingJelly: ``QPseudoSpike(alpha)`` is ``QPseudoSpike(tail=alpha, slope=2 / (alpha - 1))``
        braintools: ``QPseudoSpike(alpha)`` is ``QPseudoSpike(tail=alpha, slope=2 / (alpha + 1))``

    References: herranzcelotti2022stabilizing

    Example:
        >>> import numpy as np
        >>> from spikegrad import QPseudoSpike
        >>> QPseudoSpike(tail=3.0, slope=1.0).derivative(np.array([0.0, 1.0]))
        array([1.   , 0.125])
    """

    tail: Positive = 2.0
    slope: Positive = 2.0

    def derivative(self, x: Array) -> Array:
        return (1 + self.slope * abs(x)) ** (-self.tail)

    def primitive(self, x: Array) -> Array:
        octaves = log(1 + self.slope * abs(x))
        t = (1 - self.tail) * octaves
        # (exp(t) - 1) / t cancels near t = 0, that is for tails near 1: there its series is used, which is exact to rounding.
        small = abs(t) < 1 / 2
        series = 1 + t / 15
        for n in range(14, 1, -1):
            series = 1 + t / n * series
        safe = where(small, 1.0, t)
        ratio = where(small, series, (exp(safe) - 1) / safe)
        return (2 * step(x) - 1) * octaves * ratio / self.slope + 1 / 2


class NonzeroSignLog(Surrogate):
    r"""Derivative of a logarithm on both sides: a cusp whose tails fall as 1/|x|, too slowly to have an area.

    .. math:: g(x) = \frac{k}{1 + k|x|}, \qquad P(x) = \operatorname{sign}(x) \log(1 + k|x|) + \frac{1}{2}

    with k the `slope`. Neurons far from threshold keep learning at a rate that hardly depends on k: 1/|x|.

    Facts:
        peak: slope
        area: inf
        half_width: 1 / slope
        support: (-inf, inf)
        noise: none

    Elsewhere:
        braintools: ``NonzeroSignLog(alpha=slope)``
        SpikingJelly: ``NonzeroSignLogAbs(alpha=slope)``

    References: fang2023spikingjelly

    Example:
        >>> import numpy as np
        >>> from spikegrad import NonzeroSignLog
        >>> NonzeroSignLog(slope=1.0).derivative(np.array([-1.0, 0.0, 3.0]))
        array([0.5 , 1.  , 0.25])
    """

    slope: Positive = 1.0

    def derivative(self, x: Array) -> Array:
        return self.slope / (1 + self.slope * abs(x))

    def primitive(self, x: Array) -> Array:
        return (2 * step(x) - 1) * log(1 + self.slope * abs(x)) + 1 / 2


class Circle(Surrogate):
    r"""Derivative of x / sqrt(x^2 + w^2): round at its top, with tails that fall as 1/|x|^3.

    .. math:: g(x) = \left(1 + \frac{x^2}{w^2}\right)^{-3/2}, \qquad P(x) = \frac{x}{\sqrt{1 + x^2 / w^2}} + \frac{1}{2}

    with w the `width`. Between a Gaussian and a Cauchy bump: smooth at threshold, with enough of a tail to wake silent neurons.

    Facts:
        peak: 1
        area: 2 * width
        half_width: width * sqrt(2 ** (2 / 3) - 1)
        support: (-inf, inf)
        noise: Student's t with 2 degrees of freedom, scale width / sqrt(2)

    Elsewhere:
        Norse: ``heavi_circ_fn(x, alpha=width)``, the backward of ``circ_dist_fn(x, alpha=width)``

    References: pehle2021norse

    Example:
        >>> import numpy as np
        >>> from spikegrad import Circle
        >>> Circle(width=1.0).derivative(np.array([0.0, 3**0.5])).round(6)
        array([1.   , 0.125])
    """

    width: Positive = 1.0

    def derivative(self, x: Array) -> Array:
        square = 1 + (x / self.width) ** 2
        return 1 / (square * sqrt(square))

    def primitive(self, x: Array) -> Array:
        return x / sqrt(1 + (x / self.width) ** 2) + 1 / 2


class InverseAbs(Surrogate):
    r"""One over the distance to threshold, cut off at a height: the difference quotient of the step itself.

    .. math:: g(x) = \min\left(\frac{1}{|x|}, h\right), \qquad
              P(x) = \frac{1}{2} + \begin{cases} h x & |x| \le 1/h \\ \operatorname{sign}(x) (1 + \log h|x|) & \text{otherwise} \end{cases}

    with h the `height`. Its plateau is 2/h wide: the default of 0.3 treats everything within three thresholds alike, which is
    close to a straight-through estimator.

    Facts:
        peak: height
        area: inf
        half_width: 2 / height
        support: (-inf, inf)
        noise: none

    Elsewhere:
        SpikingJelly: ``FakeNumericalGradient(alpha=height)``, except at -0.0, where that gives minus infinity

    References: fang2023spikingjelly

    Example:
        >>> import numpy as np
        >>> from spikegrad import InverseAbs
        >>> InverseAbs(height=2.0).derivative(np.array([0.0, 0.25, -1.0]))
        array([2., 2., 1.])
    """

    height: Positive = 0.3

    def derivative(self, x: Array) -> Array:
        return 1 / self._distance(x)

    def primitive(self, x: Array) -> Array:
        tail = (2 * step(x) - 1) * (1 + log(self.height * self._distance(x)))
        return where(self.height * abs(x) > 1, tail, self.height * x) + 1 / 2

    def _distance(self, x: Array) -> Array:
        return where(self.height * abs(x) > 1, abs(x), 1 / self.height)
