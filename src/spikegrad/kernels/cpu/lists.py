"""Lists of events made from dense sequences, and dense sequences from lists, on PyTorch's own threads."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spikegrad.kernels.cpu import memory, rows, threads
from spikegrad.kernels.cpu.rows import LANES
from spikegrad.kernels.lock import LOCK

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = ("dense", "features", "index", "base", "since", "values", "flags", "parts")
"""Arguments of a kernel, a word each."""

_KERNEL = """
ints, longs = pointer(numba.int32), pointer(numba.int64)
places = pointer(numba.{places})


@entry(2)
def {name}(address, mine):
    job = words(address)
    steps, samples = job[STEPS], job[COLUMNS]
{arguments}
    b = claimed(job, mine)
    while b < samples:
        {before}
        for t in range(steps):
            row = dense + (t * samples + b) * features * SIZE
            {each}
        {after}
        b = claimed(job, mine)
"""
_FEW = 160
_ENTRIES = """begin = U(longs(base)[b])
            for e in range(begin + U(ints(since)[b * (steps + U(1)) + t]), begin + U(ints(since)[b * (steps + U(1)) + t + U(1)])):
                """
_KERNELS = {
    "list_all": (
        "found, wrong, made, ints(since)[b * (steps + U(1))] = U(0), U(0), U(0), 0",
        """few = U((made & U(0xFFFFFFFF)) * U({few}) < features)
            made = listed_{kind}(row, features, index + (U(longs(base)[b]) + found) * U({size}), few, samples * features * SIZE)
            found += made & U(0xFFFFFFFF)
            wrong |= made >> U(32)
            ints(since)[b * (steps + U(1)) + t + U(1)] = found""",
        "reals(flags)[b] = real(wrong)",
    ),
    "move": (
        "place = U(longs(base)[b])",
        """for part in range(parts):
                unit = part * samples + b
                source = places(dense + unit * features * U({size}))
                for e in range(U(ints(since)[unit * (steps + U(1)) + t]), U(ints(since)[unit * (steps + U(1)) + t + U(1)])):
                    places(index)[place] = source[e]
                    place += U(1)""",
        "pass",
    ),
    "count": ("pass", _ENTRIES + "reals(row)[U(places(index)[e])] += real(1.0)", "pass"),
    "read_there": ("pass", _ENTRIES + "reals(values)[e] = reals(row)[U(places(index)[e])]", "pass"),
}


@functools.cache
def _kernel(name: str, kind: str) -> int:
    with LOCK:
        from spikegrad.kernels.cpu.compiler import header, loaded

    before, each, after = _KERNELS[name]
    arguments = "\n".join(f"    {argument} = job[ARGUMENTS + {place}]" for place, argument in enumerate(_NAMES))
    places = "uint16" if kind == "narrow" else "int32"
    text = _KERNEL.format(places=places, name=name, arguments=arguments, before=before, each=each, after=after)
    text = text.replace("{few}", str(_FEW)).replace("{size}", "2" if kind == "narrow" else "4").replace("{kind}", kind)
    address: int = getattr(loaded("lists", header("float32") + (rows.known(kind) if "listed" in text else "") + text), name).address
    return address


def _run(name: str, kind: str, steps: int, samples: int, most: int, **given: int) -> None:
    job = threads.job(_kernel(name, kind), min(most, threads.MOST, samples), steps, samples, 1, 0, [given.get(n, 0) for n in _NAMES])
    threads.run(job)


def kind_of(features: int) -> str:
    """How wide the places of so many neurons are."""
    return "narrow" if features <= 2**16 else "wide"


def place_type(features: int) -> np.dtype[np.generic]:
    """The dtype of places of so many neurons."""
    return np.dtype(np.uint16 if features <= 2**16 else np.int32)


def room(steps: int, features: int) -> int:
    """Places that a list has for a sample, whatever happens."""
    return steps * features + LANES


Lists = tuple[NDArray[np.generic], NDArray[np.int64], NDArray[np.int32]]
"""Places, where in them each sample begins, and, counted from there, where each step does."""


def listed(dense: Tensor, most: int) -> Lists | None:
    """The events of a contiguous sequence of float32, with at most this many threads; None if it has anything but 0 and 1."""
    steps, samples, features = dense.shape
    kind, item = kind_of(features), place_type(features)
    each = room(steps, features)
    since = np.empty((samples, steps + 1), np.int32)
    base, flags = np.arange(samples + 1) * each, np.zeros(samples, np.float32)
    working = memory.take(each * samples * item.itemsize)
    begins = np.zeros(samples + 1, np.int64)
    places = {"index": working.address, "base": base.ctypes.data, "since": since.ctypes.data, "flags": flags.ctypes.data}
    _run("list_all", kind, steps, samples, most, dense=dense.data_ptr(), features=features, **places)
    found = None
    if not flags.any():
        index = packed({"index": working}, {"index": item}, since[None], begins, each, most)["index"]
        found = index, begins, since
    memory.give(working)
    return found


def packed(
    rooms: Mapping[str, memory.Block],
    types: Mapping[str, np.dtype[np.generic]],
    since: NDArray[np.int32],
    base: NDArray[np.int64],
    each: int,
    most: int,
) -> dict[str, NDArray[np.generic]]:
    """Lists of parts of samples, which begin so far apart, put together: sample by sample, step by step, part by part.

    `since` says where in each of them a step begins, ``(parts, batch, time + 1)``. Into `base` is written where the samples begin, from
    what it says of the first one on.
    """
    parts, samples, ends = since.shape
    counts = since[..., -1]
    np.cumsum(counts[0] if parts == 1 else counts.sum(0), out=base[1:])
    base[1:] += base[0]
    if parts == 1:  # a sample in one piece
        since, ends = np.zeros((1, samples, 2), np.int32), 2
        since[..., 1] = counts
    found = {name: np.empty(base[-1] - base[0], kind) for name, kind in types.items()}
    places = {"features": each, "base": base.ctypes.data, "since": since.ctypes.data, "parts": parts}
    for name, kind in types.items():
        index = found[name].ctypes.data - int(base[0]) * kind.itemsize
        _run("move", _KINDS[kind.itemsize], ends - 1, samples, most, dense=rooms[name].address, index=index, **places)
    return found


_KINDS = {2: "narrow", 4: "wide"}


def begins(since: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where in a sample's list, put together, each part of each step begins: ``(batch, time * parts + 1)``."""
    parts, samples, ends = since.shape
    if parts == 1:
        return since[0]
    found = np.zeros((samples, (ends - 1) * parts + 1), np.int32)
    np.cumsum(np.diff(since).transpose(1, 2, 0).reshape(samples, -1), axis=1, out=found[:, 1:])
    return found


def count(shape: tuple[int, ...], dense: int, index: int, base: int, since: int, most: int) -> None:
    """Count the events in a contiguous sequence of zeros."""
    steps, samples, features = shape
    places = {"dense": dense, "features": features, "index": index, "base": base, "since": since}
    _run("count", kind_of(features), steps, samples, most, **places)


def read_there(dense: Tensor, values: Tensor, index: int, base: int, since: int, most: int) -> None:
    """Read a contiguous sequence at the places of a list."""
    steps, samples, features = dense.shape
    places = {"dense": dense.data_ptr(), "features": features, "index": index, "base": base, "since": since, "values": values.data_ptr()}
    _run("read_there", kind_of(features), steps, samples, most, **places)
