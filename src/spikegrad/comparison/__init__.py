"""Many trainings beside each other: which surrogate, slope, neuron and learning rate to take on some data, and how much it matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikegrad.comparison.grid import Cell as Cell
from spikegrad.comparison.grid import grid as grid

if TYPE_CHECKING:
    from spikegrad.comparison.folder import Comparison as Comparison
    from spikegrad.comparison.work import compare as compare

__all__ = ["Cell", "Comparison", "compare", "grid"]


def __getattr__(name: str) -> Any:
    if name == "Comparison":
        from spikegrad.comparison.folder import Comparison

        return Comparison
    if name == "compare":
        from spikegrad.comparison.work import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
