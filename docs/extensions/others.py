"""Pages that nobody named: each file of ``docs`` that the landing page's contents leave out is one of the how-to pages."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

PLACE = "% every other page"


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put their names where the landing page says."""
    if page == "index":
        named = set(re.findall(r"^[\w-]+$", source[0], re.MULTILINE))
        others = sorted(path.stem for path in Path(app.srcdir).glob("*.md") if path.stem not in named | {"index"})
        source[0] = source[0].replace(PLACE, "\n".join(others))
    # A link to a file beside the site is one to a copy of it.
    source[0] = re.sub(r"\[`?([^]`]+)`?\]\((\.\./[\w./-]+\.(?:py|txt))\)", r"{download}`\1 <\2>`", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """When a page is read."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
