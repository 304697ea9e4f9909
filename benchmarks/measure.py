"""Times in alternation, and what is reported of them."""

from __future__ import annotations

import gc
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Task = Callable[[], object]


class DisagreementError(AssertionError):
    """Two sides of a comparison do not compute the same; nothing is reported of it."""


@dataclass
class Row:
    """One measured thing: median and quartiles, and the same of its ratios to the reference of its section, taken round by round."""

    name: str
    value: float
    low: float
    high: float
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    x: float | None = None
    note: str = ""


@dataclass
class Section:
    """A table and a figure: rows in one unit, `reference` being the name of the row that ratios are taken to.

    Rows of a section with an `axis` are points of lines: rows of one name make a line over `x`.
    """

    title: str
    unit: str
    rows: list[Row]
    reference: str = ""
    text: str = ""
    axis: str = ""


@dataclass
class Report:
    """What a benchmark found: its sections, what was left out and why, and what its equality check saw."""

    sections: list[Section] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds of all tasks, each repeated in a round until `seconds` have passed."""

    rounds: int = 15
    seconds: float = 0.1
    quick: bool = False


def alternate(tasks: Mapping[str, Task], effort: Effort, clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """Seconds for one call of each task, one sample a round: A B C A B C …, so that what disturbs the machine disturbs all of them.

    In each round a task that is timed over several calls is called once before, since it finds the caches full of the others' data. A
    `clock` other than the wall's is `time.thread_time`, for what one thread does while others keep the machine busy.
    """
    print(textwrap.shorten(f"timing {', '.join(tasks)}", 120), file=sys.stderr, flush=True)
    repeats: dict[str, int] = {}
    for name, task in tasks.items():
        task()  # compiles, allocates, fills caches
        start = clock()
        task()
        repeats[name] = max(1, min(1000, int(effort.seconds / max(1e-7, clock() - start))))
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    gc.collect()
    gc.freeze()  # collecting is quick if it need not look at the libraries
    for _ in range(effort.rounds):
        for name, task in tasks.items():
            gc.collect()  # a peer's cycles must not be collected on another's time
            gc.disable()
            if repeats[name] > 1:
                task()
            start = clock()
            for _ in range(repeats[name]):
                task()
            samples[name].append((clock() - start) / repeats[name])
            gc.enable()
    gc.unfreeze()
    return samples


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, low, high


def rows(samples: Mapping[str, Sequence[float]], reference: str, notes: Mapping[str, str] | None = None, factor: float = 1e3) -> list[Row]:
    """A row for each task, in milliseconds unless told; ratios to the reference in the same round."""
    found: list[Row] = []
    for name, values in samples.items():
        value = quartiles([v * factor for v in values])
        ratio: tuple[Any, ...] = (None, None, None)
        if reference in samples:
            ratio = quartiles([v / r for v, r in zip(values, samples[reference], strict=True)])
        found.append(Row(name, *value, *ratio, note=(notes or {}).get(name, "")))
    return found


def timed(tasks: Mapping[str, Task], reference: str, effort: Effort, notes: Mapping[str, str] | None = None) -> list[Row]:
    """Rows of tasks timed in alternation."""
    return rows(alternate(tasks, effort), reference, notes)
