"""The pages that are made from the code: the reference, a page for each public name, and the galleries, from the registries."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

from docstrings import prose
from spikegrad import CATALOGUE, explore, plots
from spikegrad.neuron import Neuron
from spikegrad.neurons import CATALOGUE as NEURONS
from spikegrad.simulation import rest, simulated
from spikegrad.surrogate import Surrogate
from spikegrad.training.named import built

MODULES = {
    "spikegrad": "Surrogates and neurons, yours and ours",
    "spikegrad.nn": "Layers for PyTorch",
    "spikegrad.jax": "Functions for JAX",
    "spikegrad.encode": "Numbers as spikes",
    "spikegrad.data": "Data",
    "spikegrad.training": "Training",
    "spikegrad.insight": "What goes on in a network",
    "spikegrad.plots": "Pictures",
}
DROPPED = ("annotations", "TYPE_CHECKING", "Any", "CATALOGUE", "write")
GIVEN_BY = {
    "spikegrad.insight.Change": "spikegrad.diagnose",
    "spikegrad.insight.Diagnosis": "spikegrad.diagnose",
    "spikegrad.insight.Finding": "spikegrad.diagnose",
    "spikegrad.insight.Measured": "spikegrad.diagnose",
    "spikegrad.insight.Cost": "spikegrad.cost",
    "spikegrad.insight.LayerCost": "spikegrad.cost",
    "spikegrad.training.evaluate_cost": "spikegrad.cost",
    "spikegrad.insight.LayerRecord": "spikegrad.record",
    "spikegrad.insight.Recording": "spikegrad.record",
    "spikegrad.training.DivergedError": "spikegrad.training.train",
    "spikegrad.training.Outcome": "spikegrad.training.train",
    "spikegrad.training.Prediction": "spikegrad.training.train",
    "spikegrad.training.QuantizeReport": "spikegrad.training.train",
    "spikegrad.training.evaluate": "spikegrad.training.train",
    "spikegrad.training.predict": "spikegrad.training.train",
    "spikegrad.training.quantize_report": "spikegrad.training.train",
    "spikegrad.training.resume": "spikegrad.training.train",
}
"""What nobody makes, or only after something else was made: the example of the function that gives it stands on its page, too."""


def public(module: str) -> list[str]:
    """The names of a module that are its own: not what it imports for itself, nor the catalogues, which have galleries."""
    owner = importlib.import_module(module)
    found: list[str] = []
    for name in getattr(owner, "__all__", dir(owner)):
        value = getattr(owner, name)
        home = str(getattr(value, "__module__", ""))
        ours = home.startswith("spikegrad") if inspect.isroutine(value) or inspect.isclass(value) else "Annotated" in type(value).__name__
        here = module != "spikegrad.plots" or home == module  # which is a file, and has what it uses in it
        if not name.startswith("_") and name not in (*CATALOGUE, *DROPPED) and ours and here:
            found.append(name)
    return found


def short(module: str) -> str:
    """How a module is written before a name, after ``import spikegrad``'s own."""
    return f"{module}.".removeprefix("spikegrad.")


def is_range(module: str, name: str) -> bool:
    """Whether a name is an annotation of a number; they share a page."""
    value = getattr(importlib.import_module(module), name)
    return not inspect.isclass(value) and not inspect.isroutine(value)


def home(module: str, name: str) -> str:
    """The page of a name: the shorter, for what has two names."""
    if is_range(module, name):
        return "spikegrad.Between"
    first = importlib.import_module("spikegrad")
    again = name in public("spikegrad") and getattr(importlib.import_module(module), name) is getattr(first, name)
    return f"spikegrad.{name}" if again else f"{module}.{name}"


def reference() -> Iterator[tuple[str, str]]:
    """The reference: a page that lists the names, and one for each."""
    index = [
        "Reference",
        "=========",
        "",
        "Every public name, with an example that is run. Surrogates and neurons have pages in the galleries",
    ]
    index += [":doc:`of surrogates </gallery/surrogates/index>` and :doc:`of neurons </gallery/neurons/index>`.", ""]
    for module, title in MODULES.items():
        names = public(module)
        index += [title, "-" * len(title), "", f"``{module}``", ""]
        index += [f":doc:`{name} <{home(module, name)}>`\n    {summary(module, name)}\n" for name in names]
        own = [name for name in names if home(module, name) == f"{module}.{name}"]
        index += [".. toctree::", "   :hidden:", "", *(f"   {short(module)}{name} <{module}.{name}>" for name in own), ""]
        for name in own:
            yield f"reference/{module}.{name}.rst", entry(module, name)
    index += ["Functions of the potential", "--------------------------", "", ".. automodule:: spikegrad.functional", ""]
    index += ["Words of formulas", "-----------------", "", ".. automodule:: spikegrad.vocabulary", "   :members:", ""]
    yield "reference/index.rst", "\n".join(index)


