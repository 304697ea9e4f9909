"""A layer on the CPU: from tensors to the jobs of its passes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from spikegrad.kernels import gate, layers
from spikegrad.kernels.cpu import results
from spikegrad.kernels.cpu.passes import SAMPLES, Pass, Sizes
from spikegrad.kernels.cpu.source import Variant
from spikegrad.kernels.gate import DTYPES
from spikegrad.kernels.layers import Given
from spikegrad.kernels.plan import FED, Call
from spikegrad.kernels.values import Numbers


class Layer(layers.Layer):
    """It saves the inputs, unless the gradient does not depend on them; with all-to-all recurrence what its backward pass keeps."""

    def __init__(self, call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__(call, numbers, shape, dtype, gate.CPU)
        read = {name: value for name, value in self.values.items() if name != "weights"}
        self._read = {n: v for n, v in read.items() if not n.startswith("spike.")}, read
        self._row = math.prod(shape[1:])
        self._passes: dict[Hashable, Pass] = {}

    def saving(
        self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """What `forward` returns, and what `saved` says."""
        made, names = self.forward(inputs, tensors, learned), self.saved(learned)
        if names is self.inputs:
            return made, inputs
        known = dict(zip(self.inputs, inputs, strict=True)) | {"0": made[0]}
        kept = [name for name in names if name not in known]
        known |= zip(kept, made[len(made) - len(kept) :], strict=True)
        return made[: len(made) - len(kept)], [known[name] for name in names]

    def forward(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str] | None = None) -> list[Tensor]:
        """Outputs, states after the last step and recorded values; and, if gradients of the `learned` are to follow, what is kept."""
        given = _Given(self._row)
        kept = self.call.plan.passes(learned).kept if self.fed and learned is not None else ()
        for x in inputs:
            given.sequence(x)
        outputs = [results.empty(self.shape, self.dtype) for _ in range(self.call.plan.outputs)]
        others = [results.empty(self.shape, self.real) for _ in (*self.call.recorded, *kept)]
        given.memory += (*outputs, *others)
        self._add_numbers(given, tensors, backward=False)
        last = [results.empty(self.step, self.real) for _ in self.states]
        given.memory += last
        if self.fed:
            given.memory.append(tensors[-1].to(self.real).t().contiguous())
        self._run(given, False, learned or _NONE if self.fed else _NONE, bool(kept))
        return [*outputs, *last, *others]

    def backward(
        self, saved: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given, wanted: tuple[bool, ...]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Gradients of the inputs, and of those tensors that are wanted; from what `saved` says."""
        given, n, m = _Given(self._row), self.call.plan.outputs, len(self.states)
        asked, learned = self.asked(wanted)
        for x in saved:
            given.sequence(x)
        for x in (*arriving[:n], *arriving[n + m :]):
            given.arriving(x)
        self._add_numbers(given, tensors, backward=True)
        for x in arriving[n : n + m]:
            given.add(0.0 if x is None else x.contiguous())
        found = {name: results.empty(self.step, self.real) for name in (*self.firsts, *sorted(learned)) if name in asked} if asked else {}
        grads = [results.empty(self.shape, self.dtype) for _ in self.inputs]
        given.memory += (*found.values(), *grads)
        if not tensors:
            self._run(given, True, asked)
            return grads, []
        if self.fed:
            given.memory.append(tensors[-1].to(self.real).contiguous())
            if "weights" in asked:
                features, blocks = self.shape[-1], -(-math.prod(self.shape[1:-1]) // SAMPLES)
                found["weights"] = torch.zeros(blocks, features, features, dtype=self.real, device="cpu")
                given.memory.append(found["weights"])
            if not self._fed_alike(learned):
                given.memory.append(results.empty(self.shape, self.real))
        self._run(given, True, asked)
        if "weights" in found:
            found["weights"] = found["weights"].sum(0).t()
        shaped = [(found.get(name), t) for name, t in zip(self.tensors, tensors, strict=True)]
        # A plain sum takes half of the time, which a small layer feels.
        return grads, [g if g is None else (g.sum_to_size(t.shape) if t.ndim else g.sum()).to(t.dtype) for g, t in shaped]

    def _fed_alike(self, learned: frozenset[str]) -> bool:
        return Variant(self.call, True, DTYPES[self.dtype], learned=learned).fed_alike

    def _add_numbers(self, given: _Given, tensors: Sequence[Tensor], *, backward: bool) -> None:
        """Tensors of one number, or of one for each column."""
        for name, x in zip(self.tensors, tensors, strict=True):
            if name in self._read[backward]:
                x = x if x.dtype is self.real else x.to(self.real)
                alone = x.numel() == 1
                given.add(x if alone else x.expand(self.step).contiguous(), 0 if alone else 1)

    def _run(self, given: _Given, backward: bool, asked: frozenset[str], keeps: bool = False) -> None:
        """Run a pass; `asked` are the tensors whose gradients are wanted, or, forward, those that the kernels will sum."""
        threads = torch.get_num_threads()
        key = backward, asked, keeps, threads, *given.how
        found = self._passes.get(key)
        if found is None:
            found = self._passes[key] = self._prepared(given.how, backward, asked, keeps, threads)
        found.run(given.memory)

    def _prepared(self, varying: Sequence[int | float], backward: bool, asked: frozenset[str], keeps: bool, threads: int) -> Pass:
        """The pass, from how that is given which is not always given alike, in the order of `forward` and `backward`."""
        plan, recorded, rest = self.call.plan, self.call.recorded, iter(varying)
        outputs, features = [*map(str, range(plan.outputs))], self.shape[-1] * self.fed
        learned = frozenset(name for name in asked if name != "weights" and not name.startswith("first."))
        layout: list[tuple[str, int | float | None]] = []
        single = _NONE
        if backward:
            layout += [(name, next(rest)) for name in self.saved(learned)]
            arriving = {name: next(rest) for name in (*outputs, *recorded)}
            single = frozenset(name for name, how in arriving.items() if how in (_SINGLE, _NOTHING))
            layout += [(f"bar.{name}", 0.0 if how == _NOTHING else 0 if how == _SINGLE else how) for name, how in arriving.items()]
        else:
            layout += [(name, next(rest)) for name in self.inputs]
            kept = (f"kept.{name}" for name in plan.passes(learned).kept if keeps)
            layout += [(name, self._row) for name in (*outputs, *recorded, *kept)]
        numbers = [(name, next(rest) if value is None else value) for name, value in self._read[backward].items()]
        layout += numbers
        if backward:
            layout += [(f"bar.{name}", next(rest)) for name in self.states]
            sums = ((name.removeprefix("first."), name) for name in (*self.firsts, *sorted(learned)))
            layout += [(f"grad.{name}", 1 if key in asked else None) for name, key in sums]
            layout += [(f"grad.{name}", self._row) for name in self.inputs]
        else:
            layout += [(f"last.{name}", 1) for name in self.states]
        if self.fed:
            layout.append(("weights", features))
        if self.fed and backward:
            layout.append(("grad.weights", 1 if "weights" in asked else None))
            layout += [] if self._fed_alike(learned) else [(f"grad.{FED}", self._row)]
        columns = frozenset(name for name, how in numbers if how == 1 and isinstance(how, int) and not name.startswith("first."))
        variant = Variant(self.call, backward, DTYPES[self.dtype], columns, learned, single, keeps)
        return Pass(variant, Sizes(self.shape[0], self._row, threads, features), tuple(layout))


_NONE: frozenset[str] = frozenset()
_SINGLE, _NOTHING = -1, -2
"""How a gradient is given that is one number for all of a sequence, or that nobody sent: no distance between rows, of which 0 is one."""


class _Given:
    """What a pass is given: the memory, and how that is given which is not always given alike."""

    __slots__ = ("how", "memory", "row")

    def __init__(self, row: int) -> None:
        self.row = row
        self.memory: list[Tensor] = []
        self.how: list[int | float] = []

    def add(self, x: Tensor | float, stride: int = 1) -> None:
        """Memory whose rows or columns are so far apart, or a number."""
        if isinstance(x, Tensor):
            self.memory.append(x)
            self.how.append(stride)
        else:
            self.how.append(x)

    def sequence(self, x: Tensor) -> None:
        """Something with rows. One row for all steps is read as it is."""
        if x.is_contiguous():
            self.memory.append(x)
            self.how.append(self.row)
        else:
            same = len(x) > 1 and x.stride(0) == 0 and x[0].is_contiguous()
            self.add(x if same else x.contiguous(), 0 if same else self.row)

    def arriving(self, x: Tensor | None) -> None:
        """The gradient of a sequence, None for zeros. One number for all of it is read as it is, as `sum` makes it."""
        if x is None:
            self.how.append(_NOTHING)
            return
        if not x.is_contiguous() and not any(x.stride()):
            self.add(x, _SINGLE)
        else:
            self.sequence(x)
