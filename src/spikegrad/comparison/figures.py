"""Pictures of a comparison: accuracy over slope for every surrogate, and how they learned."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spikegrad import plots
from spikegrad.comparison.folder import Comparison, Result
from spikegrad.comparison.table import best_setting, settings

PICTURES = ("accuracy_by_slope", "learning_curves", "accuracy_map")
MARKS = "osD^vPX*"
MARKED = 12
"""Slopes that have a mark each at their axis."""


def draw(comparison: Comparison) -> list[Path]:
    """Write the pictures into the comparison's folder, and give their paths; none while nothing has been trained."""
    if not any(result.state == "done" for result in comparison.results):
        return []
    format = comparison.cells[0].config.pictures
    if format == "none":
        return []
    figures = accuracy_by_slope(comparison.results), learning_curves(comparison), accuracy_map(comparison.results)
    drawn = [(comparison.path / f"{name}.{format}", figure) for name, figure in zip(PICTURES, figures, strict=True) if figure is not None]
    for path, figure in drawn:
        plots.save(figure, path)
    return [path for path, _ in drawn]


def _lines(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by the line of a figure they belong to: all labels but slope, learning rate and seed, without those that all share."""
    names = [name for name in results[0].cell.labels if name not in ("slope", "lr", "seed")]
    telling = [name for name in names if len({result.cell.labels.get(name) for result in results}) > 1] or names[:1]
    found: dict[str, list[Result]] = {}
    for result in results:
        labels = result.cell.labels
        found.setdefault(", ".join(str(labels[name]) for name in telling if labels.get(name) is not None), []).append(result)
    return found


def _look(number: int) -> dict[str, Any]:
    styles: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)))
    return {"color": plots.COLOURS[number % len(plots.COLOURS)], "linestyle": styles[number // len(plots.COLOURS) % 3]}


def accuracy_by_slope(results: Sequence[Result]) -> Figure:
    """Test accuracy over slope, a line for each surrogate (and neuron), at the learning rate that is best on the validation samples.

    Bars reach from the lowest to the highest seed; a surrogate without a slope is a level line.
    """
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = figure.subplots()
        for number, (name, group) in enumerate(_lines(results).items()):
            by_slope: dict[float, list[Result]] = {}
            for result in group:
                slope = result.cell.labels.get("slope")
                by_slope.setdefault(math.nan if slope is None else float(slope), []).append(result)
            best = {slope: found for slope in sorted(by_slope) if (found := best_setting(by_slope[slope]))}
            if not best:
                continue
            mean = [100 * statistics.fmean(result.test for result in found) for found in best.values()]
            if all(map(math.isnan, best)):
                level: dict[str, Any] = _look(number) | {"linestyle": ("--", (0, (1, 1.2)))[number % 2]}  # two may coincide
                axes.axhline(mean[0], label=name, **level)
                continue
            low = [100 * min(result.test for result in found) for found in best.values()]
            high = [100 * max(result.test for result in found) for found in best.values()]
            error = np.maximum([np.subtract(mean, low), np.subtract(high, mean)], 0)
            axes.errorbar([*best], mean, error, marker=MARKS[number % len(MARKS)], markersize=5, capsize=2, label=name, **_look(number))
        if classes := [result.values["classes"] for result in results if "classes" in result.values]:  # what diverged has none
            chance = 100 / max(classes)
            axes.axhline(chance, color=plots.MUTED, linewidth=1, linestyle=":")
            axes.annotate("guessing", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="top", color=plots.MUTED, fontsize=9)
        if any(result.cell.labels.get("slope") is not None for result in results):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            slopes = sorted({float(slope) for result in results if (slope := result.cell.labels.get("slope")) is not None})
            if len(slopes) <= MARKED:
                axes.set_xticks(slopes)
                axes.minorticks_off()
        axes.set(xlabel="slope of the surrogate, 1 / potential", ylabel="test accuracy, %", ylim=(0, 102))
        axes.set_title("Accuracy at the best learning rate")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def learning_curves(comparison: Comparison) -> Figure:
    """Validation accuracy over epochs: the best setting of each surrogate (and neuron), its seeds thin; and all settings, faint."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = figure.subplots()
        for number, (name, group) in enumerate(_lines(comparison.results).items()):
            best = best_setting(group)
            for found in settings(group):
                for result in found:
                    chosen = any(result is each for each in best)
                    _course(axes, comparison, result, _look(number), name if chosen and result is best[0] else None, chosen)
        axes.set(xlabel="epoch", ylabel="validation accuracy, %", ylim=(0, 102))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(x=0.02)
        axes.set_title("Best setting of each, and all others faint")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def accuracy_map(results: Sequence[Result]) -> Figure | None:
    """Test accuracy over slope and learning rate, the mean of the seeds, a map for each surrogate (and neuron) with several of both."""
    maps: dict[str, dict[tuple[float, float], float]] = {}
    for name, group in _lines(results).items():
        sloped = [found for found in settings(group) if found[0].cell.labels.get("slope") is not None]
        points = {_place(found[0]): statistics.fmean(result.test for result in found) for found in sloped}
        if all(len({point[k] for point in points}) > 1 for k in (0, 1)):
            maps[name] = points
    if not maps:
        return None
    columns = min(len(maps), 3)
    rows = math.ceil(len(maps) / columns)
    with matplotlib.rc_context({**plots.STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.2 + 3.3 * columns, 0.6 + 2.7 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        image = None
        for axes, (name, points) in zip(panels, maps.items(), strict=False):
            slopes, rates = (sorted({point[k] for point in points}) for k in (0, 1))
            values = np.array([[100 * points.get((slope, rate), math.nan) for slope in slopes] for rate in rates])
            image = axes.imshow(values, origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=100)
            for (i, j), value in np.ndenumerate(values):
                if not math.isnan(value):
                    colour = plots.INK if value > 55 else "white"
                    axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7 if len(slopes) > 8 else 8, color=colour)
            axes.set_xticks(range(len(slopes)), [f"{slope:g}" for slope in slopes], rotation=45 if len(slopes) > 8 else 0)
            axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(name)
        for axes in panels[len(maps) :]:
            axes.set_axis_off()
        figure.supxlabel("slope of the surrogate, 1 / potential", fontsize=10)
        figure.supylabel("learning rate", fontsize=10)
        if image is not None:
            bar = figure.colorbar(image, ax=panels.tolist(), shrink=0.8, aspect=30)
            bar.set_label("test accuracy, %", color=plots.INK)
            bar.outline.set_visible(False)
    return figure


def _place(result: Result) -> tuple[float, float]:
    slope, rate = result.cell.labels["slope"], result.cell.labels["lr"]
    assert isinstance(slope, float | int)
    assert isinstance(rate, float | int)
    return float(slope), float(rate)


def _course(axes: Axes, comparison: Comparison, result: Result, look: dict[str, Any], name: str | None, chosen: bool) -> None:
    rows = comparison.course(result.cell)
    if not rows:
        return
    if name is not None:
        told = [f"slope {slope:g}"] if (slope := result.cell.labels.get("slope")) is not None else []
        name = ", ".join([name, *told, f"learning rate {result.cell.labels.get('lr'):g}"])
    style: dict[str, Any] = look | ({"linewidth": 1.8} if chosen else {"linewidth": 0.5, "alpha": 0.25})
    style |= {} if len(rows) > 1 else {"marker": "o", "markersize": 4}
    x, y = [row["epoch"] for row in rows], [100 * row["validation_accuracy"] for row in rows]
    axes.plot(x, y, label=name or "_", **style, zorder=3 if chosen else 2)
