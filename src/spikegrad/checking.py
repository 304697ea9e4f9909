"""Whether a surrogate of one's own is in order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from spikegrad import facts
from spikegrad.facts import Facts
from spikegrad.surrogate import Surrogate


def check(surrogate: Surrogate | type[Surrogate]) -> Facts:
    """Test a surrogate: that it is finite, agrees with its primitive and has the facts that its docstring states.

    That its formula can be recorded, and so run on every backend, was already tested when its class was defined. The derivative must be
    finite for potentials up to 10000 in float32 and float64 and keep the dtype, and the differences of the primitive must be
    those of an antiderivative.

    Args:
        surrogate: a surrogate, or a class whose fields all have defaults.

    Returns:
        Its facts, stated or measured.

    Raises:
        TypeError: it is not a surrogate.
        ValueError: something is wrong; the message lists everything that is.

    Example:
        >>> import spikegrad
        >>> spikegrad.check(spikegrad.ATan(slope=4.0)).peak
        2.0
        >>> wrong = spikegrad.from_formula(lambda x: 1 / (1 + x**2), primitive=lambda x: x)
        >>> spikegrad.check(wrong)
        Traceback (most recent call last):
        ...
        ValueError: Formula():
        - the primitive is not an antiderivative: between x = -6 and -5.99 it rises by 0.01, the derivative asks for 0.0002707
    """
    if isinstance(surrogate, type):
        surrogate = surrogate()
    if not isinstance(surrogate, Surrogate):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"check() takes a surrogate, got {type(surrogate).__name__}")
    wrong = [*_finite(surrogate), *_finite(surrogate, of="primitive")]
    if not wrong:
        wrong = [*_antiderivative(surrogate), *_stated(surrogate)]
    if wrong:
        raise ValueError("\n- ".join([f"{surrogate!r}:", *wrong]))
    return facts.of(surrogate)


def _finite(surrogate: Surrogate, of: str = "derivative") -> list[str]:
    if of == "primitive" and not surrogate.has_primitive:
        return []
    far = np.geomspace(1e-6, 1e4, 2001)
    wrong: list[str] = []
    for dtype in ("float32", "float64"):
        x = np.concatenate([-far[::-1], [-0.0, 0.0], far, np.linspace(-8, 8, 1601)]).astype(dtype)
        value = getattr(surrogate, of)(x)
        if value.dtype != x.dtype or value.shape != x.shape:
            wrong.append(f"the {of} of {dtype} of shape {x.shape} is {value.dtype} of shape {value.shape}")
        bad = x[~np.isfinite(np.broadcast_to(value, x.shape))]
        if bad.size:
            worst = float(bad[np.argmin(abs(bad))])
            wrong.append(f"the {of} in {dtype} is not finite at {bad.size} of {x.size} potentials, x = {worst:.4g} for one")
    return wrong


def _antiderivative(surrogate: Surrogate) -> list[str]:
    """Over every short interval the primitive must rise by something between the derivative's extremes times the length."""
    if not surrogate.has_primitive:
        return []
    reach = [6.0]
    if math.isfinite(half := surrogate.half_width) and half > 0:
        reach.append(6 * half)
    for end in reach:
        edges = np.linspace(-end, end, 1201)
        length = edges[1:] - edges[:-1]
        inside = (1 - np.cos(np.linspace(0, np.pi, 33))) / 2
        value: Any = surrogate.derivative(edges[:-1, None] + length[:, None] * inside)
        low, high = value.min(1), value.max(1)
        slack = 0.05 * (high - low) + 1e-6 * max(abs(value).max(), 1e-30)
        rise = np.diff(surrogate.primitive(edges))
        off = (rise < (low - slack) * length) | (rise > (high + slack) * length)
        if off.any():
            i = int(off.argmax())
            asked = float((low[i] + high[i]) / 2 * length[i])
            return [
                f"the primitive is not an antiderivative: between x = {edges[i]:.6g} and {edges[i + 1]:.6g} it rises by {rise[i]:.4g}, "
                f"the derivative asks for {asked:.4g}"
            ]
    return []


def _stated(surrogate: Surrogate) -> list[str]:
    names = [name for name in facts.section(type(surrogate), "Facts") if name in ("peak", "area", "half_width", "support")]
    try:
        stated = facts.of(surrogate)
    except Exception as error:  # whatever a user's expression raises
        return [f"the stated facts cannot be evaluated: {error}"]
    found = facts.computed(surrogate, names)
    return [
        f"the {name} is stated to be {getattr(stated, name)}, the curve's is {found[name]}"
        for name in names
        if not np.allclose(getattr(stated, name), found[name], rtol=1e-3, atol=1e-6)
    ]
