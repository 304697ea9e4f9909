"""Bumps that are zero outside a window: a neuron far from threshold learns nothing, and costs nothing."""

from __future__ import annotations

from spikegrad.ranges import NonNegative, Positive, Unbounded
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array, maximum, step, where


class Triangle(Surrogate):
    r"""A triangle: straight down from threshold to zero at both ends of a window.

    .. math:: g(x) = h \max\left(0, 1 - \frac{|x|}{w}\right), \qquad
              P(x) = \frac{1}{2} + h w \left(r - \frac{r|r|}{2}\right),\ r = \min(1, \max(-1, x / w))

    with w the `width`, half of the support, and h the `height`. Cheap, and exactly zero for neurons more than w from threshold: with w = 1
    a neuron at rest just does not learn.

    Facts:
        peak: height
        area: height * width
        half_width: width / 2
        support: (-width, width)
        noise: triangular on (-width, width)

    Elsewhere:
        braintools: ``PiecewiseQuadratic(alpha)`` is ``Triangle(width=1 / alpha, height=alpha)``; ``ReluGrad(alpha, width)`` is
            ``Triangle(width=width, height=alpha * width)``
        SpikingJelly: ``PiecewiseQuadratic(alpha)`` is ``Triangle(width=1 / alpha, height=alpha)``
        Norse: ``triangle_fn(x, alpha)`` is ``Triangle(width=1, height=alpha)``
        spyx: ``triangular(k)`` is ``Triangle(width=1 / k)``
        snnTorch: ``triangular`` is not this curve; see `LeakyStep`

    References: esser2016convolutional, bellec2018long

    Example:
        >>> import numpy as np
        >>> from spikegrad import Triangle
        >>> Triangle(width=2.0).derivative(np.array([-3.0, -1.0, 0.0, 2.0]))
        array([0. , 0.5, 1. , 0. ])
    """

    width: Positive = 1.0
    height: Positive = 1.0

    def derivative(self, x: Array) -> Array:
        # A comparison of |x| with a rounded width could dip below zero at the ends.
        return self.height * maximum(1 - abs(x) / self.width, 0)

    def primitive(self, x: Array) -> Array:
        r = where(abs(x) < self.width, x / self.width, 2 * step(x) - 1)
        return self.height * self.width * (r - r * abs(r) / 2) + 1 / 2


class Boxcar(Surrogate):
    r"""Constant inside a window, and another constant, usually zero, outside.

    .. math:: g(x) = \begin{cases} h & |x - c| \le w \\ l & \text{otherwise} \end{cases}, \qquad
              P(x) = \frac{1}{2} + l (x - c) + (h - l) \min(w, \max(-w, x - c))

    with w the `width`, half of the window, h the `height`, l the `leak` and c the `shift`. ``closed=False`` leaves the two ends of the
    window outside. The cheapest bump with a window; the small leak of the piecewise leaky ReLU keeps neurons outside of it alive.

    Facts:
        peak: max(height, leak)
        area: inf if leak else 2 * width * height
        half_width: inf if leak >= height / 2 else width
        support: (-inf if leak else shift - width, inf if leak else shift + width)
        noise: uniform on (shift - width, shift + width), if there is no leak

    Elsewhere:
        SpikeDE: ``piecewise_linear_surrogate(gamma)`` is ``Boxcar(width=gamma, height=1 / (2 * gamma))``
        braintools: ``PiecewiseLeakyRelu(c, w)`` is ``Boxcar(width=w, height=1 / (2 * w), leak=c)``
        SpikingJelly: ``PiecewiseLeakyReLU(w, c)`` is ``Boxcar(width=w, height=1 / (2 * w), leak=c, closed=False)``; ``Rect(alpha)`` is
            ``Boxcar(width=1 / (2 * alpha), height=alpha, closed=False)``; the backward of ``MultiLevelSpikeCount(M)`` is
            ``Boxcar(width=M / 2, shift=M / 2)``
        spyx: ``boxcar(width, height)`` is ``Boxcar(width=width / 2, height=height, closed=False)``

    References: wu2018stbp, neftci2019surrogate

    Example:
        >>> import numpy as np
        >>> from spikegrad import Boxcar
        >>> Boxcar(width=0.5, leak=0.01).derivative(np.array([-0.5, 0.0, 0.6]))
        array([1.  , 1.  , 0.01])
    """

    width: Positive = 0.5
    height: Positive = 1.0
    leak: NonNegative = 0.0
    shift: float = 0.0
    closed: bool = True

    def derivative(self, x: Array) -> Array:
        distance = abs(x - self.shift)
        outside = 1 - step(self.width - distance) if self.closed else step(distance - self.width)
        return self.height * (1 - outside) + self.leak * outside

    def primitive(self, x: Array) -> Array:
        z = x - self.shift
        inside = where(abs(z) < self.width, z, self.width * (2 * step(z) - 1))
        return self.leak * z + (self.height - self.leak) * inside + 1 / 2


class SparseFastSigmoid(Surrogate):
    r"""The fast sigmoid's bump inside a window around threshold, zero outside: only neurons about to fire take part in the backward pass.

    .. math:: g(x) = \begin{cases} (1 + k|x|)^{-2} & b < x < B \\ 0 & \text{otherwise} \end{cases}, \qquad
              P(x) = \frac{1}{2} + F(x) - F(0),\ F(x) = \frac{r}{1 + k|r|},\ r = \min(B, \max(b, x))

    with k the `slope`, b the `lower` and B the `upper` end, either of which may be infinite. In a trained network about one neuron in a
    hundred is inside the default window at any time, so a backward pass that visits only those is many times cheaper. Too narrow a
    window (0.01) keeps networks from learning.

    Facts:
        peak: 1 / (1 + slope * max(lower, -upper, 0)) ** 2
        area: ((upper > 0) - (upper < 0)) * (1 - 1 / (1 + slope * abs(upper))) / slope - ((lower > 0) - (lower < 0)) *
            (1 - 1 / (1 + slope * abs(lower))) / slope
        half_width: (min(upper, (sqrt(2) * (1 + slope * max(lower, -upper, 0)) - 1) / slope) -
            max(lower, -(sqrt(2) * (1 + slope * max(lower, -upper, 0)) - 1) / slope)) / 2
        support: (lower, upper)
        noise: none

    Elsewhere:
        snnTorch: ``SFS(slope, B)`` is ``SparseFastSigmoid(slope=slope, lower=B, upper=inf)``: not around threshold but above it

    References: pereznieves2021sparse

    Example:
        >>> import numpy as np
        >>> from spikegrad import SparseFastSigmoid
        >>> SparseFastSigmoid(slope=10.0).derivative(np.array([-0.3, -0.1, 0.0, 0.2]))
        array([0.  , 0.25, 1.  , 0.  ])
    """

    slope: Positive = 100.0
    lower: Unbounded = -0.2
    upper: Unbounded = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lower < self.upper:
            raise ValueError(f"`lower` of SparseFastSigmoid must be less than `upper`, got {self.lower} and {self.upper}")

    def derivative(self, x: Array) -> Array:
        return where((x > self.lower) & (x < self.upper), 1 / (1 + self.slope * abs(x)) ** 2, 0.0)

    def primitive(self, x: Array) -> Array:
        return self._sigmoid(x) - self._sigmoid(x * 0) + 1 / 2

    def _sigmoid(self, x: Array) -> Array:
        r = where(x < self.lower, self.lower, where(x > self.upper, self.upper, x))
        return r / (1 + self.slope * abs(r))
