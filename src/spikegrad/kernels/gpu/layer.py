"""A layer on a GPU: which kernels its passes launch, and for what."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spikegrad.kernels import layers
from spikegrad.kernels.gate import DTYPES
from spikegrad.kernels.gpu.choice import Choice, choice, work
from spikegrad.kernels.gpu.compiler import kernel
from spikegrad.kernels.gpu.layout import Launch, Launches, Layout, order_of
from spikegrad.kernels.gpu.source import How, Variant, labels, recomputing
from spikegrad.kernels.layers import Given
from spikegrad.kernels.plan import Call
from spikegrad.kernels.values import Numbers
from spikegrad.remembering import remember

UNIT = 16
"""Elements by which memory is aligned where the number of columns and all distances are multiples of it."""


class Layer(layers.Layer):
    """It saves the inputs, unless the gradient does not depend on them, and the states at the beginnings of rounds.

    Attributes:
        choice: how its kernels are launched.
    """

    def __init__(self, call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(call, numbers, shape, dtype, device)
        self.columns = math.prod(self.step)
        self.choice: Choice = choice(work(call.plan.passes()), shape[0], self.columns, dtype.itemsize)
        self.constants = {n: constant(v, self.real, device) for n, v in self.values.items() if v is not None}
        self._launches = Launches()
        self._carries: dict[frozenset[str], int] = {}

    def forward(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs, states after the last step and recorded values."""
        return self._forward(inputs, tensors, None)

    def saving(
        self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The same; and the sequences that `saved` names, and checkpoints."""
        saves = self.shape[0] > self.choice.steps and self._carried(learned) > 0
        made = self._forward(inputs, tensors, learned if saves else None)
        kept = [x for name, x in zip(self.inputs, inputs, strict=True) if name in self.saved(learned)]
        return (made[:-1], [*kept, made[-1]]) if saves else (made, kept)

    def _carried(self, learned: frozenset[str]) -> int:
        """How many states the backward pass with gradients of the `learned` wants at the beginnings of rounds."""
        found = self._carries.get(learned)
        if found is None:
            passes = self.call.plan.passes(learned)
            found = len(recomputing(self.call, passes)[0]) if passes.kept or passes.restored else 0
            remember(self._carries, learned, found)
        return found

    def saved(self, learned: frozenset[str]) -> tuple[str, ...]:
        """The inputs that the backward pass is given."""
        passes = self.call.plan.passes(learned)
        return self.inputs if passes.kept or passes.restored else passes.reread

    def _forward(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], saving: frozenset[str] | None) -> list[Tensor]:
        """What `forward` returns; and checkpoints for the gradients of the numbers `saving`, if that is given."""
        given = (*inputs, *tensors)
        return self._launches.run(saving, given, lambda: self._forwards(given, saving))

    def _forwards(self, given: Sequence[Tensor], saving: frozenset[str] | None) -> Launch:
        """The launch for tensors that lie so."""
        plan, places = self.call.plan, {name: k for k, name in enumerate((*self.inputs, *self.tensors))}
        layout = Layout(given, self.shape, self.real, order_of(given[0]))
        for name in self.inputs:
            layout.sequence(name, places[name], self.dtype)
        layout.numbers((*self.firsts, *plan.parameters), self.constants, places)
        for k in range(plan.outputs):
            layout.rows(str(k), self.dtype)
        for name in self.states:
            layout.column(f"last.{name}")
        for name in self.call.recorded:
            layout.rows(name, self.real)
        if saving is not None:
            layout.several("checkpoints", -(-self.shape[0] // self.choice.steps) - 1, self._carried(saving))
        return self._launch(layout, saving or frozenset(), backward=False, saves=saving is not None)

    def backward(
        self, saved: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given, wanted: tuple[bool, ...]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Gradients of the inputs, and of those tensors that are wanted; from what was saved."""
        given = (*saved, *tensors, *arriving)
        made = self._launches.run((wanted, len(saved)), given, lambda: self._backwards(given, tensors, len(saved), wanted))
        count = len(self.inputs)
        found = dict(zip(self._order(wanted), made[count:], strict=True))
        grads = [summed(found[n], t, self.step).to(t.dtype) if n in found else None for n, t in zip(self.tensors, tensors, strict=True)]
        return made[:count], grads

    def _order(self, wanted: tuple[bool, ...]) -> tuple[str, ...]:
        """The tensors whose gradients are wanted, in the order of their gradients."""
        asked, learned = self.asked(wanted)
        return (*(first for first in self.firsts if first in asked), *sorted(learned))

    def _backwards(self, given: Given, tensors: Sequence[Tensor], saved: int, wanted: tuple[bool, ...]) -> Launch:
        """The launch for tensors that lie so: of those that are given, so many were saved."""
        plan, asked = self.call.plan, self._order(wanted)
        learned = self.asked(wanted)[1]
        sequences = self.saved(learned)
        arriving = (*map(str, range(plan.outputs)), *self.states, *self.call.recorded)
        labelled = (*sequences, *("checkpoints",) * (saved - len(sequences)), *self.tensors, *(f"bar.{name}" for name in arriving))
        places = {label: k for k, label in enumerate(labelled)}
        rows = (*sequences, *(f"bar.{name}" for name in arriving if name not in self.states))
        like = next((x for label in rows if (x := given[places[label]]) is not None and any(x.stride())), None)
        layout = Layout(given, self.shape, self.real, tuple(range(len(self.step))) if like is None else order_of(like))
        for name in sequences:
            layout.sequence(name, places[name], self.dtype)
        passes = plan.passes(learned)
        again = passes.kept or passes.restored
        surrogate = tuple(f"spike.{name}" for name in self.call.surrogate.arguments[1:])
        layout.numbers((*(self.firsts if again else ()), *plan.parameters, *surrogate), self.constants, places)
        for name in arriving:
            label = f"bar.{name}"
            if name in self.states:
                layout.state(label, places[label])
            else:
                layout.arriving(label, places[label], self.real if name in self.call.recorded else self.dtype)
        for name in self.inputs:
            layout.rows(f"grad.{name}", self.dtype)
        of = dict(zip(self.tensors, tensors, strict=True))
        for name in asked:
            label = f"grad.{name.removeprefix('first.')}"
            if name in learned and of[name].numel() == 1:
                layout.parts(label, self._programs)
            else:
                layout.column(label)
        if "checkpoints" in places:
            layout.memory("checkpoints", places["checkpoints"])
        return self._launch(layout, learned, backward=True, saves="checkpoints" in places)

    @property
    def _programs(self) -> int:
        return -(-self.columns // self.choice.block)

    def _launch(self, layout: Layout, learned: frozenset[str], *, backward: bool, saves: bool) -> Launch:
        how: tuple[tuple[str, How], ...] = tuple((n, layout.how.get(n, "none")) for n in labels(self.call, learned, backward=backward))
        variant = Variant(self.call, backward, DTYPES[self.dtype], self.choice.steps, how, learned, saves)
        unit = UNIT if all(n % UNIT == 0 for n in (self.columns, *layout.distances.values())) else 1
        numbers, constants = (self.shape[0], self.columns // unit), (self.choice.block,)
        return Launch(layout, self.device, *kernel(variant), numbers, unit, self._programs, self.choice.warps, constants)


def constant(value: float, real: torch.dtype, device: torch.device) -> Tensor | float:
    """A number as a kernel takes it: as a value, or, where Triton would round it to float32, in memory."""
    return value if real is torch.float32 else torch.full((), value, dtype=real, device=device)


def summed(found: Tensor, like: Tensor, step: Sequence[int]) -> Tensor:
    """The gradient of a tensor from that of each column, or from parts of one number's."""
    if found.shape == step and (like.numel() != 1 or len(step) == 0):
        return found.sum_to_size(like.shape)
    return found.sum().expand(like.shape)
