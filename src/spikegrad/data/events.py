"""Event data: who spiked when, as recorded, and binned into time steps and channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spikegrad.errors import InputError

STEPS = 100
"""Time steps of event data, if nothing is said."""
MOST = 10**9
"""Time steps that a configuration may have."""
CHANNELS = 2**31
"""Channels that event data may have after pooling, whose numbers are kept in four bytes."""


@dataclass(frozen=True)
class Recording:
    """The events of one sample.

    Attributes:
        source: the file, and where in it, for messages.
        time: of each event, in milliseconds, (event,).
        places: whole numbers, (event,): the channel alone, or x, y and the polarity, 0 or 1.
        sensor: size of the sensor, where the form of the file decides it.
    """

    source: str
    time: NDArray[np.float64]
    places: tuple[NDArray[np.int64], ...]
    sensor: tuple[int, ...] = ()


@dataclass(frozen=True)
class Binning:
    """How events become numbers in time steps and channels.

    Attributes:
        steps: number of time steps; None for as many as the longest sample has, or 100 where `step_ms` is None, too.
        step_ms: duration of a step in milliseconds; None for that with which the longest sample fills the steps.
        sensor: number of channels, ``(700,)``, or width and height of a camera, ``(34, 34)``; empty for what the data reach.
        pool: neighbouring channels that are counted together; of a camera, squares with this side.
        binary: whether a bin holds 1 for any number of events, in place of their number.

    Channels of a camera are ordered as an image with two colours, the polarities: ``p * height * width + y * width + x``.

    Raises:
        InputError: a number is not whole or not positive.

    Example:
        >>> from spikegrad.data import Binning
        >>> Binning(step_ms=2.0, sensor=(34, 34), pool=2).shape
        (2, 17, 17)
    """

    steps: int | None = None
    step_ms: float | None = None
    sensor: tuple[int, ...] = ()
    pool: int = 1
    binary: bool = False

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("pool", self.pool), *(("sensor", size) for size in self.sensor)):
            if value is not None and (value < 1 or value % 1):
                raise InputError(f"`{name}` must be a whole number of at least 1, got {value!r}")
        if self.step_ms is not None and not 0 < self.step_ms < math.inf:
            raise InputError(f"`step_ms` must be a finite number greater than 0, got {self.step_ms!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one time step: ``(channel,)`` or ``(polarity, height, width)``."""
        pooled = [-(-size // self.pool) for size in self.sensor]
        return (pooled[0],) if len(pooled) == 1 else (2, pooled[1], pooled[0])

    def fitted(self, recordings: Sequence[Recording]) -> Binning:
        """This binning with what it leaves to the data.

        Raises:
            InputError: the sensor has another number of dimensions than the events.
        """
        first = recordings[0]
        dimensions = 1 if len(first.places) == 1 else 2
        if len(self.sensor) not in (0, dimensions):
            size = ",".join(map(str, self.sensor))
            wanted = "one number of channels, as in 700" if dimensions == 1 else "width and height, as in 34,34"
            has = "one channel" if dimensions == 1 else "x and y"
            raise InputError(f"`sensor` is {size}, but the events of {first.source} have {has}; give {wanted}, or leave it out")
        sensor = (
            self.sensor or first.sensor or tuple(1 + max(int(r.places[d].max(initial=0)) for r in recordings) for d in range(dimensions))
        )
        if math.prod(shape := replace(self, sensor=sensor).shape) >= CHANNELS:
            raise InputError(
                f"a sensor of {' by '.join(map(str, sensor))} has {math.prod(shape)} channels with `pool` {self.pool}, and must have "
                f"fewer than {CHANNELS}; take a larger `pool`, or look for an event that is far outside"
            )
        longest = max(float(r.time.max(initial=0)) for r in recordings)
        steps, step_ms = self.steps, self.step_ms
        if step_ms is None:
            steps = steps or STEPS
            step_ms = _rounded_up(longest * (1 + 1e-9) / steps) or 1.0
        if steps is None and longest / step_ms >= MOST:
            raise InputError(
                f"`step_ms` {step_ms:g} makes more than {MOST} steps of the longest sample, of {longest:g} ms; take longer steps"
            )
        return replace(self, sensor=sensor, step_ms=step_ms, steps=steps or int(_step(np.array(longest), step_ms)) + 1)

    def apply(self, recordings: Sequence[Recording]) -> tuple[Events, int]:
        """Samples in bins, and the number of events that are later than the last step and left out.

        Raises:
            InputError: an event is outside of the sensor.
        """
        assert self.steps is not None
        assert self.step_ms is not None
        shape, steps = self.shape, list[NDArray[np.int32]]()
        channels, left_out = list[NDArray[np.int32]](), 0
        for recording in recordings:
            for place, size, name in zip(recording.places, self.sensor, ("x", "y") if len(shape) == 3 else ("channel",), strict=False):
                if len(place) and int(place.max()) >= size:
                    raise InputError(f"{recording.source}: {name} {int(place.max())} is outside of the sensor of "
                                     f"{' by '.join(map(str, self.sensor))}")  # fmt: skip
            step = _step(recording.time, self.step_ms)
            x, *others = (place // self.pool for place in recording.places[:-1] or recording.places)
            channel = x if not others else (recording.places[-1] * shape[1] + others[0]) * shape[2] + x
            within = step < self.steps
            left_out += len(step) - int(within.sum())
            steps.append(step[within].astype(np.int32))
            channels.append(channel[within].astype(np.int32))
        starts = np.cumsum([0, *map(len, steps)])
        return Events(np.concatenate(steps), np.concatenate(channels), starts, self.steps, math.prod(shape), self.binary), left_out


def _step(time: NDArray[np.float64], step_ms: float) -> NDArray[np.float64]:
    """In which step a time is: one at the beginning of a step is in it, as 0.3 ms in steps of 0.1 ms, whatever the quotient rounds to."""
    return np.floor(time / step_ms * (1 + 1e-10))


def _rounded_up(value: float) -> float:
    """To four digits, so that it reads well and the last event is still within the last step."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / unit) * unit:.4g}")


class Events:
    """Binned samples, kept as their events: an array (sample, time, channel) of which only what is asked for is made dense.

    Args:
        step: time step of each event, one sample after the other.
        channel: channel of each event.
        starts: where each sample's events start, and where the last one's end, (sample + 1,).
        steps: number of time steps.
        channels: number of channels.
        binary: whether several events in one bin are 1 rather than their number.

    Raises:
        ValueError: an event is outside of the steps or channels, or `starts` do not fit the events.

    Example:
        >>> import numpy as np
        >>> from spikegrad.data import Events
        >>> events = Events(np.array([0, 1, 1]), np.array([2, 0, 0]), np.array([0, 1, 3]), steps=2, channels=3)
        >>> events.shape, events[1:2].tolist()
        ((2, 2, 3), [[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    """

    ndim = 3

    def __init__(
        self, step: NDArray[np.integer], channel: NDArray[np.integer], starts: NDArray[np.integer], steps: int, channels: int,
        binary: bool = False,
    ) -> None:  # fmt: skip
        for name, places, size in (("step", step, steps), ("channel", channel, channels)):
            if len(places) and (places.min() < 0 or places.max() >= size):
                wrong = places.min() if places.min() < 0 else places.max()
                raise ValueError(f"an event is at {name} {wrong}, but there are {size} of them, from 0 on")
        if starts[0] != 0 or not len(step) == len(channel) == starts[-1] or (starts[1:] < starts[:-1]).any():
            raise ValueError(
                f"`starts` must rise from 0 to the number of events, {len(step)} steps and {len(channel)} channels, got {starts}"
            )
        self.step, self.channel, self.starts, self.binary = step, channel, starts, binary
        self.shape = (len(starts) - 1, steps, channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """Samples as numbers of events, float32, (sample, time, channel)."""
        taken = self.take(np.arange(len(self))[indices])
        samples = np.repeat(np.arange(len(taken)), np.diff(taken.starts))
        dense = np.zeros(taken.shape, np.float32)
        places = (samples * self.shape[1] + taken.step) * self.shape[2] + taken.channel
        if self.binary:
            dense.reshape(-1)[places] = 1
        else:
            np.add.at(dense.reshape(-1), places, np.float32(1))
        return dense

    def take(self, indices: NDArray[np.integer]) -> Events:
        """Some of the samples."""
        first, count = self.starts[:-1][indices], np.diff(self.starts)[indices]
        starts = np.concatenate([[0], np.cumsum(count)])
        places = np.repeat(first - starts[:-1], count) + np.arange(starts[-1])
        return Events(self.step[places], self.channel[places], starts, *self.shape[1:], self.binary)

    def ordered(self) -> Events:
        """The same samples with their events in the order of steps and channels, each once if the bins are binary."""
        sample = np.repeat(np.arange(len(self)), np.diff(self.starts))
        place = (sample * self.shape[1] + self.step) * self.shape[2] + self.channel
        if bool((place[:-1] + self.binary <= place[1:]).all()):
            return self
        place = np.unique(place) if self.binary else np.sort(place)
        sample, rest = np.divmod(place, self.shape[1] * self.shape[2])
        step, channel = np.divmod(rest, self.shape[2])
        return Events(step, channel, np.searchsorted(sample, np.arange(len(self) + 1)), *self.shape[1:], self.binary)

    def min(self) -> float:
        """Smallest number of events in a bin."""
        return min((float(self[k : k + 64].min()) for k in range(0, len(self), 64)), default=0.0)

    def max(self) -> float:
        """Largest number of events in a bin."""
        return max((float(self[k : k + 64].max()) for k in range(0, len(self), 64)), default=0.0)

    def tobytes(self) -> bytes:
        """What says everything about the samples, for a fingerprint."""
        return b"".join(x.tobytes() for x in (self.step, self.channel, self.starts)) + bytes([self.binary])


def joined(parts: Sequence[Events]) -> Events:
    """The samples of several, one after the other."""
    ends = np.cumsum([0, *(int(part.starts[-1]) for part in parts)])
    starts = [part.starts[:-1] + end for part, end in zip(parts, ends, strict=False)]
    step, channel = (np.concatenate([getattr(part, name) for part in parts]) for name in ("step", "channel"))
    return Events(step, channel, np.concatenate([*starts, ends[-1:]]), *parts[0].shape[1:], parts[0].binary)
