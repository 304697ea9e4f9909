"""How kernels are launched, by a rule and not by trying, which would cost the first step of every process seconds.

What decides is how many loads are on their way at the same time. Many neurons give the card enough programs of 512 columns, whose accesses
are 16 bytes wide, and eight steps a round; few neurons give it few programs, so that each must ask for more: 16 steps a round, and small
programs of one warp, so that there are as many as can be. With three states and more a round's values would not fit in the registers.
Measured on an H100: `docs/benchmarks.md`.
"""

from __future__ import annotations

from typing import NamedTuple


class Choice(NamedTuple):
    """How many steps a round has, how many columns a program, and how many warps work on these."""

    steps: int
    block: int
    warps: int


FEW = 2**16
"""Columns below which programs are small."""


def choice(states: int, steps: int, columns: int) -> Choice:
    """How a layer with so many states, time steps and columns is launched."""
    small = columns < FEW
    most = 4 if states >= 3 else 16 if small else 8
    unrolled = min(most, 1 << max(steps - 1, 0).bit_length())
    return Choice(unrolled, 64, 1) if small else Choice(unrolled, 512, 4)
