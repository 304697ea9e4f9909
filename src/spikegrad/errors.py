"""Mistakes in what a user asked for, told in one line."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """What was asked for cannot be done; the message is one line that says what to do. The command line prints it and exits with 2."""


def meant(given: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest known one, or all of them where none is near.

    Example:
        >>> from spikegrad.errors import meant
        >>> meant("Atan", ["ATan", "Sigmoid"])
        '; did you mean ATan?'
        >>> meant("relu", ["ATan", "Sigmoid"])
        '; choose from ATan, Sigmoid'
    """
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(given.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[near[0]]}?" if near else f"; choose from {', '.join(by_lower.values())}"
