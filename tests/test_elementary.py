"""The elementary functions of the fused kernels, against arbitrary precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from spikegrad.kernels.cpu import elementary

RANGES = {
    "float32": {
        "exp": (-86.6, 88.72),
        "log": (1e-37, 1e38),
        "sin": (-1e4, 1e4),
        "cos": (-1e4, 1e4),
        "tanh": (-20.0, 20.0),
        "sigmoid": (-86.6, 86.6),
    },
    "float64": {
        "exp": (-707.7, 709.78),
        "log": (1e-307, 1e308),
        "sin": (-1e6, 1e6),
        "cos": (-1e6, 1e6),
        "tanh": (-40.0, 40.0),
        "sigmoid": (-707.7, 707.7),
    },
}
UNITS = {"exp": 1.5, "log": 3.0, "sin": 1.0, "cos": 1.0, "tanh": 3.0, "sigmoid": 3.0}
"""Largest error in units in the last place. A logarithm near 1 is a sum whose rounding counts."""


def functions(dtype: str) -> dict[str, Callable[[Any], Any]]:
    """The functions of the printed source, which is plain Python until Numba compiles it; NumPy scalars round as machine code does."""
    names = {"np": np, "real": getattr(np, dtype), "integer": np.int32 if dtype == "float32" else np.int64}
    names |= {"helper": lambda function: function, "formulas": lambda function: function}
    exec(elementary.source(dtype), names)
    return names


def points(dtype: str, name: str) -> np.ndarray:
    """Over the whole range and near where the result is 0 or 1, rounded to the dtype."""
    low, high = RANGES[dtype][name]
    random = np.random.default_rng(0)
    near = random.uniform(0.5, 2, 200) if name == "log" else random.uniform(-2, 2, 200)
    wide = np.geomspace(low, high, 400) if name == "log" else random.uniform(low, high, 400)
    turns = np.arange(-20, 21) * math.pi / 4 if name in ("sin", "cos") else np.array([1.0])
    tiny = float(np.finfo(dtype).smallest_subnormal) * np.array([1, 2, 1000] if name == "log" else [])
    return np.concatenate([near, wide, turns, tiny, [low, high]]).astype(dtype)


def test_every_function_is_tested():
    assert set(UNITS) == set(elementary.WORDS)


def exactly(name: str, x: float) -> Any:
    return 1 / (1 + mpmath.exp(-mpmath.mpf(x))) if name == "sigmoid" else getattr(mpmath, name)(mpmath.mpf(x))


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("dtype", RANGES)
def test_accuracy(dtype, name):
    function = functions(dtype)[name]
    eps = float(np.finfo(dtype).eps)
    with mpmath.workprec(120):
        for x in points(dtype, name):
            got, wanted = function(x), exactly(name, float(x))
            assert got.dtype == dtype
            # Of sine and cosine the error is in units of 1: near their zeros only the reduction of the angle counts.
            unit = eps if name in ("sin", "cos") else eps * 2.0 ** math.floor(mpmath.log(abs(wanted), 2)) if wanted else eps
            assert abs(mpmath.mpf(float(got)) - wanted) <= UNITS[name] * unit, (name, x, got, wanted)


@pytest.mark.parametrize("dtype", RANGES)
def test_special_values(dtype):
    f, inf, nan = functions(dtype), math.inf, math.nan
    expected = {
        "exp": {0.0: 1.0, inf: inf, -inf: 0.0, nan: nan, 1e4: inf, -1e4: 0.0},
        "log": {1.0: 0.0, 0.0: -inf, inf: inf, -1.0: nan, -inf: nan, nan: nan},
        "sin": {0.0: 0.0, inf: nan, -inf: nan, nan: nan},
        "cos": {0.0: 1.0, inf: nan, -inf: nan, nan: nan},
        "tanh": {0.0: 0.0, inf: 1.0, -inf: -1.0, nan: nan, 1e4: 1.0, -1e4: -1.0},
        "sigmoid": {0.0: 0.5, inf: 1.0, -inf: 0.0, nan: nan, 1e4: 1.0, -1e4: 0.0},
    }
    with np.errstate(all="ignore"):
        for name, values in expected.items():
            for x, wanted in values.items():
                np.testing.assert_array_equal(f[name](f["real"](x)), wanted, err_msg=f"{name}({x})")
