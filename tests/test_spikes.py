"""`Spikes` from everything that has events, with whole numbers for values, through chains, dropout and training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.test_events import SPIKE, dyadic, gradients, layer, network, recurrent, spikes
from torch import nn as torch_nn

from spikegrad import Spikes, data, nn
from spikegrad.data import Binning, Events
from spikegrad.kernels import event_passes


def counts(*shape: int) -> torch.Tensor:
    return torch.poisson(torch.full(shape, 0.3), generator=torch.Generator().manual_seed(2))


def equal(made: Spikes, dense: torch.Tensor) -> None:
    """A list says a sequence, and is the list that the sequence itself makes."""
    expected = Spikes.of(dense).detach()
    assert torch.equal(made.detach().dense(), dense)
    assert torch.equal(made.detach().last(), dense[-1])
    assert made.shape == expected.shape
    for name in ("index", "base", "since"):
        assert torch.equal(getattr(made, name), getattr(expected, name)), name
        assert getattr(made, name).dtype == getattr(expected, name).dtype


def test_counts_are_events_that_are_there_several_times():
    x = counts(7, 3, 37)
    made = Spikes.of(x)
    assert x.amax() > 1
    assert len(made) == x.sum()
    assert torch.equal(made.detach().dense(), x)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_from_sparse_matrices():
    x = counts(7, 3, 37)
    equal(Spikes.of([x[:, k].to_sparse_csr() for k in range(3)]), x)
    equal(Spikes.of(x[:, 1].to_sparse_csr()), x[:, 1:2])
    with pytest.raises(ValueError, match=r"of one shape, one for each sample, got shapes \(7, 37\), \(8, 37\)"):
        Spikes.of([torch.zeros(7, 37).to_sparse_csr(), torch.zeros(8, 37).to_sparse_csr()])
    with pytest.raises(ValueError, match="no gradient goes to a sparse matrix"):
        Spikes.of(torch.zeros(7, 37).to_sparse_csr().requires_grad_())
    with pytest.raises(TypeError, match=r"got a tensor of layout torch\.sparse_coo"):
        Spikes.of(torch.zeros(7, 37).to_sparse())


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), float("inf")])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="whole numbers from 0"):
        Spikes.of(torch.full((2, 1, 3), value))


@pytest.mark.parametrize("binary", [False, True])
def test_from_event_data(binary):
    generator = np.random.default_rng(0)
    sizes = (40, 0, 25)
    step, channel = (generator.integers(0, high, sum(sizes)) for high in (6, 11))
    events = Events(step, channel, np.cumsum([0, *sizes]), steps=6, channels=11, binary=binary)
    dense = torch.from_numpy(events[:]).transpose(0, 1).contiguous()
    assert dense.amax() == 1 if binary else dense.amax() > 1
    equal(Spikes.of(events), dense)
    again = events.ordered()
    assert again.ordered() is again


def test_from_a_file_of_events(tmp_path):
    fields = np.zeros(4, [("x", "i4"), ("y", "i4"), ("t", "i8"), ("p", "i4")])
    fields["x"], fields["y"], fields["t"], fields["p"] = [1, 0, 1, 1], [0, 2, 0, 0], [0, 3000, 7000, 7100], [1, 0, 0, 0]
    np.save(tmp_path / "sample.npy", fields)
    x, *_ = data.samples(str(tmp_path / "sample.npy"), Binning(steps=4, step_ms=2.0, sensor=(3, 3)))
    made = Spikes.of(x)
    assert made.shape == (4, 1, 18)
    assert made.index.tolist() == [9 + 1, 6, 1, 1]


def test_a_layer_given_counts_is_the_dense_form():
    net, x = layer(37, 40), counts(12, 5, 37)
    out, last = net(Spikes.of(x).detach())
    expected, state = net.neuron(torch_nn.functional.linear(x, net.weight, net.bias))
    assert torch.equal(out.dense(), expected)
    assert torch.equal(last, state)
    ours, theirs = (torch.autograd.grad(y, [net.weight, net.bias], dyadic(12, 5, 40, seed=4)) for y in (out.dense(), expected))
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def chain(dropout: float = 0.0) -> nn.Sequential:
    """Linear maps and neurons as PyTorch's users write them."""
    torch.manual_seed(0)
    sizes = (37, 40, 24, 6)
    neurons = [nn.Leaky(0.9, spike=SPIKE), nn.Leaky(0.9, spike=SPIKE), nn.LeakyIntegrator(0.9)]
    made: list[torch_nn.Module] = []
    for a, b, each in zip(sizes, sizes[1:], neurons, strict=False):
        linear = torch_nn.Linear(a, b)
        with torch.no_grad():
            linear.weight.copy_(dyadic(b, a, seed=b))
            linear.bias.copy_(dyadic(b, seed=b + 1))
        made += [linear, each, torch_nn.Dropout(dropout)]
    return nn.Sequential(*made[:-1])


