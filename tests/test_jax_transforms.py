"""What JAX does to functions, done to layers and surrogates: numbers as Python has them, ranges, and every transform there is."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tests.conftest import once

from spikegrad import Sigmoid, neurons, nn
from spikegrad import jax as sj
from spikegrad.formulas import CATALOGUE

X = jnp.asarray(np.random.default_rng(0).normal(0.3, 1.0, (9, 2, 4)), "float32")


def spikes(x: Any, backend: str = "auto") -> Any:
    return sj.leaky(x, 0.9, backend=backend)[0]


def loss(x: Any, backend: str = "auto") -> Any:
    return (spikes(x, backend) * jnp.arange(1.0, 5.0)).sum()


GRADIENT = jax.grad(loss)(X, "reference")


# Surrogates of numbers.


@pytest.mark.parametrize("name", CATALOGUE)
def test_python_numbers(name):
    """A number of Python is a weakly typed array; its gradient is that of an array."""
    spike, eps = CATALOGUE[name](), float(jnp.finfo("float32").eps)

    def gradient(x: Any) -> Any:
        return jax.value_and_grad(lambda x: spike(x))(x)[::-1]

    def derivatives(x: Any) -> Any:
        (first, value), second = jax.value_and_grad(gradient, has_aux=True)(x)
        return value, first, jax.jvp(spike, (x,), (1.0,))[1], second

    def everything(arrays: Any) -> Any:
        return [(derivatives(x), derivatives(jnp.asarray(x)), derivatives(array)) for x, array in zip((0.3, -0.2), arrays, strict=True)]

    for x, (of_number, of_weak, of_array) in zip((0.3, -0.2), once(everything, (jnp.float32(0.3), jnp.float32(-0.2))), strict=True):
        assert of_number[0] == of_array[0] == (x >= 0)
        np.testing.assert_allclose(of_array[1], spike.derivative(np.float32(x)), rtol=50 * eps, atol=50 * eps)
        for found in (of_number, of_weak):
            assert {part.dtype for part in found} == {jnp.dtype("float32")}
            np.testing.assert_allclose(found, of_array, rtol=50 * eps, atol=50 * eps)


@pytest.mark.parametrize("x64", [False, True])
def test_python_numbers_without_jit(x64):
    with jax.enable_x64(x64):
        found = jax.grad(lambda x: Sigmoid(2.0)(x))(0.3)
        assert found.dtype == ("float64" if x64 else "float32")
        np.testing.assert_allclose(found, Sigmoid(2.0).derivative(np.float64(0.3)), rtol=1e-12 if x64 else 1e-6)


@pytest.mark.parametrize("x", [jnp.arange(3), jnp.ones(3, bool), jnp.ones(3, complex)], ids=["int", "bool", "complex"])
def test_what_is_not_of_floating_point(x):
    for function in (Sigmoid(), jax.jit(Sigmoid())):
        with pytest.raises(
            TypeError, match=r"expected a floating-point array, got (int|bool|complex)\w*; convert it with x.astype\('float32'\)"
        ):
            function(x)
    with pytest.raises(TypeError, match="expected a floating-point array"):
        jax.jit(Sigmoid())(3)
    with pytest.raises(TypeError, match="expected a floating-point array"):
        sj.leaky(x[:, None], 0.9)


# Ranges.


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("beta", 1.5, "between 0 and 1"),
        ("beta", -0.1, "between 0 and 1"),
        ("beta", float("nan"), "between 0 and 1"),
        ("threshold", 0.0, "positive"),
        ("threshold", -1.0, "positive"),
        ("spike.slope", -1.0, "positive"),
    ],
)
@pytest.mark.parametrize("of_each", [False, True])
def test_ranges_as_in_pytorch(name, value, words, of_each):
    """A number out of its range is refused in the same words wherever it is known, one of all neurons like one of each."""
    given = np.asarray([0.5, value, 0.5, 0.5] if of_each else value, "float32")
    with pytest.raises(ValueError, match=f"`{name}` must be {words}, got"):
        nn.Layer(neurons.Leaky(0.5), learn=name, values={name: torch.from_numpy(given)})
    for array in (given, jnp.asarray(given)):
        for run in (sj.run, lambda *a, **k: jax.jit(lambda x: sj.run(a[0], x, **k))(a[1])):
            with pytest.raises(ValueError, match=f"`{name}` must be {words}, got"):
                run(neurons.Leaky(0.5), X, values={name: array})
    if not of_each and name == "beta":
        with pytest.raises(ValueError, match="`beta` of Leaky must be between 0 and 1"):
            sj.leaky(X, value)


@pytest.mark.parametrize("value", ["0.5", None, "half"])
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"`beta` must be a real number or a JAX array of them, got"):
        sj.leaky(X, value)


# Transforms of a layer.


@pytest.mark.parametrize("beta", [0.9, jnp.full(4, 0.9)], ids=["one", "each"])
def test_derivatives_of_every_order_and_mode(beta):
    """Forward mode and second derivatives are the plain loop's, also where `vmap` takes several of them at once."""

    def all_of(backend: str) -> Any:
        def function(beta: Any) -> Any:
            return sj.leaky(X, beta, record=True, backend=backend)[2].sum()

        def run(beta: Any) -> Any:
            many = jax.vmap(jax.grad(function))(jnp.stack([beta, beta]) if jnp.ndim(beta) else jnp.full(2, beta))
            return (
                jax.jvp(function, (beta,), (beta,)),
                jax.grad(function)(beta),
                jax.hessian(function)(beta),
                jax.jacrev(jax.jacfwd(function))(beta),
                many,
            )

        return once(run, beta)

    ours, theirs = all_of("auto"), all_of("reference")
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=2e-4)
    np.testing.assert_allclose(jax.grad(loss)(X), GRADIENT, rtol=1e-5, atol=1e-6)


