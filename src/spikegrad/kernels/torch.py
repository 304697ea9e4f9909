"""The fused kernels in PyTorch, as an autograd function.

It saves the inputs, unless the gradient does not depend on them, and nothing else of the size of the sequence; with all-to-all recurrence
what its backward pass keeps. A second derivative in reverse mode, and a backward pass where a kernel may not run, fall to the plain loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # pyright: ignore[reportPrivateUsage]

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels import gate, loop
from spikegrad.kernels.cpu import results
from spikegrad.kernels.cpu.passes import SAMPLES, Pass, Sizes
from spikegrad.kernels.cpu.source import Variant
from spikegrad.kernels.gate import DTYPES
from spikegrad.kernels.plan import FED, Call
from spikegrad.kernels.values import Number, Numbers, real, values_of
from spikegrad.recorded import from_record
from spikegrad.vocabulary import Array

Given = tuple[Tensor | None, ...]


class Layer:
    """A layer whose inputs have this shape and dtype: what its passes have in common. Ask `layer_of` for it.

    Attributes:
        call: the layer apart from its arrays.
        shape: of the inputs; `step` is that of one step.
        dtype: of the inputs.
        real: the dtype of states and parameters.
        fed: whether neurons receive the outputs of all of them.
        inputs: names of what is given at each step.
        states: names of the states, what is fed back last.
        values: all numbers by name, None for each tensor.
        tensors: the names of these, in their order.
    """

    def __init__(self, call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype) -> None:
        self.call, self.shape, self.dtype = call, shape, dtype
        self.real = real(dtype)
        self.fed = call.connection == "all-to-all"
        self.inputs = tuple(name for name in call.plan.inputs if name != FED)
        self.states = (*call.plan.states, *("recurrent",) * self.fed)
        surrogate = (f"spike.{name}" for name in call.surrogate.arguments[1:])
        names = (*call.plan.parameters, *surrogate, *(f"first.{name}" for name in self.states), *("weights",) * self.fed)
        self.values = dict(zip(names, (v for part in numbers for v in part), strict=True))
        self.tensors = tuple(name for name, value in self.values.items() if value is None)
        read = {name: value for name, value in self.values.items() if name != "weights"}
        self._firsts = tuple(f"first.{name}" for name in self.states)
        self._read = {n: v for n, v in read.items() if not n.startswith("spike.")}, read
        self.step, self._row = shape[1:], math.prod(shape[1:])
        self._passes: dict[Hashable, Pass] = {}
        self._asked: dict[tuple[bool, ...], tuple[frozenset[str], frozenset[str]]] = {}

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Number]:
        """All numbers by name."""
        known = {name: value for name, value in self.values.items() if value is not None}
        return {**known, **dict(zip(self.tensors, tensors, strict=True))}

    def asked(self, wanted: tuple[bool, ...]) -> tuple[frozenset[str], frozenset[str]]:
        """Names of the tensors whose gradients are wanted, and of those the ones that kernels sum over the steps."""
        found = self._asked.get(wanted)
        if found is None:
            names = frozenset(name for name, want in zip(self.tensors, wanted, strict=True) if want)
            found = self._asked[wanted] = names, frozenset(n for n in names if n != "weights" and not n.startswith("first."))
        return found

    def saved(self, learned: frozenset[str]) -> tuple[str, ...]:
        """What of the size of the sequence the backward pass is given."""
        passes = self.call.plan.passes(learned)
        if self.fed:
            return (*(name for name in passes.reread if name != FED), "0", *(f"kept.{name}" for name in passes.kept))
        return self.inputs if passes.kept else passes.reread

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
        found = {name: results.empty(self.step, self.real) for name in (*self._firsts, *sorted(learned)) if name in asked} if asked else {}
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
        return grads, [g if g is None else g.sum_to_size(t.shape).to(t.dtype) for g, t in shaped]

    def _fed_alike(self, learned: frozenset[str]) -> bool:
        return Variant(self.call, True, DTYPES[self.dtype], learned=learned).fed_alike

    def _add_numbers(self, given: _Given, tensors: Sequence[Tensor], *, backward: bool) -> None:
        """Tensors of one number, or of one for each column."""
        for name, x in zip(self.tensors, tensors, strict=True):
            if name in self._read[backward]:
                x = x.to(self.real)
                alone = x.numel() == 1
                given.add(x.contiguous() if alone else x.expand(self.step).contiguous(), 0 if alone else 1)

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
            sums = ((name.removeprefix("first."), name) for name in (*self._firsts, *sorted(learned)))
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


def _readable(x: Tensor | None) -> Tensor | None:
    """A gradient as numbers in memory, which one of PyTorch's own that is sparse, or marked as negative or as zero, does not have."""
    if type(x) is not Tensor:
        return x
    if x.layout is not torch.strided:
        x = x.to_dense()
    return x.clone() if x.is_neg() or torch._is_zerotensor(x) else x  # pyright: ignore


