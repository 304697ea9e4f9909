"""Data to train on: arrays in memory, checked when they are loaded, split the same way every time."""

from spikegrad.data.dataset import Dataset as Dataset
from spikegrad.data.dataset import split as split
from spikegrad.data.source import load as load

__all__ = ["Dataset", "load", "split"]
