"""A run's folder: where everything about it lies, and how it is written so that a kill at any moment leaves it readable."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikegrad.errors import InputError
from spikegrad.training.config import Config

Row = dict[str, float]


def first_process() -> bool:
    """Whether this is the process that makes the folder: Lightning, torchrun and SLURM say so in the environment."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    ``config.json`` the configuration, ``run.json`` what the data and the software were, ``metrics.csv`` one row an epoch,
    ``checkpoints/last.ckpt`` where to resume, ``best.safetensors`` the weights that were best on the validation samples, ``results.json``
    what came out, and pictures.
    """

    path: Path

    @property
    def checkpoint(self) -> Path:
        """State after the last whole epoch."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def weights(self) -> Path:
        """Weights of the best epoch."""
        return self.path / "best.safetensors"

    @classmethod
    def check(cls, path: str | Path) -> None:
        """Refuse a path at which no new run can be made.

        Raises:
            InputError: something is there already, or it could not be written.
        """
        path = Path(path)
        if path.is_symlink() or path.exists():
            again = f"; continue it with --resume {path}" if (path / "config.json").exists() else ""
            raise InputError(f"{path} exists already and nothing is overwritten{again or '; choose another folder'}")
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise InputError(f"cannot write to {parent}: {'permission denied' if parent.is_dir() else 'it is not a folder'}")

    @classmethod
    def create(cls, config: Config, name: str, path: str | Path | None = None) -> Run:
        """Make the folder of a new run: the path given, or the next free ``runs/<name>-<number>``.

        Raises:
            InputError: see `check`.
        """
        number = 1
        while True:
            target = Path(path) if path is not None else Path("runs") / f"{name}-{number}"
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.mkdir()
                (target / "checkpoints").mkdir()
                break
            except FileExistsError:
                if path is not None:
                    cls.check(target)
                number += 1
            except OSError as error:
                raise InputError(f"cannot write {target}: {(error.strerror or str(error)).lower()}") from None
        run = cls(target)
        run.write("config.json", config.json())
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The folder of a run that exists.

        Raises:
            InputError: it is not one.
        """
        if not (Path(path) / "config.json").is_file():
            why = "it has no config.json" if Path(path).is_dir() else "there is no such folder"
            raise InputError(f"{path} is not a run: {why}")
        return cls(Path(path))

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        data = content.encode() if isinstance(content, str) else content
        self.replace(self.path / name, lambda path: path.write_bytes(data))

    @staticmethod
    def beside(target: Path) -> Path:
        """Where the new content of a file is written before it takes the file's place."""
        return target.with_name(f".{target.name}.new")

    def replace(self, target: Path, write: Callable[[Path], object]) -> None:
        """Let `write` fill a new file next to the target, and put it in the target's place once it is on the disk."""
        new = self.beside(target)
        write(new)
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(target)

    def read_json(self, name: str) -> dict[str, Any]:
        """One of the run's JSON files.

        Raises:
            InputError: it is missing or broken.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / name} cannot be read: {error}") from None

    def metrics(self) -> list[Row]:
        """The rows of ``metrics.csv``; none if no epoch has ended."""
        try:
            with (self.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
                return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        except FileNotFoundError:
            return []

    def write_metrics(self, rows: list[Row]) -> None:
        """Replace ``metrics.csv``."""
        lines = [",".join(rows[0]), *(",".join(f"{value:.6g}" for value in row.values()) for row in rows)]
        self.write("metrics.csv", "\n".join(lines) + "\n")
