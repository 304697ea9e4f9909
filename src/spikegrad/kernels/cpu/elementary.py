"""Source of elementary functions that the vectoriser can take apart: polynomials without branches or calls.

The C library's scalar functions keep a loop from being vectorised (a Gaussian was 15 times slower with them). These are good to a few units
in the last place over the range where their results are normal numbers; `exp` is 0 below one and a half times the smallest of them. In them
the compiler may fuse products and sums, which a step itself may not: they are compiled as `formulas`, and nothing that is not fuses with
what is.
"""

from __future__ import annotations

import math
from fractions import Fraction

WORDS = ("exp", "log", "sin", "cos", "tanh", "sigmoid")
"""Functions that `source` defines."""

_TEMPLATE = """
def exp(x):
    # NaN passes both bounds. Above them half of 2**n times p is infinite by itself, and below them the bits of that half are 0.
    high = real({lowest}) if x < real({lowest}) else x
    y = real({highest}) if high > real({highest}) else high
    shifted = y * real({log2e}) + real({whole})  # rounded to a whole number, n, which its last bits are
    n = shifted - real({whole})
    r = (y - n * real({ln2_high})) - n * real({ln2_low})
    p = {exp}
    return p * integer((real(shifted).view(integer) + integer({bias} - 1)) << integer({mantissa})).view(real)


def log(x):
    small = x < real({tiny})
    bits = real(x * real({lift}) if small else x).view(integer)
    exponent = (bits >> integer({mantissa})) - (integer({bias} + {mantissa}) if small else integer({bias}))
    m = integer((bits & integer({mantissa_mask})) | integer({one})).view(real)
    large = m > real({sqrt2})
    m = m * real(0.5) if large else m
    e = real(exponent) + (real(1.0) if large else real(0.0))
    s = (m - real(1.0)) / (m + real(1.0))
    z = s * s
    value = e * real({ln2_high}) + (real(2.0) * s * ({log}) + e * real({ln2_low}))
    value = value if x > real(0.0) else (real(-np.inf) if x == real(0.0) else real(np.nan))
    return value if x < real(np.inf) else x


def _turned(x, quarters):
    n = np.floor(x * real({two_over_pi}) + real(0.5))
    r = ((x - n * real({pi2_1})) - n * real({pi2_2})) - n * real({pi2_3})
    z = r * r
    q = n + quarters
    q = q - real(4.0) * np.floor(q * real(0.25))
    odd = (q == real(1.0)) | (q == real(3.0))
    value = {cos} if odd else r * ({sin})
    return -value if q >= real(2.0) else value


def sin(x):
    return _turned(x, real(0.0))


def cos(x):
    return _turned(x, real(1.0))


def sigmoid(x):
    return real(1.0) / (real(1.0) + exp(-x))


def tanh(x):
    size = abs(x)
    z = x * x
    near = x * ({tanh_above}) / ({tanh_below})
    far = real(1.0) - real(2.0) / (exp(size + size) + real(1.0))
    far = -far if x < real(0.0) else far
    return near if size < real(0.625) else far


exp, log, sin, cos, sigmoid, tanh, _turned = map(formulas, (exp, log, sin, cos, sigmoid, tanh, _turned))
"""


def _horner(variable: str, coefficients: list[float]) -> str:
    text = f"real({coefficients[-1]!r})"
    for c in reversed(coefficients[:-1]):
        text = f"({text} * {variable} + real({c!r}))"
    return text


def _parts(value: Fraction, bits: int, count: int) -> list[float]:
    """A constant as a sum whose first parts have few bits, so that their products with small whole numbers are exact."""
    parts: list[float] = []
    for _ in range(count - 1):
        exponent = math.floor(math.log2(abs(value)))
        unit = Fraction(2) ** (exponent - bits + 1)
        part = round(value / unit) * unit
        parts.append(float(part))
        value -= part
    return [*parts, float(value)]


def _lambert(terms: int) -> tuple[list[int], list[int]]:
    """Coefficients in x squared of tanh(x) / x, Lambert's continued fraction 1 / (1 + z / (3 + z / (5 + ...))), as above over below."""
    above, below = [1], [2 * terms - 1]
    for odd in range(2 * terms - 3, 0, -2):
        shifted = [0, *above]
        size = max(len(shifted), len(below))
        total = [odd * (below[k] if k < len(below) else 0) + (shifted[k] if k < len(shifted) else 0) for k in range(size)]
        above, below = below, total
    return above, below


_LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680")
_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459")


def source(dtype: str) -> str:
    """Source of `WORDS` for ``"float32"`` or ``"float64"``; needs `np`, `real`, `integer` (of its size) and `formulas`."""
    single = dtype == "float32"
    mantissa, bias, bits = (23, 127, 11) if single else (52, 1023, 32)
    terms = (8, 6, 5) if single else (14, 11, 9)
    ln2_high, ln2_low = _parts(_LN2, bits, 2)
    pi2_1, pi2_2, pi2_3 = _parts(_PI / 2, bits, 3)
    above, below = _lambert(6 if single else 10)
    return _TEMPLATE.format(
        tiny=2.0**-126 if single else 2.0**-1022,
        lift=2.0**mantissa,
        tanh_above=_horner("z", [c / below[0] for c in above]),
        tanh_below=_horner("z", [c / below[0] for c in below]),
        lowest=-87.3 if single else -708.4,
        highest=89.0 if single else 709.9,
        whole=1.5 * 2.0**mantissa,
        log2e=math.log2(math.e),
        ln2_high=ln2_high,
        ln2_low=ln2_low,
        two_over_pi=2 / math.pi,
        pi2_1=pi2_1,
        pi2_2=pi2_2,
        pi2_3=pi2_3,
        sqrt2=math.sqrt(2),
        bias=bias,
        mantissa=mantissa,
        mantissa_mask=2**mantissa - 1,
        one=bias << mantissa,
        exp=_horner("r", [2 / math.factorial(k) for k in range(terms[0])]),
        log=_horner("z", [1 / (2 * k + 1) for k in range(terms[1])]),
        cos=_horner("z", [(-1) ** k / math.factorial(2 * k) for k in range(terms[2] + 1)]),
        sin=_horner("z", [(-1) ** k / math.factorial(2 * k + 1) for k in range(terms[2])]),
    )
