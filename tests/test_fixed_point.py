"""Networks in whole numbers, bit for bit those of a plain integer loop."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from spikegrad import neurons, nn  # noqa: E402
from spikegrad.exchange.fixed_point import FixedPoint, Rounded, quantized, unit_of, whole  # noqa: E402

Linear = torch.nn.Linear


def given(*shape: int, seed: int = 0) -> Any:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def towards_zero(x: int, decay: int) -> int:
    """``x * decay / 4096`` without what is after the point."""
    return int(math.copysign(abs(x * decay) // 4096, x)) if x else 0


def chip(weights: Any, bias: Any, spikes: Any, neuron: Any, shift: int, theta: int, bits: int, fed: Any = None) -> tuple[Any, Any, Any]:
    """One layer for one sample, a neuron and a step at a time, in Python's own whole numbers."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def stored(x: int) -> int:
        return min(max(x, low), high)

    beta = round(getattr(neuron, "beta", 1.0) * 4096)
    alpha = round(getattr(neuron, "alpha", 0.0) * 4096)
    count = len(weights)
    i, v, before = [0] * count, [0] * count, [0] * count
    out = np.zeros((len(spikes), count), dtype=np.int64)
    for t, step in enumerate(spikes):
        fired = list(before)
        for n in range(count):
            total = sum(int(weights[n][k]) * int(step[k]) for k in range(len(step)))
            if fed is not None:
                total += sum(int(fed[n][k]) * fired[k] for k in range(count))
            # The bias is in units of a state already; the sum of weights is shifted to them, rounded where it is shifted down.
            scaled = (total << shift) + int(bias[n]) if shift >= 0 else (total + (int(bias[n]) << -shift) + (1 << (-shift - 1))) >> -shift
            if isinstance(neuron, neurons.Synaptic):
                i[n] = scaled = stored(towards_zero(i[n], alpha) + scaled)
            old = v[n]
            due = int(old >= theta if neuron.spike_at_threshold else old > theta) if getattr(neuron, "reset_delay", False) else 0
            if due and neuron.reset == "zero" and not isinstance(neuron, neurons.Synaptic):
                old = 0
            u = towards_zero(old, beta) + scaled
            if due and neuron.reset == "subtract":
                u -= theta
            if due and neuron.reset == "zero" and isinstance(neuron, neurons.Synaptic):
                u = 0
            u = stored(u)
            spike = int(u >= theta if neuron.spike_at_threshold else u > theta)
            out[t, n] = before[n] = spike
            v[n] = u
            if spike and not getattr(neuron, "reset_delay", False):
                v[n] = u - theta if neuron.reset == "subtract" else 0 if neuron.reset == "zero" else u
    return out, i, v


OPTIONS = [
    {"reset": reset, "reset_delay": delay, "spike_at_threshold": at}
    for reset, delay, at in itertools.product(("subtract", "zero", "none"), (False, True), (False, True))
]
NEURONS = [neurons.Leaky(0.9, 0.7, **options) for options in OPTIONS] + [neurons.Synaptic(0.6, 0.9, 0.7, **options) for options in OPTIONS]


