"""The fused kernels in JAX against the scan: spikes, potentials and states bit for bit, gradients to rounding."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("numba")

from spikegrad import ATan, Gaussian, NoisyThreshold, Triangle, from_formula
from spikegrad import jax as sj
from spikegrad.kernels import ffi, primitive

KINDS = ("leaky", "synaptic", "recurrent_leaky", "recurrent_synaptic")
CHOICES: dict[str, tuple[Any, ...]] = {
    "kind": KINDS,
    "reset": ("subtract", "zero", "none"),
    "reset_delay": (False, True),
    "detach_reset": (False, True),
    "spike_at_threshold": (True, False),
    "state": (False, True),
    "record": (False, True),
    "jit": (False, True),
    "per_neuron": (False, True),
    "spike": (ATan(), Gaussian(), Triangle()),
    "size": ((7, 2, 5), (1, 3, 4), (11, 3, 1), (6, 13)),
    "dtype": ("float32", "float32", "float64"),
}


def pairwise(choices: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Cases in which every two values of different options meet; each case takes the candidate that meets the most new pairs."""
    random = np.random.default_rng(0)
    places = {name: range(len(values)) for name, values in choices.items()}
    missing = {frozenset({(a, i), (b, j)}) for a, b in itertools.combinations(choices, 2) for i in places[a] for j in places[b]}
    cases: list[dict[str, Any]] = []
    while missing:
        (first, second), candidates = next(iter(sorted(map(sorted, missing)))), []
        for _ in range(50):
            case = {name: int(random.integers(len(values))) for name, values in choices.items()} | dict([first, second])
            candidates.append((len(missing & {frozenset(pair) for pair in itertools.combinations(case.items(), 2)}), len(candidates), case))
        case = max(candidates)[2]
        missing -= {frozenset(pair) for pair in itertools.combinations(case.items(), 2)}
        cases.append({name: choices[name][i] for name, i in case.items()})
    return cases


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's memory holds NaN where a kernel has not written."""
    monkeypatch.setattr(ffi, "_prefer_huge_pages", lambda array: array.fill(np.nan))


def rng(*shape: int, seed: int = 0, dtype: Any = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0.3, 1.0, shape), dtype)


def inputs(kind: str, shape: tuple[int, ...], dtype: str, state: bool, per_neuron: bool) -> dict[str, Any]:
    """Arrays of a layer by name; recurrent weights are dyadic, so that their sums are exact in any order."""
    features = shape[-1]
    given: dict[str, Any] = {"currents": rng(*shape, dtype=dtype).at[:1, ..., :1].set(1.0)}  # exactly at the threshold, from rest
    if "recurrent" in kind:
        square = (features, features) if len(shape) == 3 else (features,)
        given["weights"] = jnp.round(rng(*square, seed=1, dtype=dtype) * 4) / 16
    for name, low, high in (("alpha", 0.5, 0.8), ("beta", 0.7, 0.95), ("threshold", 1.0, 1.2)):
        if name != "alpha" or "synaptic" in kind:
            given[name] = jnp.linspace(low, high, features, dtype=dtype) if per_neuron else jnp.asarray(low, dtype)
    if state:
        parts = [rng(*shape[1:], seed=2, dtype=dtype) for _ in range(2 if "synaptic" in kind else 1)]
        if "recurrent" in kind:
            parts.append((rng(*shape[1:], seed=3, dtype=dtype) > 0).astype(dtype))
        given["state"] = tuple(parts) if len(parts) > 1 else parts[0]
    return given


def layer(kind: str, given: dict[str, Any], backend: str, **options: Any) -> tuple[Any, ...]:
    return getattr(sj, kind)(**given, backend=backend, **options)


