"""Surrogates that start shallow and sharpen while a network learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from spikegrad.insight.matching import set_half_width
from spikegrad.insight.measuring import half_width_of
from spikegrad.insight.recording import record


class SlopeSchedule:
    """Takes the slope of every surrogate from a start to an end, step by step, on a geometric course; for plain training loops.

    Start and end are factors of the slope that each layer has when the schedule is made, so that slopes of their own, such as `match` gives
    them, keep their relation. A shallow surrogate carries gradients deeper, a sharp one shows better what a spike more or less would do.
    Nothing is compiled anew: numbers travel beside the kernels. With Lightning take `spikegrad.training.SlopeCallback`.

    Args:
        model: any that `record` sees.
        start: factor of the slopes in the beginning, such as 0.2; or one for each layer, by name, of which those left out keep theirs.
        end: factor at the end, likewise.
        steps: how many steps there are, usually epochs.

    Raises:
        ValueError: no layer has a slope or a width to change, a layer's is learned, there is no layer of a name, or a number is not
            positive.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import FastSigmoid, nn
        >>> layer = nn.Leaky(0.9, spike=FastSigmoid(20))
        >>> schedule = spikegrad.SlopeSchedule(nn.Sequential(torch.nn.Linear(4, 8), layer), 0.1, steps=3)
        >>> for epoch in range(4):
        ...     print(round(layer.spike.surrogate.slope, 2))
        ...     schedule.step()
        2.0
        4.31
        9.28
        20.0
    """

    def __init__(self, model: nn.Module, start: float | Mapping[str, float], end: float | Mapping[str, float] = 1.0, *, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {steps}")
        with record(model) as layers:
            pass
        named = {name for given in (start, end) if isinstance(given, Mapping) for name in given}
        if unknown := named - layers.keys():
            raise ValueError(f"there is no spiking layer {min(unknown)!r}; there are {', '.join(map(repr, layers))}")
        self.steps, self.done = steps, 0
        self._layers: dict[str, Any] = {}
        self._widths: dict[str, float] = {}
        self._course: dict[str, tuple[float, float]] = {}
        for name, layer in layers.items():
            first, last = (given.get(name, 1.0) if isinstance(given, Mapping) else given for given in (start, end))
            if not (first > 0 and last > 0):
                raise ValueError(f"factors of slopes must be positive, got {first} and {last}")
            if not layer.spiking or (named and name not in named and not isinstance(start, float | int)):
                continue
            surrogate, width = layer.surrogate, half_width_of(layer)
            if not math.isfinite(width) or (surrogate is not None and not {"slope", "width"} & surrogate.numbers.keys()):
                continue
            learned = set(getattr(getattr(layer.module, "spike", None), "learn", ())) & {"slope", "width"}
            if learned:
                raise ValueError(f"the {min(learned)} of `{name}` is learned, so no schedule can set it; leave it out of `learn`")
            self._layers[name], self._widths[name], self._course[name] = layer, width, (first, last)
        if not self._layers:
            raise ValueError(f"no layer of {type(model).__name__} has a surrogate with a slope or a width to change")
        self.set(0.0)

    def set(self, share: float) -> dict[str, float]:
        """Put the slopes where they are when a share of the steps is done, from 0 to 1.

        Returns:
            The half width of each surrogate by the name of its layer.
        """
        share = min(max(share, 0.0), 1.0)
        found: dict[str, float] = {}
        for name, (first, last) in self._course.items():
            found[name] = self._widths[name] / (first * (last / first) ** share)
            set_half_width(self._layers[name], found[name])
        return found

    def step(self) -> None:
        """One step further; beyond the last nothing changes any more."""
        self.done += 1
        self.set(self.done / self.steps)

    def state_dict(self) -> dict[str, int]:
        """What a resumed loop must know."""
        return {"done": self.done}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Take up what `state_dict` gave, with a model whose surrogates are as they were when the first schedule was made."""
        self.done = state_dict["done"]
        self.set(self.done / self.steps)
