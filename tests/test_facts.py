"""What docstrings state of a curve is what the curve has, and the escape noises they name really spike like that."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from spikegrad import CATALOGUE, ATan, Boxcar, FastSigmoid, Gaussian, Surrogate, Triangle, facts
from spikegrad.ranges import Positive

CASES = [
    pytest.param(surrogate, id=repr(surrogate))
    for cls in CATALOGUE.values()
    for numbers in [{f.name: f.default for f in dataclasses.fields(cls) if f.name in cls.numbers and f.name != "scale"}]
    for surrogate in {
        cls(),
        cls(scale=0.4),
        cls(**{n: v * 0.37 for n, v in numbers.items()}),
        cls(**{n: v * 2.9 if v else 0.25 for n, v in numbers.items()}),
        *(cls(**{f.name: not f.default}) for f in dataclasses.fields(cls) if isinstance(f.default, bool)),
    }
    # The area of a tail that falls more slowly is finite, but no quadrature reaches it.
    if getattr(surrogate, "tail", 2.0) >= 1.5 or getattr(surrogate, "tail", 2.0) <= 1
]
CASES += [
    pytest.param(surrogate, id=repr(surrogate))
    for surrogate in (
        CATALOGUE["SparseFastSigmoid"](slope=3.0, lower=0.5, upper=math.inf),
        CATALOGUE["SparseFastSigmoid"](slope=3.0, lower=-math.inf, upper=-0.2),
        CATALOGUE["SparseFastSigmoid"](slope=3.0, lower=0.1, upper=0.2),
        CATALOGUE["LeakyStep"](leak=0.0),
        CATALOGUE["PeriodicExponential"](stretch=1.0),
        CATALOGUE["PeriodicExponential"](width=1.5),
    )
]


@pytest.mark.parametrize("surrogate", CASES)
def test_stated_facts_are_those_of_the_curve(surrogate):
    stated = [name for name in facts.section(type(surrogate), "Facts") if name != "noise"]
    if type(surrogate).__name__ == "Fourier":
        stated.remove("area")  # it oscillates for ever and has none
    found = facts.computed(surrogate, stated)
    for name in stated:
        assert getattr(surrogate, name) == pytest.approx(found[name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("name", CATALOGUE)
def test_facts_are_stated_in_full(name):
    stated = facts.section(CATALOGUE[name], "Facts").keys()
    # A peak or a half width without a closed form is measured.
    assert {"area", "support", "noise"} <= stated
    assert stated <= {f.name for f in dataclasses.fields(facts.Facts)}


def lomax(index, scale, size, rng):
    return stats.lomax(index, scale=scale).rvs(size, random_state=rng) * rng.choice([-1, 1], size)


NOISES = {
    "ATan": lambda s, n, rng: stats.cauchy(scale=2 / (math.pi * s.slope)).rvs(n, random_state=rng),
    "FastSigmoid": lambda s, n, rng: lomax(1, 1 / s.slope, n, rng),
    "QPseudoSpike": lambda s, n, rng: lomax(s.tail - 1, 1 / s.slope, n, rng),
    "Circle": lambda s, n, rng: stats.t(2, scale=s.width / math.sqrt(2)).rvs(n, random_state=rng),
    "Sigmoid": lambda s, n, rng: stats.logistic(scale=1 / s.slope).rvs(n, random_state=rng),
    "Gaussian": lambda s, n, rng: stats.norm(s.shift, s.width).rvs(n, random_state=rng),
    "Exponential": lambda s, n, rng: stats.laplace(s.shift, 1 / s.slope).rvs(n, random_state=rng),
    "Triangle": lambda s, n, rng: stats.triang(0.5, -s.width, 2 * s.width).rvs(n, random_state=rng),
    "Boxcar": lambda s, n, rng: stats.uniform(s.shift - s.width, 2 * s.width).rvs(n, random_state=rng),
    "NoisyThreshold": lambda s, n, rng: stats.logistic(scale=1 / s.slope).rvs(n, random_state=rng),
}
"""Draws of the escape noise that a docstring names, with the parameters it gives."""

WORDS = {
    "ATan": "Cauchy",
    "FastSigmoid": "two-sided Lomax",
    "QPseudoSpike": "two-sided Lomax",
    "Circle": "Student's t",
    "Sigmoid": "logistic",
    "Gaussian": "normal",
    "Exponential": "Laplace",
    "Triangle": "triangular",
    "Boxcar": "uniform",
    "NoisyThreshold": "logistic",
}


def test_every_noise_is_drawn():
    named = {name: facts.section(cls, "Facts")["noise"] for name, cls in CATALOGUE.items()}
    assert {name for name, noise in named.items() if noise != "none"} == NOISES.keys() == WORDS.keys()
    for name, word in WORDS.items():
        assert named[name].startswith(word)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("factor", [1.0, 1.7])
def test_primitive_is_the_probability_of_a_spike(name, factor):
    cls, rng = CATALOGUE[name], np.random.default_rng(20240229)
    numbers = {f.name: f.default * factor for f in dataclasses.fields(cls) if f.name in ("slope", "width", "tail", "height")}
    if factor != 1 and hasattr(cls(), "shift"):
        numbers["shift"] = 0.3
    surrogate = cls(**numbers)
    noise = np.sort(NOISES[name](surrogate, 200_000, rng))
    x = np.linspace(-3, 3, 41)
    frequency = np.searchsorted(noise, x, side="right") / noise.size
    # As a density it has area 1; around its centre the primitive is 1/2 whatever its scale.
    probability = (surrogate.primitive(x) - 1 / 2) / surrogate.area + 1 / 2
    assert facts.computed(dataclasses.replace(surrogate, scale=1 / surrogate.area), ["area"])["area"] == pytest.approx(1, rel=1e-3)
    # Five standard errors of a frequency near 1/2.
    np.testing.assert_allclose(frequency, probability, rtol=0, atol=5 * 0.5 / math.sqrt(noise.size))


@pytest.mark.parametrize(
    "name", ["ATan", "FastSigmoid", "Sigmoid", "Gaussian", "Exponential", "Triangle", "Boxcar", "Circle", "QPseudoSpike"]
)
def test_two_surrogates_are_matched_at_half_width(name):
    matched = CATALOGUE[name]().matched_to(ATan(slope=3.0))
    assert matched.half_width == pytest.approx(ATan(slope=3.0).half_width, rel=1e-9)
    assert FastSigmoid().matched_to(0.25).half_width == pytest.approx(0.25)


def test_facts_nobody_stated_are_measured():
    class Hat(Surrogate):
        width: Positive = 0.5

        def derivative(self, x):
            rest = 1 - (x / self.width) ** 2
            return (rest + abs(rest)) / 2

    hat = Hat()
    assert hat.peak == pytest.approx(1)
    assert hat.area == pytest.approx(2 / 3, rel=1e-4)
    assert hat.half_width == pytest.approx(0.5 / math.sqrt(2), rel=1e-6)
    assert hat.support == pytest.approx((-0.5, 0.5), abs=1e-9)


def test_infinite_widths_are_not_matched():
    with pytest.raises(ValueError, match="cannot match half width"):
        Gaussian().matched_to(CATALOGUE["StraightThrough"]())
    with pytest.raises(ValueError, match="neither a slope nor a width"):
        CATALOGUE["InverseAbs"]().matched_to(ATan())


def test_published_equivalences():
    """Half widths at which the literature compares shapes."""
    assert FastSigmoid().matched_to(ATan()).slope == pytest.approx(2 * 0.6507, abs=1e-3)
    assert Triangle().area == Boxcar().area == 1