RANGES = {name: " ".join(lines).strip() for (_, name), lines in ModuleAnalyzer.for_module("spikegrad.ranges").find_attr_docs().items()}
"""What is said of the annotations of numbers."""


def summary(module: str, name: str) -> str:
    """What a name is, in a sentence."""
    return RANGES[name] if is_range(module, name) else prose(getattr(importlib.import_module(module), name))


def entry(module: str, name: str) -> str:
    """The page of one name."""
    full = f"{module}.{name}"
    lines = [name, "=" * len(name), ""]
    if inspect.isclass(getattr(importlib.import_module(module), name)):
        lines += [f".. autoclass:: {full}", "   :members:", ""]
    else:
        lines += [f".. autofunction:: {full}", ""]
    if name == "Between":
        for each in filter(lambda name: is_range(module, name), public(module)):
            lines += [f".. py:data:: spikegrad.{each}", "", f"   {RANGES[each]}", ""]
    if full in GIVEN_BY:
        lines += [f"Of the function that begins it, :doc:`{GIVEN_BY[full]}`:", "", *example(GIVEN_BY[full]), ""]
    return "\n".join(lines)


def example(name: str) -> list[str]:
    """The example of a docstring."""
    module, _, function = name.rpartition(".")
    text = inspect.getdoc(getattr(importlib.import_module(module), function)) or ""
    return textwrap.dedent(text.partition("Example:\n")[2]).splitlines()


def galleries() -> Iterator[tuple[str, str]]:
    """A gallery of surrogates and one of neurons: an overview with small pictures, and a page for each."""
    for which, catalogue, owner in (("surrogates", CATALOGUE, "spikegrad"), ("neurons", NEURONS, "spikegrad.neurons")):
        title = f"Gallery of {which}"
        index = [title, "=" * len(title), "", ABOUT[which], "", ".. container:: cards", ""]
        for name, kind in sorted(catalogue.items()):
            yield f"gallery/{which}/{name}.rst", page(kind, owner)
            index += ["   .. container:: card", "", f"      .. image:: pictures/{name}-small.svg", f"         :alt: {name}", ""]
            index += [f"      :doc:`{name}`", ""]
        index += [".. toctree::", "   :hidden:", "   :glob:", "", "   *", ""]
        yield f"gallery/{which}/index.rst", "\n".join(index)


ABOUT = {
    "surrogates": "The derivatives that stand in for that of the step, over potential minus threshold, at their defaults. "
    ":doc:`/how-to/choose` says which to take.",
    "neurons": "How each neuron answers a step of current: its spikes above, its first state below. "
    ":doc:`/neurons` says how to write your own.",
}


def page(kind: type[Surrogate] | type[Neuron], owner: str) -> str:
    """A page of a gallery."""
    name = kind.__name__
    methods = ("step",) if issubclass(kind, Neuron) else ("derivative", "primitive") if kind().has_primitive else ("derivative",)
    code = "\n\n".join(textwrap.dedent(inspect.getsource(getattr(kind, method))) for method in methods)
    lines = [name, "=" * len(name), "", f".. image:: pictures/{name}.svg", f"   :alt: {alternative(kind)}", "   :class: picture", ""]
    lines += [f".. autoclass:: {owner}.{name}", "", ".. rubric:: As it is written", "", ".. code-block:: python", ""]
    lines += [textwrap.indent(code, "   "), "", ".. raw:: html", "", "   <details><summary>BibTeX</summary>", ""]
    cited = textwrap.indent(kind.cite() or "none", "   ")
    lines += [".. code-block:: bibtex", "", cited, "", ".. raw:: html", "", "   </details>", ""]
    return "\n".join(lines)


def alternative(kind: type[Surrogate] | type[Neuron]) -> str:
    """What is seen on the picture, for those who do not see it."""
    if issubclass(kind, Neuron):
        return f"How {kind.__name__} answers a step of current, and pulses"
    return f"The derivative of {kind.__name__} over potential minus threshold, and its tails"


