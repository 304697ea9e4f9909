"""A run's folder: where everything about it lies, and how it is written so that a kill at any moment leaves it readable."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from spikegrad.errors import InputError
from spikegrad.training.claims import claim
from spikegrad.training.config import Config

Row = dict[str, float]
MEASURED = {"epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds"}
"""What ``metrics.csv`` has of every epoch, beside the firing rates of each layer."""
PICTURES = ("learning_curves", "confusion", "raster")


def reason(error: Exception) -> str:
    """Why something could not be read or written, as the end of a sentence."""
    if isinstance(error, OSError):
        return (error.strerror or f"{error}").splitlines()[0].lower()
    return shorten(f"{error}".strip() or type(error).__name__, 240, placeholder=" …")  # of a network's weights the first line says nothing


def first_process() -> bool:
    """Whether this is the process that makes the folder: Lightning, torchrun and SLURM say so in the environment."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    ``config.json`` the configuration, ``run.json`` what the data and the software were, ``metrics.csv`` one row an epoch,
    ``checkpoints/last.ckpt`` where to resume, beside the lock of who trains, ``best.safetensors`` the weights that were best on the
    validation samples, ``results.json`` what came out, and pictures, `PICTURES`.
    """

    path: Path
    made: tuple[Path, ...] = field(default=(), repr=False, compare=False)
    """Folders above it that were made for it, the innermost first."""

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
            made = tuple(folder for folder in target.parents if not folder.exists())
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.mkdir()
                break
            except OSError as error:
                if not (isinstance(error, FileExistsError) and target.parent.is_dir()):  # a link to nowhere exists, too
                    raise InputError(f"cannot write {target}: {reason(error)}") from None
                if path is not None:
                    cls.check(target)
                number += 1
        run = cls(target, made)
        try:
            (target / "checkpoints").mkdir()
            run.write("config.json", config.json())
        except BaseException as error:
            run.discard()
            if isinstance(error, OSError):
                raise InputError(f"cannot write {target}: {reason(error)}") from None
            raise
        return run

    def discard(self) -> None:
        """Take a folder away that nothing has come of, and those above it that were made for it."""
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self.made:
            with suppress(OSError):  # another run is in it
                folder.rmdir()

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

    @contextmanager
    def alone(self) -> Generator[None]:
        """Keep others from training here for as long as the block runs; the processes of one training are one, and the first has the lock.

        Raises:
            InputError: another process trains here.
        """
        with ExitStack() as held:
            try:
                ours = not first_process() or held.enter_context(claim(self.path / "checkpoints" / "lock"))
            except InputError:
                ours = True  # on a file system without locks
            if not ours:
                raise InputError(f"{self.path} is being trained by another process; wait until it has ended, or stop it")
            yield

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        data = content.encode() if isinstance(content, str) else content
        self.replace(self.path / name, lambda path: path.write_bytes(data))

    @staticmethod
    def beside(target: Path) -> Path:
        """Where the new content of a file is written before it takes the file's place."""
        return target.with_name(f".{target.name}.new")

    def replace(self, target: Path, write: Callable[[Path], object]) -> None:
        """Let `write` fill a new file next to the target, and put it in the target's place once it is on the disk.

        Raises:
            InputError: it cannot be written.
        """
        new = self.beside(target)
        try:
            new.touch()
            mode = new.stat().st_mode  # as the user's umask has it; some writers make their files private
            write(new)
            new.chmod(mode)
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            new.replace(target)
        except Exception as error:  # each writer has its own for a disk that is full
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise InputError(f"cannot write {target}: {reason(error)}") from error

    def read_json(self, name: str) -> dict[str, Any]:
        """One of the run's JSON files.

        Raises:
            InputError: it is missing or broken.
        """
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.path / name} cannot be read: {reason(error)}") from None
        if not isinstance(found, dict):
            raise InputError(f"{self.path / name} must hold one JSON object, got {type(found).__name__}")
        return found

    def metrics(self) -> list[Row]:
        """The rows of ``metrics.csv``; none if no epoch has ended.

        Raises:
            InputError: it is broken.
        """
        path = self.path / "metrics.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file, strict=True)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise InputError(f"{path} cannot be read: {reason(error)}") from None
        if any(not row.keys() >= MEASURED for row in rows):
            raise InputError(f"{path} must have the columns {', '.join(sorted(MEASURED))}")
        return rows

    def write_metrics(self, rows: list[Row]) -> None:
        """Replace ``metrics.csv``."""
        lines = [",".join(rows[0]), *(",".join(f"{value:.6g}" for value in row.values()) for row in rows)]
        self.write("metrics.csv", "\n".join(lines) + "\n")