def test_a_chain_given_spikes_runs_linear_maps_and_neurons_by_events(by_events):
    net, x = chain(), spikes(0.2)
    out, _ = net(Spikes.of(x).detach())
    assert by_events == [net[1], net[4], net[7]]
    expected, _ = net(x)
    assert len(by_events) == 3  # a tensor is as ever
    assert torch.equal(out, expected)
    ours, theirs = (torch.autograd.grad(y.square().sum(), list(net.parameters())) for y in (out, expected))
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    hidden, _ = net[:2](Spikes.of(x).detach())
    assert isinstance(hidden, Spikes)
    net[0].register_forward_hook(lambda module, given, made: None)  # who watches a linear map sees it run
    assert torch.equal(net(Spikes.of(x).detach())[0], expected)
    assert len(by_events) == 4


def test_dropout_of_spikes(by_events):
    net, x = chain(0.4), spikes(0.2)
    hidden, _ = net[:2](Spikes.of(x).detach())
    some = hidden.dropped(0.4)
    before, after = hidden.dense(), some.dense()
    values = after.unique()
    assert values[0] == 0
    torch.testing.assert_close(values[1:], torch.tensor([1 / 0.6]))
    assert bool((before >= (after != 0)).all())
    assert len(some) / len(hidden) == pytest.approx(0.6, abs=0.1)
    mask = some.mask.whole(some.shape)
    assert float(mask.mean()) == pytest.approx(0.6, abs=0.03)
    assert torch.equal(after, before * mask / 0.6)
    weight, arriving = net[0].weight, dyadic(12, 5, 40, seed=4)
    (found,) = torch.autograd.grad(after, weight, arriving, retain_graph=True)
    (wanted,) = torch.autograd.grad(before, weight, arriving * mask / 0.6, retain_graph=True)
    torch.testing.assert_close(found, wanted)
    # and through a layer behind it, against its dense form
    out, _ = net[3:5](some)
    expected, _ = net[3:5](after)
    assert torch.equal(out.dense(), expected)
    arriving = dyadic(12, 5, 24, seed=5)
    ours, theirs = (torch.autograd.grad(y, [weight, net[3].weight], arriving, retain_graph=True) for y in (out.dense(), expected))
    for ours_each, theirs_each in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_each, theirs_each, rtol=1e-5, atol=2e-6 * float(theirs_each.abs().max()))


def test_what_is_left_is_drawn_anew_and_repeats_with_the_seed():
    given = Spikes.of(spikes(0.3)).detach()
    torch.manual_seed(1)
    first, second = given.dropped(0.5).dense(), given.dropped(0.5).dense()
    torch.manual_seed(1)
    assert torch.equal(given.dropped(0.5).dense(), first)
    assert not torch.equal(first, second)
    assert given.dropped(0.0) is given
    assert len(given.dropped(1.0)) == 0
    net = chain(0.5).eval()
    assert torch.equal(net(given)[0], net(given.dense())[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_behind_a_dropout(value):
    net, x = layer(37, 40), spikes(0.2)
    some = net(Spikes.of(x).detach())[0].dropped(0.4)
    arriving = torch.zeros(12, 5, 40)
    arriving[4, 2, 7] = value
    found = torch.autograd.grad(some.dense(), list(net.parameters()), arriving)
    net.backend = "dense"
    wanted = torch.autograd.grad(net(x)[0] * some.mask.whole(some.shape) / 0.6, list(net.parameters()), arriving)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("make", [network, recurrent], ids=["forward", "recurrent"])
def test_lists_of_a_few_samples_at_a_time_are_those_of_all(make, monkeypatch):
    net, x, before = make(), spikes(0.2), torch.get_num_threads()
    whole = gradients(net, x, "event")
    monkeypatch.setattr(event_passes, "ROOMS", 0)
    try:
        torch.set_num_threads(2)  # two samples, two, and one
        some = gradients(net, x, "event")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(some[0], whole[0])
    assert all(torch.equal(a, b) for a, b in zip(some[1], whole[1], strict=True))
    assert all(torch.equal(some[2][name], whole[2][name]) for name in whole[2])
