"""The fused kernels in JAX against the scan: spikes, potentials and states bit for bit, gradients to rounding; and what XLA runs."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("numba")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from tests.conftest import driving, example, once, spread  # noqa: E402

from spikegrad import ATan, Neuron, NoisyThreshold, from_formula  # noqa: E402
from spikegrad import jax as sj  # noqa: E402
from spikegrad.kernels.cpu.compiler import compiled  # noqa: E402


class Case(NamedTuple):
    """A layer: of its numbers, those of `each` are arrays of one for each neuron, those of `one` arrays of one for all."""

    neuron: Neuron
    each: tuple[str, ...] = ()
    one: tuple[str, ...] = ()
    record: tuple[str, ...] = ()
    connection: str = ""
    dtype: str = "float64"


CASES = {
    "numbers of each": Case(example("Leaky"), ("beta", "threshold"), record=("u",)),
    "numbers that are numbers": Case(example("Synaptic"), record=("u",), dtype="float32"),
    "no spikes": Case(example("LeakyIntegrator"), ("beta",), record=("u",)),
    "all to all": Case(example("Synaptic"), ("alpha", "beta", "threshold"), record=("u",), connection="all-to-all"),
    "one to one": Case(example("Leaky"), ("beta", "threshold"), record=("u",), connection="one-to-one"),
    "two inputs": Case(example("GatedLeaky"), one=("alpha", "spike.slope")),
    "rests at a number": Case(example("QuadraticIF"), ("rest",), ("critical",), dtype="float32"),
    "a slope of each": Case(example("Adaptive"), ("spike.slope",), ("jump",), ("excess",), dtype="float32"),
}
LEAKY, FED = CASES["numbers of each"], CASES["all to all"]


@pytest.fixture(autouse=True)
def double() -> Any:
    """Arrays of double precision are allowed, and what is of single precision stays so."""
    with jax.enable_x64(True):
        yield


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1.0, shape)


def rng(*shape: int, seed: int = 0, dtype: Any = "float64") -> Any:
    return jnp.asarray(normal(*shape, seed=seed), dtype)


def arrays(case: Case, shape: tuple[int, ...], *, state: bool = False) -> dict[str, Any]:
    """The arrays of a layer by name; recurrent weights are dyadic, so that their sums are exact in any order."""
    neuron, features, dtype = case.neuron, shape[-1], case.dtype
    inputs = [jnp.asarray(x, dtype) for x in driving(neuron, *shape)]
    given: dict[str, Any] = {"currents": tuple(inputs) if len(inputs) > 1 else inputs[0], "values": {}}
    for name in case.each:
        of = np.linspace(1.5, 3.0, features) if name.startswith("spike.") else spread(neuron, name, features)
        given["values"][name] = jnp.asarray(of, dtype)
    for name in case.one:
        given["values"][name] = jnp.asarray(2.5 if name.startswith("spike.") else getattr(neuron, name), dtype)
    if case.connection:
        square = (features, features) if case.connection == "all-to-all" else (features,)
        given["weights"] = jnp.asarray(np.round(normal(*square, seed=1) * 4) / 16, dtype)
    if state:
        count = len(neuron.states) + bool(case.connection)
        parts = [rng(*shape[1:], seed=2 + k, dtype=dtype) for k in range(count)]
        if case.connection:
            parts[-1] = jnp.asarray(np.asarray(parts[-1]) > 0, dtype)
        given["state"] = tuple(parts) if count > 1 else parts[0]
    return given


def layer(case: Case, given: dict[str, Any], backend: str) -> Any:
    return sj.run(case.neuron, **given, record=case.record, backend=backend)


def random_function(case: Case, backend: str, used: Callable[[list[Any]], list[Any]] = lambda out: out) -> Callable[[Any], Any]:
    """A random function of what a layer returns, which is returned as well; its factors are the same in every dtype."""

    def loss(given: Any) -> Any:
        out = layer(case, given, backend)
        parts = used(jax.tree.leaves(out))
        factors = (np.round(16 * normal(*x.shape, seed=4 + k)) / 16 for k, x in enumerate(parts))
        return sum(jnp.vdot(x, jnp.asarray(factor, x.dtype)) for x, factor in zip(parts, factors, strict=True)), out

    return loss


def derived(case: Case, given: Any, backend: str, *, run: Callable[..., Any] = once) -> Any:
    """What a layer returns, and the gradients of a random function of it."""
    (_, out), gradients = run(jax.value_and_grad(random_function(case, backend), has_aux=True), given)
    return out, gradients


def as_users_do(f: Callable[..., Any], given: Any) -> Any:
    """Compiled with all that XLA does to make it fast."""
    return jax.jit(f)(given)


def eagerly(f: Callable[..., Any], given: Any) -> Any:
    return f(given)


def largest(x: Any) -> float:
    return float(np.abs(np.asarray(x, float)).max(initial=0))


def same(ours: Any, theirs: Any) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def close(ours: Any, theirs: Any, factor: float = 100, what: str = "") -> None:
    """Equal up to rounding, relative to the largest entry."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        atol = factor * float(jnp.finfo(a.dtype).eps) * max(1.0, largest(b))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=what)


