"""Formulas as MathML, which browsers draw by themselves: MathJax would be fetched by every reader, from somewhere else."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

WARN = logging.getLogger(__name__)


def rendered(latex: str, display: str, node: nodes.Node) -> str:
    """One formula; a command that it does not know is a warning, so that no page shows one."""
    if "\\\\" in latex and "\\begin" not in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    try:
        made = convert(latex, display=display)
    except Exception as error:
        WARN.warning("cannot read the formula %r: %r", latex, error, location=node)
        return ""
    if left := re.search(r"\\[a-zA-Z]+", re.sub("<annotation.*?</annotation>", "", made)):
        WARN.warning("the formula %r has the unknown command %s", latex, left[0], location=node)
    return made


def inline(writer: Any, node: nodes.math) -> None:
    """A formula in a sentence."""
    writer.body.append(rendered(node.astext(), "inline", node))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    """A formula, or several with empty lines between them, on lines of their own."""
    formulas = [rendered(each, "block", node) for each in re.split(r"\n\s*\n", node.astext().strip())]
    writer.body.append(f'<div class="formula">{"".join(formulas)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Make it known as ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
