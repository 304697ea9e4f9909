"""The sections that our docstrings have beside those of Google's style: facts, names elsewhere, references."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

from sphinx.application import Sphinx

from spikegrad import facts
from spikegrad.citation import bibliography, references
from spikegrad.surrogate import Surrogate

SECTION = re.compile(r"(Facts|Elsewhere|References):")


def process(app: Sphinx, what: str, name: str, kind: Any, options: Any, lines: list[str]) -> None:
    """Put tables and lists in place of our sections; the others are left to napoleon."""
    lines[:] = [plain(line) for line in lines]
    if what != "class" or not any(SECTION.match(line) for line in lines):
        return
    kept: list[str] = []
    inside = ""
    for line in lines:
        if found := SECTION.match(line):
            inside = found[1]
            kept += {"Facts": facts_of, "Elsewhere": elsewhere, "References": sources}[inside](kind)
        elif inside and line.strip() and not line.startswith(" "):
            inside = ""
        if not inside:
            kept.append(line)
    lines[:] = [*kept, ""]


def plain(line: str) -> str:
    """A line in which ``|x|`` is what it says, and names nothing to be put in its place; formulas have it with a backslash or a brace."""
    if re.search(r"\.\. math|\\|[{}]|>>>|``[^`]*\|", line):
        return line
    return line.replace("|", r"\|")


def rows(titles: tuple[str, ...], cells: list[tuple[str, ...]]) -> list[str]:
    """A table in reStructuredText."""
    made = [".. list-table::", "   :header-rows: 1", ""]
    for row in (titles, *cells):
        made += [f"   {'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(row)]
    return [*made, ""]


def facts_of(kind: type[Surrogate]) -> list[str]:
    """What is stated of a curve, and its numbers at the defaults."""
    known, stated = facts.of(kind()), facts.section(kind, "Facts")
    values = {
        "peak": number(known.peak),
        "area": number(known.area),
        "half_width": number(known.half_width),
        "support": " to ".join(map(number, known.support)),
    }
    cells = [(name.replace("_", " "), f"``{stated[name]}``" if name in stated else "computed", value) for name, value in values.items()]
    noise = "" if known.noise in ("none", "unknown") else known.noise
    said = [f"Divided by its area it is the density of escape noise: {noise}.", ""] if noise else []
    return [".. rubric:: Facts", "", *rows(("", "in general", "at the defaults"), cells), *said]


def number(value: float) -> str:
    """A number as it is read."""
    return f"{value:.4g}".replace("inf", "∞").replace("-", "−")  # noqa: RUF001


def elsewhere(kind: type) -> list[str]:
    """What other libraries call it."""
    made = [".. rubric:: Elsewhere", "", ".. rst-class:: elsewhere", ""]
    for library, text in facts.section(kind, "Elsewhere").items():
        made += ["not in" if library == "none" else library, f"    {text}", ""]
    return made


def sources(kind: type) -> list[str]:
    """The papers, with links."""
    return [".. rubric:: References", "", *(f"- {paper(key)}" for key in references(kind)), ""]


@functools.cache
def paper(key: str) -> str:
    """An entry of the bibliography as a line."""
    fields = dict(re.findall(r"^\s*(\w+) = \{(.*)\},?$", bibliography()[key], re.MULTILINE))
    plain = {name: re.sub(r"[{}]|\\.", "", text) for name, text in fields.items()}
    people = [each.split(",")[0] for each in plain.get("author", "").split(" and ")]
    who = people[0] + (" et al." if len(people) > 2 else f" and {people[1]}" if len(people) > 1 else "")
    link = f"https://doi.org/{plain['doi']}" if "doi" in plain else plain.get("url", "")
    link = link or (f"https://arxiv.org/abs/{plain['eprint']}" if "eprint" in plain else "")
    where = plain.get("journal") or plain.get("booktitle") or plain.get("publisher") or ""
    title = f"`{plain['title']} <{link}>`__" if link else plain["title"]
    return f"{who} {plain.get('year', '')}: {title}" + (f". *{where}*" if where else "")


def prose(kind: type) -> str:
    """The first sentence of a docstring."""
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def signature(app: Sphinx, what: str, name: str, kind: Any, options: Any, given: str | None, returned: str | None) -> Any:
    """A field's range is said in the text; in the signature it is a number."""
    return None if given is None else (re.sub(r"Annotated\[float, [^\]]*\]", "float", given), returned)


def setup(app: Sphinx) -> dict[str, bool]:
    """Before napoleon, which asks at 500."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
