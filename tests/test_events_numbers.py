"""Layers that run by events, beside the dense form: given states, numbers that are none or subnormal, float64, what is recorded."""

from __future__ import annotations

import math

import pytest
import torch
from tests.test_events import SPIKE, dyadic, gradients, layer, recurrent, same, spikes, take

import spikegrad
from spikegrad import neurons, nn
from spikegrad.kernels.cpu import rows

pytest.importorskip("numba")

SMALLEST = 2.0**-126
"""The smallest normal number of float32."""


def compared(net, x, state):
    """Outputs, states and gradients by events and dense, NaN where NaN is."""
    found = []
    for way in ("event", "dense"):
        start = [part.clone().requires_grad_() for part in state]
        out, last, grads = gradients(net, x, way, start[0] if len(start) == 1 else tuple(start))
        found.append((out, *last, *grads.values(), *(part.grad for part in start)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-5, atol=1e-5)
    return found[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_a_given_state_that_is_no_number_or_huge(value):
    state = dyadic(5, 40, seed=3)
    state[2, 7] = value
    found = compared(layer(37, 40), spikes(0.2), [state])
    assert math.isnan(value) is bool(found[0].isnan().any())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_given_state_of_recurrent_neurons_that_is_no_number(value):
    state = [dyadic(5, 40, seed=3), spikes(0.3, 5, 40)]
    state[0][2, 7] = value
    compared(recurrent(), spikes(0.2), state)


@pytest.mark.slow
def test_two_given_states():
    net = layer(37, 40, nn.Layer(neurons.Adaptive(0.9, spike=SPIKE)))
    compared(net, spikes(0.2), [dyadic(5, 40, seed=3), dyadic(5, 40, seed=4).abs()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_learned_number_that_is_none(value):
    net = layer(37, 40, nn.Leaky(0.9, spike=SPIKE, learn_beta=True, learn_threshold=True))
    with torch.no_grad():
        dict(net.neuron.named_parameters())["threshold_log"].fill_(value)
    found, expected = gradients(net, spikes(0.2), "event"), gradients(net, spikes(0.2), "dense")
    torch.testing.assert_close(found[0], expected[0], equal_nan=True)
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, equal_nan=True, msg=name)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_decays_below_all_normal_numbers_is_0(threads):
    net, x, before = layer(37, 40, nn.Leaky(0.5, spike=SPIKE), bias=False), torch.zeros(140, 4, 37), torch.get_num_threads()
    x[0] = spikes(0.5, 4, 37)
    try:
        torch.set_num_threads(threads)
        found, expected = gradients(net, x, "event"), gradients(net, x, "dense")
        assert (torch.full((2**16,), SMALLEST) * 0.5 != 0).all()  # as before, outside of the passes
    finally:
        torch.set_num_threads(before)
    for ours, theirs in ((found[1][0], expected[1][0]), (found[2]["weight"], expected[2]["weight"])):
        assert (ours - theirs).abs().max() <= 200 * SMALLEST
        assert not rows._CONTROLS or not ((ours != 0) & (ours.abs() < SMALLEST)).any()
    assert ((expected[1][0] != 0) & (expected[1][0].abs() < SMALLEST)).any()


def test_gradients_are_those_of_float64_to_the_rounding_of_float32():
    net, x = layer(37, 40), spikes(0.2)
    found = gradients(net, x, "event")
    net.double()
    take(net, "auto")
    assert "not of float32" in net.chosen(x.double()).why
    expected = gradients(net, x.double(), "dense")
    assert expected[2]["weight"].dtype is torch.float64
    same((found[0].double(), (), {name: g.double() for name, g in found[2].items()}), (expected[0], (), expected[2]))


def test_what_is_recorded_is_that_of_the_dense_form():
    net, x = nn.Sequential(layer(37, 40, backend="auto"), layer(40, 6, nn.LeakyIntegrator(0.9), backend="auto", seed=99)), spikes(0.2)
    out, _ = net(x)
    with spikegrad.record(net) as seen:
        assert "hooks" in net[0].chosen(x).why
        again, _ = net(x)
    torch.testing.assert_close(again, out, rtol=1e-6, atol=1e-6)
    spiked = seen["0.neuron"].spikes
    take(net, "event")
    assert torch.equal(spiked, net[0](x)[0])
    assert seen["0.neuron"].potential.shape == spiked.shape
