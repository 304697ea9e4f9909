"""Spikes and layers of events at their edges: what is empty, of another type, transformed, changed in place, or set by somebody."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from tests.test_events import SPIKE, gradients, layer, network, same, spikes, take
from torch import nn as torch_nn

from spikegrad import ATan, Spikes, data, neurons, nn
from spikegrad.kernels import choice
from spikegrad.kernels.places import places
from spikegrad.nn import events, linear


@pytest.fixture
def eager(monkeypatch):
    """``"auto"`` takes events however small a layer is."""
    monkeypatch.setattr(choice, "FEWEST", 0)


@pytest.mark.parametrize("shape", [(12, 5, 37), (0, 5, 37), (12, 0, 37)], ids=str)
@pytest.mark.parametrize("backend", ["auto", "dense", "event"])
def test_spikes_come_out_of_a_layer_that_is_silent(shape, backend):
    net = layer(37, 40, nn.Leaky(0.9, spike=SPIKE, backend="reference" if backend != "event" else "auto"), backend=backend)
    with torch.no_grad():
        net.bias.fill_(-1.0)
    out, _ = net(Spikes.of(torch.zeros(shape)))
    assert isinstance(out, Spikes)
    assert (out.shape, len(out)) == ((*shape[:2], 40), 0)


def chain(*, conv: bool = False) -> nn.Sequential:
    hidden = nn.Leaky(0.9, spike=SPIKE, backend="reference")
    readout = nn.LeakyIntegrator(0.9, backend="reference")
    first = [nn.SpikingConv2d(1, 2, 3, hidden, size=(6, 6)), torch_nn.Flatten()] if conv else [torch_nn.Linear(36, 32), hidden]
    return nn.Sequential(*first, layer(32, 3, readout, backend="auto"))


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_of_another_type_are_dense(conv, dtype, eager):
    torch.manual_seed(0)
    net, x = chain(conv=conv).to(dtype), spikes(0.3, 5, 2, 36)
    out, _ = net(Spikes.of(x))
    dense = x.to(dtype).unflatten(2, (1, 6, 6)) if conv else x.to(dtype)
    assert out.dtype is dtype
    assert torch.equal(out, net(dense)[0])


def test_what_autocast_makes_is_not_taken_for_float32(monkeypatch):
    net, listed, listing = layer(37, 40, backend="auto"), [], events.listed
    monkeypatch.setattr(events, "listed", lambda x: listed.append(x.dtype) or listing(x))
    with torch.no_grad():
        net.bias.copy_(torch.tensor([-9.0, 9.0]).repeat(20))  # two of 16 bits, 0 and 1, are a 1 of 32 bits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = net(Spikes.of(torch.zeros(4, 2, 37)))
        expected, _ = net(torch.zeros(4, 2, 37))
    assert torch.equal(out, expected)
    assert expected.sum() == 4 * 2 * 20
    assert not listed


@pytest.mark.parametrize("make", [lambda: network(), lambda: layer(37, 40)], ids=["network", "layer"])
@pytest.mark.parametrize("given", [Spikes.of, lambda x: Spikes.of(x).detach()], ids=["of a tensor", "without gradient"])
def test_spikes_under_transforms(make, given):
    net, x = make(), spikes(0.2)
    take(net, "dense")
    parameters, x_given = dict(net.named_parameters()), given(x)

    def total(parameters):
        out, _ = torch.func.functional_call(net, parameters, (x_given,))
        return (out if isinstance(out, torch.Tensor) else out.dense()).sin().sum()

    found = torch.func.grad(total)(parameters)
    expected = torch.autograd.grad(net(x)[0].sin().sum(), list(net.parameters()))
    for ours, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    towards = {name: torch.ones_like(p) for name, p in parameters.items()}
    _, slope = torch.func.jvp(total, (parameters,), (towards,))
    torch.testing.assert_close(slope, sum(g.sum() for g in expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("make", [lambda: layer(37, 40), lambda: network((37, 40, 40, 6))], ids=["layer", "network"])
def test_gradients_in_batches(make):
    net, x = make(), spikes(0.2)
    out = net(Spikes.of(x))[0]
    out = out if isinstance(out, torch.Tensor) else out.dense()
    rows = torch.randn(3, *out.shape)
    found = torch.autograd.grad(out, list(net.parameters()), rows, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, list(net.parameters()), row, retain_graph=True) for row in rows]
    for ours, theirs in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-4, atol=1e-4)


def test_gradients_in_batches_of_a_convolution():
    x = spikes(0.2, 3, 2, 2, 8, 8).requires_grad_()
    conv = nn.SpikingConv2d(2, 3, 3, nn.LeakyIntegrator(0.9, backend="reference"), backend="event")
    out, _ = conv(x)
    rows = torch.randn(3, *out.shape)
    found = torch.autograd.grad(out, [x, *conv.parameters()], rows, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, [x, *conv.parameters()], row, retain_graph=True) for row in rows]
    for ours, theirs in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-4, atol=1e-4)


def lying_otherwise(x):
    return x.transpose(0, -1).contiguous() if x.ndim > 1 else x


@pytest.mark.parametrize(
    "hooks",
    [(lying_otherwise, lambda x: x.transpose(0, -1) if x.ndim > 1 else x), (lambda x: x.double(), lambda x: x)],
    ids=["another layout", "another dtype"],
)
def test_what_is_saved_comes_back_in_another_form(hooks):
    net, x = layer(37, 40, nn.Leaky(0.9, spike=ATan())), spikes(0.2)
    expected = torch.autograd.grad(net(x)[0].sum(), list(net.parameters()))
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        out, _ = net(x)
    for ours, theirs in zip(torch.autograd.grad(out.sum(), list(net.parameters())), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("currents", ["event", "dense"])
@pytest.mark.parametrize("weights", ["event", "dense"])
def test_events_stay_when_their_tensor_is_used_again(currents, weights, monkeypatch):
    net, x = layer(37, 40), spikes(0.2)
    expected = gradients(net, x, "event")
    buffer = x.clone()
    given = Spikes.of(buffer)
    buffer.zero_()
    assert torch.equal(given.dense(), x)
    monkeypatch.setattr(nn.SpikingLinear, "_chosen", lambda *_: choice.Chosen(currents, weights, "event", ""))
    out, _ = net(given)
    buffer.fill_(9)
    assert torch.equal(out.dense(), expected[0])
    arriving = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad(out.dense(), net.weight, arriving)
    torch.testing.assert_close(found, torch.autograd.grad(net(x)[0], net.weight, arriving)[0], rtol=1e-4, atol=1e-4)
    buffer = x.clone()
    given = Spikes.of(buffer)
    buffer.untyped_storage().resize_(0)
    assert torch.equal(given.dense(), x)


def test_an_input_without_a_gradient_is_not_kept():
    net, x = layer(37, 40), spikes(0.2)
    here = weakref.ref(x)
    out, _ = net(x)
    del x
    assert here() is None
    with torch.inference_mode():
        x = spikes(0.2)
    found = torch.autograd.grad(out.sum(), net.weight)
    assert torch.equal(torch.autograd.grad(net(x)[0].sum(), net.weight)[0], found[0])


def test_a_graph_goes_with_what_refers_to_it():
    net, x = network(), spikes(0.2)
    gc.disable()  # which finds circles now and then, when a training step has made many
    try:
        hidden = net[0](Spikes.of(x))[0]
        out = net[1:](hidden)[0]
        here = weakref.ref(hidden), weakref.ref(out.grad_fn)
        del hidden, out
        assert [x() for x in here] == [None, None]
    finally:
        gc.enable()


def test_what_does_not_fit_is_said_in_words():
    uneven = nn.Layer(neurons.Leaky(0.9), values={"beta": torch.full((5,), 0.9)})
    with pytest.raises(ValueError, match=r"`beta` of shape \(5,\) does not fit one step"):
        layer(37, 40, uneven)(spikes(0.2))
    for kind in (lambda neuron: nn.SpikingLinear(3, 4, neuron), lambda neuron: nn.SpikingConv2d(3, 4, 3, neuron)):
        with pytest.raises(TypeError, match=r"got Leaky; make a layer of it, nn.Layer\(neuron\)"):
            kind(neurons.Leaky(0.9))
        with pytest.raises(TypeError, match=r"must be a layer of neurons such as nn\.Leaky"):
            kind(torch_nn.ReLU())
    for dense in (nn.Leaky(0.9), nn.Residual(torch_nn.Linear(37, 37))):
        with pytest.raises(TypeError, match=r"must be a PyTorch tensor, got .*Spikes; give its dense form, spikes\.dense\(\)"):
            dense(Spikes.of(spikes(0.2)))


@pytest.mark.filterwarnings("ignore:Initializing")
@pytest.mark.parametrize("sizes", [(5, 0), (0, 5)], ids=str)
def test_layers_of_no_neurons_or_senders(sizes):
    net = nn.SpikingLinear(*sizes, nn.Leaky(0.9), backend="event")
    out, state = net(torch.zeros(3, 2, sizes[0]))
    assert (out.shape, state.shape) == ((3, 2, sizes[1]), (2, sizes[1]))


def test_a_forward_that_somebody_set_is_called(eager):
    net = nn.Sequential(torch_nn.Linear(37, 40), nn.Leaky(0.9, spike=SPIKE), torch_nn.Dropout(0.0), torch_nn.Linear(40, 3), nn.Leaky(0.9))
    called = []
    for place in (0, 2, 3):
        net[place].forward = lambda x, place=place, own=net[place].forward: called.append(place) or own(x)  # as adapters do it
    net(Spikes.of(spikes(0.2)))
    assert called == [0, 2, 3]


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"dilation": 2}, {"padding": 1, "padding_mode": "circular"}, {"padding": "same"}], ids=str
)
def test_convolutions_that_events_do_not_know_are_dense(options, eager):
    x = spikes(0.02, 3, 2, 2, 8, 8)
    net = nn.SpikingConv2d(2, 4, 3, nn.LeakyIntegrator(0.9, backend="reference"))
    net.conv = torch_nn.Conv2d(2, 4, 3, **options)
    assert not net.chosen(x).by_events
    expected, _ = net.neuron(net.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
    assert torch.equal(net(x)[0], expected)
    net.backend = "event"
    with pytest.raises(ValueError, match="cannot run this layer: its convolution has"):
        net(x)


def test_errors_of_convolutions_by_events():
    net, x = nn.SpikingConv2d(2, 4, 3, nn.Leaky(0.9, backend="reference"), backend="event"), spikes(0.2, 3, 2, 2, 8, 8)
    with pytest.raises(ValueError, match=r"`state` v has shape \(2, 4\)"):
        net(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="must be v, got 2 arrays"):
        net(x, (torch.zeros(2, 4, 6, 6),) * 2)
    with pytest.raises(ValueError, match=r"kernels of \(3, 3\) are larger than images of \(2, 8\)"):
        net(x[..., :2, :])
    for shape in ((3, 0, 2, 8, 8), (0, 2, 2, 8, 8)):
        empty = torch.zeros(shape, requires_grad=True)
        out, state = net(empty)
        assert out.shape == (*shape[:2], 4, 6, 6)
        (out.sum() + state.sum()).backward()
        assert empty.grad.shape == shape


@pytest.mark.filterwarnings("ignore:Sparse")
def test_events_outside_are_refused():
    for neuron, words in (([5, 1], "neuron 5, but there are 3"), ([-1, 1], "neuron -1, but there are 3")):
        made = torch.sparse_csr_tensor(torch.tensor([0, 1, 2]), torch.tensor(neuron), torch.ones(2), size=(2, 3), check_invariants=False)
        with pytest.raises(ValueError, match=words):
            Spikes.of(made)
    for step, channel, starts, words in (
        ([0, 1], [7, 1], [0, 2], "channel 7, but there are 3"),
        ([0, 1], [-1, 1], [0, 2], "channel -1"),
        ([0, 5], [1, 1], [0, 2], "step 5, but there are 2"),
        ([0, 1], [1, 1], [0, 3], "must rise from 0 to the number of events, 2 steps"),
    ):
        with pytest.raises(ValueError, match=words):
            data.Events(np.array(step), np.array(channel), np.array(starts), steps=2, channels=3)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_matrices_of_truth_values():
    x = spikes(0.3, 4, 5).bool()
    assert torch.equal(Spikes.of(x.to_sparse_csr()).dense()[:, 0], x.float())


def test_wrong_shares_and_masks():
    given = Spikes.of(spikes(0.2))
    for share in (-0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            given.dropped(share)
    with pytest.raises(ValueError, match=r"must have their shape \(12, 5, 37\), got \(12, 5\)"):
        given.masked(torch.ones(12, 5))
    assert torch.equal(given.masked(torch.full(given.shape, 0.5, requires_grad=True)).dense(), given.dense())


def test_gradients_that_are_not_finite_behind_two_dropouts():
    net, x = layer(37, 40), spikes(0.2)
    torch.manual_seed(0)
    out, _ = net(Spikes.of(x))
    once = out.dropped(0.4)
    twice = once.dropped(0.4)
    near = places(out.pairs.neurons.numpy(), out.pairs.base, out.pairs.since, out.shape)
    read = torch.zeros(out.shape).view(-1).index_fill(0, near, 1.0).view(out.shape)
    place = (read * (once.mask.whole(out.shape) == 0)).nonzero()[-1]  # dropped before, of a neuron near threshold
    arriving = torch.zeros(out.shape)
    arriving[tuple(place)] = float("inf")
    found = torch.autograd.grad(twice.dense(), list(net.parameters()), arriving)
    wanted = torch.autograd.grad(net(x)[0] * once.mask.whole(out.shape), list(net.parameters()), arriving)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_gradients_that_are_marked_as_negative():
    net, x = layer(37, 40), spikes(0.2)
    out = net(Spikes.of(x))[0].dense()
    minus = torch._neg_view(torch.randn(out.shape))  # as PyTorch marks the imaginary part of what is conjugated
    assert minus.is_neg()
    expected = torch.autograd.grad(out, net.weight, minus.resolve_neg(), retain_graph=True)
    assert torch.equal(torch.autograd.grad(out, net.weight, minus)[0], expected[0])
    with pytest.raises(ValueError, match="whole numbers from 0"):
        Spikes.of(torch._neg_view(torch.ones(2, 3, 4)))


@pytest.mark.filterwarnings("ignore:Sparse")
def test_the_default_device_does_not_matter():
    net, x = layer(37, 40, dropout=0.5), spikes(0.2)
    matrices = [x[:, sample].to_sparse_csr() for sample in range(5)]
    torch.set_default_device("meta")
    try:
        given = Spikes.of(matrices)
        for some in (given.dropped(0.5), given.dropped(1.0), given.dropped(0.5).masked(x)):
            assert some.mask.whole(some.shape).is_cpu
        out = net(given)[0].dense()
    finally:
        torch.set_default_device(None)
    out.sum().backward()
    assert net.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [Spikes.of, lambda x: layer(37, 40)(x)[0].detach(), lambda x: layer(37, 70000)(x)[0]])
def test_spikes_are_pickled(make):
    made = make(Spikes.of(spikes(0.2)) if make is not Spikes.of else spikes(0.2))
    found = pickle.loads(pickle.dumps(made))
    assert found.index.dtype is made.index.dtype
    assert torch.equal(found.dense(), made.dense())
    assert len(found) > 0


class Centred(nn.Leaky):
    def forward(self, currents, state=None, **options):
        return super().forward(currents - currents.mean(1, keepdim=True), state, **options)


@pytest.mark.parametrize(
    "neuron",
    [
        lambda: Centred(0.9, spike=SPIKE),
        lambda: nn.Leaky(0.9, spike=SPIKE, quantize=lambda v: v - v.mean()),
        lambda: nn.Layer(neurons.Leaky(0.9, spike=SPIKE), values={"beta": torch.linspace(0.5, 0.9, 200).view(5, 40)}),
    ],
    ids=["a class of one's own", "a function that quantises", "numbers for each sample"],
)
def test_what_sees_several_samples_is_recomputed_with_all(neuron, monkeypatch):
    monkeypatch.setattr(linear, "_BLOCK", 1)
    net, x = layer(37, 40, neuron(), backend="dense"), spikes(0.2)
    net.neuron.backend = "reference"
    found = gradients(net, x, "dense")
    net.memory = "save"
    same(found, gradients(net, x, "dense"))
