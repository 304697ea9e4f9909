"""The lock that is held while kernels are imported or compiled.

A fork waits for it: a child would inherit Python's locks of modules, and Numba's, from a thread that it does not have.
"""

from __future__ import annotations

import os
import threading

LOCK = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)
