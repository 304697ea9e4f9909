"""The fused kernels in PyTorch: a custom operator for `torch.compile`, an autograd function outside of it.

Both save the currents and nothing else of the size of the sequence, 4 bytes per neuron and step in float32; an integrator whose decay does
not learn saves nothing. Inside torch.func transforms and forward mode the reference is used instead, by whoever calls this; a second
derivative in reverse mode falls to the reference here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikegrad.kernels import numba as kernels
from spikegrad.kernels import reference, results
from spikegrad.kernels.call import Call, called, read
from spikegrad.kernels.numba import Incoming, Sizes, Weights

State = tuple[Tensor, ...]
"""Empty for a layer that starts from rest."""
Parameters = tuple[Tensor | float, ...]
"""Decays and threshold: numbers, or tensors that broadcast over one step."""
Gradients = tuple[Any, ...]
"""Of spikes, of potentials if they are recorded, and of each part of the last state; None for zero."""


_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class _Layout(NamedTuple):
    """How a layer's inputs but for the currents are given: tensors for the state, the weights and those parameters that are not numbers.

    Attributes:
        states: number of tensors of the state, none at rest.
        recurrent: whether weights follow.
        parameters: numbers, and None for each of the tensors that follow then.
    """

    states: int
    recurrent: bool
    parameters: tuple[float | None, ...]

    def split(self, tensors: Sequence[Tensor]) -> tuple[State, Tensor | None, Parameters]:
        """State, weights and parameters."""
        rest = iter(tensors[self.states + self.recurrent :])
        parameters = tuple([next(rest) if p is None else p for p in self.parameters])
        return tuple(tensors[: self.states]), tensors[self.states] if self.recurrent else None, parameters


def _laid_out(state: State, parameters: Parameters, weights: Tensor | None) -> tuple[_Layout, list[Tensor]]:
    tensors = [p for p in parameters if isinstance(p, Tensor)]
    numbers = tuple([None if isinstance(p, Tensor) else p for p in parameters]) if tensors else parameters
    layout = _Layout(len(state), weights is not None, numbers)  # pyright: ignore[reportArgumentType]
    return layout, [*state, *([] if weights is None else [weights]), *tensors]


def _memory(tensor: Tensor) -> Tensor:
    """A tensor whose memory is C-contiguous, without gradient."""
    return tensor if tensor.is_contiguous() and not tensor.requires_grad else tensor.detach().contiguous()


def _layer_of(call: Call, shape: torch.Size, dtype: torch.dtype, numbers: Any, features: int = 0, senders: int = 0) -> kernels.Layer:
    """The layer of currents of this shape."""
    sizes = Sizes(_DTYPES[dtype], shape[0], math.prod(shape[1:]), torch.get_num_threads(), numbers, features, senders)
    return kernels.layer(call, sizes)


class _Inputs(NamedTuple):
    """The inputs of a layer as the kernels take them."""

    layer: kernels.Layer
    currents: Tensor
    state: State
    parameters: tuple[Tensor, ...]
    weights: Weights | None


def _inputs(call: Call, layout: _Layout, currents: Tensor, tensors: Sequence[Tensor], shape: torch.Size) -> _Inputs:
    """`shape` is that of all steps; an integrator may have forgotten its currents."""
    state, weights, parameters = layout.split(tensors)
    dtype, step, connections, features, senders = currents.dtype, shape[1:], None, 0, 0
    if weights is not None:
        features, senders = shape[-1], len(weights) if weights.ndim == 2 else 1
        both = _memory(weights).view(senders, features)
        connections = Weights(both.T.contiguous() if weights.ndim == 2 else both, both)
        state = state or tuple([torch.zeros(step, dtype=dtype)] * call.states(True))
    given, numbers = (), parameters
    if None in layout.parameters:
        given = tuple([torch.as_tensor(p, dtype=dtype).detach().expand(step).contiguous() for p in parameters])
        numbers = ()
    layer = _layer_of(call, shape, dtype, numbers, features, senders)
    return _Inputs(layer, _memory(currents), tuple([_memory(part) for part in state]), given, connections)


def _forward(call: Call, layout: _Layout, currents: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Spikes, potentials if they are recorded, and the parts of the last state, in the dtype of the currents."""
    shape, dtype = currents.shape, currents.dtype
    inputs = _inputs(call, layout, currents, tensors, shape)
    sequences = [results.empty(shape, dtype) for _ in range(1 + call.record)]
    last = tuple([torch.empty(shape[1:], dtype=dtype) for _ in inputs.layer.last])
    kernels.forward(*inputs, last, *sequences)
    if layout.recurrent:
        last = (*last, sequences[0][-1].clone() if len(currents) else inputs.state[-1].clone())
    return *sequences, *last


