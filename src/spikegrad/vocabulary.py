"""The words a formula is written in.

Besides these functions a formula may use numbers, its parameters, ``+ - * / **``, ``abs``, the comparisons and ``& | ~``. Each function
looks at its argument and uses that library's version, so one formula runs on NumPy, PyTorch and JAX arrays, and records itself when
it is given a `spikegrad.trace.Symbol`.
"""

from __future__ import annotations

import builtins
import math
import operator
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import numpy as np

from spikegrad import evaluation, trace
from spikegrad.evaluation import Array as Array
from spikegrad.trace import Symbol

__all__ = [
    "arctan", "cos", "erf", "exp", "floor", "inf", "log", "maximum", "minimum", "pi", "round", "sigmoid", "sin", "sqrt", "step", "tanh",
    "where",
]  # fmt: skip

pi, inf = math.pi, math.inf


def library(x: object) -> str:
    """``"numpy"``, ``"torch"``, ``"jax"``, ``"symbol"`` or ``"number"``: whose value `x` is, by its class and base classes.

    Raises:
        TypeError: if it is none of them.
    """
    # Tuples, not unions: torch.compile traces through here and does not know `int | float`.
    torch = evaluation.pytorch if evaluation.pytorch is not None else sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return "torch"
    if isinstance(x, Symbol):
        return "symbol"
    if isinstance(x, (np.ndarray, np.generic)):
        return "numpy"
    if isinstance(x, (int, float)):
        return "number"
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(x, jax.Array):
        return "jax"
    raise TypeError(f"expected a NumPy, PyTorch or JAX array or a number, got {type(x).__module__}.{type(x).__qualname__}")


def namespace(name: str) -> ModuleType:
    """The module that holds a library's array functions."""
    if name == "torch":  # not by `sys.modules` where it can be helped: a compiler that traces through here would go through all of them
        return evaluation.pytorch or sys.modules["torch"]
    return np if name == "numpy" else sys.modules["jax"].numpy


def _call(name: str, x: Array) -> Array:
    owner = library(x)
    if owner == "symbol":
        return Symbol(name, x)
    if owner == "number":
        return getattr(math, {"arctan": "atan"}.get(name, name))(x)
    return getattr(namespace(owner), name)(x)


def exp(x: Array) -> Array:
    """Exponential."""
    return _call("exp", x)


def log(x: Array) -> Array:
    """Natural logarithm."""
    return _call("log", x)


def sqrt(x: Array) -> Array:
    """Square root."""
    return _call("sqrt", x)


def sin(x: Array) -> Array:
    """Sine of radians."""
    return _call("sin", x)


def cos(x: Array) -> Array:
    """Cosine of radians."""
    return _call("cos", x)


def arctan(x: Array) -> Array:
    """Inverse tangent, in radians."""
    return _call("arctan", x)


def floor(x: Array) -> Array:
    """Largest whole number not above `x`."""
    return _call("floor", x)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return _call("tanh", x)


def round(x: Array) -> Array:
    """Nearest whole number, of two the even one; its gradient is 0, as in PyTorch and JAX."""
    return float(builtins.round(x)) if library(x) == "number" else _call("round", x)


def sigmoid(x: Array) -> Array:
    """The logistic function ``1 / (1 + exp(-x))``; written so it would have no gradient far below 0."""
    owner = library(x)
    if owner == "jax":
        return sys.modules["jax"].lax.logistic(x)
    if owner in ("torch", "symbol"):
        return _call("sigmoid", x)
    return exp(minimum(x, 0.0)) / (1 + exp(-abs(x)))


_erf = np.frompyfunc(math.erf, 1, 1)  # NumPy has none; only primitives need it


def erf(x: Array) -> Array:
    """Error function."""
    owner = library(x)
    if owner == "numpy":
        return np.asanyarray(_erf(x)).astype(x.dtype)[()]
    if owner == "jax":
        return sys.modules["jax"].lax.erf(x)
    return _call("erf", x)


