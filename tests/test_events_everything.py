"""Every neuron and every surrogate by events: the gradients of the dense form over shapes and densities, on one and two threads."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from tests.conftest import driving, example
from tests.test_events import dyadic, gradients, layer, same, spikes

from spikegrad import CATALOGUE, Boxcar, SparseFastSigmoid, Triangle, neurons, nn

pytest.importorskip("numba")

COMPACT = [Triangle(width=0.4), Boxcar(width=0.4), SparseFastSigmoid(slope=5.0, lower=-0.3, upper=0.5)]
ONE = [name for name, kind in neurons.CATALOGUE.items() if len(kind.numbers) and name not in ("ConductanceLeaky", "GatedLeaky")]
CASES = [(12, 5, 37, d) for d in (0.0, 0.01, 0.2, 0.5, 1.0)] + [(1, 5, 37, 0.3), (12, 1, 37, 0.3), (1, 1, 37, 0.3)]
"""Steps, samples, senders, and the share of those that spike."""


def equal_everywhere(make, grows=False):
    """What ``make(receivers, senders)`` makes, on every case; and of one neuron that one sends to.

    Gradients of neurons in which a rounding `grows` over the steps are held to how well the dense form knows them.
    """
    before = torch.get_num_threads()
    try:
        for (steps, samples, senders, density), receivers in itertools.chain(((case, 40) for case in CASES), [((12, 5, 1, 0.5), 1)]):
            net, x = make(receivers, senders), spikes(density, steps, samples, senders)
            x[2:4] = 0  # steps in which nothing arrives
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(gradients(net, x, "event"))
            assert torch.equal(found[0][0], found[1][0])
            # That of the dense input is a product of PyTorch's own, which rounds a few rows otherwise on two threads.
            assert all(torch.equal(found[0][2][name], found[1][2][name]) for name in found[0][2] if name != "x")
            exact = gradients(copy.deepcopy(net).double(), x.double(), "dense") if grows else None
            same(found[0], gradients(net, x, "dense"), exact)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("spike", [*COMPACT, *(cls() for cls in CATALOGUE.values() if not cls.stochastic)], ids=repr)
def test_every_surrogate(spike):
    equal_everywhere(lambda receivers, senders: layer(senders, receivers, nn.Leaky(0.9, spike=spike)))


@pytest.mark.slow
@pytest.mark.parametrize("spike", COMPACT, ids=repr)
@pytest.mark.parametrize("name", ONE)
def test_every_neuron(name, spike):
    neuron = example(name) if name == "LeakyIntegrator" else example(name, spike=spike)
    if neuron.record.outputs != 1:
        pytest.skip("it has several outputs")
    (current,) = driving(neuron, 1000)
    mean, deviation = float(current.mean()), float(current.std())

    def make(receivers, senders):
        net = layer(senders, receivers, nn.Layer(neuron))
        with torch.no_grad():
            net.weight.copy_(dyadic(receivers, senders, size=deviation / 2.5))
            net.bias.fill_(round(mean * 64) / 64)
        return net

    equal_everywhere(make, grows=name == "AdEx")
