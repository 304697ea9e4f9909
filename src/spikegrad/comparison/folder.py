"""The folder of a comparison: what is to be trained, the runs, and a table of what came out."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spikegrad.comparison.grid import Cell, Label, as_dict, of_dict
from spikegrad.errors import InputError
from spikegrad.training import claims
from spikegrad.training.folder import Row, Run

MEASURED = ("validation_accuracy", "validation_loss", "test_accuracy", "best_epoch", "epochs", "training_seconds")
"""What the table has of every cell, from its run's ``results.json``, beside `state` and the firing rates and silent shares of layers."""


@dataclass(frozen=True)
class Result:
    """What came of a cell.

    Attributes:
        cell: what was trained.
        state: ``"done"``, ``"diverged"``, or ``"open"`` if it has not ended yet.
        values: `MEASURED`, ``firing_rate_1``, ``silent_1`` …; empty unless done.
    """

    cell: Cell
    state: str
    values: dict[str, float]

    @property
    def validation(self) -> float:
        """Accuracy of the best epoch on the validation samples, 0 to 1; 0 if it diverged, and NaN while open."""
        return self._of("validation_accuracy")

    @property
    def test(self) -> float:
        """Accuracy of that epoch's weights on the test samples, likewise."""
        return self._of("test_accuracy")

    def _of(self, name: str) -> float:
        return self.values.get(name, math.nan if self.state == "open" else 0.0)


class Comparison:
    """A folder in which cells are trained, by one process after another or by several beside each other.

    ``comparison.json`` says what is trained, ``cells/<name>`` is the run folder of each, as `spikegrad.training.train` leaves it,
    ``claims/<name>`` who trains it, ``results.csv`` what came out.

    Args:
        path: the folder.

    Raises:
        InputError: it is no comparison.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "comparison.json").is_file():
            why = "it has no comparison.json" if self.path.is_dir() else "there is no such folder"
            raise InputError(f"{path} is not a comparison: {why}")
        self._ended: dict[str, Result] = {}

    @classmethod
    def at(cls, path: str | Path, cells: Sequence[Cell]) -> Comparison:
        """The comparison of these cells in a folder: a new one, one that is there already, or one that gets more cells.

        Raises:
            InputError: the folder compares something else, is no comparison, or cannot be written.
        """
        path = Path(path)
        if not (path / "comparison.json").is_file():
            claims.make_folder(path, "comparison.json", "comparison")
            cls._write(path, cells)
            return cls(path)
        there = cls(path)
        names, known = {cell.name for cell in cells}, {cell.name for cell in there.cells}
        if names <= known:
            return there
        if not known <= names:
            told = "continue it with --out alone, or choose another folder"
            raise InputError(f"{path} compares something else: {len(known - names)} of its {len(known)} cells are not asked for; {told}")
        cls._write(path, cells)
        return cls(path)

    @staticmethod
    def _write(path: Path, cells: Sequence[Cell]) -> None:
        claims.write(path / "comparison.json", json.dumps([as_dict(cell) for cell in cells], indent=1) + "\n")

    @cached_property
    def cells(self) -> list[Cell]:
        """What is trained.

        Raises:
            InputError: ``comparison.json`` is broken.
        """
        path = self.path / "comparison.json"
        try:
            return [of_dict(each) for each in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} cannot be read: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from None

    def run(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.path / "cells" / cell.name

    def claim(self, cell: Cell) -> Path:
        """The claim of a cell, see `claims.claim`."""
        return self.path / "claims" / cell.name

    def result(self, cell: Cell) -> Result:
        """What has come of a cell so far."""
        if cell.name in self._ended:
            return self._ended[cell.name]
        run = Run(self.run(cell))
        state = "done" if (run.path / "results.json").exists() else "diverged" if (run.path / "diverged.txt").exists() else "open"
        values = dict[str, float]()
        if state == "done":
            found = run.read_json("results.json")
            values = {name: float(found[name]) for name in MEASURED}
            values["classes"] = float(len(found["confusion"]))
            values |= {f"firing_rate_{n}": rate for n, rate in enumerate(found["firing_rates"], 1)}
            values |= {f"silent_{n}": share for n, share in enumerate(found["silent_neurons"], 1)}
        result = Result(cell, state, values)
        if state != "open":  # it stays what it is
            self._ended[cell.name] = result
        return result

    @property
    def results(self) -> list[Result]:
        """What has come of all cells so far, in their order."""
        return [self.result(cell) for cell in self.cells]

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        return all(result.state != "open" for result in self.results)

    def course(self, cell: Cell) -> list[Row]:
        """The epochs of a cell so far, see `Run.metrics`."""
        return Run(self.run(cell)).metrics()

    def csv(self) -> str:
        """The table: a line for each cell, its labels, state and values."""
        results = self.results
        labels = list(dict.fromkeys(name for result in results for name in result.cell.labels))
        values = list(dict.fromkeys([*MEASURED, *(name for result in results for name in result.values)]))
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        out.writerow([*labels, "state", *values])
        for result in results:
            told = [_told(result.cell.labels.get(name)) for name in labels]
            out.writerow([*told, result.state, *(_told(result.values.get(name)) for name in values)])
        return text.getvalue()

    def write_table(self) -> Path:
        """Write ``results.csv``; it appears whole or not at all."""
        claims.write(self.path / "results.csv", self.csv())
        return self.path / "results.csv"


def _told(value: Label) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
