"""``snntorch.utils``: what acts on a whole network. What is not here is snnTorch's own."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from spikegrad.compat.forwarding import Peer
from spikegrad.compat.snntorch.neuron import SpikingNeuron

__path__: list[str] = []  # Python asks the finder of `Peer` about names only of packages, so that it can say why one is missing
_PEER = Peer(__name__, "snntorch.utils", "snnTorch")


def __getattr__(name: str) -> Any:
    return _PEER.attribute(name)


def __dir__() -> list[str]:
    return _PEER.names()


def reset(net: nn.Module) -> None:
    """Set the states of every neuron in `net`, however deep, to zeros without a graph. Other networks keep theirs.

    Args:
        net: a network, or a neuron itself. Its neurons are ours or, like `SLSTM`, snnTorch's own.

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
    theirs = getattr(sys.modules.get("snntorch"), "SpikingNeuron", SpikingNeuron)
    for module in net.modules():
        # Those of theirs that go from call to call have this method; the others take whole sequences and keep nothing.
        restart = getattr(module, "reset_mem", None)
        if restart is not None and isinstance(module, (SpikingNeuron, theirs)):
            restart()
