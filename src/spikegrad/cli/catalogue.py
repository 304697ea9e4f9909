"""``spikegrad list``, ``show``, ``plot`` and ``explore``."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikegrad import facts, formulas, neurons
from spikegrad.errors import InputError, meant
from spikegrad.neuron import Neuron
from spikegrad.surrogate import Surrogate
from spikegrad.training.named import built, named, neuron_class, parsed, settable

FORMATS = (".png", ".svg", ".pdf")


def list_all() -> int:
    """All surrogates with their facts, and all neurons with their numbers and states."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    wide = console.width >= 120  # on a narrow terminal the names of noises would wrap every row

    def table(*titles: str) -> Table:
        made = Table(box=None, pad_edge=False, header_style="dim")
        for title in titles:
            justify = "right" if title in ("peak", "area", "half width") else "left"
            made.add_column(title, justify=justify, no_wrap=title not in ("parameters", "numbers", "what it is"))
        return made

    surrogates = table("surrogate", "parameters", "peak", "area", "half width", "support", *(["density of"] if wide else []))
    for name, kind in sorted(formulas.CATALOGUE.items()):
        surrogate = kind()
        known = facts.of(surrogate)
        surrogates.add_row(
            f"[bold]{name}[/]",
            ", ".join(f"{key} {value:g}" for key, value in surrogate.parameters.items() if key != "scale"),
            _number(known.peak),
            _number(known.area),
            _number(known.half_width),
            _interval(known.support),
            *([_short(known.noise) if known.noise not in ("none", "unknown") else "[dim]-[/]"] if wide else []),
        )
    console.print(surrogates)
    noise = "; `density of` names the escape noise whose density the curve is" if wide else ""
    console.print(f"[dim]Half width and support in units of potential{noise}.[/]\n")
    cells = table("neuron", "states", "numbers", *(["what it is"] if wide else []))
    for name, kind in neurons.CATALOGUE.items():
        what = re.split(r"[:;,.]", "".join(facts.prose(kind)[:1]))[0]
        cells.add_row(f"[bold]{name}[/]", ", ".join(kind.states), ", ".join(kind.numbers), *([what] if wide else []))
    console.print(cells)
    console.print(
        "\n[dim]More of one: spikegrad show ATan. Compared: spikegrad plot ATan FastSigmoid. Its response: spikegrad plot Adaptive[/]"
    )
    return 0


