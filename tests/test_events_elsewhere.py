"""Layers that run by events in every mode of PyTorch, and with recurrent weights."""

from __future__ import annotations

import pytest
import torch
from tests.test_events import SHAPE, dyadic, layer, recurrent, same, spikes
from torch.utils.checkpoint import checkpoint

from spikegrad import nn
from spikegrad.nn import events


@pytest.fixture
def eager(monkeypatch):
    """``"auto"`` takes events however small a layer is."""
    monkeypatch.setattr(events, "FEWEST", 0)


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
    assert net.why(x) is None
    found = mode(net, x)
    net.backend = "dense"
    for name, expected in mode(net, x).items():
        torch.testing.assert_close(found[name], expected, msg=name)


@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 37)], ids=str)
@pytest.mark.parametrize("given", [False, True])
def test_recurrent_weights(shape, given):
    net, x = nn.Sequential(recurrent(), layer(40, 6, nn.LeakyIntegrator(0.9), seed=99)), spikes(0.2, *shape)
    results = []
    for way in ("event", "dense"):
        start = (dyadic(shape[1], 40, seed=3), spikes(0.3, shape[1], 40))
        start = [part.requires_grad_() for part in start] if given else None
        net[0].backend = net[1].backend = way
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
    assert results[0][2]["0.neuron.weight"].abs().sum() > 0 or (shape[0] == 1 and not given)


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