def pictures(kind: type[Surrogate] | type[Neuron], folder: Path) -> None:
    """The picture of a page, and the small one of the overview."""
    drawn = plots.response(built(kind, {})) if issubclass(kind, Neuron) else plots.curves([kind()])
    rows = drawn.axes[::2]
    plots.save(drawn, folder / f"{kind.__name__}.svg")
    with matplotlib.rc_context({**plots.STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2.6, 1.5))
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        axes.axis("off")
        if issubclass(kind, Neuron):
            answer(rows, kind, axes)
        else:
            x = np.linspace(-2.5, 2.5, 1001)
            y = np.broadcast_to(np.asarray(kind().derivative(x), float), x.shape)
            axes.axhline(0, color=plots.LINE, linewidth=1)
            axes.axvline(0, color=plots.LINE, linewidth=1)
            axes.fill_between(x, y, color=plots.COLOURS[0], alpha=0.12, linewidth=0)
            axes.plot(x, y, color=plots.COLOURS[0])
        plots.save(figure, folder / f"{kind.__name__}-small.svg")


def idea(folder: Path) -> None:
    """The pictures of the landing page: a step and a bump, and what a neuron does with a current."""
    x, steps = np.linspace(-1, 1, 801), np.arange(120)
    drive = np.where((steps > 10) & (steps < 100), 0.16 + 0.05 * np.sin(steps / 9), 0.0)[:, None]
    neuron = built(NEURONS["Leaky"], {})
    made, states = simulated(neuron, {"current": drive}, rest(neuron))
    spikes, potential = made["output 0"][:, 0], states["v"][:, 0]
    with matplotlib.rc_context({**plots.STYLE, "axes.grid": False}):
        figure = Figure(figsize=(4.8, 2.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(x, (x >= 0).astype(float), color=plots.INK, label="forward")
        axes.plot(x, CATALOGUE["ATan"](5.0).derivative(x) / 2.5, color=plots.COLOURS[1], label="backward")
        axes.set(title="A surrogate", xlabel="potential minus threshold", yticks=[], xticks=[-1, 0, 1])
        axes.legend(loc="upper left", fontsize=8)
        plots.save(figure, folder / "surrogate.svg")
        figure = Figure(figsize=(4.8, 2.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, potential + spikes, color=plots.COLOURS[0])
        axes.axhline(1, color=plots.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.vlines(np.flatnonzero(spikes), 1.15, 1.4, color=plots.INK, linewidth=1.4)
        axes.set(title="A neuron, which spikes at its threshold", xlabel="time step", yticks=[])
        plots.save(figure, folder / "neuron.svg")


def answer(rows: list[Any], kind: type[Neuron], axes: Any) -> None:
    """Of the large picture the first state, and spikes above it."""
    named = {row.get_ylabel(): row for row in rows}
    time, state = named[next(iter(kind.states))].lines[0].get_data()
    axes.plot(time, state, color=plots.COLOURS[2], linewidth=1.3)
    if "spikes" in named:
        top, unit = float(np.max(state)), float(np.ptp(state)) or 1.0
        spikes = [segment[0][0] for lines in named["spikes"].collections for segment in lines.get_segments()]
        axes.vlines(spikes, top + 0.15 * unit, top + 0.4 * unit, color=plots.INK, linewidth=1.0)


def write(app: Sphinx) -> None:
    """Make the pages, touching those that are as they were not, and take away what no name has any more."""
    root = Path(app.srcdir)
    made = {root / path: text for pages in (reference(), galleries()) for path, text in pages}
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for folder in ("reference", "gallery"):
        for path in (root / folder).rglob("*.rst"):
            if path not in made:
                path.unlink()
    for which, catalogue in (("surrogates", CATALOGUE), ("neurons", NEURONS)):
        folder = root / "gallery" / which / "pictures"
        folder.mkdir(exist_ok=True)
        for name, kind in catalogue.items():
            drawn, sources = folder / f"{name}.svg", (inspect.getfile(kind), plots.__file__, __file__)
            if not drawn.exists() or drawn.stat().st_mtime < max(Path(source).stat().st_mtime for source in sources):
                pictures(kind, folder)
    idea(root / "gallery")


def explorer(app: Sphinx, error: Exception | None) -> None:
    """The page of `spikegrad explore`, which another page shows."""
    if error is None and app.builder.format == "html":
        explore.write(Path(app.outdir) / "live.html")


def setup(app: Sphinx) -> dict[str, bool]:
    """Before the pages are looked for; and one page that is no page of Sphinx."""
    app.connect("builder-inited", write)
    app.connect("build-finished", explorer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
