"""Whether a surrogate or a neuron of one's own is in order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from spikegrad import facts
from spikegrad.facts import Facts
from spikegrad.neuron import Neuron
from spikegrad.surrogate import Surrogate

if TYPE_CHECKING:
    from spikegrad.agreement import Agreement


@overload
def check(formula: Surrogate | type[Surrogate]) -> Facts: ...
@overload
def check(formula: Neuron | type[Neuron]) -> Agreement: ...
def check(formula: Any) -> Facts | Agreement:
    """Test a surrogate or a neuron of your own.

    That its formula can be recorded, and so run on every backend, was already tested when its class was defined.

    A surrogate's derivative must be finite for potentials up to 10000 in float32 and float64 and keep the dtype; it must be positive
    somewhere, and on the whole unless its docstring states another area; the differences of the primitive must be those of an
    antiderivative, and the facts that its docstring states must hold.

    The surrogate of a neuron must be in order, too. The neuron is given random inputs at which it spikes at about a quarter of the
    steps. Every backend that is installed must give, in float32, what the plain loop gives: outputs and states, bit for bit where the
    step has no function that libraries round differently, and the gradients of inputs, states and numbers. In float64 the derivatives
    must be those of the soft network, in which each step of a spike is the surrogate's primitive and what `hold` gave is a constant, by
    finite differences to 1e-5. It takes some seconds, most of them for kernels that were never compiled before.

    Args:
        formula: a surrogate or a neuron, or a class whose fields all have defaults.

    Returns:
        Of a surrogate its facts, stated or measured; of a neuron what agreed, an `Agreement`.

    Raises:
        TypeError: it is neither.
        ValueError: something is wrong; the message lists everything that is.

    Example:
        >>> import spikegrad
        >>> from spikegrad.neurons import Leaky
        >>> spikegrad.check(spikegrad.ATan(slope=4.0)).peak
        2.0
        >>> wrong = spikegrad.from_formula(lambda x: 1 / (1 + x**2), primitive=lambda x: x)
        >>> spikegrad.check(wrong)
        Traceback (most recent call last):
        ...
        ValueError: Formula():
        - the primitive is not an antiderivative: between x = -6 and -5.99 it rises by 0.01, the derivative asks for 0.0002707
        >>> spikegrad.check(Leaky(0.9)).backends
        ('PyTorch', 'PyTorch kernels', 'JAX', 'JAX kernels')
    """
    if isinstance(formula, type) and issubclass(formula, Surrogate | Neuron):
        formula = formula()
    if isinstance(formula, Neuron):
        from spikegrad.agreement import compared

        found, wrong = compared(formula)
        wrong = [*(f"its surrogate {formula.spike!r}: {what}" for what in _of_surrogate(formula.spike)), *wrong]
    elif isinstance(formula, Surrogate):
        wrong = _of_surrogate(formula)
        found = facts.of(formula) if not wrong else None
    else:
        raise TypeError(f"check() takes a surrogate or a neuron, got {type(formula).__name__}")
    if wrong or found is None:
        raise ValueError("\n- ".join([f"{formula!r}:", *wrong]))
    return found


def _of_surrogate(surrogate: Surrogate) -> list[str]:
    """Everything that is wrong with a surrogate."""
    bad = [*_finite(surrogate), *_finite(surrogate, of="primitive")]
    return bad or [*_rising(surrogate), *_antiderivative(surrogate), *_stated(surrogate)]


def _rising(surrogate: Surrogate) -> list[str]:
    """A step rises, and so must what stands for it: somewhere at least, and on the whole unless the formula says that its area is other."""
    peak = facts.computed(surrogate, ("peak",))["peak"]
    if not peak > 0:
        return [
            f"the derivative is nowhere positive, at most {peak + 0.0:.4g}: a network would learn nothing, or the opposite; a step rises, "
            "and so must its surrogate"
        ]
    if "area" in facts.section(type(surrogate), "Facts"):
        return []

    def size(x: facts.Curve) -> facts.Curve:
        return abs(surrogate.derivative(x))

    area = facts.integral(surrogate.derivative)
    if area > 1e-6 * min(facts.integral(size), 1e300):
        return []
    return [
        f"the derivative does not rise on the whole: its area is {area:.4g}, that of a step 1; if that is meant, state it in the "
        "docstring, `area: …` under `Facts:`"
    ]


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
