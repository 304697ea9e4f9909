"""Batches whose order depends on nothing but the seed and the epoch, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from spikegrad.data.dataset import Part
from spikegrad.data.events import Events


def derived(*numbers: int | str) -> int:
    """A seed that depends on all the numbers, and on nothing else: ``derived(seed, "step", 3)``."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


class Samples(Dataset[tuple[Any, Tensor]]):
    """Samples and labels in memory, taken a batch at a time; events become dense there, unless they are wanted as `events`."""

    def __init__(self, part: Part, events: bool = False) -> None:
        self.x = part[0] if isinstance(part[0], Events) else torch.from_numpy(part[0])
        self.y, self.events = torch.from_numpy(part[1]), events
        if events and isinstance(self.x, Events):
            self.x = self.x.ordered()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, indices: Tensor) -> tuple[Any, Tensor]:
        x: Any = self.x[indices] if isinstance(self.x, Tensor) else self.x.take(indices.numpy())
        return x if isinstance(x, Tensor) or self.events else torch.from_numpy(x[:]), self.y[indices]


class Batches(Sampler[Tensor]):
    """Indices of batches, shuffled by (seed, epoch), shared out among `world` processes, each of which gets equally many.

    Args:
        samples: number of samples.
        batch: samples in a batch of one process.
        seed: seed of the run, or None for the order as it is, in full in every process.
        rank: which process this is.
        world: number of processes.
    """

    def __init__(self, samples: int, batch: int, seed: int | None = None, rank: int = 0, world: int = 1) -> None:
        self.samples, self.batch, self.seed, self.rank, self.world = samples, batch, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        share = self.samples if self.seed is None else -(-self.samples // self.world)
        # Batch normalisation cannot train on a single sample: a last batch of one is left out, unless it is the only one.
        ragged = self.seed is not None and share % self.batch == 1 and share > self.batch > 1
        return -(-share // self.batch) - ragged

    def __iter__(self) -> Iterator[Tensor]:
        # A generator: Lightning makes the first iterator before it sets the epoch, and the order is drawn with the first batch.
        order = torch.arange(self.samples)
        if self.seed is not None:
            order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(derived(self.seed, "epoch", self.epoch)))
            share = -(-self.samples // self.world)
            order = order.repeat(-(-share * self.world // self.samples))[self.rank : share * self.world : self.world]
        yield from order.split(self.batch)[: len(self)]


def loader(part: Part, batches: Batches, events: bool = False) -> DataLoader[tuple[Any, Tensor]]:
    """Lightning's view of samples in memory: no workers, whole batches, of event data dense ones unless they are wanted as `events`."""
    return DataLoader(Samples(part, events), sampler=batches, batch_size=None)
