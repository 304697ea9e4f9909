"""Our neurons among snnTorch's own, and snnTorch's own tools on ours: nothing is missed, and nothing leaks."""

from __future__ import annotations

import copy
import gc
import importlib
import io
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from spikegrad.compat import snntorch as snn

peer = pytest.importorskip("snntorch")
peer_utils = importlib.import_module("snntorch.utils")
probe = importlib.import_module("snntorch.functional.probe")

MAKE = {
    "Leaky": lambda m, **options: m.Leaky(0.9, **options),
    "Synaptic": lambda m, **options: m.Synaptic(0.8, 0.9, **options),
    "RLeaky": lambda m, **options: m.RLeaky(0.9, all_to_all=False, **options),
    "RSynaptic": lambda m, **options: m.RSynaptic(0.8, 0.9, all_to_all=False, **options),
    "Alpha": lambda m, **options: m.Alpha(0.9, 0.8, **options),
    "Lapicque": lambda m, **options: m.Lapicque(0.9, **options),
}
KINDS = list(MAKE)
STATES = {name: getattr(snn, name).STATES for name in KINDS}


@pytest.fixture(autouse=True)
def theirs_alone():
    """The list in which snnTorch keeps all its neurons for ever, empty again afterwards."""
    peer.SpikingNeuron.instances.clear()
    yield
    peer.SpikingNeuron.instances.clear()


def states(layer):
    return [getattr(layer, name) for name in STATES[type(layer).__name__]]


def is_at_rest(layer):
    return all(not state.any() and not state.requires_grad for state in states(layer))


def driven(*layers, size=3):
    """A network that has run for two steps."""
    net = nn.Sequential(nn.Linear(size, size), *layers)
    for _ in range(2):
        net(torch.ones(2, size))
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_reset_of_a_mixed_network(kind):
    ours, theirs = (MAKE[kind](module, init_hidden=True) for module in (snn, peer))
    lstm, other = peer.SLSTM(3, 3, init_hidden=True), MAKE[kind](peer, init_hidden=True)
    net = nn.Sequential(driven(ours), nn.ModuleList([driven(theirs), driven(lstm)]))
    driven(other)
    assert not is_at_rest(theirs)
    assert lstm.mem.any()
    snn.utils.reset(net)
    assert is_at_rest(ours)
    assert is_at_rest(theirs)  # however deep
    assert not lstm.mem.any()
    assert not lstm.syn.requires_grad
    assert not is_at_rest(other)  # which is in another network


def test_reset_of_neurons_without_a_state_to_reset():
    net = nn.Sequential(peer.StateLeaky(0.9, channels=3), peer.LeakyParallel(3, 3), peer.DeltaLeaky(beta=0.9, init_hidden=True))
    net[2](torch.ones(2, 3))
    snn.utils.reset(net)
    assert net[2].mem is None  # as its own `reset_mem` leaves it


@pytest.mark.parametrize("kind", KINDS)
def test_reset_of_snntorch_reaches_ours(kind):
    """With an import that was not changed, state leaked from batch to batch without a word."""
    ours = MAKE[kind](snn, init_hidden=True)
    net = driven(ours)
    assert not is_at_rest(ours)
    peer_utils.reset(net)
    if kind == "RSynaptic":  # whose spikes its `reset_hidden` forgets: `utils.reset` of ours does not
        assert not any(state.any() for state in states(ours)[1:])
        snn.utils.reset(net)
    assert is_at_rest(ours)
    assert getattr(peer_utils, f"is_{kind.lower()}")
    net(torch.ones(2, 3))
    assert states(ours)[-1].requires_grad
    getattr(peer, kind).detach_hidden()
    assert not any(state.requires_grad for state in states(ours)[kind == "RSynaptic" :])
    assert any(state.any() for state in states(ours))


