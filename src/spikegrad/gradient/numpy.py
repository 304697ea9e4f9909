"""NumPy: the step alone; NumPy has no gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spikegrad.vocabulary import cast, library, where, widen

if TYPE_CHECKING:
    from spikegrad.surrogate import Surrogate


def spike(
    surrogate: Surrogate,
    x: Any,
    parameters: Mapping[str, Any],
    spike_at_threshold: bool,
    training: bool,
    random: np.random.Generator | None,
) -> Any:
    """See `Surrogate.__call__`."""
    if library(x) == "number":
        return float(spike(surrogate, np.float64(x), parameters, spike_at_threshold, training, random))
    wide = widen(x)
    if training and surrogate.soft:
        if random is None:
            raise ValueError(f"{type(surrogate).__name__} draws noise; pass random=numpy.random.default_rng(seed)")
        noise = [random.random(wide.shape).astype(wide.dtype)]
        return cast(surrogate.bind(parameters).primitive(wide, *noise), x)
    # Compared as float32: bfloat16 warns when it is compared with NaN.
    return where(wide == wide, cast(wide >= 0 if spike_at_threshold else wide > 0, x), x)
