"""How several processes share a folder: who trains what is locked until that process is gone, and what all write nobody sees half of."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from spikegrad.errors import InputError


@contextmanager
def claim(path: Path) -> Generator[bool]:
    """Hold a claim for as long as the block runs, if nobody else has it.

    The operating system locks the file in one step, and takes the lock back when a process ends, however it ends: a claim that was left
    behind is free at once, and two processes that find it cannot both take it over. Who has it, or had it last, stands in the file.

    Args:
        path: the claim's file, which is made and stays.

    Yields:
        Whether it is ours.

    Raises:
        InputError: the file cannot be written, or its file system has no locks.

    Example:
        >>> import pathlib, tempfile
        >>> from spikegrad.training.claims import claim
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "claim"
        >>> with claim(path) as ours, claim(path) as again:
        ...     print(ours, again)
        True False
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        ours = _locked(file, path)
        if ours:
            os.ftruncate(file, 0)
            os.write(file, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode() + b"\n")
        yield ours
    finally:
        os.close(file)  # which gives the lock back


def _locked(file: int, path: Path) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 1 << 30, os.SEEK_SET)  # beyond what is read
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise InputError(f"{path} cannot be locked: {(error.strerror or str(error)).lower()}; put the folder on a local disk") from None
    return True


def write(path: Path, content: str) -> None:
    """Write a file so that it is there whole or not at all, whoever else writes the same at this moment.

    Raises:
        InputError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.new")
    try:
        new.write_text(content, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def make_folder(path: Path, file: str, what: str) -> None:
    """Make a folder for a file that all who share it write, unless others have done so.

    Raises:
        InputError: there is something else, or it cannot be made.
    """
    ours = (file, f".{file}.")  # the latter being written
    strange = path.exists() and not (path.is_dir() and all(each.name.startswith(ours) for each in path.iterdir()))
    if strange and not (path / file).exists():
        raise InputError(f"{path} exists already and is no {what}; choose another folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
