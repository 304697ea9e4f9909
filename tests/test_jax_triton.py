"""Triton's kernels in JAX: what XLA calls launches them, here in Triton's interpreter, against the scan."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("numba")
pytest.importorskip("triton")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from jax.sharding import Mesh, PartitionSpec  # noqa: E402
from tests.conftest import driving, example, once, spread  # noqa: E402

from spikegrad import ATan, NoisyThreshold  # noqa: E402
from spikegrad import jax as sj  # noqa: E402
from spikegrad.kernels import launcher  # noqa: E402
from spikegrad.kernels.gpu import driver  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles here, and does not interpret")

SHAPE = (19, 2, 67)
"""Three rounds of 8 steps, three programs of 64 columns, and no multiple of anything."""


def arrays(name: str, shape: tuple[int, ...] = SHAPE, *, dtype: str = "float32", learned: bool = True) -> dict[str, Any]:
    """What a layer is given: currents, every second number different for each neuron, another of one number, a slope, states."""
    neuron = example(name)
    inputs = tuple(jnp.asarray(x, dtype) for x in driving(neuron, *shape))
    given: dict[str, Any] = {"currents": inputs if len(inputs) > 1 else inputs[0]}
    real = jnp.float32
    if learned:
        numbers = [n for n in neuron.numbers if n != "detune"]
        values: dict[str, Any] = {n: jnp.asarray(spread(neuron, n, shape[-1]), real) for n in numbers[::2]}
        values |= {n: jnp.asarray(getattr(neuron, n), real) for n in numbers[1::2]}
        given["values"] = values | ({"spike.slope": jnp.asarray(2.5, real)} if "excess" in neuron.record.recorded else {})
    random = np.random.default_rng(1)
    parts = tuple(jnp.asarray(random.uniform(0, 0.5, shape[1:]), real) for _ in neuron.states)
    return given | {"state": parts if len(parts) > 1 else parts[0]}


def derived(name: str, given: Any, backend: str, record: tuple[str, ...] = ()) -> Any:
    """What a layer returns, and the gradients of a weighted sum of it by all that it is given."""

    def loss(given: Any) -> Any:
        out = sj.run(example(name), **given, record=record, backend=backend)
        parts = jax.tree.leaves(out)
        return sum(jnp.vdot(x, jnp.cos(jnp.arange(x.size) + k).reshape(x.shape).astype(x.dtype)) for k, x in enumerate(parts)), out

    (_, out), grads = once(jax.value_and_grad(loss, has_aux=True), given)
    return out, grads


def require_equal(ours: Any, theirs: Any, *, spiking: bool = True, eps: float = 1e-5) -> None:
    (out, grads), (wanted, slopes) = ours, theirs
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(slopes), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        largest = np.abs(np.asarray(b, float)).max()
        assert largest > 0
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=0, atol=eps * max(1.0, largest))
    first = np.asarray(jax.tree.leaves(wanted)[0])
    assert not spiking or 0.05 < (first != 0).mean() < 0.95


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["Leaky", "GatedLeaky", *(pytest.param(n, marks=SLOW) for n in ("GatedLeaky", "Adaptive", "QuadraticIF", "LeakyIntegrator"))]
)
def test_equals_the_scan(name):
    """Spikes, states and potentials bit for bit; gradients of all that it is given to rounding."""
    given = arrays(name)
    record = tuple(n for n in ("u",) if n in example(name).record.recorded)
    results = [derived(name, given, backend, record) for backend in ("triton", "reference")]
    require_equal(*results, spiking=name != "LeakyIntegrator", eps=1e-4)


@pytest.mark.parametrize("steps", [3, *(pytest.param(n, marks=SLOW) for n in (1, 2, 8, 9, 16, 33))])
def test_any_number_of_steps(steps):
    """Neither one that a round divides, nor more than a round, is needed; where one is enough nothing is computed twice."""
    given = arrays("Synaptic", (steps, 1, 80))  # 80: memory is aligned, as the compiler is told
    launches = count_launches(lambda: derived("Synaptic", given, "triton"))
    assert launches == (2 if steps <= 8 else 3)
    require_equal(*(derived("Synaptic", given, backend) for backend in ("triton", "reference")), spiking=False)


def count_launches(call: Any) -> int:
    counted, interpreter = list[int](), driver.interpreter()
    of = interpreter.memory[launcher.LAUNCH]
    real = driver.SIGNATURES[launcher.LAUNCH](of)
    watching = driver.SIGNATURES[launcher.LAUNCH](lambda *given: counted.append(1) or real(*given))
    interpreter.memory[launcher.LAUNCH] = ctypes.cast(watching, ctypes.c_void_p).value or 0
    try:
        jax.block_until_ready(call())
    finally:
        interpreter.memory[launcher.LAUNCH] = of
    return len(counted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types(dtype):
    """Exact to a unit in the last place, which the interpreter cuts off instead of rounding."""
    given = arrays("Leaky", (17, 2, 9), dtype=dtype, learned=False)  # several rounds: a kernel that reads either type and writes neither
    require_equal(*(derived("Leaky", given, b) for b in ("triton", "reference")), eps=4 * float(jnp.finfo(dtype).eps))


@SLOW
def test_double_precision():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(0.4, 1.0, (5, 9)))
        found = [jax.value_and_grad(lambda x, b=b: (sj.leaky(x, 0.8, backend=b)[0] * x).sum())(x) for b in ("triton", "reference")]
        assert float(jnp.abs(found[1][1]).max()) > 0
    assert found[0][1].dtype == "float64"
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=1e-12)


def test_nothing():
    for shape in ((0, 2, 3), (4, 0, 3)):
        value, grad = jax.value_and_grad(lambda x: sj.leaky(x, 0.8, backend="triton")[0].sum())(jnp.ones(shape))
        assert (float(value), grad.shape) == (0.0, shape)


def test_transforms():
    """`vmap` over samples and over numbers, `checkpoint`, inside a scan, and `shard_map`, which checks over what values vary."""
    x = arrays("Leaky", (5, 3, 7), learned=False)["currents"]
    betas = jnp.linspace(0.5, 0.9, 3)

    def grad(backend: str) -> Any:
        def loss(x: Any, beta: Any) -> Any:
            spikes, v = sj.leaky(x, beta, backend=backend)
            return (spikes * jnp.cos(jnp.arange(x.size)).reshape(x.shape)).sum() + (v**2).sum()

        return jax.grad(loss, (0, 1))

    def several(backend: str) -> Any:
        one = grad(backend)
        mesh = Mesh(np.array(jax.devices()[:1]), ("d",))
        rows, alone = PartitionSpec(None, "d"), PartitionSpec()
        shared = jax.shard_map(one, mesh=mesh, in_specs=(rows, alone), out_specs=(rows, alone))
        return (
            jax.vmap(one, (1, 0))(x, betas),
            jax.vmap(one, (None, 0))(x[:, 0], betas),
            jax.grad(jax.checkpoint(lambda x: sj.leaky(x, 0.8, backend=backend)[0].sum()))(x),
            jax.lax.scan(lambda v, part: sj.leaky(part, 0.8, state=v, backend=backend)[::-1], jnp.zeros((3, 7)), jnp.stack([x, x])),
            shared(x, betas[0]),
        )

    results = (jax.tree.leaves(once(lambda b=backend: several(b))) for backend in ("triton", "reference"))
    for ours, theirs in zip(*results, strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_cannot_run_is_refused_in_words(monkeypatch):
    x, weights = arrays("Leaky", (5, 3, 7), learned=False)["currents"], jnp.eye(7)
    for call, words in (
        (lambda: sj.recurrent_leaky(x, weights, 0.8, backend="triton"), "its neurons are connected all to all"),
        (lambda: sj.leaky(x, 0.8, spike=NoisyThreshold(), backend="triton"), "NoisyThreshold draws noise"),
        (lambda: sj.leaky(x, 0.8, inhibition=True, backend="triton"), "it has inhibition"),
    ):
        with pytest.raises(ValueError, match=f"backend='triton' cannot run this layer: {words}; use backend='auto'"):
            call()
    once = jax.grad(lambda x: sj.leaky(x, 0.8, backend="triton")[0].sum())
    for derivative in (
        lambda: jax.jvp(lambda x: sj.leaky(x, 0.8, backend="triton")[0], (x,), (x,)),
        lambda: jax.grad(lambda x: once(x).sum())(x),
    ):
        with pytest.raises(NotImplementedError, match="GPUs of NVIDIA; this is forward mode or a second derivative: use backend='auto'"):
            derivative()
    steps = jax.export.symbolic_shape("t, 7")
    with pytest.raises(NotImplementedError, match="must know the sizes of an exported program"):
        jax.export.export(jax.jit(lambda x: sj.leaky(x, 0.8, backend="triton")[0]))(jax.ShapeDtypeStruct(steps, "float32"))
    traced = jax.jit(lambda x: sj.leaky(x, 0.8, backend="triton")[0]).trace(x)
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(NotImplementedError, match="this program is for another platform"):
        traced.lower()
    with pytest.raises(ValueError, match="JAX runs on cpu; Triton's kernels run on GPUs, and on the CPU with TRITON_INTERPRET=1"):
        sj.leaky(x, 0.8, backend="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="JAX runs on gpu, and TRITON_INTERPRET=1 is set"):
        sj.leaky(x, 0.8, backend="triton")
    monkeypatch.setattr(sj, "_INSTALLED", {"numba": True, "triton": False})
    with pytest.raises(ValueError, match="Triton is not installed"):
        sj.leaky(x, 0.8, backend="triton")


def test_auto_on_a_gpu(monkeypatch):
    """The kernels, where they can be launched; else, and in a program that is exported or second derivatives, the scan."""
    from spikegrad.kernels.gpu import arrays as on_card
    from spikegrad.kernels.gpu import compiler

    x = jnp.ones((5, 3, 7))

    def layer() -> Any:
        jax.clear_caches()
        return jax.jit(jax.grad(lambda x: sj.leaky(x, 0.8)[0].sum()))

    def lowered() -> str:
        return layer().trace(x).lower(lowering_platforms=("cuda",)).as_text()

    monkeypatch.delenv("TRITON_INTERPRET")
    assert "while" in lowered()  # there is no card here
    monkeypatch.setattr(driver, "cuda", lambda: driver.Driver({}, "CUDA"))
    monkeypatch.setattr(on_card, "_ready", lambda variant, *_: on_card._Ready(1, tuple(a.label for a in compiler.kernel(variant)[1]), 0))
    text = lowered()
    assert "while" not in text
    assert text.count("stablehlo.custom_call @spikegrad") == 1
    exported = jax.export.export(layer(), platforms=("cuda",))(x).mlir_module()
    assert "while" in exported
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sj._obstacle("auto", "none", ATan(), False, None) is None
    assert sj._obstacle("auto", "all-to-all", ATan(), False, None) == "its neurons are connected all to all"
    monkeypatch.setattr(sj, "_INSTALLED", {"numba": True, "triton": False})
    assert "Triton is not installed" in str(sj._obstacle("auto", "none", ATan(), False, None))
