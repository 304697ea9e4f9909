"""When a training step runs as a CUDA graph, and that it is one only if it computes the same; the device itself is not needed."""

import copy
import dataclasses
import pickle
import types

import pytest

pytest.importorskip("lightning")

import torch
from lightning.pytorch.strategies import DDPStrategy

from spikegrad import NoisyThreshold
from spikegrad.training import Config, graphs, train
from spikegrad.training.graphs import REPEATS, Captured
from spikegrad.training.network import Network, OwnNetwork

CONFIG = Config(hidden=(6,), steps=3, dropout=0.25)


def made(config=CONFIG):
    torch.manual_seed(0)
    return Network(config, 4, 3)


@pytest.fixture
def anywhere(monkeypatch):
    """As if there were nothing in the way."""
    monkeypatch.setattr(graphs, "obstacle", lambda *_, **__: None)


class Taken:
    """What stands for a capture: it counts, and runs the network."""

    def __init__(self, result=True):
        self.captures, self.replays, self.result = 0, 0, result

    def __call__(self, network, x):
        self.captures += 1
        if isinstance(self.result, Exception):
            raise self.result

        def run(x):
            self.replays += 1
            return network(x)

        return run if self.result else None


def test_one_shape_again_and_again(anywhere):
    """It is captured after some steps, once; another shape, as that of an epoch's last batch, runs as ever."""
    taken = Taken()
    run = Captured(made(), taken)
    x = torch.rand(5, 4)
    for _ in range(REPEATS):
        run(x)
        run(x[:2])
    assert (taken.captures, taken.replays) == (0, 0)
    assert run.reason == "no step has repeated yet"
    for _ in range(3):
        run(x)
        run(x[:2])
    assert (taken.captures, taken.replays, run.reason) == (1, 3, "")
    run(x.double().float().t().contiguous().t())  # other strides
    assert taken.replays == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda n: setattr(n.dropout, "p", 0.5),
        lambda n: n.eval(),
        lambda n: n.layers[0][0].weight.requires_grad_(False),
        lambda n: setattr(n.layers[0][0], "weight", torch.nn.Parameter(n.layers[0][0].weight.detach().clone())),
        lambda n: setattr(n.layers[0][-1].spike, "surrogate", dataclasses.replace(n.layers[0][-1].spike.surrogate, slope=9.0)),
        lambda n: setattr(n.layers[0][-1], "neuron", n.readout[-1].neuron),
    ],
    ids=["dropout", "evaluation", "frozen", "another weight", "slope", "neuron"],
)
def test_what_has_changed_ends_it(change, anywhere):
    """A graph would go on with what it was captured with."""
    taken, network = Taken(), made()
    run, x = Captured(network, taken), torch.rand(5, 4)
    for _ in range(REPEATS + 2):
        run(x)
    assert taken.replays == 2
    with torch.no_grad():
        network.layers[0][0].weight.mul_(0.5)  # as an optimiser does
    run(x)
    assert taken.replays == 3
    change(network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "__call__", lambda self, x: "as ever")
        assert [run(x), run(x)] == ["as ever"] * 2
    assert (taken.captures, taken.replays, run.reason) == (1, 3, "the network has been changed since")


@pytest.mark.parametrize(
    ("result", "words"),
    [(None, "does not compute the same bits"), (RuntimeError("operation not permitted when stream is capturing\nmore"), "not permitted")],
)
def test_what_cannot_be_captured_runs_as_ever(result, words, anywhere):
    taken = Taken(result)
    run, x = Captured(made(), taken), torch.rand(5, 4)
    for _ in range(REPEATS + 4):
        assert run(x).scores.shape == (5, 3)
    assert taken.captures == 1
    assert words in run.reason
    assert "more" not in run.reason


def on_a_gpu(**other):
    return types.SimpleNamespace(**{"is_cuda": True, "requires_grad": False, "device": torch.device("cuda")} | other)


def test_obstacles():
    def said(network=None, x=None, *, alone=True):
        return graphs.obstacle(network or made(), x or on_a_gpu(), alone=alone)

    assert said() is None
    assert graphs.obstacle(made(), torch.rand(5, 4), alone=True) == "it does not run on a GPU of CUDA"
    assert said(OwnNetwork(CONFIG, torch.nn.Linear(4, 3), 3)) == "it is a network of one's own"
    assert said(alone=False) == "several processes or several batches make a step"
    assert said(x=on_a_gpu(requires_grad=True)) == "nothing is to be learned"
    with torch.no_grad():
        assert said() == "nothing is to be learned"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        assert said() == "it runs under autocast"
    assert said(made(Config(hidden=(6,), steps=3, memory="recompute"))) == "it computes its hidden layers anew"
    network = made()
    network.layers[0][-1].register_forward_hook(lambda *_: None)
    assert said(network) == "it has hooks"
    network = made()
    network.layers[0][-1].spike.surrogate = NoisyThreshold()
    assert said(network) == "its surrogate draws noise"


