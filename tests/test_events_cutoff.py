"""A cutoff of a surrogate without a window: what is left out is within its bound."""

from __future__ import annotations

import pytest
import torch
from tests.test_events import gradients, layer, network, same, spikes, take

from spikegrad import ATan, Spikes, facts, nn
from spikegrad.formulas import CATALOGUE

pytest.importorskip("numba")


@pytest.mark.parametrize("cutoff", [0.1, *(pytest.param(each, marks=pytest.mark.slow) for each in (0.01, 0.5))])
@pytest.mark.parametrize("name", [name for name, cls in CATALOGUE.items() if not cls.stochastic])
def test_outside_of_the_window_the_derivative_is_below_the_cutoff(name, cutoff):
    surrogate = CATALOGUE[name]()
    low, high = facts.window(surrogate, cutoff)
    room = 1e-4  # for rounding
    assert low >= facts.window(surrogate)[0] - room
    assert high <= facts.window(surrogate)[1] + room
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    outside = x[(x < low) | (x > high)]
    assert surrogate.derivative(outside).abs().le(cutoff * surrogate.peak).all()
    if low > -20:
        assert surrogate.derivative(torch.tensor(low + 1e-3, dtype=torch.float64)).abs() >= 0.5 * cutoff * surrogate.peak


def test_gradients_are_within_the_bound():
    beta, x = 0.9, spikes(0.2)
    net = layer(37, 40, nn.Leaky(beta, spike=ATan()), cutoff=0.2)
    arriving = torch.randn(12, 5, 40, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(net(x)[0], net.weight, arriving)[0]
    take(net, "dense")
    net.cutoff = 0.0
    exact = torch.autograd.grad(net(x)[0], net.weight, arriving)[0]
    bound, bar = torch.zeros_like(exact), torch.zeros(5, 40)
    for t in reversed(range(12)):
        bar = beta * bar + 0.2 * ATan().peak * arriving[t].abs()
        bound += bar.t() @ x[t]
    off = (found - exact).abs()
    assert (off <= bound + 1e-5).all()
    assert off.max() > 1e-2  # something is left out
    net.cutoff = 0.02
    take(net, "event")
    assert (torch.autograd.grad(net(x)[0], net.weight, arriving)[0] - exact).abs().max() < off.max()


def test_pairs_are_those_near_threshold_and_a_tiny_cutoff_is_exact():
    net, x = network(), spikes(0.2)
    for each in net[:2]:
        each.neuron, each.cutoff = nn.Leaky(0.9, spike=ATan()), 1e-9
    same(gradients(net, x, "event"), gradients(net, x, "dense"))
    take(net, "event")
    assert net[0](Spikes.of(x))[0].pairs.neurons.numel() == x.shape[0] * x.shape[1] * 40
    net[0].cutoff = 0.5
    assert 0 < net[0](Spikes.of(x))[0].share < 0.5


def test_recurrent_neurons_without_a_window_run_by_events_with_a_cutoff():
    net, x = layer(37, 40, nn.RecurrentLeaky(40, 0.9), backend="auto", memory="save"), spikes(0.2)
    assert "(a `cutoff` makes one)" in net.chosen(x).why
    net.cutoff = 1e-9
    found, expected = gradients(net, x, "event"), gradients(net, x, "dense")
    same((found[0], (), found[2]), (expected[0], (), expected[2]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutoff": 1.0}, "at least 0 .exact. and below 1, got 1.0"),
        ({"cutoff": -0.1}, "at least 0"),
        ({"cutoff": float("nan")}, "at least 0"),
        ({"cutoff": 0.1, "backend": "dense"}, "backend='dense' has none"),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        nn.SpikingLinear(3, 2, nn.Leaky(0.9), **options)
