"""``snntorch.utils``: what acts on a whole network."""

from __future__ import annotations

from torch import nn

from spikegrad.compat.snntorch.neuron import SpikingNeuron


def reset(net: nn.Module) -> None:
    """Set the states of every neuron in `net`, however deep, to zeros without a graph. Other networks keep theirs.

    Args:
        net: a network, or a neuron itself.

    Raises:
        TypeError: `net` is not a `torch.nn.Module`.

    Example:
        >>> import torch
        >>> from spikegrad.compat import snntorch as snn
        >>> net = torch.nn.Sequential(torch.nn.Sequential(snn.Leaky(0.9, init_hidden=True)))
        >>> spk = net(torch.ones(1, 2))
        >>> snn.utils.reset(net)
        >>> net[0][0].mem
        tensor([[0., 0.]])
    """
    if not isinstance(net, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"`net` must be a torch.nn.Module, got {type(net).__name__}; reset several networks one by one")
    for module in net.modules():
        if isinstance(module, SpikingNeuron):
            module.reset_mem()
