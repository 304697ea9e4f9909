"""How programs are written in Triton: with one rounding for each operation, so that spikes are those of every other backend.

Triton's own ``/`` and ``sqrt`` are approximations for float32, its ``exp`` and ``log`` too, and its ``cos`` leaves float64 behind; the
functions here are built from products and sums, the same on every device.
"""

from __future__ import annotations

import dataclasses
import functools

from spikegrad.kernels.elementary import coefficients
from spikegrad.printing import DIALECTS, Dialect

_FUNCTIONS = ("exp", "log", "sin", "cos", "tanh", "sigmoid", "arctan", "rint")
"""Functions that `functions` defines."""

_TEMPLATE = """
@triton.jit
def exp(x):
    # NaN passes both bounds. Above them half of 2**n times p is infinite by itself, and below them the bits of that half are 0.
    high = tl.where(x < {lowest}, {lowest}, x)
    y = tl.where(high > {highest}, {highest}, high)
    shifted = y * {log2e} + {whole}
    n = shifted - {whole}
    r = (y - n * {ln2_high}) - n * {ln2_low}
    p = {exp}
    return p * ((shifted.to({integer}, bitcast=True) + {bias} - 1) << {mantissa}).to({real}, bitcast=True)


@triton.jit
def log(x):
    small = x < {tiny}
    bits = tl.where(small, x * {lift}, x).to({integer}, bitcast=True)
    exponent = (bits >> {mantissa}) - tl.where(small, {bias} + {mantissa}, {bias})
    m = ((bits & {mantissa_mask}) | {one}).to({real}, bitcast=True)
    large = m > {sqrt2}
    m = tl.where(large, m * {half}, m)
    e = exponent.to({real}) + tl.where(large, {unit}, {zero})
    s = {quotient}
    z = s * s
    value = e * {ln2_high} + ({two} * s * ({log}) + e * {ln2_low})
    value = tl.where(x > {zero}, value, tl.where(x == {zero}, {minus_infinity}, {nan}))
    return tl.where(x < {infinity}, value, x)


@triton.jit
def turned(x, quarters):
    n = tl.floor(x * {two_over_pi} + {half})
    r = ((x - n * {pi2_1}) - n * {pi2_2}) - n * {pi2_3}
    z = r * r
    q = n + quarters
    q = q - {four} * tl.floor(q * {quarter})
    odd = (q == {unit}) | (q == {three})
    value = tl.where(odd, {cos}, r * ({sin}))
    return tl.where(q >= {two}, -value, value)


@triton.jit
def sin(x):
    return turned(x, {zero})


@triton.jit
def cos(x):
    return turned(x, {unit})


@triton.jit
def sigmoid(x):
    return {sigmoid}


@triton.jit
def tanh(x):
    size = tl.abs(x)
    z = x * x
    near = {tanh_near}
    far = {unit} - {tanh_far}
    far = tl.where(x < {zero}, -far, far)
    return tl.where(size < {near}, near, far)


@triton.jit
def arctan(x):
    size = tl.abs(x)
    middle = size > {tan_pi8}
    far = size > {tan_3pi8}
    above = tl.where(far, {minus_unit}, tl.where(middle, size - {unit}, size))
    below = tl.where(far, size, tl.where(middle, size + {unit}, {unit}))
    y = {reduced}
    z = y * y
    value = {arctan} + tl.where(far, {pi2}, tl.where(middle, {pi4}, {zero}))
    return tl.where(x < {zero}, -value, value)


@triton.jit
def rint(x):
    size = tl.abs(x)
    whole = (size + {digits}) - {digits}
    whole = tl.where(size < {digits}, whole, size)
    return tl.where(x < {zero}, -whole, whole)
"""

_NUMBERS = {
    "zero": 0.0,
    "unit": 1.0,
    "minus_unit": -1.0,
    "two": 2.0,
    "three": 3.0,
    "four": 4.0,
    "half": 0.5,
    "quarter": 0.25,
    "near": 0.625,
    "tan_pi8": 0.41421356237309503,
    "tan_3pi8": 2.414213562373095,
    "pi2": 1.5707963267948966,
}


def _literal(real: str) -> str:
    """How a number is written: of itself it would be float32, beside another of them."""
    return "{}" if real == "float32" else "tl.full((), {}, tl.float64)"


def _divided(real: str) -> str:
    return "tl.div_rn({0}, {1})" if real == "float32" else "(({0}) / ({1}))"


@functools.cache
def functions(real: str) -> str:
    """Source of the elementary functions in ``"float32"`` or ``"float64"``."""
    literal, divided = _literal(real), _divided(real)
    found = coefficients(real, literal)
    numbers = {name: value for name, value in (found | _NUMBERS).items() if isinstance(value, float)}
    numbers["digits"] = 2.0**23 if real == "float32" else 2.0**52
    words = found | {name: literal.format(repr(value)) for name, value in numbers.items()}
    words |= {
        name: literal.format(f'float("{value}")') for name, value in (("infinity", "inf"), ("minus_infinity", "-inf"), ("nan", "nan"))
    }
    words |= {"real": f"tl.{real}", "integer": "tl.int32" if real == "float32" else "tl.int64"}
    unit, two = words["unit"], words["two"]
    words |= {
        "quotient": divided.format(f"m - {unit}", f"m + {unit}"),
        "sigmoid": divided.format(unit, f"{unit} + exp(-x)"),
        "tanh_near": divided.format(f"x * ({found['tanh_above']})", found["tanh_below"]),
        "tanh_far": divided.format(two, f"(exp(size + size) + {unit})"),
        "reduced": divided.format("above", "below"),
        "arctan": divided.format(f"y * ({found['arctan_above']})", found["arctan_below"]),
    }
    return _TEMPLATE.format(**words)


@functools.cache
def dialect(real: str, *, exact: bool) -> Dialect:
    """Triton in ``"float32"`` or ``"float64"``; `exact` where a spike is decided."""
    literal, triton = _literal(real), DIALECTS["triton"]
    one, zero = (literal.format(x) for x in ("1.0", "0.0"))
    single = real == "float32"
    words = {
        **triton.words,
        **{name: f"{name}({{0}})" for name in _FUNCTIONS},
        "round": "rint({0})",
        "sqrt": "tl.sqrt_rn({0})" if single else "tl.sqrt({0})",
        "step": f"tl.where({{0}} >= {zero}, {one}, {zero})",
        "minimum": "tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})",
        "maximum": "tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
        "fire": f"tl.where({{0}} == {{0}}, tl.where({{0}} >= {zero}, {one}, {zero}), {{0}})",
        "fire_above": f"tl.where({{0}} == {{0}}, tl.where({{0}} > {zero}, {one}, {zero}), {{0}})",
    }
    del words["rint"]
    if exact and single:
        words["divide"] = _divided(real)
    reserved = triton.reserved | {"triton", *_FUNCTIONS, "turned", "derivative"}
    return dataclasses.replace(triton, words=words, literal=literal, reserved=reserved)
