"""Locks that a fork waits for: a child would inherit one from a thread that it does not have, and wait for ever.

The lock here is held while kernels are imported or compiled, with Python's locks of modules, and Numba's.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar


class _Lock(Protocol):
    def acquire(self) -> bool: ...

    def release(self) -> None: ...


L = TypeVar("L", bound=_Lock)
T = TypeVar("T")


def across_forks(lock: L) -> L:
    """The lock, which whoever forks holds meanwhile, so that it is free in the child and what it guards is whole."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


LOCK = across_forks(threading.RLock())


def once(make: Callable[[], T]) -> Callable[[], T]:
    """A function that makes something once for all threads; `functools.cache` makes one for each of those that ask first together."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def made() -> T:
        with LOCK:
            return cached()

    return made
