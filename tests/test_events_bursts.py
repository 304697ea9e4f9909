"""Steps in which nothing happens beside steps in which all does: lists are made in two ways, by what there was a step before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.test_events import SPIKE, gradients, layer, same, spikes

from spikegrad import Spikes, nn

pytest.importorskip("numba")


def bursts(steps: int, batch: int, features: int) -> torch.Tensor:
    """Silence, then one spike, then all, over and over, at other steps in each sample."""
    x = spikes(0.002, steps, batch, features)
    for sample in range(batch):
        x[sample % 3 :: 4, sample] = 1
        x[(sample + 2) % 3 :: 5, sample, -1] = 1
    return x


@pytest.mark.parametrize("features", [1, 16, 37, 331])
def test_lists_of_a_tensor(features):
    x = bursts(17, 5, features)
    made = Spikes.of(x)
    sample, step, neuron = np.nonzero(x.numpy().transpose(1, 0, 2))
    assert torch.equal(made.detach().dense(), x)
    assert np.array_equal(made.index.numpy(), neuron)
    assert np.array_equal(np.diff(made.since.numpy()), [np.bincount(step[sample == k], minlength=17) for k in range(5)])


@pytest.mark.parametrize("place", [0, 320, 330])
def test_another_value_in_a_quiet_row(place):
    x = torch.zeros(4, 2, 331)
    x[2, 1, place] = 0.5
    net = nn.SpikingLinear(331, 2, nn.Leaky(0.9))
    with pytest.raises(ValueError, match="must be 0 or 1"):
        net(x)


@pytest.mark.parametrize("reset", ["subtract", pytest.param("zero", marks=pytest.mark.slow)])
@pytest.mark.parametrize("features", [40, 260])
def test_lists_of_neurons_and_their_gradients(reset, features):
    net, x = layer(37, features, nn.Leaky(0.5, spike=SPIKE, reset=reset), bias=False), bursts(17, 5, 37)
    found, expected = gradients(net, x, "event"), gradients(net, x, "dense")
    rates = expected[0].mean(2)
    assert (rates == 0).float().mean() > 0.1
    assert (rates > 0.3).float().mean() > 0.1
    assert torch.equal(found[0], expected[0])
    same(found, expected)
