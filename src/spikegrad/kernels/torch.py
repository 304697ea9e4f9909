"""The fused kernels in PyTorch, as an autograd function.

It saves the inputs, unless the gradient does not depend on them, and nothing else of the size of the sequence; with all-to-all recurrence
what its backward pass keeps. A second derivative in reverse mode falls to the plain loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikegrad.kernels import loop
from spikegrad.kernels.cpu import results
from spikegrad.kernels.cpu.passes import SAMPLES, Sizes, prepared
from spikegrad.kernels.cpu.source import Variant
from spikegrad.kernels.plan import FED, Call
from spikegrad.recorded import from_record

DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
Given = tuple[Tensor | None, ...]


class Numbers(NamedTuple):
    """The numbers of a layer, as floats where they are: those of the plan's parameters and of the surrogate, and where states rest.

    None stands for each that is a tensor, in their order among the tensors; states that are given, and recurrent weights, count as such.
    """

    parameters: tuple[float | None, ...]
    surrogate: tuple[float | None, ...]
    state: tuple[float | None, ...]
    weights: tuple[None, ...] = ()


class Layer(NamedTuple):
    """A layer whose inputs have this shape and dtype: what its passes have in common."""

    call: Call
    numbers: Numbers
    shape: torch.Size
    dtype: torch.dtype

    @property
    def real(self) -> torch.dtype:
        """The dtype of states and parameters."""
        return torch.float64 if self.dtype is torch.float64 else torch.float32

    @property
    def fed(self) -> bool:
        """Whether neurons receive the outputs of all of them."""
        return self.call.connection == "all-to-all"

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is given at each step."""
        return tuple(name for name in self.call.plan.inputs if name != FED)

    @property
    def states(self) -> tuple[str, ...]:
        """The states, what is fed back last."""
        return (*self.call.plan.states, *("recurrent",) * self.fed)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all numbers, in the order of `Numbers`."""
        surrogate = (f"spike.{name}" for name in self.call.surrogate.arguments[1:])
        return (*self.call.plan.parameters, *surrogate, *(f"first.{name}" for name in self.states), *("weights",) * self.fed)

    def named(self, tensors: Sequence[Tensor]) -> dict[str, float | Tensor]:
        """All numbers by name."""
        rest = iter(tensors)
        values = (v for part in self.numbers for v in part)
        return {name: next(rest) if value is None else value for name, value in zip(self.names, values, strict=True)}

class _Memory:
    """What a pass is given, collected: the layout, and the memory in its order."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.row = layer, math.prod(layer.shape[1:])
        self.layout: list[tuple[str, int | float | None]] = []
        self.memory: list[Tensor] = []
        self.columns: list[str] = []
        self.single: list[str] = []

    def add(self, name: str, given: Tensor | float | None, stride: int = 1) -> None:
        """An argument: memory whose rows or columns are so far apart, a number, or nothing."""
        self.layout.append((name, stride if isinstance(given, Tensor) else given))
        if isinstance(given, Tensor):
            self.memory.append(given)

    def sequences(self, names: Sequence[str], given: Sequence[Tensor]) -> None:
        """Inputs, or places for results. One row for all steps is read as it is."""
        for name, tensor in zip(names, given, strict=True):
            same = len(tensor) > 1 and tensor.stride(0) == 0 and tensor[0].is_contiguous()
            self.add(name, tensor if same else tensor.contiguous(), 0 if same else self.row)

    def arriving(self, names: Sequence[str], given: Sequence[Tensor | None]) -> None:
        """Gradients of sequences, None for zeros. One number for all of it is read as it is, as `sum` makes it."""
        for name, tensor in zip(names, given, strict=True):
            if tensor is None or (tensor.numel() > 1 and not any(tensor.stride())):
                self.single.append(name)
                self.add(f"bar.{name}", 0.0 if tensor is None else tensor, 0)
            else:
                self.sequences([f"bar.{name}"], [tensor])

    def numbers(self, named: dict[str, float | Tensor], wanted: Sequence[str]) -> None:
        """Parameters, or states before the first step: numbers, tensors of one number, or one for each column."""
        for name in wanted:
            value = named[name]
            if isinstance(value, Tensor):
                value = value.to(self.layer.real)
                alone = value.numel() == 1
                self.add(name, value.contiguous() if alone else value.expand(self.layer.shape[1:]).contiguous(), 0 if alone else 1)
                if not alone:
                    self.columns.append(name)
            else:
                self.add(name, value)

    def weights(self, weight: Tensor, backward: bool) -> None:
        """Recurrent weights: by sender forward, by receiver backward."""
        wide = weight.to(self.layer.real)
        self.add("weights", (wide if backward else wide.t()).contiguous(), len(weight))

    def run(self, backward: bool, learned: frozenset[str] = frozenset(), keeps: bool = True) -> None:
        """Run the pass."""
        columns = frozenset(name for name in self.columns if not name.startswith("first."))
        variant = Variant(self.layer.call, backward, DTYPES[self.layer.dtype], columns, learned, frozenset(self.single), keeps)
        features = self.layer.shape[-1] if self.layer.fed else 0
        sizes = Sizes(self.layer.shape[0], self.row, torch.get_num_threads(), features)
        prepared(variant, sizes, tuple(self.layout)).run(self.memory)


