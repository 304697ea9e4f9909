"""What is known of a surrogate's curve: peak, area, half width, support, and the escape noise whose density it is.

A docstring may state them, one a line under ``Facts:``, as expressions of the surrogate's fields; whatever is not stated is computed
from the formula. The tests hold every statement of the catalogue against the computation.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from spikegrad.surrogate import Surrogate

S = TypeVar("S", bound="Surrogate")
Curve = NDArray[np.float64]

_NEAR = np.concatenate([np.linspace(-12, 12, 48001), np.geomspace(12, 1e5, 4000), -np.geomspace(12, 1e5, 4000)])
_GRID: Curve = np.unique(np.concatenate([_NEAR, np.geomspace(1e-9, 1e-3, 2000), -np.geomspace(1e-9, 1e-3, 2000)]))


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


@functools.cache
def of(surrogate: Surrogate) -> Facts:
    """Stated facts where the docstring has them, computed ones otherwise."""
    stated = section(type(surrogate), "Facts")
    words: dict[str, Any] = {"pi": math.pi, "inf": math.inf, "sqrt": math.sqrt, "log": math.log, "exp": math.exp, "abs": abs, "max": max, "min": min}
    fields = {f.name: getattr(surrogate, f.name) for f in dataclasses.fields(surrogate)}
    found: dict[str, Any] = {}
    for name, text in stated.items():
        found[name] = text if name == "noise" else eval(text, {"__builtins__": {}}, {**words, **fields})
        if name in ("peak", "area"):
            found[name] *= surrogate.scale
    missing = {f.name for f in dataclasses.fields(Facts)} - {*found, "noise"}
    if missing:
        rest = computed(surrogate)
        found.update({name: getattr(rest, name) for name in missing})
    return Facts(**found)


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


def computed(surrogate: Surrogate) -> Facts:
    """Facts measured on the formula alone, in float64, to about 1e-4."""

    def curve(x: Curve) -> Curve:
        return np.asarray(surrogate.derivative(x), dtype=np.float64)

    x, g = _GRID, curve(_GRID)
    top = int(np.argmax(g))
    near = np.linspace(x[max(top - 1, 0)], x[min(top + 1, len(x) - 1)], 2001)
    values = curve(near)
    peak, at = max((float(values.max()), float(near[values.argmax()])), (float(g[top]), float(x[top])))
    active = np.flatnonzero(g)
    support = (
        -math.inf if active.size and active[0] == 0 else _edge(curve, x, int(active[0]), -1, 0.0) if active.size else 0.0,
        math.inf if active.size and active[-1] == len(x) - 1 else _edge(curve, x, int(active[-1]), 1, 0.0) if active.size else 0.0,
    )
    return Facts(peak=peak, area=_area(curve), half_width=_half_width(curve, peak, at), support=support)


def _edge(curve: Any, x: Curve, last: int, direction: int, level: float) -> float:
    """Where the curve leaves values above `level`, going from grid point `last` in a direction, by bisection."""
    inner, outer = float(x[last]), float(x[min(max(last + direction, 0), len(x) - 1)])
    for _ in range(80):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if curve(np.array([middle]))[0] > level else (inner, middle)
    return round(outer, 12)


def _half_width(curve: Any, peak: float, at: float) -> float:
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


def _area(curve: Any) -> float:
    """Integral by the midpoint rule in t, x = sinh(t)^3: fine near 0, reaching far out."""

    def up_to(limit: float) -> float:
        end = math.asinh(limit ** (1 / 3))
        edges = np.linspace(-end, end, 2_000_001)
        t = (edges[1:] + edges[:-1]) / 2
        weight = 3 * np.sinh(t) ** 2 * np.cosh(t) * (edges[1] - edges[0])
        return float(np.sum(curve(np.sinh(t) ** 3) * weight))

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
            break
        value = getattr(surrogate, name) * (ratio if name == "width" else 1 / ratio)
        surrogate = dataclasses.replace(surrogate, **{name: value})  # type: ignore[arg-type]
    return surrogate
