"""Surrogates that draw noise."""

from __future__ import annotations

from spikegrad.surrogate import Positive, Surrogate
from spikegrad.vocabulary import Array, exp, log, where
from typing import ClassVar


class NoisyThreshold(Surrogate):
    r"""Noisy"""

    slope: Positive = 5.0
    sample: bool = True
    soft: ClassVar[bool] = True

    def derivative(self, x: Array, noise: Array = 0.5) -> Array:
        e = exp(-abs(self._shifted(x, noise)))
        return self.slope * e / (1 + e) ** 2

    def primitive(self, x: Array, noise: Array = 0.5) -> Array:
        z = self._shifted(x, noise)
        e = exp(-abs(z))
        return where(z >= 0, 1 / (1 + e), e / (1 + e))

    def _shifted(self, x: Array, noise: Array) -> Array:
        return self.slope * x + (log(noise) - log(1 - noise)) if self.sample else self.slope * x
