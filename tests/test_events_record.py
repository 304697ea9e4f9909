"""Values that a layer of weights and neurons records by events: dense tensors, those of the dense form, and gradients through them."""

from __future__ import annotations

import pytest
import torch
from tests.test_events import SPIKE, dyadic, layer, spikes, take

import spikegrad
from spikegrad import ATan, Spikes, nn
from spikegrad.kernels import choice, event_passes
from spikegrad.neurons import Adaptive
from spikegrad.nn import linear

pytest.importorskip("numba")


def recurrent():
    neurons = nn.RecurrentLeaky(40, 0.9, spike=SPIKE)
    with torch.no_grad():
        neurons.weight.copy_(dyadic(40, 40, size=0.2, seed=5))
    return neurons


def leaky():
    return nn.Leaky(0.9, spike=SPIKE)


NEURONS = {
    "leaky": (leaky, ("u", "excess")),
    "recurrent": (recurrent, ("u", "excess")),
    "learned": (lambda: nn.Leaky(0.9, spike=SPIKE, learn_beta=True, learn_threshold=True), ("u", "excess")),
    "adaptive": (lambda: nn.Layer(Adaptive(0.9, spike=SPIKE)), ("theta", "u", "excess")),
    "no window": (lambda: nn.Leaky(0.9, spike=ATan()), ("u", "excess")),
    "integrator": (lambda: nn.LeakyIntegrator(0.9), ("u",)),
}
FAST = ("leaky", "recurrent")


def gradients(net, x, way, record, *, of_spikes=True, of_recorded=True):
    """Spikes, recorded values, and gradients of a loss that reads these."""
    take(net, way)
    net.zero_grad()
    x = x.clone().requires_grad_()
    out, _, recorded = net(x, record=record)
    seen = list(recorded.values()) if isinstance(recorded, dict) else [recorded]
    numbers = torch.Generator().manual_seed(1)
    loss = (out * torch.randn(out.shape, generator=numbers)).sum() * of_spikes
    loss = loss + sum((each.sin() * torch.randn(each.shape, generator=numbers)).sum() for each in seen) * of_recorded
    loss.backward()
    return [out.detach(), *(each.detach() for each in seen)], {"x": x.grad, **{name: p.grad for name, p in net.named_parameters()}}


def same(found, expected):
    """Spikes and recorded values bit for bit, gradients to rounding."""
    assert len(found[0]) == len(expected[0])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], expected[0], strict=True))
    assert found[1].keys() == expected[1].keys()
    most = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=2e-6 * most, msg=name)


@pytest.mark.parametrize("kind", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NEURONS])
def test_values_and_gradients_are_those_of_the_dense_form(kind):
    make, names = NEURONS[kind]
    net, x = layer(37, 40, make()), spikes(0.3)
    for read in ({}, {"of_spikes": False}, {"of_recorded": False}):
        found, expected = (gradients(net, x, way, names, **read) for way in ("event", "dense"))
        same(found, expected)
    take(net, "event")
    assert torch.equal(net(x)[0], found[0][0])


def test_pieces_of_columns_and_of_samples(monkeypatch):
    monkeypatch.setattr(choice, "cache", lambda: 0)
    monkeypatch.setattr(event_passes, "ROOMS", 1)
    net, x = layer(37, 300, leaky()), spikes(0.3, 12, 5, 37)
    same(*(gradients(net, x, way, ("u", "excess")) for way in ("event", "dense")))


def test_what_is_returned():
    net, x = layer(37, 40, leaky()), spikes(0.3)
    take(net, "dense")
    dense = [net(x, record=asked)[2] for asked in (True, "excess", ("excess", "u"), ())]
    take(net, "event")
    both = net(x, record=("u", "excess", "u"))
    assert len(net(x)) == 2
    assert list(both[2]) == ["u", "excess"]
    assert list(dense[2]) == ["excess", "u"]
    assert dense[3] == net(x, record=())[2] == {}
    assert torch.equal(net(x, record=True)[2], dense[0])
    assert torch.equal(both[2]["u"], dense[0])
    assert torch.equal(both[2]["excess"], dense[1])
    alone, state, recorded = net(x[:, 0], record=("u", "excess"))
    assert alone.shape == recorded["u"].shape == (12, 40)
    assert state.shape == (40,)
    assert torch.equal(recorded["u"], both[2]["u"][:, 0])
    listed, _, recorded = net(Spikes.of(x), record=("u", "excess"))
    assert isinstance(listed, Spikes)
    assert torch.equal(recorded["excess"], dense[1])
    with pytest.raises(ValueError, match="record='theta': Leaky's step names u, excess"):
        net(x, record="theta")


