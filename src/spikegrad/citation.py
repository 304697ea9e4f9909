"""BibTeX of the papers behind a formula: what its docstring names under ``References:``, looked up in ``references.bib``."""

from __future__ import annotations

import functools
import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikegrad.neuron import Neuron
    from spikegrad.surrogate import Surrogate


def cite(*formulas: Surrogate | Neuron | type[Surrogate | Neuron]) -> str:
    """BibTeX of the papers that these surrogates and neurons come from, each once, in the order in which they are named.

    Args:
        *formulas: surrogates and neurons, or their classes.

    Returns:
        The entries, ready for a ``.bib`` file; empty if no docstring names a reference.

    Raises:
        KeyError: a docstring names a paper that ``references.bib`` does not have.

    Example:
        >>> from spikegrad import Circle, cite
        >>> print(cite(Circle))
        @software{pehle2021norse,
          author = {Pehle, Christian and Pedersen, Jens Egholm},
          title = {Norse: A deep learning library for spiking neural networks},
          url = {https://github.com/norse/norse},
          year = {2021}
        }
    """
    entries = bibliography()
    found: dict[str, str] = {}
    for formula in formulas:
        cls = formula if isinstance(formula, type) else type(formula)
        for key in references(cls):
            if key not in entries:
                raise KeyError(f"{cls.__name__} refers to {key!r}, which references.bib does not have")
            found[key] = entries[key]
    return "\n\n".join(found.values())


def references(cls: type) -> list[str]:
    """The keys that a class's docstring names under ``References:``."""
    line = re.search(r"^References:(.*)$", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE)
    return re.findall(r"[\w-]+", line[1]) if line else []


@functools.cache
def bibliography() -> dict[str, str]:
    """The entries of ``references.bib`` by key."""
    from importlib.resources import files  # slow to load, and only citing needs it

    text = files("spikegrad").joinpath("references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([^,]+),.*?^\}", text, re.MULTILINE | re.DOTALL)
    return dict(zip(entries, re.findall(r"^@.*?^\}", text, re.MULTILINE | re.DOTALL), strict=True))
