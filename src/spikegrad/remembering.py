"""Tables of what was found before, which do not grow for ever."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

KEPT = 1024
"""Entries that a table has at most."""


def remember(table: dict[Any, Any], key: Hashable, value: Any) -> None:
    """Enter a value in a table, which is begun anew when it is full: whoever defines a thousand formulas in a loop needs the last.

    For where the caches of functools are not: a compiler that traces through a call warns of them.
    """
    if len(table) >= KEPT:
        table.clear()
    table[key] = value
