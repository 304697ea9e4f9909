"""Recurrent weights and gradients that are not finite: 0 times them is NaN, also where kernels add only the rows of those that spiked."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import spikegrad.jax as in_jax
from spikegrad import nn

# Few features: rows by one; and so many that gradients of weights are added by rows, too. Both with rest.
FEATURES = (5, 200)


def currents(features):
    x = torch.randn(6, 3, features, generator=torch.Generator().manual_seed(0)) * 0.3
    x[:, :, 1] = -5.0
    return x


def weights(features, bad):
    w = torch.randn(features, features, generator=torch.Generator().manual_seed(1)) * 0.01
    w[0, 1] = bad  # of neuron 1, which never spikes
    return w


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.5])
def test_weights_of_silent_neurons(features, bad):
    found = []
    for backend in ("numba", "reference"):
        layer = nn.RecurrentLeaky(features, 0.9, backend=backend)
        with torch.no_grad():
            layer.weight.copy_(weights(features, bad))
        x = currents(features).requires_grad_()
        spikes, state = layer(x)
        found.append([spikes, *state, *torch.autograd.grad(spikes.sum(), [x, layer.weight])])
    assert not math.isfinite(bad) or found[0][0].sum() > 0
    assert found[1][0].isnan().any() == (not math.isfinite(bad))
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours.isnan(), expected.isnan())
        torch.testing.assert_close(ours, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_of_silent_neurons_in_jax(bad):
    x, w = jnp.asarray(currents(5).numpy()), jnp.asarray(weights(5, bad).numpy())
    found = []
    for backend in ("numba", "reference"):
        spikes, state = in_jax.recurrent_leaky(x, w, 0.9, backend=backend)
        gradient = jax.grad(lambda x, w: in_jax.recurrent_leaky(x, w, 0.9, backend=backend)[0].sum(), (0, 1))(x, w)  # noqa: B023
        found.append([spikes, *state, *gradient])
    assert np.isnan(found[1][0]).any()
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(expected))


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_reach_the_weights_of_silent_neurons(features, bad):
    found = []
    for backend in ("numba", "reference"):
        layer = nn.RecurrentLeaky(features, 0.9, backend=backend)
        with torch.no_grad():
            layer.weight.copy_(weights(features, 0.5))
        spikes, _ = layer(currents(features).requires_grad_())
        arriving = torch.ones_like(spikes)
        arriving[3, 0, 0] = bad
        found.append(torch.autograd.grad(spikes, layer.weight, arriving)[0])
    assert found[1][0].isnan().any()
    assert torch.equal(found[0].isfinite(), found[1].isfinite())
