"""How kernels are launched, by a rule and not by trying, which would cost the first step of every process seconds.

What decides is how many loads are on their way at the same time: by the steps of a round, whose loads are independent, and by the warps
that are resident, which registers limit. Many neurons give the card enough programs of 512 columns, whose accesses are 16 bytes wide; a
round's values of eight steps then fit in 128 registers, with which 16 warps are resident, if a step is light, those of four if it is not. A
heavy step, several exponentials for example, gets half of the columns. Few neurons give the card few programs, so that each must ask for
more: twice the steps, and small programs of one warp, so that there are as many as can be.

Registers were counted on kernels compiled for sm_90, ``python -m tests.ahead_of_time``; that 16 warps are enough, on an H100.
"""

from __future__ import annotations

from typing import NamedTuple

from spikegrad.cut import Passes


class Choice(NamedTuple):
    """How many steps a round has, how many columns a program, and how many warps work on these."""

    steps: int
    block: int
    warps: int


FEW = 2**16
"""Columns below which programs are small."""
LIGHT, HEAVY = 24, 64
"""Work of a step up to which a round has eight, and from which a program has half of the columns."""

_WORK = {"exp": 12, "log": 16, "sin": 16, "cos": 16, "sigmoid": 16, "tanh": 20, "arctan": 16, "divide": 4, "derivative": 6}
"""Of operations that are not one instruction."""


def work(passes: Passes) -> int:
    """About how many instructions the backward pass needs for a step of a column."""
    return sum(_WORK.get(str(operation), 1) for program in (passes.recompute, passes.reverse) for operation, *_ in program.instructions)


def choice(of_step: int, steps: int, columns: int) -> Choice:
    """How a layer is launched with so much work in a step, so many time steps and columns."""
    most = 8 if of_step <= LIGHT else 4
    most, block, warps = (2 * most, 64, 1) if columns < FEW else (most, 512 if of_step <= HEAVY else 256, 4)
    return Choice(min(most, 1 << max(steps - 1, 0).bit_length()), block, warps)


class Tile(NamedTuple):
    """Of a layer with all-to-all connections: how many samples and neurons a program has, what of a sum it reads at a time, its warps."""

    rows: int
    width: int
    depth: int
    warps: int

    def programs(self, samples: int, features: int) -> int:
        """How many there are."""
        return -(-samples // self.rows) * -(-features // self.width)


def tile(samples: int, features: int) -> Tile:
    """How a layer with all-to-all connections is launched."""
    return Tile(16, 32, 64, 4)
