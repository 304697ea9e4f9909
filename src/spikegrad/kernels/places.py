"""Places in a sequence of spikes: at which pairs of neuron and step their gradient is read, and which of them a mask leaves."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Pairs(NamedTuple):
    """Pairs of neuron and step, at which alone the gradient of spikes is read.

    Attributes:
        neurons: the neurons, sample by sample and step by step.
        base: where each sample begins, and the end.
        near: counted from there, where each part of each step begins, ``(batch, time * parts + 1)``.
        active: where those of a part end that have a gradient, ``(batch, time * parts)``; the rest made a spike that its reverse has to
            see.
        parts: how many blocks of neurons a step has.
    """

    neurons: Tensor
    base: Tensor
    near: Tensor
    active: Tensor
    parts: int

    @property
    def since(self) -> Tensor:
        """Where each step begins, ``(batch, time + 1)``."""
        return self.near[:, :: self.parts].contiguous()


def seen_as(places: Tensor, dtype: torch.dtype) -> Tensor:
    """Places of 16 bits as this type; others as they are."""
    return places.view(dtype) if places.itemsize == 2 else places


def places(index: NDArray[np.generic], base: Tensor, since: Tensor, shape: torch.Size) -> Tensor:
    """Of each entry of a list where it is in a flat sequence: for operations that autograd differentiates again."""
    steps, batch, features = shape
    counts = np.diff(since.numpy(), axis=1)
    step, sample = np.tile(np.arange(steps), batch), np.repeat(np.arange(batch), steps)
    row = np.repeat(step * batch + sample, counts.reshape(-1))
    return torch.from_numpy(row * features + index.astype(np.int64))


class Mask(Protocol):
    """Which spikes are left."""

    def at(self, places: Tensor) -> NDArray[np.bool_]:
        """Whether flat places stay."""
        ...

    def whole(self, shape: torch.Size) -> Tensor:
        """All of a sequence, of 0 and 1."""
        ...


class Given(NamedTuple):
    """A mask that is a tensor of the shape, of bool."""

    mask: Tensor

    def at(self, places: Tensor) -> NDArray[np.bool_]:
        """Its values there."""
        return self.mask.reshape(-1)[places].numpy()

    def whole(self, shape: torch.Size) -> Tensor:
        """Itself."""
        return self.mask


class Drawn(NamedTuple):
    """A mask in which each place is drawn apart: a function of its number, so that nothing of the sequence's size exists."""

    seed: int
    share: float

    def at(self, places: Tensor) -> NDArray[np.bool_]:
        """Bits are mixed as by SplitMix64 (Steele, Lea and Flood 2014)."""
        x = places.numpy().view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(self.seed)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        return x >= np.uint64(int(self.share * 2.0**64))

    def whole(self, shape: torch.Size) -> Tensor:
        """All of it, for once."""
        return torch.from_numpy(self.at(torch.arange(shape.numel(), device="cpu"))).float().view(shape)


class Both(NamedTuple):
    """What two masks leave, one after the other."""

    first: Mask
    then: Mask

    def at(self, places: Tensor) -> NDArray[np.bool_]:
        """What stays in both."""
        return self.first.at(places) & self.then.at(places)

    def whole(self, shape: torch.Size) -> Tensor:
        """Their product."""
        return self.first.whole(shape) * self.then.whole(shape)
