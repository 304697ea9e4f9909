"""Who trains what, where several processes share a folder: a file is locked by whoever works, and free as soon as that process is gone."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
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
        >>> from spikegrad.comparison.claims import claim
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
