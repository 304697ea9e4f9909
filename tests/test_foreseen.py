"""Of what is known a recomputed layer does not look for what it draws; of what a user wrote it does: the second run has its numbers."""

from __future__ import annotations

import pytest
import torch

from spikegrad import NoisyThreshold, nn
from spikegrad.nn.linear import _foreseen


class Trembling(nn.Leaky):
    """Neurons whose input trembles, and which return more than is asked."""

    def forward(self, currents, state=None, **rest):
        out, last = super().forward(currents * torch.rand_like(currents), state, **rest)
        return out, {"v": last, "said": "so"}


class TremblingSpike(nn.Spike):
    def forward(self, x, **rest):
        return super().forward(x * torch.rand_like(x), **rest)


class Halved(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x)


def parametrised(layer):
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Halved())
    return layer


LAYERS = {
    "neurons": lambda: nn.SpikingLinear(6, 4, Trembling(0.9)),
    "spikes": lambda: nn.SpikingLinear(6, 4, nn.Layer(nn.Leaky(0.9).neuron, spike=TremblingSpike(nn.Leaky(0.9).neuron.spike))),
    "noise": lambda: nn.SpikingLinear(6, 4, nn.Leaky(0.9, spike=NoisyThreshold())),
    "states": lambda: nn.SpikingLinear(6, 4, nn.Leaky(0.9, quantize=lambda x: x * torch.rand_like(x))),
    "weights": lambda: parametrised(nn.SpikingLinear(6, 4, nn.Leaky(0.9))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_drawn_is_drawn_again(name):
    torch.manual_seed(0)
    layer, x = LAYERS[name](), (torch.rand(5, 3, 6) < 0.5).float()
    assert not _foreseen(layer)
    found = []
    for memory in ("save", "recompute"):
        layer.memory = memory
        layer.zero_grad()
        torch.manual_seed(1)
        out, last = layer(x)
        torch.manual_seed(2)
        out.sum().backward()
        found.append((out, [p.grad.clone() for p in layer.parameters()], torch.rand(1)))
    (out, grads, then), (other, others, later) = found
    assert torch.equal(out, other)
    assert torch.equal(then, later)
    assert all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))
    assert any(g.any() for g in grads)
    assert (type(last) is dict) == (name == "neurons")


def test_our_own_layers_are_foreseen():
    for neuron in (nn.Leaky(0.9), nn.LeakyIntegrator(0.9), nn.RecurrentLeaky(4, 0.9), nn.Leaky(0.9, quantize=nn.Quantize(4))):
        assert _foreseen(nn.SpikingLinear(6, 4, neuron))
    hooked = nn.Leaky(0.9)
    hooked.spike.register_forward_hook(lambda *_: None)
    assert not _foreseen(nn.SpikingLinear(6, 4, hooked))