def test_reset_of_snntorch_reaches_what_it_reaches_of_its_own():
    """All neurons of a kind that the network has at its top, in all networks: deeper ones, ones made before and after, and copies."""
    found = []
    for module in (snn, peer):
        top, deep, elsewhere, other = (module.Leaky(0.9, init_hidden=True) for _ in range(4))
        synaptic = module.Synaptic(0.8, 0.9, init_hidden=True)
        net, _ = nn.Sequential(driven(deep), top, synaptic), driven(elsewhere)
        net(torch.ones(2, 3))
        nested = nn.Sequential(driven(other))
        peer_utils.reset(nested)  # has none of them at its top
        before = [is_at_rest(layer) for layer in (top, deep, elsewhere, synaptic)]
        peer_utils.reset(net)
        later = module.Leaky(0.9, init_hidden=True)
        driven(later)
        between = is_at_rest(later)
        peer_utils.reset(net)
        found.append([*before, *map(is_at_rest, (top, deep, elsewhere, other, synaptic)), between, is_at_rest(later)])
    assert found[0] == found[1]
    assert found[0] == [False] * 4 + [True] * 5 + [False, True]
    net = driven(snn.Leaky(0.9, init_hidden=True))
    twin = copy.deepcopy(net)
    peer_utils.reset(net)
    assert is_at_rest(twin[1])


def test_snntorch_keeps_none_of_ours_alive():
    layer = snn.Leaky(0.9, init_hidden=True)
    net = driven(layer)
    peer_utils.reset(net)
    assert sum(entry is not None for entry in peer.SpikingNeuron.instances) == 1
    gone = weakref.ref(layer)
    del layer, net
    gc.collect()
    assert gone() is None
    peer.Leaky.reset_hidden()
    peer.Leaky.detach_hidden()
    peer_utils.reset(driven(snn.Leaky(0.9, init_hidden=True)))


@pytest.mark.parametrize("kind", KINDS)
def test_isinstance(kind):
    layer = MAKE[kind](snn)
    for name in KINDS:
        assert isinstance(layer, getattr(peer, name)) == (name == kind)
        assert isinstance(layer, getattr(snn, name)) == (name == kind)
    assert isinstance(layer, peer.SpikingNeuron)
    assert isinstance(layer, peer.LIF)
    assert not isinstance(layer, peer.SLSTM)
    assert not isinstance(MAKE[kind](peer), getattr(snn, kind))
    assert type(layer) is getattr(snn, kind)
    assert issubclass(layer.__class__, type(layer))
    assert repr(layer).startswith(f"{kind}(")


def test_classes_of_a_user_stay_what_they_are():
    class Mine(snn.Leaky):
        """A subclass, which looks at its own class."""

        def twin(self):
            return self.__class__(beta=0.5, threshold=2.0)

    layer = Mine(0.9)
    assert isinstance(layer, peer.Leaky)
    assert isinstance(layer, Mine)
    assert layer.__class__.__name__ == "Mine"
    assert layer.__class__ is Mine(0.8).__class__
    twin = layer.twin()
    assert type(twin) is Mine
    assert twin.beta == 0.5
    assert twin.threshold == 2.0
    assert type(copy.deepcopy(layer)) is Mine


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    layer = snn.Synaptic(0.8, 0.9, init_hidden=True)
    driven(layer)
    loaded = pickle.loads(pickle.dumps(layer, protocol))
    assert type(loaded) is snn.Synaptic
    assert torch.equal(loaded.mem, layer.mem)
    assert not loaded.mem.requires_grad
    assert "mem" in dict(loaded.named_buffers())
    driven(loaded)
    assert not torch.equal(loaded.mem, layer.mem)


class Halved(nn.Module):
    """Half of a parameter."""

    def forward(self, x):
        return x / 2


def test_parametrisation():
    """Which makes a subclass, and puts back the class that it saw."""
    layer = snn.Leaky(0.8, learn_beta=True)
    parametrize.register_parametrization(layer, "beta", Halved())
    assert isinstance(layer, snn.Leaky)
    assert isinstance(layer, peer.Leaky)
    _, mem = layer(torch.ones(1), torch.ones(1))
    assert mem == 1.4
    layer.reset_mem()
    assert isinstance(copy.deepcopy(layer), snn.Leaky)
    parametrize.remove_parametrizations(layer, "beta")
    assert type(layer) is snn.Leaky
    assert pickle.loads(pickle.dumps(layer)).beta == 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_buffers_that_are_not_saved(kind):
    ours, theirs = (MAKE[kind](module, init_hidden=True) for module in (snn, peer))
    assert {name for name, _ in ours.named_buffers()} >= {*STATES[kind]}
    assert [name for name in STATES[kind] if name in dict(theirs.named_buffers())] == [*STATES[kind]]
    driven(ours)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert {*STATES[kind]}.isdisjoint(ours.state_dict())
    for name in STATES[kind]:
        assert dict(ours.named_buffers())[name] is getattr(ours, name)
        setattr(ours, name, torch.full((2, 3), 0.5))
        assert torch.equal(dict(ours.named_buffers())[name], torch.full((2, 3), 0.5))
    ours.double()
    assert all(state.dtype == torch.float64 for state in states(ours))
    ours.to("meta")
    assert all(state.is_meta and state.shape == (2, 3) for state in states(ours))