@pytest.mark.parametrize(("jit", "state", "shape"), [(False, False, (7, 2, 5)), (True, True, (6, 13))])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_scan(name, jit, state, shape):
    """What it returns, and the gradients by all that it is given; also of a scan that XLA has made as fast as it can."""
    case = CASES[name]
    given = arrays(case, shape, state=state)
    theirs, expected = derived(case, given, "reference", run=as_users_do if jit else once)
    ours, gradients = derived(case, given, "numba", run=as_users_do if jit else eagerly)
    same(layer(case, given, "numba"), theirs)
    same(ours, theirs)
    close(gradients, expected)
    assert all(largest(g) > 0 for g in jax.tree.leaves(expected["currents"]))
    assert name == "no spikes" or 0 < np.mean(ours[0]) < 1


@pytest.mark.parametrize(
    "shape", [(3, 1, 1), (1, 2, 3), (2, 3, 2, 2), (70, 1, 2311), (40, 40, 100), (0, 2, 3), (4, 0, 3), (4, 2, 0)], ids=str
)
@pytest.mark.parametrize("name", ["numbers of each", "all to all", "no spikes"])
def test_sizes(name, shape):
    """One of everything, images, more than a block, more than one thread; and nothing."""
    case = CASES[name]
    if case is FED and shape[-1] == 2311:
        shape = (70, 9, 257)
    given = arrays(case, shape)
    theirs, expected = derived(case, given, "reference")
    ours, gradients = derived(case, given, "numba")
    same(ours, theirs)
    if math.prod(shape):
        close(gradients, expected, 1000)  # sums of many terms
    else:
        same(gradients, expected)


OUTPUTS = {"all to all": 5, "two inputs": 3, "numbers of each": 3}


@functools.cache
def gradients_by_output(name: str, backend: str) -> list[Any]:
    """Those of a random function of each output alone."""
    case, count = CASES[name], OUTPUTS[name]
    given = arrays(case, (7, 2, 5), state=True)
    assert len(jax.tree.leaves(jax.eval_shape(lambda given: layer(case, given, backend), given))) == count
    alone = [random_function(case, backend, lambda out, k=k: out[k : k + 1]) for k in range(count)]
    return once(lambda given: [jax.grad(loss, has_aux=True)(given)[0] for loss in alone], given)


@pytest.mark.parametrize(("name", "k"), [(name, k) for name, count in OUTPUTS.items() for k in range(count)])
def test_one_output_is_used(name, k):
    """The others send nothing."""
    close(*(gradients_by_output(name, backend)[k] for backend in ("numba", "reference")))


