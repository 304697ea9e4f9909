"""Locks that a fork waits for: a child would inherit one from a thread that it does not have, and wait for ever.

The lock here is held while kernels are imported or compiled, with Python's locks of modules, and Numba's.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol, TypeVar


class _Lock(Protocol):
    def acquire(self) -> bool: ...

    def release(self) -> None: ...


L = TypeVar("L", bound=_Lock)


def across_forks(lock: L) -> L:
    """The lock, which whoever forks holds meanwhile, so that it is free in the child and what it guards is whole."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


LOCK = across_forks(threading.RLock())
