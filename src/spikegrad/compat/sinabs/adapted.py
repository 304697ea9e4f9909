"""Any of spikegrad's surrogates as sinabs calls its own: ``fn(v_mem, spike_threshold)`` is the derivative there."""

from __future__ import annotations

import dataclasses

from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array, cast, widen


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A surrogate as a `surrogate_grad_fn`; see `adapt`. A value: it compares, hashes, copies and pickles."""

    surrogate: Surrogate

    def __call__(self, v_mem: Array, spike_threshold: Array) -> Array:
        """The derivative where the potential is `v_mem`, in its shape and dtype; the difference is taken in float32 at least."""
        wide = widen(v_mem)
        value = self.surrogate.derivative(wide - spike_threshold)
        return value if wide is v_mem else cast(value, v_mem)


def adapt(surrogate: Surrogate) -> Adapted:
    """A surrogate for sinabs's layers, which call ``surrogate_grad_fn(v_mem, spike_threshold)`` and expect the derivative.

    Several of sinabs's own scale with the threshold; these do not, unless their numbers are chosen by it.

    Args:
        surrogate: any surrogate that draws no noise.

    Raises:
        TypeError: it is none.

    Example:
        >>> import torch
        >>> from spikegrad import ATan
        >>> from spikegrad.compat.sinabs import adapt
        >>> adapt(ATan())(torch.tensor([1.5, 2.5]), 1.5)
        tensor([1.0000, 0.0920])
        >>> import sinabs.layers as sl  # doctest: +SKIP
        >>> layer = sl.LIF(tau_mem=20.0, surrogate_grad_fn=adapt(ATan()))  # doctest: +SKIP
    """
    if not isinstance(surrogate, Surrogate):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"`surrogate` must be a spikegrad.Surrogate such as spikegrad.ATan(), got {surrogate!r}")
    return Adapted(surrogate)