@pytest.mark.parametrize("k", range(3))
def test_one_output_of_what_has_no_spikes_is_used(k):
    """Its backward pass reads no input, and then perhaps nothing with a row for each step."""
    case = CASES["no spikes"]
    given = arrays(case, (7, 2, 5))

    def gradient(x: Any, backend: str) -> Any:
        loss = random_function(case, backend, used=lambda out: out[k : k + 1])
        return jax.grad(lambda x: loss({**given, "currents": x})[0])(x)

    close(*once(lambda x: [gradient(x, backend) for backend in ("numba", "reference")], given["currents"]))


@pytest.mark.parametrize(
    ("name", "wanted"), [("numbers of each", "currents"), ("numbers of each", "values"), ("all to all", "weights"), ("all to all", "state")]
)
def test_one_input_is_differentiated(name, wanted):
    case = CASES[name]
    given = arrays(case, (7, 2, 5), state=True)

    def gradient(part: Any, backend: str) -> Any:
        return jax.grad(lambda part: random_function(case, backend)({**given, wanted: part})[0])(part)

    ours, theirs = once(lambda part: [gradient(part, backend) for backend in ("numba", "reference")], given[wanted])
    close(ours, theirs)
    assert all(largest(g) > 0 for g in jax.tree.leaves(ours))


def test_what_is_not_finite_stays_in_its_sample():
    """NaN and infinities, forward and backward, bit for bit where they meet, and nowhere else."""
    for case in (LEAKY, FED):
        given = arrays(case, (9, 3, 5))
        before, clean = derived(case, given, "numba")
        given["currents"] = given["currents"].at[2, 0, :3].set(jnp.asarray([jnp.nan, jnp.inf, -jnp.inf]))
        (ours, gradients), (theirs, expected) = (derived(case, given, backend) for backend in ("numba", "reference"))
        same(ours, theirs)
        for a, b, c in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), jax.tree.leaves(before), strict=True):
            same(np.asarray(a)[..., 1:, :], np.asarray(c)[..., 1:, :])
            assert a.shape == b.shape
        x, y, z = (np.asarray(g["currents"]) for g in (gradients, expected, clean))
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y))
        np.testing.assert_array_equal(x[:, 1:], z[:, 1:])
        close(np.nan_to_num(x, nan=0), np.nan_to_num(y, nan=0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["numbers that are numbers", "all to all"])
def test_half_types(name, dtype):
    """Spikes in the dtype of the currents, all else in single precision; gradients are those of it, rounded once."""
    case = CASES[name]._replace(each=(), record=("u",), dtype="float32")
    given = arrays(case, (9, 2, 5))
    given["currents"] = given["currents"].astype(dtype)
    (ours, gradients), (theirs, expected) = (derived(case, given, backend) for backend in ("numba", "reference"))
    assert ours[0].dtype == gradients["currents"].dtype == dtype
    assert {x.dtype for x in jax.tree.leaves(ours[1:])} == {jnp.dtype("float32")}
    same(ours, theirs)
    wide, eps = {**given, "currents": given["currents"].astype("float32")}, float(jnp.finfo(dtype).eps)
    same(gradients["currents"], derived(case, wide, "numba")[1]["currents"].astype(dtype))
    x, y = (np.asarray(g["currents"], "float32") for g in (gradients, expected))
    np.testing.assert_allclose(x, y, rtol=2 * eps, atol=1e-6)


@pytest.mark.parametrize("enabled", [False, True])
def test_precision_is_that_of_the_currents(enabled):
    """Also where double precision is allowed, whatever numbers are given."""
    with jax.enable_x64(enabled):
        case = LEAKY._replace(each=(), dtype="float32")
        given = arrays(case, (7, 2, 5), state=True)
        given["values"] = {"beta": np.float64(0.7), "threshold": 1}
        ours, theirs = (layer(case, given, backend) for backend in ("numba", "reference"))
        same(ours, theirs)
        assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype("float32")}


