"""Layers on several devices equal those on one, and gather nothing. `test_jax_devices` runs this in a process with four devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from spikegrad import NoisyThreshold
from spikegrad import jax as sj

T, B, F = 9, 8, 4
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(0.3, 1.0, (T, B, F)), "float32")
GIVEN = {
    "beta": jnp.linspace(0.5, 0.9, F),
    "threshold": jnp.asarray(0.9),
    "slope": jnp.asarray(2.5),
    "weights": jnp.asarray(RNG.integers(-4, 5, (F, F)) / 16, "float32"),  # dyadic: sums of spikes are exact in any order
}
LAYERS: dict[str, Callable[..., Any]] = {
    "leaky": lambda p, x, **more: sj.leaky(x, p["beta"], p["threshold"], spike_parameters={"slope": p["slope"]}, record=True, **more),
    "synaptic": lambda p, x, **more: sj.synaptic(x, p["beta"], p["beta"], p["threshold"], **more),
    "one to one": lambda p, x, **more: sj.recurrent_leaky(x, p["weights"][0], p["beta"], p["threshold"], **more),
    "all to all": lambda p, x, **more: sj.recurrent_leaky(x, p["weights"], p["beta"], p["threshold"], **more),
}


def devices(count: int, axes: tuple[str, ...] = ("d",), kind: AxisType = AxisType.Auto) -> Mesh:
    shape = (count // 2, 2) if len(axes) == 2 else (count,)
    return Mesh(np.array(jax.devices()[:count]).reshape(shape), axes, axis_types=(kind,) * len(axes))


def loss(name: str, backend: str) -> Callable[[Any, Any], Any]:
    def function(p: Any, x: Any) -> Any:
        out = LAYERS[name](p, x, backend=backend)
        factors = jnp.arange(1.0, F + 1)
        return sum((part * factors).sum() for part in jax.tree.leaves(out)), out

    return function


def derived(name: str, backend: str) -> Callable[[Any, Any], Any]:
    """What a layer returns, and the gradients by its parameters and currents."""

    def function(p: Any, x: Any) -> Any:
        (_, out), gradients = jax.value_and_grad(loss(name, backend), (0, 1), has_aux=True)(p, x)
        return out, gradients

    return function


@functools.cache
def expected(name: str) -> Any:
    found = jax.jit(derived(name, "reference"))(GIVEN, X)
    assert 0 < found[0][0].mean() < 1
    assert all(jnp.abs(g).max() > 0 for key, g in found[1][0].items() if key in ("beta", "threshold"))
    return found


def check(found: Any, name: str) -> None:
    (out, gradients), (wanted, slopes) = found, expected(name)
    for ours, theirs in zip(jax.tree.leaves(out), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), theirs)
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-5)


def gathers(function: Any, *given: Any) -> bool:
    text = function.lower(*given).compile().as_text()
    assert "num_partitions=" in text
    return "all-gather" in text or "all-to-all" in text


FUSED = [("numba", name) for name in LAYERS]
BOTH = [*FUSED, ("reference", "leaky"), ("reference", "all to all")]


@pytest.fixture
def partitioner(request: pytest.FixtureRequest) -> Any:
    old = jax.config.jax_use_shardy_partitioner
    try:
        jax.config.update("jax_use_shardy_partitioner", request.param == "Shardy")
    except Exception:  # whatever a version that has forgotten it raises
        pytest.skip("this version of JAX has one partitioner")
    yield request.param
    jax.config.update("jax_use_shardy_partitioner", old)


@pytest.mark.parametrize(
    ("partitioner", "count", "backend", "name"),
    [
        *(("Shardy", 2, *each) for each in FUSED),
        *(("Shardy", 4, *each) for each in BOTH),
        *(("GSPMD", 4, *each) for each in FUSED),
    ],
    indirect=["partitioner"],
)
def test_samples(name, backend, count, partitioner):
    """The compiler cuts a layer where its input is cut."""
    where = NamedSharding(devices(count), P(None, "d"))
    x, function = jax.device_put(X, where), jax.jit(derived(name, backend))
    found = function(GIVEN, x)
    check(found, name)
    assert not gathers(function, GIVEN, x)
    assert found[0][0].sharding.is_equivalent_to(where, 3)
    assert found[1][1].sharding.is_equivalent_to(where, 3)


def test_kernels_for_gpus():
    """Are launched for each device's part, here in Triton's interpreter."""
    pytest.importorskip("triton")
    x, function = jax.device_put(X, NamedSharding(devices(4), P(None, "d"))), jax.jit(derived("leaky", "triton"))
    check(function(GIVEN, x), "leaky")
    assert not gathers(function, GIVEN, x)


@pytest.mark.parametrize("partitioner", ["Shardy", "GSPMD"], indirect=True)
@pytest.mark.parametrize("name", LAYERS)
def test_neurons(name, partitioner):
    """Also by neurons, where none feeds another; else these are gathered, and samples are not."""
    mesh = devices(4, ("d", "f"))
    x, function = jax.device_put(X, NamedSharding(mesh, P(None, "d", "f"))), jax.jit(derived(name, "numba"))
    by_neuron = NamedSharding(mesh, P("f"))
    p = GIVEN | {
        "beta": jax.device_put(GIVEN["beta"], by_neuron),
        "weights": jax.device_put(GIVEN["weights"], NamedSharding(mesh, P(None))),
    }
    found = function(p, x)
    check(found, name)
    assert gathers(function, p, x) == (name == "all to all")
    assert name == "all to all" or found[0][0].sharding.is_equivalent_to(x.sharding, 3)


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(("backend", "name"), BOTH)
def test_shard_map(name, backend, checked):
    """Gradients of what is the same on all devices are the sums over all devices, of a `shard_map` and inside of one."""
    split, whole = P(None, "d"), P()
    options = {"mesh": devices(4), "in_specs": (whole, split), "check_vma": checked}
    total = jax.shard_map(lambda p, x: jax.lax.psum(loss(name, backend)(p, x)[0], "d"), out_specs=whole, **options)

    def own(p: Any, x: Any) -> Any:
        (_, out), (by_p, by_x) = jax.value_and_grad(loss(name, backend), (0, 1), has_aux=True)(p, x)
        return out[0], (by_p if checked else jax.tree.map(lambda g: jax.lax.psum(g, "d"), by_p)), by_x

    inside = jax.shard_map(own, out_specs=(split, whole, split), **options)
    gradients, (spikes, *others) = jax.jit(lambda p, x: (jax.grad(total, (0, 1))(p, x), inside(p, x)))(GIVEN, X)
    np.testing.assert_array_equal(spikes, expected(name)[0][0])
    for found in (gradients, tuple(others)):
        check((expected(name)[0], found), name)


@pytest.mark.parametrize(
    ("jit", "backend", "name"), [*((True, *each) for each in BOTH), (False, "numba", "leaky"), (False, "reference", "leaky")]
)
def test_explicit_axes(name, backend, jit):
    with jax.set_mesh(devices(4, kind=AxisType.Explicit)):
        x = jax.device_put(X, P(None, "d"))
        function = derived(name, backend)
        found = jax.jit(function)(GIVEN, x) if jit else function(GIVEN, x)
        check(found, name)
        assert jax.typeof(found[0][0]).sharding.spec == jax.typeof(found[1][1]).sharding.spec == P(None, "d", None)
        assert not jit or not gathers(jax.jit(function), GIVEN, x)


def test_explicit_axes_of_time_and_neurons():
    """What is not cut along these is moved first, and so are its gradients back."""
    with jax.set_mesh(devices(2, kind=AxisType.Explicit)):
        for spec in (P(None, None, "d"), P(None, "d", None)):
            for name in ("leaky", "all to all"):
                x = jax.device_put(X, spec)
                found = jax.jit(derived(name, "numba"))(GIVEN, x)
                check(found, name)
                assert jax.typeof(found[1][1]).sharding.spec == spec


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_numbers_of_each_device(backend):
    """What varies over devices need not be the currents."""
    betas = jnp.linspace(0.5, 0.9, 4)
    options = {"mesh": devices(4), "in_specs": (P("d"), P()), "out_specs": P("d")}

    def spikes(beta: Any, x: Any, backend: str) -> Any:
        return LAYERS["leaky"](GIVEN | {"beta": beta}, x, backend=backend)[0]

    run = jax.shard_map(lambda beta, x: spikes(beta, x, backend)[None], **options)
    found = jax.jit(run)(betas, X)
    reference = jax.jit(functools.partial(spikes, backend="reference"))
    np.testing.assert_array_equal(found, jnp.stack([reference(beta, X) for beta in betas]))


def test_states_and_noise_of_each_device():
    """A state, a slope or a key that varies, with currents that do not."""
    states, keys = jnp.linspace(-0.5, 0.5, 4 * B * F).reshape(4, B, F).astype("float32"), jax.random.split(jax.random.key(0), 4)
    noisy = NoisyThreshold(5.0)
    cases = {
        "state": (states, lambda state, backend: LAYERS["leaky"](GIVEN, X, state=state[0], backend=backend)),
        "key": (keys, lambda key, backend: sj.leaky(X, 0.9, spike=noisy, training=True, key=key[0], backend=backend)),
    }
    for backend in ("auto", "reference"):
        for given, run in cases.values():
            own = jax.jit(functools.partial(run, backend=backend))
            found = jax.jit(jax.shard_map(own, mesh=devices(4), in_specs=P("d"), out_specs=P("d")))(given)
            for ours, theirs in zip(found, zip(*(own(given[k : k + 1]) for k in range(4)), strict=True), strict=True):
                np.testing.assert_array_equal(ours, jnp.concatenate(theirs))


def test_more_ways():
    """`vmap` over what is cut, memory that is given away, parts of unequal size, layers inside of `scan`, `pmap`, no samples at all."""
    mesh = devices(4)
    x = jax.device_put(X, NamedSharding(mesh, P(None, "d")))
    spikes = functools.partial(LAYERS["leaky"], GIVEN, backend="numba")
    wanted = expected("leaky")[0][0]

    mapped = jax.jit(jax.vmap(lambda x: spikes(x)[0], in_axes=1, out_axes=1))
    np.testing.assert_array_equal(mapped(x), wanted)
    assert not gathers(mapped, x)

    given = jax.device_put(X.copy(), x.sharding)
    check(jax.jit(derived("leaky", "numba"), donate_argnums=1)(GIVEN, given), "leaky")

    odd = jax.jit(lambda x: spikes(x[:, :6] + 0)[0])
    np.testing.assert_array_equal(odd(x), wanted[:, :6])

    def step(state: Any, x: Any) -> Any:
        out, state, _ = spikes(x[None], state=state)
        return state, out[0]

    scanned = jax.jit(lambda x: jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1])
    np.testing.assert_array_equal(scanned(x), wanted)
    assert not gathers(scanned, x)

    parts = jax.pmap(lambda x: spikes(x)[0], in_axes=1, out_axes=1)(X.reshape(T, 4, B // 4, F))
    np.testing.assert_array_equal(np.asarray(parts).reshape(X.shape), wanted)

    alone = jax.jit(lambda x: spikes(x)[0])
    row = jax.device_put(X[:, 0], NamedSharding(mesh, P(None, "d")))
    np.testing.assert_array_equal(alone(row), wanted[:, 0])
    assert not gathers(alone, row)


def test_axes_of_both_kinds():
    """`shard_map` over some of the axes, the compiler over the others: right, though what the compiler would cut is gathered."""
    mesh = devices(4, ("d", "e"))
    x = jax.device_put(X, NamedSharding(mesh, P(None, ("d", "e"))))
    for backend in ("numba", "reference"):
        run = functools.partial(LAYERS["leaky"], GIVEN, backend=backend)
        part = jax.shard_map(lambda x, run=run: run(x)[0], mesh=mesh, in_specs=P(None, "d"), out_specs=P(None, "d"), axis_names={"d"})
        np.testing.assert_array_equal(jax.jit(part)(x), expected("leaky")[0][0])