def where(condition: Array, a: Array, b: Array) -> Array:
    """`a` where the condition holds, else `b`; at least one of them must be an array, which gives the dtype."""
    owner = library(condition)
    if owner == "number":
        return a if condition else b
    if owner == "symbol":
        return trace.where(condition, a, b)
    if library(a) == library(b) == "number":
        raise TypeError("where(condition, a, b) of two numbers has no dtype; write a + (b - a) * step(x), or x * 0 + a")
    return namespace(owner).where(condition, a, b)


def minimum(a: Array, b: Array) -> Array:
    """The smaller of two, NaN if either is; where they are equal, half of the gradient goes to each, as in PyTorch and JAX."""
    return _either("minimum", a, b)


def maximum(a: Array, b: Array) -> Array:
    """The larger of two, NaN if either is; where they are equal, half of the gradient goes to each: a rectifier is another word.

    At silent inputs ``maximum(x, 0)`` has the gradient 1/2, ``where(x <= 0, 0 * x, x)`` has 0.
    """
    return _either("maximum", a, b)


def _either(name: str, a: Array, b: Array) -> Array:
    owners = library(a), library(b)
    if "symbol" in owners:
        return Symbol(name, trace.operand(a), trace.operand(b))
    owner = next((o for o in owners if o != "number"), "number")
    if owner == "number":
        return a if a != a or (a < b if name == "minimum" else a > b) else b
    if owner == "torch":
        like = a if owners[0] == "torch" else b
        a, b = (x if library(x) == "torch" else like.new_tensor(x) for x in (a, b))
    return getattr(namespace(owner), name)(a, b)


def step(x: Array) -> Array:
    """1 where ``x >= 0``, else 0, in the dtype of `x`."""
    owner = library(x)
    if owner == "symbol":
        return Symbol("step", x)
    if owner == "number":
        return 1.0 if x >= 0 else 0.0
    return cast(x >= 0, x)


def cast(value: Array, like: Array) -> Array:
    """`value` in the dtype of the array `like`."""
    if library(like) == "torch":
        return value.to(like.dtype)
    return value.astype(like.dtype)


def detach(x: Array) -> Array:
    """`x` as a constant: no gradient flows through it."""
    owner = library(x)
    return x.detach() if owner == "torch" else sys.modules["jax"].lax.stop_gradient(x) if owner == "jax" else x


def widen(x: Array) -> Array:
    """Half-precision arrays as float32, everything else as it is: formulas and states are never computed in half precision.

    Raises:
        TypeError: for an array of integers, booleans or complex numbers.
    """
    owner = library(x)
    if owner in ("symbol", "number"):
        return x
    if owner == "torch":
        if not x.dtype.is_floating_point:
            raise TypeError(f"expected a floating-point tensor, got {x.dtype}; convert it with x.float()")
        return x.float() if x.dtype.itemsize < 4 else x
    if not (x.dtype.kind == "f" or x.dtype.name.startswith(("bfloat", "float"))):
        raise TypeError(f"expected a floating-point array, got {x.dtype}; convert it with x.astype('float32')")
    return x.astype("float32") if x.dtype.itemsize < 4 else x


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether an array of this shape broadcasts to the wanted one, and does not make it larger."""
    # Not `in`, for which a compiler's unknown sizes are equal to nothing.
    return len(shape) <= len(wanted) and all(a == 1 or a == b for a, b in zip(shape[::-1], wanted[::-1], strict=False))


def quiet(x: Array) -> AbstractContextManager[object]:
    """A context in which NumPy does not warn of overflow: a formula's limits are part of its definition."""
    return np.errstate(all="ignore") if library(x) == "numpy" else nullcontext()


def _invert(condition: Array) -> Array:
    return not condition if isinstance(condition, bool) else ~condition


def _abs(x: Array) -> Array:
    """`abs`, whose derivative at 0 is 0 in JAX, too."""
    if library(x) != "jax":
        return abs(x)
    jnp = sys.modules["jax"].numpy
    return jnp.where(x == 0, jnp.zeros_like(x), abs(x))


OPERATIONS: dict[str, Callable[..., Array]] = {
    **{name: globals()[name] for name in (*trace.FUNCTIONS, "minimum", "maximum", "where")},
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
    "abs": _abs,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "and": operator.and_,
    "or": operator.or_,
    "not": _invert,
    "hold": detach,
}
"""What each operation of a record means on numbers and arrays, for `trace.evaluate`."""
