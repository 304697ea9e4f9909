"""``spikegrad list``, ``show`` and ``plot``."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikegrad import facts
from spikegrad.errors import InputError, meant
from spikegrad.formulas import CATALOGUE

if TYPE_CHECKING:
    from spikegrad.surrogate import Surrogate

FORMATS = (".png", ".svg", ".pdf")


def list_all() -> int:
    """All surrogates with their facts."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    wide = console.width >= 120  # on a narrow terminal the names of noises would wrap every row
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, justify in (("", "left"), ("parameters", "left"), ("peak", "right"), ("area", "right"), ("half width", "right")):
        table.add_column(title, justify=justify, no_wrap=not title.startswith("param"))  # pyright: ignore[reportArgumentType]
    table.add_column("support", no_wrap=True)
    if wide:
        table.add_column("density of")
    for name, kind in sorted(CATALOGUE.items()):
        surrogate = kind()
        known = facts.of(surrogate)
        table.add_row(
            f"[bold]{name}[/]",
            ", ".join(f"{key} {value:g}" for key, value in surrogate.parameters.items() if key != "scale"),
            _number(known.peak),
            _number(known.area),
            _number(known.half_width),
            _interval(known.support),
            *([_short(known.noise) if known.noise not in ("none", "unknown") else "[dim]-[/]"] if wide else []),
        )
    console.print(table)
    noise = "; `density of` names the escape noise whose density the curve is" if wide else ""
    console.print(f"\n[dim]Half width and support in units of potential{noise}.[/]")
    console.print("[dim]More of one: spikegrad show ATan. Compared: spikegrad plot ATan FastSigmoid[/]")
    return 0


def show(name: str) -> int:
    """One surrogate: formula, facts, sources, names elsewhere."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    kind = _found(name)
    surrogate = kind()
    known, stated = facts.of(surrogate), facts.section(kind, "Facts")
    console = Console(highlight=False, width=min(Console().width, 110))
    paragraphs = _prose(kind)
    numbers = ", ".join(f"{key}={value!r}" for key, value in _fields(surrogate).items())

    def heading(text: str) -> None:
        console.print(f"\n[bold blue]{text}[/]")

    console.print(f"[bold]{name}[/]({numbers})")
    console.print(Text(paragraphs[0]))
    heading("Formula, x = potential minus threshold")
    console.print(Padding(Text(_formulas(kind), style="cyan"), (0, 2)))  # highlighting would cost a third of the time of this command
    for paragraph in paragraphs[1:]:
        console.print()
        console.print(Text(paragraph))
    heading("Facts")
    table = Table(box=None, show_header=False, padding=(0, 2))
    values = {
        "peak": _number(known.peak),
        "area": _number(known.area),
        "half width": _number(known.half_width),
        "support": _interval(known.support),
        "density of": known.noise if known.noise != "none" else "no escape noise",
    }
    for fact, value in values.items():
        expression = stated.get(fact.replace(" ", "_"), "")
        table.add_row(fact, value, Text(f"= {expression}" if re.search("[a-z]{3}", expression.replace("inf", "")) else "", style="dim"))
    console.print(table)
    if elsewhere := facts.section(kind, "Elsewhere"):
        heading("Elsewhere")
        names = Table(box=None, show_header=False, padding=(0, 2))
        names.add_column(style="dim", no_wrap=True)
        for library, text in elsewhere.items():
            names.add_row(library, Text(text.replace("`", "")))
        console.print(names)
    if sources := _sources(kind):
        heading("Sources")
        for source in sources:
            console.print(Padding(Text(source), (0, 2)))
    return 0


def plot(names: list[str], out: str, match_half_width: bool) -> int:
    """Draw the curves of surrogates for comparison."""
    surrogates = [_parsed(name) for name in names]
    target = Path(out)
    if target.suffix not in FORMATS:
        raise InputError(f"--out must end in {', '.join(FORMATS)}, got {out!r}")
    if target.exists():
        raise InputError(f"{out} exists already and nothing is overwritten; choose another name with --out")
    if not target.absolute().parent.is_dir():
        raise InputError(f"there is no folder {target.parent}")
    from spikegrad import plots

    if match_half_width:
        try:
            surrogates = plots.matched(surrogates)
        except ValueError as error:
            raise InputError(str(error)) from None
    try:
        plots.save(plots.curves(surrogates), target)
    except OSError as error:
        raise InputError(f"cannot write {out}: {(error.strerror or str(error)).lower()}") from None
    print(out)
    return 0


def _found(name: str) -> type[Surrogate]:
    if name not in CATALOGUE:
        raise InputError(f"unknown surrogate {name!r}{meant(name, CATALOGUE)}")
    return CATALOGUE[name]


def _parsed(text: str) -> Surrogate:
    """``ATan`` or ``ATan(slope=5)`` as a surrogate."""
    from spikegrad.cli.training import assignment
    from spikegrad.training.config import Config

    name, _, rest = text.partition("(")
    values = [part for part in rest.rstrip(") ").split(",") if part.strip()]
    return Config(surrogate=name.strip(), parameters=dict(assignment(value, "a parameter") for value in values)).spike


def _fields(surrogate: Surrogate) -> dict[str, Any]:
    import dataclasses

    return {field.name: getattr(surrogate, field.name) for field in dataclasses.fields(surrogate) if field.name != "scale"}


def _prose(kind: type[Surrogate]) -> list[str]:
    """The paragraphs of a docstring before its first section, without the LaTeX."""
    found: list[str] = []
    for block in inspect.cleandoc(kind.__doc__ or "").split("\n\n"):
        if re.match(r"(Facts|Elsewhere|References|Example|Examples):", block):
            break
        if not block.lstrip().startswith(".. math"):
            block = re.sub(r":math:`([^`]*)`", lambda found: _readable(found[1]), block)
            text = " ".join(block.replace("`", "").split())
            found.append(text[:1].upper() + text[1:])
    return found


def _readable(latex: str) -> str:
    """LaTeX as it stands in a sentence, without its commands."""
    plain = re.sub(r"\\t?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", latex)
    for command, sign in {"mu": "μ", "sigma": "σ", "theta": "θ", "infty": "∞", "pi": "π", "ge": "≥", "le": "≤"}.items():  # noqa: RUF001
        plain = re.sub(rf"\\{command}\b", sign, plain)
    return re.sub(r"\\[a-zA-Z]+|[\\{}]", "", plain)


def _formulas(kind: type[Surrogate]) -> str:
    """The methods of a surrogate as the equations they are, each after those it calls."""
    equations: dict[str, str] = {}

    def add(method: str) -> None:
        signature, *lines = inspect.cleandoc("\n" + inspect.getsource(getattr(kind, method))).splitlines()
        body = inspect.cleandoc("\n" + "\n".join(lines))
        for called in re.findall(r"self\.(_\w+)\(", body):
            if called not in equations:
                add(called)
        arguments = ", ".join(re.findall(r"(\w+): ", signature))
        name = f"{method[1:]}({arguments})" if method.startswith("_") else method
        body = re.sub(r"^( *)return ", rf"\1{name} = ", body, flags=re.MULTILINE)
        equations[method] = re.sub(r"self\._?", "", body)

    for method in ("derivative", "primitive"):
        if method == "derivative" or kind.has_primitive:
            add(method)
    return "\n\n".join(equations.values())


def _short(noise: str) -> str:
    """A noise's name, with the interval in parentheses but without what follows a comma."""
    found = re.match(r"[^,(]*(\([^)]*\))?", noise)
    return found.group().strip() if found else noise


def _sources(kind: type[Surrogate]) -> list[str]:
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