def _obstacle(layer: Layer, saved: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given) -> str | None:
    """Why the kernels cannot run a backward pass now, though they ran the forward pass, or None."""
    reason = gate.surroundings() or gate.obstacle(*saved, *tensors, *[g for g in arriving if g is not None])
    for x in saved if reason is None else ():
        if x.shape != layer.shape or x.dtype not in (layer.dtype, layer.real):
            return "what was saved comes back with another shape or dtype"
    return reason


_LAYERS = 1024
"""Layers that are remembered."""


@functools.lru_cache(_LAYERS)
def layer_of(call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype) -> Layer:
    """The layer, the same object each time."""
    return Layer(call, numbers, shape, dtype)


def _by_the_loop(
    layer: Layer, inputs: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given, reason: str | None
) -> list[Tensor | None]:
    """The gradients of inputs and tensors by way of the plain loop, themselves differentiable if that is asked for."""
    plan, call, again = layer.call.plan, layer.call, torch.is_grad_enabled()
    if gate.functionalizing():
        raise RuntimeError("a fused layer cannot be differentiated inside torch.func.functionalize; make it with backend='reference'")
    if layer.fed:
        what = "twice" if again else f"here ({reason})"
        raise RuntimeError(f"a fused layer with all-to-all connections cannot be differentiated {what}; make it with backend='reference'")
    named = layer.named(tensors)
    numbers = {name.removeprefix("spike."): value for name, value in named.items() if name.startswith("spike.")}
    surrogate = from_record(call.surrogate)(**{name: 1.0 if isinstance(x, Tensor) else x for name, x in numbers.items()})
    learned: dict[str, Array] = {name: value for name, value in numbers.items() if isinstance(value, Tensor)}

    def fire(x: Tensor, spike_at_threshold: bool, _: None) -> Tensor:
        return surrogate(x, spike_at_threshold=spike_at_threshold, **learned)

    with torch.enable_grad():
        if not inputs:  # not saved, for the gradient does not depend on them
            zero = torch.zeros((), dtype=layer.dtype, device="cpu", requires_grad=True)
            inputs = [zero.expand(layer.shape) for _ in layer.inputs]
        inputs = [x.to(layer.dtype) for x in inputs]  # which hooks may have saved in another
        wide = [x.to(layer.real) for x in inputs]
        step = wide[0].new_zeros(layer.shape[1:])
        state = [(step + named[f"first.{name}"]).to(step) for name in plan.states]
        parameters = {name: named[name] for name in plan.parameters}
        outputs, last, recorded = loop.run(call, fire, wide, state, parameters, rested=False)
        made = [*(x.to(layer.dtype) for x in outputs), *last, *recorded]
        heads = [(o, g) for o, g in zip(made, arriving, strict=True) if g is not None and o.requires_grad]
        given = [x for x in (*inputs, *tensors) if x.requires_grad]
        found: Iterator[Tensor | None] = iter([None] * len(given))
        if heads:
            outs, gradients = zip(*heads, strict=True)
            found = iter(torch.autograd.grad(outs, given, gradients, create_graph=again, allow_unused=True))
    return [next(found) if x.requires_grad else None for x in (*inputs, *tensors)]


