"""`nn.SpikingConv2d` by events beside its dense form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.test_events import SPIKE, dyadic, same
from torch import nn as torch_nn

from spikegrad import Spikes, nn
from spikegrad.nn import convolution


def layer(channels: int = 2, out: int = 6, kernel: Any = 3, size: tuple[int, int] = (9, 7), **options: Any) -> nn.SpikingConv2d:
    net = nn.SpikingConv2d(channels, out, kernel, nn.Leaky(0.9, spike=SPIKE), size=size, **{"backend": "event", **options})
    with torch.no_grad():
        net.conv.weight.copy_(dyadic(*net.conv.weight.shape, size=0.4 if net.conv.weight[0].numel() > 2 else 1.6, seed=3))
        if net.conv.bias is not None:
            net.conv.bias.copy_(dyadic(out, size=0.1, seed=4))
    return net


def images(density: float = 0.2, *shape: int) -> torch.Tensor:
    return (torch.rand(shape or (5, 3, 2, 9, 7), generator=torch.Generator().manual_seed(1)) < density).float()


def gradients(net: Any, x: torch.Tensor, way: Any) -> Any:
    net.backend = way
    x = x.clone().requires_grad_()
    out, state = net(x)
    arriving = dyadic(*out.shape, seed=5), dyadic(*state.shape, seed=6)
    found = torch.autograd.grad((out, state), [x, *net.parameters()], arriving)
    return out.detach(), [], dict(enumerate(found))


GEOMETRIES = [
    {},
    {"kernel": (3, 5), "padding": (1, 2), "stride": 2},
    {"kernel": 4, "stride": 3, "padding": 1, "bias": False},
    {"kernel": (9, 7)},
    {"kernel": 1, "out": 1, "stride": 2},
    {"kernel": 5, "padding": 2, "out": 17},
]


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_every_geometry(options):
    net, x = layer(**options), images()
    found, expected = gradients(net, x, "event"), gradients(net, x, "dense")
    assert expected[0].any()
    same(found, expected)


@pytest.mark.parametrize("options", [GEOMETRIES[1], GEOMETRIES[5]], ids=str)
def test_channels_that_lie_last_in_memory(options):
    """As those of a convolution before it: the same events in the same order, so the same bits."""
    net, x = layer(**options), images()
    last = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    found, expected = gradients(net, last, "event"), gradients(net, x, "event")
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(found[2][name], gradient) for name, gradient in expected[2].items())
    assert "other values" in layer(backend="auto").chosen(0.5 * last).why


def test_second_derivatives_by_images_and_gradients_that_are_not_finite():
    net, x = layer(padding=1), images()
    arriving = torch.zeros(5, 3, 6, 9, 7)
    arriving[2, 1, 3, 4, 2] = float("inf")

    def second(way: Any) -> Any:
        net.backend, given = way, x.clone().requires_grad_()
        (first,) = torch.autograd.grad(net(given)[0].sum(), given, create_graph=True)
        infinite = torch.autograd.grad(net(given)[0], [given, *net.parameters()], arriving)
        return first.detach(), *torch.autograd.grad(first.square().sum(), [net.conv.weight]), *infinite

    for ours, theirs in zip(second("event"), second("dense"), strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
def test_every_density(density):
    net, x = layer(padding=1), images(density)
    same(gradients(net, x, "event"), gradients(net, x, "dense"))


def test_one_and_two_threads_bit_for_bit():
    net, x, before, found = layer(padding=1), images(0.2, 5, 9, 2, 9, 7), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            net.zero_grad()
            out, _ = net(x)
            out.backward(dyadic(*out.shape, seed=5))
            found.append([out.detach(), *(p.grad.clone() for p in net.parameters())])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_events_counts_and_dropout_in_a_chain():
    x = torch.poisson(torch.full((5, 3, 2, 9, 7), 0.2), generator=torch.Generator().manual_seed(2))
    net = layer(padding=1)
    spikes = Spikes.of(x.flatten(2))
    out, _ = nn.Sequential(net, torch_nn.Flatten())(spikes.detach())
    expected = net.neuron(net.conv(x.flatten(0, 1)).unflatten(0, (5, 3)))[0]
    assert torch.equal(out, expected.flatten(2))
    some = spikes.dropped(0.5)
    dense = some.dense().unflatten(2, (2, 9, 7))
    torch.testing.assert_close(net(some)[0], net.neuron(net.conv(dense.flatten(0, 1)).unflatten(0, (5, 3)))[0])
    net.backend = "dense"
    assert torch.equal(net(spikes.detach())[0].flatten(2), out)


def test_states_go_in_and_out():
    net, x = layer(), images()
    whole, last = net(x)
    first, state = net(x[:2])
    second, state = net(x[2:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(state, last)
    net.backend = "dense"
    assert torch.equal(net(x)[1], last)


def test_second_derivatives_and_numbers_that_are_none():
    net, x = layer(), images()

    def second(way: Any) -> Any:
        net.backend = way
        (first,) = torch.autograd.grad(net(x)[0].sum(), net.conv.weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), net.conv.weight)[0]

    torch.testing.assert_close(second("event"), second("dense"))
    arriving = torch.zeros(5, 3, 6, 7, 5)
    arriving[2, 1, 3, 4, 2] = float("inf")
    found = []
    for way in ("event", "dense"):
        net.backend = way
        found.append(torch.autograd.grad(net(x)[0], list(net.parameters()), arriving))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_what_auto_takes(monkeypatch):
    net = layer(backend="auto")
    assert "so small" in net.chosen(images()).why
    monkeypatch.setattr(convolution.choice, "FEWEST", 0)
    assert net.chosen(images(0.01))[:3] == ("event", "event", "dense")
    assert net.chosen(images(0.01)).why == "1.0% of its inputs spike, events cost less below 8%"
    assert not net.chosen(images(0.2)).by_events
    assert "other values" in net.chosen(0.5 * images(0.01)).why
    assert "not of float32" in layer(backend="auto").double().chosen(images(0.01).double()).why
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in net.chosen(images(0.01)).why
    with torch.no_grad():
        net.conv.weight[0, 0, 0, 0] = float("inf")
    assert "not finite" in net.chosen(images(0.01)).why
    out, _ = layer(backend="auto")(0.5 * images())  # other numbers are what a convolution takes
    assert out.shape == (5, 3, 6, 7, 5)
    seen: list[Any] = []
    net = layer(backend="auto")
    net.conv.register_forward_hook(lambda module, given, made: seen.append(made))
    net(images(0.01))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: layer()(images(0.1, 5, 2, 9, 7)), r"\(time, batch, 2, height, width\), got shape \(5, 2, 9, 7\)"),
        (lambda: layer()(0.5 * images()), "cannot run this layer: its input has other values than 0 and 1"),
        (lambda: layer(size=None)(Spikes.of(images().flatten(2))), r"give the layer `size=\(height, width\)`"),
        (lambda: layer(size=None, padding=2, backend="dense")(Spikes.of(images().flatten(2))), r"give the layer `size=\(height, width\)`"),
        (lambda: layer(size=(4, 4))(Spikes.of(images().flatten(2))), r"\(time, batch, 32\), got shape \(5, 3, 126\)"),
        (lambda: layer(backend="sparse"), "must be one of 'auto', 'event', 'dense'"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
