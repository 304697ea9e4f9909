"""Figures of the results, one for each section."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.measure import Report, Row, Section
from benchmarks.report import number
from spikegrad.plots import COLOURS, INK, LINE, MUTED, STYLE, save

OURS, PEER, FLOOR = COLOURS[0], COLOURS[1], MUTED


def colour(row: Row) -> str:
    """Ours, the floor, or a peer."""
    if row.name.startswith("copy"):
        return FLOOR
    return OURS if "spikegrad" in row.name or "our " in row.name else PEER


def wide(rows: list[Row]) -> bool:
    """Whether values are too far apart for a linear axis."""
    values = [row.value for row in rows if row.value > 0]
    return len(values) > 1 and max(values) > 12 * min(values)


def ticks(axes: Axes, which: str) -> None:
    """Plain numbers on a logarithmic axis."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(10, (1, 3)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def points(axes: Axes, section: Section) -> None:
    """A line for each row: its median as a point, its quartiles as a bar through it; the ratio beside it."""
    rows = section.rows
    peers = any(colour(row) == OURS for row in rows)
    logarithmic = wide(rows)
    if logarithmic:
        axes.set_xscale("log")
        ticks(axes, "x")
    else:
        axes.set_xlim(0, 1.12 * max(row.high for row in rows))
    for place, row in enumerate(rows):
        paint = colour(row) if peers else OURS
        axes.plot([row.low, row.high], [place, place], color=paint, linewidth=5, alpha=0.35, solid_capstyle="round")
        axes.plot(row.value, place, "o", color=paint, markersize=7, markeredgecolor="white")
        ratio = f"  ×{number(row.ratio)}" if row.ratio is not None and row.name != section.reference else ""  # noqa: RUF001
        axes.annotate(
            f"{number(row.value)}{ratio}", (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=INK,
            annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.name for row in rows], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_xlabel(section.unit)


def lines(axes: Axes, section: Section) -> None:
    """Values over the section's axis, one line for each name."""
    names = list(dict.fromkeys(row.name for row in section.rows))
    spare = iter(COLOURS[1:])
    for name in names:
        rows = [row for row in section.rows if row.name == name]
        paint = OURS if "spikegrad" in name else FLOOR if name.startswith("copy") else next(spare)
        style = "--" if name.startswith("copy into") else ":" if name.startswith("copy") else "-"
        x = [row.x for row in rows]
        axes.plot(x, [row.value for row in rows], style, marker="o", markersize=4, color=paint, label=name)
        axes.fill_between(x, [row.low for row in rows], [row.high for row in rows], color=paint, alpha=0.15, linewidth=0)  # pyright: ignore
    values = sorted({row.x for row in section.rows if row.x is not None})
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:,g}" for value in values])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yscale("log")
    ticks(axes, "y")
    axes.set_xlabel(section.axis)
    axes.set_ylabel(section.unit)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def figure(section: Section) -> Figure:
    """One section as a figure."""
    with matplotlib.rc_context(STYLE):
        height = 3.6 if section.axis else 1.1 + 0.3 * len(section.rows)
        drawn = Figure(figsize=(8, height), layout="constrained")
        axes = drawn.subplots()
        (lines if section.axis else points)(axes, section)
        drawn.suptitle(section.title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return drawn


def draw(name: str, report: Report, folder: Path) -> list[Path]:
    """``NAME-1.png`` and ``NAME-1.svg`` for the first section, and so on; the files written."""
    written: list[Path] = []
    for place, section in enumerate(report.sections, 1):
        drawn = figure(section)
        for ending in ("png", "svg"):
            written.append(folder / f"{name}-{place}.{ending}")
            save(drawn, written[-1])
    return written