@pytest.mark.parametrize(("weights", "states"), [(8, 16), (4, 8), (2, 12), (8, 6)])
def test_bit_for_bit_a_plain_integer_loop(weights, states):
    """Every option of Leaky and Synaptic, at a shift above and below zero; some states saturate."""
    torch.manual_seed(0)
    saturated = shifts = fired = 0
    for neuron in (*NEURONS, neurons.IntegrateAndFire(0.7)):
        net = nn.Sequential(Linear(7, 5), nn.Layer(neuron))
        spikes = (given(40, 2, 7) < 0.5).double()
        made = quantized(net, weights, states)
        assert not made.notes
        (_, linear), layer = made.network[0], made.network[1]
        unit, most = layer.unit, 2 ** (weights - 1) - 1
        integers = np.clip(np.round(net[0].weight.detach().double().numpy() / unit), -most, most).astype(int)
        assert (linear.weight.numpy() == integers).all()
        assert np.abs(integers).max() == most
        shift = math.floor(math.log2(2 ** (states - 3) * unit / 0.7))
        theta = round(0.7 / unit * 2.0**shift)
        bias = np.round(net[0].bias.detach().double().numpy() / unit * 2.0**shift).astype(int)
        assert (layer.shift, int(layer.theta)) == (shift, theta)
        out, state = made.network(spikes)
        for sample in range(2):
            wanted, i, v = chip(integers, bias, spikes[:, sample].int().tolist(), neuron, shift, theta, states)
            assert (out[:, sample].numpy() == wanted).all()
            parts = state[1] if isinstance(state[1], tuple) else (state[1],)
            assert parts[-1][sample].tolist() == v
            assert parts[-1].dtype == torch.int64
            if len(parts) > 1:
                assert parts[0][sample].tolist() == i
            saturated += any(abs(x) >= 2 ** (states - 1) - 1 for x in v)
            fired += int(wanted.sum())
        shifts += shift < 0
    assert fired > 100
    assert saturated or states > 6
    assert (shifts > 0) == (states == 6)


@pytest.mark.parametrize("connection", ["all-to-all", "one-to-one"])
def test_recurrent_weights_are_whole_numbers_too(connection):
    torch.manual_seed(1)
    for neuron in (neurons.Leaky(0.9, reset="zero"), neurons.Synaptic(0.7, 0.8)):
        net = nn.Sequential(Linear(7, 5), nn.Layer(neuron, recurrent=connection, features=5))
        with torch.no_grad():
            net[0].weight.mul_(2)
        made = quantized(net, 6, 14)
        layer, linear = made.network[1], made.network[0][1]
        spikes = (given(40, 2, 7) < 0.5).double()
        fed = layer.back.numpy() if connection == "all-to-all" else np.diag(layer.back.numpy())
        assert (fed == np.round(fed)).all()
        assert np.abs(fed).sum() > 0
        bias = np.round(linear.bias.numpy() * 2.0**layer.shift).astype(int)
        out, state = made.network(spikes)
        for sample in range(2):
            wanted, *_ = chip(
                linear.weight.int().tolist(), bias, spikes[:, sample].int().tolist(), neuron, layer.shift, int(layer.theta), 14, fed
            )
            assert (out[:, sample].numpy() == wanted).all()
        assert out.sum() > 10
        first, middle = made.network(spikes[:17])  # a stream, part by part
        second, last = made.network(spikes[17:], middle)
        assert torch.equal(torch.cat([first, second]), out)
        assert all(torch.equal(a, b) for a, b in zip(last[1], state[1], strict=True))


def test_many_bits_are_the_network_itself():
    """But for few spikes at the threshold: the scale of the input and learned numbers are part of it. Decays are whole 4096ths here."""
    torch.manual_seed(0)
    beta = torch.tensor([0.5, 0.25, 0.75, 0.875] * 5)
    hidden = nn.Leaky(beta, scale_input=True, threshold=0.1, learn_beta=True)
    net = nn.Sequential(Linear(7, 20), hidden, Linear(20, 5), nn.LeakyIntegrator(0.875)).eval()
    x = given(60, 3, 7).double()
    made = quantized(net, 16, 32, sample=x, input_bits=16).network
    net.double()
    spikes, wanted = made[:2](x)[0], net[:2](x)[0]
    assert (spikes != wanted).double().mean() < 0.002
    assert 0.05 < wanted.mean() < 0.8
    torch.testing.assert_close(made[2:](wanted.detach())[0], net[2:](wanted)[0], atol=1e-3, rtol=0)


