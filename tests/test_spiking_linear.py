"""Weights and neurons in one layer: the gradients of two layers, from bits."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from spikegrad import nn
from spikegrad.neurons import Adaptive
from spikegrad.nn import linear

NEURONS = {
    "leaky": lambda: nn.Leaky(0.9, learn_beta=True, learn_threshold=True),
    "delayed": lambda: nn.Leaky(0.9, reset="zero", reset_delay=True, detach_reset=False),
    "synaptic": lambda: nn.Synaptic(0.8, 0.9, learn_alpha=True),
    "recurrent": lambda: nn.RecurrentLeaky(7, 0.9),
    "reference": lambda: nn.Leaky(0.9, backend="reference"),
    "learned surrogate": lambda: nn.Leaky(0.9, spike=nn.Spike(nn.Leaky(0.9).spike.surrogate, learn="slope")),
    "integrator": lambda: nn.LeakyIntegrator(0.9, learn_beta=True),
    "quantised": lambda: nn.Leaky(0.9, quantize=nn.Quantize(6)),
    "one-to-one": lambda: nn.RecurrentLeaky(7, 0.9, connection="one-to-one"),
    "adaptive": lambda: nn.Layer(Adaptive(0.9), learn=("rho", "spike.slope")),
}


def spikes(*shape, seed=0):
    return torch.bernoulli(torch.full(shape, 0.3), generator=torch.Generator().manual_seed(seed))


def gradients(layer, x, state=None):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out, last = layer(x, state)
    last = last if isinstance(last, tuple) else (last,)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weights).sum().add(sum((part * weights[0]).sum() for part in last)).backward()
    return out, last, {"x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}


@pytest.mark.parametrize("block", [10**9, 300])  # all samples at once, one at a time
@pytest.mark.parametrize("kind", NEURONS)
def test_the_gradients_of_two_layers(kind, block, monkeypatch):
    monkeypatch.setattr(linear, "_BLOCK", block)
    torch.manual_seed(0)
    layer = nn.SpikingLinear(13, 7, NEURONS[kind](), memory="recompute")
    x = spikes(20, 4, 13)
    out, last, found = gradients(layer, x)
    layer.memory = "save"
    saved, saved_last, expected = gradients(layer, x)
    if block > 300:
        torch.testing.assert_close(out, saved, rtol=0, atol=0)
    for ours, theirs in zip(last, saved_last, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("memory", ["recompute", "save"])
def test_state_goes_in_and_out(memory):
    layer = nn.SpikingLinear(5, 4, nn.Synaptic(0.8, 0.9), memory=memory)
    x = spikes(12, 3, 5)
    whole, last = layer(x)
    assert last._fields == ("i", "v")
    first, state = layer(x[:5])
    second, state = layer(x[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=0)
    torch.testing.assert_close(state, last)
    one, one_last = layer(x[:, 0])
    assert one_last._fields == ("i", "v")
    torch.testing.assert_close(one, whole[:, 0])
    torch.testing.assert_close(one_last[1], last[1][0])


def saved_bytes(net, run):
    """Bytes that autograd holds between forward and backward, without parameters, each storage once."""
    storages, parameters = {}, {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in parameters:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    return sum(storages.values()), out


@pytest.mark.parametrize(("memory", "least", "most"), [("recompute", 0.125, 0.25), ("save", 8, 8.5)])
def test_bytes_saved_per_neuron_and_step(memory, least, most):
    net = nn.Sequential(*(nn.SpikingLinear(256, 256, nn.Leaky(0.9), memory=memory, backend="dense") for _ in range(4)))
    x = spikes(50, 16, 256).requires_grad_()
    held, (out, _) = saved_bytes(net, lambda: net(x))
    assert least <= held / (4 * out.numel()) <= most


def test_dropout_keeps_spikes_binary_and_scales_the_weights():
    torch.manual_seed(0)
    layer = nn.SpikingLinear(2000, 1, nn.LeakyIntegrator(0.0), bias=False, dropout=0.5)
    torch.nn.init.ones_(layer.weight)
    x = spikes(40, 1, 2000).requires_grad_()
    out, _ = layer(x)
    torch.testing.assert_close(out.mean(), x.sum(-1).mean(), rtol=0.02, atol=0)
    out.sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}
    assert ((x.grad > 0).float().mean() - 0.5).abs() < 0.02
    layer.eval()
    torch.testing.assert_close(layer(x)[0], x.sum(-1, keepdim=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_inside_checkpoint(reentrant):
    layer = nn.SpikingLinear(13, 7, nn.Leaky(0.9))
    x = spikes(20, 4, 13).requires_grad_()
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.SpikingLinear(3, 2, nn.Leaky(0.9))(torch.full((4, 1, 3), 0.5)), "must be 0 or 1"),
        (lambda: nn.SpikingLinear(3, 2, nn.Leaky(0.9))(torch.full((4, 1, 3), float("nan"))), "must be 0 or 1"),
        (lambda: nn.SpikingLinear(3, 2, nn.Leaky(0.9))(torch.zeros(4, 1, 5)), r"\(time, batch, 3\), got shape \(4, 1, 5\)"),
        (lambda: nn.SpikingLinear(3, 2, nn.Leaky(0.9), dropout=1.0), "`dropout` must be"),
        (lambda: nn.SpikingLinear(3, 2, nn.Leaky(0.9), memory="none"), "`memory` must be one of"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
