"""`spikegrad.record` sees every layer, wherever it stands, and changes nothing."""

import subprocess
import sys

import pytest
import snntorch
import torch

import spikegrad
from spikegrad import ATan, FastSigmoid, nn
from spikegrad.compat import snntorch as ours
from spikegrad.nn.recompute import recomputed


def leaky(beta=0.9, **options):
    return nn.Leaky(beta, backend="reference", **options)


class Block(nn.Stateful):
    """A user's own module, which calls one layer on one half after the other."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.cells = torch.nn.ModuleDict({"one": leaky(), "two": nn.Layer(spikegrad.neurons.Adaptive(0.9), backend="reference")})

    def forward(self, currents, state=None):
        a, b = currents.split(len(currents) // 2)
        x, one = self.cells["one"](self.first(a))
        y, one = self.cells["one"](self.first(b), one)
        out, two = self.cells["two"](torch.cat([x, y]))
        return out, (one, two)


def nested():
    torch.manual_seed(0)
    return nn.Sequential(
        torch.nn.Linear(4, 8),
        leaky(),
        nn.Residual(torch.nn.Linear(8, 8), leaky()),
        Block(),
        nn.Steps(ours.Leaky(0.9)),
        nn.Sequential(torch.nn.Linear(8, 8), nn.Steps(snntorch.Synaptic(alpha=0.5, beta=0.9))),
        nn.SpikingLinear(8, 6, nn.RecurrentLeaky(6, 0.9, backend="reference")),
        torch.nn.Linear(6, 2),
        nn.LeakyIntegrator(0.9, backend="reference"),
    )


LAYERS = ["1", "2.body.1", "3.cells.one", "3.cells.two", "4.step", "5.1.step", "6.neuron", "8"]


def gradients(net):
    return [p.grad for p in net.parameters()]


def test_every_layer_of_a_nested_model_by_its_name():
    net, x = nested(), 3 * torch.rand(10, 3, 4)
    plain, _ = net(x)
    plain.sum().backward()
    expected = [g.clone() for g in gradients(net)]
    net.zero_grad()
    with spikegrad.record(net, gradient=True) as seen:
        out, _ = net(x)
    assert list(seen) == LAYERS
    assert torch.equal(out, plain)
    for name, layer in seen.items():
        features = {"6.neuron": 6, "8": 2}.get(name, 8)
        assert layer.current.shape == layer.potential.shape == (10, 3, features)
        if name == "8":
            assert layer.spikes is None
            assert torch.equal(layer.potential, out)
            continue
        fired = layer.excess > 0 if layer.stepwise else layer.excess >= 0
        assert torch.equal(fired.float(), layer.spikes)
        assert 0 < layer.spikes.mean() < 1
    out.sum().backward()
    for got, wanted in zip(gradients(net), expected, strict=True):
        torch.testing.assert_close(got, wanted)
    assert all(layer.gradient("current").norm() > 0 for layer in seen.values())


def test_gradients_of_currents_and_of_what_is_recorded():
    """Of u = 0.5 v + I, watched without spikes: dL/dI by hand, and the gradient of a loss on recorded potentials."""
    layer = leaky(0.5, threshold=100.0)
    net = nn.Sequential(torch.nn.Linear(1, 1, bias=False), layer)
    with torch.no_grad():
        net[0].weight.fill_(2.0)
    with spikegrad.record(net, gradient=True) as seen:
        net(torch.ones(3, 1, 1))
    potential = seen["1"].potential
    assert potential.flatten().tolist() == [2.0, 3.0, 3.5]
    potential.sum().backward()
    assert seen["1"].gradient("current").flatten().tolist() == [1.75, 1.5, 1.0]
    assert net[0].weight.grad.item() == 4.25
    assert seen["1"].gradient("spikes").flatten().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("library", [ours, snntorch], ids=["ours", "snntorch"])
@pytest.mark.parametrize("options", [{}, {"reset_delay": False}, {"reset_mechanism": "zero"}, {"spike_grad": nn.Spike(ATan())}], ids=str)
def test_steps_become_sequences(library, options):
    """Whatever resets when: the excess is what fired, and the potential is over the threshold where a spike is."""
    torch.manual_seed(0)
    neuron, mem = library.Leaky(beta=0.9, threshold=0.5, **options), None
    with spikegrad.record(neuron, gradient=True) as seen:
        spikes = []
        for current in torch.randn(20, 2, 3, requires_grad=True).unbind():
            spk, mem = neuron(current, *([] if mem is None else [mem]))
            spikes.append(spk)
    layer = seen[""]
    assert torch.equal(layer.spikes, torch.stack(spikes))
    firing = (layer.excess > 0).float()
    if isinstance(options.get("spike_grad"), nn.Spike):
        firing = (layer.excess >= 0).float()
    assert torch.equal(firing, layer.spikes)
    assert 0 < layer.spikes.sum() < 120
    torch.testing.assert_close(layer.potential, layer.excess + 0.5)
    torch.testing.assert_close(
        layer.derivative(torch.tensor([-0.5, 0.25])), torch.from_numpy(ATan().derivative(torch.tensor([-0.5, 0.25]).numpy()))
    )
    layer.spikes.sum().backward()
    assert layer.gradient("current").norm() > 0
    assert neuron.spike_grad is options.get("spike_grad", neuron.spike_grad)
    assert not neuron._forward_hooks


def test_neurons_that_keep_their_state():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), ours.Leaky(beta=0.9, init_hidden=True))
    with spikegrad.record(net) as seen:
        for current in torch.randn(6, 2, 3).unbind():
            net(current)
    assert seen["1"].spikes.shape == (6, 2, 4)
    assert not seen["1"].potential.requires_grad


def test_a_fused_network():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = torch.nn.Linear(3, 4), ours.Leaky(beta=0.9)

        def forward(self, x, mem=None):
            return self.lif(self.fc(x), mem)

    net, x = Net(), 3 * torch.rand(6, 2, 3)
    fused = ours.fuse(net, step=True)
    plain, _ = fused(x)
    with spikegrad.record(fused) as seen:
        spikes, _ = fused(x)
    assert torch.equal(spikes, plain)
    assert torch.equal(seen["lif"].spikes, spikes)
    assert torch.equal((seen["lif"].excess > 0).float(), spikes)


def test_what_the_caller_asked_for_is_what_he_gets():
    layer, x = leaky(), torch.rand(4, 2, 3)
    for asked in (False, True, "excess", ("u",), ()):
        plain = layer(x, record=asked)
        with spikegrad.record(layer) as seen:
            given = layer(x, record=asked)
        assert len(given) == len(plain)
        assert torch.equal(given[0], plain[0])
        if asked is not False:
            told, wanted = given[2], plain[2]
            assert told.keys() == wanted.keys() if isinstance(wanted, dict) else torch.equal(told, wanted)
        assert seen[""].spikes.shape == (4, 2, 3)
    with spikegrad.record(layer) as seen:
        layer(x, lengths=[4, 2])
    assert torch.equal(seen[""].potential[2:, 1], torch.zeros(2, 3))


def test_a_second_run_for_the_backward_pass_is_not_recorded():
    net, x = nn.Sequential(torch.nn.Linear(4, 4), leaky()), torch.rand(5, 2, 4)
    with spikegrad.record(net, gradient=True) as seen:
        out, _ = recomputed(net, x)
        out.sum().backward()
    assert seen["1"].spikes.shape == (5, 2, 4)


def test_surrogates_as_they_are():
    spike = nn.Spike(FastSigmoid(8.0), learn="slope", shape=(3,))
    with torch.no_grad():
        spike.slope_log.copy_(torch.tensor([1.0, 2.0, 3.0]).log())
    net = nn.Sequential(nn.Leaky(0.9, spike=spike, backend="reference"), nn.Steps(snntorch.Leaky(beta=0.5)))
    with spikegrad.record(net) as seen:
        pass
    assert seen["0"].surrogate.slope == pytest.approx(2.0)
    assert seen["1.step"].surrogate is None


def test_what_cannot_be_recorded_is_refused():
    with pytest.raises(ValueError, match="Linear has no spiking layers to record"), spikegrad.record(torch.nn.Linear(2, 2)):
        pass

    class Mine(nn.Leaky):
        def forward(self, currents, state=None):
            return super().forward(currents, state)

    with pytest.raises(TypeError, match=r"Mine\.forward takes no `record`"), spikegrad.record(Mine(0.9)):
        pass
    layer = leaky()
    with spikegrad.record(layer) as seen:
        with pytest.raises(ValueError, match="was not called while it was recorded"):
            _ = seen[""].spikes
        layer(torch.rand(4, 2, 3))
        layer(torch.rand(4, 1, 3))
    with pytest.raises(ValueError, match=r"steps of shapes \(1, 3\) and \(2, 3\).*call clear"):
        _ = seen[""].spikes
    with pytest.raises(ValueError, match=r"made with record\(model, gradient=True\)"):
        seen[""].gradient()
    with pytest.raises(KeyError, match="no spiking layer 'x'; there are ''"):
        seen["x"]
    seen.clear()
    assert not seen[""].called
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_a_compiled_model_runs_as_written():
    net = nn.Sequential(torch.nn.Linear(4, 4), leaky())
    compiled, x = torch.compile(net, backend="eager"), torch.rand(3, 2, 4)
    compiled(x)
    with spikegrad.record(compiled) as seen:
        compiled(x)
    assert seen["_orig_mod.1"].spikes.shape == (3, 2, 4)


def test_the_name_is_there_and_loads_nothing_before_it_is_used():
    loaded = "print('torch' in sys.modules)"
    code = f"import sys, spikegrad; assert 'record' in dir(spikegrad); {loaded}; spikegrad.record; {loaded}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="has no attribute 'recod'"):
        _ = spikegrad.recod
