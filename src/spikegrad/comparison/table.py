"""How a comparison stands: a table that is drawn again and again while it is trained."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from spikegrad.comparison.folder import Comparison, Result
from spikegrad.comparison.grid import Label

RUNNING = 8
"""How many trainings are shown as they run."""


@contextmanager
def showing(comparison: Comparison, console: Console | None) -> Generator[Callable[[], object]]:
    """Show how a comparison stands while the block runs; yields what is called when something may have changed."""
    if console is None:
        yield lambda: None
        return
    began, before = time.monotonic(), {result.cell.name for result in comparison.results if result.state != "open"}
    if not console.is_terminal:
        yield lambda: _say_new(comparison, console, before)
        return
    at_start = len(before)

    def drawn() -> RenderableType:
        return standing(comparison, time.monotonic() - began, at_start)

    with Live(console=console, get_renderable=drawn, refresh_per_second=1):
        yield lambda: None


def _say_new(comparison: Comparison, console: Console, told: set[str]) -> None:
    for result in comparison.results:
        if result.state != "open" and result.cell.name not in told:
            told.add(result.cell.name)
            what = f"validation {100 * result.validation:.1f} %" if result.state == "done" else result.state
            console.print(f"{len(told)}/{len(comparison.cells)}  {said(result.cell.labels)}  {what}", soft_wrap=True, markup=False)


def said(labels: Mapping[str, Label]) -> str:
    """The labels of a cell in one line."""
    return "  ".join(f"{name} {x:g}" if isinstance(x, float) else f"{name} {x}" for name, x in labels.items() if x is not None)


def standing(comparison: Comparison, seconds: float, before: int) -> RenderableType:
    """The table of best accuracies so far, what is being trained, and how long it will take.

    Args:
        comparison: what is shown.
        seconds: since it was started, this time.
        before: how many had ended by then.
    """
    results = comparison.results
    ended = sum(result.state != "open" for result in results)
    new = ended - before
    left = f", {_time(seconds / new * (len(results) - ended))} left" if new and ended < len(results) else ""
    head = Table.grid(padding=(0, 1))
    head.add_row(ProgressBar(total=len(results), completed=ended, width=30), f"{ended} of {len(results)} ended, {_time(seconds)}{left}")
    running: list[RenderableType] = []
    for result in results:
        if result.state == "open" and len(running) < RUNNING and (rows := comparison.course(result.cell)):
            last, epochs = rows[-1], result.cell.config.epochs
            told = f"epoch {last['epoch']:.0f}/{epochs}, validation {100 * last['validation_accuracy']:.1f} %"
            running.append(Text(f"{said(result.cell.labels)}: {told}", style="dim", overflow="ellipsis", no_wrap=True))
    return Group(head, best_table(results), *running)


def best_table(results: Sequence[Result]) -> Table:
    """Best accuracy on the test samples of each surrogate and slope, in %: over all else, chosen on the validation samples."""
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left", title_style="")
    groups: dict[str, dict[str, list[Result]]] = {}
    columns: dict[float, str] = {}
    for result in results:
        labels = result.cell.labels
        slope = labels.get("slope")
        column = "" if slope is None else f"{slope:g}"
        columns[-1.0 if slope is None else float(slope)] = column
        row = "  ".join(str(labels[name]) for name in ("surrogate", "neuron", "reset") if labels.get(name) is not None)
        groups.setdefault(row, {}).setdefault(column, []).append(result)
    ordered = [columns[key] for key in sorted(columns)]
    table.add_column("test, %")
    for column in ordered:
        table.add_column(f"slope {column}" if column else "no slope", justify="right")
    values = {row: {column: best(found) for column, found in cells.items()} for row, cells in groups.items()}
    highest = max((value for cells in values.values() for value in cells.values() if not math.isnan(value)), default=math.nan)
    for row, cells in values.items():
        shown: list[Text] = []
        for column in ordered:
            value = cells.get(column, math.nan)
            text = "" if column not in cells else "·" if math.isnan(value) else f"{100 * value:.1f}"
            shown.append(Text(text, style="bold green" if value == highest else ""))
        table.add_row(Text(row), *shown)
    return table


def settings(results: Sequence[Result]) -> list[list[Result]]:
    """Results that differ in nothing but the seed, together."""
    found: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        found.setdefault(tuple(x for name, x in result.cell.labels.items() if name != "seed"), []).append(result)
    return list(found.values())


def ranked(results: Sequence[Result]) -> list[list[Result]]:
    """The settings of what has ended, each with its seeds, the one with the highest mean accuracy on the validation samples first.

    Among equals the one with the lowest loss on these comes first.
    """

    def merit(group: Sequence[Result]) -> tuple[float, float]:
        losses = [result.values.get("validation_loss", math.inf) for result in group]
        return statistics.fmean(result.validation for result in group), -statistics.fmean(losses)

    return sorted(settings([result for result in results if result.state != "open"]), key=merit, reverse=True)


def best_setting(results: Sequence[Result]) -> list[Result]:
    """The first of the `ranked` settings: its seeds; empty if none has ended."""
    return next(iter(ranked(results)), [])


def best(results: Sequence[Result]) -> float:
    """Mean test accuracy of the best setting; NaN while none has ended."""
    found = best_setting(results)
    return statistics.fmean(result.test for result in found) if found else math.nan


def _time(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
