"""Bumps whose tails fall exponentially or faster: learning is confined to neurons near threshold."""

from __future__ import annotations

from spikegrad.ranges import Positive
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array, erf, exp, floor, log, pi, sqrt, step, where


class Sigmoid(Surrogate):
    r"""Derivative of the logistic function: a smooth bump with exponential tails.

    .. math:: g(x) = \frac{k e^{-k|x|}}{(1 + e^{-k|x|})^2}, \qquad P(x) = \frac{1}{1 + e^{-k x}}

    with k the `slope`. The peak is k/4: a steep slope also makes large gradients, which compound over time steps when they flow through
    recurrent weights or the reset. The default has peak 1.

    Facts:
        peak: slope / 4
        area: 1
        half_width: 2 * log(1 + sqrt(2)) / slope
        support: (-inf, inf)
        noise: logistic, scale 1 / slope

    Elsewhere:
        snnTorch: ``sigmoid(slope=slope)``
        SpikeDE: ``sigmoid_surrogate(scale=slope)``
        braintools: ``Sigmoid(alpha=slope)``
        SpikingJelly: ``Sigmoid(alpha=slope)``
        Norse: ``heavi_tanh_fn(x, k)`` and the backward of ``logistic_fn(x, k)`` are ``Sigmoid(slope=2 * k, scale=2 / k)``
        spyx: ``tanh(k)`` is ``Sigmoid(slope=2 * k, scale=2 / k)``

    References: zenke2021remarkable, wu2018stbp

    Example:
        >>> import numpy as np
        >>> from spikegrad import Sigmoid
        >>> Sigmoid(slope=4.0).derivative(np.array([-0.5, 0.0])).round(4)
        array([0.42, 1.  ])
    """

    slope: Positive = 4.0

    def derivative(self, x: Array) -> Array:
        # With e in (0, 1] nothing overflows and neither tail is lost to s (1 - s).
        e = exp(-self.slope * abs(x))
        return self.slope * e / (1 + e) ** 2

    def primitive(self, x: Array) -> Array:
        e = exp(-self.slope * abs(x))
        return where(x >= 0, 1 / (1 + e), e / (1 + e))


class Gaussian(Surrogate):
    r"""The normal density: a smooth bump that is practically zero beyond three standard deviations.

    .. math:: g(x) = \frac{1}{w \sqrt{2\pi}} e^{-\frac{(x - c)^2}{2 w^2}}, \qquad
              P(x) = \frac{1}{2} \left(1 + \operatorname{erf} \frac{x - c}{w \sqrt{2}}\right)

    with w the `width`, the standard deviation, and c the `shift`. It is what a neuron with Gaussian noise on its potential has. A width
    well below one threshold leaves a silent layer without any gradient.

    Facts:
        peak: 1 / (width * sqrt(2 * pi))
        area: 1
        half_width: width * sqrt(2 * log(2))
        support: (-inf, inf)
        noise: normal, mean shift, standard deviation width

    Elsewhere:
        SpikeDE: ``gaussian_surrogate(sigma=width)``
        braintools: ``GaussianGrad(sigma=width, alpha=scale)``; ``ERF(alpha)`` is ``Gaussian(width=1 / (alpha * sqrt(2)))``
        sinabs: ``Gaussian(mu=shift, sigma=width, grad_scale=scale)``
        SpikingJelly: ``Erf(alpha)`` is ``Gaussian(width=1 / (alpha * sqrt(2)))``
        Norse: ``heavi_erfc_fn(x, k)`` is ``Gaussian(width=1 / (k * sqrt(2)), scale=2 / k)``

    References: yin2021accurate, wu2018stbp

    Example:
        >>> import numpy as np
        >>> from spikegrad import Gaussian
        >>> Gaussian(width=0.5).derivative(np.array([0.0, 0.5])).round(4)
        array([0.7979, 0.4839])
    """

    width: Positive = 0.5
    shift: float = 0.0

    def derivative(self, x: Array) -> Array:
        z = (x - self.shift) / self.width
        return exp(-(z**2) / 2) / (self.width * sqrt(2 * pi))

    def primitive(self, x: Array) -> Array:
        return (1 + erf((x - self.shift) / (self.width * sqrt(2.0)))) / 2


