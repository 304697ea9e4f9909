"""Data to train on: arrays and binned events, checked when they are loaded, split the same way every time."""

from spikegrad.data.dataset import Dataset as Dataset
from spikegrad.data.dataset import split as split
from spikegrad.data.events import Binning as Binning
from spikegrad.data.events import Events as Events
from spikegrad.data.manifolds import randman as randman
from spikegrad.data.source import load as load
from spikegrad.data.source import samples as samples

__all__ = ["Binning", "Dataset", "Events", "load", "randman", "samples", "split"]
