"""JAX: the step has this surrogate's gradient under every transform, in every dtype, traced once for equal surrogates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.conftest import DTYPES, once

from spikegrad import ATan, Surrogate
from spikegrad.formulas import CATALOGUE

LEARNABLE = [name for name, cls in CATALOGUE.items() if cls.has_primitive]
STOCHASTIC = [cls for cls in CATALOGUE.values() if cls.stochastic]


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def array(x: jax.Array) -> np.ndarray:
    return np.asarray(x, np.float64)


def total(f):
    return lambda *arguments: f(*arguments).sum()


def scanned(jax, f, x):
    return jax.grad(lambda x: jax.lax.scan(lambda carry, x: (carry + f(x), None), x[0] * 0, x)[0])(x)


ONLY_JAX = {
    "vjp": ("first", lambda jax, f, x: jax.vjp(f, x)[1](x * 0 + 1)[0]),
    "linearize": ("first", lambda jax, f, x: jax.linearize(f, x)[1](x * 0 + 1)),
    "checkpoint": ("first", lambda jax, f, x: jax.grad(total(jax.checkpoint(f)))(x)),
    "checkpoint, twice": ("second", lambda jax, f, x: jax.vmap(jax.grad(jax.grad(jax.checkpoint(f))))(x)),
    "scan": ("first", scanned),
    "jit of jit": ("first", lambda jax, f, x: jax.grad(total(jax.jit(f)))(x)),
    "value": ("spikes", lambda jax, f, x: jax.value_and_grad(total(f))(x)[0] * 0 + f(x)),
}


TURNS = [
    pytest.param(name, dtype, marks=pytest.mark.slow if dtype != "float64" and (place + turn) % 3 else ())
    for place, name in enumerate(CATALOGUE)
    for turn, dtype in enumerate(DTYPES)
]
"""Every surrogate in float64, and in one of the other types in turn; in all of them when there is time."""


@pytest.mark.parametrize(("surrogate", "dtype"), TURNS, indirect=True)
def test_transforms(surrogate, dtype, points, transforms, expected):
    """All transforms in one jit: XLA compiles slower than it runs."""
    x = jnp.asarray(points, dtype)
    table = {**transforms, **ONLY_JAX}
    if dtype != "float64":  # which has met every rule
        table = {name: table[name] for name in ("grad", "vmap(grad)", "jvp", "hessian", "hessian of the square", "scan")}
    got = once(lambda x: {name: run(jax, surrogate, x) for name, (_, run) in table.items()}, x)
    wanted = expected(surrogate, array(x))
    for name, (order, _) in table.items():
        assert got[name].dtype == x.dtype, name
        wanted[order].check(array(got[name]), dtype, name)


@pytest.mark.parametrize("name", ["grad", "vmap(grad)", "jvp", "jvp(grad)"])
def test_without_jit(name, points, transforms, expected):
    x, (order, run) = jnp.asarray(points), transforms[name]
    expected(ATan(), points)[order].check(array(run(jax, ATan(), x)), "float64")


@pytest.mark.parametrize("name", LEARNABLE)
def test_learnable_parameters(name, points, parameter_transforms, expected_of_parameter):
    surrogate, x = CATALOGUE[name](), jnp.asarray(points)
    values = {number: (value or 0.1) * np.linspace(0.79, 1.21, 8) for number, value in surrogate.parameters.items()}

    def run(number, p):
        def f(x, p):
            return surrogate(x, **{number: p})

        got = {what: run(jax, f, x, p) for what, (_, run) in parameter_transforms.items()}
        grad = jax.grad(total(f), 1)
        return got | {"per channel": grad(x.reshape(2, 4), p[:4]), "scalar": grad(x, p[0])}

    got = once(lambda values: {number: run(number, p) for number, p in values.items()}, values)
    for number, p in values.items():
        wanted = expected_of_parameter(surrogate, number, points, p)
        for what, (order, _) in parameter_transforms.items():
            wanted[order].check(array(got[number][what]), "float64", f"{number}, {what}")
        for what, x_like, p_like, axis in (("per channel", points.reshape(2, 4), p[:4], 0), ("scalar", points, p[:1], None)):
            wanted = expected_of_parameter(surrogate, number, x_like, np.broadcast_to(p_like, x_like.shape))
            wanted["first"].sum(axis).check(array(got[number][what]), "float64", f"{number}, {what}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_of_parameter(dtype, points):
    x, slope = jnp.asarray(points, dtype), jnp.float32(2.0)

    def everything(x, slope):
        gradients = jax.grad(lambda x, slope: ATan()(x, slope=slope).sum(), (0, 1))(x, slope)
        return ATan()(x, slope=slope), gradients, ATan()(x, slope=3.0)

    spikes, (dx, dslope), of_number = once(everything, x, slope)
    assert (spikes.dtype, dx.dtype, dslope.dtype) == (x.dtype, x.dtype, slope.dtype)
    assert of_number.dtype == x.dtype


def test_gradient_that_does_not_depend_on_x_under_vmap_of_another_axis(points):
    """A constant derivative must be broadcast by the batching rule (elsewhere it was transposed instead)."""
    spike, x = CATALOGUE["StraightThrough"](), jnp.asarray(points[:4])
    weights = jnp.arange(16.0).reshape(4, 4)
    got = once(jax.grad(lambda x: (weights * jax.vmap(spike, in_axes=1, out_axes=1)(jnp.tile(x, (4, 1)).T)).sum()), x)
    assert np.array_equal(got, weights.sum(1))


def test_traced_once():
    """Equal surrogates are the same static argument, and an array in place of a number does not trace again."""
    traces = []

    def step(spike, x, **parameters):
        traces.append(spike)
        return spike(x, **parameters).sum()

    x = jnp.linspace(-1, 1, 5)
    static = jax.jit(step, static_argnums=0)
    for spike in (ATan(2.0), ATan(2.0), ATan(2)):
        static(spike, x)
    assert len(traces) == 1
    static(ATan(3.0), x)
    assert len(traces) == 2

    traces.clear()
    sweep = jax.jit(jax.grad(lambda x, slope: step(ATan(), x, slope=slope)))
    for slope in (1.0, 2.0, 3.0):
        assert np.allclose(sweep(x, jnp.asarray(slope)), ATan(slope).derivative(np.asarray(x)), rtol=1e-12)
    assert len(traces) == 1


@cache
def at_edges(surrogate: Surrogate) -> dict[str, Any]:
    """Spikes, first and second derivatives at seven special points and from far to near, in every dtype."""
    special = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e4, -1e4]
    x = np.concatenate([special, -np.logspace(4, -6, 400), np.logspace(-6, 4, 400)])

    def first(x):
        spikes, back = jax.vjp(surrogate, x)
        (g,) = back(jnp.ones_like(x))
        return g.sum(), (spikes, g)

    def derivatives(x):
        second, (spikes, g) = jax.grad(first, has_aux=True)(x)
        return spikes, g, second

    return once(lambda xs: {dtype: derivatives(x) for dtype, x in xs.items()}, {dtype: jnp.asarray(x, dtype) for dtype in DTYPES})


def test_edges(surrogate, dtype):
    """NaN stays NaN, infinities spike or do not and have no gradient, the rest is finite out to 1e4."""
    found = at_edges(surrogate)[dtype]
    assert {part.dtype for part in found} == {jnp.dtype(dtype)}
    (spikes, g, second), wide = (array(part)[:7] for part in found), array(found[1])[7:]
    assert np.isnan(spikes[0])
    assert np.isnan(g[0])
    assert spikes[1:].tolist() == [1, 0, 1, 1, 1, 0]
    assert g[1:3].tolist() == [0, 0]
    assert np.isfinite(g[3:]).all()
    assert np.isfinite(second[1:]).all()
    assert np.isfinite(wide).all()


@pytest.mark.parametrize("cls", STOCHASTIC)
def test_noise(cls, points):
    x, spike = jnp.asarray(np.tile(points, 50)), cls()

    @jax.jit
    def draw(key):
        return jnp.concatenate(jax.value_and_grad(lambda x: (s := spike(x, training=True, random=key)).sum() + 0 * s[0])(x)[1:])

    one, same, other = draw(jax.random.key(0)), draw(jax.random.key(0)), draw(jax.random.key(1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    spikes, slope = once(lambda x: (spike(x), jax.grad(total(spike))(x)), x)
    assert np.array_equal(spikes, np.asarray(x) >= 0)
    assert np.allclose(slope, spike.derivative(np.asarray(x)), rtol=1e-12)
    with pytest.raises(ValueError, match=r"pass random=jax.random.key\(seed\)"):
        spike(x, training=True)


def test_refused():
    with pytest.raises(TypeError, match=r"int64; convert it with x.astype\('float32'\)"):
        ATan()(jnp.arange(3))
    with pytest.raises(TypeError, match=r"pass arrays beside the surrogate: spike\(x, slope=array\)"):
        ATan(slope=jnp.ones(3))
    with pytest.raises(ValueError, match=r"shape of `x`, \(3,\), got shape \(2, 3\)"):
        ATan()(jnp.zeros(3), slope=jnp.ones((2, 3)))

    class Bump(Surrogate):
        width: float = 1.0

        def derivative(self, x):
            return 1 / (1 + abs(x) / self.width)

    with pytest.raises(ValueError, match=r"`width` of Bump cannot be learned: .* this surrogate has none"):
        Bump()(jnp.zeros(3), width=jnp.ones(3))