def show(name: str, source: str | None = None, of: str | None = None) -> int:
    """One surrogate or neuron: formula, facts or numbers, sources, names elsewhere; or the source of what runs."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    formula = _parsed(name)
    parts = ("forward", "backward") if isinstance(formula, Neuron) else ("derivative", "primitive")
    if of is not None and source is None:
        raise InputError("--of chooses what of the source is printed; say with --source in which language")
    if of not in (None, *parts):
        raise InputError(f"--of must be {' or '.join(parts)} for {type(formula).__name__}, got {of!r}")
    if source is not None:
        try:
            print(formula.source(source, of or parts[0]), end="")
        except ValueError as error:
            raise InputError(str(error)) from None
        return 0
    kind = type(formula)
    console = Console(highlight=False, width=min(Console().width, 110))
    paragraphs = facts.prose(kind)

    def section(title: str, rows: Mapping[str, tuple[str, ...]]) -> None:
        if not rows:
            return
        console.print(f"\n[bold blue]{title}[/]")
        table = Table(box=None, show_header=False, padding=(0, 2))
        for key, cells in rows.items():
            table.add_row(key, *cells[:-1], Text(cells[-1].replace("`", ""), style="dim" if len(cells) > 1 else ""))
        console.print(table)

    console.print(Text.assemble((kind.__name__, "bold"), repr(formula).removeprefix(kind.__name__)))
    for paragraph in paragraphs[:1]:
        console.print(Text(paragraph))
    if isinstance(formula, Neuron):
        methods, before = ["step"], f"Step, from {', '.join((*formula.inputs, *formula.states))}"
    else:
        methods, before = ["derivative", "primitive"][: 1 + formula.has_primitive], "Formula, x = potential minus threshold"
    console.print(f"\n[bold blue]{before}[/]")
    console.print(Padding(Text(_formulas(kind, methods), style="cyan"), (0, 2)))  # highlighting would cost a third of this command's time
    for paragraph in paragraphs[1:]:
        console.print()
        console.print(Text(paragraph))
    for title, rows in (_of_neuron(formula) if isinstance(formula, Neuron) else {"Facts": _of_surrogate(formula)}).items():
        section(title, rows)
    if elsewhere := facts.section(kind, "Elsewhere"):
        section("Elsewhere", {"not in" if library == "none" else library: (text,) for library, text in elsewhere.items()})
    if sources := _sources(kind):
        console.print("\n[bold blue]Sources[/]")
        for each in sources:
            console.print(Padding(Text(each), (0, 2)))
    return 0


def _of_surrogate(surrogate: Surrogate) -> dict[str, tuple[str, ...]]:
    """The facts of a surrogate and the expressions that state them."""
    known, stated = facts.of(surrogate), facts.section(type(surrogate), "Facts")
    values = {
        "peak": _number(known.peak),
        "area": _number(known.area),
        "half width": _number(known.half_width),
        "support": _interval(known.support),
        "density of": known.noise if known.noise != "none" else "no escape noise",
    }
    expressions = {name: stated.get(name.replace(" ", "_"), "") for name in values}
    return {
        name: (value, f"= {expressions[name]}" if re.search("[a-z]{3}", expressions[name].replace("inf", "")) else "")
        for name, value in values.items()
    }


def _of_neuron(neuron: Neuron) -> dict[str, dict[str, tuple[str, ...]]]:
    """The numbers, states, inputs, options and recorded values of a neuron, with what its docstring says of them."""
    from spikegrad.simulation import rest

    kind = type(neuron)
    said = facts.section(kind, "Args") | facts.section(kind, "States")
    given = {field.name: "to be given, as" for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    return {
        "Numbers": {
            name: (f"{given.get(name, '')} {value:g}".strip(), kind.numbers[name].words, said.get(name, ""))
            for name, value in neuron.parameters.items()
        },
        "States": {name: (f"at rest {value:g}", said.get(name, "")) for name, value in rest(neuron).items()},
        "Options": {name: (text,) for name, text in facts.section(kind, "Options").items()},
        "Recorded": {", ".join(neuron.record.recorded) or "nothing": ("as in layer(currents, record=...)",)},
    }


def plot(names: list[str], out: str | None, match_half_width: bool) -> int:
    """Draw the curves of surrogates for comparison, or the response of one neuron."""
    drawn = [_parsed(name) for name in names]
    cells = [each for each in drawn if isinstance(each, Neuron)]
    if cells and (len(drawn) > 1 or match_half_width):
        raise InputError(f"{type(cells[0]).__name__} is a neuron, whose response is drawn alone; leave out everything but it and --out")
    out = out or ("response.png" if cells else "curves.png")
    target = Path(out)
    if target.suffix not in FORMATS:
        raise InputError(f"--out must end in {', '.join(FORMATS)}, got {out!r}")
    if target.exists():
        raise InputError(f"{out} exists already and nothing is overwritten; choose another name with --out")
    if not target.absolute().parent.is_dir():
        raise InputError(f"there is no folder {target.parent}")
    from spikegrad import plots

    surrogates = [each for each in drawn if isinstance(each, Surrogate)]
    if match_half_width:
        try:
            surrogates = plots.matched(surrogates)
        except ValueError as error:
            raise InputError(str(error)) from None
    try:
        plots.save(plots.response(cells[0]) if cells else plots.curves(surrogates), target)
    except OSError as error:
        raise InputError(f"cannot write {out}: {(error.strerror or str(error)).lower()}") from None
    print(out)
    return 0


def explore(page: str, open: bool) -> int:
    """Write the page, and show it if asked to."""
    from spikegrad.explore import write

    path = write(page)
    print(path)
    if open:
        import webbrowser

        if not webbrowser.open(path.absolute().as_uri()):
            raise InputError(f"there is no browser to show {path} in; it is written, open it by hand")
    return 0


def _parsed(text: str) -> Surrogate | Neuron:
    """``ATan``, ``Adaptive(0.8, spike=ATan(5))`` or ``file.py:Mine(tau=5)`` as a surrogate or a neuron."""
    name, given, by_name = parsed(text)
    known = formulas.CATALOGUE | neurons.CATALOGUE
    if name not in known and ".py" not in name:
        raise InputError(f"unknown surrogate or neuron {name!r}{meant(name, known)}")
    kind: type[Surrogate | Neuron] = formulas.CATALOGUE.get(name) or neuron_class(name)
    values = named(kind, given, by_name)
    if issubclass(kind, Neuron) and isinstance(spike := values.get("spike"), str):
        values["spike"] = _parsed(spike)
    for each in values:
        if each not in settable(kind) and not (each == "spike" and isinstance(values[each], Surrogate)):
            raise InputError(f"{kind.__name__} has no parameter {each!r}{meant(each, settable(kind))}")
    return built(kind, values)


def _formulas(kind: type[Surrogate | Neuron], methods: list[str]) -> str:
    """Methods as the equations they are, each after those it calls."""
    equations: dict[str, str] = {}

    def add(method: str) -> None:
        text = textwrap.dedent(inspect.getsource(getattr(kind, method)))
        function: Any = ast.parse(text).body[0]
        first = function.body[bool(ast.get_docstring(function))]
        body = textwrap.dedent("\n".join(text.splitlines()[first.lineno - 1 :]))
        for called in re.findall(r"self\.(_\w+)\(", body):
            if called not in equations:
                add(called)
        arguments = ", ".join(argument.arg for argument in function.args.args[1:])
        name = f"{method[1:]}({arguments})" if method.startswith("_") else method
        body = re.sub(r"^( *)return (?!Step)", rf"\1{name} = ", body, flags=re.MULTILINE)
        body = re.sub(r"self\._?|\breturn (?=Step)", "", body)
        known = getattr(kind, method).__globals__
        equations[method] = re.sub(r"\b_[A-Z_]+\b", lambda found: f"{known.get(found[0], found[0])}", body)  # constants of its module

    for method in methods:
        add(method)
    return "\n\n".join(equations.values())


def _short(noise: str) -> str:
    """A noise's name, with the interval in parentheses but without what follows a comma."""
    found = re.match(r"[^,(]*(\([^)]*\))?", noise)
    return found.group().strip() if found else noise


