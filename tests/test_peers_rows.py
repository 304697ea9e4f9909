"""Every surrogate of eight libraries, its backward pass written out as that library computes it, against our name for it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy import abs, cos, exp, pi, sqrt, where
from scipy.special import expit

from spikegrad import (
    S2NN,
    ATan,
    Boxcar,
    Circle,
    Exponential,
    FastSigmoid,
    Fourier,
    Gaussian,
    Heaviside,
    InverseAbs,
    LeakyStep,
    LogTailedReLU,
    MultiGaussian,
    NoisyThreshold,
    NonzeroSignLog,
    PeriodicExponential,
    QPseudoSpike,
    Sigmoid,
    SparseFastSigmoid,
    StochasticLeak,
    StraightThrough,
    Surrogate,
    Triangle,
    facts,
)
from spikegrad.formulas import CATALOGUE


@dataclasses.dataclass
class Row:
    """One surrogate of one library.

    Attributes:
        peer: how it is called there.
        theirs: its backward pass, of x (potential minus threshold) and its parameters.
        ours: the same parameters to our surrogate.
        values: the parameters to compare at; the library's defaults come first.
    """

    library: str
    peer: str
    theirs: Callable[..., Any]
    ours: Callable[..., Surrogate]
    values: list[tuple[float, ...]]
    noise: float | None = None


def normal(x, mean, sd):
    return exp(-((x - mean) ** 2) / (2 * sd**2)) / (sd * sqrt(2 * pi))


def multi_gaussian(x, mean, sd, h, s):
    return (1 + h) * normal(x, mean, sd) - h * normal(x, sd, s * sd) - h * normal(x, -sd, s * sd)


def squarewave(x, terms, period):
    return 4 / period * sum(cos((2 * i - 1) * 2 * pi / period * x) for i in range(1, int(terms) + 1)) + 0 * x


def sinabs_periodic(x, theta, width, scale):
    u = x + theta
    beyond = u / theta - 1 / 2
    z = where(u < theta, x, theta * (2 * (beyond - np.floor(beyond)) - 1))
    return scale * exp(-abs(z) / width)


def sinabs_periodic_before(x, theta, width, scale):
    return scale * exp(-abs(where(x < 0, x, x - theta * np.round(x / theta))) / width)


def logit_noise(u):
    u = min(max(u, 1e-6), 1 - 1e-6)
    return math.log(u) - math.log1p(-u)


def tail_log(x, a):
    return where(x <= 0, a, where(x <= 1, 1.0, 1 / where(x == 0, 1, x)))


A = [(2.0,), (1.0,), (0.3,), (7.1,)]
ROWS = [
    # snnTorch 1.0.0
    Row("snnTorch", "atan(alpha)", lambda x, a: a / 2 / (1 + (pi / 2 * a * x) ** 2), ATan, A),
    Row("snnTorch", "LeakyParallel.ATan(alpha)", lambda x, a: a / 2 / (1 + (pi / 2 * a * x) ** 2), ATan, A),
    Row("snnTorch", "fast_sigmoid(slope)", lambda x, k: 1 / (1 + k * abs(x)) ** 2, FastSigmoid, [(25.0,), *A]),
    Row("snnTorch", "sigmoid(slope)", lambda x, k: k * exp(-k * x) / (exp(-k * x) + 1) ** 2, Sigmoid, [(25.0,), *A]),
    Row(
        "snnTorch",
        "SFS(slope, B)",
        lambda x, k, b: (x > b) / (1 + k * abs(x)) ** 2,
        lambda k, b: SparseFastSigmoid(slope=k, lower=b, upper=math.inf),
        [(25.0, 1.0), (3.3, -0.7), (100.0, 0.0)],
    ),
    Row(
        "snnTorch",
        "LeakySpikeOperator.apply(x, slope)",
        lambda x, k: where(x > 0, 1.0, k),
        lambda k: LeakyStep(leak=k, closed=False),
        [(0.1,), (0.73,)],
    ),
    Row(
        "snnTorch",
        "SSO(mean, variance), drawing 0.83",
        lambda x, mean, variance: where(x > 0, 1.0, (0.83 - 0.5 + mean) * variance),
        lambda mean, variance: StochasticLeak(leak=mean * variance, spread=variance),
        [(0.0, 0.2), (1.0, 0.2), (-0.3, 1.7)],
        noise=0.83,
    ),
    Row(
        "snnTorch",
        "spike_rate_escape(beta, slope)",
        lambda x, beta, slope: slope * exp(-beta * abs(x - 1)),
        lambda beta, slope: Exponential(slope=beta, height=slope, shift=1),
        [(1.0, 25.0), (3.3, 0.7)],
    ),
    Row("snnTorch", "straight_through_estimator()", lambda x: np.ones_like(x), StraightThrough, [()]),
    Row(
        "snnTorch",
        "triangular(threshold)",
        lambda x, t: where(x < 0, t, -t),
        lambda t: LeakyStep(leak=t, height=-t),
        [(1.0,), (3.0,)],
    ),
    Row("snnTorch", "heaviside()", lambda x: (x > 0) * 1.0, lambda: Heaviside(closed=False), [()]),
    # SpikeDE
    Row("SpikeDE", "sigmoid_surrogate(scale)", lambda x, k: k * expit(k * x) * (1 - expit(k * x)), Sigmoid, [(5.0,), *A]),
    Row("SpikeDE", "arctan_surrogate(scale)", lambda x, k: k / 2 / (1 + (pi / 2 * k * x) ** 2), ATan, [(2.0,), (5.0,)]),
    Row(
        "SpikeDE",
        "piecewise_linear_surrogate(gamma)",
        lambda x, g: ((x >= -g) & (x <= g)) / (2 * g),
        lambda g: Boxcar(width=g, height=1 / (2 * g)),
        [(1.0,), (0.3,), (5.0,)],
    ),
    Row("SpikeDE", "gaussian_surrogate(sigma)", lambda x, s: normal(x, 0, s), Gaussian, [(1.0,), (0.3,), (5.0,)]),
    Row(
        "SpikeDE",
        "noisy_threshold_spike(scale), drawing 0.2",
        lambda x, k: k * expit(k * x + logit_noise(0.2)) * expit(-k * x - logit_noise(0.2)),
        NoisyThreshold,
        [(5.0,), (0.7,)],
        noise=0.2,
    ),
    Row(
        "SpikeDE",
        "noisy_threshold_spike(scale), drawing 1e-9",
        lambda x, k: k * expit(k * x + logit_noise(1e-9)) * expit(-k * x - logit_noise(1e-9)),
        NoisyThreshold,
        [(5.0,), (0.7,)],
        noise=1e-9,
    ),
    Row(
        "SpikeDE",
        "noisy_threshold_spike(scale, sample=False)",
        lambda x, k: k * expit(k * x) * expit(-k * x),
        lambda k: NoisyThreshold(k, sample=False),
        [(5.0,), (0.7,)],
        noise=0.9,
    ),
    # braintools 0.3.0
    Row("braintools", "Sigmoid(alpha)", lambda x, a: (1 - expit(a * x)) * expit(a * x) * a, Sigmoid, [(4.0,), *A]),
    Row(
        "braintools",
        "PiecewiseQuadratic(alpha)",
        lambda x, a: where(abs(x) > 1 / a, 0.0, a - a**2 * abs(x)),
        lambda a: Triangle(width=1 / a, height=a),
        [(1.0,), (0.3,), (16.2,)],
    ),
    Row("braintools", "PiecewiseExp(alpha)", lambda x, a: a / 2 * exp(-a * abs(x)), lambda a: Exponential(slope=a, height=a / 2), A),
    Row("braintools", "SoftSign(alpha)", lambda x, a: 0.5 * a / (1 + abs(a * x)) ** 2, lambda a: FastSigmoid(slope=a, height=a / 2), A),
    Row("braintools", "Arctan(alpha)", lambda x, a: 0.5 * a / (1 + (pi / 2 * a * x) ** 2), ATan, A),
    Row("braintools", "NonzeroSignLog(alpha)", lambda x, a: 1 / (1 / a + abs(x)), NonzeroSignLog, A),
    Row("braintools", "ERF(alpha)", lambda x, a: a / sqrt(pi) * exp(-(a**2) * x**2), lambda a: Gaussian(width=1 / (a * sqrt(2))), A),
    Row(
        "braintools",
        "PiecewiseLeakyRelu(c, w)",
        lambda x, c, w: where(abs(x) > w, c, 1 / (2 * w)),
        lambda c, w: Boxcar(width=w, height=1 / (2 * w), leak=c),
        [(0.01, 1.0), (0.0, 0.3), (0.2, 0.7)],
    ),
    Row(
        "braintools",
        "SquarewaveFourierSeries(n, t_period)",
        squarewave,
        lambda n, period: Fourier(terms=int(n), period=period),
        [(2, 8.0), (1, 3.7), (5, 8.0)],
    ),
    Row(
        "braintools",
        "S2NN(alpha, beta)",
        lambda x, a, b: where(x < 0, a * expit(a * x) * (1 - expit(a * x)), b / (where(x < 0, 0, x) + 1)),
        S2NN,
        [(4.0, 1.0), (1.3, 0.2)],
    ),
    Row(
        "braintools",
        "QPseudoSpike(alpha)",
        lambda x, a: (1 + 2 * abs(x) / (a + 1)) ** (-a),
        lambda a: QPseudoSpike(tail=a, slope=2 / (a + 1)),
        [(2.0,), (1.0,), (0.5,), (3.7,)],
    ),
    Row("braintools", "LeakyRelu(alpha, beta)", lambda x, a, b: where(x < 0, a, b), LeakyStep, [(0.1, 1.0), (0.3, 0.7)]),
    Row("braintools", "LogTailedRelu(alpha)", tail_log, LogTailedReLU, [(0.0,), (0.3,)]),
    Row(
        "braintools",
        "ReluGrad(alpha, width)",
        lambda x, a, w: np.maximum(a * w - abs(x) * a, 0),
        lambda a, w: Triangle(width=w, height=a * w),
        [(0.3, 1.0), (1.7, 0.6)],
    ),
    Row(
        "braintools",
        "GaussianGrad(sigma, alpha)",
        lambda x, s, a: a * normal(x, 0, s),
        lambda s, a: Gaussian(width=s, scale=a),
        [(0.5, 0.5), (0.3, 1.7)],
    ),
    Row("braintools", "InvSquareGrad(alpha)", lambda x, a: 1 / (a * abs(x) + 1) ** 2, FastSigmoid, [(100.0,), *A]),
    Row(
        "braintools",
        "MultiGaussianGrad(h, s, sigma, scale)",
        lambda x, h, s, sd, scale: scale * multi_gaussian(x, 0, sd, h, s),
        lambda h, s, sd, scale: MultiGaussian(width=sd, lobe=h, spread=s, scale=scale),
        [(0.15, 6.0, 0.5, 0.5), (0.3, 2.2, 0.8, 1.0)],
    ),
    Row("braintools", "SlayerGrad(alpha)", lambda x, a: exp(-a * abs(x)), Exponential, A),
    # sinabs 3.1.3, at threshold theta
    Row(
        "sinabs",
        "Heaviside(window) at theta",
        lambda x, window, theta: (x >= -window) / theta,
        lambda window, theta: Heaviside(height=1 / theta, shift=-window),
        [(1.0, 1.0), (0.5, 2.0)],
    ),
    Row(
        "sinabs",
        "Gaussian(mu, sigma, grad_scale)",
        lambda x, mu, s, scale: scale * normal(x, mu, s),
        lambda mu, s, scale: Gaussian(width=s, shift=mu, scale=scale),
        [(0.0, 0.5, 1.0), (0.3, 0.7, 2.0)],
    ),
    Row(
        "sinabs",
        "MultiGaussian(mu, sigma, h, s, grad_scale)",
        lambda x, mu, sd, h, s, scale: scale * multi_gaussian(x, mu, sd, h, s),
        lambda mu, sd, h, s, scale: MultiGaussian(width=sd, lobe=h, spread=s, shift=mu, scale=scale),
        [(0.0, 0.5, 0.15, 6.0, 1.0), (0.4, 0.7, 0.2, 3.0, 1.5)],
    ),
    Row(
        "sinabs",
        "SingleExponential(grad_width, grad_scale) at theta",
        lambda x, w, scale, theta: scale / (theta * w) * exp(-abs(x) / (theta * w)),
        lambda w, scale, theta: Exponential(slope=1 / (theta * w), height=scale / (theta * w)),
        [(0.5, 1.0, 1.0), (0.3, 2.0, 1.7)],
    ),
    Row(
        "sinabs",
        "PeriodicExponential(grad_width, grad_scale) at theta",
        lambda x, w, scale, theta: sinabs_periodic(x, theta, w, scale),
        lambda w, scale, theta: PeriodicExponential(width=w, height=scale, period=theta),
        [(0.5, 1.0, 1.0), (0.3, 2.0, 2.0), (1.1, 1.0, 0.7)],
    ),
    Row(
        "sinabs",
        "PeriodicExponential(grad_width, grad_scale) at theta, before its repair",
        lambda x, w, scale, theta: sinabs_periodic_before(x, theta, w, scale),
        lambda w, scale, theta: PeriodicExponential(width=w, height=scale, period=theta, stretch=1),
        [(0.5, 1.0, 1.0), (0.3, 2.0, 2.0)],
    ),
    Row("sinabs", "Quantize", lambda x: np.ones_like(x), StraightThrough, [()]),
    Row("sinabs", "StochasticRounding", lambda x: np.ones_like(x), StraightThrough, [()]),
    # SpikingJelly 2.0.0
    Row(
        "SpikingJelly",
        "PiecewiseQuadratic(alpha)",
        lambda x, a: where(abs(x) > 1 / a, 0.0, -(a**2) * abs(x) + a),
        lambda a: Triangle(width=1 / a, height=a),
        [(1.0,), (0.3,), (16.8,)],
    ),
    Row("SpikingJelly", "PiecewiseExp(alpha)", lambda x, a: a / 2 * exp(-a * abs(x)), lambda a: Exponential(slope=a, height=a / 2), A),
    Row("SpikingJelly", "Sigmoid(alpha)", lambda x, a: (1 - expit(a * x)) * expit(a * x) * a, Sigmoid, [(4.0,), *A]),
    Row("SpikingJelly", "SoftSign(alpha)", lambda x, a: 1 / (2 * a * (1 / a + abs(x)) ** 2), lambda a: FastSigmoid(a, a / 2), A),
    Row("SpikingJelly", "SuperSpike(alpha)", lambda x, a: a / (abs(x) + 1) ** 2, lambda a: FastSigmoid(slope=1, height=a), A),
    Row("SpikingJelly", "ATan(alpha)", lambda x, a: a / 2 / (1 + (pi * a * x / 2) ** 2), ATan, A),
    Row("SpikingJelly", "NonzeroSignLogAbs(alpha)", lambda x, a: 1 / (1 / a + abs(x)), NonzeroSignLog, A),
    Row("SpikingJelly", "Erf(alpha)", lambda x, a: a / sqrt(pi) * exp(-((a * x) ** 2)), lambda a: Gaussian(1 / (a * sqrt(2))), A),
    Row(
        "SpikingJelly",
        "PiecewiseLeakyReLU(w, c)",
        lambda x, w, c: where(abs(x) < w, 1 / (2 * w), c),
        lambda w, c: Boxcar(width=w, height=1 / (2 * w), leak=c, closed=False),
        [(1.0, 0.01), (0.3, 0.0), (0.7, 0.2)],
    ),
    Row(
        "SpikingJelly",
        "SquarewaveFourierSeries(n, T_period)",
        lambda x, n, period: squarewave(x, n - 1, period),
        lambda n, period: Fourier(terms=int(n) - 1, period=period),
        [(2, 8), (3, 3.7)],
    ),
    Row(
        "SpikingJelly",
        "S2NN(alpha, beta)",
        lambda x, a, b: where(x < 0, a * expit(a * x) * (1 - expit(a * x)), b / (where(x < 0, 0, x) + 1)),
        S2NN,
        [(4.0, 1.0), (1.3, 0.2)],
    ),
    Row(
        "SpikingJelly",
        "QPseudoSpike(alpha)",
        lambda x, a: (1 + 2 / (a - 1) * abs(x)) ** (-a),
        lambda a: QPseudoSpike(tail=a, slope=2 / (a - 1)),
        [(2.0,), (1.3,), (3.7,)],
    ),
    Row(
        "SpikingJelly",
        "LeakyKReLU(leak, k)",
        lambda x, leak, k: where(x >= 0, k, leak),
        lambda leak, k: LeakyStep(leak=leak, height=k),
        [(0.0, 1.0), (0.3, 0.7)],
    ),
    Row(
        "SpikingJelly",
        "FakeNumericalGradient(alpha)",
        lambda x, a: np.minimum(where(x >= 0, 1, -1) / where(x == 0, 1e-300, x), a),
        InverseAbs,
        [(0.3,), (2.0,)],
    ),
    Row("SpikingJelly", "LogTailedReLU(alpha)", tail_log, LogTailedReLU, [(0.0,), (0.3,)]),
    Row("SpikingJelly", "DeterministicPass()", lambda x: np.ones_like(x), StraightThrough, [()]),
    Row("SpikingJelly", "PoissonPass()", lambda x: np.ones_like(x), StraightThrough, [()]),
    Row(
        "SpikingJelly",
        "MultiLevelSpikeCount(max_spike_count)",
        lambda x, m: ((x >= 0) & (x <= m)) * 1.0,
        lambda m: Boxcar(width=m / 2, shift=m / 2),
        [(4,), (3,)],
    ),
    Row(
        "SpikingJelly",
        "Rect(alpha)",
        lambda x, a: a * (abs(x) < 0.5 / a),
        lambda a: Boxcar(width=0.5 / a, height=a, closed=False),
        [(1.0,), (0.3,), (4.0,)],
    ),
    # Norse 1.1.0
    Row("Norse", "super_fn(x, alpha)", lambda x, a: 1 / (abs(x) + 1) ** 2, lambda a: FastSigmoid(slope=1), [(100.0,), (1.0,)]),
    Row("Norse", "super_fn(x, alpha), since 1.1.0", lambda x, a: 1 / (a * abs(x) + 1) ** 2, FastSigmoid, [(100.0,), (1.0,)]),
    Row(
        "Norse",
        "heavi_erfc_fn(x, k)",
        lambda x, k: 2 / sqrt(pi) * exp(-(k**2) * x**2),
        lambda k: Gaussian(width=1 / (k * sqrt(2)), scale=2 / k),
        A,
    ),
    Row("Norse", "heavi_tanh_fn(x, k)", lambda x, k: 1 - np.tanh(k * x) ** 2, lambda k: Sigmoid(slope=2 * k, scale=2 / k), A),
    Row("Norse", "logistic_fn(x, k)", lambda x, k: 1 - np.tanh(k * x) ** 2, lambda k: Sigmoid(slope=2 * k, scale=2 / k), A),
    Row("Norse", "heavi_circ_fn(x, alpha)", lambda x, a: a**3 / (x**2 + a**2) ** 1.5, Circle, A),
    Row("Norse", "circ_dist_fn(x, alpha)", lambda x, a: a**3 / (x**2 + a**2) ** 1.5, Circle, A),
    Row("Norse", "triangle_fn(x, alpha)", lambda x, a: a * np.maximum(1 - abs(x), 0), lambda a: Triangle(height=a), [(0.3,), *A]),
    # spyx 1.0.0
    Row("spyx", "tanh(k)", lambda x, k: 4 / (exp(-k * x) + exp(k * x)) ** 2, lambda k: Sigmoid(slope=2 * k, scale=2 / k), A),
    Row(
        "spyx",
        "boxcar(width, height)",
        lambda x, w, h: where(abs(x) < w / 2, h, 0.0),
        lambda w, h: Boxcar(width=w / 2, height=h, closed=False),
        [(2.0, 0.5), (0.6, 1.7)],
    ),
    Row("spyx", "triangular(k)", lambda x, k: np.maximum(0, 1 - abs(k * x)), lambda k: Triangle(width=1 / k), A),
    Row("spyx", "arctan(k)", lambda x, k: 1 / (pi * (1 + (k * pi * x) ** 2)), lambda k: ATan(slope=2 * k, scale=1 / (pi * k)), A),
    Row("spyx", "superspike(k)", lambda x, k: 1 / (1 + k * abs(x)) ** 2, FastSigmoid, [(25.0,), *A]),
    # lava-dl
    Row(
        "lava-dl",
        "Spike(tau_rho, scale_rho)",
        lambda x, tau, scale: scale / (2 * tau) * exp(-abs(x) / tau),
        lambda tau, scale: Exponential(slope=1 / tau, height=scale / (2 * tau)),
        [(1.0, 1.0), (0.3, 2.0)],
    ),
    Row(
        "lava-dl",
        "Spike(tau_rho, scale_rho, graded_spike=True)",
        lambda x, tau, scale: scale * exp(np.minimum(x, 0) / tau),
        lambda tau, scale: Exponential(slope=1 / tau, height=scale, two_sided=False),
        [(1.0, 1.0), (0.3, 2.0)],
    ),
]

DIFFERENT = {
    "snnTorch sigmoid": "NaN for slope * x below about -88 in float32 (inf / inf, defect S-1); ours is the limit, 0",
    "snnTorch LSO()": "raises TypeError on every call (S-2); LeakyStep is what it documents",
    "snnTorch custom_surrogate(f)": "a user's function: a class with one method, or from_formula (S-11)",
    "snnTorch _surrogate_bypass": "a step without any gradient: call the surrogate under torch.no_grad()",
    "SpikeDE gaussian_surrogate, piecewise_linear_surrogate": "hold constants in float32 even for float64 input (T-3)",
    "SpikeDE noisy_threshold_spike(training=False)": "is not differentiable (D-4); ours keeps its mean-field gradient",
    "sinabs Gaussian, MultiGaussian": "hold constants in float32 (T-3)",
    "SpikingJelly SquarewaveFourierSeries(n=1)": "a sum of no terms, zero everywhere (J-4); refused",
    "SpikingJelly FakeNumericalGradient at -0.0": "minus infinity (J-1); ours is the height",
    "SpikingJelly QPseudoSpike(alpha <= 1)": "ZeroDivisionError, or NaN (J-5); ours takes any positive slope for any tail",
    "Norse heavi_erfc_fn": "holds sqrt(pi) in float32 (T-3)",
    "Norse threshold(x, 'heaviside', ...)": "has no gradient",
    "Norse sign(x, method, alpha)": "twice its threshold: spike(x, scale=2), minus one",
    "spyx custom()": "is called straight-through and has gradient x (X-1); ours is StraightThrough",
}
"""What is not reproduced to the last digit, and why."""


def points(ours):
    """The common grid, and wherever the curve may bend or jump."""
    given = [v for n, v in ours.parameters.items() if n != "scale" and math.isfinite(v)]
    shift, width = getattr(ours, "shift", 0.0), getattr(ours, "width", 1.0)
    bends = [0.0, -0.0, 1.0, -1.0, shift, shift - width, shift + width, *given, *(-v for v in given)]
    return np.concatenate([np.linspace(-4, 4, 8001), [x for x in bends if -4 <= x <= 4]])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.library} {row.peer}")
def test_reproduces(row):
    for values in row.values:
        ours = row.ours(*values)
        x = points(ours)
        value = ours.derivative(x) if row.noise is None else ours.derivative(x, row.noise)
        np.testing.assert_allclose(value, row.theirs(x, *values), rtol=0, atol=1e-12, err_msg=repr(ours))


def test_ours_where_theirs_fails():
    assert Sigmoid(slope=25.0).derivative(np.float32(-30)) == 0
    assert InverseAbs(height=0.3).derivative(-0.0) == 0.3
    assert QPseudoSpike(tail=0.5, slope=2.0).derivative(4.0) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="`terms` of Fourier must be at least 1"):
        Fourier(terms=0)
    for ours in (Gaussian(width=0.3), MultiGaussian(), Boxcar(width=0.3, height=1 / 0.6)):
        assert ours.derivative(np.zeros(1))[0] != np.float32(ours.derivative(np.zeros(1))[0])


def test_every_row_is_named_in_a_docstring():
    """The first word of a peer's call stands in the `Elsewhere:` section of the surrogate that reproduces it."""
    for row in ROWS:
        name = re.split(r"[(, ]", row.peer)[0].replace("LeakySpikeOperator.apply", "LSO").replace("LeakyParallel.ATan", "atan")
        ours = type(row.ours(*row.values[0]))
        assert name in facts.section(ours, "Elsewhere").get(row.library, ""), (
            f"{row.library} {row.peer} is not in the docstring of {ours.__name__}"
        )


def test_every_surrogate_stands_for_something():
    assert {type(row.ours(*row.values[0])).__name__ for row in ROWS} == set(CATALOGUE)
