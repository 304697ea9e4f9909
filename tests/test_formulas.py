"""Every formula of the catalogue against a second entry of it, in arbitrary precision, and against its own prints."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import ml_dtypes
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import atan, cos, erf, exp, floor, log, mp, pi, sign, sin, sqrt

import spikegrad
from spikegrad import CATALOGUE, Positive, Surrogate, vocabulary

mp.dps = 40


def normal(x, mean, sd):
    return exp(-((x - mean) ** 2) / (2 * sd**2)) / (sd * sqrt(2 * pi))


def cumulative(x, mean, sd):
    return (1 + erf((x - mean) / (sd * sqrt(2)))) / 2


def logistic(x):
    return 1 / (1 + exp(-x))


def clip(x, low, high):
    return max(low, min(high, x))


def wave(x, period, stretch):
    return x if x < 0 else stretch * (x - period * floor(x / period + mpmath.mpf(1) / 2))


def noisy(x, slope, sample, noise):
    u = clip(mpmath.mpf(noise), mpmath.mpf(1e-6), mpmath.mpf(1 - 1e-6))
    return slope * x + (log(u / (1 - u)) if sample else 0)


DERIVATIVE = {
    "ATan": lambda x, slope: slope / 2 / (1 + (pi * slope * x / 2) ** 2),
    "FastSigmoid": lambda x, slope, height: height / (1 + slope * abs(x)) ** 2,
    "QPseudoSpike": lambda x, tail, slope: (1 + slope * abs(x)) ** -tail,
    "NonzeroSignLog": lambda x, slope: 1 / (1 / slope + abs(x)),
    "Circle": lambda x, width: width**3 / (x**2 + width**2) ** mpmath.mpf("1.5"),
    "InverseAbs": lambda x, height: min(1 / abs(x), height) if x else height,
    "Sigmoid": lambda x, slope: slope * logistic(slope * x) * logistic(-slope * x),
    "Gaussian": lambda x, width, shift: normal(x, shift, width),
    "Exponential": lambda x, slope, height, shift, two_sided: height * exp(-slope * (abs(x - shift) if two_sided else max(0, shift - x))),
    "PeriodicExponential": lambda x, width, period, height, stretch: height * exp(-abs(wave(x, period, stretch)) / width),
    "S2NN": lambda x, slope, height: slope * logistic(slope * x) * logistic(-slope * x) if x < 0 else height / (x + 1),
    "Triangle": lambda x, width, height: height * max(0, 1 - abs(x) / width),
    "Boxcar": lambda x, width, height, leak, shift, closed: (
        height if abs(x - shift) < width or (closed and abs(x - shift) == width) else leak
    ),
    "SparseFastSigmoid": lambda x, slope, lower, upper: 1 / (1 + slope * abs(x)) ** 2 if lower < x < upper else 0,
    "StraightThrough": lambda x: 1,
    "LeakyStep": lambda x, leak, height, closed: height if x > 0 or (closed and x == 0) else leak,
    "Heaviside": lambda x, height, shift, closed: height if x > shift or (closed and x == shift) else 0,
    "LogTailedReLU": lambda x, leak: leak if x <= 0 else 1 if x <= 1 else 1 / x,
    "MultiGaussian": lambda x, width, lobe, spread, shift: (
        (1 + lobe) * normal(x, shift, width) - lobe * (normal(x, width, spread * width) + normal(x, -width, spread * width))
    ),
    "Fourier": lambda x, terms, period: 4 / period * sum(cos((2 * i - 1) * 2 * pi * x / period) for i in range(1, terms + 1)),
    "NoisyThreshold": lambda x, slope, sample, noise=0.5: (
        slope * logistic(noisy(x, slope, sample, noise)) * logistic(-noisy(x, slope, sample, noise))
    ),
    "StochasticLeak": lambda x, leak, spread, noise=0.5: 1 if x > 0 else leak + spread * (noise - mpmath.mpf(1) / 2),
}
"""One line for each class: its derivative, from its paper."""

HALF = mpmath.mpf(1) / 2
PRIMITIVE = {
    "ATan": lambda x, slope: HALF + atan(pi * slope * x / 2) / pi,
    "FastSigmoid": lambda x, slope, height: HALF + height * x / (1 + slope * abs(x)),
    "QPseudoSpike": lambda x, tail, slope: (
        HALF + sign(x) / slope * (log(1 + slope * abs(x)) if tail == 1 else mpmath.expm1((1 - tail) * log(1 + slope * abs(x))) / (1 - tail))
    ),
    "NonzeroSignLog": lambda x, slope: HALF + sign(x) * log(1 + slope * abs(x)),
    "Circle": lambda x, width: HALF + width * x / sqrt(x**2 + width**2),
    "InverseAbs": lambda x, height: HALF + (height * x if abs(x) * height <= 1 else sign(x) * (1 + log(height * abs(x)))),
    "Sigmoid": lambda x, slope: logistic(slope * x),
    "Gaussian": lambda x, width, shift: cumulative(x, shift, width),
    "Exponential": lambda x, slope, height, shift, two_sided: (
        HALF + height * (x - shift if x > shift and not two_sided else sign(x - shift) * (1 - exp(-slope * abs(x - shift))) / slope)
    ),
    "PeriodicExponential": lambda x, width, period, height, stretch: (
        HALF + height * (width * mpmath.expm1(x / width) if x < 0 else over_periods(x, period, width / stretch))
    ),
    "S2NN": lambda x, slope, height: logistic(slope * x) if x < 0 else HALF + height * log(1 + x),
    "Triangle": lambda x, width, height: HALF + height * clip(x, -width, width) * (1 - abs(clip(x, -width, width)) / (2 * width)),
    "Boxcar": lambda x, width, height, leak, shift, closed: HALF + leak * (x - shift) + (height - leak) * clip(x - shift, -width, width),
    "SparseFastSigmoid": lambda x, slope, lower, upper: (
        HALF + (f := lambda r: r / (1 + slope * abs(r)))(clip(x, lower, upper)) - f(clip(0, lower, upper))
    ),
    "StraightThrough": lambda x: HALF + x,
    "LeakyStep": lambda x, leak, height, closed: HALF + (height if x > 0 else leak) * x,
    "Heaviside": lambda x, height, shift, closed: HALF + height * max(0, x - shift),
    "LogTailedReLU": lambda x, leak: HALF + (leak * x if x <= 0 else x if x <= 1 else 1 + log(x)),
    "MultiGaussian": lambda x, width, lobe, spread, shift: (
        lobe * HALF
        + (1 + lobe) * cumulative(x, shift, width)
        - lobe * (cumulative(x, width, spread * width) + cumulative(x, -width, spread * width))
    ),
    "Fourier": lambda x, terms, period: (
        HALF + 2 / pi * sum(sin((2 * i - 1) * 2 * pi * x / period) / (2 * i - 1) for i in range(1, terms + 1))
    ),
    "NoisyThreshold": lambda x, slope, sample, noise=0.5: logistic(noisy(x, slope, sample, noise)),
    "StochasticLeak": lambda x, leak, spread, noise=0.5: HALF + (x if x > 0 else (leak + spread * (noise - HALF)) * x),
}


def over_periods(x, period, width):
    """The integral from 0 of exp(-|y| / width) over y folded into one period around 0."""
    half = width * (1 - exp(-period / 2 / width))
    count = floor(x / period + HALF)
    rest = x - count * period
    return 2 * half * count + sign(rest) * width * (1 - exp(-abs(rest) / width))


def cases(cls):
    """Instances of a class: its defaults, all numbers small, all numbers large, and each structure flipped."""
    given_by_name = {f.name: f.default for f in dataclasses.fields(cls)}
    numbers = {n: v for n, v in given_by_name.items() if n in cls.numbers and n != "scale"}
    yield cls()
    if numbers:
        yield cls(**{n: v * 0.37 for n, v in numbers.items()})
        yield cls(**{n: v * 2.9 if v else 0.25 for n, v in numbers.items()})
    for name, value in given_by_name.items():
        if isinstance(value, bool):
            yield cls(**{name: not value})
        elif isinstance(value, int):
            yield cls(**{name: value + 1})
    if "tail" in numbers:
        yield from (cls(tail=1.0), cls(tail=1.0 + 1e-9), cls(tail=0.5))
    if "lower" in numbers:
        yield from (cls(lower=0.1, upper=math.inf, slope=2.0), cls(lower=-math.inf, upper=-0.1, slope=2.0))


CASES = [pytest.param(surrogate, id=repr(surrogate)) for cls in CATALOGUE.values() for surrogate in cases(cls)]
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def rounded(surrogate, dtype):
    """The fields of a surrogate, numbers rounded to the type in which a formula is computed for `dtype`."""
    compute = np.float64 if dtype == "float64" else np.float32
    fields = {f.name: getattr(surrogate, f.name) for f in dataclasses.fields(surrogate) if f.name != "scale"}
    return {n: mpmath.mpf(float(compute(v))) if n in surrogate.numbers else v for n, v in fields.items()}


def kinks(surrogate):
    """Potentials at which the curve may bend or jump."""
    values = [v for n, v in surrogate.parameters.items() if n != "scale" and math.isfinite(v)]
    shift, width = getattr(surrogate, "shift", 0.0), getattr(surrogate, "width", 1.0)
    found = {0.0, 1.0, shift, shift + width, shift - width, *values, *(-v for v in values), *(1 / v for v in values if v)}
    return sorted(x for x in found if abs(x) < 20)


def grid(surrogate, dtype):
    near = np.concatenate([np.linspace(-4, 4, 33), np.linspace(-0.3, 0.3, 14), np.geomspace(1e-4, 20, 12), -np.geomspace(1e-4, 20, 12)])
    if hasattr(surrogate, "period"):
        # Further out, reducing a potential to one period needs the period to more digits than the dtype has.
        near = near[abs(near) < 2.4 * surrogate.period]
    return np.unique(np.concatenate([near, kinks(surrogate)]).astype(DTYPES[dtype]))


def exact(table, surrogate, x, dtype, **noise):
    formula, fields = table[type(surrogate).__name__], rounded(surrogate, dtype)
    return np.array([float(formula(mpmath.mpf(float(v)), **fields, **noise)) for v in x])


def by_library(method, x, dtype, library):
    """A method's value on a library's array of this dtype, as float64, and its dtype by name."""
    if library == "numpy":
        value = method(x)
        return value.astype(np.float64), value.dtype.name
    if library == "torch":
        value = method(torch.tensor(x.astype(np.float64)).to(getattr(torch, dtype)))
        return value.double().numpy(), str(value.dtype).removeprefix("torch.")
    with jax.enable_x64(True):
        # JAX compiles every operation for every shape: let there be one.
        value = method(jnp.asarray(np.resize(x, 100)))
        return np.asarray(value.astype("float64"))[: len(x)], value.dtype.name


def test_every_surrogate_has_a_second_entry():
    assert DERIVATIVE.keys() == CATALOGUE.keys()
    assert PRIMITIVE.keys() == {name for name, cls in CATALOGUE.items() if cls.has_primitive}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("surrogate", CASES)
def test_agrees_with_its_second_entry(surrogate, dtype):
    x = grid(surrogate, dtype)
    eps = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    for of, table in (("derivative", DERIVATIVE), ("primitive", PRIMITIVE)):
        expected = exact(table, surrogate, x, dtype)
        peak = max(abs(expected).max(), 1.0 if of == "primitive" else 0.0)
        allowed = peak * (1e-12 if dtype == "float64" else 4 * eps)
        for library in ("numpy", "torch", "jax"):
            value, got = by_library(getattr(surrogate, of), x, dtype, library)
            worst = int(abs(value - expected).argmax())
            assert got == dtype
            assert abs(value - expected)[worst] <= allowed, (
                f"{library} {of} at x = {float(x[worst])!r}: {value[worst]}, not {expected[worst]}"
            )


@pytest.mark.parametrize("noise", [1e-9, 0.1, 0.5, 0.93, 1 - 1e-9])
@pytest.mark.parametrize("name", [n for n, cls in CATALOGUE.items() if cls.stochastic])
def test_noise_enters_as_written(name, noise):
    surrogate, x = CATALOGUE[name](), np.linspace(-3, 3, 25)
    for of, table in (("derivative", DERIVATIVE), ("primitive", PRIMITIVE)):
        value = getattr(surrogate, of)(x, np.full_like(x, noise))
        np.testing.assert_allclose(value, exact(table, surrogate, x, "float64", noise=noise), rtol=0, atol=1e-12 * 5)


COARSE = st.floats(-5, 5).map(lambda x: round(x * 2**40) / 2**40)
"""Numbers whose sum with a shift is not rounded, so that whether they lie beyond a jump is not either."""


@settings(max_examples=15, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", CATALOGUE)
def test_agrees_for_any_parameters(name, data):
    cls = CATALOGUE[name]
    given_by_name = {n: data.draw(st.floats(0.125, 9, width=16), label=n) for n in cls.numbers if n not in ("scale", "lower")}
    surrogate = cls(**given_by_name)
    x = np.array([0.0, *kinks(surrogate), *data.draw(st.lists(COARSE, min_size=3, max_size=6), label="x")])
    for of, table in (("derivative", DERIVATIVE), ("primitive", PRIMITIVE)):
        expected = exact(table, surrogate, x, "float64")
        np.testing.assert_allclose(getattr(surrogate, of)(x), expected, rtol=0, atol=1e-12 * max(1.0, abs(expected).max()))


@pytest.mark.parametrize("surrogate", CASES)
def test_primitive_is_an_antiderivative(surrogate):
    bends = np.array(kinks(surrogate))
    x = np.array([v for v in np.linspace(-3.0307, 3.0193, 41) if abs(bends - v).min() > 1e-3])
    given_x = torch.tensor(x, requires_grad=True)
    (slope,) = torch.autograd.grad(surrogate.primitive(given_x).sum(), given_x, create_graph=True)
    np.testing.assert_allclose(slope.detach().numpy(), surrogate.derivative(x), rtol=0, atol=1e-11 * surrogate.peak)
    name, fields = type(surrogate).__name__, rounded(surrogate, "float64")
    for v in x[::5]:
        by_definition = mpmath.diff(lambda y: PRIMITIVE[name](y, **fields), mpmath.mpf(v))
        assert float(by_definition) == pytest.approx(float(DERIVATIVE[name](mpmath.mpf(v), **fields)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("surrogate", CASES)
def test_finite_far_out_and_at_every_kink(surrogate, dtype):
    points = [0.0, -0.0, 1e-4, 1e4, -1e4, 5e3, 300.0, -300.0, *kinks(surrogate)]
    # In float16 a slope of 1000 has second derivatives that it cannot represent.
    for slope in (None, 100) if dtype == "float16" else (None, 1e3, 1e6):
        if slope and "slope" in surrogate.numbers:
            surrogate = dataclasses.replace(surrogate, slope=slope)
        x = torch.tensor(points, dtype=torch.float64).to(getattr(torch, dtype)).requires_grad_()
        value = surrogate.derivative(x)
        assert torch.isfinite(value).all()
        assert np.isfinite(by_library(surrogate.derivative, np.array(points).astype(DTYPES[dtype]), dtype, "numpy")[0]).all()
        assert torch.isfinite(surrogate.primitive(x)[x.abs() < 100]).all()
        if value.requires_grad:
            assert torch.isfinite(torch.autograd.grad(value.sum(), x)[0]).all(), "second derivative"


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "Fourier"])  # whose argument of a cosine overflows
def test_finite_as_far_as_float32_reaches(name):
    surrogate, x = CATALOGUE[name](), np.array([1e37, 1e38, 3.4e38, -1e37, -1e38, -3.4e38], "float32")
    for field, factor in [(field, factor) for field in surrogate.numbers for factor in (0.01, 1, 100)]:
        narrow = dataclasses.replace(surrogate, **{field: factor * getattr(surrogate, field)})
        with np.errstate(over="ignore"):
            assert np.isfinite(narrow.derivative(x)).all(), narrow


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CATALOGUE)
def test_nan_gives_nan_and_infinity_gives_zero(name, dtype):
    x = np.array([math.nan, math.inf, -math.inf]).astype(DTYPES[dtype])
    for library in ("numpy", "torch", "jax"):
        value, _ = by_library(CATALOGUE[name]().derivative, x, dtype, library)
        assert math.isnan(value[0])
        assert list(value[1:]) == [0, 0]


def printed(surrogate, of, dialect):
    """The source, or None where the dialect has no word for it: only JavaScript, and only erf, which only primitives need."""
    if (dialect, of) == ("javascript", "primitive") and "erf" in repr(surrogate.structure.primitive):
        return None
    return surrogate.source(dialect, of)


@pytest.mark.parametrize("surrogate", CASES)
def test_printed_for_numba_is_the_formula(surrogate):
    words = {n: getattr(math, n) for n in ("exp", "log", "sqrt", "sin", "cos", "erf", "floor", "inf")} | {
        "arctan": math.atan,
        "real": float,
    }
    x, noise = grid(surrogate, "float64"), (0.5,) * surrogate.stochastic
    for of in ("derivative", "primitive"):
        exec(printed(surrogate, of, "numba"), words)
        value = [words[f"{type(surrogate).__name__}_{of}"](float(v), *noise, *surrogate.parameters.values()) for v in x]
        np.testing.assert_allclose(value, getattr(surrogate, of)(x), rtol=1e-11, atol=1e-13)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_printed_for_javascript_is_the_formula():
    script, expected = [], []
    for case in CASES:
        surrogate = case.values[0]
        x, noise = grid(surrogate, "float64"), [0.5] * surrogate.stochastic
        for of in ("derivative", "primitive"):
            if function := printed(surrogate, of, "javascript"):
                numbers = ", ".join(json.dumps(v) for v in [*noise, *surrogate.parameters.values()])
                name = f"{type(surrogate).__name__}_{of}"
                script.append(f"(() => {{ {function}; return {json.dumps(x.tolist())}.map(x => {name}(x, {numbers})); }})()")
                expected.append(getattr(surrogate, of)(x))
    text = f"console.log(JSON.stringify([{','.join(script)}]))"
    values = json.loads(subprocess.run(["node", "-"], input=text, capture_output=True, text=True, check=True).stdout)
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CATALOGUE)
def test_scale_multiplies_both(name):
    cls, x = CATALOGUE[name], np.linspace(-2, 2, 9)
    for of in ("derivative", "primitive"):
        np.testing.assert_allclose(getattr(cls(scale=-3.0), of)(x), -3 * getattr(cls(), of)(x))


@pytest.mark.parametrize("name", CATALOGUE)
def test_refuses_parameters_out_of_range(name):
    cls = CATALOGUE[name]
    for parameter, within in cls.numbers.items():
        with pytest.raises(ValueError, match=f"`{parameter}` of {name} must be"):
            cls(**{parameter: math.nan})
        if within.sign >= 0:
            with pytest.raises(ValueError, match=f"`{parameter}` of {name} must be"):
                cls(**{parameter: -1.0})


def test_refuses_parameters_that_do_not_go_together():
    with pytest.raises(ValueError, match="less than `upper`"):
        CATALOGUE["SparseFastSigmoid"](lower=0.3, upper=0.2)
    with pytest.raises(ValueError, match="at least 1"):
        CATALOGUE["Fourier"](terms=0)


def test_contributing_adds_a_surrogate():
    """The class and the line of the page on contributing, as a contributor would paste them."""
    page = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"
    formula, entry = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len([line for line in formula.splitlines() if line.strip()]) == 6
    names = {"Positive": Positive, "Surrogate": Surrogate, "Array": vocabulary.Array, "__name__": __name__}
    exec(formula, {**{name: getattr(vocabulary, name) for name in vocabulary.__all__}, **names}, found := {})
    tables = {"DERIVATIVE": {}, "PRIMITIVE": {}}
    exec(entry, {**globals(), **tables})
    surrogate = spikegrad.check(found["Sech"]) and found["Sech"]()
    for of, table in (("derivative", tables["DERIVATIVE"]), ("primitive", tables["PRIMITIVE"])):
        x = grid(surrogate, "float64")
        np.testing.assert_allclose(getattr(surrogate, of)(x), exact(table, surrogate, x, "float64"), rtol=0, atol=1e-12)
