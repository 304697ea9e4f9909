"""A fused network is the network: the same spikes, potentials and gradients as step by step, here and in snnTorch, or a reason why not."""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spikegrad.compat import snntorch as ours
from spikegrad.compat.snntorch import FusionError, FusionWarning, fuse

theirs = pytest.importorskip("snntorch")

pytestmark = pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")

STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 12, 4, 6, 8, 3


def dyadic(module, seed=0):
    """Weights whose sums are exact in any order, so that spikes can be compared bit for bit however a product is computed."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for p in layer.parameters(recurse=False):
                p.data = torch.randint(-24, 40, p.shape, generator=generator) / 64
    return module


def inputs(steps=STEPS, batch=BATCH, shape=(INPUTS,), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 16, (steps, batch, *shape), generator=generator) / 16


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


def gradients(outputs, network, x):
    total = sum((o * torch.randn(o.shape, generator=torch.Generator().manual_seed(3))).sum() for o in outputs)
    wanted = {"x": x} | {name: p for name, p in network.named_parameters() if p.requires_grad}
    return dict(zip(wanted, torch.autograd.grad(total, wanted.values(), allow_unused=True), strict=True))


def same(expected, network, got, other, x, y):
    """Bit-equal outputs and equal gradients of the outputs' weighted sum."""
    expected, got = flat(expected), flat(got)
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        assert torch.equal(a, b), f"largest difference {(a - b).abs().max()}"
    assert any(0 < float((a != 0).float().mean()) for a in expected), "nothing was compared"
    first, second = gradients(expected, network, x), gradients(got, other, y)
    assert first.keys() == second.keys()
    for name, a in first.items():
        if a is None:
            assert second[name] is None or not second[name].any(), name
        else:
            torch.testing.assert_close(second[name], a, rtol=1e-4, atol=2e-6 * max(1.0, float(a.abs().max())), msg=lambda m, n=name: f"{n}: {m}")


# Structures. Each builds the same network from the names of either library; a one-step network has a loop around it.


def stack(results):
    if isinstance(results[0], torch.Tensor):
        return torch.stack(results)
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def reset(snn, network):
    """snnTorch's own `utils.reset` misses layers that are nested more than once."""
    for layer in network.modules():
        if isinstance(layer, snn.SpikingNeuron):
            layer.reset_mem()


def reset_theirs(network):
    reset(theirs, network)


def reset_ours(network):
    reset(ours, network)


def loop(snn, network, x, *states, feeds=()):
    """What a user writes around a network of one step."""
    reset(snn, network)
    results, states = [], list(states)
    for step in range(x.size(0)):
        result = network(x[step], *states)
        results.append(result)
        for place, output in enumerate(feeds):
            states[place] = result[output]
    return stack(results)


def sequential(snn, neuron, last):
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), neuron(init_hidden=True), nn.Linear(HIDDEN, OUTPUTS), last(init_hidden=True))


def sequential_with_output(snn, neuron, last):
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), neuron(init_hidden=True), nn.Linear(HIDDEN, OUTPUTS), last(init_hidden=True, output=True))


def nested(snn, neuron, last):
    block = nn.Sequential(nn.Linear(INPUTS, HIDDEN), neuron(init_hidden=True))
    return nn.Sequential(block, nn.Sequential(nn.Sequential(nn.Linear(HIDDEN, OUTPUTS)), last(init_hidden=True)))


class Layers(nn.Module):
    def __init__(self, neuron, last, **options):
        super().__init__()
        self.fc1 = nn.Linear(INPUTS, HIDDEN)
        self.lif1 = neuron(**options)
        self.fc2 = nn.Linear(HIDDEN, OUTPUTS)
        self.lif2 = last(**options)

    def rest(self):
        return self.lif1.reset_mem(), self.lif2.reset_mem()


class HiddenStep(Layers):
    """One step, whose layers keep their states."""

    def __init__(self, neuron, last):
        super().__init__(neuron, last, init_hidden=True)

    def forward(self, x):
        return self.lif2(torch.tanh(self.fc2(self.lif1(self.fc1(x)))) * 2)