def test_formulas_of_ones_own():
    """From functions, which no pickle could carry; and the slope of one is not that of another."""
    gradients = []
    for slope in (1.0, 3.0):
        case = LEAKY._replace(neuron=example("Leaky", spike=from_formula(lambda x, slope: 1 / (1 + abs(slope * x)) ** 3, slope=slope)))
        given = arrays(case, (5, 2, 3))
        gradients.append(derived(case, given, "numba")[1])
        close(gradients[-1], derived(case, given, "reference")[1])
    assert not np.allclose(*(g["currents"] for g in gradients))


def test_other_numbers_compile_no_kernel():
    case = Case(example("Leaky"))
    derived(case, arrays(case, (5, 2, 3)), "numba")
    before = compiled.cache_info().misses
    for k in range(5):
        other = case._replace(neuron=example("Leaky", spike=ATan(1.0 + k)).bind({"threshold": 1.0 + k / 8}))
        given = arrays(other, (5 + k, 2, 3), state=k % 2 == 0)
        close(derived(other, given, "numba")[1], derived(other, given, "reference")[1])
    assert compiled.cache_info().misses == before


# Transforms.


@pytest.mark.parametrize("case", [LEAKY, FED], ids=["numbers of each", "all to all"])
def test_transforms(case):
    given = arrays(case, (7, 2, 5), state=True)

    def total(given: Any, backend: str = "numba") -> Any:
        return (layer(case, given, backend)[0] * jnp.arange(1.0, 6.0)).sum()

    def perhaps(given: Any) -> Any:
        return jax.lax.cond(given["currents"][0, 0, 0] < 9, total, lambda given: 0.0, given)

    def scanned(given: Any) -> Any:
        """A layer inside of a scan that passes its state on."""
        rest = {name: x for name, x in given.items() if name not in ("currents", "state")}

        def step(state: Any, part: Any) -> Any:
            out, after, _ = layer(case, {"currents": part, "state": state, **rest}, "numba")
            return tuple(after) if isinstance(state, tuple) else after, out

        return (jax.lax.scan(step, given["state"], given["currents"].reshape(7, 1, 2, 5))[1] * jnp.arange(1.0, 6.0)).sum()

    ways = {
        "checkpoint": jax.grad(jax.checkpoint(total)),
        "jit": lambda given: jax.jit(jax.value_and_grad(total))(given)[1],
        "vjp": lambda given: jax.vjp(total, given)[1](jnp.ones(()))[0],
        "cond": jax.grad(perhaps),
        "scan": jax.grad(scanned),
    }
    expected = once(jax.grad(functools.partial(total, backend="reference")), given)
    found = once(lambda given: {way: run(given) for way, run in ways.items()}, given)
    for way in ways:
        close(found[way], expected, what=way)
    assert all(largest(x) > 0 for name, part in expected.items() if name != "state" for x in jax.tree.leaves(part))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("numbers of each", ("currents",)),
        ("numbers of each", ("values",)),
        ("all to all", ("currents", "values", "state")),
        ("all to all", ("currents", "weights")),
        ("two inputs", ("currents", "values")),
    ],
)
def test_vmap(name, names):
    """Over any of the inputs, at any axis, of the layer and of its gradient by all inputs; and twice."""
    case = CASES[name]
    given = arrays(case, (7, 2, 5), state=True)
    axes = {key: jax.tree.map(lambda _, key=key: 3 if key == "currents" else 0, x) if key in names else None for key, x in given.items()}
    many = {
        key: jax.tree.map(lambda x, axis: np.stack([x, x * 0.9, x * 0.8], axis), x, axes[key]) if key in names else x
        for key, x in given.items()
    }
    twice = jax.tree.map(lambda x: np.stack([x, x])[None], given["currents"])
    rest = {key: x for key, x in given.items() if key != "currents"}

    def both(many: Any, backend: str) -> Any:
        gradient = jax.grad(lambda g: random_function(case, backend)(g)[0])
        return jax.vmap(lambda g: layer(case, g, backend), (axes,))(many), jax.vmap(gradient, (axes,))(many)

    def nested(twice: Any) -> Any:
        return jax.vmap(jax.vmap(lambda x: layer(case, {"currents": x, **rest}, "numba")[0]))(twice)

    ours, ours_twice = once(lambda many, twice: (both(many, "numba"), nested(twice)), many, twice)
    theirs, alone = once(lambda many, given: (both(many, "reference"), layer(case, given, "reference")[0]), many, given)
    same(ours[0], theirs[0])
    close(ours[1], theirs[1])
    same(ours_twice[0, 1], alone)


