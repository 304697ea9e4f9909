"""braintools 0.3.0's `surrogate` on spikegrad: ``from spikegrad.compat import braintools`` takes the place of ``import braintools``.

Only the surrogates are here; neither braintools nor brainstate is imported, and JAX's configuration is left alone.
"""

from spikegrad.compat.braintools import surrogate as surrogate

__all__ = ["surrogate"]
