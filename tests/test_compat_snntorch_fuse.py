"""A fused network is the network: the same spikes, potentials and gradients as step by step, here and in snnTorch, or a reason why not."""

import copy
import functools
import itertools
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.conftest import pairwise, product
from torch import nn
from torch.nn import functional

from spikegrad import ATan
from spikegrad.compat import snntorch as ours
from spikegrad.compat.snntorch import FusionError, FusionWarning, fuse
from spikegrad.compat.snntorch.fusion import sequence
from spikegrad.nn import Spike

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
    assert any(float((a != 0).float().mean()) > 0 for a in expected), "nothing was compared"
    first, second = gradients(expected, network, x), gradients(got, other, y)
    assert first.keys() == second.keys()
    for name, a in first.items():
        if a is None:
            assert second[name] is None or not second[name].any(), name
        else:
            torch.testing.assert_close(
                second[name], a, rtol=1e-4, atol=2e-6 * max(1.0, float(a.abs().max())), msg=lambda m, n=name: f"{n}: {m}"
            )


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
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), neuron(init_hidden=True), nn.Linear(HIDDEN, OUTPUTS), last(init_hidden=True, output=True)
    )


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
            cur2 = self.fc2(spk1) + self.fc2(functional.relu(current)) / 2
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


class Shared(Layers):
    """One spiking layer for two, each with a state of its own."""

    def forward(self, x):
        mem1, mem2 = torch.zeros(x.size(1), HIDDEN), torch.zeros(x.size(1), HIDDEN)
        spikes = []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif1(spk1 * 0.75 - 0.25, mem2)
            spikes.append(spk2)
        return torch.stack(spikes), mem1, mem2


class Sliced(Layers):
    """Steps cut out in all ways that keep the dimension, or do not."""

    def forward(self, x):
        mem1, mem2 = self.rest()
        spikes = []
        for step, (a, b) in enumerate(zip(x.split(1), x.chunk(x.size(0)), strict=True)):
            c, d = x[step : step + 1].squeeze(0), x.transpose(0, 1)[:, step : step + 1, :].squeeze(1)
            e = x[..., 0].unsqueeze(-1)[step]
            f = x.select(0, step - x.size(0)) + x.unbind()[step] + torch.unbind(x, 0)[step]
            spk1, mem1 = self.lif1(self.fc1((a[0] + b[0] + c + d + e + f) / 8), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes += [spk2.unsqueeze(0)]
        return torch.cat(spikes)


class Losses(Layers):
    """The loss of every step, summed within forward, and other things that are done with single steps."""

    def forward(self, x):
        mem1, mem2 = self.rest()
        labels = torch.arange(x.size(1)) % OUTPUTS
        loss, best, counts = torch.zeros(()), None, []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            loss = loss + functional.cross_entropy(mem2, labels)
            best = mem2 if best is None else torch.maximum(best, mem2)
            counts.append(spk2.sum(0))
            if step == 2:
                early = mem1 * 2
        values, places = best.max(-1)
        return loss, values, places, sum(counts), early, functional.softmax(mem2, -1)


class Blocks(nn.Module):
    """Networks within networks, of which one is a list and one keeps its states."""

    def __init__(self, neuron, last):
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.LayerNorm(HIDDEN)), nn.Sequential(nn.Linear(HIDDEN, HIDDEN))]
        )
        self.neurons = nn.ModuleList([neuron(), neuron()])
        self.weight = nn.Parameter(torch.randn(OUTPUTS, HIDDEN, generator=torch.Generator().manual_seed(0)).mul(32).round() / 64)
        self.scale = torch.tensor(1.5)
        self.out = nn.ModuleDict({"lif": last(init_hidden=True, output=True)})

    def forward(self, x):
        self.out["lif"].reset_mem()
        states = [neuron.reset_mem() for neuron in self.neurons]
        results = []
        for current in x:
            for place, block in enumerate(self.blocks):
                current, states[place] = self.neurons[place](torch.round(block(current) * 64) / 64 * self.scale, states[place])
            results.append(self.out["lif"](current @ self.weight.t()))
        return [torch.stack(result) for result in zip(*results, strict=True)]


class InPlace(Layers):
    """Layers and functions that write to what they are given, which others see before and after."""

    def __init__(self, neuron, last):
        super().__init__(neuron, last)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        mem1, mem2 = self.rest()
        spikes = []
        for step in range(x.size(0)):
            current = self.fc1(x[step])
            doubled = current * 0.5
            self.relu(current)
            spk1, mem1 = self.lif1(current + doubled, mem1)
            current = self.fc2(spk1)
            spk2, mem2 = self.lif2(current, mem2)
            current -= 0.25
            spikes.append(functional.leaky_relu(spk2 + current, 0.5, inplace=True))
        return torch.stack(spikes), mem2


STRUCTURES = (Tutorial, Static, BatchFirst, Iterated, Written, Summed, Residual, TwoSequences, Shared, Sliced, Losses, Blocks, InPlace)
LOOPS = {c.__name__: c for c in STRUCTURES}
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

RESETS = ["subtract", "zero", "none"]
SURROGATES = ["atan", "fast_sigmoid", "sigmoid", "spike_rate_escape", "straight_through_estimator", "SFS", "heaviside"]


def kinds(snn, kind, **options):
    size = {"linear_features": options.pop("size", HIDDEN)}
    decays = {"Synaptic": {"alpha": 0.75}, "RSynaptic": {"alpha": 0.75}, "Alpha": {"alpha": 0.875}}.get(kind, {})
    decays |= {"beta": 0.75 if kind == "Alpha" else 0.875}
    if kind[0] == "R" and options.get("all_to_all", True):
        decays = dict.fromkeys(decays, 0.5) | size  # sums over the neurons are exact
    return getattr(snn, kind)(**decays, **options)


