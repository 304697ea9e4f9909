"""What a diagnosis finds, and what it changes where it is followed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.insight.matching import set_half_width, set_peak
from spikegrad.insight.measuring import Measured
from spikegrad.insight.recording import record
from spikegrad.nn import Layer
from spikegrad.nn.parameters import coordinate


def _empty() -> Any:
    return field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Change:
    """What to change, in numbers: what a finding advises, for a program to follow.

    Attributes:
        scale: factors of parameters, by their names.
        shift: what is then added to every element of parameters, by their names.
        half_width: of the surrogates of layers, by their names, in the unit of the potential.
        peak: of the surrogates of layers, likewise, in 1/potential.
        numbers: numbers of the neurons of layers, by the names of layers and of numbers.
        options: options of the neurons of layers, likewise.
        learning_rate: a factor of all learning rates; None to leave them.
    """

    scale: Mapping[str, float] = _empty()
    shift: Mapping[str, float] = _empty()
    half_width: Mapping[str, float] = _empty()
    peak: Mapping[str, float] = _empty()
    numbers: Mapping[str, Mapping[str, float]] = _empty()
    options: Mapping[str, Mapping[str, bool]] = _empty()
    learning_rate: float | None = None

    def apply(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Change a model, and an optimiser, in place.

        Raises:
            ValueError: the learning rate is to change and there is no optimiser; the model has no parameter or layer of a name.
        """
        if self.learning_rate is not None and optimizer is None:
            raise ValueError("the advice is to change the learning rate: give the optimizer, apply(model, optimizer)")
        parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
        if missing := [each for each in (*self.scale, *self.shift) if each not in parameters]:
            raise ValueError(f"the model has no parameter {missing[0]!r}; is it the model that was diagnosed?")
        if missing := [each for each in (*self.half_width, *self.peak, *self.numbers, *self.options) if each not in modules]:
            raise ValueError(f"the model has no layer {missing[0]!r}; is it the model that was diagnosed?")
        with torch.no_grad():
            for name, factor in self.scale.items():
                parameters[name].mul_(factor)
            for name, amount in self.shift.items():
                parameters[name].add_(amount)
        if self.half_width or self.peak:
            with record(model) as layers:
                pass
            for name, width in self.half_width.items():
                set_half_width(layers[name], width)
            for name, peak in self.peak.items():
                set_peak(layers[name], peak)
        for name, numbers in self.numbers.items():
            for number, value in numbers.items():
                set_number(modules[name], number, value)
        for name, options in self.options.items():
            layer: Any = modules[name]
            layer.neuron = dataclasses.replace(layer.neuron, **options)
        if self.learning_rate is not None and optimizer is not None:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self.learning_rate

    def to_dict(self) -> dict[str, Any]:
        """What is changed, ready for JSON."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in ({}, None)}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: its name: ``"silent"``, ``"saturated"``, ``"dead readout"``, ``"exploding"``, ``"steep"``, ``"overdriven"``,
            ``"forgetful"``, ``"hasty"``, ``"no gradient"`` or ``"not a number"``.
        layers: the layers that it is about, by name.
        says: what was measured.
        cause: what it probably comes from.
        advice: what to try next.
        change: the same in numbers; None where nobody but the user can do it.
        consequences: layers that only look ill because of it.
    """

    kind: str
    layers: tuple[str, ...]
    says: str
    cause: str
    advice: str
    change: Change | None = None
    consequences: tuple[str, ...] = ()

    def apply(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Follow the advice, in place.

        Raises:
            ValueError: it cannot be followed by a program, or needs the optimiser.
        """
        if self.change is None:
            raise ValueError(f"this advice is for you to follow: {self.advice}")
        self.change.apply(model, optimizer)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        values = {**dataclasses.asdict(self), "layers": [*self.layers], "consequences": [*self.consequences]}
        return {**values, "change": None if self.change is None else self.change.to_dict()}

    def __str__(self) -> str:
        said = f"{self.says} {self.cause} {self.advice}"
        return said if not self.consequences else f"{said} As a consequence, {listed(self.consequences)}."


def joined(first: Finding, second: Finding) -> Finding:
    """Two findings as one: the second is what is still ill when the advice of the first is followed."""
    assert first.change is not None
    assert second.change is not None
    change = dataclasses.replace(
        first.change, scale={**first.change.scale, **second.change.scale}, shift={**first.change.shift, **second.change.shift}
    )
    return dataclasses.replace(
        first,
        layers=(*first.layers, *second.layers),
        advice=f"{first.advice} Then {second.advice[:1].lower()}{second.advice[1:]}",
        change=change,
        consequences=tuple(each for each in first.consequences if f"`{second.layers[0]}` is" not in each),
    )


def called(m: Measured, first: bool = False) -> str:
    """A layer in a sentence."""
    return f"{'Layer' if first else 'layer'} `{m.name}`" if m.name else f"{'The' if first else 'the'} {m.kind}"


def percent(share: float) -> str:
    """A share as a percentage of two digits, never 0 or 100 if it is not."""
    value = 100 * share
    if 0 < value < 0.001:
        return "less than 0.001 %"
    text = f"{value:.0f}" if 10 <= value <= 90 or value in (0, 100) else f"{value:.2g}" if value < 10 else f"{min(value, 99.9):.3g}"
    return f"{text} %"


def listed(names: tuple[str, ...]) -> str:
    """Names as the end of a sentence."""
    parts = [*names]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def set_number(module: nn.Module, name: str, value: float) -> None:
    """Give the neurons of a layer another number, also where it is learned or a tensor."""
    if not isinstance(module, Layer):
        held: Any = getattr(module, name)
        with torch.no_grad():
            held.fill_(value)
        return
    within = module.neuron.numbers[name]
    learned: Tensor | None = module._parameters.get(f"{name}_{within.coordinate}")  # pyright: ignore[reportPrivateUsage]
    fixed: Tensor | None = module._buffers.get(f"{name}_fixed")  # pyright: ignore[reportPrivateUsage]
    with torch.no_grad():
        if learned is not None:
            learned.copy_(coordinate(torch.full_like(learned, value), within))
        elif fixed is not None:
            fixed.fill_(value)
        else:
            module.neuron = dataclasses.replace(module.neuron, **{name: value})