def test_states_that_are_given():
    net, x = layer(37, 40, leaky()), spikes(0.3)
    whole = net(x, record=("u", "excess"))
    first = net(x[:5], record=("u", "excess"))
    second = net(x[5:], first[1], record=("u", "excess"))
    assert torch.equal(torch.cat([first[2]["u"], second[2]["u"]]), whole[2]["u"])


@pytest.mark.parametrize("kind", FAST)
def test_second_derivatives_and_gradients_that_are_not_finite(kind):
    make, names = NEURONS[kind]
    net, x = layer(37, 40, make()), spikes(0.3)
    found = {}
    for way in ("event", "dense"):
        take(net, way)
        _, _, recorded = net(x, record=names)
        (first,) = torch.autograd.grad(recorded["u"].square().sum(), net.weight, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), net.weight)
        _, _, recorded = net(x, record=names)
        grown = recorded["excess"] * torch.full_like(recorded["excess"], 3.0)
        gradient = torch.zeros_like(grown)
        gradient[3, 2, 1] = torch.inf
        (infinite,) = torch.autograd.grad(grown, net.weight, gradient)
        found[way] = first.detach(), second, infinite
    assert not found["dense"][2].isfinite().all()
    for ours, theirs in zip(found["event"], found["dense"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.nan_to_num(0, 0, 0).abs().max()), equal_nan=True)


class Own(nn.Leaky):
    """Whose results are not foreseen."""


@pytest.mark.parametrize("block", [10**9, 300])  # all samples at once, one at a time
@pytest.mark.parametrize("kind", [nn.Leaky, Own])
def test_recorded_values_of_a_layer_that_recomputes(block, kind, monkeypatch):
    monkeypatch.setattr(linear, "_BLOCK", block)
    net = nn.SpikingLinear(13, 7, kind(0.9, backend="reference"), memory="recompute", backend="dense")
    x, found = spikes(0.3, 20, 4, 13), []
    for memory in ("recompute", "save"):
        net.memory = memory
        net.zero_grad()
        out, state, recorded = net(x, record=("u", "excess"))
        (out.sum() + recorded["u"].sin().sum() + recorded["excess"].square().sum() + state.sum()).backward()
        found.append([out.detach(), state.detach(), *(each.detach() for each in recorded.values()), *(p.grad for p in net.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_recording_sees_layers_that_run_by_events():
    net = nn.Sequential(layer(37, 40, leaky()), layer(40, 6, nn.LeakyIntegrator(0.9)))
    for module in net:
        module.neuron.backend = "auto"
    x = spikes(0.3)
    plain, _ = net(x)
    with spikegrad.record(net) as seen:
        out, _ = net(x)
    assert [module.backend for module in net] == ["event", "event"]
    assert list(seen) == ["0.neuron", "1.neuron"]
    torch.testing.assert_close(out, plain, rtol=1e-6, atol=1e-6)
    assert torch.equal(seen["0.neuron"].potential, net[0](x, record=("u", "excess"))[2]["u"])
    assert torch.equal(seen["1.neuron"].potential, out)


def test_a_convolution_records_too():
    x, found = spikes(0.1, 6, 2, 2, 9, 9), []
    net = nn.SpikingConv2d(2, 4, 3, nn.Leaky(0.9, backend="reference"))
    with torch.no_grad():
        net.conv.weight.copy_(dyadic(*net.conv.weight.shape))
        net.conv.bias.copy_(dyadic(4, size=0.1))
    for net.backend in ("event", "dense"):
        net.zero_grad()
        out, state, recorded = net(x, record=("u", "excess"))
        (recorded["u"].sin().sum() + out.sum() + state.sum()).backward()
        assert torch.equal(net(x, record=True)[2], recorded["u"])
        found.append([out.detach(), state.detach(), *(each.detach() for each in recorded.values()), net.conv.weight.grad])
    assert found[0][2].shape == out.shape
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="record='theta': Leaky's step names"):
        net(x, record="theta")
