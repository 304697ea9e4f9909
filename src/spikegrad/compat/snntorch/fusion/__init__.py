"""A network that loops over time, turned into layers over whole sequences: recorded, put in order, run."""

from spikegrad.compat.snntorch.fusion.fused import Fused as Fused
from spikegrad.compat.snntorch.fusion.fused import FusionWarning as FusionWarning
from spikegrad.compat.snntorch.fusion.fused import fuse as fuse
from spikegrad.compat.snntorch.fusion.operations import FusionError as FusionError