class Tutorial(Layers):
    """As snnTorch's tutorials write it, with any number of states."""

    def forward(self, x):
        state1, state2 = ((s if isinstance(s, tuple) else (s,)) for s in self.rest())
        spikes, potentials = [], []
        for step in range(x.size(0)):
            spk1, *state1 = self.lif1(self.fc1(x[step]), *self.given(self.lif1, state1))
            spk2, *state2 = self.lif2(self.fc2(spk1), *self.given(self.lif2, state2))
            state1, state2 = (spk1, *state1), (spk2, *state2)
            spikes.append(spk2)
            potentials.append(state2[-1])
        return torch.stack(spikes, dim=0), torch.stack(potentials, dim=0)

    @staticmethod
    def given(layer, state):
        """The recurrent layers take their spikes as a state; of the others the results begin with spikes, which they do not take."""
        count = {"Leaky": 1, "Synaptic": 2, "RLeaky": 2, "RSynaptic": 3, "Alpha": 3, "Lapicque": 1}[type(layer).__name__]
        return state[len(state) - count :]


class Static(Layers):
    """The same input at each step."""

    num_steps = 9

    def forward(self, x):
        mem1, mem2 = self.rest()
        potentials = []
        for _ in range(self.num_steps):
            spk1, mem1 = self.lif1(self.fc1(x[0]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            potentials.append(mem2)
        return torch.stack(potentials), spk2


class BatchFirst(Layers):
    """Input ``(batch, time, features)``, potentials of the hidden layer too, time last."""

    def forward(self, x):
        x = x.transpose(0, 1)
        mem1, mem2 = self.rest()
        spikes, potentials = [], []
        for step in range(x.shape[1]):
            spk1, mem1 = self.lif1(self.fc1(x[:, step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            potentials.append(mem1)
        return torch.stack(spikes, dim=-1), torch.stack(potentials, 1)


class Iterated(Layers):
    """A loop over the tensor itself; lists are returned."""

    def forward(self, x):
        mem1, mem2 = self.rest()
        results = {"spikes": [], "potentials": []}
        for current in x:
            spk1, mem1 = self.lif1(self.fc1(current.flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            results["spikes"].append(spk2)
            results["potentials"].append(mem2)
        return results["spikes"], results["potentials"]


class Written(Layers):
    """Results are written into tensors made beforehand."""

    def forward(self, x):
        mem1, mem2 = torch.zeros(x.size(1), HIDDEN), torch.zeros(x.size(1), OUTPUTS)
        spikes = torch.zeros(x.size(0), x.size(1), OUTPUTS)
        potentials = torch.zeros(x.size(1), x.size(0), OUTPUTS)
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step, ...]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes[step] = spk2
            potentials[:, step] = mem2
        return spikes, potentials * 2


class Summed(Layers):
    """Running sums, in and out of place, and the last of everything."""

    def forward(self, x):
        mem1, mem2 = self.rest()
        count, total = 0, torch.zeros(x.size(1), OUTPUTS)
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            count = count + spk2
            total += mem2
        return count, total / x.size(0), mem1, mem2, spk2


class Resetting(Layers):
    """A loop in `forward` over layers that keep their states, reset beforehand; the state is read from the layer."""

    def __init__(self, neuron, last, reset):
        super().__init__(neuron, last, init_hidden=True)
        self.reset = reset

    def forward(self, x):
        self.reset(self)
        spikes, potentials = [], []
        for step in range(x.size(0)):
            spikes.append(self.lif2(self.fc2(self.lif1(self.fc1(x[step])))))
            potentials.append(self.lif2.mem)
        return torch.stack(spikes), torch.stack(potentials)


class Residual(Layers):
    """Layers used twice in a step, connections that skip one, and one that is a step late."""

    def forward(self, x):
        mem1, mem2 = self.rest()
        late = torch.zeros(x.size(1), OUTPUTS)
        spikes = []
        for step in range(x.size(0)):
            current = self.fc1(x[step])
            spk1, mem1 = self.lif1(current, mem1)
            cur2 = self.fc2(spk1) + self.fc2(F.relu(current)) / 2
            spk2, mem2 = self.lif2(cur2 + late, mem2)
            late = cur2 / 4
            spikes.append(spk2)
        return torch.stack(spikes)


class TwoSequences(Layers):
    """Two passes through the same layers, the second of which starts from rest again and sees the result of the first."""

    def forward(self, x):
        results = []
        for _ in range(2):
            mem1, mem2 = self.rest()
            spikes = []
            for step in range(x.size(0)):
                spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                spikes.append(spk2)
            results.append(torch.stack(spikes))
            x = x + results[-1].mean(-1, keepdim=True) / 4
        return results


LOOPS = {c.__name__: c for c in (Tutorial, Static, BatchFirst, Iterated, Written, Summed, Residual, TwoSequences)}
ONE_STEP = {f.__name__: f for f in (sequential, sequential_with_output, nested)}


def leaky(snn, **options):
    return functools.partial(snn.Leaky, **{"beta": 0.875, "learn_beta": True, "learn_threshold": True, **options})


@pytest.fixture(params=[*ONE_STEP, "HiddenStep"])
def one_step(request):
    def build(snn):
        make = ONE_STEP.get(request.param)
        return make(snn, leaky(snn), leaky(snn)) if make else HiddenStep(leaky(snn), leaky(snn))

    return build


def test_a_network_of_one_step(one_step):
    real, written = dyadic(one_step(theirs)), dyadic(one_step(ours))
    fused = fuse(copy.deepcopy(written), inputs()[0])
    x, y, z = (inputs().requires_grad_() for _ in range(3))
    expected = loop(theirs, real, x)
    same(expected, real, loop(ours, written, y), written, x, y)
    same(loop(theirs, real, x), real, fused(z), fused, x, z)
    assert set(fused.report().values()) == {"fused", "whole sequence"}


@pytest.mark.parametrize("structure", [*LOOPS, "Resetting"])
def test_a_network_that_loops(structure):
    def build(snn):
        if structure == "Resetting":
            return Resetting(leaky(snn), leaky(snn), reset_theirs if snn is theirs else reset_ours)
        return LOOPS[structure](leaky(snn), leaky(snn))

    real, written = dyadic(build(theirs)), dyadic(build(ours))
    fused = fuse(copy.deepcopy(written), inputs())
    x, y, z = (inputs().requires_grad_() for _ in range(3))
    same(real(x), real, written(y), written, x, y)
    same(real(x), real, fused(z), fused, x, z)
    assert set(fused.report().values()) == {"fused", "whole sequence"}


class DocumentedStep(nn.Module):
    """The network of snnTorch's page on surrogates: states in and out, in an order of its own."""

    def __init__(self, snn):
        super().__init__()
        surrogate = snn.surrogate
        self.fc1 = nn.Linear(INPUTS, HIDDEN)
        self.lif1 = snn.Synaptic(alpha=0.75, beta=0.875, learn_alpha=True, spike_grad=surrogate.fast_sigmoid())
        self.fc2 = nn.Linear(HIDDEN, OUTPUTS)
        self.lif2 = snn.Synaptic(alpha=0.75, beta=0.875, learn_beta=True, spike_grad=surrogate.fast_sigmoid(slope=50))

    def forward(self, x, syn1, mem1, spk1, syn2, mem2):
        spk1, syn1, mem1 = self.lif1(self.fc1(x), syn1, mem1)
        spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
        return syn1, mem1, spk1, syn2, mem2, spk2


FEEDS = (0, 1, 2, 3, 4)


def states(scale=0.0):
    return [torch.full((BATCH, n), scale) for n in (HIDDEN, HIDDEN, HIDDEN, OUTPUTS, OUTPUTS)]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5], ids=["rest", "below", "above the threshold"])
def test_states_passed_in_and_out(scale):
    real, written = dyadic(DocumentedStep(theirs)), dyadic(DocumentedStep(ours))
    fused = fuse(copy.deepcopy(written), (inputs()[0], *states()))
    x, y, z = (inputs().requires_grad_() for _ in range(3))
    expected = loop(theirs, real, x, *states(scale), feeds=FEEDS)
    same(expected, real, loop(ours, written, y, *states(scale), feeds=FEEDS), written, x, y)
    same(loop(theirs, real, x, *states(scale), feeds=FEEDS), real, fused(z, *states(scale)), fused, x, z)
    if not scale:
        for a, b in zip(fused(z), fused(z, *states()), strict=True):  # states left out are rest
            assert torch.equal(a, b)


def test_gradients_reach_the_states_a_sequence_starts_from():
    written = dyadic(DocumentedStep(ours))
    fused = fuse(written, (inputs()[0], *states()))
    start, other = ([s.requires_grad_() for s in states(0.5)] for _ in range(2))
    for outputs in (loop(ours, written, inputs(), *start, feeds=FEEDS), fused(inputs(), *other)):
        sum((o * (1 + place)).sum() for place, o in enumerate(outputs)).backward()
    for place in (0, 1, 3, 4):
        torch.testing.assert_close(other[place].grad, start[place].grad, rtol=1e-5, atol=1e-4)


def test_a_sequence_in_two_halves_is_the_sequence():
    fused = fuse(dyadic(DocumentedStep(ours)), (inputs()[0], *states()))
    whole = fused(inputs())
    first = fused(inputs()[:5])
    second = fused(inputs()[5:], *(first[place][-1] for place in FEEDS))
    for all_steps, early, late in zip(whole, first, second, strict=True):
        assert torch.equal(all_steps, torch.cat([early, late]))


# Neurons: those the kernels know, and those that run step by step within.

SURROGATES = ["atan", "fast_sigmoid", "sigmoid", "spike_rate_escape", "straight_through_estimator", "triangular", "SFS", "heaviside"]


def kinds(snn, kind, **options):
    size = {"linear_features": options.pop("size", HIDDEN)}
    decays = {"Synaptic": {"alpha": 0.75}, "RSynaptic": {"alpha": 0.75}, "Alpha": {"alpha": 0.875}}.get(kind, {})
    decays |= {"beta": 0.75 if kind == "Alpha" else 0.875}
    return getattr(snn, kind)(**decays, **(size if kind[0] == "R" else {}), **options)


def network(snn, kind, **options):
    """A layer of this kind between two linear ones, and a plain last one."""
    return dyadic(Tutorial(lambda **more: kinds(snn, kind, **options, **more), leaky(snn)))


def compared(kind, how, **options):
    real, written = (network(snn, kind, **{k: v(snn) if callable(v) else v for k, v in options.items()}) for snn in (theirs, ours))
    fused = fuse(copy.deepcopy(written), inputs())
    x, y, z = (inputs().requires_grad_() for _ in range(3))
    same(real(x), real, written(y), written, x, y)
    same(real(x), real, fused(z), fused, x, z)
    assert how in fused.report()["lif1"]
    assert fused.report()["lif2"] == "fused"


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_kinds_and_resets(kind, reset):
    learned = {"learn_beta": True, "learn_threshold": True} | ({"learn_alpha": True} if kind == "Synaptic" else {})
    compared(kind, "fused", reset_mechanism=reset, threshold=0.75, **learned)


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates(name):
    compared("Leaky", "fused", spike_grad=lambda snn: getattr(snn.surrogate, name)())


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": -0.25},
        {"graded_spikes_factor": 2.5, "learn_graded_spikes_factor": True},
        {"beta": torch.linspace(-0.25, 1.25, HIDDEN), "learn_beta": True},
        {"threshold": torch.linspace(0.5, 1.5, HIDDEN), "learn_threshold": True},
    ],
    ids=["negative threshold", "graded", "clamped decays", "thresholds"],
)
def test_parameters(options):
    def make(snn):
        return dyadic(Tutorial(lambda **more: snn.Leaky(**{"beta": 0.875, **copy.deepcopy(options), **more}), leaky(snn)))

    real, written = make(theirs), make(ours)
    fused = fuse(copy.deepcopy(written), inputs())
    x, z = (inputs().requires_grad_() for _ in range(2))
    same(real(x), real, fused(z), fused, x, z)
    assert fused.report()["lif1"] == "fused"


def custom(input_, grad_input, spikes):
    return grad_input / (3 * torch.abs(input_) + 1.0) ** 2


@pytest.mark.parametrize(
    ("why", "options"),
    [
        ("reset_delay=False", {"reset_delay": False}),
        ("inhibition", {"inhibition": True}),
        ("its state is quantised", {"state_quant": lambda _: lambda mem: torch.round(mem * 4) / 4}),
        ("a function of its own", {"spike_grad": lambda snn: snn.surrogate.custom_surrogate(custom)}),
        ("surrogate_disable", {"surrogate_disable": True}),
    ],
)
def test_what_the_kernels_cannot_runs_step_by_step_within(why, options):
    compared("Leaky", f"step loop, because {why}" if why == "its state is quantised" else why, **options)


def test_a_network_that_gains_nothing_says_so():
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), ours.Leaky(0.9, init_hidden=True, reset_delay=False))
    with pytest.warns(FusionWarning, match="none of the spiking layers of Sequential can run in the fused kernels: `1`: with reset_delay=False"):
        fused = fuse(net)
    assert torch.equal(fused(inputs()), loop(ours, net, inputs()))
