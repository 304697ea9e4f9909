"""What a layer is given and keeps: when what tells samples apart arrives, whether it is finite, and what says how long it stays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from spikegrad import ranges
from spikegrad.insight.recording import LayerRecord
from spikegrad.nn import Layer


def telling(current: Tensor, labels: Any) -> Tensor:
    """How much of a current at each step depends on the class, or on the sample where there are no classes: a variance, ``(time,)``."""
    current = current.double().flatten(2)
    samples = current.shape[1]
    known = isinstance(labels, Tensor) and labels.shape == (samples,) and not labels.is_floating_point()
    if not known or samples < 4:
        return current.var(1, correction=0).sum(1)
    means, errors = list[Tensor](), list[Tensor]()
    for label in labels.unique():
        own = current[:, labels.to(current.device) == label.to(current.device)]
        means.append(own.mean(1))
        if own.shape[1] > 1:
            errors.append(own.var(1) / own.shape[1])
    between = torch.stack(means).var(0, correction=0) if len(means) > 1 else current.var(1, correction=0)
    noise = torch.stack(errors).mean(0) if errors else torch.zeros_like(between)
    return (between - noise).sum(1).clamp(min=0)


def finite(layer: LayerRecord) -> bool:
    """Whether all its currents and potentials are."""
    values = (layer.current, layer.potential)
    return all(bool(x.isfinite().all()) for x in values if x is not None)


def decays_of(module: Any) -> Iterable[str]:
    """The numbers of a layer that say what is left after a step."""
    if isinstance(module, Layer):
        kinds = ranges.hints(type(module.neuron))
        return [name for name in module.neuron.numbers if kinds[name] == ranges.Decay]
    return [name for name in ("alpha", "beta") if isinstance(getattr(module, name, None), Tensor)]