@pytest.fixture
def cuda(monkeypatch):
    """PyTorch's own of the same names, on the CPU; what is returned makes the graph."""
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))

    def set_up(make):
        def warmed(module, sample, **options):
            for _ in range(3):
                module(*sample)
            return make(module)

        monkeypatch.setattr(torch.cuda, "make_graphed_callables", warmed)

    return set_up


def buffers(network):
    return [b.clone() for b in network.buffers()]


@pytest.mark.parametrize("rate_weight", [0.0, 1.0])
def test_a_capture_leaves_no_trace(rate_weight, cuda):
    """What batch normalisation counts and the random numbers are as before, and what the graph computes is what the network does."""
    cuda(lambda module: module)
    network, x = made(Config(hidden=(6,), steps=3, rate_weight=rate_weight)), torch.rand(5, 4)
    before, random = buffers(network), torch.get_rng_state()
    run = graphs.captured(network, x)
    assert run is not None
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in network.parameters())
    ours = run(x)
    torch.set_rng_state(random)
    theirs = network(x)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.spikes[0], theirs.spikes[0])
    assert ours.spikes[0].requires_grad == (rate_weight > 0)
    assert ours.scores.requires_grad


class Wrong:
    """Graphs that do not do what the network does."""

    @staticmethod
    def scores(module):
        def run(x):
            found = module(x)
            return found._replace(scores=found.scores * (1 + 2e-7))

        return run

    @staticmethod
    def gradient(module):
        def run(x):
            found = module(x)
            return found._replace(scores=2 * found.scores - found.scores.detach())

        return run

    @staticmethod
    def random(module):
        def run(x):
            torch.rand(1)
            return module(x)

        return run

    @staticmethod
    def statistics(module):
        def run(x):
            with torch.no_grad():
                module.network.layers[0][1].running_mean.add_(1.0)
            return module(x)

        return run

    @staticmethod
    def a_second_time(module):
        calls = []

        def run(x):
            calls.append(1)
            found = module(x)
            return found if len(calls) < 2 else found._replace(scores=found.scores + 1)

        return run


@pytest.mark.parametrize("wrong", ["scores", "gradient", "random", "statistics", "a_second_time"])
def test_a_graph_that_differs_is_not_taken(wrong, cuda):
    cuda(getattr(Wrong, wrong))
    torch.manual_seed(1)
    network = made()
    before = buffers(network)
    assert graphs.captured(network, torch.rand(5, 4)) is None
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))


def test_copies_begin_anew(anywhere):
    run, x = Captured(made(), Taken()), torch.rand(5, 4)
    for _ in range(REPEATS + 1):
        run(x)
    for other in (copy.deepcopy(run), pickle.loads(pickle.dumps(Captured(made())))):
        assert other.reason == "no step has repeated yet"
        assert other.network is not run.network


def test_training_takes_it(small, tmp_path, anywhere, monkeypatch):
    """And comes to the same; with `graphs=False` it does without."""
    taken, found = Taken(), []
    monkeypatch.setattr(graphs, "captured", taken)
    settings = {"data": small, "hidden": (4,), "steps": 3, "batch": 2, "epochs": 1, "accelerator": "cpu"}
    for wanted in (True, False):
        run = train(Config(**settings, graphs=wanted), tmp_path / str(wanted)).run
        found.append([row["validation_loss"] for row in run.metrics()])
        assert taken.captures == 1
        assert taken.replays > 2
        replays, taken.replays = taken.replays, 3
    assert replays == 3, "graphs=False took one"
    assert found[0] == found[1]


def test_several_devices_do_without(monkeypatch):
    from spikegrad.data import load
    from spikegrad.training import SpikingModule

    module, said = SpikingModule(Config(hidden=(4,), steps=3), load("digits")), []
    monkeypatch.setattr(Captured, "__call__", lambda self, x, *, alone: said.append(alone) or self.network(x))
    for strategy, accumulated in ((DDPStrategy(), 1), (object(), 1)):
        trainer = types.SimpleNamespace(strategy=strategy, accumulate_grad_batches=accumulated)
        monkeypatch.setattr(SpikingModule, "trainer", trainer)
        with pytest.raises((AttributeError, RuntimeError, TypeError)):  # the rest of a step wants more of a trainer
            module.training_step((torch.rand(5, 64), torch.zeros(5, dtype=torch.long)), 0)
    assert said == [False, False]