def close(ours: Any, theirs: Any, factor: float = 100) -> None:
    """Equal up to rounding, relative to the largest entry."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=factor * float(jnp.finfo(a.dtype).eps) * max(1.0, float(jnp.abs(b).max(initial=0))))


def same(ours: Any, theirs: Any) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", pairwise(CHOICES), ids=lambda case: "-".join(str(value) for value in case.values()).replace(" ", ""))
def test_equals_reference(case: dict[str, Any]) -> None:
    options = dict(case)
    kind, jit, size, dtype = (options.pop(name) for name in ("kind", "jit", "size", "dtype"))
    with jax.enable_x64(dtype == "float64"):
        given = inputs(kind, size, dtype, options.pop("state"), options.pop("per_neuron"))

        def run(given: dict[str, Any], backend: str) -> Any:
            return layer(kind, given, backend, **options)

        ours = (jax.jit(run, static_argnums=1) if jit else run)(given, "numba")
        toward = jax.tree.map(lambda x: rng(*x.shape, seed=4, dtype=x.dtype), ours)

        def loss(given: dict[str, Any], backend: str) -> Any:
            out = run(given, backend)
            return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(toward), strict=True)), out

        derived = jax.value_and_grad(loss, has_aux=True)
        (_, theirs), expected = jax.jit(derived, static_argnums=1)(given, "reference")
        (_, again), gradient = (jax.jit(derived, static_argnums=1) if jit else derived)(given, "numba")
        same(ours, theirs)
        same(again, theirs)
        close(gradient, expected)


@pytest.mark.parametrize("state", [False, True])
def test_integrator(state: bool) -> None:
    given = {"currents": rng(9, 2, 5), "beta": jnp.linspace(0.5, 0.9, 5)} | ({"state": rng(2, 5, seed=1)} if state else {})

    def run(given: dict[str, Any], backend: str) -> Any:
        return sj.leaky_integrator(**given, backend=backend)

    def loss(given: dict[str, Any], backend: str) -> Any:
        potentials, last = run(given, backend)
        return (potentials**2).sum() + (last * rng(2, 5, seed=2)).sum()

    same(run(given, "numba"), run(given, "reference"))
    close(jax.grad(loss)(given, "numba"), jax.grad(loss)(given, "reference"))
    one = jax.grad(lambda x, backend: loss({**given, "currents": x}, backend))  # beta is not learned
    close(one(given["currents"], "numba"), one(given["currents"], "reference"))


def test_own_formula() -> None:
    """A formula from lambdas, which no pickle could carry; and its slope is not that of another."""
    for slope in (1.0, 3.0):
        spike = from_formula(lambda x, slope: 1 / (1 + abs(slope * x)) ** 3, slope=slope)
        gradients = [
            jax.grad(lambda x, b=b, s=spike: sj.leaky(x, 0.9, 1.0, s, backend=b)[0].sum())(rng(5, 2, 3)) for b in ("numba", "reference")
        ]
        close(*gradients)


@pytest.mark.parametrize("kind", ["leaky", "recurrent_synaptic", "leaky_integrator"])
@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (4, 2, 0)])
def test_empty(kind: str, shape: tuple[int, ...]) -> None:
    given = inputs("leaky" if kind == "leaky_integrator" else kind, shape, "float32", False, False) if shape[0] else {}
    given["currents"] = jnp.zeros(shape)
    if kind == "leaky_integrator":
        given = {"currents": given["currents"], "beta": 0.9}
    elif not shape[0]:
        given = inputs(kind, (1, *shape[1:]), "float32", False, False) | given

    def loss(given: dict[str, Any], backend: str) -> Any:
        out = layer(kind, given, backend)
        return sum(leaf.sum() for leaf in jax.tree.leaves(out)), out

    (_, ours), gradient = jax.value_and_grad(loss, has_aux=True)(given, "numba")
    (_, theirs), expected = jax.value_and_grad(loss, has_aux=True)(given, "reference")
    same(ours, theirs)
    same(gradient, expected)


def total(kind: str, backend: str, **fixed: Any) -> Any:
    def loss(given: dict[str, Any]) -> Any:
        return (layer(kind, {**fixed, **given}, backend)[0] * jnp.arange(1.0, 6.0)).sum()

    return loss


@pytest.mark.parametrize("kind", ["leaky", "recurrent_synaptic"])
def test_transforms(kind: str) -> None:
    given = inputs(kind, (7, 2, 5), "float32", True, True)
    expected = jax.grad(total(kind, "reference"))(given)
    ours = total(kind, "numba")
    close(jax.grad(jax.checkpoint(ours))(given), expected)
    close(jax.jit(jax.value_and_grad(ours))(given)[1], expected)

    def scanned(given: dict[str, Any], backend: str) -> Any:
        """A layer inside a scan that passes its state on."""
        rest = {name: x for name, x in given.items() if name not in ("currents", "state")}

        def step(state: Any, part: Any) -> Any:
            out, state = layer(kind, {"currents": part, "state": state, **rest}, backend)
            return state, out

        return (jax.lax.scan(step, given["state"], given["currents"].reshape(7, 1, 2, 5))[1] * jnp.arange(1.0, 6.0)).sum()

    close(jax.grad(scanned)(given, "numba"), expected)
    assert jax.tree.all(jax.tree.map(lambda x: jnp.abs(x).sum() > 0, {k: v for k, v in expected.items() if k != "state"}))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("synaptic", ("currents",)),
        ("leaky", ("beta",)),
        ("recurrent_leaky", ("currents", "beta", "state")),
        ("recurrent_leaky", ("currents", "weights")),
    ],
)
def test_vmap(kind: str, names: tuple[str, ...]) -> None:
    """Over any of the inputs, at any axis, of the layer and of its gradient by all inputs."""
    given = inputs(kind, (7, 2, 5), "float32", True, True)
    places = {"currents": 3} | dict.fromkeys(given.keys() - {"currents"}, 0)
    axes = {name: jax.tree.map(lambda _, name=name: places[name], given[name]) if name in names else None for name in given}
    many = {
        name: jax.tree.map(lambda x, axis: jnp.stack([x, x * 0.9, x * 0.8], axis), given[name], axes[name])
        if name in names
        else given[name]
        for name in given
    }
    for make in (lambda backend: lambda g: layer(kind, g, backend), lambda backend: jax.grad(total(kind, backend))):
        ours, theirs = (jax.vmap(make(backend), (axes,))(many) for backend in ("numba", "reference"))
        close(ours, theirs)


def test_forward_mode_and_second_derivatives() -> None:
    """`auto` leaves them to the scan, around a layer that runs in the kernels; `numba` says what to do."""
    given = inputs("leaky", (4, 2, 5), "float32", True, True)
    auto, reference, strict = (total("leaky", backend) for backend in ("auto", "reference", "numba"))
    close(jax.jvp(auto, (given,), (given,)), jax.jvp(reference, (given,), (given,)))
    twice = [jax.grad(lambda x, f=f: (jax.grad(f)({**given, "currents": x})["currents"] ** 2).sum()) for f in (auto, reference)]
    close(*(f(given["currents"]) for f in twice), factor=1000)
    refusal = r"forward mode or a second derivative: use backend='auto' or 'reference'"
    with pytest.raises(NotImplementedError, match=refusal):
        jax.jvp(strict, (given,), (given,))
    with pytest.raises(NotImplementedError, match=refusal):
        jax.jvp(jax.grad(strict), (given,), (given,))
    with pytest.raises(NotImplementedError, match=refusal):
        jax.grad(lambda g: jax.grad(strict)(g)["currents"].sum())(given)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half(dtype: str) -> None:
    currents = rng(9, 2, 5, dtype=dtype)
    for record in (False, True):
        same(*(sj.leaky(currents, 0.9, record=record, backend=backend) for backend in ("numba", "reference")))
    gradients = [jax.grad(lambda x, b=b: sj.leaky(x, 0.9, backend=b)[0].sum().astype("float32"))(currents) for b in ("numba", "reference")]
    assert gradients[0].dtype == dtype
    np.testing.assert_allclose(*(g.astype("float32") for g in gradients), rtol=2 * float(jnp.finfo(dtype).eps))


def test_nan_stays_in_its_neuron() -> None:
    currents = rng(9, 2, 5).at[3, 0, 1].set(jnp.nan)
    for run in (
        lambda b: sj.leaky(currents, 0.9, record=True, backend=b),
        lambda b: jax.grad(total("leaky", b, beta=0.9))({"currents": currents}),
    ):
        ours, theirs = (jax.tree.leaves(run(backend)) for backend in ("numba", "reference"))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_concurrent_executions() -> None:
    given = inputs("leaky", (50, 8, 128), "float32", False, True)
    gradient = jax.jit(jax.grad(lambda g: layer("leaky", g, "numba")[0].sum()))
    expected = gradient(given)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: jax.block_until_ready(gradient(given)), range(40)):
            same(found, expected)


def test_reported_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel raises on one of XLA's threads arrives at whoever waits for the result; and the next call works."""
    run = jax.jit(lambda x: sj.leaky(x, 0.9, spike=ATan(1.0625), backend="numba")[0])  # a slope of its own, so that it is the newest
    expected = run(rng(4, 2, 3))

    def broken(*_: Any) -> None:
        raise MemoryError("no scratch")

    with monkeypatch.context() as patch:
        patch.setitem(ffi._functions, next(reversed(ffi._functions)), broken)
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="MemoryError: no scratch"):
            jax.block_until_ready(run(rng(4, 2, 3)))
    same(run(rng(4, 2, 3)), expected)
    monkeypatch.setattr(ffi, "_functions", {})
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="trace it again"):
        jax.block_until_ready(run(rng(4, 2, 3)))


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng(4, 2, 3)
    for options, reason in (
        ({"inhibition": True}, "inhibition"),
        ({"quantize": jnp.round}, "quantised"),
        ({"spike_parameters": {"slope": jnp.ones(())}}, "arrays for slope"),
        ({"spike": NoisyThreshold()}, "draws noise"),
    ):
        with pytest.raises(ValueError, match=f"backend='numba' cannot run this layer: .*{reason}.*'reference'"):
            sj.leaky(x, 0.9, backend="numba", **options)
        same(*(sj.leaky(x, 0.9, backend=backend, **options) for backend in ("auto", "reference")))
    with pytest.raises(ValueError, match="'auto', 'numba', 'reference', got 'numbe'"):
        sj.leaky_integrator(x, 0.9, backend="numbe")  # pyright: ignore
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="JAX runs on gpu"):
        sj.leaky(x, 0.9, backend="numba")
    assert "scan" in str(jax.make_jaxpr(lambda x: sj.leaky(x, 0.9))(x))


def test_other_platforms_never_meet_the_kernels() -> None:
    """A program traced here and lowered for a GPU takes the scan."""
    given = {"currents": rng(4, 2, 3)}
    lowered = {
        platform: jax.jit(jax.grad(total("leaky", "auto", beta=0.9)))
        .trace({"currents": rng(4, 2, 5)})
        .lower(lowering_platforms=(platform,))
        .as_text()
        for platform in ("cpu", "cuda")
    }
    assert primitive.ffi.TARGET in lowered["cpu"]
    assert f"@{primitive.ffi.TARGET}(" not in lowered["cuda"]
    with pytest.raises(NotImplementedError, match="another platform"):
        jax.jit(lambda x: sj.leaky(x, 0.9, backend="numba")).trace(given["currents"]).lower(lowering_platforms=("cuda",))


def test_saves_the_currents_only() -> None:
    """What waits for the backward pass is the inputs."""
    _, transpose = jax.vjp(lambda x: sj.leaky(x, 0.9, backend="numba")[0], rng(50, 4, 8))
    saved = sum(leaf.size for leaf in jax.tree.leaves(transpose) if hasattr(leaf, "size"))
    assert saved <= 50 * 4 * 8 + 4 * 4 * 8
