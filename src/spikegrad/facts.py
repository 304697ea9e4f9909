"""What is known of a surrogate's curve: peak, area, half width, support, and the escape noise whose density it is.

A docstring may state them, one a line under ``Facts:``, as expressions of the surrogate's fields; whatever is not stated is computed
from the formula. The tests hold every statement of the catalogue against the computation.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from spikegrad.surrogate import Surrogate

S = TypeVar("S", bound="Surrogate")
Curve = NDArray[np.float64]


_SECTIONS = r"(Args|States|Options|Facts|Elsewhere|References|Example|Examples):"

_SIGNS = {
    **{"mu": "μ", "sigma": "σ", "theta": "θ", "alpha": "α", "beta": "β", "gamma": "γ", "rho": "ρ", "tau": "τ"},  # noqa: RUF001
    **{"omega": "ω", "Delta": "Δ", "infty": "∞", "pi": "π", "ge": "≥", "le": "≤"},
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts of one surrogate, its numbers put in.

    Attributes:
        peak: largest value of the derivative, in 1/potential.
        area: integral of the derivative; 1 for a density, infinite where it does not converge.
        half_width: half of the width, in potential, over which the derivative is at least half of its peak.
        support: interval of x outside of which the derivative is 0.
        noise: the escape noise of which the derivative (over its area) is the density, in words, or "none".
    """

    peak: float
    area: float
    half_width: float
    support: tuple[float, float]
    noise: str = "unknown"


@functools.lru_cache(maxsize=256)
def of(surrogate: Surrogate) -> Facts:
    """Stated facts where the docstring has them, computed ones otherwise."""
    stated = section(type(surrogate), "Facts")
    words = {
        "pi": math.pi,
        "inf": math.inf,
        "sqrt": math.sqrt,
        "log": math.log,
        "exp": math.exp,
        "abs": abs,
        "max": max,
        "min": min,
    }
    fields = {f.name: getattr(surrogate, f.name) for f in dataclasses.fields(surrogate)}
    found: dict[str, Any] = {}
    for name, text in stated.items():
        value: Any = text if name == "noise" else eval(text, {"__builtins__": {}}, {**words, **fields})
        match name:
            case "noise":
                found[name] = value
            case "support":
                found[name] = (float(value[0]), float(value[1]))
            case "half_width":
                found[name] = float(value)
            case _:
                found[name] = float(value * surrogate.scale)
    missing = [f.name for f in dataclasses.fields(Facts) if f.name not in (*found, "noise")]
    return Facts(**found, **computed(surrogate, missing))


@functools.lru_cache(maxsize=256)
def window(surrogate: Surrogate, cutoff: float = 0.0) -> tuple[float, float]:
    """A closed interval outside of which the derivative is exactly 0, in whichever dtype it is computed; what is inside may be 0 as well.

    It is a little wider than the `support` that the docstring states, since ends and potentials are rounded. Where none is stated it is
    everything: a curve that is measured may have a bump that nobody looked at. With a `cutoff` it ends where the derivative is less than
    this share of its peak from there on, as measured.

    Example:
        >>> from spikegrad import ATan, Triangle, facts
        >>> facts.window(ATan())
        (-inf, inf)
        >>> low, high = facts.window(Triangle(width=0.3))
        >>> -0.30001 < low < -0.3 and 0.3 < high < 0.30001
        True
        >>> [round(end, 3) for end in facts.window(ATan(slope=2.0), cutoff=0.1)]
        [-0.955, 0.955]
    """
    low, high = surrogate.support if "support" in section(type(surrogate), "Facts") else (-math.inf, math.inf)
    if cutoff:
        least = cutoff * of(surrogate).peak

        def kept(x: Curve) -> Curve:
            return np.where(np.abs(np.asarray(surrogate.derivative(x), dtype=np.float64)) >= least, 1.0, 0.0)

        ends = _support(kept, _grid(), kept(_grid()))
        low, high = max(low, ends[0]), min(high, ends[1])
    room = 8 * float(np.finfo(np.float32).eps) * sum(abs(end) for end in (low, high) if math.isfinite(end))
    return low - room, high + room


def section(cls: type, title: str) -> dict[str, str]:
    """The ``name: text`` lines of one section of a class's own docstring, in order; empty if it has no such section."""
    lines: dict[str, str] = {}
    name, inside = "", False
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        if not line.startswith(" ") and line.strip():
            inside = line.strip() == f"{title}:"
        elif inside and line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(":")
            lines[name] = text.strip()
        elif inside and line.strip():
            lines[name] += " " + line.strip()
    return lines


def prose(cls: type) -> list[str]:
    """The paragraphs of a docstring before its first section, without the LaTeX."""
    found: list[str] = []
    own = "" if (cls.__doc__ or "").startswith(f"{cls.__name__}(") else cls.__doc__ or ""  # a dataclass has its signature without one
    for block in inspect.cleandoc(own).split("\n\n"):
        if re.match(_SECTIONS, block):
            break
        if block and not block.lstrip().startswith(".. math"):
            block = re.sub(r":math:`([^`]*)`", lambda found: _readable(found[1]), block)
            text = " ".join(block.replace("`", "").split())
            found.append(text[:1].upper() + text[1:] if text.split(" ")[0].islower() else text)
    return found