def test_second_derivatives_where_spikes_reach_later_steps():
    """`jax.lax.scan` forgets a rule of ours when it is differentiated in reverse: they are what they are in PyTorch."""
    neuron, x = neurons.Leaky(0.7, detach_reset=False), torch.tensor(np.array(X[:, 0]))
    layer = nn.Layer(neuron, learn=("beta", "spike.slope"), backend="reference")

    def total(spikes: Any, state: Any, currents: Any) -> Any:
        return (spikes * currents).sum() + (state**2).sum()

    def ours(given: Any) -> Any:
        return total(*sj.run(neuron, X[:, 0], values={"beta": given[0], "spike.slope": given[1]}, backend="reference"), X[:, 0])

    def theirs(given: Any) -> Any:
        numbers = {"beta_logit": torch.logit(given[0]), "spike.slope_log": torch.log(given[1])}
        return total(*torch.func.functional_call(layer, numbers, (x,)), x)

    wanted = torch.autograd.functional.hessian(theirs, torch.tensor([0.7, 2.0]))
    np.testing.assert_allclose(once(jax.hessian(ours), jnp.asarray([0.7, 2.0])), wanted, rtol=1e-4, atol=1e-4)


def test_control_flow():
    def thrice(x: Any, backend: str) -> Any:
        return jax.lax.fori_loop(0, 3, lambda _, c: spikes(c, backend), x).sum()

    def everything(x: Any) -> Any:
        steps = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, spikes(c[1])), (0, x))[1]
        gradients = [jax.grad(thrice)(x, backend) for backend in ("auto", "reference")]
        return (steps, spikes(spikes(spikes(x, "reference"), "reference"), "reference")), gradients, jax.lax.map(spikes, jnp.stack([x, -x]))

    steps, gradients, mapped = once(everything, X)
    np.testing.assert_array_equal(*steps)
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(mapped, [spikes(X), spikes(-X)])


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.nothing_saveable, jax.checkpoint_policies.everything_saveable])
def test_checkpoint(policy):
    np.testing.assert_allclose(jax.grad(jax.checkpoint(loss, policy=policy))(X), GRADIENT, rtol=1e-5, atol=1e-6)


