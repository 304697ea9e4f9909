"""snnTorch's names on spikegrad: ``from spikegrad.compat.snntorch import surrogate`` for ``from snntorch import surrogate``."""

from spikegrad.compat.snntorch import surrogate as surrogate
