"""Layers that run by events in every mode of PyTorch, with recurrent weights, and with numbers that are learned."""

from __future__ import annotations

import pytest
import torch
from tests.test_events import SHAPE, SPIKE, dyadic, gradients, layer, recurrent, same, spikes, take
from torch.utils.checkpoint import checkpoint

from spikegrad import Triangle, neurons, nn
from spikegrad.kernels import choice


@pytest.fixture
def eager(monkeypatch):
    """``"auto"`` takes events however small a layer is."""
    monkeypatch.setattr(choice, "FEWEST", 0)


def in_func_grad(net, x):
    names = dict(net.named_parameters())
    return torch.func.grad(lambda p: torch.func.functional_call(net, p, (x,))[0].sum())(names)


def in_vmap(net, x):
    return {"x": torch.func.vmap(lambda one: net(one)[0], in_dims=1)(x)}


def in_functional_call(net, x):
    names = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    torch.func.functional_call(net, names, (x,))[0].sum().backward()
    return {name: p.grad for name, p in names.items()}


def in_checkpoint(net, x):
    net.zero_grad()
    checkpoint(lambda x: net(x)[0], x, use_reentrant=False).sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def with_hooks_on_what_is_saved(net, x):
    net.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        out, _ = net(x)
    out.sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def without_gradients(net, x):
    with torch.no_grad():
        first = net(x)[0]
    with torch.inference_mode():
        second = net(x)[0]
    assert torch.equal(first, second)
    return {"out": first}


def in_autocast(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return {"out": net(x)[0].detach()}


def compiled(net, x):
    net.zero_grad()
    torch.compile(net, backend="aot_eager")(x)[0].sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


MODES = [in_func_grad, in_vmap, in_functional_call, in_checkpoint, with_hooks_on_what_is_saved, without_gradients, in_autocast]


@pytest.mark.parametrize("mode", [*MODES, pytest.param(compiled, marks=pytest.mark.slow)], ids=lambda f: f.__name__)
def test_modes(mode, eager):
    net, x = layer(37, 40, backend="auto"), spikes(0.2)
    assert net.chosen(x).by_events
    found = mode(net, x)
    take(net, "dense")
    for name, expected in mode(net, x).items():
        torch.testing.assert_close(found[name], expected, msg=name)


@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 37), pytest.param((0, 3, 37), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("given", [False, True])
def test_recurrent_weights(shape, given):
    net, x = nn.Sequential(recurrent(), layer(40, 6, nn.LeakyIntegrator(0.9), seed=99)), spikes(0.2, *shape)
    results = []
    for way in ("event", "dense"):
        start = (dyadic(shape[1], 40, seed=3), spikes(0.3, shape[1], 40))
        start = [part.requires_grad_() for part in start] if given else None
        take(net, way)
        net.zero_grad()
        out, last = net(x, [start, None])
        parts = [*last[0], last[1]]
        assert last[0]._fields == ("v", "recurrent")
        (out.sin().sum() + sum((part * torch.linspace(-1, 1, part.shape[1])).sum() for part in parts)).backward()
        grads = {name: p.grad.clone() for name, p in net.named_parameters()}
        if start is not None:
            grads |= {str(place): part.grad for place, part in enumerate(start)}
        results.append((out.detach(), [part.detach() for part in parts], grads))
    same(*results)
    assert results[0][2]["0.neuron.weight"].abs().sum() > 0 or shape[0] == 0 or (shape[0] == 1 and not given)


def test_recurrent_weights_on_one_and_two_threads():
    net, x, before = recurrent(), spikes(0.2, 12, 9, 37), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            net.zero_grad()
            net(x)[0].sum().backward()
            found.append([p.grad for p in net.parameters()])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def column(name, **options):
    values = {name: torch.linspace(0.8, 0.95, 40)}
    return nn.Layer(neurons.Leaky(0.9, spike=SPIKE), values=values, **options)


NUMBERS = {
    "learned": lambda: nn.Leaky(0.9, spike=SPIKE, learn_beta=True, learn_threshold=True),
    "learned for each": lambda: column("beta", learn=("beta",)),
    "fixed for each": lambda: column("threshold"),
    "learned and recurrent": lambda: nn.RecurrentLeaky(40, 0.9, spike=SPIKE, learn_beta=True),
    "where it rests": lambda: nn.Layer(neurons.Izhikevich(spike=Triangle(width=20.0)), learn=("c", "d")),
}


@pytest.mark.parametrize("kind", [kind if kind == "learned" else pytest.param(kind, marks=pytest.mark.slow) for kind in NUMBERS])
def test_numbers_that_are_tensors(kind):
    net, x = layer(37, 40, NUMBERS[kind]()), spikes(0.2)
    with torch.no_grad():
        if kind == "where it rests":
            net.weight.mul_(40)
        if net.neuron.weight is not None:
            net.neuron.weight.copy_(dyadic(40, 40, size=0.2, seed=7))
    found, expected = gradients(net, x, "event"), gradients(net, x, "dense")
    same((found[0], (), found[2]), (expected[0], (), expected[2]))
    learned = [name for name in expected[2] if name.startswith("neuron.")]
    assert all(expected[2][name].abs().sum() > 0 for name in learned)
    assert bool(learned) == (kind != "fixed for each")


def test_numbers_that_are_learned_twice_differentiated_and_on_one_and_two_threads():
    net, x, before = layer(37, 40, NUMBERS["learned"]()), spikes(0.2, 12, 9, 37), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gradients(net, x, "event")[2])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])

    def second(way):
        take(net, way)
        (first,) = torch.autograd.grad(net(x)[0].sum(), net.weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), list(net.parameters()), allow_unused=True)

    for ours, theirs in zip(second("event"), second("dense"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_of_the_last_spikes_that_are_not_finite(value):
    net, x = recurrent(), spikes(0.2).requires_grad_()
    arriving = torch.zeros(5, 40)
    arriving[2, 7] = value
    found = torch.autograd.grad(net(x)[1].recurrent, [x, *net.parameters()], arriving, allow_unused=True)
    take(net, "dense")
    for ours, theirs in zip(found, torch.autograd.grad(net(x)[1].recurrent, [x, *net.parameters()], arriving), strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