def test_a_readout_has_room_for_what_it_was_seen_to_do():
    torch.manual_seed(0)
    net = nn.Sequential(Linear(7, 5), nn.LeakyIntegrator(0.95))
    with torch.no_grad():
        net[0].weight.abs_()
    x = (given(60, 3, 7) < 0.5).float()
    wanted = net.double()(x.double())[0]
    assert wanted.max() > 8
    made = quantized(net, 8, 16, sample=x).network
    assert (made(x.double())[0] - wanted).abs().max() < 0.4
    clipped = quantized(net, 8, 16).network  # which takes the largest to be 1
    assert clipped(x.double())[0].max() <= 8


def test_convolutions_and_normalisation():
    torch.manual_seed(0)
    net = nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, bias=False),
        torch.nn.BatchNorm2d(4),
        nn.Leaky(0.8),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        Linear(36, 3),
        nn.Leaky(0.9),
    )
    x = given(10, 8, 1, 8, 8)
    for _ in range(5):
        net(x)
    with torch.no_grad():
        net[1].weight.fill_(0.7)
        net[5].weight.mul_(4).add_(0.6)
    net.eval()
    before = copy.deepcopy(net.state_dict())
    made = quantized(net, 16, 30, sample=x, input_bits=16).network
    wanted = net.double()(x.double())[0]
    assert (made(x.double())[0] != wanted).double().mean() < 0.01
    assert wanted.sum() > 5
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.float().state_dict().values(), strict=True))


def test_what_has_no_form_stays_and_is_named():
    net = nn.Sequential(
        Linear(4, 4), nn.Layer(neurons.Adaptive(0.9)), nn.Residual(Linear(4, 4), nn.Leaky(0.9, inhibition=True)), Linear(4, 2)
    )
    made = quantized(net, 4, 12)
    assert made.notes == {
        "1": "a Adaptive is none of Leaky, Synaptic, IntegrateAndFire and LeakyIntegrator",
        "2.body.1": "it has inhibition",
    }
    for weight in (made.network[0].weight, made.network[2].body[0].weight, made.network[3].weight):
        steps = weight / unit_of(4, weight)
        torch.testing.assert_close(steps, steps.round())
        assert len(weight.unique()) <= 15
    assert made.network(given(5, 2, 4).double())[0].shape == (5, 2, 2)
    spiking = quantized(nn.Sequential(nn.SpikingLinear(4, 3, nn.Leaky(0.9))), 8, 12).network
    assert isinstance(spiking[0][1], FixedPoint)


def test_numbers_of_bits_are_checked():
    net = nn.Sequential(Linear(2, 2), nn.Leaky(0.9))
    with pytest.raises(ValueError, match="`weights` must be between 2 and 16 bits, got 1"):
        quantized(net, 1)
    with pytest.raises(ValueError, match="`bits` of a state must be between 4 and 32, got 3"):
        quantized(net, 8, 3)
    with pytest.raises(ValueError, match=r"a Adaptive is none of.*no fixed-point form"):
        FixedPoint(nn.Layer(neurons.Adaptive(0.9)), 1.0, 8)
    with pytest.raises(ValueError, match="does not take lengths"):
        FixedPoint(nn.Leaky(0.9), 1.0, 8)(torch.ones(3, 2, 2), lengths=[1, 2])
    assert unit_of(8, torch.zeros(3)) == 1.0
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for bits in (2, 4, 8):
        unit, most = unit_of(bits, weights), 2 ** (bits - 1) - 1
        lost = [
            (weights - (weights / u).round().clamp(-most, most) * u).square().sum()
            for u in (unit, 0.8 * unit, 1.2 * unit, float(weights.abs().max()) / most)
        ]
        assert lost[0] == min(lost)
    assert whole(torch.tensor([0.5, 1.5, -0.7]), 1.0).tolist() == [0.0, 2.0, -1.0]
    assert Rounded(8, 1.0)(torch.tensor([0.0, 1.0, 0.3])).tolist() == [0.0, 1.0, 38 / 128]
