"""snnTorch's names on spikegrad: ``from spikegrad.compat import snntorch as snn`` for ``import snntorch as snn``.

The neurons Leaky, Synaptic, RLeaky, RSynaptic, Alpha and Lapicque, `surrogate`, ``utils.reset`` and `fuse` are ours. Everything else,
``spikegen``, ``functional``, ``backprop``, ``SLSTM``, is the installed snnTorch's own.
"""

from __future__ import annotations

from typing import Any

from spikegrad.compat.forwarding import Peer
from spikegrad.compat.snntorch import surrogate as surrogate
from spikegrad.compat.snntorch import utils as utils
from spikegrad.compat.snntorch.alpha import Alpha as Alpha
from spikegrad.compat.snntorch.fusion import Fused as Fused
from spikegrad.compat.snntorch.fusion import FusionError as FusionError
from spikegrad.compat.snntorch.fusion import FusionWarning as FusionWarning
from spikegrad.compat.snntorch.fusion import fuse as fuse
from spikegrad.compat.snntorch.lapicque import Lapicque as Lapicque
from spikegrad.compat.snntorch.leaky import LIF as LIF
from spikegrad.compat.snntorch.leaky import Leaky as Leaky
from spikegrad.compat.snntorch.neuron import SpikingNeuron as SpikingNeuron
from spikegrad.compat.snntorch.recurrent import RLeaky as RLeaky
from spikegrad.compat.snntorch.recurrent import RSynaptic as RSynaptic
from spikegrad.compat.snntorch.synaptic import Synaptic as Synaptic

_PEER = Peer(__name__, "snntorch", "snnTorch", modules=("surrogate", "utils"))


def __getattr__(name: str) -> Any:
    return _PEER.attribute(name)


def __dir__() -> list[str]:
    return _PEER.names()
