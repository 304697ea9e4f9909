"""Where a surrogate may be other than 0: what event-driven layers leave out is 0 on every backend."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from tests.conftest import DTYPES
from tests.test_facts import CASES

from spikegrad import Surrogate, Triangle, facts
from spikegrad.ranges import Positive


@pytest.mark.parametrize("surrogate", CASES)
def test_outside_of_the_window_nothing_is_left_in_any_dtype(surrogate):
    if surrogate.stochastic:
        pytest.skip("it draws noise, and runs in the plain loop alone")
    low, high = facts.window(surrogate)
    stated = surrogate.support
    assert low <= stated[0] or math.isinf(low)
    assert high >= stated[1] or math.isinf(high)
    beyond = np.concatenate([[0.0], np.geomspace(1e-12, 1e4, 4000)])
    ends = [end + side * beyond * max(1.0, abs(end)) for end, side in ((low, -1), (high, 1)) if math.isfinite(end)]
    outside = np.concatenate([*ends, []])
    for dtype in DTYPES:
        x = outside.astype(dtype)
        x = x[(x.astype(float) < low) | (x.astype(float) > high)]  # rounded, some are inside
        assert not np.any(surrogate.derivative(x)), dtype
        tensor = torch.from_numpy(x.astype("float32")).to(getattr(torch, dtype))
        assert not surrogate.derivative(tensor).any(), dtype


def test_the_ends_that_compact_surrogates_have():
    """In float32 an end may be rounded outwards, and the window holds it."""
    for width in np.random.default_rng(0).uniform(0.01, 3, 200):
        low, high = facts.window(Triangle(width=float(width)))
        ends = np.nextafter(np.float32(width), np.float32(0)), np.float32(width)
        assert all(-high == low and low <= -float(x) and float(x) <= high for x in ends)
        assert high - width < 1e-5 * width


def test_a_support_that_is_only_measured_is_no_promise():
    class Two(Surrogate):
        width: Positive = 0.1

        def derivative(self, x):
            near = 1 - abs(x) / self.width
            far = 1 - abs(x - 7.77) / 1e-6
            return (near + abs(near)) / 2 + (far + abs(far)) / 2

    assert facts.window(Two()) == (-math.inf, math.inf)


def test_half_types_are_those_of_the_test():
    assert {np.dtype(d) for d in DTYPES} >= {np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)}
