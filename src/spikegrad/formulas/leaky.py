"""Derivatives that are nowhere zero on at least one side: straight-through estimators and their leaky relatives."""

from __future__ import annotations

from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array


class StraightThrough(Surrogate):
    r"""Straight-through."""

    def derivative(self, x: Array) -> Array:
        return 1.0

    def primitive(self, x: Array) -> Array:
        return x + 1 / 2
