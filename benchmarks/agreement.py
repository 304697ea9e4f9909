"""The proof that two sides compute the same, without which nothing is reported."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measure import DisagreementError

ROUNDING = 1e-4
"""A potential this close to the threshold may fall on either side of it when sums are taken in another order."""
STRAY = 0.02
"""The share of neurons that may do so in a sequence."""


def same(name: str, ours: tuple[Any, Any], theirs: tuple[Any, Any], potentials: Any, *, rounding: float = ROUNDING) -> str:
    """Compare ``(spikes, gradient of the currents)`` of both sides, ``(time, batch, features)``, and say how well they agree.

    A neuron whose spikes differ is excused if its first difference came of a potential within rounding of the threshold; its gradients
    then differ too, and are not compared.

    Raises:
        DisagreementError: they do not.
    """
    spikes, gradient, other, other_gradient, u = (
        np.asarray(a, np.float64).reshape(len(potentials), -1) for a in (*ours, *theirs, potentials)
    )
    differs = spikes != other
    columns = np.flatnonzero(differs.any(0))
    first = differs[:, columns].argmax(0)
    wrong = np.abs(u[first, columns] - 1.0) > rounding
    if wrong.any():
        column, time = columns[wrong][0], first[wrong][0]
        raise DisagreementError(
            f"{name}: {wrong.sum()} of {differs.shape[1]} neurons spike differently; the first does at step {time}, at a potential of "
            f"{u[time, column]:.6f} with threshold 1: ours {spikes[time, column]:g}, theirs {other[time, column]:g}"
        )
    if len(columns) > STRAY * differs.shape[1]:
        raise DisagreementError(
            f"{name}: {len(columns)} of {differs.shape[1]} neurons differ by rounding at the threshold, too many to be chance"
        )
    if spikes.sum() == 0 or not np.abs(gradient).max() > 0:
        raise DisagreementError(f"{name}: no spikes or no gradient, so that nothing was compared")
    keep = ~differs.any(0)
    worst = np.abs(gradient - other_gradient)[:, keep].max() / np.abs(gradient).max()
    tolerance = 32 * len(u) * np.finfo(np.float32).eps
    if not worst <= tolerance:
        raise DisagreementError(f"{name}: gradients differ by {worst:.2g} of the largest, more than {tolerance:.2g}")
    apart = f", {len(columns)} of {differs.shape[1]} neurons apart by rounding at the threshold" if len(columns) else ""
    return f"{name}: same spikes and gradients (within {worst:.1g} of the largest){apart}"
