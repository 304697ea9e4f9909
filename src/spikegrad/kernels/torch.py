"""The fused kernels in PyTorch, as an autograd function, on the CPU and on GPUs.

A second derivative in reverse mode, and a backward pass where a kernel may not run, fall to the plain loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # pyright: ignore[reportPrivateUsage]

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels import gate, loop
from spikegrad.kernels.layers import Given, Layer
from spikegrad.kernels.lock import LOCK
from spikegrad.kernels.plan import Call
from spikegrad.kernels.values import Number, Numbers, real, values_of
from spikegrad.recorded import from_record
from spikegrad.remembering import remember
from spikegrad.vocabulary import Array


def _readable(x: Tensor | None) -> Tensor | None:
    """A gradient as numbers in memory, which one of PyTorch's own that is sparse, or marked as negative or as zero, does not have."""
    if type(x) is not Tensor:
        return x
    if x.layout is not torch.strided:
        x = x.to_dense()
    return x.clone() if x.is_neg() or torch._is_zerotensor(x) else x  # pyright: ignore


def _obstacle(layer: Layer, sequences: Sequence[Tensor], others: Sequence[Tensor], arriving: Given) -> str | None:
    """Why the kernels cannot run a backward pass now, though they ran the forward pass, or None."""
    reason = gate.surroundings() or gate.obstacle(*sequences, *others, *[g for g in arriving if g is not None], device=layer.device)
    for x in sequences if reason is None else ():
        if x.shape != layer.shape or x.dtype not in (layer.dtype, layer.real):
            return "what was saved comes back with another shape or dtype"
    return reason


_LAYERS = 1024
"""Layers that are remembered."""


@functools.lru_cache(_LAYERS)
def layer_of(call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype, triton: torch.device | None = None) -> Layer:
    """The layer, the same object each time; its kernels are Triton's for this device, or Numba's."""
    with LOCK:  # a child that is forked meanwhile would wait for ever for a module that nobody there imports
        if triton is None:
            from spikegrad.kernels.cpu.layer import Layer as OnCPU

            return OnCPU(call, numbers, shape, dtype)
        if call.connection == "all-to-all":
            from spikegrad.kernels.gpu.recurrent import Layer as Connected

            return Connected(call, numbers, shape, dtype, triton)
        from spikegrad.kernels.gpu.layer import Layer as OnGPU

        return OnGPU(call, numbers, shape, dtype, triton)


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
    with torch.enable_grad():
        # Each by itself, where one was computed from another: the way from the one to the other is autograd's, outside of the layer.
        inputs, tensors = ([x.view_as(x) for x in each] for each in (inputs, tensors))
    named = layer.named(tensors)
    numbers = {name.removeprefix("spike."): value for name, value in named.items() if name.startswith("spike.")}
    surrogate = from_record(call.surrogate)(**{name: 1.0 if isinstance(x, Tensor) else x for name, x in numbers.items()})
    learned: dict[str, Array] = {name: value for name, value in numbers.items() if isinstance(value, Tensor)}

    def fire(x: Tensor, spike_at_threshold: bool, _: None) -> Tensor:
        return surrogate(x, spike_at_threshold=spike_at_threshold, **learned)

    with torch.enable_grad():
        if not inputs:  # not saved, for the gradient does not depend on them
            zero = torch.zeros((), dtype=layer.dtype, device=layer.device, requires_grad=True)
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
    sequences: int


class _Fused(Function):
    """The eager path: an operator's dispatch through Python costs as much as a small layer."""

    @staticmethod
    def forward(ctx: _Context, layer: Layer, *given: Tensor) -> tuple[Tensor, ...]:
        count = len(layer.inputs)
        inputs, tensors = given[:count], given[count:]
        _, learned = layer.asked(ctx.needs_input_grad[1 + count :])
        made, saved = layer.saving(inputs, tensors, learned)
        ctx.layer, ctx.count, ctx.sequences = layer, len(saved), len(layer.saved(learned))
        ctx.save_for_backward(*saved, *tensors)
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor | None) -> Gradients:
        return (_uncompiled if torch.compiler.is_compiling() else _backward)(ctx, arriving)


def _backward(ctx: _Context, arriving: Given) -> Gradients:
    layer, given, count = ctx.layer, ctx.saved_tensors, ctx.count
    saved, tensors, reason = given[:count], given[count:], None
    sequences, others = given[: ctx.sequences], given[ctx.sequences :]
    if not torch.is_grad_enabled():  # which create_graph=True enables
        reason = _obstacle(layer, sequences, others, arriving)
        if reason is not None:
            arriving = tuple(map(_readable, arriving))
            reason = _obstacle(layer, sequences, others, arriving)
    if reason is not None or torch.is_grad_enabled():
        return None, *_by_the_loop(layer, sequences, tensors, arriving, reason)
    grads, of_tensors = layer.backward(saved, tensors, arriving, ctx.needs_input_grad[1 + len(layer.inputs) :])
    return None, *grads, *of_tensors


_uncompiled = _disable_dynamo(_backward)
"""For compiled autograd, which would trace through a backward pass of a layer that is not compiled."""

_apply: Callable[..., Sequence[Tensor]] = super(torch.autograd.Function, _Fused).apply  # pyright: ignore[reportArgumentType]
"""Without what `torch.autograd.Function.apply` does for transforms, inside which the plain loop runs: that costs as much as a kernel."""


_at_rest: dict[Hashable, Layer] = {}
"""Layers that start from rest and whose numbers are floats, for which nothing need be asked of each number."""


def _constant(
    call: Call,
    numbers: Mapping[str, Number],
    surrogate: Mapping[str, Number],
    shape: torch.Size,
    dtype: torch.dtype,
    triton: torch.device | None,
) -> Layer:
    key = call.key, tuple(numbers.values()), tuple(surrogate.values()), shape, dtype, triton
    found = _at_rest.get(key)
    if found is None:
        given, _ = values_of(call, (), numbers, surrogate, real(dtype))
        found = layer_of(call, given, shape, dtype, triton)
        remember(_at_rest, key, found)
    return found


def run(
    call: Call,
    inputs: Sequence[Tensor],
    state: Sequence[Tensor],
    numbers: Mapping[str, Number],
    surrogate: Mapping[str, Number],
    *,
    constant: bool = False,
    triton: bool = False,
) -> Sequence[Tensor]:
    """Outputs, states after the last step and recorded values of a layer.

    Args:
        call: the layer.
        inputs: sequences of one shape and dtype.
        state: the states before the first step, in the working dtype; empty for rest.
        numbers: those of the neuron, and the resting numbers of its states, by name: floats or tensors; and recurrent `weights`.
        surrogate: those of the surrogate, likewise.
        constant: that all of these are floats, and no state is given.
        triton: by Triton's kernels instead of Numba's.
    """
    shape, dtype, device = inputs[0].shape, inputs[0].dtype, inputs[0].device if triton else None
    if constant:
        layer, tensors = _constant(call, numbers, surrogate, shape, dtype, device), ()
    else:
        given, tensors = values_of(call, state, numbers, surrogate, real(dtype))
        layer = layer_of(call, given, shape, dtype, device)
    if torch.is_grad_enabled():
        return _apply(layer, *inputs, *tensors)
    return layer.forward(inputs, tensors)
