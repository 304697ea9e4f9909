"""How kernels are launched, by a rule and not by trying, which would cost the first step of every process seconds.

What decides is how many loads are on their way at the same time: by the steps of a round, whose loads are independent, by the columns that
a thread has, and by the warps that are resident, which registers limit. Two columns a thread are best: with more, the registers of a
round leave room for 12 warps, with one, accesses are too narrow. A light step has rounds of eight, a heavy one, several exponentials for
example, of four: more text than that is long on its way to where it is executed, each time that something else was executed in between.
Few columns are launched as small programs of one warp, so that there are as many as can be.

Registers were counted on kernels compiled for sm_90, ``python -m tests.ahead_of_time``; times were taken on an H200.
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
LIGHT = 24
"""Work of a step up to which it is light."""
FEW_LIGHT, FEW_HEAVY = Choice(8, 64, 1), Choice(4, 64, 1)
MANY_LIGHT, MANY_HEAVY = Choice(8, 256, 4), Choice(4, 256, 4)

_WORK = {"exp": 12, "log": 16, "sin": 16, "cos": 16, "sigmoid": 16, "tanh": 20, "arctan": 16, "divide": 4, "derivative": 6}
"""Of operations that are not one instruction."""


def work(passes: Passes) -> int:
    """About how many instructions the backward pass needs for a step of a column."""
    return sum(_WORK.get(str(operation), 1) for program in (passes.recompute, passes.reverse) for operation, *_ in program.instructions)


def choice(of_step: int, steps: int, columns: int) -> Choice:
    """How a layer is launched with so much work in a step, so many time steps and columns."""
    few, light = columns < FEW, of_step <= LIGHT
    found = (FEW_LIGHT if light else FEW_HEAVY) if few else MANY_LIGHT if light else MANY_HEAVY
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


def tile(samples: int, features: int) -> Tile:
    """How a layer with all-to-all connections is launched."""
    return Tile(16, 32, 64, 4)
