"""Layers that run by events: the gradients of the dense form, whatever spikes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn as torch_nn

from spikegrad import ATan, Spikes, Triangle, nn

pytest.importorskip("numba")

SPIKE = Triangle(width=0.5)
SHAPE = (12, 5, 37)


def dyadic(*shape: int, size: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Weights whose sums are exact, so that the order in which they are added changes no spike."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    return (numbers * 64).round() / 64


def spikes(density: float, *shape: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(*(shape or SHAPE), generator=torch.Generator().manual_seed(seed)) < density).float()


def layer(a: int, b: int, neuron: Any = None, *, backend: Any = "event", seed: int = 0, **options: Any) -> Any:
    made = nn.SpikingLinear(a, b, nn.Leaky(0.9, spike=SPIKE) if neuron is None else neuron, backend=backend, **options)
    with torch.no_grad():
        for place, p in enumerate(made.parameters()):
            p.copy_(dyadic(*p.shape, size=0.4 if place == 0 else 0.1, seed=seed + place))
    return made


def network(sizes: Any = (37, 40, 24, 6)) -> Any:
    hidden = [layer(a, b, seed=10 * place) for place, (a, b) in enumerate(itertools.pairwise(sizes[:-1]))]
    return nn.Sequential(*hidden, layer(sizes[-2], sizes[-1], nn.LeakyIntegrator(0.9), seed=99))


def take(net: Any, way: Any) -> None:
    """Have layers run by events, or as dense products and plain loops: the definition, for which nothing is compiled."""
    for module in net.modules():
        if isinstance(module, nn.SpikingLinear):
            module.backend, module.neuron.backend = way, "reference" if way == "dense" else "auto"


def gradients(net: Any, x: Any, way: str, state: Any = None) -> tuple[Any, Any, dict[str, Any]]:
    take(net, way)
    net.zero_grad()
    x = x.clone().requires_grad_()
    out, last = net(x, state)
    flat = last if isinstance(last, tuple) else (last,)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).sum().add(sum(s.sin().sum() for s in flat)).backward()
    return out.detach(), flat, {"x": x.grad, **{name: p.grad.clone() for name, p in net.named_parameters()}}


def same(found: Any, expected: Any, exact: Any = None) -> None:
    """Outputs bit for bit, sums of gradients to rounding: each is a sum of a few hundred numbers of either sign.

    Given what is `exact`, in float64, of equal spikes, gradients may differ by as much as the expected ones differ from that, which is
    itself little.
    """
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert found[2].keys() == expected[2].keys()
    most = max([float(gradient.abs().max()) for gradient in expected[2].values() if gradient.numel()], default=0.0)
    for name, gradient in expected[2].items():
        own = 0.0 if exact is None or not gradient.numel() else float((gradient - exact[2][name]).abs().max())
        assert own <= 2e-5 * most, name
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-5, atol=2e-6 * most + own + 1e-30, msg=name)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_a_network_at_every_density(density):
    net, x = network(), spikes(density)
    found, expected = gradients(net, x, "event"), gradients(net, x, "dense")
    same(found, expected)
    assert density == 0.0 or expected[2]["0.weight"].abs().sum() > 0


EMPTY = [pytest.param(shape, marks=pytest.mark.slow) for shape in ((0, 5, 37), (12, 0, 37))]
"""These run densely, by kernels that no other test here compiles."""


@pytest.mark.parametrize("shape", [(1, 5, 37), (12, 1, 37), (12, 5, 1), (1, 1, 1), *EMPTY], ids=str)
def test_every_shape(shape):
    net = network((shape[-1], 40, 1, 6)) if shape[-1] == 1 else network()
    x = spikes(0.3, *shape)
    if x.ndim == 3 and len(x) > 3:
        x[1:3] = 0  # steps in which nothing arrives
    same(gradients(net, x, "event"), gradients(net, x, "dense"))


@pytest.mark.parametrize(("a", "b"), [(37, 1), (1, 40), (300, 129), (20, 16), (5, 128)])
def test_every_width(a, b):
    """Tiles of columns, single vectors and what is left over."""
    net, x = layer(a, b), spikes(0.2, 6, 3, a)
    same(gradients(net, x, "event"), gradients(net, x, "dense"))


def test_spikes_are_bit_for_bit_those_of_the_dense_form():
    net, x = layer(37, 40), spikes(0.2)
    assert torch.equal(gradients(net, x, "event")[0], gradients(net, x, "dense")[0])


def test_one_and_two_threads_bit_for_bit():
    net, x, before = network(), spikes(0.2, 12, 9, 37), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients(net, x, "event")
        torch.set_num_threads(2)
        two = gradients(net, x, "event")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[0], two[0])
    assert all(torch.equal(one[2][name], two[2][name]) for name in one[2])


def test_states_go_in_and_out():
    net, x = layer(37, 40), spikes(0.2)
    whole, last = net(x)
    first, state = net(x[:5])
    second, state = net(x[5:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(state, last)
    start = dyadic(5, 40, seed=3).requires_grad_()
    (found,) = torch.autograd.grad(sum(part.sum() for part in net(x, start)), start)
    take(net, "dense")
    (expected,) = torch.autograd.grad(sum(part.sum() for part in net(x, start)), start)
    torch.testing.assert_close(found, expected)
    take(net, "event")
    alone, one = net(x[:, 0], start.detach()[0])
    assert torch.equal(alone, net(x[:, :1], start.detach()[:1])[0][:, 0])
    assert one.shape == (40,)


def test_events_in_and_out():
    net, x = network(), spikes(0.1)
    given = Spikes.of(x)
    hidden, _ = net[0](given)
    assert isinstance(hidden, Spikes)
    assert hidden.share < 0.4
    expected, _ = net[0](x)
    assert torch.equal(hidden.dense(), expected)
    assert len(hidden) == int(expected.detach().sum()) == hidden.density * expected.numel()
    out, _ = net[2](net[1](hidden)[0])
    assert torch.equal(out, net(x)[0])
    hidden.dense().sum().backward()
    by_events = net[0].weight.grad.clone()
    net.zero_grad()
    net[0](x)[0].sum().backward()
    torch.testing.assert_close(by_events, net[0].weight.grad)
    take(net[0], "dense")
    other, _ = net[0](given)
    assert isinstance(other, Spikes)
    assert torch.equal(other.index, hidden.index)


def test_what_is_kept_for_the_backward_pass():
    net, x = layer(300, 256), Spikes.of(spikes(0.02, 20, 4, 300)).detach()
    out, _ = net(x)
    made = out.carrier.grad_fn
    kept = sum(part.nbytes for part in made.saved_tensors[-len(made.kept) :]) + out.nbytes
    starts = 12 / 256  # of the lists, for each step
    assert kept / (20 * 4 * 256) == pytest.approx(6 * out.share + 2 * out.density + starts, rel=0.05)
    assert kept / (20 * 4 * 256) < 2  # of a dense layer 8


def test_a_chain_hands_events_on_and_others_get_a_tensor():
    seen = []

    class Look(torch_nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    net = nn.Sequential(layer(37, 40), layer(40, 24), Look(), layer(24, 6, nn.LeakyIntegrator(0.9)))
    net[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))  # who watches sees a tensor
    net(spikes(0.1))
    assert [type(x) for x in seen] == [torch.Tensor, torch.Tensor]


@pytest.mark.parametrize("what", ["weight", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_spread_as_in_the_dense_form(what, value):
    net, x = layer(37, 40), spikes(0.2)
    with torch.no_grad():
        getattr(net, what).view(-1)[3] = value
    found, expected = gradients(net, x, "event"), gradients(net, x, "dense")
    torch.testing.assert_close(found[0], expected[0], equal_nan=True, rtol=0, atol=0)
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, equal_nan=True, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite(value):
    net, x = layer(37, 40), spikes(0.2).requires_grad_()
    arriving = torch.zeros(12, 5, 40)
    arriving[4, 2, 7] = value
    found = torch.autograd.grad(net(x)[0], [x, *net.parameters()], arriving)
    take(net, "dense")
    for ours, theirs in zip(found, torch.autograd.grad(net(x)[0], [x, *net.parameters()], arriving), strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def recurrent(**options: Any) -> Any:
    net = layer(37, 40, nn.RecurrentLeaky(40, 0.9, spike=SPIKE, **options))
    with torch.no_grad():
        net.neuron.weight.copy_(dyadic(40, 40, size=0.2, seed=7))
    return net


@pytest.mark.parametrize("make", [lambda: layer(37, 40), lambda: recurrent()], ids=["forward", "recurrent"])
def test_second_derivatives(make):
    net, x = make(), spikes(0.2, 5, 2, 37).requires_grad_()

    def second(way: Any) -> Any:
        take(net, way)
        (first,) = torch.autograd.grad(net(x)[0].sum(), net.weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, *net.parameters()], allow_unused=True)

    for ours, theirs in zip(second("event"), second("dense"), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


def test_a_weight_that_was_changed_is_an_error():
    net = layer(37, 40)
    out, _ = net(spikes(0.2))
    with torch.no_grad():
        net.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_dropout():
    net, x = layer(37, 40, dropout=0.5), spikes(0.2)
    torch.manual_seed(0)
    found = gradients(net, x, "event")
    torch.manual_seed(0)
    same(found, gradients(net, x, "dense"))
    torch.manual_seed(0)
    take(net, "event")
    assert torch.equal(net(Spikes.of(x).detach())[0].dense(), found[0])


def test_two_passes_before_a_backward_one():
    net, x, y = layer(37, 40), spikes(0.2), spikes(0.2, seed=5)
    expected = torch.autograd.grad(net(x)[0].sum(), net.weight)[0]
    first, second = net(x)[0], net(y)[0]
    second.sum().backward()
    torch.testing.assert_close(torch.autograd.grad(first.sum(), net.weight)[0], expected, rtol=0, atol=0)


@pytest.mark.slow
def test_a_surrogate_without_a_window_is_exact_too():
    net, x = nn.Sequential(layer(37, 40), layer(40, 24, nn.Leaky(0.9, spike=ATan()))), spikes(0.2)
    same(gradients(net, x, "event"), gradients(net, x, "dense"))


def test_copies_are_layers_of_their_own():
    net, x = layer(37, 40), spikes(0.2)
    other = copy.deepcopy(net)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x)[0], net(x)[0])


@pytest.mark.slow
def test_more_neurons_than_sixteen_bits_can_tell():
    net, x = layer(70_000, 3), spikes(0.001, 3, 2, 70_000)
    assert Spikes.of(x).index.dtype is torch.int32
    same(gradients(net, x, "event"), gradients(net, x, "dense"))
    net = nn.Sequential(layer(3, 70_000), layer(70_000, 3, nn.LeakyIntegrator(0.9)))
    same(gradients(net, x[..., :3], "event"), gradients(net, x[..., :3], "dense"))


LEARNED = lambda: nn.Leaky(0.9, spike=nn.Spike(SPIKE, learn="width"))  # noqa: E731
BIG = (16, 16, 256)
"""A layer that is large enough for events."""


@pytest.mark.parametrize(
    ("make", "x", "words"),
    [
        (lambda: layer(256, 256, backend="auto"), lambda: spikes(0.02, *BIG), None),
        (lambda: layer(256, 256, backend="auto"), lambda: spikes(0.7, *BIG), "currents dense"),
        (lambda: layer(256, 8, backend="auto"), lambda: spikes(0.02, *BIG), "so small"),
        (lambda: layer(256, 256, nn.Leaky(0.9), backend="auto"), lambda: spikes(0.02, *BIG), "ATan has no window"),
        (lambda: layer(256, 256, nn.Leaky(0.9), backend="auto", memory="save"), lambda: spikes(0.02, *BIG), None),
        (lambda: layer(256, 256, nn.LeakyIntegrator(0.9), backend="auto"), lambda: spikes(0.02, *BIG), "do not spike"),
        (lambda: layer(256, 256, nn.LeakyIntegrator(0.9), backend="auto"), lambda: Spikes.of(spikes(0.02, *BIG)), None),
        (lambda: layer(256, 256, backend="dense"), lambda: spikes(0.02, *BIG), "was asked for"),
        (lambda: layer(256, 256, LEARNED(), backend="auto"), lambda: spikes(0.02, *BIG), "learned"),
        (lambda: layer(256, 256, backend="auto").double(), lambda: spikes(0.02, *BIG).double(), "not of float32"),
    ],
)
def test_what_auto_takes(make, x, words, monkeypatch):
    monkeypatch.setattr(nn.SpikingLinear, "_densely", lambda self, *given: ("densely", None))
    net, given = make(), x()
    ways = net.chosen(given)
    assert ways.by_events is (words is None)
    assert words is None or words in ways.why
    assert isinstance(net(given)[0], str) is not ways.by_events


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: layer(37, 40, backend="sparse"), "must be one of 'auto', 'event', 'dense', got 'sparse'"),
        (lambda: layer(37, 40)(torch.full(SHAPE, 0.5)), "must be 0 or 1"),
        (lambda: layer(37, 40)(spikes(0.2, 4, 2, 5)), r"\(time, batch, 37\), got shape \(4, 2, 5\)"),
        (lambda: layer(37, 40)(Spikes.of(spikes(0.2, 4, 2, 5))), r"\(time, batch, 37\), got shape \(4, 2, 5\)"),
        (lambda: layer(37, 40, LEARNED())(spikes(0.2)), "backend='event' cannot run this layer: its surrogate is learned"),
        (lambda: layer(37, 40, nn.RecurrentLeaky(40, 0.9))(spikes(0.2)), "cannot run this layer: its recurrent neurons"),
        (lambda: layer(37, 40, nn.Leaky(0.9, inhibition=True))(spikes(0.2)), "it has inhibition"),
        (lambda: layer(37, 40).double()(spikes(0.2).double()), "not of float32"),
        (lambda: Spikes.of(torch.full(SHAPE, 0.5)), "whole numbers from 0"),
        (lambda: Spikes.of(torch.zeros(3, 4)), r"\(time, batch, neurons\), got shape \(3, 4\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