def test_vmap_without_jit():
    given = arrays(LEAKY, (7, 2, 5))

    def gradients(x: Any, backend: str) -> Any:
        return derived(LEAKY, {**given, "currents": x}, backend, run=eagerly)[1]

    ours, theirs = (jax.vmap(functools.partial(gradients, backend=backend), 1) for backend in ("numba", "reference"))
    close(ours(given["currents"]), once(theirs, given["currents"]))


@pytest.mark.parametrize("case", [LEAKY, FED], ids=["numbers of each", "all to all"])
def test_forward_mode_and_second_derivatives(case):
    """`auto` leaves them to the scan, around a layer that runs in the kernels; `numba` says what to do."""
    given = arrays(case, (3, 1, 2), state=True)
    auto, reference, strict = (lambda g, b=b: random_function(case, b)(g)[0] for b in ("auto", "reference", "numba"))

    def forward(f: Any, g: Any) -> Any:
        return jax.jvp(f, (g,), (g,))

    def twice(f: Any, g: Any) -> Any:
        return jax.grad(lambda g: sum((x**2).sum() for x in jax.tree.leaves(jax.grad(f)(g))))(g)

    def along(f: Any, g: Any) -> Any:  # the other order of modes
        return jax.jvp(jax.grad(f), (g,), (g,))[1]

    derivatives = forward, twice, along
    ours, theirs = (once(lambda g, f=f: [derivative(f, g) for derivative in derivatives], given) for f in (auto, reference))
    for derivative, found, expected in zip(derivatives, ours, theirs, strict=True):
        close(found, expected, 100 if derivative is forward else 1000, what=derivative.__name__)
    for derivative in derivatives:
        with pytest.raises(NotImplementedError, match=r"forward mode or a second derivative: use backend='auto' or 'reference'"):
            once(functools.partial(derivative, strict), given)


def test_donated_arguments():
    """Their memory may become that of results; what is read is what was there before."""
    given = arrays(LEAKY, (9, 3, 5), state=True)
    wanted, expected = derived(LEAKY, given, "numba")
    function = jax.value_and_grad(random_function(LEAKY, "numba"), has_aux=True)
    (_, out), gradients = jax.jit(function, donate_argnums=0)(jax.tree.map(jnp.copy, given))
    same((out, gradients), (wanted, expected))


def test_what_is_saved_for_the_backward_pass():
    """The inputs; with all-to-all connections the spikes and one value a neuron and step besides."""
    for case, most in ((LEAKY, 1), (FED, 3)):
        given = arrays(case, (50, 4, 8))
        _, transpose = jax.vjp(lambda x, case=case, given=given: layer(case, {**given, "currents": x}, "numba")[0], given["currents"])
        saved = sum(leaf.size for leaf in jax.tree.leaves(transpose) if hasattr(leaf, "size"))
        assert saved <= most * 50 * 4 * 8 + 8 * 8 + 4 * 4 * 8


# What XLA calls.


