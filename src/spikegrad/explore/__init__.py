"""The catalogues as one page for a browser: pick a surrogate or a neuron, move its numbers, and see what they do.

The page needs no server and no network. It computes everything itself, with the formulas and derived passes that run everywhere else,
printed as JavaScript.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path

from spikegrad import formulas, neurons
from spikegrad.errors import InputError
from spikegrad.explore.printed import Catalogue

MODEL = ("model.js",)
"""What runs the printed formulas, and knows no page."""
PAGE = ("notation.js", "inputs.js", "presets.js", "charts.js", "controls.js", "surrogates.js", "neuron.js", "drawing.js", "app.js")
"""What draws it, in the order in which it is read."""
_MARK = b'<meta name="spikegrad-view"'
"""What the beginning of every page has."""


@functools.cache
def catalogue() -> Catalogue:
    """Every surrogate and every neuron, printed."""
    from spikegrad.training.named import built

    return Catalogue(formulas.CATALOGUE, {name: built(kind, {}) for name, kind in neurons.CATALOGUE.items()})


def model() -> str:
    """What the page computes with, as a script: the printed catalogues, and what runs them."""
    return catalogue().source() + _text(*MODEL)


def page() -> str:
    """The page: one HTML document that asks for nothing else, the same each time.

    Example:
        >>> from spikegrad import explore
        >>> explore.page()[:15]
        '<!doctype html>'
    """
    script = model() + _text(*PAGE)
    return _text("page.html").replace("/* STYLE */", _text("page.css")).replace("/* SCRIPT */", script)


def write(path: str | Path) -> Path:
    """Write the page to a file whose name ends in ``.html``; an older page is replaced, whole or not at all.

    Raises:
        InputError: it cannot be written there, or something else is there.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"a page's name must end in .html, got {str(path)!r}")
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file in it, as {path / 'explore.html'}")
        if not path.absolute().parent.is_dir():
            raise InputError(f"there is no folder {path.parent}")
        if path.exists() and not (path.is_file() and _MARK in path.read_bytes()[:2000]):
            raise InputError(f"{path} exists already and is no page of spikegrad; nothing is overwritten, choose another name")
        new = path.with_name(f".{path.name}.new")
        try:
            new.write_text(page(), encoding="utf-8")
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    return path


def _text(*names: str) -> str:
    return "".join(files("spikegrad.explore").joinpath("page", name).read_text(encoding="utf-8") for name in names)
