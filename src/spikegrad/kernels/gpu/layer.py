"""A layer on a GPU: from tensors to launches of its kernels.

Of a step's columns the kernels only want that they lie one after the other in memory, in whatever order: what is made gets the order that
the first input has, channels last for example, and nothing is copied but what lies otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from spikegrad.kernels import layers
from spikegrad.kernels.gate import DTYPES
from spikegrad.kernels.gpu.choice import Choice, choice, work
from spikegrad.kernels.gpu.compiler import kernel
from spikegrad.kernels.gpu.source import How, Variant, labels, recomputing
from spikegrad.kernels.layers import Given
from spikegrad.kernels.plan import Call
from spikegrad.kernels.values import Numbers

UNIT = 16
"""Elements by which memory is aligned where the number of columns and all distances are multiples of it."""

_Order = tuple[int, ...]
"""The dimensions of a step, the one whose neighbours lie furthest apart in memory first."""


class Layer(layers.Layer):
    """It saves the inputs, unless the gradient does not depend on them, and the states at the beginnings of rounds.

    Attributes:
        choice: how its kernels are launched.
    """

    def __init__(self, call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(call, numbers, shape, dtype, device)
        self.columns = math.prod(self.step)
        self.choice: Choice = choice(work(call.plan.passes()), shape[0], self.columns)
        self.constants = {n: self._constant(v) for n, v in self.values.items() if v is not None}

    def _constant(self, value: float) -> Tensor | float:
        """A number as a kernel takes it: as a value, or, where Triton would round it to float32, in memory."""
        return value if self.real is torch.float32 else torch.full((), value, dtype=self.real, device=self.device)

    def forward(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs, states after the last step and recorded values."""
        return self._forward(inputs, tensors, frozenset(), saves=False)[0]

    def saving(
        self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The same; and the sequences that `saved` names, and checkpoints."""
        made, checkpoints = self._forward(inputs, tensors, learned, saves=self._saves(learned))
        by_name = dict(zip(self.inputs, inputs, strict=True))
        return made, [*(by_name[name] for name in self.saved(learned)), *checkpoints]

    def _saves(self, learned: frozenset[str]) -> bool:
        """Whether the backward pass with gradients of the `learned` wants states at the beginnings of rounds."""
        return self._again(learned) and self.shape[0] > self.choice.steps and self._carried(learned) > 0

    def _carried(self, learned: frozenset[str]) -> int:
        return len(recomputing(self.call, self.call.plan.passes(learned))[0])

    def _again(self, learned: frozenset[str]) -> bool:
        passes = self.call.plan.passes(learned)
        return bool(passes.kept or passes.restored)

    def saved(self, learned: frozenset[str]) -> tuple[str, ...]:
        """The inputs that the backward pass is given."""
        return self.inputs if self._again(learned) else self.call.plan.passes(learned).reread

    def _forward(
        self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str], *, saves: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        plan, order = self.call.plan, _order(inputs[0])
        given = _Given(self, order)
        for name, x in zip(self.inputs, inputs, strict=True):
            given.sequence(name, x)
        given.numbers(tensors, (*self.firsts, *plan.parameters))
        outputs = [given.made(str(k), self.dtype) for k in range(plan.outputs)]
        recorded = [given.made(name, self.real) for name in self.call.recorded]
        last = [given.columns(f"last.{name}") for name in self.states]
        checkpoints = [given.checkpoints(self._carried(learned))] if saves else []
        self._launch(given, learned if saves else frozenset(), backward=False, saves=saves)
        return [*outputs, *last, *recorded], checkpoints

    def backward(
        self, saved: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given, wanted: tuple[bool, ...]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Gradients of the inputs, and of those tensors that are wanted; from what was saved."""
        plan, n, m = self.call.plan, self.call.plan.outputs, len(self.states)
        asked, learned = self.asked(wanted)
        names = self.saved(learned)
        sequences, checkpoints = saved[: len(names)], saved[len(names) :]
        like = next((x for x in (*sequences, *arriving[:n], *arriving[n + m :]) if x is not None and x.stride() != (0,) * x.ndim), None)
        given = _Given(self, tuple(range(len(self.step))) if like is None else _order(like))
        for name, x in zip(names, sequences, strict=True):
            given.sequence(name, x)
        again = self._again(learned)
        surrogate = tuple(f"spike.{name}" for name in self.call.surrogate.arguments[1:])
        given.numbers(tensors, (*(self.firsts if again else ()), *plan.parameters, *surrogate))
        for name, x in zip((*map(str, range(n)), *self.call.recorded), (*arriving[:n], *arriving[n + m :]), strict=True):
            given.arriving(f"bar.{name}", x)
        for name, x in zip(self.states, arriving[n : n + m], strict=True):
            given.state(f"bar.{name}", x)
        grads = [given.made(f"grad.{name}", self.dtype) for name in self.inputs]
        of = dict(zip(self.tensors, tensors, strict=True))
        found: dict[str, Tensor] = {}
        for name, first in zip(self.states, self.firsts, strict=True):
            if first in asked:
                found[first] = given.columns(f"grad.{name}")
            else:
                given.nothing(f"grad.{name}")
        for name in sorted(learned):
            found[name] = given.parts(f"grad.{name}") if of[name].numel() == 1 else given.columns(f"grad.{name}")
        if again:
            given.memory("checkpoints", checkpoints[0] if checkpoints else None)
        self._launch(given, learned, backward=True, saves=bool(checkpoints))
        shaped = [(found.get(name), t) for name, t in zip(self.tensors, tensors, strict=True)]
        return grads, [None if g is None else _summed(g, t, self.step).to(t.dtype) for g, t in shaped]

    def _launch(self, given: _Given, learned: frozenset[str], *, backward: bool, saves: bool) -> None:
        if not self.columns:
            for total in given.zeroed:
                total.zero_()
            return
        how: tuple[tuple[str, How], ...] = tuple((n, given.how.get(n, "none")) for n in labels(self.call, learned, backward=backward))
        variant = Variant(self.call, backward, DTYPES[self.dtype], self.choice.steps, how, learned, saves)
        function, arguments = kernel(variant)
        unit = UNIT if all(n % UNIT == 0 for n in (self.columns, *given.distances.values())) else 1
        values: list[Tensor | float | int] = []
        for argument in arguments:
            if argument.what == "distance":
                values.append(given.distances[argument.label] // unit)
            elif argument.what in ("share", "count"):
                values.append(given.shares[argument.label][argument.what == "count"])
            else:
                values.append(given.values[argument.label])
        grid = (-(-self.columns // self.choice.block),)
        with _guard(self.device):
            function[grid](
                *values,
                self.shape[0],
                self.columns // unit,
                BLOCK=self.choice.block,
                UNIT=unit,
                num_warps=self.choice.warps,
                # Where a spike is decided, forward and again backward, each operation is rounded by itself.
                enable_fp_fusion=False,
            )


def _guard(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _order(x: Tensor) -> _Order:
    """The order in which the columns of a step lie in memory; that of the dimensions where they do not lie densely."""
    return _ordered(tuple(x.shape[1:]), x.stride()[1:])


@functools.lru_cache(maxsize=1024)
def _ordered(shape: tuple[int, ...], strides: tuple[int, ...]) -> _Order:
    usual = tuple(range(len(shape)))
    order = tuple(sorted(usual, key=lambda d: (-strides[d], d)))
    return order if _dense(shape, strides, order) else usual


def _dense(shape: Sequence[int], strides: Sequence[int], order: _Order) -> bool:
    """Whether in this order each neighbour lies in the next place."""
    expected = 1
    for d in reversed(order):
        if shape[d] != 1 and strides[d] != expected:
            return False
        expected *= shape[d]
    return True


def _strides(shape: Sequence[int], order: _Order) -> tuple[int, ...]:
    found, by = [0] * len(shape), 1
    for d in reversed(order):
        found[d] = by
        by *= shape[d]
    return tuple(found)


def _summed(found: Tensor, like: Tensor, step: Sequence[int]) -> Tensor:
    """The gradient of a tensor from that of each column, or from parts of one number's."""
    if found.shape == step and (like.numel() != 1 or len(step) == 0):
        return found.sum_to_size(like.shape)
    return found.sum().expand(like.shape)


class _Given:
    """What a kernel is given, by label: how, and what.

    Attributes:
        how: as `Variant.given` says it.
        values: tensors and numbers.
        distances: elements between the rows of sequences that do not follow each other.
        shares: of numbers that some columns share, how many, and how many such numbers there are.
        zeroed: sums that are 0 if there are no columns.
    """

    def __init__(self, layer: Layer, order: _Order) -> None:
        self.layer, self.order = layer, order
        self.inner = _strides(layer.step, order)
        self.how: dict[str, How] = {}
        self.values: dict[str, Tensor | float] = {}
        self.distances: dict[str, int] = {}
        self.shares: dict[str, tuple[int, int]] = {}
        self.zeroed: list[Tensor] = []

    def memory(self, label: str, x: Tensor | float | None, how: How = "columns") -> None:
        """Something as it is."""
        if x is None:
            self.how[label] = "none"
        else:
            self.how[label], self.values[label] = how, x

    def nothing(self, label: str) -> None:
        """What is 0, or nobody wants."""
        self.how[label] = "none"

    def sequence(self, label: str, x: Tensor) -> None:
        """Something with rows, copied if these do not lie in memory as they should."""
        n, steps = self.layer.columns, x.shape[0]
        if not _dense(self.layer.step, x.stride()[1:], self.order) or (0 < x.stride(0) < n and steps > 1):
            x = self._copied(x)
        distance = x.stride(0) if steps > 1 else n
        self.memory(label, x, "rows" if distance == n else "apart")
        if distance != n:
            self.distances[label] = distance

    def arriving(self, label: str, x: Tensor | None) -> None:
        """The gradient of a sequence, None for zeros. One number for all of it is read as it is, as `sum` makes it."""
        if x is not None and x.numel() > 1 and not any(x.stride()):
            self.memory(label, x, "one")
        elif x is None:
            self.nothing(label)
        else:
            self.sequence(label, x)

    def state(self, label: str, x: Tensor | None) -> None:
        """Something of the shape of a step, in the working dtype, or None for zeros."""
        if x is not None:
            x = x.to(self.layer.real)
            x = x if _dense(x.shape, x.stride(), self.order) else self._placed(x)
        self.memory(label, x)

    def numbers(self, tensors: Sequence[Tensor], names: Sequence[str]) -> None:
        """States to start from and numbers: values, one number in memory, or some that broadcast to a step."""
        of, known = dict(zip(self.layer.tensors, tensors, strict=True)), self.layer.constants
        for name in names:
            if name in known:
                self.memory(name, known[name], "value" if isinstance(known[name], float) else "one")
                continue
            x = of[name].to(self.layer.real)
            if x.numel() == 1:
                self.memory(name, x, "one")
            elif (share := self._shared(x)) is not None:
                self.memory(name, x.contiguous(), "each")
                self.shares[name] = share
            else:
                self.state(name, x.expand(self.layer.step))

    def _shared(self, x: Tensor) -> tuple[int, int] | None:
        """Of numbers that differ in one dimension, how many columns in a row share one, and how many there are."""
        step = self.layer.step
        at = [d - x.ndim + len(step) for d in range(x.ndim) if x.shape[d] != 1]
        return (self.inner[at[0]], step[at[0]]) if len(at) == 1 else None

    def made(self, label: str, dtype: torch.dtype) -> Tensor:
        """Room for a sequence."""
        strides = (self.layer.columns, *self.inner)
        self.memory(label, torch.empty_strided(self.layer.shape, strides, dtype=dtype, device=self.layer.device), "rows")
        return self._tensor(label)

    def columns(self, label: str) -> Tensor:
        """Room for what has the shape of a step."""
        self.memory(label, torch.empty_strided(self.layer.step, self.inner, dtype=self.layer.real, device=self.layer.device))
        return self._tensor(label)

    def parts(self, label: str) -> Tensor:
        """Room for a sum's part from each program."""
        count = -(-self.layer.columns // self.layer.choice.block)
        self.memory(label, torch.empty(count, dtype=self.layer.real, device=self.layer.device), "one")
        self.zeroed.append(self._tensor(label))
        return self._tensor(label)

    def checkpoints(self, states: int) -> Tensor:
        """Room for so many states at the beginnings of rounds but the first."""
        layer = self.layer
        rounds = -(-layer.shape[0] // layer.choice.steps)
        self.memory("checkpoints", torch.empty(rounds - 1, states, layer.columns, dtype=layer.real, device=layer.device))
        return self._tensor("checkpoints")

    def _tensor(self, label: str) -> Tensor:
        found = self.values[label]
        assert isinstance(found, Tensor)
        return found

    def _copied(self, x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, (self.layer.columns, *self.inner), dtype=x.dtype, device=x.device).copy_(x)

    def _placed(self, x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, self.inner, dtype=x.dtype, device=x.device).copy_(x)