def _readable(latex: str) -> str:
    """LaTeX as it stands in a sentence, without its commands."""
    plain = re.sub(r"\\t?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", latex)
    for command, sign in _SIGNS.items():
        plain = re.sub(rf"\\{command}\b", sign, plain)
    return re.sub(r"\\[a-zA-Z]+|[\\{}]", "", plain)


def computed(surrogate: Surrogate, names: Iterable[str] = ("peak", "area", "half_width", "support")) -> dict[str, Any]:
    """Facts measured on the formula alone, in float64, to about 1e-4; at its mean if the surrogate is stochastic."""

    def curve(x: Curve) -> Curve:
        return np.asarray(surrogate.derivative(x), dtype=np.float64)

    x = _grid()
    g = curve(x)
    found: dict[str, Any] = {}
    for name in names:
        match name:
            case "peak":
                found[name] = _top(curve, x, g)[0]
            case "area":
                found[name] = integral(curve)
            case "half_width":
                found[name] = _half_width(curve, *_top(curve, x, g))
            case _:
                found[name] = _support(curve, x, g)
    return found


@functools.cache
def _grid() -> Curve:
    """Potentials close together near threshold and reaching far out; made when first needed, to keep the import light."""
    near = np.concatenate([np.linspace(-12, 12, 48001), np.geomspace(12, 1e5, 4000), -np.geomspace(12, 1e5, 4000)])
    return np.unique(np.concatenate([near, np.geomspace(1e-9, 1e-3, 2000), -np.geomspace(1e-9, 1e-3, 2000)]))


def _top(curve: Callable[[Curve], Curve], x: Curve, g: Curve) -> tuple[float, float]:
    """The largest value and where it is, the grid point searched around more finely."""
    top = int(np.argmax(g))
    near = np.linspace(x[max(top - 1, 0)], x[min(top + 1, len(x) - 1)], 2001)
    values = curve(near)
    return max((float(values.max()), float(near[values.argmax()])), (float(g[top]), float(x[top])))


def _support(curve: Callable[[Curve], Curve], x: Curve, g: Curve) -> tuple[float, float]:
    """The ends of the interval that holds all that is not zero."""
    active = np.flatnonzero(g)
    if not active.size:
        return (0.0, 0.0)

    # A tail that falls exponentially reaches 0 by underflow, far below where any window ends.
    def end(index: int, direction: int) -> float:
        if index in (0, len(x) - 1) or abs(g[index]) < 1e-290:
            return direction * math.inf
        return _edge(curve, x, index, direction)

    return end(int(active[0]), -1), end(int(active[-1]), 1)


def _edge(curve: Callable[[Curve], Curve], x: Curve, last: int, direction: int) -> float:
    """Where the curve becomes zero, going from grid point `last` in a direction, by bisection."""
    inner, outer = float(x[last]), float(x[last + direction])
    for _ in range(80):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if curve(np.array([middle]))[0] != 0 else (inner, middle)
    return round(outer, 12)


def _half_width(curve: Callable[[Curve], Curve], peak: float, at: float) -> float:
    """Half of the interval around the peak over which the curve is at least half of it."""
    edges: list[float] = []
    offsets = np.concatenate([[0.0], np.geomspace(1e-9, 1e9, 40001)])
    for direction in (-1, 1):
        below = np.flatnonzero(curve(at + direction * offsets) < peak / 2)
        if not below.size:
            return math.inf
        outer, inner = offsets[below[0]], offsets[below[0] - 1] if below[0] else 0.0
        for _ in range(80):
            middle = (inner + outer) / 2
            high = curve(np.array([at + direction * middle]))[0] >= peak / 2
            inner, outer = (middle, outer) if high else (inner, middle)
        edges.append(float(outer))
    return sum(edges) / 2


def integral(curve: Callable[[Curve], Curve]) -> float:
    """Integral by the midpoint rule in t, x = sinh(t)^3: fine near 0, reaching far out."""

    def up_to(limit: float) -> float:
        end, count, total = math.asinh(limit ** (1 / 3)), 800_000, 0.0
        for places in np.split(np.arange(count) + 0.5, 25):  # in parts that stay in a cache
            root = np.sinh(places * (2 * end / count) - end)
            square = root * root
            total += float(np.sum(curve(root * square) * 3 * square * np.sqrt(1 + square)))
        return total * 2 * end / count

    near, far = up_to(1e7), up_to(1e10)
    return math.inf if abs(far - near) > 1e-3 * max(abs(near), 1e-9) else far


def matched(surrogate: S, half_width: float) -> S:
    """See `Surrogate.matched_to`."""
    name = next((n for n in surrogate.parameters if n in ("slope", "width")), None)
    if name is None:
        raise ValueError(f"{type(surrogate).__name__} has neither a slope nor a width to change")
    if not (math.isfinite(half_width) and math.isfinite(surrogate.half_width)):
        raise ValueError(f"cannot match half width {half_width} with {surrogate!r}, whose half width is {surrogate.half_width}")
    for _ in range(60):
        ratio = half_width / surrogate.half_width
        if abs(ratio - 1) < 1e-12:
            return surrogate
        value = getattr(surrogate, name) * (ratio if name == "width" else 1 / ratio)
        surrogate = dataclasses.replace(surrogate, **{name: value})
    raise ValueError(f"no {name} gives {type(surrogate).__name__} a half width of {half_width}; the nearest tried is {surrogate!r}")
