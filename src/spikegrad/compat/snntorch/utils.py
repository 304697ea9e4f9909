"""``snntorch.utils``: what acts on a network."""

from __future__ import annotations

from torch import nn

from spikegrad.compat.snntorch.neuron import SpikingNeuron


def reset(net: nn.Module) -> None:
    """Set the state of every neuron in `net`, however deep, to zeros; other networks keep theirs."""
    for module in net.modules():
        if isinstance(module, SpikingNeuron):
            module.reset_mem()
