"""Where the source of generated kernels lies, and what is compiled from it.

It is ``$SPIKEGRAD_CACHE``, else in the user's cache directory. Whoever can write there can run code here: a directory that others can write
to is not used. Then, and where nothing can be written, there are no files, and every process compiles for itself.
"""

from __future__ import annotations

import functools
import hashlib
import linecache
import os
import stat
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType

from spikegrad.kernels.lock import LOCK


def digest(text: str) -> str:
    """What a text is named by."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def written(directory: Path, name: str, text: str) -> Path:
    """The file with this text, written so that another process sees all of it or nothing."""
    path = directory / name
    if not path.exists() or path.read_bytes() != text.encode():
        handle, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.utime(temporary, (0, 0))  # Numba's cache compares times: whoever writes the file, what others compiled stays good
        os.replace(temporary, path)
    return path


def _open_to_others(directory: Path) -> bool:
    """Whether somebody else owns a directory, can write to it, or can exchange it in one of those above it."""
    if not hasattr(os, "getuid"):
        return False
    found = directory.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    above = [parent.stat() for parent in directory.parents]
    return any(s.st_uid not in (0, os.getuid()) or (s.st_mode & stat.S_IWOTH and not s.st_mode & stat.S_ISVTX) for s in above)


@functools.cache
def directory(name: str) -> Path | None:
    """Where what is compiled by a version of a compiler, the `name`, lies; None if there is no place that nobody else can write to."""
    given = os.environ.get("SPIKEGRAD_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikegrad"
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = base.resolve() / name
        found.mkdir(exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=found):
            pass
        if not _open_to_others(found.parent) and not _open_to_others(found):
            found.chmod(0o700)
            return found
    except (OSError, RuntimeError):  # there may be no home
        return None
    warnings.warn(
        f"{found} is not used for compiled kernels, since others can write to it or own it, and could run code here; every process "
        "compiles for itself. Set SPIKEGRAD_CACHE to a directory of your own.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


_modules: dict[str, ModuleType] = {}


def module(kind: str, text: str, compiler: str) -> ModuleType:
    """The module with this text, run once; what a version of a compiler makes of it lies in that one's `directory`."""
    name = f"spikegrad_generated_{kind}_{digest(text)}"
    with LOCK:
        if name not in _modules:
            try:
                found = _run(name, text, directory(compiler))
            except OSError:  # the disk is full, or the directory was removed
                found = _run(name, text, None)
            _modules[name] = found
        return _modules[name]


def _run(name: str, text: str, directory: Path | None) -> ModuleType:
    """The module, from its file in a directory or from memory, where compilers that read source again find it, too."""
    module = ModuleType(name)
    sys.modules[name] = module  # Numba's cache finds functions by the name of their module
    path = f"<{name}>" if directory is None else str(written(directory, f"{name}.py", text))
    if directory is None:
        linecache.cache[path] = len(text), None, text.splitlines(keepends=True), path
    module.__file__ = path
    try:
        exec(compile(text, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
