"""Tutorials as pages: the comments of a script are the text, code is shown, and below it what it printed and drew when it was kept."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

from cells import cells, halves, kept


class Tutorial(MystParser):
    """Reads a script as a page."""

    supported = ("tutorial",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Turn cells into Markdown."""
        super().parse(page(inputstring, Path(document["source"])), document)


def page(script: str, path: Path) -> str:
    """A script and what it printed as Markdown."""
    made: list[str] = []
    for number, (cell, printed) in enumerate(zip(cells(script), kept(path), strict=True)):
        text, code = halves(cell)
        made.append(text)
        if code:
            made.append(f"```python\n{code}\n```\n")
        if printed.strip():
            made.append(f":::{{container}} output\n```text\n{printed.strip()}\n```\n:::\n")
        for figure in sorted(path.parent.glob(f"figures/{path.stem}-{number}-*.svg")):
            made.append(f"```{{image}} figures/{figure.name}\n:alt: what the code above draws\n:class: picture\n```\n")
    made.append(f"All of it as a script, whose cells editors open as a notebook: {{download}}`{path.name} <{path.name}>`.\n")
    return "\n".join(made)


def setup(app: Sphinx) -> dict[str, bool]:
    """Make ``.py`` files pages."""
    app.add_source_parser(Tutorial)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
