"""Lists of events made from dense sequences, and dense sequences from lists, on PyTorch's own threads."""

from __future__ import annotations

import functools
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
_ENTRIES = """begin = U(longs(base)[b])
            for e in range(begin + U(ints(since)[b * (steps + U(1)) + t]), begin + U(ints(since)[b * (steps + U(1)) + t + U(1)])):
                """
_KERNELS = {
    "list_all": (
        "found, wrong, ints(since)[b * (steps + U(1))] = U(0), U(0), 0",
        """made = listed_{kind}(row, features, index + (U(longs(base)[b]) + found) * U({size}))
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
    text = text.replace("{size}", "2" if kind == "narrow" else "4").replace("{kind}", kind)
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
    places = {"index": working.address, "base": base.ctypes.data, "since": since.ctypes.data, "flags": flags.ctypes.data}
    _run("list_all", kind, steps, samples, most, dense=dense.data_ptr(), features=features, **places)
    found = None if flags.any() else (*packed(working, item, since[None], each, most), since)
    memory.give(working)
    return found


def packed(
    rooms: memory.Block, item: np.dtype[np.generic], since: NDArray[np.int32], each: int, most: int
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """The lists of parts of samples, which begin so far apart, put together: sample by sample, step by step, part by part.

    `since` says where in each of them a step begins, ``(parts, batch, time + 1)``. Returned are the places, and where each sample begins.
    """
    parts, samples, ends = since.shape
    base = np.zeros(samples + 1, np.int64)
    np.cumsum(since[..., -1].sum(0), out=base[1:])
    together = np.empty(base[-1], item)
    if parts == 1:  # a sample in one piece
        since, ends = np.ascontiguousarray(since[..., [0, -1]]), 2
    places = {"dense": rooms.address, "features": each, "index": together.ctypes.data, "base": base.ctypes.data}
    places |= {"since": since.ctypes.data, "parts": parts}
    _run("move", {2: "narrow", 4: "wide"}[item.itemsize], ends - 1, samples, most, **places)
    return together, base


def begins(since: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where in a sample's list, put together, each part of each step begins: ``(batch, time * parts + 1)``."""
    parts, samples, ends = since.shape
    if parts == 1:
        return since[0]
    found = np.zeros((samples, (ends - 1) * parts + 1), np.int32)
    np.cumsum(np.diff(since).transpose(1, 2, 0).reshape(samples, -1), axis=1, out=found[:, 1:])
    return found


def count(dense: Tensor, index: int, base: int, since: int, most: int) -> None:
    """Count the events in a contiguous sequence of zeros."""
    steps, samples, features = dense.shape
    places = {"dense": dense.data_ptr(), "features": features, "index": index, "base": base, "since": since}
    _run("count", kind_of(features), steps, samples, most, **places)


def read_there(dense: Tensor, values: Tensor, index: int, base: int, since: int, most: int) -> None:
    """Read a contiguous sequence at the places of a list."""
    steps, samples, features = dense.shape
    places = {"dense": dense.data_ptr(), "features": features, "index": index, "base": base, "since": since, "values": values.data_ptr()}
    _run("read_there", kind_of(features), steps, samples, most, **places)
