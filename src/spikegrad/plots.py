"""Pictures of surrogates, of neurons and of runs, as matplotlib figures that no window needs."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spikegrad import facts
from spikegrad.neuron import Neuron
from spikegrad.simulation import rest, simulated
from spikegrad.surrogate import Surrogate

if TYPE_CHECKING:
    from spikegrad.training.measure import Look

INK, MUTED, LINE = "#1f2328", "#656d76", "#d8dee4"
COLOURS = ("#0969b5", "#d1491b", "#0a8a65", "#8250b8", "#b98900", "#c43e78", "#3fa7c9", "#57606a")
STYLE: Any = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "svg.hashsalt": "spikegrad",
    "pdf.fonttype": 42,
}


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the path's ending names; it appears whole or not at all.

    Example:
        >>> import tempfile
        >>> from spikegrad import ATan, plots
        >>> plots.save(plots.curves([ATan()]), f"{tempfile.mkdtemp()}/curves.svg")
    """
    path = Path(path)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")  # another process may draw the same
    try:
        write(figure, new, path.suffix[1:])
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write(figure: Figure, path: Path, format: str) -> None:
    """Write a figure as ``png``, ``svg`` or ``pdf``, whatever the path's ending."""
    with matplotlib.rc_context(STYLE), np.errstate(over="ignore"):  # see `curves`
        figure.savefig(path, format=format, dpi=160)


