"""snnTorch's names on spikegrad: ``from spikegrad.compat import snntorch as snn`` for ``import snntorch as snn``."""

from spikegrad.compat.snntorch import surrogate as surrogate
from spikegrad.compat.snntorch import utils as utils
from spikegrad.compat.snntorch.fuse import Fused as Fused
from spikegrad.compat.snntorch.fuse import FusionError as FusionError
from spikegrad.compat.snntorch.fuse import FusionWarning as FusionWarning
from spikegrad.compat.snntorch.fuse import fuse as fuse
from spikegrad.compat.snntorch.leaky import LIF as LIF
from spikegrad.compat.snntorch.leaky import Leaky as Leaky
from spikegrad.compat.snntorch.neuron import SpikingNeuron as SpikingNeuron
from spikegrad.compat.snntorch.synaptic import Synaptic as Synaptic
