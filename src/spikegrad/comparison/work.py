"""Training what is compared: each process takes the next cell that nobody has, until nothing is left."""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from spikegrad.comparison import processes
from spikegrad.comparison.folder import Comparison
from spikegrad.comparison.grid import Cell
from spikegrad.data import Binning, Dataset, load
from spikegrad.errors import InputError
from spikegrad.training.claims import claim

if TYPE_CHECKING:
    from lightning import Callback
    from rich.console import Console

    from spikegrad.training.config import Config


def compare(cells: Sequence[Cell], out: str | Path, *, jobs: int = 1, console: Console | None = None) -> Comparison:
    """Train all cells, each in one thread, and write the table and the figures.

    A comparison that was killed goes on where it was when it is started again, to the same results as if it had never stopped. Several
    processes that are started on one folder share the work, also on several machines that share its disk.

    Args:
        cells: what to train, see `grid`.
        out: the folder; one that holds the same comparison is continued.
        jobs: processes that train; 1 for this one alone.
        console: where progress is told, by a live table on a terminal, else by a line for each cell; nowhere if None.

    Returns:
        The folder and its results.

    Raises:
        InputError: the folder compares something else, the data or a setting is at fault, or memory or the disk does not suffice.
        KeyboardInterrupt: it was stopped; what has ended is kept.

    Example:
        >>> import tempfile
        >>> from spikegrad.comparison import compare, grid
        >>> from spikegrad.training import Config
        >>> cells = grid(Config(hidden=(16,), epochs=1, steps=3), surrogates=["ATan", "Boxcar"], slopes=[2])
        >>> found = compare(cells, tempfile.mkdtemp())
        >>> [result.state for result in found.results]
        ['done', 'done']
    """
    if jobs < 1:
        raise InputError(f"`jobs` must be at least 1, got {jobs}")
    comparison = Comparison.at(out, cells)
    from spikegrad.comparison.table import showing

    with showing(comparison, console) as show:
        try:
            if jobs == 1:
                work(comparison, show)
            elif left := sum(result.state == "open" for result in comparison.results):
                log = comparison.path / "errors.log"
                processes.run_all("spikegrad.comparison.work:serve", [str(comparison.path)], min(jobs, left), log, show)
        finally:
            comparison.write_table()
    from spikegrad.comparison.figures import draw

    draw(comparison)
    return comparison


def work(comparison: Comparison, told: Callable[[], object] = lambda: None) -> None:
    """Train what nobody else trains, until all has ended; what others have is waited for, and taken over if they are gone.

    Args:
        comparison: what to train.
        told: called after every cell, and while waiting.

    Raises:
        InputError: as `compare`.
        KeyboardInterrupt: it was stopped.
    """
    while not comparison.done:
        mine = 0
        for cell in comparison.cells:
            if comparison.result(cell).state != "open":
                continue
            with claim(comparison.claim(cell)) as ours:
                if ours and comparison.result(cell).state == "open":
                    train_cell(comparison, cell)
                    mine += 1
            told()
        if not mine:
            time.sleep(processes.WAIT)


def train_cell(comparison: Comparison, cell: Cell) -> None:
    """Train a cell, or what is left of it.

    Raises:
        InputError: as `spikegrad.training.train`, but not if the training diverges, which is a result.
        KeyboardInterrupt: it was stopped.
    """
    from spikegrad.training.run import DivergedError

    run = comparison.run(cell)
    try:
        trained(cell.config, run)
    except DivergedError as error:
        (run / "diverged.txt").write_text(f"{error}\n", encoding="utf-8")


def trained(config: Config, run: Path, callbacks: Sequence[Callback] = ()) -> None:
    """Train a run in one thread and without pictures, or what is left of it.

    Raises:
        InputError: as `spikegrad.training.train`.
        KeyboardInterrupt: it was stopped.
    """
    from spikegrad.training.run import resume, train

    config = config.changed(threads=1, pictures="none")
    data = _loaded(config.data, config.binning)
    with warnings.catch_warnings():
        # Of a run that does not learn a table tells.
        warnings.filterwarnings("ignore", message=r".*; for why: spikegrad diagnose")
        if (run / "config.json").exists():
            outcome = resume(run, data=data, callbacks=callbacks)
        else:
            shutil.rmtree(run, ignore_errors=True)  # made, but nothing written yet
            outcome = train(config, run, data=data, callbacks=callbacks)
    if outcome.interrupted:
        raise KeyboardInterrupt


@lru_cache(1)
def _loaded(name: str, binning: Binning) -> Dataset:
    """The data of the last cell, which the next one usually has, too."""
    return load(name, binning)


def serve() -> None:
    """The main function of a process that works on the folder named by its argument."""
    processes.serve(lambda: work(Comparison(sys.argv[1])))
