"""spikegrad's surrogates in SpikingJelly's own neurons: ``neuron.LIFNode(surrogate_function=adapt(ATan()))``."""

from __future__ import annotations

import dataclasses

from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array

__all__ = ["adapt"]


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A surrogate as a `surrogate_function`; see `adapt`. A value: it compares, hashes, copies and pickles."""

    surrogate: Surrogate
    spiking: bool = True

    def __call__(self, x: Array) -> Array:
        """Spikes, or the soft step, of potential minus threshold."""
        return self.surrogate(x) if self.spiking else self.surrogate.primitive(x)


def adapt(surrogate: Surrogate, *, spiking: bool = True) -> Adapted:
    """A surrogate for SpikingJelly's neurons, with what they ask of one: whether it is in the mode in which it gives spikes.

    Args:
        surrogate: any surrogate.
        spiking: False for the soft step, the primitive, in place of spikes: SpikingJelly's ``set_spiking_mode(False)``.

    Raises:
        TypeError: it is none.
        ValueError: there is no soft step, for it has no primitive.

    Example:
        >>> import torch
        >>> from spikegrad import ATan
        >>> from spikegrad.compat.spikingjelly import adapt
        >>> adapt(ATan())(torch.tensor([-0.5, 0.5])), adapt(ATan(), spiking=False)(torch.tensor([0.0]))
        (tensor([0., 1.]), tensor([0.5000]))
        >>> from spikingjelly.activation_based import neuron  # doctest: +SKIP
        >>> node = neuron.LIFNode(surrogate_function=adapt(ATan()), step_mode="m")  # doctest: +SKIP
    """
    if not isinstance(surrogate, Surrogate):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"`surrogate` must be a spikegrad.Surrogate such as spikegrad.ATan(), got {surrogate!r}")
    if not spiking and not surrogate.has_primitive:
        raise ValueError(f"{type(surrogate).__name__} has no primitive, so no soft step in place of spikes")
    return Adapted(surrogate, spiking)
