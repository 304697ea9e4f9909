"""A diagnosis for the eye: a table and its findings in a terminal, and a figure with one row for each layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from spikegrad.insight.findings import percent
from spikegrad.insight.measuring import QUANTILES, Measured
from spikegrad.plots import COLOURS, INK, LINE, MUTED, STYLE

if TYPE_CHECKING:
    from spikegrad.insight.diagnosis import Diagnosis

ILL = COLOURS[1]


def table(diagnosis: Diagnosis) -> Table:
    """One row for each layer; what is ill stands out."""
    ill = {name for finding in diagnosis.findings for name in finding.layers}
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    made.add_column("layer", no_wrap=True)
    updates = diagnosis.loss_after is not None
    heads = ["spikes\na step", "silent\n%", "satur.\n%", "potential", "peak\nleft %", "gradient", "dead\n%"] + ["update\n%"] * updates
    for head in heads:
        made.add_column(head, justify="right", no_wrap=True)
    for m in diagnosis.layers:
        of_spikes = [f"{m.rate:.3f}", _share(m.silent), _share(m.saturated)] if m.spiking else ["", "", ""]
        cells = [
            *of_spikes,
            f"{_short(m.mean)} ± {_short(m.deviation)}",
            _share(m.left) if m.spiking else "",
            f"{m.gradient:.1e}",
            _share(m.dead) if m.weights else "",
            *([_share(m.update or 0) if m.weights else ""] if updates else []),
        ]
        made.add_row(escape(m.name or m.kind), *cells, style="bold red" if m.name in ill else None)
    return made


def _share(share: float) -> str:
    """As `percent` says it, where the column says that it is one."""
    return percent(share).replace("less than ", "<").removesuffix(" %")


def _short(x: float) -> str:
    return f"{x:.2f}" if abs(x) < 10 else f"{x:.2g}"


def report(diagnosis: Diagnosis) -> Any:
    """The table, the loss, and the findings."""
    after = "" if diagnosis.loss_after is None else f", {diagnosis.loss_after:.4g} after one update"
    parts: list[Any] = [
        table(diagnosis),
        f"[dim]Potentials in thresholds, with their deviation; dead: weights without a gradient. Loss {diagnosis.loss:.4g}{after}.[/]",
        "",
    ]
    if diagnosis.healthy:
        parts.append("[bold green]Nothing was found to be wrong.[/]")
    for number, finding in enumerate(diagnosis.findings, 1):
        told = [escape(finding.says), escape(finding.cause), f"[bold]{escape(finding.advice)}[/]"]
        if finding.consequences:
            told.append(f"[dim]As a consequence, {escape(', '.join(finding.consequences))}.[/]")
        parts += [f"[bold red]{number}. {finding.kind}[/]", Padding("\n".join(told), (0, 0, 0, 3))]
    return Group(*parts)


def figure(diagnosis: Diagnosis) -> Figure:
    """One row for each layer: potentials around the threshold, neurons that spike, and the gradient over time."""
    ill = {name for finding in diagnosis.findings for name in finding.layers}
    layers = diagnosis.layers
    sizes = [x for m in layers for x in m.gradient_over_time if x > 0 and math.isfinite(x)]
    low, high = (min(sizes), max(sizes)) if sizes else (1e-3, 1.0)
    low = max(low, high * 1e-12)
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(10, 1.0 * len(layers) + 1.3), layout="constrained")
        made.get_layout_engine().set(w_pad=0.09, h_pad=0.02)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
        grid = made.subplots(len(layers), 3, squeeze=False, sharex="col", width_ratios=(5, 3, 4))
        reach = _reach(layers)
        for (potential, spikes, gradient), m in zip(grid, layers, strict=True):
            colour = ILL if m.name in ill else COLOURS[0]
            _potential(potential, m, colour, reach)
            _spikes(spikes, m, colour)
            _gradient(gradient, m, colour, (low / 3, high * 3))
            label = m.name or m.kind
            potential.set_ylabel(label, rotation=0, ha="right", va="center", color=ILL if m.name in ill else INK, labelpad=8)
        for axes, title in zip(grid[0], ("Potential", "Neurons", "Gradient of the current"), strict=True):
            axes.set_title(title)
        for axes, label in zip(grid[-1], ("potential, thresholds", "share of neurons", "time step"), strict=True):
            axes.set_xlabel(label)
        kinds = ", ".join(f"{f.kind}{' in ' + ', '.join(f.layers) if f.layers else ''}" for f in diagnosis.findings)
        made.suptitle(kinds[:110] or "Nothing was found to be wrong", x=0.01, ha="left", fontsize=10, color=ILL if kinds else INK)
    return made


def _reach(layers: tuple[Measured, ...]) -> tuple[float, float]:
    spiking = [m for m in layers if m.spiking] or list(layers)
    low, high = min(m.quantiles[0] for m in spiking), max(m.quantiles[-1] for m in spiking)
    if not (math.isfinite(low) and math.isfinite(high)):
        return -4.0, 4.0
    return max(min(low, -0.5), -8.0), min(max(high, 1.5), 8.0)


def _potential(axes: Axes, m: Measured, colour: str, reach: tuple[float, float]) -> None:
    """Quantiles as a box with whiskers; of potentials beyond the axis an arrow says where they are."""
    first, quarter, middle, three, last = (float(np.clip(x, *reach)) for x in m.quantiles)
    axes.hlines(0, first, last, color=colour, linewidth=1.4)
    axes.barh(0, max(three - quarter, 0.01), left=quarter, height=0.5, color=colour, alpha=0.35, linewidth=0)
    axes.vlines(middle, -0.25, 0.25, color=colour, linewidth=2)
    if m.spiking:
        axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for place, beyond, sign, align in (
        (reach[1], m.quantiles[-1] > reach[1], "▸", "right"),
        (reach[0], m.quantiles[0] < reach[0], "◂", "left"),
    ):
        if beyond:
            value = m.quantiles[QUANTILES.index(0.5)]
            axes.annotate(f"{sign} median {value:.2g}", (place, 0.42), ha=align, va="center", fontsize=8, color=colour)
    axes.set(ylim=(-0.6, 0.6), yticks=[], xlim=reach)
    axes.spines["left"].set_visible(False)


def _spikes(axes: Axes, m: Measured, colour: str) -> None:
    """Silent, spiking and saturated neurons as one bar, and the rate."""
    axes.set(ylim=(-0.6, 0.6), yticks=[], xlim=(0, 1))
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    if not m.spiking:
        axes.text(0.0, 0, "does not spike", fontsize=8, color=MUTED, va="center")
        return
    start = 0.0
    for share, shade, name in (
        (m.silent, LINE, "silent"),
        (1 - m.silent - m.saturated, COLOURS[2], ""),
        (m.saturated, COLOURS[4], "saturated"),
    ):
        axes.barh(0, share, left=start, height=0.5, color=shade, linewidth=0)
        if share > 0.3 and name:
            axes.text(start + share / 2, 0, name, ha="center", va="center", fontsize=8, color=INK)
        start += share
    axes.text(1, 0.42, f"{m.rate:.2g} spikes a step", ha="right", va="center", fontsize=8, color=MUTED)


def _gradient(axes: Axes, m: Measured, colour: str, reach: tuple[float, float]) -> None:
    """The norm of the gradient of the current at each step, on a logarithmic scale that all rows share."""
    values = np.array(m.gradient_over_time)
    axes.set_yscale("log")
    axes.set_ylim(*reach)
    axes.tick_params(axis="y", labelsize=7)
    axes.yaxis.set_minor_locator(NullLocator())
    decades = math.log10(reach[1] / reach[0])
    axes.yaxis.set_major_locator(LogLocator(numticks=4 if decades > 2 else 3))
    if not (values > 0).any():
        axes.text(0.02, 0.5, "none", transform=axes.transAxes, fontsize=8, color=ILL, va="center")
        return
    axes.plot(np.arange(1, len(values) + 1), np.where(values > 0, values, np.nan), color=colour, linewidth=1.4)
