"""braintools 0.3.0's `surrogate`: its names, signatures and defaults, every curve one of spikegrad's.

A class makes a reusable object, the function of the same name in lower case applies it once::

    spikes = Sigmoid(alpha=4.0)(x)
    spikes = sigmoid(x, alpha=4.0)

Parameters are numbers, or JAX or NumPy arrays that broadcast to the potential, one value per neuron say. An array may be traced and
learned: it receives the gradient of `surrogate_fun`, so that descending it does to the soft step what descending a weight does.

What differs from braintools on purpose is told in ``docs/migrating.md``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import numpy as np

import spikegrad
from spikegrad.compat.braintools.named import Array, Curve, Named, alias, as_function
from spikegrad.compat.braintools.step import Surrogate

__all__ = [
    "ERF",
    "S2NN",
    "Arctan",
    "GaussianGrad",
    "InvSquareGrad",
    "LeakyRelu",
    "LogTailedRelu",
    "MultiGaussianGrad",
    "NonzeroSignLog",
    "PiecewiseExp",
    "PiecewiseLeakyRelu",
    "PiecewiseQuadratic",
    "QPseudoSpike",
    "ReluGrad",
    "Sigmoid",
    "SlayerGrad",
    "SoftSign",
    "SquarewaveFourierSeries",
    "Surrogate",
    "arctan",
    "erf",
    "gaussian_grad",
    "inv_square_grad",
    "leaky_relu",
    "log_tailed_relu",
    "multi_gaussian_grad",
    "nonzero_sign_log",
    "piecewise_exp",
    "piecewise_leaky_relu",
    "piecewise_quadratic",
    "q_pseudo_spike",
    "relu_grad",
    "s2nn",
    "sigmoid",
    "slayer_grad",
    "soft_sign",
    "squarewave_fourier_series",
]


class Sigmoid(Named):
    """Derivative of the logistic function of slope `alpha`.

    Example:
        >>> Sigmoid(alpha=4.0).spikegrad
        Sigmoid(slope=4.0)
    """

    def __init__(self, alpha: Array = 4.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Sigmoid(), {"slope": p.alpha}


class PiecewiseQuadratic(Named):
    """A triangle of height `alpha` on (-1 / alpha, 1 / alpha).

    Example:
        >>> PiecewiseQuadratic(alpha=2.0).spikegrad
        Triangle(width=0.5, height=2.0)
    """

    def __init__(self, alpha: Array = 1.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Triangle(), {"width": 1 / p.alpha, "height": p.alpha}


class PiecewiseExp(Named):
    """The Laplace density: an exponential cusp of slope `alpha` and height alpha / 2.

    Example:
        >>> PiecewiseExp(alpha=2.0).spikegrad
        Exponential(slope=2.0, height=1.0, shift=0.0, two_sided=True)
    """

    def __init__(self, alpha: Array = 1.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Exponential(), {"slope": p.alpha, "height": p.alpha / 2}


class SoftSign(Named):
    """A cusp of slope `alpha` and height alpha / 2 whose tails fall as 1 / x^2; `InvSquareGrad` has the same shape and height 1.

    Example:
        >>> SoftSign(alpha=2.0).spikegrad
        FastSigmoid(slope=2.0, height=1.0)
    """

    def __init__(self, alpha: Array = 1.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.FastSigmoid(), {"slope": p.alpha, "height": p.alpha / 2}


class Arctan(Named):
    """Derivative of an arctangent of slope `alpha`, the Cauchy density.

    Example:
        >>> Arctan(alpha=2.0).spikegrad
        ATan(slope=2.0)
    """

    def __init__(self, alpha: Array = 1.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.ATan(), {"slope": p.alpha}


class NonzeroSignLog(Named):
    """A cusp of height `alpha` whose tails fall as 1 / x.

    Example:
        >>> NonzeroSignLog(alpha=1.0).spikegrad
        NonzeroSignLog(slope=1.0)
    """

    _offset = -0.5

    def __init__(self, alpha: Array = 1.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.NonzeroSignLog(), {"slope": p.alpha}


class ERF(Named):
    """The normal density of standard deviation 1 / (alpha sqrt(2)).

    Example:
        >>> ERF(alpha=2.0**0.5).spikegrad.half_width.__round__(4)
        0.5887
    """

    def __init__(self, alpha: Array = 1.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Gaussian(), {"width": 1 / (p.alpha * 2**0.5)}


class PiecewiseLeakyRelu(Named):
    """1 / (2w) inside a window of half width `w`, ends included, and `c` outside.

    braintools' documentation also writes ``PiecewiseLeakyRelu(c=0.01, alpha=1.0)``, which its code refuses: here `alpha` is another
    name for `w`.

    Example:
        >>> PiecewiseLeakyRelu(c=0.01, alpha=2.0).spikegrad
        Boxcar(width=2.0, height=0.25, leak=0.01, shift=0.0, closed=True)
    """

    _kinds: ClassVar = {"c": "zero or positive", "w": "positive"}

    def __init__(self, c: Array = 0.01, w: Array = 1.0, *, alpha: Array | None = None):
        super().__init__(c=c, w=alias(w=w, default=1.0, alpha=alpha))

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Boxcar(), {"width": p.w, "height": 1 / (2 * p.w), "leak": p.c}


class SquarewaveFourierSeries(Named):
    """The derivative of the first `n` Fourier terms of a square wave of period `t_period`.

    Example:
        >>> SquarewaveFourierSeries(n=2, t_period=8.0).spikegrad
        Fourier(terms=2, period=8.0)
    """

    _kinds: ClassVar = {"t_period": "positive"}

    def __init__(self, n: float = 2, t_period: Array = 8.0):
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"`n` of SquarewaveFourierSeries must be a whole number of at least 1, got {n!r}")
        super().__init__(n=n, t_period=t_period)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Fourier(terms=int(p.n)), {"period": p.t_period}


class S2NN(Named):
    """Logistic of slope `alpha` below threshold, beta / (1 + x) above it.

    `epsilon` is kept and has no effect: braintools adds it inside the logarithm of `surrogate_fun`, which needs it nowhere.

    Example:
        >>> S2NN(alpha=4.0, beta=1.0).spikegrad
        S2NN(slope=4.0, height=1.0)
    """

    _kinds: ClassVar = {"alpha": "positive", "beta": "positive", "epsilon": "zero or positive"}

    def __init__(self, alpha: Array = 4.0, beta: Array = 1.0, epsilon: Array = 1e-8):
        super().__init__(alpha=alpha, beta=beta, epsilon=epsilon)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.S2NN(), {"slope": p.alpha, "height": p.beta}


class QPseudoSpike(Named):
    """A cusp of height 1 whose tails fall as a power `alpha` of the potential, with slope 2 / (alpha + 1).

    Example:
        >>> QPseudoSpike(alpha=3.0).spikegrad
        QPseudoSpike(tail=3.0, slope=0.5)
    """

    def __init__(self, alpha: Array = 2.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.QPseudoSpike(), {"tail": p.alpha, "slope": 2 / (p.alpha + 1)}


class LeakyRelu(Named):
    """`alpha` below threshold and `beta` from it on.

    Example:
        >>> LeakyRelu(alpha=0.1, beta=1.0).spikegrad
        LeakyStep(leak=0.1, height=1.0, closed=True)
    """

    _kinds: ClassVar = {}
    _offset = -0.5

    def __init__(self, alpha: Array = 0.1, beta: Array = 1.0):
        super().__init__(alpha=alpha, beta=beta)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.LeakyStep(), {"leak": p.alpha, "height": p.beta}


class LogTailedRelu(Named):
    """`alpha` up to threshold, 1 up to 1 above it, then 1 / x.

    Example:
        >>> LogTailedRelu(alpha=0.1).spikegrad
        LogTailedReLU(leak=0.1)
    """

    _kinds: ClassVar = {"alpha": "zero or positive"}
    _offset = -0.5

    def __init__(self, alpha: Array = 0.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.LogTailedReLU(), {"leak": p.alpha}


class ReluGrad(Named):
    """A triangle of half width `width` with sides of slope `alpha`.

    Example:
        >>> ReluGrad(alpha=0.5, width=2.0).spikegrad
        Triangle(width=2.0, height=1.0)
    """

    _kinds: ClassVar = {"alpha": "positive", "width": "positive"}

    def __init__(self, alpha: Array = 0.3, width: Array = 1.0):
        super().__init__(alpha=alpha, width=width)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Triangle(), {"width": p.width, "height": p.alpha * p.width}


class GaussianGrad(Named):
    """`alpha` times the normal density of standard deviation `sigma`.

    Example:
        >>> GaussianGrad(sigma=0.5, alpha=0.5).spikegrad
        Gaussian(width=0.5, shift=0.0, scale=0.5)
    """

    _kinds: ClassVar = {"sigma": "positive"}

    def __init__(self, sigma: Array = 0.5, alpha: Array = 0.5):
        super().__init__(alpha=alpha, sigma=sigma)  # in the order in which braintools prints them

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Gaussian(), {"width": p.sigma, "scale": p.alpha}


class InvSquareGrad(Named):
    """A cusp of slope `alpha` and height 1 whose tails fall as 1 / x^2.

    Example:
        >>> InvSquareGrad(alpha=100.0).spikegrad
        FastSigmoid(slope=100.0, height=1.0)
    """

    def __init__(self, alpha: Array = 100.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.FastSigmoid(), {"slope": p.alpha}


class MultiGaussianGrad(Named):
    """`scale` times a normal density of deviation `sigma` with two negative ones of weight `h` and deviation s sigma beside it.

    braintools' documentation also writes ``MultiGaussianGrad(h=0.15, s=6.0, gamma=0.5)``, which its code refuses: here `gamma` is
    another name for `scale`, as in the code of the paper (Yin, Corradi and Bohte 2021), where gamma is the gradient's scale.

    Example:
        >>> MultiGaussianGrad(h=0.15, s=6.0, gamma=0.25).spikegrad
        MultiGaussian(width=0.5, lobe=0.15, spread=6.0, shift=0.0, scale=0.25)
    """

    _kinds: ClassVar = {"h": "zero or positive", "s": "positive", "sigma": "positive"}

    def __init__(self, h: Array = 0.15, s: Array = 6.0, sigma: Array = 0.5, scale: Array = 0.5, *, gamma: Array | None = None):
        super().__init__(h=h, s=s, sigma=sigma, scale=alias(scale=scale, default=0.5, gamma=gamma))

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.MultiGaussian(), {"width": p.sigma, "lobe": p.h, "spread": p.s, "scale": p.scale}


class SlayerGrad(Named):
    """An exponential cusp of slope `alpha` and height 1.

    Example:
        >>> SlayerGrad(alpha=1.0).spikegrad
        Exponential(slope=1.0, height=1.0, shift=0.0, two_sided=True)
    """

    def __init__(self, alpha: Array = 1.0):
        super().__init__(alpha=alpha)

    def _curve(self, p: SimpleNamespace) -> Curve:
        return spikegrad.Exponential(), {"slope": p.alpha}


arctan = as_function("arctan", Arctan)
erf = as_function("erf", ERF)
gaussian_grad = as_function("gaussian_grad", GaussianGrad)
inv_square_grad = as_function("inv_square_grad", InvSquareGrad)
leaky_relu = as_function("leaky_relu", LeakyRelu)
log_tailed_relu = as_function("log_tailed_relu", LogTailedRelu)
multi_gaussian_grad = as_function("multi_gaussian_grad", MultiGaussianGrad)
nonzero_sign_log = as_function("nonzero_sign_log", NonzeroSignLog)
piecewise_exp = as_function("piecewise_exp", PiecewiseExp)
piecewise_leaky_relu = as_function("piecewise_leaky_relu", PiecewiseLeakyRelu)
piecewise_quadratic = as_function("piecewise_quadratic", PiecewiseQuadratic)
q_pseudo_spike = as_function("q_pseudo_spike", QPseudoSpike)
relu_grad = as_function("relu_grad", ReluGrad)
s2nn = as_function("s2nn", S2NN)
sigmoid = as_function("sigmoid", Sigmoid)
slayer_grad = as_function("slayer_grad", SlayerGrad)
soft_sign = as_function("soft_sign", SoftSign)
squarewave_fourier_series = as_function("squarewave_fourier_series", SquarewaveFourierSeries)