def test_checkpoints_go_both_ways():
    file = io.BytesIO()
    ours, theirs = (module.Leaky(0.7, init_hidden=True) for module in (snn, peer))
    driven(ours), driven(theirs)
    torch.save(ours.state_dict(), file)
    file.seek(0)
    theirs.load_state_dict(torch.load(file))
    ours.load_state_dict(theirs.state_dict())
    assert ours.mem.any()  # loading leaves a state alone


@pytest.mark.parametrize("kind", KINDS)
def test_probes_of_snntorch(kind):
    """`AttributeMonitor` looks for buffers, parameters and modules alone."""
    records = []
    for module in (snn, peer):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 3), MAKE[kind](module, init_hidden=True))
        instance = getattr(peer, kind)  # also as code that imports snnTorch itself names it
        attribute, output = probe.AttributeMonitor("mem", False, net, instance), probe.OutputMonitor(net, instance)
        with torch.no_grad():
            for _ in range(3):
                net(torch.ones(2, 3))
        assert attribute.monitored_layers == ["1"]
        assert len(attribute.records) == len(output.records) == 3
        records.append([*attribute["1"], *output["1"]])
    assert all(map(torch.equal, *records))


def test_a_replica_has_states_of_its_own():
    """What `nn.DataParallel` does on every device: copy the module without its tensors, then assign it those of the device."""
    layer = snn.Leaky(0.9, init_hidden=True)
    driven(layer)
    replica = layer._replicate_for_data_parallel()
    for name, buffer in layer.named_buffers():
        setattr(replica, name, buffer.detach().clone())
    kept = layer.mem
    replica(torch.ones(2, 3))
    assert layer.mem is kept
    assert not torch.equal(replica.mem, kept)


@pytest.fixture(scope="module")
def backprop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("spikegrad.compat.snntorch.backprop")


@pytest.mark.parametrize("how", ["BPTT", "TBPTT", "RTRL"])
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "Alpha"])
def test_backprop_of_snntorch_trains_ours(kind, how, backprop):
    loss = importlib.import_module("spikegrad.compat.snntorch.functional").ce_rate_loss()
    trained = []
    for module in (snn, peer):
        peer.SpikingNeuron.instances.clear()
        torch.manual_seed(0)
        layers = [MAKE[kind](module, init_hidden=True, threshold=0.2), MAKE[kind](module, init_hidden=True, output=True, threshold=0.2)]
        net = nn.Sequential(nn.Linear(4, 8), layers[0], nn.Linear(8, 3), layers[1])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        data = [(torch.rand(2, 4), torch.tensor([0, 2])) for _ in range(2)]
        arguments = {"num_steps": 6, "time_var": False} | ({"K": 3} if how == "TBPTT" else {})
        average = getattr(backprop, how)(net, data, optimizer, loss, **arguments)
        trained.append((average.detach(), [p.detach() for p in net.parameters()]))
    torch.testing.assert_close(trained[0], trained[1])
    torch.manual_seed(0)
    assert (kind, how) == ("Alpha", "RTRL") or not torch.equal(trained[0][1][0], nn.Linear(4, 8).weight)  # its first step is 0


class Recorded:
    """In the place of `nir`, of which snnTorch 1.0.0 and nirtorch want versions that do not go together: keeps what it is told."""

    def __getattr__(self, name):
        return lambda **given: (name, given)


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky", "RSynaptic"])
def test_the_exporter_of_snntorch_reads_ours(kind, monkeypatch):
    pytest.importorskip("nirtorch")
    export = importlib.import_module("spikegrad.compat.snntorch.export_nir")
    monkeypatch.setattr(export, "nir", Recorded())
    options = {"V": torch.tensor([0.5, -0.5, 0.25])} if kind[0] == "R" else {}
    ours, theirs = (export._extract_snntorch_module(MAKE[kind](module, threshold=0.5, **options)) for module in (snn, peer))
    assert repr(ours) == repr(theirs)
    assert "v_threshold" in repr(ours)
