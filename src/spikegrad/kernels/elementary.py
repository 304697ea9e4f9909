"""Polynomials of elementary functions without branches or calls: what each printer of kernels puts into its own words."""

from __future__ import annotations

import math
from fractions import Fraction


def _horner(variable: str, coefficients: list[float], literal: str) -> str:
    text = literal.format(repr(coefficients[-1]))
    for c in reversed(coefficients[:-1]):
        text = f"({text} * {variable} + {literal.format(repr(c))})"
    return text


def _in_pairs(variable: str, coefficients: list[float], literal: str) -> str:
    """The same polynomial, for a processor that computes several products at once: in Horner's form each waits for the one before.

    After the first two terms, which decide about the last place, come pairs, pairs of pairs and so on.
    """
    first, second, *terms = [literal.format(repr(c)) for c in coefficients]
    power = variable
    while len(terms) > 1:
        if len(terms) % 2:
            terms[-2:] = [f"({terms[-2]} + {terms[-1]} * {power})"]
        terms = [f"({a} + {b} * {power})" for a, b in zip(terms[::2], terms[1::2], strict=True)]
        power = f"({power} * {power})"
    return f"(({terms[0]} * {variable} + {second}) * {variable} + {first})"


def _economised(coefficients: list[float], bound: float) -> list[float]:
    """A polynomial of a degree less, nearly as good up to the bound on either side: its last term less Chebyshev's polynomial of it."""
    before, last = [1.0], [0.0, 1.0]
    while len(last) < len(coefficients):
        before, last = last, [2 * a - b for a, b in zip([0.0, *last], [*before, 0.0, 0.0], strict=True)]
    by = coefficients[-1] / last[-1]
    return [c - by * t * bound ** (len(last) - 1 - k) for k, (c, t) in enumerate(zip(coefficients[:-1], last[:-1], strict=True))]


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


def _lambert(terms: int, *, squares: bool) -> tuple[list[float], list[float]]:
    """Lambert's continued fraction ``x / (1 + z / (3 + z / (5 + ...)))`` of tanh, z being the square of x, as x times above over below.

    Coefficients in z. With `squares` that of arctan, ``x / (1 + z / (3 + 4 z / (5 + 9 z / (7 + ...))))``.
    """
    above, below = [1], [2 * terms - 1]
    for k in range(terms - 1, 0, -1):
        shifted = [0, *(c * (k * k if squares else 1) for c in above)]
        size = max(len(shifted), len(below))
        total = [(2 * k - 1) * (below[i] if i < len(below) else 0) + (shifted[i] if i < len(shifted) else 0) for i in range(size)]
        above, below = below, total
    return [c / below[0] for c in above], [c / below[0] for c in below]


_LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680")
_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459")


def coefficients(dtype: str, literal: str) -> dict[str, object]:
    """What templates of these functions have in their braces, for ``"float32"`` or ``"float64"``; `literal` is how a number is written."""
    single = dtype == "float32"
    mantissa, bias, bits = (23, 127, 11) if single else (52, 1023, 32)
    terms = (8, 6, 5) if single else (14, 11, 9)
    ln2_high, ln2_low = _parts(_LN2, bits, 2)
    pi2_1, pi2_2, pi2_3 = _parts(_PI / 2, bits, 3)
    (tanh_above, tanh_below), (arctan_above, arctan_below) = (
        _lambert(6 if single else 10, squares=False),
        _lambert(6 if single else 12, squares=True),
    )
    halves = _economised([2 / math.factorial(k) for k in range(terms[0])], math.log(2) / 2)
    return {
        "tiny": 2.0**-126 if single else 2.0**-1022,
        "lift": 2.0**mantissa,
        "tanh_above": _horner("z", tanh_above, literal),
        "tanh_below": _horner("z", tanh_below, literal),
        "arctan_above": _horner("z", arctan_above, literal),
        "arctan_below": _horner("z", arctan_below, literal),
        "pi4": math.pi / 4,
        "lowest": -87.3 if single else -708.4,
        "highest": 89.0 if single else 709.9,
        "whole": 1.5 * 2.0**mantissa,
        "log2e": math.log2(math.e),
        "ln2_high": ln2_high,
        "ln2_low": ln2_low,
        "two_over_pi": 2 / math.pi,
        "pi2_1": pi2_1,
        "pi2_2": pi2_2,
        "pi2_3": pi2_3,
        "sqrt2": math.sqrt(2),
        "bias": bias,
        "mantissa": mantissa,
        "mantissa_mask": 2**mantissa - 1,
        "one": bias << mantissa,
        "exp": _horner("r", halves, literal),
        "exp_in_pairs": _in_pairs("r", halves, literal),
        "log": _horner("z", [1 / (2 * k + 1) for k in range(terms[1])], literal),
        "cos": _horner("z", [(-1) ** k / math.factorial(2 * k) for k in range(terms[2] + 1)], literal),
        "sin": _horner("z", [(-1) ** k / math.factorial(2 * k + 1) for k in range(terms[2])], literal),
    }
