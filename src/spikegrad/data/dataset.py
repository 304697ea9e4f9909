"""Samples and labels in three parts, and the rule that makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikegrad.data.events import Binning, Events, joined
from spikegrad.errors import InputError

Array = NDArray[np.float32] | Events
"""Samples (sample, feature) or (sample, time, channel); those of event data become dense where they are taken."""
Part = tuple[Array, NDArray[np.int64]]
"""Samples, and their labels (sample)."""


@dataclass(frozen=True)
class Dataset:
    """Checked samples and labels, ready to train on.

    Attributes:
        name: what the data are called in folders and titles.
        train: what the weights learn from.
        validation: what the best weights are chosen on.
        test: what is looked at once, at the end.
        binning: how event data were binned; None for other data.
        names: what the classes are called, where they have names.
        left_out: number of events that are later than the last time step.

    Each part is a pair ``(x, y)``: `x` float32 of shape (sample, feature) or (sample, time, channel), finite, or `Events` of this shape;
    `y` int64 of shape (sample,), 0 to `classes` - 1.

    Example:
        >>> from spikegrad import data
        >>> digits = data.load("digits")
        >>> digits.classes, digits.features, [len(part[0]) for part in (digits.train, digits.validation, digits.test)]
        (10, 64, [1259, 179, 359])
    """

    name: str
    train: Part
    validation: Part
    test: Part
    binning: Binning | None = None
    names: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def features(self) -> int:
        """Number of inputs of the network: features or channels."""
        return self.train[0].shape[-1]

    @property
    def steps(self) -> int | None:
        """Number of time steps of data that have a time axis, None for those that do not."""
        return self.train[0].shape[1] if self.train[0].ndim == 3 else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what a network gets of one sample in one time step: ``(feature,)``, of a camera ``(polarity, height, width)``."""
        return (self.features,) if self.binning is None else self.binning.shape

    @property
    def classes(self) -> int:
        """Number of classes: one more than the largest label."""
        return 1 + max(int(y.max()) for _, y in (self.train, self.validation, self.test))

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value of all samples."""
        parts = [x for x, _ in (self.train, self.validation, self.test)]
        return min(float(x.min()) for x in parts), max(float(x.max()) for x in parts)

    @property
    def whole(self) -> Part:
        """All samples, whichever part they are in."""
        return together([self.train, self.validation, self.test])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all samples and labels, which tells whether two runs saw the same data."""
        digest = hashlib.sha256()
        for x, y in (self.train, self.validation, self.test):
            digest.update(f"{x.shape}".encode() + x.tobytes() + y.tobytes())
        return digest.hexdigest()


def together(parts: Sequence[Part]) -> Part:
    """The samples of several parts, one after the other."""
    events, arrays = [x for x, _ in parts if isinstance(x, Events)], [x for x, _ in parts if not isinstance(x, Events)]
    whole = joined(events) if events else np.concatenate(arrays)
    return whole, np.concatenate([y for _, y in parts])


def split(y: NDArray[np.generic], fractions: tuple[float, ...]) -> list[NDArray[np.int64]]:
    """Indices of stratified parts: the same for the same labels, on every machine, whatever the seed of the training.

    The samples of each class are shuffled by NumPy's frozen Mersenne twister, seeded with 0, and cut into consecutive parts; each class
    gives each part its share, rounded, and at least one sample.

    Args:
        y: labels, whole numbers, (sample,).
        fractions: share of every part but the last, which gets the rest.

    Returns:
        ``len(fractions) + 1`` sorted arrays of indices into `y`.

    Raises:
        InputError: a class has fewer samples than there are parts.

    Example:
        >>> import numpy as np
        >>> from spikegrad.data import split
        >>> test, validation, train = split(np.repeat([0, 1], 10), (0.2, 0.1))
        >>> len(test), len(validation), len(train)
        (4, 2, 14)
    """
    random = np.random.RandomState(0)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(y):
        members = random.permutation(np.flatnonzero(y == label))
        if len(members) < len(parts):
            raise InputError(f"class {label} has {len(members)} sample(s), too few to split; give each class at least {len(parts)}")
        start = 0
        for part, fraction in zip(parts, fractions, strict=False):
            end = start + max(1, round(fraction * len(members)))
            part.append(members[start:end])
            start = end
        parts[-1].append(members[start:])
    return [np.sort(np.concatenate(part)) for part in parts]