def test_inside_of_a_rule_of_ones_own():
    """A function with a derivative of its own whose rules call a layer and its gradient; and a layer of what such a function gives."""

    @jax.custom_vjp
    def doubled(x: Any) -> Any:
        return loss(x)

    doubled.defvjp(lambda x: (loss(x), x), lambda x, g: (2 * g * jax.grad(loss)(x),))
    np.testing.assert_allclose(jax.jit(jax.grad(doubled))(X), 2 * GRADIENT, rtol=1e-5, atol=1e-6)

    @jax.custom_jvp
    def same(x: Any) -> Any:
        return x

    same.defjvp(lambda primals, tangents: (primals[0], 3 * tangents[0]))
    np.testing.assert_allclose(jax.grad(lambda x: loss(same(x)))(X), 3 * GRADIENT, rtol=1e-5, atol=1e-6)


def test_shapes_without_values_and_programs_ahead_of_time():
    like = jax.ShapeDtypeStruct(X.shape, X.dtype)
    found = jax.eval_shape(lambda x: sj.leaky(x, 0.9, record=True), like)
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in sj.leaky(X, 0.9, record=True)]
    ready = jax.jit(jax.value_and_grad(loss)).lower(like).compile()
    np.testing.assert_allclose(ready(X)[1], GRADIENT, rtol=1e-5, atol=1e-6)


def test_export():
    """What leaves this machine holds no kernels of it, for any number of steps and samples; a layer that insists on them is refused."""
    steps, samples = jax.export.symbolic_shape("t, b")
    exported = jax.export.export(jax.jit(jax.grad(loss)))(jax.ShapeDtypeStruct((steps, samples, 4), X.dtype))
    assert "@spikegrad" not in exported.mlir_module()
    for x in (X, X[:5, :1]):
        np.testing.assert_allclose(exported.call(x), jax.grad(loss)(x), rtol=1e-5, atol=1e-6)
    assert jax.export.export(jax.jit(spikes), platforms=("cpu", "cuda"))(X).platforms == ("cpu", "cuda")
    with pytest.raises(ValueError, match="no compatibility guarantees"):
        jax.export.export(jax.jit(lambda x: spikes(x, "numba")))(X)


def test_settings_of_jax():
    with jax.disable_jit():
        np.testing.assert_allclose(jax.grad(loss)(X), GRADIENT, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(spikes(X, "numba"), spikes(X, "reference"))
    with jax.checking_leaks(), jax.debug_nans(True), jax.numpy_dtype_promotion("strict"):
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(X), GRADIENT, rtol=1e-5, atol=1e-6)


CACHED = """
import logging, sys
import jax, jax.numpy as jnp
from spikegrad import jax as sj

hits = []
jax.monitoring.register_event_listener(lambda event, **more: hits.append(event) if event.endswith("compilation_cache/cache_hits") else None)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
x = jnp.linspace(-1, 2, 72, dtype="float32").reshape(9, 2, 4)
jax.block_until_ready(x)
del hits[:]
out = jax.jit(jax.value_and_grad(lambda x: (sj.leaky(x, 0.9, backend="numba")[0] * jnp.arange(1.0, 5.0)).sum()))(x)
print(len(hits), float(out[0]), float(jnp.abs(out[1]).sum()))
"""


def test_compiled_programs_kept_on_disk(tmp_path):
    """JAX's cache of compiled programs: another process finds ours there, and the kernels that it calls."""
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", CACHED, str(tmp_path)]
        process = subprocess.run(command, env=os.environ, text=True, capture_output=True, timeout=240, check=False)
        assert process.returncode == 0, process.stderr
        said.append(process.stdout.split())
    (before, *first), (after, *second) = said
    assert int(before) == 0 < int(after)
    assert first == second
    x = jnp.linspace(-1, 2, 72, dtype="float32").reshape(9, 2, 4)
    value, gradient = jax.value_and_grad(loss)(x, "reference")
    np.testing.assert_allclose([float(s) for s in first], [value, jnp.abs(gradient).sum()], rtol=1e-5)