def network(snn, kind, **options):
    """A layer of this kind between two linear ones, and a plain last one."""
    return dyadic(Tutorial(lambda **more: kinds(snn, kind, **options, **more), leaky(snn)))


def compared(kind, how, *, verified=True, **options):
    """Also by `fuse` itself, where `verified`, which it does in float64 and so in kernels of its own."""
    real, written = (network(snn, kind, **{k: v(snn) if callable(v) else v for k, v in options.items()}) for snn in (theirs, ours))
    fused = fuse(copy.deepcopy(written), inputs()) if verified else fuse(copy.deepcopy(written), step=False)
    x, y, z = (inputs().requires_grad_() for _ in range(3))
    same(real(x), real, written(y), written, x, y)
    same(real(x), real, fused(z), fused, x, z)
    assert how in fused.report()["lif1"]
    assert fused.report()["lif2"] == "fused"


@pytest.mark.parametrize(("kind", "reset", "timing"), product(["Leaky", "Synaptic"], RESETS, ["delayed", "immediate"]))
def test_kinds_and_resets(kind, reset, timing):
    delay = timing == "delayed"
    learned = {"learn_beta": True, "learn_threshold": True} | ({"learn_alpha": True} if kind == "Synaptic" else {})
    compared(kind, "fused", verified=reset == "subtract", reset_mechanism=reset, reset_delay=delay, threshold=0.75, **learned)


ROWS = list(zip(itertools.product(["Alpha", "Lapicque"], RESETS), SURROGATES[:6], strict=True))


@pytest.mark.parametrize(("kind", "reset", "surrogate"), [(*row, name) for row, name in ROWS])
def test_kinds_without_an_immediate_reset(kind, reset, surrogate):
    """And, each with one of these, the surrogates."""
    compared(kind, "fused", verified=reset == "subtract", reset_mechanism=reset, spike_grad=lambda snn: getattr(snn.surrogate, surrogate)())


@pytest.mark.parametrize("given", [{}, {"R": 5.0}, {"C": 5.0}])
def test_a_lapicque_that_learns(given):
    """snnTorch's own cannot: the graph of its constructor is gone after one backward pass."""
    written = dyadic(Tutorial(lambda **more: ours.Lapicque(0.875, learn_beta=True, **given, **more), leaky(ours)))
    fused = fuse(copy.deepcopy(written), inputs())
    x, y = (inputs().requires_grad_() for _ in range(2))
    same(written(x), written, fused(y), fused, x, y)
    assert fused.report()["lif1"] == "fused"


RECURRENT = {"kind": ("RLeaky", "RSynaptic"), "reset": RESETS, "all": (True, False), "weight": ("each", "one number")}
FEW_RECURRENT = pairwise(RECURRENT, allowed=lambda name, value, row: name != "weight" or not row.get("all"), once=("weight",))
ALL_RECURRENT = [dict(zip(RECURRENT, values, strict=True)) for values in itertools.product(*RECURRENT.values())]
MORE_RECURRENT = [row for row in ALL_RECURRENT if row not in FEW_RECURRENT and not (row["all"] and row["weight"] == "each")]


@pytest.mark.parametrize("row", [*FEW_RECURRENT, *(pytest.param(row, marks=pytest.mark.slow) for row in MORE_RECURRENT)], ids=str)
def test_recurrent_kinds(row):
    """Connected to all, or each to itself by a weight of its own or the same for all; what `fuse` itself compares, see below."""
    each = torch.linspace(-0.5, 0.75, HIDDEN) if row["weight"] == "each" else 0.5
    options = {} if row["all"] else {"all_to_all": False, "V": lambda _: each}
    compared(row["kind"], "fused", verified=False, reset_mechanism=row["reset"], learn_beta=True, **options)


def test_a_recurrent_convolution_runs_step_by_step_within():
    recurrent = ours.RLeaky(0.5, conv2d_channels=3, kernel_size=3, init_hidden=True)
    written = nn.Sequential(nn.Conv2d(1, 3, 3), recurrent, ours.Leaky(0.5, init_hidden=True))
    fused = fuse(dyadic(written), inputs(shape=IMAGES)[0])
    assert torch.equal(fused(inputs(shape=IMAGES)), loop(ours, written, inputs(shape=IMAGES)))
    assert fused.report()["1"] == "step loop, because its recurrent connection is a Conv2d"
    assert fused.report()["2"] == "fused"


@pytest.mark.parametrize("consistent", [True, False])
def test_a_recurrent_layer_that_starts_from_states(consistent):
    """What resets follows from the potential, what is fed back from the spikes, whether or not one is of the other."""

    class Step(nn.Module):
        def __init__(self, snn):
            super().__init__()
            self.fc = nn.Linear(INPUTS, HIDDEN)
            self.lif = snn.RLeaky(beta=0.5, linear_features=HIDDEN)

        def forward(self, x, spk, mem):
            return self.lif(self.fc(x), spk, mem)

    real, fused = dyadic(Step(theirs)), fuse(dyadic(Step(ours)), (inputs()[0], torch.zeros(BATCH, HIDDEN), torch.zeros(BATCH, HIDDEN)))
    mem = torch.full((BATCH, HIDDEN), 1.5)
    spk = torch.ones_like(mem) if consistent else torch.zeros_like(mem)
    x, z = (inputs().requires_grad_() for _ in range(2))
    got = fused(z, spk, mem)
    same(loop(theirs, real, x, spk, mem, feeds=(0, 1)), real, got, fused, x, z)
    assert fused.report()["lif"] == "fused"


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in SURROGATES[:6]), *SURROGATES[6:]])
def test_surrogates(name):
    compared("Leaky", "fused", spike_grad=lambda snn: getattr(snn.surrogate, name)())


