"""The catalogue of surrogates: mathematics, its words and its sources, nothing else."""

from __future__ import annotations

from spikegrad.formulas import compact, exponential, leaky, rational, signed, stochastic
from spikegrad.surrogate import Surrogate

CATALOGUE: dict[str, type[Surrogate]] = {
    name: value
    for module in (rational, exponential, compact, leaky, signed, stochastic)
    for name, value in vars(module).items()
    if isinstance(value, type) and value.__module__ == module.__name__
}
"""Every surrogate by its name."""
