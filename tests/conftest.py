"""What several test files share: the registry, the points, the transforms, and the values that a gradient must have."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from spikegrad import Surrogate
from spikegrad.formulas import CATALOGUE

POINTS = np.array([-1.73, -0.813, -0.313, -0.0413, 0.0227, 0.291, 0.777, 1.61])
"""Potentials of no special value: off every kink."""

DTYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.fixture(params=CATALOGUE)
def surrogate(request: pytest.FixtureRequest) -> Surrogate:
    """Every surrogate of the catalogue, with its defaults."""
    return CATALOGUE[request.param]()


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def points() -> np.ndarray:
    return POINTS


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that spikegrad allocates without filling it is NaN, so that an output left unwritten fails its test."""
    torch = sys.modules.get("torch")
    if torch is None:
        return

    def poisoned(allocate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(allocate)
        def empty(*arguments: Any, **options: Any) -> Any:
            made = allocate(*arguments, **options)
            if torch.compiler.is_compiling() or not made.is_floating_point():
                return made
            ours = sys._getframe(1).f_globals.get("__name__", "").startswith("spikegrad")
            return made.fill_(float("nan")) if ours else made

        return empty

    results = sys.modules.get("spikegrad.kernels.results")
    owners = (torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"), (results, "empty")
    for owner, name in owners[: 3 if results is None else 4]:
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    memory = sys.modules.get("spikegrad.kernels.memory")
    if memory is not None:
        take_block = memory.take

        def take(size: int) -> Any:
            block = take_block(size)
            block.bytes.fill(255)  # NaN as float32 and as float64
            return block

        monkeypatch.setattr(memory, "take", take)


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a derivative must be: its value, the error of this value, and the size of what it is computed from.

    `terms` are the magnitudes of the summands where the value is a sum of several, which are rounded one by one.
    """

    value: np.ndarray
    error: float = 0.0
    size: float = 0.0
    terms: np.ndarray | None = None

    def check(self, got: np.ndarray, dtype: str, what: str = "") -> None:
        """Half types are computed in float32 and rounded, a few times where an outer derivative multiplies what was rounded."""
        info, wide = ml_dtypes.finfo(dtype), max(2.0**-52, min(2.0**-23, float(ml_dtypes.finfo(dtype).eps)))
        terms = np.abs(self.value) if self.terms is None else self.terms
        tolerance = 4 * float(info.eps) * terms + float(info.smallest_subnormal) + 32 * wide * self.size + self.error
        wrong = ~(np.abs(got - self.value) <= tolerance)  # also where NaN
        assert got.shape == self.value.shape, what
        assert not wrong.any(), f"{what} in {dtype}: got {got[wrong]}, expected {self.value[wrong]} within {tolerance[wrong]}"

    def sum(self, axis: int | None = None) -> Expected:
        count = self.value.size if axis is None else self.value.shape[axis]
        return Expected(np.asarray(self.value.sum(axis)), self.error * count, self.size * count)


def slope_of(f: Callable[[Any], np.ndarray], at: Any, h: float = 1e-4) -> Expected:
    """Derivative of `f` by central differences over five points; its error is what halving the step shows."""

    def stencil(h: float) -> np.ndarray:
        return (8 * (f(at + h) - f(at - h)) - (f(at + 2 * h) - f(at - 2 * h))) / (12 * h)

    value = stencil(h)
    error = float(np.max(np.abs(value - stencil(2 * h)))) + 3 * 2.0**-52 * float(np.max(np.abs(f(at)))) / h
    size = float(np.max(np.abs(value)))
    assert error <= 1e-5 * (1 + size), "a kink is in the way; choose other points"
    return Expected(value, error, size)


@pytest.fixture
def expected() -> Callable[[Surrogate, np.ndarray], dict[str, Expected]]:
    """``expected(surrogate, x)``: spikes s, first and second derivative g and g', and (s^2)'' = 2 g^2 + 2 s g'."""

    def of(surrogate: Surrogate, x: np.ndarray) -> dict[str, Expected]:
        g, spikes = surrogate.derivative(x), (x >= 0).astype(float)
        second = slope_of(surrogate.derivative, x)
        peak = float(np.max(np.abs(surrogate.derivative(np.linspace(-2, 2, 401)))))
        steep = float(np.max(np.abs(x))) * second.size
        size, curved = max(second.size, peak, peak**2), 2 * spikes * second.value
        return {
            "spikes": Expected(spikes),
            "first": Expected(g, size=peak + steep),
            "second": dataclasses.replace(second, size=size),
            "square": Expected(2 * g**2 + curved, 2 * second.error, 2 * size + 4 * peak * steep, 2 * g**2 + np.abs(curved)),
        }

    return of


@pytest.fixture
def expected_of_parameter() -> Callable[..., dict[str, Expected]]:
    """``expected_of_parameter(surrogate, name, x, p)``: from the primitive P and the derivative g: g, P_p, g_p and P_pp."""

    def of(surrogate: Surrogate, name: str, x: np.ndarray, p: np.ndarray) -> dict[str, Expected]:
        def primitive(p: Any) -> np.ndarray:
            return surrogate.bind({name: p}).primitive(x)

        h = 1e-3 * float(np.min(np.abs(p)))
        first = slope_of(primitive, p, h / 10)
        mixed = slope_of(lambda p: surrogate.bind({name: p}).derivative(x), p, h / 10)
        second = slope_of(lambda p: slope_of(primitive, p, h).value, p, h)
        second = dataclasses.replace(second, error=second.error + 3 * 2.0**-52 * float(np.max(np.abs(primitive(p)))) / h**2)
        derivative = Expected(surrogate.bind({name: p}).derivative(x))
        size = max(first.size, float(np.max(np.abs(derivative.value))), mixed.size, second.size, float(np.max(np.abs(primitive(p)))))
        orders = {"derivative": derivative, "first": first, "mixed": mixed, "second": second}
        return {order: dataclasses.replace(value, size=size) for order, value in orders.items()}

    return of


def _total(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: f(*arguments).sum()


def _square(f: Callable[..., Any]) -> Callable[..., Any]:
    def square(x: Any) -> Any:
        spikes = f(x)
        return spikes * spikes

    return square


# lib is torch.func or jax, f the elementwise function, x a vector of 8. Sums over rows show that entries off the diagonal are 0.
TRANSFORMS: dict[str, tuple[str, Callable[[Any, Any, Any], Any]]] = {
    "vmap": ("spikes", lambda lib, f, x: lib.vmap(f)(x)),
    "grad": ("first", lambda lib, f, x: lib.grad(_total(f))(x)),
    "vmap(grad)": ("first", lambda lib, f, x: lib.vmap(lib.grad(f))(x)),
    "vmap over columns": (
        "first",
        lambda lib, f, x: lib.vmap(lib.vmap(lib.grad(f)), 1, 1)(x.reshape(2, 4)).reshape(8),
    ),
    "jvp": ("first", lambda lib, f, x: lib.jvp(f, (x,), (x * 0 + 1,))[1]),
    "jacfwd": ("first", lambda lib, f, x: lib.jacfwd(f)(x).sum(0)),
    "jacrev": ("first", lambda lib, f, x: lib.jacrev(f)(x).sum(0)),
    "grad(grad)": ("second", lambda lib, f, x: lib.vmap(lib.grad(lib.grad(f)))(x)),
    "jvp(grad)": ("second", lambda lib, f, x: lib.jvp(lib.grad(_total(f)), (x,), (x * 0 + 1,))[1]),
    "jacfwd(jacfwd)": ("second", lambda lib, f, x: lib.vmap(lib.jacfwd(lib.jacfwd(f)))(x)),
    "jacrev(jacfwd)": ("second", lambda lib, f, x: lib.vmap(lib.jacrev(lib.jacfwd(f)))(x)),
    "hessian": ("second", lambda lib, f, x: lib.hessian(_total(f))(x).sum(0)),
    "hessian of the square": ("square", lambda lib, f, x: lib.hessian(_total(_square(f)))(x).sum(0)),
    "grad(grad) of the square": ("square", lambda lib, f, x: lib.vmap(lib.grad(lib.grad(_square(f))))(x)),
}

# The same with respect to a parameter p of the shape of x.
PARAMETER_TRANSFORMS: dict[str, tuple[str, Callable[[Any, Any, Any, Any], Any]]] = {
    "of the potential": ("derivative", lambda lib, f, x, p: lib.grad(_total(f))(x, p)),
    "grad": ("first", lambda lib, f, x, p: lib.grad(_total(f), 1)(x, p)),
    "vmap(grad)": ("first", lambda lib, f, x, p: lib.vmap(lib.grad(f, 1))(x, p)),
    "jvp": ("first", lambda lib, f, x, p: lib.jvp(lambda p: f(x, p), (p,), (p * 0 + 1,))[1]),
    "mixed": ("mixed", lambda lib, f, x, p: lib.grad(lambda p: lib.grad(_total(f))(x, p).sum())(p)),
    "mixed in the other order": ("mixed", lambda lib, f, x, p: lib.grad(lambda x: lib.grad(_total(f), 1)(x, p).sum())(x)),
    "second": ("second", lambda lib, f, x, p: lib.grad(lambda p: lib.grad(_total(f), 1)(x, p).sum())(p)),
}


@pytest.fixture
def transforms() -> dict[str, tuple[str, Callable[..., Any]]]:
    return TRANSFORMS


@pytest.fixture(params=TRANSFORMS)
def transform(request: pytest.FixtureRequest) -> tuple[str, str, Callable[..., Any]]:
    return request.param, *TRANSFORMS[request.param]


@pytest.fixture
def parameter_transforms() -> dict[str, tuple[str, Callable[..., Any]]]:
    return PARAMETER_TRANSFORMS