@pytest.mark.parametrize("threshold", [1.0, 0.0])
def test_a_surrogate_of_spikegrad_itself_fires_at_the_threshold(threshold):
    written = Tutorial(
        leaky(ours, spike_grad=ATan(), learn_threshold=False, threshold=threshold), leaky(ours, spike_grad=Spike(ATan(), learn="slope"))
    )
    nn.init.zeros_(dyadic(written).fc1.bias)
    fused, given = fuse(written, inputs()), inputs()
    given[0] = 0.0  # whose potential is 0, the threshold
    x, y = (given.clone().requires_grad_() for _ in range(2))
    same(written(x), written, fused(y), fused, x, y)
    assert fused.report()["lif1"] == "fused"
    assert fused.report()["lif2"] == "step loop, because its spike_grad, a Spike, is run as it is"


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": -0.25},
        {"graded_spikes_factor": 2.5, "learn_graded_spikes_factor": True},
        {
            "beta": torch.linspace(-0.25, 1.25, HIDDEN),
            "learn_beta": True,
            "threshold": torch.linspace(0.5, 1.5, HIDDEN).roll(3),
            "learn_threshold": True,
        },
    ],
    ids=["negative threshold", "graded", "clamped decays and thresholds"],
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
        ("inhibition", {"inhibition": True}),
        ("its state is quantised", {"state_quant": lambda _: lambda mem: torch.round(mem * 4) / 4}),
        ("a CustomGradient, is run as it is", {"spike_grad": lambda snn: snn.surrogate.custom_surrogate(custom)}),
        ("surrogate_disable", {"surrogate_disable": True}),
    ],
)
def test_what_the_kernels_cannot_runs_step_by_step_within(why, options):
    compared("Leaky", f"step loop, because {why}" if why == "its state is quantised" else why, **options)


def test_a_network_that_gains_nothing_says_so():
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), ours.Leaky(0.9, init_hidden=True, inhibition=True))
    with pytest.warns(
        FusionWarning,
        match="none of the spiking layers of Sequential runs in the fused kernels: `1`: step loop, because it has inhibition",
    ):
        fused = fuse(net)
    assert torch.equal(fused(inputs()), loop(ours, net, inputs()))


# Layers between the spiking ones.


class Convolutional(nn.Module):
    """Convolution, pooling, normalisation and dropout between layers that keep their states."""

    def __init__(self, snn, norm=True, dropout=0.0):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.lif1 = snn.Leaky(0.875, init_hidden=True, spike_grad=snn.surrogate.fast_sigmoid(slope=25))
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(64, 5)
        self.lif2 = snn.Leaky(0.875, init_hidden=True, output=True)

    def forward(self, x):
        x = self.pool(self.lif1(self.norm(self.conv(x))))
        return self.lif2(self.fc(self.drop(x).view(x.size(0), -1)))


IMAGES = (1, 8, 8)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_convolutional_network(training):
    real, written = (dyadic(Convolutional(snn)).train(training) for snn in (theirs, ours))
    fused = fuse(copy.deepcopy(written), inputs(shape=IMAGES)[0])
    assert fused.norm.num_batches_tracked == 0  # neither recording nor comparing counts
    x, z = (inputs(shape=IMAGES).requires_grad_() for _ in range(2))
    same(loop(theirs, real, x), real, fused(z), fused, x, z)
    torch.testing.assert_close(fused.norm.running_mean, real.norm.running_mean)
    assert fused.norm.num_batches_tracked == real.norm.num_batches_tracked == (STEPS if training else 0)
    how = fused.report()
    assert how["conv"] == how["pool"] == how["fc"] == "whole sequence"
    assert how["norm"] == ("step loop, because in training its statistics are those of each step" if training else "whole sequence")


def test_dropout_is_drawn_for_each_step_and_follows_the_mode():
    fused = fuse(dyadic(Convolutional(ours, norm=False, dropout=0.5)), inputs(shape=IMAGES)[0])
    x = torch.ones(STEPS, BATCH, *IMAGES)
    kept = []
    fused.fc.register_forward_pre_hook(lambda module, args: kept.append(args[0].detach().clone()))
    fused(x)
    assert fused.report()["drop"].startswith("whole sequence; its random numbers are drawn in another order")
    assert fused.report()["fc"] == "step loop, because it has hooks, which are called at each step"
    assert len(kept) == STEPS
    silent = torch.stack(kept) == 0
    assert not torch.equal(silent[4], silent[5])
    assert 0.3 < float(silent[2:].float().mean()) < 1
    torch.manual_seed(0)
    first = fused(x)[1]
    assert not torch.equal(first, fused(x)[1])
    fused.eval()
    assert not fused.original.drop.training
    assert torch.equal(fused(x)[1], fused(x)[1])
    assert torch.equal(fused(x)[1], loop(ours, fused.original, x)[1])


class Functional(Layers):
    """Functions that read the mode, and a layer that mixes the batch."""

    def forward(self, x):
        mem1, mem2 = self.rest()
        potentials = []
        for step in range(x.size(0)):
            current = functional.dropout(self.fc1(x[step]), 0.5, self.training)
            spk1, mem1 = self.lif1(current - current.mean(0, keepdim=True), mem1)
            _, mem2 = self.lif2(self.fc2(spk1), mem2)
            potentials.append(mem2)
        return torch.stack(potentials)


def test_functions_that_read_the_mode_or_mix_the_batch():
    real, written = dyadic(Functional(leaky(theirs), leaky(theirs))).eval(), dyadic(Functional(leaky(ours), leaky(ours)))
    fused = fuse(written, inputs())
    assert not torch.equal(fused(inputs()), fused(inputs()))
    fused.eval()
    x, z = (inputs().requires_grad_() for _ in range(2))
    same(real(x), real, fused(z), fused, x, z)


