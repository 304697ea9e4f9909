"""Run a layer's passes on memory: jobs, prepared once for each layout and size.

Memory is C-contiguous rows: tensors, or whatever else knows its ``data_ptr()``.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikegrad.kernels.cpu import memory, threads
from spikegrad.kernels.cpu.compiler import compiled
from spikegrad.kernels.cpu.source import Variant

if TYPE_CHECKING:
    from torch import Tensor

Layout = tuple[tuple[str, int | float | None], ...]
"""How each argument of a kernel is given: an int, memory with so many elements between its rows (its columns, for states: 1); a float, one
number for all columns; None, not at all, for a result that nobody wants."""

CACHE = 4 * 2**20
"""Bytes of scratch that a block of columns may use, about what a core has of second and third-level cache."""
PAGE = 4096
"""Bytes of a sequence that a row of a block should have at least: shorter stretches, each on a page of its own, cost more than scratch that
no cache holds. It tells over many steps, of neurons that keep several values of each, and in half types, whose rows are half as long."""
ROOM = 64 * 2**20
"""Bytes of scratch that each thread may use for the sake of a page."""
BLOCKS = 4
"""Blocks that each thread should have at least, so that who is early can take over some of who is late."""
WIDEST = 2048
"""Columns of a block at most: its rows of states and parameters should stay in a core's first-level cache."""
SMALL = 2**17
"""Elements below which waking a second thread costs more than it saves."""


SAMPLES = 32
"""Samples of a block of an ``"all-to-all"`` layer, however many threads there are: so products and sums do not depend on that."""


class Sizes(NamedTuple):
    """Time steps, columns (neurons of all samples), how many threads may work, and neurons that are connected."""

    steps: int
    columns: int
    threads: int = 1
    features: int = 0


class Pass:
    """A kernel and its job, which lacks only where the memory is that is given, and scratch."""

    def __init__(self, variant: Variant, sizes: Sizes, layout: Layout) -> None:
        real = np.dtype(variant.real)
        how = dict(layout)
        floats = [name for name, value in layout if isinstance(value, float)]
        self.numbers = _elements([how[name] for name in floats], variant.real)
        self.halves = _elements([how[name] for name in floats], variant.dtype)
        whole, each = variant.working()
        rows = whole + each * sizes.steps
        workers, block = _shares(sizes, rows * real.itemsize, narrowest(variant))
        if variant.fed:
            block = sizes.features * SAMPLES
            workers = 1 if sizes.threads == 1 else min(sizes.threads, threads.MOST, -(-sizes.columns // block))
        share = -(-rows * block * real.itemsize // 64) * 64
        words: list[int] = []
        places: dict[str, int] = {}
        for name in variant.arguments():
            value = how[name]
            places[name] = threads.ARGUMENTS + len(words)
            if isinstance(value, float):
                numbers = self.halves if name in variant.sequences else self.numbers
                words += [numbers.ctypes.data + floats.index(name) * numbers.itemsize, 0]
            else:
                words += [0, value or 0]
        self.places = tuple(places[name] for name, value in layout if isinstance(value, int))
        self.job = threads.job(compiled(variant)[0], workers, sizes.steps, sizes.columns, block, share, words)
        self.scratch = share * workers

    def run(self, given: Sequence[Tensor]) -> None:
        """Run the pass on memory, in the order of the layout's."""
        job: array[int] = self.job[:]
        for place, each in zip(self.places, given, strict=True):
            job[place] = each.data_ptr()
        working = memory.take(self.scratch)
        job[threads.SCRATCH] = working.address
        threads.run(job)
        memory.give(working)


def _elements(values: Sequence[float | None], dtype: str) -> NDArray[np.generic]:
    """Numbers in a dtype that NumPy may not know, bfloat16."""
    if dtype == "bfloat16":
        return (np.array(values, "float32").view("uint32") >> 16).astype("uint16")
    return np.array(values, dtype)


def narrowest(variant: Variant) -> int:
    """The columns of a page."""
    return PAGE // (2 if variant.dtype in ("float16", "bfloat16") else np.dtype(variant.real).itemsize)


def _shares(sizes: Sizes, scratch: int, narrowest: int) -> tuple[int, int]:
    """How many threads work, and the columns of a block, each of which needs so many bytes of scratch."""
    steps, columns, most, _ = sizes
    small = most == 1 or steps * columns < SMALL
    share = -(-columns // (1 if small else BLOCKS * most))
    scratch = max(scratch, 1)
    fits = max(CACHE // scratch, min(narrowest, ROOM // scratch))
    block = max(64, min(WIDEST, fits, share + 63) // 64 * 64)
    return 1 if small else min(most, threads.MOST, -(-columns // block)), block
