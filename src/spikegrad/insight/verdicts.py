"""From measurements to words: what is wrong, why probably, and what to try next; causes before consequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from spikegrad.insight.findings import Change, Finding, called, listed, percent
from spikegrad.insight.information import decays_of, finite
from spikegrad.insight.information import telling as telling_of
from spikegrad.insight.matching import matched_width
from spikegrad.insight.measuring import Measured, Pass, Update, batched, peak_of
from spikegrad.insight.response import answered, reach, response_of
from spikegrad.insight.wiring import behind, ordered
from spikegrad.nn import Layer

SILENT, LEFT, STILL = 0.9, 0.01, 0.1
"""A layer is silent if so many of its neurons never spike, and the surrogate keeps less than that of its peak there, or the potential
deviates by fewer thresholds than that."""
DRIVEN = 0.3
"""The potential of a layer that gets enough input deviates by so many thresholds."""
SATURATED = 0.9
"""A layer is saturated if so many of its neurons spike in nine of ten steps or more."""
STEEP = 0.003
"""A surrogate is too steep if its derivative is on average below this share of its peak, in a layer that spikes."""
GROWN = 1e3
"""The gradient of a recurrent layer explodes if it is so many times that of the readout, and grows as much over the sequence."""
WILD = 5.0
"""Potentials that deviate by so many thresholds are far from it however wide the surrogate."""
EXPLODING, ALIGNED = 10.0, 0.45
"""A reset that passes gradients makes them explode if they are so many times those without, or their cosine with those is below this."""
SEEN = 0.2
"""A network is forgetful if less than this share of what tells samples apart arrives in steps that get a gradient."""
REACHED = 0.01
"""A step gets a gradient if it is at least this share of the largest in the last quarter of the steps."""
WORSE = 1.5
"""An update is too large if the loss of the same batch is so many times as high afterwards."""


class Verdicts:
    """All findings about one pass.

    Args:
        done: the pass.
        layers: what was measured of each layer.
        labels: what the loss was given, to tell what tells classes apart; any.
        calmer: of the gradient of each layer's weights where resets pass no gradient its norm, and its cosine with that where they do;
            empty if all resets are so already.
        update: a step of the optimiser, as it is and with its learning rates times a factor; None without an optimiser.
        rates: its learning rates.
    """

    def __init__(
        self,
        done: Pass,
        layers: Mapping[str, Measured],
        labels: Any,
        calmer: Mapping[str, tuple[float, float]],
        update: Callable[[float], Update] | None,
        rates: Sequence[float] = (),
    ) -> None:
        self.done, self.layers, self.labels, self.calmer, self.update, self.rates = done, layers, labels, calmer, update, rates
        self.order = [name for name in ordered(done.wires) if name in layers]

    def all(self) -> list[Finding]:
        """The findings, causes first."""
        found = self._not_a_number() or self._no_gradient()
        if found:
            return found
        found = [*self.stuck(), *self._exploding(), *self._steep()]
        if all(finding.kind != "exploding" for finding in found):
            found += self._overflowing()
        found = found or self._forgetful()
        return found or self._hasty()

    def _not_a_number(self) -> list[Finding]:
        if math.isfinite(self.done.loss):
            return []
        first = next((name for name in self.order if not finite(self.done.recording[name])), None)
        where = (
            "all currents and potentials are finite"
            if first is None
            else f"the first layer with such values is {called(self.layers[first])}"
        )
        return [
            Finding(
                "not a number",
                () if first is None else (first,),
                f"The loss is {self.done.loss}; {where}.",
                "Either the input has such values, or updates were too large.",
                "Look for them in the data, start anew with a lower learning rate, and clip gradients.",
            )
        ]

    def _overflowing(self) -> list[Finding]:
        """A loss that is a number, whose gradient is none."""
        names = [name for name in self.order if not math.isfinite(self.layers[name].gradient)]
        if not names:
            return []
        name = names[-1]
        return [
            Finding(
                "not a number",
                (name,),
                f"{called(self.layers[name], True)}: the loss is {self.done.loss:.4g}, but the gradient is not finite from here back.",
                "The surrogate's derivative overflows, or the gradient grows from step to step.",
                "Take a surrogate of spikegrad, whose derivatives are finite everywhere, and clip gradients.",
            )
        ]

    def _no_gradient(self) -> list[Finding]:
        if any(bool(g.any()) for g in self.done.gradients.values()) or any(m.silent >= SILENT for m in self.layers.values()):
            return []
        return [
            Finding(
                "no gradient",
                (),
                "No weight gets a gradient at all.",
                "The output is cut off from the weights: by detach(), argmax, no_grad or a comparison, or the loss does not depend on it.",
                "Give the loss the potentials, spikes or counts as the layers return them.",
            )
        ]

    def stuck(self) -> list[Finding]:
        """Layers that spike never or always; of those behind one another, the first."""
        ill: dict[str, str] = {}
        steep = any(m.spiking and not stuck(m) and m.left < STEEP for m in self.layers.values())
        for name in self.order:
            m = self.layers[name]
            if steep and m.deviation >= DRIVEN and m.left < STEEP:
                continue  # its input is as strong as that of others, and its surrogate as steep
            if m.spiking and m.silent >= SILENT and (m.left < LEFT or m.deviation < STILL):
                ill[name] = "silent"
            elif m.spiking and (m.saturated >= SATURATED or (m.saturated >= 0.2 and m.silent + m.saturated >= 0.95 and m.left < LEFT)):
                ill[name] = "saturated"
        found: list[Finding] = []
        for name, kind in ill.items():
            if behind(name, self.done.wires) & ill.keys():
                continue
            after = tuple(each for each in self.order if each in ill and name in behind(each, self.done.wires))
            found.append(self._stuck_layer(self.layers[name], kind, after))
        return found

    def _stuck_layer(self, m: Measured, kind: str, after: tuple[str, ...]) -> Finding:
        change, words = self._rescaled(m)
        consequences = tuple(
            f"{called(self.layers[each])} is {'silent' if self.layers[each].silent >= SILENT else 'saturated'}" for each in after
        )
        if kind == "saturated":
            return Finding(
                "saturated",
                (m.name,),
                f"{called(m, True)}: {percent(m.saturated)} of neurons spike in nine of ten steps or more"
                + (f" and {percent(m.silent)} never" if m.silent > 0.01 else "")
                + f"; the mean potential is {m.mean:.3g} thresholds, and {percent(m.left)} of the surrogate's peak is left there.",
                "Its input is so strong that spikes say nothing about it.",
                words,
                change,
                consequences,
            )
        readout = m.readout and len(self.layers) > 1
        reaction = "answers no sample" if readout else "passes nothing on"
        return Finding(
            "dead readout" if readout else "silent",
            (m.name,),
            f"{called(m, True)}: {percent(m.silent)} of neurons never spike; the potential is {m.mean:.2g} ± {m.deviation:.2g} "
            f"thresholds, and {percent(m.left)} of the surrogate's peak is left there.",
            f"It {reaction}, and its weights get {'next to no' if m.left < LEFT else 'only a small'} gradient that could change that.",
            words,
            change,
            consequences,
        )

    def _rescaled(self, m: Measured) -> tuple[Change | None, str]:
        """What brings a layer's potential, were it never reset, to a mean of 0 and a deviation of one threshold."""
        last = self.done.wires[m.name].last
        current = batched(self.done.recording[m.name].current.detach())[:, :16].double()
        biases = [name for name in last if name.rpartition(".")[2] == "bias"]
        mean = float(current.mean()) if biases else 0.0
        kernel = response_of(self.done.recording[m.name].module, len(current)).to(current)
        kernel = kernel.flatten(1).mean(1) if kernel.ndim > 1 else kernel
        free = answered(kernel, (current - mean).flatten(1)) / float(reach(self.done.recording[m.name].module).mean())
        size = float((free - (free.mean() if biases else 0.0)).square().mean().sqrt())
        if not (math.isfinite(size) and size > 1e-12):
            return None, "Nothing arrives: look at what is before it."
        factor = 1 / size
        if not last:
            module: Any = self.done.recording[m.name].module
            if isinstance(module, Layer) and "threshold" not in module.neuron.numbers:
                return None, f"Multiply its input by {factor:.3g}."
            threshold = float(torch.as_tensor(module.threshold).detach().double().mean()) * size
            return Change(numbers={m.name: {"threshold": threshold}}), f"Set its threshold to {threshold:.3g}."
        owner = last[0].rpartition(".")[0]
        moved = abs(mean) > 0.3 * float((current - mean).std())
        shift = dict.fromkeys(biases, -factor * mean) if moved else {}
        words = f"Scale the weights of `{owner}` by {factor:.3g}" if owner else f"Scale {listed(last)} by {factor:.3g}"
        if shift:
            words += f", its bias too, and then add {-factor * mean:.3g} to the bias"
        wider = "" if m.saturated >= SILENT or m.left >= LEFT else f"; or widen the surrogate, whose half width is {m.half_width:.2g}"
        return Change(scale=dict.fromkeys(last, factor), shift=shift), f"{words}{wider}."

    def _exploding(self) -> list[Finding]:
        return self._exploding_resets() or self._exploding_recurrence()

    def _exploding_recurrence(self) -> list[Finding]:
        """Whether a gradient grows from step to step through recurrent weights."""
        ends = max((m.gradient for m in self.layers.values() if m.readout), default=0.0)
        found: dict[str, float] = {}
        for name in self.order:
            m, module = self.layers[name], self.done.recording[name].module
            if not (isinstance(module, Layer) and module.connection != "none" and m.spiking) or not m.gradient > GROWN * ends:
                continue
            quarter = max(m.steps // 4, 1)
            grown = max(m.gradient_over_time[:quarter]) / max(*m.gradient_over_time[-quarter:], 1e-300)
            if grown > GROWN:
                found[name] = grown
        if not found:
            return []
        peaks = {name: 1 / float(reach(self.done.recording[name].module).mean()) for name in found}
        wide = {name: peak for name, peak in peaks.items() if peak_of(self.done.recording[name]) > 1.5 * peak}
        others = {name: x ** (-1 / self.layers[name].steps) / 2 for name, x in found.items() if name not in wide}
        weak = {f"{name}.weight" if name else "weight": factor for name, factor in others.items()}
        told = [f"bring the surrogate's peak in {called(self.layers[name])} to {peak:.2g} with its `scale`" for name, peak in wide.items()]
        told += [f"scale `{name}` by {factor:.2g}" for name, factor in weak.items()]
        top = max(found, key=lambda name: found[name])
        return [
            Finding(
                "exploding",
                tuple(found),
                f"{called(self.layers[top], True)}: the gradient of its current is {self.layers[top].gradient:.2g}, and {found[top]:.2g} "
                "times as large in the first quarter of the steps as in the last.",
                "Each step multiplies the gradient by its recurrent weights times the surrogate, "
                f"whose peak is {peak_of(self.done.recording[top]):.3g}.",
                f"{listed(tuple(told))[:1].upper()}{listed(tuple(told))[1:]}.",
                Change(scale=weak, peak=wide),
            )
        ]

    def _exploding_resets(self) -> list[Finding]:
        """Whether a gradient through resets is much larger than without, or has lost its direction."""
        known = {name: calm for name, calm in self.calmer.items() if name in self.layers and self.layers[name].weight_gradient > 0}
        ratios = {name: self.layers[name].weight_gradient / max(norm, 1e-300) for name, (norm, _) in known.items()}
        aligned = sum(cosine for _, cosine in known.values()) / max(len(known), 1)
        if not known or (aligned >= ALIGNED and all(ratio < EXPLODING for ratio in ratios.values())):
            return []
        names = tuple(name for name in self.order if isinstance(m := self.done.recording[name].module, Layer) and not m.neuron.detach_reset)
        top = max(ratios, key=lambda name: ratios[name] if ratios[name] == ratios[name] else math.inf)
        peaks = {name: peak_of(self.done.recording[name]) for name in names}
        largest = max(names, key=lambda name: peaks[name])
        return [
            Finding(
                "exploding",
                names,
                f"{called(self.layers[top], True)}: the gradient of its weights is {self.layers[top].weight_gradient:.2g}, "
                f"{ratios[top]:.2g} times what it is where none flows through the reset; the cosine between the two is {aligned:.2g} on "
                "average over such layers.",
                f"Each reset multiplies the gradient by up to the surrogate's peak, {peaks[largest]:.3g} in "
                f"{called(self.layers[largest])}, step after step.",
                f"Set detach_reset=True in {listed(tuple(called(self.layers[name]) for name in names))}; or bring the surrogate's peak to "
                "one over the threshold with its `scale`.",
                Change(options={name: {"detach_reset": True} for name in names}),
            )
        ]

    def _steep(self) -> list[Finding]:
        steep = [m for name in self.order if (m := self.layers[name]).spiking and not stuck(m) and m.left < STEEP]
        if wild := [m for m in steep if m.deviation > WILD]:
            return [self._overdriven(wild)]
        if not steep:
            return []
        # It is so in those that happen to be silent, too, and hardly better in those that are near.
        names = [name for name in self.order if (m := self.layers[name]).spiking and m.left < 5 * STEEP]
        widths = {name: width for name in names if (width := matched_width(self.done.recording[name])) is not None}
        if not widths:
            return []
        worst = min(steep, key=lambda m: m.left)
        surrogates = {name: self.done.recording[name].surrogate for name in widths}
        said: list[str] = []
        for name, width in widths.items():
            surrogate = surrogates[name]
            number = next((n for n in ("slope", "width") if surrogate is not None and n in surrogate.numbers), None)
            wide = f"half width {width:.2g}" if surrogate is None else f"{number} {getattr(surrogate.matched_to(width), str(number)):.2g}"
            said.append(f"{wide} in {called(self.layers[name])}")
        return [
            Finding(
                "steep",
                tuple(widths),
                f"{called(worst, True)}: {percent(worst.flat)} of the potentials are where the surrogate's derivative is below a hundredth "
                f"of its peak, on average {percent(worst.left)} of the peak is left.",
                f"The surrogate has a half width of {worst.half_width:.2g}, the potentials are {worst.distance:.2g} away from the "
                "threshold: hardly any gradient gets through, and less with every layer.",
                f"Widen the surrogate, to {listed(tuple(said))}: spikegrad.match(model, x) does it.",
                Change(half_width=widths),
            )
        ]

    def _overdriven(self, wild: Sequence[Measured]) -> Finding:
        """Layers whose potentials are far from the threshold on both sides: not the surrogate is too narrow, the weights are too large."""
        changes = [change for m in wild if (change := self._rescaled(m)[0]) is not None]
        largest = max(wild, key=lambda m: m.deviation)
        return Finding(
            "overdriven",
            tuple(m.name for m in wild),
            f"{called(largest, True)}: the potential deviates by {largest.deviation:.2g} thresholds, and {percent(largest.left)} of the "
            "surrogate's peak is left on average.",
            "The weights are so large that neurons are almost never near their threshold; after some training, because of a learning rate "
            "that was too high.",
            "Scale the weights of "
            + listed(tuple(f"`{name}` by {x:.2g}" for change in changes for name, x in change.scale.items()))
            + ", or start anew with a lower learning rate.",
            Change(
                scale={name: x for change in changes for name, x in change.scale.items()},
                shift={name: x for change in changes for name, x in change.shift.items()},
            ),
        )

    def _forgetful(self) -> list[Finding]:
        """Whether what tells samples apart arrives when no gradient reaches."""
        first = [name for name in self.order if not self.layers[name].before and self.done.of_currents[name] is not None]
        if not first:
            return []
        total, seen, steps = 0.0, 0.0, list[int]()
        for name in first:
            over_time = torch.tensor(self.layers[name].gradient_over_time, dtype=torch.float64)
            telling = telling_of(batched(self.done.recording[name].current.detach()), self.labels)
            late = over_time[-max(len(over_time) // 4, 1) :].max()  # where gradients explode, those of early steps are no measure
            reached = over_time >= REACHED * (late if late > 0 else over_time.max())
            total, seen = total + float(telling.sum()), seen + float(telling[reached].sum())
            steps += [int(reached.sum())]
        if not total or seen / total >= SEEN:
            return []
        length = max(self.layers[name].steps for name in first)
        numbers: dict[str, dict[str, float]] = {}
        for name in self.order:
            module = self.done.recording[name].module
            kernel = response_of(module, length).abs()
            kernel = kernel.flatten(1).mean(1) if kernel.ndim > 1 else kernel
            memory = float(kernel.sum() / kernel.max().clamp(min=1e-30))
            wanted = math.exp(-1 / length)
            if memory < length / 4 and (decays := [n for n in decays_of(module) if n in ("beta", "rho", "alpha")]):
                numbers[name] = {decays[-1] if "beta" not in decays else "beta": round(wanted, 4)}
        told = (
            listed(tuple(f"{n} {x} in {called(self.layers[name])}" for name, each in numbers.items() for n, x in each.items()))
            if numbers
            else ""
        )
        advice = f"Set {told}, which forget over about the length of the sequence;" if numbers else "Take neurons that remember longer,"
        return [
            Finding(
                "forgetful",
                tuple(numbers) or tuple(first),
                f"Only {max(steps)} of {length} steps get a gradient, and {percent(seen / total)} of what tells samples apart arrives in "
                "these.",
                "The neurons forget faster than the loss looks back.",
                f"{advice} or let the loss see all steps, by their mean or maximum.",
                Change(numbers=numbers) if numbers else None,
            )
        ]

    def _hasty(self) -> list[Finding]:
        if self.update is None:
            return []
        one, before = self.update(1.0), self.done.loss
        ratios = [m.update for m in self.layers.values() if m.update]
        largest = max(ratios, default=0.0)
        if one.loss <= WORSE * before or largest < 0.1:
            return []
        tried = {factor: self.update(factor).loss for factor in (10 ** (-k / 2) for k in range(1, 13))}
        good = [factor for factor, loss in tried.items() if loss < before]
        factor = 10 ** (math.log10(good[0]) - 0.5) if good else 1e-4
        told = listed(tuple(dict.fromkeys(f"{factor * rate:.2g}" for rate in self.rates)))
        return [
            Finding(
                "hasty",
                (),
                f"One update changes weights by {percent(largest)} of their size, and the loss of the same batch from {before:.3g} to "
                f"{one.loss:.3g}.",
                "The learning rate is too high.",
                f"Lower it to {told}"
                + (f": of those tried, {good[0] * self.rates[0]:.2g} is the first with which the loss falls." if good else "."),
                Change(learning_rate=factor),
            )
        ]


def stuck(m: Measured) -> bool:
    """Whether a layer's neurons spike never, or always."""
    return m.silent >= SILENT or m.saturated >= SATURATED
