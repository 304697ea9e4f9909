"""Source of elementary functions that the vectoriser can take apart: polynomials without branches or calls.

The C library's scalar functions keep a loop from being vectorised (a Gaussian was 15 times slower with them). These are good to a few units
in the last place over the range where their results are normal numbers; `exp` is 0 below one and a half times the smallest of them. In them
the compiler may fuse products and sums, which a step itself may not: they are compiled as `formulas`, and nothing that is not fuses with
what is.
"""

from __future__ import annotations

from spikegrad.kernels.elementary import coefficients

WORDS = ("exp", "log", "sin", "cos", "tanh", "sigmoid")
"""Functions that `source` defines."""

_TEMPLATE = """
def exp(x):
    # NaN passes both bounds. Above them half of 2**n times p is infinite by itself; what is made of numbers below them is not taken.
    y = real({highest}) if x > real({highest}) else x
    shifted = y * real({log2e}) + real({whole})  # rounded to a whole number, n, which its last bits are
    n = shifted - real({whole})
    r = (y - n * real({ln2_high})) - n * real({ln2_low})
    p = {exp_in_pairs}
    value = p * integer((real(shifted).view(integer) + integer({bias} - 1)) << integer({mantissa})).view(real)
    return real(0.0) if x < real({lowest}) else value


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


def source(dtype: str) -> str:
    """Source of `WORDS` for ``"float32"`` or ``"float64"``; needs `np`, `real`, `integer` (of its size) and `formulas`."""
    return _TEMPLATE.format(**coefficients(dtype, "real({})"))
