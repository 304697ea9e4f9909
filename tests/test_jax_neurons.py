"""The neurons in JAX: bit for bit those of PyTorch, and under every transform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tests.conftest import once, pairwise

from spikegrad import ATan, FastSigmoid, NoisyThreshold, neurons, nn
from spikegrad import jax as sj

RESETS = ("subtract", "zero", "none")
KINDS = ("leaky", "synaptic", "recurrent_leaky", "recurrent_synaptic")
FUSED = {
    (row["kind"] + row["neuron"], row["reset"], row["delay"])
    for row in pairwise({"neuron": ("leaky", "synaptic"), "kind": ("", "recurrent_"), "reset": RESETS, "delay": (False, True)})
}
"""Layers that are compared with their kernels; the others are compared with the scan."""


OPTIONS = {"threshold": 0.9, "spike": FastSigmoid(3.0), "detach_reset": False}
"""Of all layers here, so that tests share kernels."""


def delayed(kind):
    """Options of a layer of this kind with a delayed reset, one that is compared with its kernels if there is such."""
    reset = next((reset for other, reset, delay in sorted(FUSED) if other == kind and delay), "subtract")
    return {"reset": reset, "reset_delay": True, **OPTIONS}


def drive(seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.0, (30, 3, 6)).astype("float32")


def decays(kind):
    return {"alpha": 0.73, "beta": 0.89} if "synaptic" in kind else {"beta": 0.89}


def both(kind, **options):
    """The same layer twice: a function of JAX arrays, and a torch module."""
    module = {"leaky": nn.Leaky, "synaptic": nn.Synaptic}[kind.removeprefix("recurrent_")]
    arguments = ()
    if "recurrent" in kind:
        weights = np.random.default_rng(1).integers(-4, 5, (6, 6)).astype("float32") / 16  # dyadic: exact in any order of summation
        recurrent = {nn.Leaky: nn.RecurrentLeaky, nn.Synaptic: nn.RecurrentSynaptic}[module]
        module = recurrent(6, **decays(kind), backend="reference", **options)
        module.weight.data = torch.from_numpy(weights)
        arguments = (jnp.asarray(weights),)
    else:
        module = module(**decays(kind), backend="reference", **options)
    return lambda x, **more: getattr(sj, kind)(x, *arguments, **decays(kind), **options, **more), module


@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_torch(kind, reset, delay):
    """Spikes and potentials bit for bit, however well XLA compiles (it likes to contract a product and a sum); gradients to rounding."""
    layer, module = both(kind, reset=reset, reset_delay=delay, **OPTIONS)
    backend = "auto" if (kind, reset, delay) in FUSED else "reference"
    function = functools.partial(layer, record=True, backend=backend)
    x = drive()
    currents = torch.from_numpy(x).requires_grad_()
    spikes, _, potentials = module(currents, record=True)
    weight = np.random.default_rng(2).normal(size=x.shape).astype("float32")

    def loss(x):
        out = function(x)
        return (out[0] * weight).sum(), out

    gradient, compiled = once(jax.grad(loss, has_aux=True), x)
    for out, _, recorded in (function(jnp.asarray(x)), compiled):
        np.testing.assert_array_equal(out, spikes.detach())
        np.testing.assert_array_equal(recorded, potentials.detach())
    (spikes * torch.from_numpy(weight)).sum().backward()
    np.testing.assert_allclose(gradient, currents.grad, rtol=1e-4, atol=1e-4)


def test_integrator_and_streaming():
    x = jnp.asarray(drive())
    potentials, last = sj.leaky_integrator(x, 0.9)
    expected, _ = nn.LeakyIntegrator(0.9)(torch.from_numpy(drive()))
    np.testing.assert_array_equal(potentials, expected)
    np.testing.assert_array_equal(last, potentials[-1])
    for kind in KINDS:
        function, _ = both(kind, **delayed(kind))
        whole, last, _ = function(x, record=True)
        first, state, _ = function(x[:11], record=True)
        second, state, _ = function(x[11:], state=state, record=True)
        np.testing.assert_array_equal(np.concatenate([first, second]), whole)
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(last), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["leaky", "synaptic"])
def test_transforms(kind):
    function, _ = both(kind, **delayed(kind))

    def total(x):
        return (function(x, record=True)[0] * jnp.arange(1.0, 7.0)).sum()

    def everything(x):
        _, tangent = jax.jvp(total, (x,), (jnp.ones_like(x),))
        gradient = jax.grad(total)
        return gradient(x), jax.vmap(gradient, 1, 1)(x), jax.grad(jax.checkpoint(total))(x), jax.jacfwd(total)(x), tangent

    gradient, mapped, again, forward, tangent = once(everything, drive()[:8])
    assert np.abs(gradient).sum() > 0
    np.testing.assert_allclose(mapped, gradient, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(again, gradient, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(forward, gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tangent, np.sum(gradient), rtol=1e-4)


def test_parameters_receive_gradients():
    x = jnp.asarray(drive())

    def loss(p):
        spikes, _ = sj.synaptic(x, p["alpha"], p["beta"], p["theta"], ATan(), spike_parameters={"slope": p["slope"]})
        return (spikes**2).mean()

    gradients = once(jax.grad(loss), {"alpha": 0.7, "beta": jnp.full(6, 0.9), "theta": 1.0, "slope": 2.0})
    assert gradients["beta"].shape == (6,)
    assert all(np.abs(g).sum() > 0 for g in jax.tree.leaves(gradients))
    layer = nn.Synaptic(0.7, 0.9, learn_alpha=True)
    layer(torch.from_numpy(drive()))[0].pow(2).mean().backward()
    inner = 0.7 * 0.3  # d alpha / d logit
    np.testing.assert_allclose(gradients["alpha"] * inner, layer.alpha_logit.grad, rtol=1e-3)


def test_spikes_are_whole_where_a_surrogate_is_learned():
    """XLA computes what is the same twice in two ways, with other roundings."""
    x, numbers = jnp.asarray(drive()), {"spike.slope": jnp.array(2.5), "spike.scale": jnp.linspace(1.5, 3.0, 6)}

    def loss(x, numbers):
        spikes, _ = sj.run(neurons.Leaky(0.9), x, values=numbers, backend="reference")
        return spikes.sum(), spikes

    spikes = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, numbers)[1]
    assert set(np.unique(spikes)) == {0.0, 1.0}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype):
    """Of the scan, which the kernels equal in this, too."""
    x = jnp.asarray(drive(), dtype)

    def loss(x):
        spikes, state, potentials = sj.leaky(x, 0.9, record=True, backend="reference")
        return (spikes * spikes).sum() + (potentials * potentials).sum(), (spikes, state, potentials)

    gradient, (spikes, state, potentials) = once(jax.grad(loss, has_aux=True), x)
    assert (spikes.dtype, state.dtype, potentials.dtype) == (x.dtype, jnp.float32, jnp.float32)
    assert gradient.dtype == x.dtype


def test_inhibition_and_noise():
    noisy, x = NoisyThreshold(5.0), jnp.asarray(drive())

    def draw(x, seed):
        return sj.leaky(x, 0.9, spike=noisy, training=True, key=jax.random.key(seed))[0]

    def everything(x):
        inhibited, _ = sj.leaky(jnp.abs(x) + 0.5, 0.9, inhibition=True)
        hard, _ = sj.leaky(x, 0.9, spike=noisy)
        return inhibited, hard, draw(x, 0)

    inhibited, hard, soft = once(everything, x)
    assert np.sum(inhibited, -1).max() == 1
    assert set(np.unique(hard)) <= {0.0, 1.0}
    again, other = (once(draw, x, seed) for seed in (0, 1))
    np.testing.assert_array_equal(soft, again)
    assert not np.array_equal(soft, other)
    with pytest.raises(ValueError, match=r"jax.random.key"):
        sj.leaky(x, 0.9, spike=noisy, training=True)


def test_errors():
    with pytest.raises(ValueError, match=r"\(4, 3\).*need \(2, 3\)"):
        sj.leaky(jnp.ones((5, 2, 3)), 0.9, state=jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="did you mean zero"):
        sj.leaky(jnp.ones((5, 2, 3)), 0.9, reset="zer0")
    with pytest.raises(TypeError, match="expected a floating-point"):
        sj.leaky(jnp.ones((5, 2, 3), jnp.int32), 0.9)
    with pytest.raises(TypeError, match=r"`neuron` must be a neuron such as Leaky\(0.9\), got <class"):
        sj.run(neurons.Leaky, jnp.ones((5, 2, 3)))
    with pytest.raises(TypeError, match="`quantize` must be a function of the state, got 3"):
        sj.leaky(jnp.ones((5, 2, 3)), 0.9, quantize=3)
    with pytest.raises(ValueError, match="Alpha has no place where its state could be quantised"):
        sj.run(neurons.Alpha(0.9, 0.8), jnp.ones((5, 2, 3)), quantize=jnp.round)