class _Context(Context, Protocol):
    layer: Layer
    count: int


class _Fused(Function):
    """The eager path: an operator's dispatch through Python costs as much as a small layer."""

    @staticmethod
    def forward(ctx: _Context, layer: Layer, *given: Tensor) -> tuple[Tensor, ...]:
        count = len(layer.inputs)
        inputs, tensors = given[:count], given[count:]
        _, learned = layer.asked(ctx.needs_input_grad[1 + count :])
        made, saved = layer.saving(inputs, tensors, learned)
        ctx.layer, ctx.count = layer, len(saved)
        ctx.save_for_backward(*saved, *tensors)
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor | None) -> Gradients:
        return (_uncompiled if torch.compiler.is_compiling() else _backward)(ctx, arriving)


def _backward(ctx: _Context, arriving: Given) -> Gradients:
    layer, given, count = ctx.layer, ctx.saved_tensors, ctx.count
    saved, tensors, reason = given[:count], given[count:], None
    if not torch.is_grad_enabled():  # which create_graph=True enables
        reason = _obstacle(layer, saved, tensors, arriving)
        if reason is not None:
            arriving = tuple(map(_readable, arriving))
            reason = _obstacle(layer, saved, tensors, arriving)
    if reason is not None or torch.is_grad_enabled():
        return None, *_by_the_loop(layer, saved, tensors, arriving, reason)
    grads, of_tensors = layer.backward(saved, tensors, arriving, ctx.needs_input_grad[1 + len(layer.inputs) :])
    return None, *grads, *of_tensors


_uncompiled = _disable_dynamo(_backward)
"""For compiled autograd, which would trace through a backward pass of a layer that is not compiled."""

_apply: Callable[..., Sequence[Tensor]] = super(torch.autograd.Function, _Fused).apply  # pyright: ignore[reportArgumentType]
"""Without what `torch.autograd.Function.apply` does for transforms, inside which the plain loop runs: that costs as much as a kernel."""


_at_rest: dict[Hashable, Layer] = {}
"""Layers that start from rest and whose numbers are floats, for which nothing need be asked of each number."""


def _constant(call: Call, numbers: Mapping[str, Number], surrogate: Mapping[str, Number], shape: torch.Size, dtype: torch.dtype) -> Layer:
    key = call.key, tuple(numbers.values()), tuple(surrogate.values()), shape, dtype
    found = _at_rest.get(key)
    if found is None:
        given, _ = values_of(call, (), numbers, surrogate, real(dtype))
        if len(_at_rest) >= _LAYERS:
            _at_rest.clear()
        found = _at_rest[key] = layer_of(call, given, shape, dtype)
    return found


def run(
    call: Call,
    inputs: Sequence[Tensor],
    state: Sequence[Tensor],
    numbers: Mapping[str, Number],
    surrogate: Mapping[str, Number],
    *,
    constant: bool = False,
) -> Sequence[Tensor]:
    """Outputs, states after the last step and recorded values of a layer on the CPU.

    Args:
        call: the layer.
        inputs: sequences of one shape and dtype.
        state: the states before the first step, in the working dtype; empty for rest.
        numbers: those of the neuron, and the resting numbers of its states, by name: floats or tensors; and recurrent `weights`.
        surrogate: those of the surrogate, likewise.
        constant: that all of these are floats, and no state is given.
    """
    shape, dtype = inputs[0].shape, inputs[0].dtype
    if constant:
        layer, tensors = _constant(call, numbers, surrogate, shape, dtype), ()
    else:
        given, tensors = values_of(call, state, numbers, surrogate, real(dtype))
        layer = layer_of(call, given, shape, dtype)
    if torch.is_grad_enabled():
        return _apply(layer, *inputs, *tensors)
    return layer.forward(inputs, tensors)