def test_no_grad_within_forward_is_kept():
    class Frozen(Layers):
        def forward(self, x):
            mem1, mem2 = self.rest()
            spikes = []
            for step in range(x.size(0)):
                with torch.no_grad():
                    current = self.fc1(x[step])
                spk1, mem1 = self.lif1(current, mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                spikes.append(spk2)
            return torch.stack(spikes)

    real, written = dyadic(Frozen(leaky(theirs), leaky(theirs))), dyadic(Frozen(leaky(ours), leaky(ours)))
    fused = fuse(written, inputs())
    x, z = (inputs().requires_grad_() for _ in range(2))
    same(real(x), real, fused(z), fused, x, z)


# One network, used on.


def tutorial(snn, seed=0):
    return dyadic(Tutorial(leaky(snn), leaky(snn)), seed)


def test_other_steps_and_batches_than_the_example():
    real, fused = tutorial(theirs), fuse(tutorial(ours), inputs())
    for steps, batch in ((1, 1), (5, BATCH), (STEPS, 9), (40, 2)):
        x, z = (inputs(steps, batch).requires_grad_() for _ in range(2))
        expected, got = real(x), fused(z)
        for a, b in zip(expected, got, strict=True):
            assert torch.equal(a, b)


def test_numbers_among_the_attributes_are_read_anew():
    real, written = (dyadic(Static(leaky(snn), leaky(snn))) for snn in (theirs, ours))
    fused = fuse(written, inputs())
    for steps in (9, 4):
        real.num_steps = written.num_steps = steps
        assert torch.equal(real(inputs())[0], fused(inputs())[0])
        assert len(fused(inputs())[0]) == steps


def test_attributes_are_the_originals():
    written = dyadic(Static(leaky(ours), leaky(ours)))
    fused = fuse(written, inputs())
    assert fused.num_steps == 9
    written.num_steps = 5
    fused.num_steps = 3
    assert written.num_steps == 3
    assert len(fused(inputs())[0]) == 3
    fused.note = "mine"
    assert not hasattr(written, "note")
    with pytest.raises(AttributeError, match="missing"):
        _ = fused.missing


def test_integer_inputs():
    net = nn.Sequential(nn.Embedding(7, HIDDEN), ours.Leaky(0.875, init_hidden=True))
    with torch.no_grad():
        net[0].weight.mul_(2)
    tokens = torch.randint(7, (STEPS, BATCH), generator=torch.Generator().manual_seed(0))
    fused = fuse(net, tokens[0])
    assert torch.equal(fused(tokens), loop(ours, net, tokens))
    assert fused.report() == {"1": "fused", "0": "whole sequence"}


@pytest.mark.parametrize("made", ["before", "after"])
def test_training_with_an_optimiser_made_before_or_after(made):
    real, written = tutorial(theirs), tutorial(ours)
    optimisers = [torch.optim.SGD(real.parameters(), 0.125)]
    if made == "before":
        optimisers.append(torch.optim.SGD(written.parameters(), 0.125))
    fused = fuse(written, inputs())
    if made == "after":
        optimisers.append(torch.optim.SGD(fused.parameters(), 0.125))
    start = copy.deepcopy(written.state_dict())
    labels = torch.arange(BATCH) % OUTPUTS
    for seed in range(3):
        for network, optimiser in zip((real, fused), optimisers, strict=True):
            optimiser.zero_grad()
            functional.cross_entropy(network(inputs(seed=seed))[1].mean(0), labels).backward()
            optimiser.step()
    for name, value in real.named_parameters():
        assert not torch.equal(value, start[name])
        torch.testing.assert_close(dict(fused.named_parameters())[name], value, rtol=1e-5, atol=1e-6)
    assert torch.equal(written(inputs())[1], fused(inputs())[1]) or torch.allclose(written(inputs())[1], fused(inputs())[1], atol=1e-5)


def test_parameters_and_state_dict_are_the_originals():
    written = tutorial(ours)
    fused = fuse(written, inputs())
    assert list(fused.state_dict()) == list(written.state_dict()) == list(tutorial(theirs).state_dict())
    assert all(a is b for a, b in zip(fused.parameters(), written.parameters(), strict=True))
    fused.load_state_dict(tutorial(theirs, seed=5).state_dict())
    other = tutorial(ours, seed=5)
    assert torch.equal(written(inputs())[1], other(inputs())[1])
    assert torch.equal(fused(inputs())[1], other(inputs())[1])
    outer = nn.ModuleDict({"net": fused})
    assert list(outer.state_dict()) == [f"net.{name}" for name in written.state_dict()]
    outer.load_state_dict({f"net.{name}": value for name, value in tutorial(ours).state_dict().items()})
    assert torch.equal(written(inputs())[1], tutorial(ours)(inputs())[1])


def test_moving_is_moving_the_original():
    written = tutorial(ours)
    fused = fuse(written, inputs()).double()
    assert written.fc1.weight.dtype == torch.float64
    assert fused(inputs().double())[1].dtype == torch.float64
    assert torch.equal(fused(inputs().double())[1], written(inputs().double())[1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"])
def test_copies_stand_alone(copied):
    fused = fuse(tutorial(ours), inputs())
    before = fused(inputs())[1]
    other = copied(fused)
    assert torch.equal(other(inputs())[1], before)
    with torch.no_grad():
        other.fc1.weight.zero_()
    assert torch.equal(fused(inputs())[1], before)
    assert not torch.equal(other(inputs())[1], before)
    assert other.original.fc1 is other.fc1
    before.sum().backward()  # a graph in progress is no obstacle either
    copied(fused)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    written = tutorial(ours)
    fused = fuse(written, step=False)
    with mode():
        got = fused(inputs())
    assert not got[1].requires_grad
    assert torch.equal(got[1], written(inputs())[1])
    assert fused(inputs())[1].requires_grad


def test_nothing_is_stored():
    written = dyadic(HiddenStep(leaky(ours), leaky(ours)))
    state = torch.full((BATCH, HIDDEN), 0.25)
    written.lif1.mem = state
    fused = fuse(written, inputs()[0])
    first, second = fused(inputs()), fused(inputs())
    assert torch.equal(first, second)
    (first.sum() + second.sum()).backward()
    assert written.lif1.mem is state


def test_two_networks_do_not_know_each_other():
    one, other = fuse(tutorial(ours), inputs()), fuse(tutorial(ours, seed=3), inputs())
    first = one(inputs())[1]
    other(inputs())
    assert torch.equal(one(inputs())[1], first)


def test_without_an_example():
    assert torch.equal(fuse(tutorial(ours), step=False)(inputs())[1], tutorial(ours)(inputs())[1])
    stepwise = dyadic(HiddenStep(leaky(ours), leaky(ours)))
    assert torch.equal(fuse(stepwise, step=True)(inputs()), loop(ours, stepwise, inputs()))
    documented = dyadic(DocumentedStep(ours))
    for a, b in zip(fuse(documented, step=True)(inputs()), loop(ours, documented, inputs(), *states(), feeds=FEEDS), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    class Hidden(Layers):
        def forward(self, x):
            mem, _ = self.rest()
            results = []
            for step in range(x.size(0)):
                spk, mem = self.lif1(self.fc1(x[step]), mem)
                results.append((spk, mem))
            return stack(results)

    written = dyadic(Hidden(leaky(ours), leaky(ours))).to(dtype)
    fused = fuse(copy.deepcopy(written), step=False)
    x, y = (inputs().gt(0.25).to(dtype).requires_grad_() for _ in range(2))  # spikes, of which half types have exact sums
    found, expected = fused(x), written(y)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert fused.report()["lif1"] == "fused"
    found[1].sum().backward(), expected[1].sum().backward()
    assert (x.grad - y.grad).abs().max() <= 4 * torch.finfo(dtype).eps * y.grad.abs().max()  # each adds what it rounds in its own order


def test_single_neurons_and_subnetworks():
    fused = fuse(ours.Synaptic(alpha=0.75, beta=0.875, init_hidden=True))
    x = inputs()
    assert torch.equal(fused(x), loop(ours, ours.Synaptic(alpha=0.75, beta=0.875, init_hidden=True), x))


# What is refused, and in which words.


def looped(body, **extra):
    """A network whose loop does something of its own with each step."""

    class Net(Layers):
        def forward(self, x):
            mem1, mem2 = self.rest()
            self_ = self
            spk2 = torch.zeros(x.size(1), OUTPUTS)
            spikes = []
            for step in range(x.size(0)):
                spk2, mem1, mem2 = body(self_, x[step], mem1, mem2, spk2, step)
                spikes.append(spk2)
            return torch.stack(spikes)

    net = Net(leaky(ours), leaky(ours))
    for name, value in extra.items():
        setattr(net, name, value)
    return net


def plain(net, x, mem1, mem2, spk2, step):
    spk1, mem1 = net.lif1(net.fc1(x), mem1)
    spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
    return spk2, mem1, mem2


def feedback(net, x, mem1, mem2, spk2, step):
    return plain(net, x + net.back(spk2), mem1, mem2, spk2, step)


def feedback_in_lines(net, x, mem1, mem2, spk2, step):
    current = net.fc1(x + net.back(spk2))
    spk1, mem1 = net.lif1(current, mem1)
    spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
    return spk2, mem1, mem2


def own_spikes(net, x, mem1, mem2, spk2, step):
    _, mem1 = net.lif1(net.fc1(x), mem1)
    spk2, mem2 = net.lif2(spk2, mem2)
    return spk2, mem1, mem2


def scaled_state(net, x, mem1, mem2, spk2, step):
    return plain(net, x, mem1 * 0.5, mem2, spk2, step)


def detached_state(net, x, mem1, mem2, spk2, step):
    return plain(net, x, mem1.detach(), mem2, spk2, step)


def swapped_state(net, x, mem1, mem2, spk2, step):
    spk1, mem1 = net.lif1(net.fc1(x), mem1)
    _, mem1 = net.lif1(net.fc1(x), mem1 + spk1)
    return spk2, mem1, mem2


def branch(net, x, mem1, mem2, spk2, step):
    return plain(net, x if spk2.sum() < 100 else x * 0, mem1, mem2, spk2, step)


def item(net, x, mem1, mem2, spk2, step):
    return plain(net, x * (1 + spk2.max().item()), mem1, mem2, spk2, step)


def through_numpy(net, x, mem1, mem2, spk2, step):
    return plain(net, torch.from_numpy(x.detach().numpy() * 2), mem1, mem2, spk2, step)


def stored(net, x, mem1, mem2, spk2, step):
    out = plain(net, x, mem1, mem2, spk2, step)
    net.history.append(out[0])
    return out


def stored_attribute(net, x, mem1, mem2, spk2, step):
    net.latest = x
    return plain(net, x, mem1, mem2, spk2, step)


def masked(net, x, mem1, mem2, spk2, step):
    return plain(net, x * x[x > 0].mean(), mem1, mem2, spk2, step)


def in_place_layer_on_input(net, x, mem1, mem2, spk2, step):
    return plain(net, net.relu(x), mem1, mem2, spk2, step)


def shared_memory(net, x, mem1, mem2, spk2, step):
    current = x * 2
    alias = current.detach()
    current += 1
    return plain(net, alias, mem1, mem2, spk2, step)


def overwritten(net, x, mem1, mem2, spk2, step):
    x[:, 0] = 0.0
    return plain(net, x, mem1, mem2, spk2, step)


def written_input(net, x, mem1, mem2, spk2, step):
    net.scale.mul_(2)
    return plain(net, x * net.scale, mem1, mem2, spk2, step)


def partly_changed(net, x, mem1, mem2, spk2, step):
    if step == 0:
        net.states = net.syn.reset_mem()
    _, syn, mem = net.syn(net.fc1(x), *net.states)
    net.states = (syn * 2, mem)
    return plain(net, x, mem1, mem2, spk2, step)


def autocasting(net, x, mem1, mem2, spk2, step):
    with torch.autocast("cpu", torch.bfloat16):
        return plain(net, x * 2, mem1, mem2, spk2, step)


def drawing(net, x, mem1, mem2, spk2, step):
    return plain(net, x * random.random(), mem1, mem2, spk2, step)


def drawing_numpy(net, x, mem1, mem2, spk2, step):
    return plain(net, x + torch.from_numpy(np.random.rand(INPUTS)).float(), mem1, mem2, spk2, step)


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def out_of_sight(net, x, mem1, mem2, spk2, step):
    return plain(net, Doubling.apply(x), mem1, mem2, spk2, step)


def broadcast(net, x, mem1, mem2, spk2, step):
    return plain(net, x, torch.zeros(BATCH, HIDDEN + 1) + 1 if step == 0 else mem1, mem2, spk2, step)


REFUSED = {
    "feedback": (
        feedback,
        r"the input of `lif1` depends on its own output of an earlier step, "
        r"`lif1` -> `fc2` -> `lif2` -> `back` -> `add` -> `fc1` -> `lif1`.*"
        r"only the states of spiking layers may pass from step to step, or use RLeaky",
    ),
    "feedback in lines": (feedback_in_lines, r"the input of `lif1` depends on its own .*`lif1` \(.*py:\d+: `current = net\.fc1"),
    "own spikes": (
        own_spikes,
        r"the input of `lif2` depends on its own .*`lif2` -> `lif2` \(.*net\.lif2\(spk2, mem2\)",
    ),
    "scaled state": (
        scaled_state,
        r"state mem of `lif1` is changed by `mul` between two steps \(.*py:\d+: .*mem1 \* 0.5.*a state may only be passed on",
    ),
    "detached state": (detached_state, r"state mem of `lif1` is changed by `detach` between two steps"),
    "swapped state": (swapped_state, r"state mem of `lif1` is changed by `add` between two steps"),
    "branch": (
        branch,
        r"`__bool__` reads values, on which the next steps may depend \(.*py:\d+: `return plain\(net, x if spk2.sum\(\) < 100",
    ),
    "item": (item, r"`item` reads values"),
    "numpy": (through_numpy, r"`numpy` reads values"),
    "list on the module": (stored, r"its forward stores history on the module; return it instead"),
    "attribute": (stored_attribute, r"its forward stores latest on the module; return it instead"),
    "shape by value": (masked, r"the shape of `__getitem__`'s result depends on values"),
    "in place into a step": (
        overwritten,
        r"a tensor is written to in place \(.*x\[:, 0\] = 0.0.*; collect the steps in a list and stack it",
    ),
    "in place into an attribute": (written_input, r"`mul_` writes in place to a tensor that was there before \(.*net.scale.mul_\(2\)"),
    "in place into a step by a layer": (
        in_place_layer_on_input,
        r"an input is written to in place \(.*net.relu\(x\)",
    ),
    "in place into shared memory": (
        shared_memory,
        r"`add_` writes in place to a tensor that shares its memory with another \(.*current \+= 1",
    ),
    "part of a state": (partly_changed, r"only syn of the states of `syn` is changed between two steps"),
    "autocast": (autocasting, r"autocast is entered within forward \(.*; enter it around the whole network"),
    "Python's random": (drawing, r"its forward draws random numbers from Python or NumPy; draw them with PyTorch"),
    "NumPy's random": (drawing_numpy, r"its forward draws random numbers from Python or NumPy; draw them with PyTorch"),
    "autograd.Function": (out_of_sight, r"a tensor was computed out of sight, as by a torch.autograd.Function.*\(.*py:\d+"),
    "state of a wrong shape": (broadcast, r"state mem of `lif1` has shape \(4, 9\), and its input \(4, 8\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_names_the_layer_and_the_line(case):
    body, message = REFUSED[case]
    net = looped(
        body,
        back=nn.Linear(OUTPUTS, INPUTS),
        history=[],
        latest=None,
        scale=torch.ones(()),
        syn=ours.Synaptic(0.5, 0.5),
        relu=nn.ReLU(inplace=True),
    )
    mems = {name: layer.mem for name, layer in (("lif1", net.lif1), ("lif2", net.lif2))}
    with pytest.raises(FusionError, match="^cannot fuse Net: " + message):
        fuse(net, inputs())
    assert "forward" not in vars(net.fc1)  # the network is left as it was
    assert net.history == []
    assert net.latest is None
    assert net.lif1.mem is mems["lif1"]
    assert net.scale == 1


def test_networks_that_are_no_networks_of_ours():
    with pytest.raises(FusionError, match=r"cannot fuse Linear: it has no spiking layers; import them from spikegrad.compat.snntorch"):
        fuse(nn.Linear(2, 2))
    with pytest.raises(FusionError, match=r"its spiking layers are snnTorch's own; import them from spikegrad.compat.snntorch"):
        fuse(nn.Sequential(nn.Linear(2, 2), theirs.Leaky(0.9, init_hidden=True)))
    with pytest.raises(FusionError, match="`0` would have to be given its state in a Sequential; make it with init_hidden=True"):
        fuse(nn.Sequential(ours.Leaky(0.9)))
    with pytest.raises(FusionError, match="`0` returns its state to the next layer; only the last may have output=True"):
        fuse(nn.Sequential(ours.Leaky(0.9, init_hidden=True, output=True), nn.Linear(2, 2)))
    with pytest.raises(
        FusionError, match="its forward may be one time step or a whole loop; give an `example` of its arguments, or `step=`"
    ):
        fuse(tutorial(ours))

    class Own(ours.Leaky):
        pass

    block = nn.Sequential(nn.Linear(2, 2), ours.Leaky(0.9, init_hidden=True))
    block.register_forward_hook(lambda *_: None)
    with pytest.raises(FusionError, match="`0` has hooks, which would not be called; register them on layers"):
        fuse(nn.Sequential(block))

    with pytest.raises(FusionError, match="what a step of `0` computes is not known, since Own is a subclass"):
        fuse(nn.Sequential(Own(0.9, init_hidden=True)))


def test_one_step_networks_that_cannot_be_looped():
    class Lost(Layers):
        def forward(self, x, mem1, mem2):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            return spk2, mem2

    rest = states()
    with pytest.raises(FusionError, match="argument `mem1` is a state, and the one after it is not returned"):
        fuse(Lost(leaky(ours), leaky(ours)), (inputs()[0], rest[0], rest[3]))

    class Extra(Layers):
        def forward(self, x, scale, mem1, mem2):
            spk1, mem1 = self.lif1(self.fc1(x) * scale, mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            return spk2, mem1, mem2

    with pytest.raises(FusionError, match="argument `scale` of its step is neither the input nor the state of a spiking layer"):
        fuse(Extra(leaky(ours), leaky(ours)), (inputs()[0], torch.ones(()), rest[0], rest[3]))


def test_optional_states():
    class Optional(Layers):
        def forward(self, x, mem1=None, mem2=None):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            return spk2, mem1, mem2

    net = dyadic(Optional(leaky(ours), leaky(ours)))
    expected = loop(ours, net, inputs(), None, None, feeds=(1, 2))
    for a, b in zip(expected, fuse(net, inputs()[0])(inputs()), strict=True):
        assert torch.equal(a, b)


def test_more_shapes_than_are_kept(monkeypatch):
    from spikegrad.compat.snntorch.fusion import fused as module

    monkeypatch.setattr(module, "KEPT_PROGRAMS", 2)
    fused = fuse(tutorial(ours), step=False)
    fused(inputs(2)), fused(inputs(3))
    with pytest.warns(FusionWarning, match="Tutorial was called with more than 2 combinations of shapes.*pad sequences to few lengths"):
        fused(inputs(4))
    assert torch.equal(fused(inputs(4))[1], tutorial(ours)(inputs(4))[1])


def test_under_autocast_and_transforms():
    """Around the whole network, both work; in a transform by the steps of each layer."""
    written = tutorial(ours)
    fused = fuse(written, inputs())
    with torch.autocast("cpu", torch.bfloat16):
        expected = written(inputs())
        got = fused(inputs())
    for a, b in zip(expected, got, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert fused.report()["fc1"] == "step loop, because torch.vmap leaves autocast out"
    parameters = {name: p.detach() for name, p in written.named_parameters()}

    def total(network, parameters):
        return torch.func.functional_call(network, parameters, (inputs(),))[1].sum()

    expected = torch.func.grad(lambda p: total(written, p))(parameters)
    with pytest.warns(FusionWarning, match="`lif2`: step loop, because it runs inside a torch.func transform"):
        got = torch.func.grad(lambda p: total(fused, p))(parameters)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)


def test_bad_sequences():
    fused = fuse(dyadic(HiddenStep(leaky(ours), leaky(ours))), inputs()[0])
    with pytest.raises(ValueError, match=r"takes a sequence \(time, batch, ...\) with at least one step, got shape \(6,\)"):
        fused(torch.zeros(INPUTS))
    with pytest.raises(ValueError, match=r"at least one step, got shape \(0, 4, 6\)"):
        fused(torch.zeros(0, BATCH, INPUTS))


def test_a_difference_is_found(monkeypatch):
    """The comparison on the example is not for show."""
    from spikegrad.compat.snntorch.fusion import program, sequence

    def wrong(*args):
        found, why = sequence.run(*args)
        return {name: value * 0.5 if name == "spk" else value for name, value in found.items()}, why

    monkeypatch.setattr(program, "run_neuron", wrong)
    with pytest.raises(FusionError, match="the fused network's output 0 is not the original's"):
        fuse(tutorial(ours), inputs())


class Random(nn.Module):
    """A step of random operations on the values of this step and, some of them, of the step before."""

    def __init__(self, seed):
        super().__init__()
        choose = random.Random(seed)
        self.linear = nn.ModuleList(nn.Linear(INPUTS, INPUTS) for _ in range(3))
        self.neurons = nn.ModuleList([ours.Leaky(0.9, learn_beta=True), ours.Synaptic(0.8, 0.7), ours.Leaky(0.5, reset_mechanism="zero")])
        operations = ["linear", "linear", "relu", "add", "late", "late", "late", "sum", "neuron", "neuron", "neuron"]
        count = iter(range(len(self.neurons)))
        self.steps = []
        for place in range(9):
            kind = choose.choice(operations) if place else "linear"
            which = next(count, None) if kind == "neuron" else choose.randrange(3)
            if which is not None:
                self.steps.append((kind, which, choose.randrange(place + 1), choose.randrange(10)))

    def forward(self, x):
        states = [neuron.reset_mem() for neuron in self.neurons]
        states = [state if isinstance(state, tuple) else (state,) for state in states]
        before, total, results = [torch.zeros(x.size(1), INPUTS)] * 10, torch.zeros(x.size(1), INPUTS), []
        for t in range(x.size(0)):
            values = [x[t]]
            for kind, which, a, b in self.steps:
                one, other = values[a % len(values)], values[b % len(values)]
                if kind == "linear":
                    one = self.linear[which](one)
                elif kind == "relu":
                    one = torch.relu(one) - 0.25
                elif kind == "add":
                    one = one + other * 0.5
                elif kind == "late":
                    one = one + before[b % len(before)] * 0.5
                elif kind == "sum":
                    total = total + one
                    one = one + total * 0.125 if which == 0 else one
                else:
                    one, *states[which] = self.neurons[which](one, *states[which])
                values.append(one)
            before = values
            results.append(values[-1] + values[-2])
        return torch.stack(results), total, [state[-1] for state in states]


def test_random_networks():
    """Those that are fused compute what they computed; those that are not have a layer whose input depends on its own output."""
    fused, refused = 0, 0
    for seed in range(60):
        torch.manual_seed(seed)
        network = Random(seed).double()
        for layer in network.linear:
            nn.init.normal_(layer.weight)
        x, y = (inputs(6).double().requires_grad_() for _ in range(2))
        try:
            outputs = flat(fuse(network, inputs(6).double())(y))
        except FusionError as error:
            if "depends on its own output of an earlier step" not in str(error) or {"late", "sum"}.isdisjoint(s[0] for s in network.steps):
                raise
            refused += 1
            continue
        fused += 1
        expected = flat(network(x))
        for a, b in zip(expected, outputs, strict=True):
            torch.testing.assert_close(b, a, msg=lambda m, s=seed: f"seed {s}: {m}")
        first, second = gradients(expected, network, x), gradients(outputs, network, y)
        for name, gradient in first.items():
            if gradient is not None:
                torch.testing.assert_close(second[name], gradient, msg=lambda m, s=seed, n=name: f"seed {s}, {n}: {m}")
    assert fused > 30
    assert refused > 3


class EveryState(nn.Module):
    """One step that hands out all states of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.fc = nn.Linear(INPUTS, HIDDEN)
        self.lif = layer

    def forward(self, x, *states):
        return self.lif(self.fc(x), *states)


@pytest.mark.parametrize("connection", ["all-to-all", "one-to-one"])
def test_every_state_of_a_recurrent_layer_at_every_step(connection):
    def make(snn):
        options = {"linear_features": HIDDEN} if connection == "all-to-all" else {"all_to_all": False, "V": 0.5}

        class Step(EveryState):
            def forward(self, x, spk, syn, mem):
                return super().forward(x, spk, syn, mem)

        return dyadic(Step(snn.RSynaptic(alpha=0.5, beta=0.5, learn_alpha=True, learn_beta=True, **options)))

    real, fused = make(theirs), fuse(make(ours), (inputs()[0], *(torch.zeros(BATCH, HIDDEN) for _ in range(3))))
    x, z = (inputs().requires_grad_() for _ in range(2))
    start = [torch.zeros(BATCH, HIDDEN) for _ in range(3)]
    expected, got = loop(theirs, real, x, *start, feeds=(0, 1, 2)), fused(z)
    assert torch.equal(got[0], expected[0])
    for a, b in zip(expected[1:], got[1:], strict=True):
        torch.testing.assert_close(b, a)
    first, second = gradients(expected, real, x), gradients(got, fused, z)
    for name, gradient in first.items():
        torch.testing.assert_close(
            second[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=lambda m, n=name: f"{n}: {m}"
        )
    assert fused.report()["lif"] == "fused"


def test_states_in_extra_arguments_are_refused_in_words():
    net = EveryState(ours.Leaky(0.9))
    with pytest.raises(FusionError, match="cannot fuse EveryState: its forward takes any number of arguments; name those of a step"):
        fuse(net, (inputs()[0], torch.zeros(BATCH, HIDDEN)))


def test_a_program_that_has_no_layer_of_ours():
    """The kernels are there before any layer of `spikegrad.nn` is made."""
    script = "\n".join((
        "import torch",
        "from spikegrad.compat import snntorch as snn",
        "class Net(torch.nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.neuron = snn.Leaky(beta=0.9)",
        "    def forward(self, x):",
        "        state, out = self.neuron.reset_mem(), []",
        "        for step in x:",
        "            spikes, state = self.neuron(step, state)",
        "            out.append(spikes)",
        "        return torch.stack(out)",
        "x, net = torch.rand(6, 3, 8), Net()",
        "assert torch.equal(snn.fuse(net, example=(x,))(x), net(x))",
    ))  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("hidden", [True, False])
def test_a_layer_s_own_steps_begin_where_they_are_told(hidden):
    """Also of a layer that keeps its state itself, which is as it was afterwards."""
    neuron, other = (ours.Leaky(0.9, init_hidden=hidden, inhibition=True) for _ in range(2))
    x, start = inputs(), inputs(steps=1, seed=2)[0]
    kept = neuron.mem
    found, why = sequence.run(neuron, x, {"mem": start}, frozenset(("spk", "mem")))
    assert why == "it has inhibition"
    assert neuron.mem is kept
    if hidden:
        other.mem = start
        expected = torch.stack([other(current) for current in x])
    else:
        mem, spikes = start, []
        for current in x:
            spk, mem = other(current, mem)
            spikes.append(spk)
        expected = torch.stack(spikes)
    assert torch.equal(found["spk"], expected)
    assert not torch.equal(found["spk"], sequence.run(neuron, x, {}, frozenset(("spk",)))[0]["spk"])