def learned_among(layer: Layer, wanted: Sequence[bool]) -> tuple[set[str], frozenset[str]]:
    """Names of the numbers that are tensors whose gradients are wanted, and of those the ones that kernels give."""
    names = [name for name, value in zip(layer.names, (v for part in layer.numbers for v in part), strict=True) if value is None]
    asked = {name for name, want in zip(names, wanted, strict=True) if want}
    return asked, frozenset(name for name in asked if not name.startswith("first.") and name != "weights")


def forward(
    layer: Layer, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, states after the last step and recorded values; and what is kept in memory, if gradients of the `learned` are to follow."""
    plan, given, named = layer.call.plan, _Memory(layer), layer.named(tensors)
    outputs = [results.empty(layer.shape, layer.dtype) for _ in range(plan.outputs)]
    last = [torch.empty(layer.shape[1:], dtype=layer.real, device="cpu") for _ in layer.states]
    recorded = [results.empty(layer.shape, layer.real) for _ in layer.call.recorded]
    names = plan.passes(learned).kept if layer.fed and learned is not None else ()
    kept = [results.empty(layer.shape, layer.real) for _ in names]
    given.sequences(layer.inputs, inputs)
    given.sequences((*map(str, range(plan.outputs)), *layer.call.recorded), (*outputs, *recorded))
    given.sequences([f"kept.{name}" for name in names], kept)
    given.numbers(named, (*plan.parameters, *(f"first.{name}" for name in layer.states)))
    for name, made in zip(layer.states, last, strict=True):
        given.add(f"last.{name}", made)
    if layer.fed:
        given.weights(tensors[-1], backward=False)
    given.run(False, (learned or frozenset()) if layer.fed else frozenset(), bool(kept))
    return [*outputs, *last, *recorded], kept


def backward(
    layer: Layer, saved: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given, wanted: Sequence[bool]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Gradients of the inputs, and of those tensors that are wanted; from the inputs, or from what `_saved` says."""
    plan, given, named = layer.call.plan, _Memory(layer), layer.named(tensors)
    asked, learned = learned_among(layer, wanted)
    n, m, passes = plan.outputs, len(layer.states), plan.passes(learned)
    saved_names = saved_by(layer, learned)
    given.sequences(saved_names, saved)
    given.arriving((*map(str, range(n)), *layer.call.recorded), (*arriving[:n], *arriving[n + m :]))
    given.numbers(named, [name for name in layer.names if name != "weights"])
    for name, gradient in zip(layer.states, arriving[n : n + m], strict=True):
        given.add(f"bar.{name}", 0.0 if gradient is None else gradient.contiguous())
    found: dict[str, Tensor | None] = {}
    for name in (*layer.states, *sorted(learned)):
        key = f"first.{name}" if name in layer.states else name
        found[key] = torch.empty(layer.shape[1:], dtype=layer.real, device="cpu") if key in asked else None
        given.add(f"grad.{name}", found[key])
    grads, shares = [results.empty(layer.shape, layer.dtype) for _ in layer.inputs], None
    given.sequences([f"grad.{name}" for name in layer.inputs], grads)
    if layer.fed:
        given.weights(tensors[-1], backward=True)
        alike = Variant(layer.call, True, DTYPES[layer.dtype], learned=learned).fed_alike
        blocks, features = -(-math.prod(layer.shape[1:-1]) // SAMPLES), layer.shape[-1]
        shares = torch.zeros(blocks, features, features, dtype=layer.real, device="cpu") if "weights" in asked else None
        given.add("grad.weights", shares)
        if not alike:
            given.sequences([f"grad.{FED}"], [results.empty(layer.shape, layer.real)])
    given.run(True, learned)
    if layer.fed:
        found["weights"] = None if shares is None else shares.sum(0).t()
    of_tensors = [found.get(name) for name, value in named.items() if isinstance(value, Tensor)]
    shaped = [g if g is None else g.sum_to_size(t.shape).to(t.dtype) for g, t in zip(of_tensors, tensors, strict=True)]
    return grads, shaped


def saved_by(layer: Layer, learned: frozenset[str]) -> list[str]:
    """What of the size of the sequence the backward pass is given."""
    passes = layer.call.plan.passes(learned)
    if layer.fed:
        return [*(name for name in passes.reread if name != FED), "0", *(f"kept.{name}" for name in passes.kept)]
    return [*(layer.inputs if passes.kept else passes.reread)]


def _differentiable(layer: Layer, inputs: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given) -> list[Tensor | None]:
    """The gradients of inputs and tensors by way of the plain loop, themselves differentiable."""
    plan, call = layer.call.plan, layer.call
    if layer.fed:
        raise RuntimeError("a fused layer with all-to-all connections keeps no inputs to differentiate twice; make it with backend='reference'")
    if not inputs:  # not saved, for the gradient does not depend on them
        zero = torch.zeros((), dtype=layer.dtype, device="cpu", requires_grad=True)
        inputs = [zero.expand(layer.shape) for _ in layer.inputs]
    named = layer.named(tensors)
    numbers = {name.removeprefix("spike."): value for name, value in named.items() if name.startswith("spike.")}
    floats = {name: value for name, value in numbers.items() if not isinstance(value, Tensor)}
    surrogate = from_record(call.surrogate)(**floats)
    learned: dict[str, Any] = {name: value for name, value in numbers.items() if isinstance(value, Tensor)}

    def fire(x: Tensor, spike_at_threshold: bool, _: None) -> Tensor:
        return surrogate(x, spike_at_threshold=spike_at_threshold, **learned)

    with torch.enable_grad():
        wide = [x.to(layer.real) for x in inputs]
        step = wide[0].new_zeros(layer.shape[1:])
        state = [step + named[f"first.{name}"] for name in plan.states]
        parameters = {name: named[name] for name in plan.parameters}
        outputs, last, recorded = loop.run(call, fire, wide, state, parameters, rested=False)
        made = [*(x.to(layer.dtype) for x in outputs), *last, *recorded]
        heads = [(o, g) for o, g in zip(made, arriving, strict=True) if g is not None and o.requires_grad]
        given = [x for x in (*inputs, *tensors) if x.requires_grad]
        found: Any = iter([None] * len(given))
        if heads:
            outs, gradients = zip(*heads, strict=True)
            found = iter(torch.autograd.grad(outs, given, gradients, create_graph=True, allow_unused=True))
    return [next(found) if x.requires_grad else None for x in (*inputs, *tensors)]


class _Fused(torch.autograd.Function):
    """The eager path: an operator's dispatch through Python costs as much as a small layer."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, *given: Tensor) -> Any:  # pyright: ignore
        count = len(layer.inputs)
        inputs, tensors = given[:count], given[count:]
        _, learned = learned_among(layer, ctx.needs_input_grad[1 + count :])
        made, kept = forward(layer, inputs, tensors, learned)
        ctx.layer, ctx.saved = layer, saved_by(layer, learned)
        found = dict(zip(layer.inputs, inputs, strict=True)) | {"0": made[0]}
        found |= zip((f"kept.{name}" for name in layer.call.plan.passes(learned).kept), kept, strict=False)
        ctx.save_for_backward(*(found[name] for name in ctx.saved), *tensors)
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> Any:  # pyright: ignore
        layer, count = ctx.layer, len(ctx.saved)
        saved, tensors = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if torch.is_grad_enabled():  # create_graph=True
            return None, *_differentiable(layer, saved, tensors, arriving)
        grads, of_tensors = backward(layer, saved, tensors, arriving, ctx.needs_input_grad[1 + len(layer.inputs) :])
        return None, *grads, *of_tensors


_apply: Any = super(torch.autograd.Function, _Fused).apply  # pyright: ignore[reportAttributeAccessIssue]
"""Without what `torch.autograd.Function.apply` does for transforms, inside which the plain loop runs; it costs as much as a small kernel."""


@functools.lru_cache(maxsize=1024)
def _floats(call: Call, numbers: tuple[tuple[str, float], ...], surrogate: tuple[float, ...], real: torch.dtype) -> Numbers:
    """The numbers of a layer that starts from rest and has no tensors."""
    like, given, plan = torch.empty(0, dtype=real, device="cpu"), dict(numbers), call.plan
    return Numbers(tuple(plan.computed(given, like).values()), surrogate, tuple(plan.rested(given, like).values()))


def values_of(
    call: Call, state: Sequence[Tensor], numbers: Mapping[str, Any], surrogate: Mapping[str, Any], real: torch.dtype
) -> tuple[Numbers, list[Tensor]]:
    """What the passes take in place of the numbers, and the tensors among it."""
    if not state and not any(isinstance(x, Tensor) for part in (numbers, surrogate) for x in part.values()):
        return _floats(call, tuple(numbers.items()), tuple(surrogate.values()), real), []
    like, plan = torch.empty(0, dtype=real, device="cpu"), call.plan
    weights = [numbers["weights"]] if "weights" in numbers else []
    start = tuple(state) or (*plan.rested(numbers, like).values(), *[0.0] * len(weights))
    parts = (tuple(plan.computed(numbers, like).values()), tuple(surrogate.values()), start, tuple(weights))
    numbered = Numbers(*(tuple(None if isinstance(x, Tensor) else x for x in part) for part in parts))
    return numbered, [x for part in parts for x in part if isinstance(x, Tensor)]


def run(
    call: Call, inputs: Sequence[Tensor], state: Sequence[Tensor], numbers: Mapping[str, Any], surrogate: Mapping[str, Any]
) -> Sequence[Tensor]:
    """Outputs, states after the last step and recorded values of a layer on the CPU.

    Args:
        call: the layer.
        inputs: sequences of one shape and dtype.
        state: the states before the first step, in the working dtype; empty for rest.
        numbers: those of the neuron, and the resting numbers of its states, by name: floats or tensors; and recurrent `weights`.
        surrogate: those of the surrogate, likewise.
    """
    shape, dtype = inputs[0].shape, inputs[0].dtype
    given, tensors = values_of(call, state, numbers, surrogate, torch.float64 if dtype is torch.float64 else torch.float32)
    layer = Layer(call, given, shape, dtype)
    if torch.is_grad_enabled():
        return _apply(layer, *inputs, *tensors)
    return forward(layer, inputs, tensors)[0]