def _sources(kind: type[Surrogate | Neuron]) -> list[str]:
    """Each cited paper on one line."""
    found: list[str] = []
    for entry in re.split(r"\n(?=@)", kind.cite().strip()):
        fields = {key.lower(): " ".join(value.split()) for key, value in re.findall(r"(\w+)\s*=\s*\{((?:[^{}]|\{[^{}]*\})*)\}", entry)}
        if not fields:
            continue
        plain = {key: re.sub(r"[{}]|\\[\"'`^~]", "", value) for key, value in fields.items()}
        authors = [author.split(",")[0] for author in plain.get("author", "").split(" and ")]
        who = authors[0] + (" et al." if len(authors) > 2 else f" & {authors[1]}" if len(authors) == 2 else "")
        where = plain.get("journal") or plain.get("booktitle") or plain.get("publisher") or ""
        link = f"https://doi.org/{plain['doi']}" if "doi" in plain else plain.get("url", "")
        if not link and "eprint" in plain:
            link = f"https://arxiv.org/abs/{plain['eprint']}"
        parts = [f"{who} {plain.get('year', '')}".strip(), plain.get("title", ""), where, link]
        found.append(". ".join(part for part in parts if part))
    return found


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.4g}"


def _interval(support: tuple[float, float]) -> str:
    if support == (-math.inf, math.inf):
        return "everywhere"
    return " to ".join("-∞" if end == -math.inf else _number(end) for end in support)
