"""The kernels' elementary functions where numbers end: subnormal, the largest, infinite, NaN and minus zero."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from tests.test_elementary import exactly, functions

from spikegrad.kernels.cpu import elementary

LIMITS = {
    "exp": (0.0, math.inf, 1.0),
    "log": (math.nan, math.inf, -math.inf),
    "sin": (math.nan, math.nan, 0.0),
    "cos": (math.nan, math.nan, 1.0),
    "tanh": (-1.0, 1.0, 0.0),
    "sigmoid": (0.0, 1.0, 0.5),
}
"""At minus and plus infinity, and at zero."""


def test_every_function_has_limits():
    assert set(LIMITS) == set(elementary.WORDS)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LIMITS)
def test_limits(name, dtype):
    function, real, info = functions(dtype)[name], getattr(np, dtype), np.finfo(dtype)
    below, above, zero = LIMITS[name]
    assert math.isnan(function(real(math.nan)))
    for x, wanted in ((-math.inf, below), (math.inf, above), (0.0, zero), (-0.0, -zero if name in ("sin", "tanh") else zero)):
        np.testing.assert_equal(float(function(real(x))), wanted)
    if name in ("exp", "tanh", "sigmoid"):
        assert float(function(real(-info.max))) == pytest.approx(below, abs=float(info.tiny))
        assert float(function(real(info.max))) == above
    for x in (info.smallest_subnormal, info.tiny / 2, info.tiny):
        for signed in (x, -x):
            value = float(function(real(signed)))
            if name == "log":
                assert math.isnan(value) if signed < 0 else value < -80
            elif name in ("sin", "tanh"):
                assert value == pytest.approx(float(signed), abs=2 * float(info.smallest_subnormal))
            else:
                assert value == zero


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_logarithm_of_subnormal_numbers(dtype):
    """To three units in the last place, as elsewhere."""
    info, random = np.finfo(dtype), np.random.default_rng(0)
    log = functions(dtype)["log"]
    sizes = np.geomspace(float(info.smallest_subnormal), float(info.tiny), 300) * random.uniform(1, 1.5, 300)
    for x in np.unique(sizes.astype(dtype)):
        wanted = exactly("log", float(x))
        units = abs(mpmath.mpf(float(log(x))) - wanted) / float(np.spacing(getattr(np, dtype)(abs(float(wanted)))))
        assert units <= 3, (x, units)
    largest = float(log(info.max))
    assert largest == pytest.approx(float(exactly("log", float(info.max))), rel=4 * float(info.eps))
