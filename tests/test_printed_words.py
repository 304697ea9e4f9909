"""Words of the CPU's print that are written otherwise for some operands: to the last bit what they are for others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spikegrad import ATan, Sigmoid, SparseFastSigmoid, Triangle, printing, trace
from spikegrad.derive import of_finite
from spikegrad.evaluation import evaluate
from spikegrad.trace import argument
from spikegrad.vocabulary import OPERATIONS, maximum, minimum, where

EDGES = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 0.5, -0.5, 50.0, -50.0, 51.0, -51.0]
FORMULAS = {
    "at most": lambda x: minimum(x, 50.0),
    "at most, below zero": lambda x: minimum(x, -50.0),
    "at most zero": lambda x: minimum(x, 0.0),
    "at most, endless": lambda x: minimum(x, math.inf),
    "at least": lambda x: maximum(x, -50.0),
    "at least zero": lambda x: maximum(x, 0.0),
    "without what is negative": lambda x: where(x <= 0.0, 0.0, x),
    "likewise, negative zero": lambda x: where(x <= 0.0, -0.0, x),
    "without what is below zero": lambda x: where(x < 0.0, 0.0, x),
    "of something else": lambda x: where(x <= 0.0, 0.0, x + 1.0),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_short_words_give_what_long_ones_give(name):
    program = trace.flatten([FORMULAS[name](argument("x"))])
    text = printing.function(program, ["x"], "f", "numba")
    scope = {"real": np.float32, "inf": np.float32(math.inf)}
    exec(text, scope)
    for x in np.array(EDGES, np.float32):
        found, (wanted,) = scope["f"](x), evaluate(program, OPERATIONS, {"x": x}, np.float32)
        np.testing.assert_array_equal(found, wanted, err_msg=f"{name}({x})")
        if name not in ("at most zero", "at least zero"):  # of equal numbers either
            assert np.isnan(wanted) or np.signbit(found) == np.signbit(wanted), (name, x, text)
    assert ("!=" in text) == (name in ("at most zero", "at least zero"))


def test_a_derivative_of_what_is_not_infinite():
    """A pass takes nothing of a derivative at infinity; everywhere else it is the same, NaN for NaN."""
    for surrogate in (ATan(2.0), Triangle(0.5), SparseFastSigmoid(10.0), Sigmoid(4.0)):
        record = surrogate.structure
        shorter = of_finite(record.derivative, record.arguments)
        assert len(shorter.instructions) < len(record.derivative.instructions)
        for x in (math.nan, 0.0, -0.0, 0.3, -0.3, 1e30, -1e30):
            given = {"x": np.float64(x), **surrogate.parameters}
            with np.errstate(over="ignore"):
                found, wanted = (evaluate(program, OPERATIONS, given, np.float64) for program in (shorter, record.derivative))
            np.testing.assert_array_equal(found, wanted)
