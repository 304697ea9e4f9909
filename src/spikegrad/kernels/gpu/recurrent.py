"""A layer on a GPU whose neurons receive the outputs of all of them: a kernel for each step, which multiplies by the weights itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spikegrad.kernels import layers
from spikegrad.kernels.gate import DTYPES
from spikegrad.kernels.gpu.choice import TILE
from spikegrad.kernels.gpu.compiler import kernel
from spikegrad.kernels.gpu.connected import labels
from spikegrad.kernels.gpu.layer import UNIT, constant, summed
from spikegrad.kernels.gpu.layout import Launch, Launches, Layout
from spikegrad.kernels.gpu.source import How, Variant
from spikegrad.kernels.layers import Given
from spikegrad.kernels.plan import Call, fed_as_input
from spikegrad.kernels.values import Numbers

_fed_as_input = functools.lru_cache(maxsize=256)(fed_as_input)


class Layer(layers.Layer):
    """It saves the inputs, the states before each step, what was sent and what was received.

    Attributes:
        one: a layer without connections, whose last input is what the neurons receive.
        programs: how many programs a kernel has.
    """

    def __init__(self, call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(call, numbers, shape, dtype, device)
        self.one = _fed_as_input(call)
        self.features, self.samples = shape[-1], math.prod(shape[1:-1])
        self.programs = TILE.programs(self.samples, self.features)
        # An equal layer, whose parameters may have other names.
        self._of_one = {name: name for name in (*self.values, *self.inputs)} | dict(
            zip(call.plan.parameters, self.one.plan.parameters, strict=True)
        )
        known = {self._of_one[n]: v for n, v in self.values.items() if v is not None and not n.startswith("first.")}
        self.constants = {name: constant(v, self.real, device) for name, v in known.items()}
        self._launches = Launches()

    def saved(self, learned: frozenset[str]) -> tuple[str, ...]:
        """The inputs that the backward pass is given."""
        passes = self.one.plan.passes(self._learned(learned))
        return self.inputs if passes.kept or passes.restored else tuple(n for n in self.inputs if n in passes.reread)

    def _learned(self, learned: frozenset[str]) -> frozenset[str]:
        return frozenset(self._of_one[name] for name in learned)

    def forward(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs, states after the last step and recorded values."""
        return self._forward(inputs, tensors, saves=False)[0]

    def saving(
        self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The same; and what `saved` says, the states before each step, what was sent and what was received."""
        made, kept = self._forward(inputs, tensors, saves=True)
        names = self.saved(learned)
        return made, [*(x for name, x in zip(self.inputs, inputs, strict=True) if name in names), *kept]

    def _forward(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], *, saves: bool) -> tuple[list[Tensor], list[Tensor]]:
        plan, steps, named = self.one.plan, self.shape[0], self.named(tensors)
        sent = self._empty(steps + 1)
        # One place for all steps, unless the backward pass wants them.
        before = [self._empty(steps + 1) if saves else self._empty(1).expand(steps + 1, *self.step) for _ in plan.states]
        for name, x in zip(self.firsts, (*before, sent), strict=True):
            first = named[name]
            x[0].copy_(first) if isinstance(first, Tensor) else x[0].fill_(first)
        given = (*inputs, *self._given(tensors), *before, sent)
        made = self._launches.run(saves, given, lambda: self._forwards(given, saves=saves), range(steps))
        last = [x[steps].clone() for x in (*before, sent)]
        n = plan.outputs + len(self.call.recorded)
        return [*made[: plan.outputs], *last, *made[plan.outputs : n]], [*before, sent, *made[n:]]

    def _forwards(self, given: Sequence[Tensor], *, saves: bool) -> Launch:
        """The launch for tensors that lie so."""
        plan = self.one.plan
        layout = Layout(given, self.shape, self.real, tuple(range(len(self.step))))
        sequences = (*(f"before.{name}" for name in plan.states), "sent")
        places = self._places((*self.inputs, *self._numbers_and_weights, *sequences))
        for name in self.inputs:
            layout.sequence(name, places[name], self.dtype)
        layout.numbers(plan.parameters, self.constants, places)
        layout.matrix("weights", places["weights"])
        for label in sequences:
            layout.sequence(label, places[label], self.real)
        for k in range(plan.outputs):
            layout.rows(str(k), self.dtype)
        for name in self.call.recorded:
            layout.rows(name, self.real)
        if saves:
            layout.rows(plan.inputs[-1], self.real)
        return self._launch(layout, frozenset(), backward=False)

    def backward(
        self, saved: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given, wanted: tuple[bool, ...]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Gradients of the inputs, and of those tensors that are wanted; from what was saved."""
        plan, (asked, learned) = self.one.plan, self.asked(wanted)
        n, m, names = plan.outputs, len(plan.states), self.saved(learned)
        *before, sent, fed = saved[len(names) :]
        adjoints = [self._empty().zero_() if g is None else self._empty().copy_(g) for g in arriving[n : n + m]]
        bars = (*arriving[:n], *arriving[n + m + 1 :], arriving[n + m])
        given = (*saved[: len(names)], *self._given(tensors), *before, fed, *bars, *adjoints)
        made = self._launches.run(wanted, given, lambda: self._backwards(given, tensors, learned), reversed(range(self.shape[0])))
        if not self.shape[0]:  # no launch began the sums
            for part in made:
                part.zero_()
        of_inputs, of_fed, parts = made[: len(self.inputs)], made[len(self.inputs)], made[len(self.inputs) + 1 :]
        named = dict(zip(self.tensors, tensors, strict=True))
        found = {name: summed(part, named[name], self.step) for name, part in zip(sorted(learned), parts, strict=True)}
        found |= dict(zip(self.firsts, adjoints, strict=False))
        weights, arrived = named["weights"].to(self.real), arriving[n + m]
        with torch.autocast(self.device.type, enabled=False):
            if "first.recurrent" in asked:
                found["first.recurrent"] = of_fed[0] @ weights if self.shape[0] else self._empty().zero_() if arrived is None else arrived
            if "weights" in asked:
                found["weights"] = of_fed.reshape(-1, self.features).T @ sent[:-1].reshape(-1, self.features)
        return of_inputs, [found[name].sum_to_size(t.shape).to(t.dtype) if name in asked else None for name, t in named.items()]

    def _backwards(self, given: Given, tensors: Sequence[Tensor], learned: frozenset[str]) -> Launch:
        """The launch for tensors that lie so."""
        plan, names = self.one.plan, self.saved(learned)
        outputs, before = (*map(str, range(plan.outputs)), *self.call.recorded), tuple(f"before.{name}" for name in plan.states)
        bars, adjoints = tuple(f"bar.{name}" for name in outputs), tuple(f"adjoint.{name}" for name in plan.states)
        places = self._places((*names, *self._numbers_and_weights, *before, plan.inputs[-1], *bars, "bar.sent", *adjoints))
        layout = Layout(given, self.shape, self.real, tuple(range(len(self.step))))
        for name in names:
            layout.sequence(name, places[name], self.dtype)
        for label in (*before, plan.inputs[-1]):
            layout.sequence(label, places[label], self.real)
        layout.numbers((*plan.parameters, *(f"spike.{name}" for name in self.call.surrogate.arguments[1:])), self.constants, places)
        layout.matrix("weights", places["weights"])
        for name, label in zip(outputs, bars, strict=True):
            layout.arriving(label, places[label], self.real if name in self.call.recorded else self.dtype)
        for label in ("bar.sent", *adjoints):
            layout.state(label, places[label])
        for name in self.inputs:
            layout.rows(f"grad.{name}", self.dtype)
        layout.rows(f"grad.{plan.inputs[-1]}", self.real)
        of = dict(zip(self.tensors, tensors, strict=True))
        for name in sorted(learned):
            label = f"grad.{self._of_one[name]}"
            if of[name].numel() == 1:
                layout.parts(label, self.programs)
            else:
                layout.column(label)
        return self._launch(layout, self._learned(learned), backward=True)

    def _empty(self, *rows: int) -> Tensor:
        return torch.empty(*rows, *self.step, dtype=self.real, device=self.device)

    def _given(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Those tensors that are the same at each step."""
        return [x for name, x in zip(self.tensors, tensors, strict=True) if not name.startswith("first.")]

    @property
    def _numbers_and_weights(self) -> tuple[str, ...]:
        return tuple(self._of_one[name] for name in self.tensors if not name.startswith("first."))

    @staticmethod
    def _places(labelled: Sequence[str]) -> dict[str, int]:
        return {label: k for k, label in enumerate(labelled)}

    def _launch(self, layout: Layout, learned: frozenset[str], *, backward: bool) -> Launch:
        how: tuple[tuple[str, How], ...] = tuple((n, layout.how.get(n, "none")) for n in labels(self.one, learned, backward=backward))
        variant = Variant(self.one, backward, DTYPES[self.dtype], 1, how, learned, connected=True)
        unit = UNIT if all(n % UNIT == 0 for n in (self.features, *layout.distances.values())) else 1
        numbers = self.shape[0], self.samples, self.features // unit
        # AMD's units for matrices have no such products.
        precision = "tf32x3" if self.real is torch.float32 and torch.version.hip is None else "ieee"
        constants = TILE.rows * TILE.width, TILE.rows, TILE.depth, precision
        return Launch(layout, self.device, *kernel(variant), numbers, unit, self.programs, TILE.warps, constants)
