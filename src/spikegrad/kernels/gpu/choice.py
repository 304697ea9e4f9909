"""How kernels are launched, by a rule and not by trying, which would cost the first step of every process seconds.

What decides is how many loads are on their way at the same time: by the steps of a round, whose loads are independent, by the columns that
a thread has, and by the warps that are resident, which registers limit. Two columns a thread are best: with four, the registers of a round
leave room for 12 warps, with one, accesses are too narrow; of half types four of them are 8 bytes, too. A light step has rounds of eight, a
heavier one, several exponentials for example, of four: longer text takes longer on its way to where it is executed, each time that
something else was executed in between. Few columns are launched as small programs, so that there are as many as can be.

Registers were counted on kernels compiled for sm_90, ``python -m tests.ahead_of_time``; times were taken on an H200, see
``tests/evidence/gpu_h200.txt``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from spikegrad.cut import Passes


class Choice(NamedTuple):
    """How many steps a round has, how many columns a program, and how many warps work on these."""

    steps: int
    block: int
    warps: int


FEW = 2**16
"""Columns below which programs are small."""
RULE = (
    (24.0, Choice(8, 64, 2), Choice(8, 256, 4)),
    (60.0, Choice(8, 64, 1), Choice(4, 256, 4)),
    (math.inf, Choice(4, 64, 1), Choice(4, 256, 4)),
)
"""For up to so much work of a step: how few columns are launched, and how many are."""
HALVES = Choice(4, 512, 4)
"""How many columns of half types are."""

_WORK = {"exp": 12, "log": 16, "sin": 16, "cos": 16, "sigmoid": 16, "tanh": 20, "arctan": 16, "divide": 4, "derivative": 6}
"""Of operations that are not one instruction."""


def work(passes: Passes) -> int:
    """About how many instructions the backward pass needs for a step of a column."""
    return sum(_WORK.get(str(operation), 1) for program in (passes.recompute, passes.reverse) for operation, *_ in program.instructions)


def choice(of_step: int, steps: int, columns: int, bytes_each: int = 4) -> Choice:
    """How a layer is launched with so much work in a step, so many time steps and columns, of values of so many bytes."""
    few, many = next(found for most, *found in RULE if of_step <= most)
    found = few if columns < FEW else HALVES if bytes_each == 2 else many
    return found._replace(steps=min(found.steps, 1 << max(steps - 1, 0).bit_length()))


class Tile(NamedTuple):
    """Of a layer with all-to-all connections: how many samples and neurons a program has, what of a sum it reads at a time, its warps."""

    rows: int
    width: int
    depth: int
    warps: int

    def programs(self, samples: int, features: int) -> int:
        """How many there are."""
        return -(-samples // self.rows) * -(-features // self.width)


TILE = Tile(16, 32, 64, 4)
"""How a layer with all-to-all connections is launched, whatever its size."""
