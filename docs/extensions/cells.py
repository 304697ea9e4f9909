"""Tutorials are scripts in cells, ``# %%``: this runs them, and keeps what they print and draw.

``python docs/extensions/cells.py [NAME ...]`` runs all, or those named, and writes ``docs/tutorials/NAME.txt`` and ``figures/NAME-*.svg``.
"""

from __future__ import annotations

import ast
import contextlib
import io
import linecache
import re
import sys
import time
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parent.parent / "tutorials"
MARK = "# %%\n"


def cells(script: str) -> list[str]:
    """The parts of a script, or of what it printed, each of which begins with the mark."""
    return re.split(f"^{MARK}", script, flags=re.MULTILINE)[1:]


def halves(cell: str) -> tuple[str, str]:
    """The text of a cell, from its first comments, and its code."""
    text = re.match(r"(#.*\n)*", cell)
    assert text is not None
    return re.sub(r"^# ?", "", text[0], flags=re.MULTILINE), cell[text.end() :].strip()


def run(path: Path) -> list[tuple[str, list[Any]]]:
    """Run a script as a notebook would; of each cell, what it printed and the figures it showed."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    import torch
    from matplotlib.figure import Figure

    from spikegrad import plots

    script = path.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    made: list[tuple[str, list[Any]]] = []
    line = script[: script.index(MARK)].count("\n")
    linecache.cache[str(path)] = (len(script), None, script.splitlines(keepends=True), str(path))
    shown: list[Any] = []

    def show() -> None:
        shown.extend(plt.figure(number) for number in plt.get_fignums())
        plt.close("all")

    with mpl.rc_context({**plots.STYLE, "figure.figsize": (8, 3), "figure.constrained_layout.use": True}):
        before, plt.show = (plt.show, torch.get_num_threads()), show
        torch.set_num_threads(1)  # so that sums are rounded alike everywhere
        try:
            for cell in cells(script):
                shown, printed = [], io.StringIO()
                tree = ast.parse("\n" * (line + 1) + cell)
                last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
                with contextlib.redirect_stdout(printed):
                    exec(compile(tree, str(path), "exec", dont_inherit=True), names)
                    value = None if last is None else eval(compile(ast.Expression(last.value), str(path), "eval", dont_inherit=True), names)
                shown += [value] if isinstance(value, Figure) else []
                line += cell.count("\n") + 1
                made.append((printed.getvalue(), shown))
        finally:
            plt.show = before[0]
            torch.set_num_threads(before[1])
    return made


def kept(path: Path) -> list[str]:
    """What each cell of a script printed when it was last kept."""
    return cells(path.with_suffix(".txt").read_text(encoding="utf-8"))


def keep(path: Path) -> None:
    """Run a script, and keep what it printed and drew."""
    from spikegrad import plots

    made = run(path)
    path.with_suffix(".txt").write_text("".join(MARK + printed for printed, _ in made), encoding="utf-8")
    figures = path.parent / "figures"
    figures.mkdir(exist_ok=True)
    for old in figures.glob(f"{path.stem}-*.svg"):
        old.unlink()
    for number, (_, drawn) in enumerate(made):
        for which, figure in enumerate(drawn):
            plots.save(figure, figures / f"{path.stem}-{number}-{which}.svg")


if __name__ == "__main__":
    for each in sorted(TUTORIALS.glob("*.py")):
        if each.stem in sys.argv[1:] or len(sys.argv) == 1:
            begun = time.process_time()
            keep(each)
            print(f"{each.stem}: {time.process_time() - begun:.1f} s")