@pytest.mark.parametrize("case", [LEAKY, FED], ids=["numbers of each", "all to all"])
def test_other_platforms_never_meet_the_kernels(case):
    """A program traced here and lowered for a GPU, of which there is none here, takes the scan."""
    given = arrays(case, (4, 2, 3))
    traced = jax.jit(jax.grad(lambda g: random_function(case, "auto")(g)[0])).trace(given)
    lowered = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda")}
    assert "spikegrad_generated_handler" in lowered["cpu"]
    assert "@spikegrad_generated" not in lowered["cuda"]
    assert "while" in lowered["cuda"]
    with pytest.raises(NotImplementedError, match="another platform"):
        jax.jit(lambda g: layer(case, g, "numba")).trace(given).lower(lowering_platforms=("cuda",))


def test_refusals(monkeypatch):
    x = rng(4, 2, 3, dtype="float32")
    for options, reason in (
        ({"inhibition": True}, "inhibition"),
        ({"quantize": jnp.round}, "quantised"),
        ({"spike": NoisyThreshold()}, "draws noise"),
    ):
        with pytest.raises(ValueError, match=f"backend='numba' cannot run this layer: .*{reason}.*'reference'"):
            sj.leaky(x, 0.9, backend="numba", **options)
        same(*(sj.leaky(x, 0.9, backend=backend, **options) for backend in ("auto", "reference")))
    with pytest.raises(ValueError, match="'auto', 'numba', 'triton', 'reference', got 'numbe'"):
        sj.leaky_integrator(x, 0.9, backend="numbe")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="JAX runs on gpu"):
        sj.leaky(x, 0.9, backend="numba")
    assert "scan" in str(jax.make_jaxpr(lambda x: sj.leaky(x, 0.9))(x))


def test_a_call_with_other_buffers_or_of_an_unknown_kernel_is_refused():
    """A program from another version of spikegrad would read memory that is not there."""
    x = rng(4, 2, 3, dtype="float32")
    text = jax.jit(lambda x: sj.leaky(x, 0.9, backend="numba")[0]).lower(x).as_text()
    (name,), (kernel,) = (set(re.findall(each, text)) for each in (r"@(spikegrad_generated_\w+)", r"kernel = dense<(\d+)>"))
    call, known = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(x.shape, x.dtype)), np.array([int(kernel)])
    other, unknown = "other buffers than its kernel takes; trace the program again", "traced in another process, which knows its kernels"
    cases: list[tuple[str, dict[str, Any]]] = [(other, {"kernel": known}), (unknown, {"kernel": known + 1}), (unknown, {})]
    cases += [(unknown, each) for each in ({"kernel": known[0]}, {"kernel": known[:0]}, {"kernel": known, "more": 1})]
    for reason, attributes in cases:
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=reason):
            jax.block_until_ready(call(x, **attributes))
    assert sj.leaky(x, 0.9, backend="numba")[0].shape == x.shape  # and the next call works


def test_calls_from_several_threads():
    given = arrays(LEAKY, (50, 8, 128))
    gradient = jax.jit(jax.grad(lambda g: random_function(LEAKY, "numba")(g)[0]))
    expected = gradient(given)

    def work(_: int) -> Any:
        with jax.enable_x64(True):  # it is a thread's own
            return jax.block_until_ready(gradient(given))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(40)):
            same(found, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no usleep")
def test_kernels_run_without_python():
    """They are done while this thread keeps the interpreter's lock, in a function that does not give it away."""
    given = {**arrays(LEAKY, (100, 16, 300)), "mixing": rng(1500, 1500)}

    def first_a_product(given: Any) -> Any:  # so that the call returns before the layer runs
        mixing = given["mixing"] @ given["mixing"] @ given["mixing"]
        rest = {name: x for name, x in given.items() if name != "mixing"}
        return layer(LEAKY, {**rest, "currents": rest["currents"] + 0 * mixing[0, 0]}, "numba")[0]

    run = jax.jit(first_a_product)
    expected = jax.block_until_ready(run(given))
    found = run(given)
    waited = not found.is_ready()
    ctypes.PyDLL(None).usleep(2_000_000)
    assert found.is_ready()
    assert waited, "the call was not asynchronous, so this has shown nothing"
    same(found, expected)