def curves(surrogates: Sequence[Surrogate]) -> Figure:
    """The derivatives of several surrogates over potential minus threshold, and their tails on a logarithmic scale.

    Args:
        surrogates: at least one; a stochastic one is drawn at its mean noise.

    Example:
        >>> from spikegrad import ATan, plots
        >>> figure = plots.curves([ATan(), ATan(slope=5)])
        >>> [line.get_label() for line in figure.axes[0].lines if line.get_label()[0] != "_"]
        ['ATan(slope=2)', 'ATan(slope=5)']
    """
    widths = [s.half_width for s in surrogates if math.isfinite(s.half_width)]
    reach = min(max([5 * w for w in widths] + [1.0]), 4.0)
    x = np.unique(np.concatenate([np.linspace(-reach, reach, 4001), np.linspace(-reach / 50, reach / 50, 2001)]))
    with matplotlib.rc_context(STYLE), np.errstate(over="ignore"):  # of an axis whose end is near that of the numbers
        columns = 3 if max(len(_label(s)) for s in surrogates) < 36 else 2
        rows = math.ceil(len(surrogates) / columns)
        figure = _figure(9.6, 3.9 + 0.25 * rows)
        linear, logarithmic = figure.subplots(1, 2, width_ratios=(3, 2))
        lowest, highest, negative = math.inf, 0.0, False
        for number, surrogate in enumerate(surrogates):
            y = np.broadcast_to(np.asarray(surrogate.derivative(x), dtype=np.float64), x.shape)
            look = {"color": COLOURS[number % len(COLOURS)], "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3]}
            linear.plot(x, y, label=_label(surrogate), **look)
            for size, width in ((y, None), (-y, 0.8)):
                if (size > 0).any():
                    logarithmic.plot(x, np.where(size > 0, size, 1e-30), **look, linewidth=width)  # zero is far below the axis
            lowest, highest, negative = min([lowest, *abs(y[y != 0])]), max(highest, float(abs(y).max())), negative or bool((y < 0).any())
        linear.set_title("Derivative")
        linear.axhline(0, color=MUTED, linewidth=0.8)
        logarithmic.set_title("Its tails, negative ones thin" if negative else "Its tails")
        logarithmic.set_yscale("log")
        if highest > 0:
            logarithmic.set_ylim(max(lowest / 2, min(1e-5, highest / 1e5)), 2 * highest)
        for axes in (linear, logarithmic):
            axes.set_xlabel("potential minus threshold")
            axes.set_xlim(-reach, reach)
            axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
        figure.legend(loc="outside upper left", ncols=min(columns, len(surrogates)))
    return figure


def _label(surrogate: Surrogate) -> str:
    """Name and first number, with the others that are not at their defaults."""
    fields = {field.name: (getattr(surrogate, field.name), field.default) for field in dataclasses.fields(surrogate)}
    first = next(iter(surrogate.parameters))
    shown = [n for n, (value, default) in fields.items() if value != default or (n == first and n != "scale")]
    shown.sort(key=lambda name: (name == "scale", name != first))
    values = [f"{name}={v:.3g}" if isinstance(v := fields[name][0], float) else f"{name}={v}" for name in shown]
    return f"{type(surrogate).__name__}({', '.join(values)})"


def matched(surrogates: Sequence[Surrogate]) -> list[Surrogate]:
    """All surrogates at the half width and the peak of the first, so that only shapes differ.

    Raises:
        ValueError: one of them has no finite half width, or nothing to change it with.

    Example:
        >>> from spikegrad import Boxcar, Triangle, plots
        >>> plots.matched([Triangle(width=2.0), Boxcar()])
        [Triangle(width=2.0, height=1.0), Boxcar(width=1.0, height=1.0, leak=0.0, shift=0.0, closed=True)]
    """
    first = surrogates[0]
    same = [first, *(s.matched_to(first) for s in surrogates[1:])]
    return [dataclasses.replace(s, scale=s.scale * first.peak / s.peak) for s in same]


def response(neuron: Neuron, steps: int = 200) -> Figure:
    """How a neuron answers a step of current, and pulses: growing, then close together, then a negative one.

    Its first input is driven, as strongly as makes it spike a few times; a conductance is held at 0.5, and another second input, such as
    inhibition, comes on in the middle of the step.

    Args:
        neuron: the neuron, with its numbers.
        steps: length of the picture.

    Example:
        >>> from spikegrad import plots
        >>> from spikegrad.neurons import Adaptive
        >>> figure = plots.response(Adaptive(0.9))
        >>> [axes.get_ylabel() for axes in figure.axes[::2]]
        ['current', 'v', 'a', 'spikes']
    """
    spiking, (first, *others) = "excess" in neuron.record.recorded, neuron.inputs
    time, shapes = np.arange(steps), np.zeros((steps, 2))
    shapes[steps // 10 : steps * 7 // 10, 0] = 1
    for percent, height in zip((8, 22, 36, *range(52, 72, 3), 88), (0.5, 1, 3, *[1] * 7, 0 if others else -1), strict=True):
        shapes[steps * percent // 100, 1] = height
    # Of sizes with two digits, the one that gives about so many spikes more than the smallest.
    sizes = np.array([float(f"{size:.2g}") for size in 2.0 ** np.arange(-6, 11, 0.25)]) if spiking else np.ones(1)
    inputs = {first: shapes[:, :, None] * sizes}
    for name in others:
        between = (time >= steps * 3 // 10) & (time < steps // 2)
        inputs[name] = 0.5 + 0 * inputs[first] if name == "conductance" else inputs[first] * between[:, None, None] * [[1], [0]]
    made, states = simulated(neuron, inputs, rest(neuron))
    counts = (made["output 0"] != 0).sum(0)
    more = np.maximum(counts - counts[:, :1], 0.01)
    best = [int(abs(np.log(more[k] / wanted)).argmin()) for k, wanted in enumerate((10, 6))]
    about = facts.section(type(neuron), "States")
    rows = {name: [x[:, k, size] for k, size in enumerate(best)] for name, x in (inputs | states | made).items()}
    heights = [0.7] * len(inputs) + [1.2] * len(states) + [0.6 if spiking else 1.2] + [1.2] * (len(made) - 1)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = _figure(9.6, 1.25 * sum(heights) + 1.2)
        panels = figure.subplots(len(rows), 2, sharex=True, height_ratios=heights, squeeze=False)
        for number, (line, (name, values)) in enumerate(zip(panels, rows.items(), strict=True)):
            fired = spiking and name == "output 0"
            if name not in inputs:
                line[1].sharey(line[0])
                line[1].tick_params(labelleft=False)
            for axes, y in zip(line, values, strict=True):
                if name in inputs:
                    axes.fill_between(time, y, step="mid", color=MUTED, alpha=0.3, linewidth=0)
                    axes.plot(time, y, color=MUTED, drawstyle="steps-mid", linewidth=1)
                elif fired:
                    axes.vlines(time[y != 0], 0, y[y != 0], color=INK, linewidth=1.2)
                else:
                    axes.plot(time, y, color=COLOURS[(number - len(inputs)) % len(COLOURS)], linewidth=1.4)
            if fired and set(np.unique(values)) <= {0, 1}:
                line[0].set(ylim=(0, 1.1), yticks=[])
            if name in about:
                said = re.split(r", at rest|[.;:]", about[name])[0]
                line[0].set_title(said, fontsize=9, fontweight="normal", color=MUTED, pad=3)
            label = "spikes" if fired else "output" if [*made] == [name] else name
            line[0].set_ylabel(label, **({} if len(label) > 3 else {"rotation": 0, "va": "center", "ha": "right"}))
        figure.align_ylabels(panels[:, 0])
        for axes, values, what in zip(panels[0], rows[first], ("A step of", "Pulses of up to"), strict=True):
            axes.set_title(f"{what} {values.max():g}")
        for axes in panels[-1]:
            axes.set_xlabel("time step")
            axes.set_xlim(0, steps - 1)
        figure.suptitle(textwrap.fill(repr(neuron), 110), x=0.01, ha="left", fontsize=10)
    return figure


def learning_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, accuracy and firing rates by epoch, with the epoch whose weights were kept.

    Args:
        rows: one for each epoch, as in a run's ``metrics.csv``.

    Example:
        >>> from spikegrad import plots
        >>> row = {"train_loss": 1.0, "validation_loss": 1.1, "train_accuracy": 0.6, "validation_accuracy": 0.5, "rate_1": 0.1}
        >>> figure = plots.learning_curves([{"epoch": 1, **row}, {"epoch": 2, **row, "validation_accuracy": 0.7}])
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['Loss', 'Accuracy, %', 'Firing, % of steps']
    """
    epochs = [row["epoch"] for row in rows]
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))["epoch"]
    rates = sorted((name for name in rows[0] if name.startswith("rate_")), key=lambda name: int(name[5:]))
    panels: list[tuple[str, list[tuple[str, str]], float]] = [
        ("Loss", [("train_loss", "training"), ("validation_loss", "validation")], 1),
        ("Accuracy, %", [("train_accuracy", "training"), ("validation_accuracy", "validation")], 100),
        ("Firing, % of steps", [(name, f"layer {name[5:]}") for name in rates], 100),
    ]
    panels = [panel for panel in panels if panel[1]]
    with matplotlib.rc_context(STYLE):
        figure = _figure(11.5, 3.6)
        for axes, (title, lines, factor) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            axes.set_title(title)
            axes.axvline(best, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            for number, (name, label) in enumerate(lines):
                mark = "o" if len(rows) < 15 else None
                axes.plot(epochs, [factor * row[name] for row in rows], marker=mark, markersize=4, color=COLOURS[number], label=label)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.margins(x=0.02)
            if not title.startswith("Accuracy"):
                axes.set_ylim(0, 1.08 * max(factor * row[name] for row in rows for name, _ in lines) or 1)
            if title.startswith("Loss"):
                right = best > (epochs[0] + epochs[-1]) / 2
                axes.annotate(
                    f"kept: epoch {best:.0f}",
                    (best, 0.98),
                    xycoords=("data", "axes fraction"),
                    xytext=(-3 if right else 3, 0),
                    textcoords="offset points",
                    ha="right" if right else "left",
                    va="top",
                    rotation=90,
                    color=MUTED,
                    fontsize=9,
                )
            axes.legend()
    return figure


def confusion(counts: NDArray[np.int64]) -> Figure:
    """A confusion matrix, rows the right classes, columns the answers.

    The diagonal stands back so that mistakes stand out. Their colour is their share of the row, on the same scale in every picture; it
    rises with the root of the share, so that a few mistakes are seen, and one among many samples is faint.

    Example:
        >>> import numpy as np
        >>> from spikegrad import plots
        >>> plots.confusion(np.array([[9, 1], [0, 10]])).axes[0].get_title(loc="left")
        '19 of 20 right, 95.00 %'
    """
    classes = len(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    diagonal = np.eye(classes, dtype=bool)
    right, wrong = np.ma.masked_array(diagonal, ~diagonal), np.ma.masked_array(share, diagonal | (counts == 0))
    side = min(max(4.2, 0.42 * classes + 1.4), 14)
    with matplotlib.rc_context(STYLE):
        figure = _figure(side + 0.9, side)
        axes = figure.subplots()
        axes.imshow(right, cmap="Blues", vmin=0, vmax=5)
        mistakes = axes.imshow(wrong, cmap="Oranges", norm=PowerNorm(0.5, 0, 1))
        axes.grid(False)
        if classes <= 30:
            for i, j in np.argwhere(counts):
                colour = "white" if i != j and share[i, j] > 0.4 else INK
                axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=9, color=colour)
            axes.set_xticks(range(classes))
            axes.set_yticks(range(classes))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("answered")
        axes.set_ylabel("right class")
        axes.set_title(f"{counts.trace()} of {counts.sum()} right, {100 * counts.trace() / counts.sum():.2f} %")
        bar = figure.colorbar(mistakes, ax=axes, shrink=0.6, aspect=25, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1], format="{x:.0%}")
        bar.set_label("mistakes, share of their row", color=INK)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)
    return figure


def raster(look: Look) -> Figure:
    """One sample on its way through a network: input, the spikes of each hidden layer, and the readout over time.

    Example:
        >>> import numpy as np
        >>> from spikegrad import plots
        >>> from spikegrad.training.measure import Look
        >>> figure = plots.raster(Look(np.ones((5, 3)), [np.eye(5)], np.ones((5, 2)), label=0, answer=1))
        >>> figure.axes[-1].get_title(loc="left")
        'Readout: answers 1'
    """
    steps = len(look.input)
    heights = [1.0] + [1.5] * len(look.spikes) + [1.3]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = _figure(7.6, 1.7 * sum(heights) + 0.8)
        panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
        spiking = set(np.unique(look.input)) <= {0.0, 1.0}
        _spikes(panels[0], look.input, MUTED, f"Input: {look.input.shape[1]} {'spike trains' if spiking else 'currents'}", spiking)
        for number, (axes, spikes) in enumerate(zip(panels[1:-1], look.spikes, strict=True)):
            title = f"Layer {number + 1}: {spikes.shape[1]} neurons, {100 * (spikes != 0).mean():.1f} % of steps with a spike"
            _spikes(axes, spikes, COLOURS[number % len(COLOURS)], title, True)
        readout, time = panels[-1], np.arange(1, steps + 1)
        for label, trace in enumerate(look.trace.T):
            if label not in (look.label, look.answer):
                readout.plot(time, trace, color="#b6bec7", linewidth=1)
        readout.plot(time, look.trace[:, look.label], color=COLOURS[2], linewidth=2.2, label=f"class {look.label}, right")
        if look.answer != look.label:
            readout.plot(time, look.trace[:, look.answer], color=COLOURS[1], linewidth=2.2, label=f"class {look.answer}, answered")
        readout.set_title(f"Readout: answers {look.answer}")
        readout.legend(loc="best")
        readout.set_xlabel("time step")
        readout.set_xlim(0.5, steps + 0.5)
        readout.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _spikes(axes: Axes, values: NDArray[np.float32], colour: str, title: str, spiking: bool) -> None:
    steps, neurons = values.shape
    if spiking:
        time, neuron = values.nonzero()
        # A dash fills most of its step while there are few steps; later it is a tick of constant size.
        half = max(0.36, steps / 500)
        axes.hlines(neuron, time + 1 - half, time + 1 + half, color=colour, linewidth=min(max(120 / neurons, 0.7), 5))
        axes.set_ylim(-1, neurons)
    else:
        axes.imshow(values.T, aspect="auto", origin="lower", cmap="Greys", extent=(0.5, steps + 0.5, -0.5, neurons - 0.5))
    axes.set_title(title)
    axes.set_ylabel("neuron" if title.startswith("Layer") else "input")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.08)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    return figure