class Exponential(Surrogate):
    r"""Exponential decay on both sides of a cusp, or on the lower side only.

    .. math:: g(x) = h e^{-k|x - c|}, \qquad P(x) = \frac{1}{2} + \frac{h}{k} \operatorname{sign}(x - c) \left(1 - e^{-k|x - c|}\right)

    with k the `slope`, h the `height` and c the `shift`. The one-sided form, ``two_sided=False``, is constant above c: there
    :math:`g(x) = h` and :math:`P(x) = \frac{1}{2} + h (x - c)`. It suits graded spikes and the exponential escape rate, for which a
    potential above threshold is never too high to matter.

    Facts:
        peak: height
        area: 2 * height / slope if two_sided else inf
        half_width: log(2) / slope if two_sided else inf
        support: (-inf, inf)
        noise: Laplace, mean shift, scale 1 / slope, if two-sided

    Elsewhere:
        braintools: ``PiecewiseExp(alpha)`` is ``Exponential(slope=alpha, height=alpha / 2)``; ``SlayerGrad(alpha=slope)``
        SpikingJelly: ``PiecewiseExp(alpha)`` is ``Exponential(slope=alpha, height=alpha / 2)``
        snnTorch: ``spike_rate_escape(beta, slope)`` is ``Exponential(slope=beta, height=slope, shift=1)``
        sinabs: ``SingleExponential(grad_width, grad_scale)`` at threshold theta is ``Exponential(slope=1 / (theta * grad_width),
            height=grad_scale / (theta * grad_width))``
        lava-dl: ``Spike`` with tau_rho and scale_rho is ``Exponential(slope=1 / tau_rho, height=scale_rho / (2 * tau_rho))``; its graded
            form is ``Exponential(slope=1 / tau_rho, height=scale_rho, two_sided=False)``

    References: shrestha2018slayer, gerstner2002spiking, gygax2025elucidating

    Example:
        >>> import numpy as np
        >>> from spikegrad import Exponential
        >>> x = np.array([-0.5, 0.0, 0.5])
        >>> Exponential(slope=2.0).derivative(x).round(4)
        array([0.3679, 1.    , 0.3679])
        >>> Exponential(slope=2.0, two_sided=False).derivative(x).round(4)
        array([0.3679, 1.    , 1.    ])
    """

    slope: Positive = 2.0
    height: Positive = 1.0
    shift: float = 0.0
    two_sided: bool = True

    def derivative(self, x: Array) -> Array:
        z = x - self.shift
        distance = abs(z) if self.two_sided else (abs(z) - z) / 2
        return self.height * exp(-self.slope * distance)

    def primitive(self, x: Array) -> Array:
        z = x - self.shift
        rise = (1 - exp(-self.slope * abs(z))) / self.slope
        return self.height * where(z < 0, -rise, rise if self.two_sided else z) + 1 / 2


class PeriodicExponential(Surrogate):
    r"""An exponential cusp at threshold and again at each multiple of it above, for neurons that spike several times in a step.

    .. math:: g(x) = h e^{-|z| / w}, \qquad
              z = \begin{cases} x & x < 0 \\ s\,(x - p \lfloor x/p + \tfrac{1}{2} \rfloor) & x \ge 0 \end{cases}

    with w the `width`, p the `period` (the threshold), h the `height` and s the `stretch`: how many times faster the curve falls between
    the peaks than below threshold. It never dies out above threshold, so that a neuron that fires too much can be told so.

    Facts:
        peak: height
        area: inf
        half_width: width * log(2) * (1 + 1 / stretch) / 2 if stretch * period > 2 * width * log(2) else inf
        support: (-inf, inf)
        noise: none

    Elsewhere:
        sinabs: ``PeriodicExponential(grad_width=width, grad_scale=height)`` at threshold `period`; as first published it had stretch
            1

    References: weidel2021wavesense

    Example:
        >>> import numpy as np
        >>> from spikegrad import PeriodicExponential
        >>> PeriodicExponential().derivative(np.array([-0.5, 0.0, 0.25, 0.5, 1.0])).round(3)
        array([0.368, 1.   , 0.368, 0.135, 1.   ])
    """

    width: Positive = 0.5
    period: Positive = 1.0
    height: Positive = 1.0
    stretch: Positive = 2.0

    def derivative(self, x: Array) -> Array:
        nearest = x - self.period * floor(x / self.period + 1 / 2)
        z = where(x < 0, x, self.stretch * nearest)
        return self.height * exp(-abs(z) / self.width)

    def primitive(self, x: Array) -> Array:
        w = self.width / self.stretch
        count = floor(x / self.period + 1 / 2)
        nearest = x - self.period * count
        whole = 2 * w * (1 - exp(-self.period / (2 * w)))
        above = count * whole + (2 * step(nearest) - 1) * w * (1 - exp(-abs(nearest) / w))
        return self.height * where(x < 0, self.width * (exp(-abs(x) / self.width) - 1), above) + 1 / 2


class S2NN(Surrogate):
    r"""Logistic below threshold, one over the potential above it: made for networks of a single time step.

    .. math:: g(x) = \begin{cases} k s (1 - s),\ s = 1 / (1 + e^{-k x}) & x < 0 \\ h / (1 + x) & x \ge 0 \end{cases}, \qquad
              P(x) = \begin{cases} s & x < 0 \\ \tfrac{1}{2} + h \log(1 + x) & x \ge 0 \end{cases}

    with k the `slope` and h the `height`. With one time step a neuron that fires has no second chance to be corrected, hence the slow decay
    above threshold. It jumps at 0 unless h = k/4.

    Facts:
        peak: max(slope / 4, height)
        area: inf
        support: (-inf, inf)
        noise: none

    Elsewhere:
        braintools: ``S2NN(alpha=slope, beta=height)``
        SpikingJelly: ``S2NN(alpha=slope, beta=height)``

    References: suetake2022s2nn

    Example:
        >>> import numpy as np
        >>> from spikegrad import S2NN
        >>> S2NN().derivative(np.array([-0.5, 0.0, 1.0])).round(2)
        array([0.42, 1.  , 0.5 ])
    """

    slope: Positive = 4.0
    height: Positive = 1.0

    def derivative(self, x: Array) -> Array:
        e = exp(-self.slope * abs(x))
        return where(x < 0, self.slope * e / (1 + e) ** 2, self.height / (1 + abs(x)))

    def primitive(self, x: Array) -> Array:
        e = exp(-self.slope * abs(x))
        return where(x < 0, e / (1 + e), self.height * log(1 + abs(x)) + 1 / 2)