def _backward(
    call: Call, layout: _Layout, saved: Tensor, tensors: Sequence[Tensor], shape: torch.Size, gradients: Gradients, learned: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of currents (of the given shape) and of the tensors."""
    inputs = _inputs(call, layout, saved, tensors, shape)
    dtype, step, recorded = saved.dtype, shape[1:], call.record

    def arriving(gradient: Tensor | None, wanted: tuple[int, ...]) -> Tensor:
        return torch.zeros(wanted, dtype=dtype) if gradient is None else _memory(gradient)

    grad, at_spikes = results.empty(shape, dtype), arriving(gradients[0], shape)
    rest = gradients[1 + recorded :]
    ends = tuple([arriving(g, step) for g in rest]) if any(g is not None for g in rest) else ()
    incoming = Incoming(at_spikes, ends, arriving(gradients[1], shape) if recorded else None)
    _, weights, parameters = layout.split(tensors)
    start = [torch.empty(step, dtype=dtype) for _ in inputs.state]
    grads = [torch.empty(step, dtype=dtype) for _ in parameters] if learned else []
    spikes, grad_weights = None, []
    if weights is not None:  # spikes are not saved: they are the next layer's to keep
        spikes = results.empty(shape, dtype)
        kernels.forward(*inputs, (), spikes)
        if ends:  # the last spikes are part of the state
            at_spikes = at_spikes.clone()
            at_spikes[-1:] += ends[-1]
            incoming = incoming._replace(spikes=at_spikes)
    kernels.backward(*inputs, spikes, incoming, kernels.Gradients(grad, tuple(start), tuple(grads)))
    if weights is not None and spikes is not None:
        if not len(grad) and ends:
            start[-1].copy_(ends[-1])
        sent = torch.cat([inputs.state[-1][None], spikes])[:-1].view(-1, shape[-1])
        received = grad.view(-1, shape[-1])
        grad_weights = [received.T @ sent if weights.ndim == 2 else (received * sent).sum(0)]
    pairs = zip(grads, parameters, strict=False)
    wanted = [g.sum_to_size(p.shape).to(p.dtype) for g, p in pairs if isinstance(p, Tensor)]
    return grad, *start[: layout.states], *grad_weights, *(wanted if learned else [None] * layout.parameters.count(None))


def _saved(call: Call, currents: Tensor, learned: bool) -> Tensor:
    """What of the size of the sequence the backward pass needs."""
    return currents if learned or call.kind != "integrator" else currents.new_empty(0, *currents.shape[1:])


def _differentiable(
    call: Call, layout: _Layout, saved: Tensor, tensors: Sequence[Tensor], shape: torch.Size, gradients: Gradients
) -> tuple[Tensor | None, ...]:
    """The gradients of currents and tensors by way of the reference, themselves differentiable."""
    start, weights, parameters = layout.split(tensors)
    currents, state = saved, start or None
    with torch.enable_grad():
        if call.kind == "integrator":
            if len(currents) != shape[0]:  # not saved, for the gradient does not depend on them
                currents = torch.zeros(shape, dtype=currents.dtype, requires_grad=True)
            outputs = [*reference.leaky_integrator(currents, state, *parameters)]
        else:

            def fire(x: Tensor, _: Any) -> Tensor:
                return call.surrogate(x, spike_at_threshold=call.options.spike_at_threshold)

            run: Any = reference.leaky if call.kind == "leaky" else reference.synaptic
            spikes, last, potentials = run(currents, state, *parameters, fire, call.options, weights, record=True)
            outputs = [spikes, *((potentials,) if call.record else ()), *(last if isinstance(last, tuple) else (last,))]
        heads, given = zip(*[(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None], strict=True)
        inputs = [currents, *tensors]
        found = iter(torch.autograd.grad(heads, [t for t in inputs if t.requires_grad], given, create_graph=True, allow_unused=True))
    return tuple(next(found) if t.requires_grad else None for t in inputs)


class _Fused(torch.autograd.Function):
    """The eager path: an operator's dispatch through Python costs as much as a small layer."""

    @staticmethod
    def forward(ctx: Any, call: Call, layout: _Layout, currents: Tensor, *tensors: Tensor) -> Any:  # pyright: ignore
        learned = True in ctx.needs_input_grad[3 + layout.states + layout.recurrent :]
        ctx.known = call, layout, currents.shape, learned
        ctx.save_for_backward(_saved(call, currents, learned), *tensors)
        ctx.set_materialize_grads(False)
        return _forward(call, layout, currents, tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # pyright: ignore
        call, layout, shape, learned = ctx.known
        saved, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return None, None, *_differentiable(call, layout, saved, tensors, shape, gradients)
        return None, None, *_backward(call, layout, saved, tensors, shape, gradients, learned)


class _Plain(torch.autograd.Function):
    """`_Fused` for what most layers are, at rest and with numbers for parameters: as little around the kernels as can be."""

    @staticmethod
    def forward(ctx: Any, layer: kernels.Layer, currents: Tensor) -> Any:  # pyright: ignore
        shape, dtype = currents.shape, currents.dtype
        ctx.layer = layer
        ctx.save_for_backward(currents)
        ctx.set_materialize_grads(False)
        spikes, last = results.empty(shape, dtype), [torch.empty(shape[1:], dtype=dtype) for _ in layer.last]
        layer.run("forward", {"currents": _memory(currents), "spikes": spikes, **dict(zip(layer.last, last, strict=True))})
        return spikes, *last

    @staticmethod
    def backward(ctx: Any, at_spikes: Tensor | None, *at_last: Tensor | None) -> Any:  # pyright: ignore
        layer, (currents,) = ctx.layer, ctx.saved_tensors
        if at_spikes is None or at_last.count(None) < len(at_last) or torch.is_grad_enabled():
            layout, gradients = _Layout(0, False, layer.sizes.numbers), (at_spikes, *at_last)
            if torch.is_grad_enabled():  # create_graph=True
                return None, *_differentiable(layer.call, layout, currents, (), currents.shape, gradients)
            return None, *_backward(layer.call, layout, currents, (), currents.shape, gradients, learned=False)
        grad = results.empty(currents.shape, currents.dtype)
        layer.run("backward", {"currents": _memory(currents), "grad_currents": grad, "grad_spikes": _memory(at_spikes)})
        return None, grad


_apply: Any = super(torch.autograd.Function, _Fused).apply  # pyright: ignore[reportAttributeAccessIssue]
_apply_plain: Any = super(torch.autograd.Function, _Plain).apply  # pyright: ignore[reportAttributeAccessIssue]
"""Without what `torch.autograd.Function.apply` does for transforms, inside which the reference runs; it costs as much as a small kernel."""


@torch.library.custom_op("spikegrad::layer", mutates_args=(), device_types="cpu")
def _layer(
    currents: Tensor, weights: Tensor | None, state: list[Tensor], parameters: list[Tensor], text: str, numbers: list[float]
) -> list[Tensor]:
    layout, tensors = _laid_out(tuple(state), tuple(parameters), weights)
    return list(_forward(_numbered(text, numbers), layout, currents, tensors))


@_layer.register_fake
def _(*given: Any) -> list[Tensor]:
    currents, weights, _, _, text, _ = given
    call = read(text)
    shapes = [currents.shape] * (1 + call.record) + [currents.shape[1:]] * call.states(weights is not None)
    return [currents.new_empty(shape) for shape in shapes]


@torch.library.custom_op("spikegrad::layer_backward", mutates_args=(), device_types="cpu")
def _layer_backward(
    saved: Tensor,
    weights: Tensor | None,
    state: list[Tensor],
    parameters: list[Tensor],
    text: str,
    numbers: list[float],
    gradients: list[Tensor],
    learned: bool,
) -> list[Tensor]:
    layout, tensors = _laid_out(tuple(state), tuple(parameters), weights)
    grads = _backward(_numbered(text, numbers), layout, saved, tensors, gradients[0].shape, tuple(gradients), learned)
    grad, *grad_state = grads[: 1 + len(state)]
    filled = (torch.zeros_like(p) if g is None else g for g, p in zip(grads[len(grads) - len(parameters) :], parameters, strict=True))
    return [grad, saved.new_empty(0) if weights is None else grads[1 + len(state)], *grad_state, *filled]  # pyright: ignore


@_layer_backward.register_fake
def _(*given: Any) -> list[Tensor]:
    saved, weights, state, parameters, _, _, gradients, _ = given
    like = [gradients[0], saved.new_empty(0) if weights is None else weights, *state, *parameters]
    return [t.new_empty(t.shape) for t in like]


def _numbered(text: str, numbers: list[float]) -> Call:
    """The call with these numbers in its surrogate: they travel beside its structure, so that a sweep compiles once."""
    call = read(text)
    surrogate = dataclasses.replace(call.surrogate, **dict(zip(call.surrogate.parameters, numbers, strict=True)))
    return called(call.kind, surrogate, call.options, call.started, call.record)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    currents, weights, state, parameters, ctx.text, ctx.numbers = inputs
    ctx.states = len(state)
    ctx.learned = any(p.requires_grad for p in parameters)
    ctx.save_for_backward(_saved(read(ctx.text), currents, ctx.learned), weights, *state, *parameters)


def _gradient(ctx: Any, gradients: list[Tensor]) -> Any:
    saved, weights, *rest = ctx.saved_tensors
    state, parameters = rest[: ctx.states], rest[ctx.states :]
    out = torch.ops.spikegrad.layer_backward(saved, weights, state, parameters, ctx.text, ctx.numbers, gradients, ctx.learned)
    return out[0], None if weights is None else out[1], out[2 : 2 + ctx.states], out[2 + ctx.states :], None, None


_layer.register_autograd(_gradient, setup_context=_setup)


def run(call: Call, text: str, currents: Tensor, state: State, parameters: Parameters, weights: Tensor | None) -> Sequence[Tensor]:
    """Spikes, potentials if they are recorded, and the parts of the last state, of a layer on the CPU; tensors all float32 or all float64.

    `text` is ``call.text``, made beforehand so that a compiler sees a constant.
    """
    if torch.compiler.is_compiling():
        tensors = [torch.as_tensor(p, dtype=currents.dtype) for p in parameters]
        numbers = list(call.surrogate.parameters.values())
        return torch.ops.spikegrad.layer(currents, weights, list(state), tensors, text, numbers)
    tensors = state or weights is not None or any(isinstance(p, Tensor) for p in parameters)
    if not (tensors or call.record or call.kind == "integrator") and torch.is_grad_enabled():
        return _apply_plain(_layer_of(call, currents.shape, currents.dtype, parameters), currents)
    layout, tensors = _laid_out(state, parameters, weights)
    if torch.is_grad_enabled():
        return _apply(call, layout, currents, *tensors)
    return _forward(call, layout, currents, tensors)
