"""The fused kernels in PyTorch: a custom operator for `torch.compile`, an autograd function outside of it.

Both save the currents and nothing else of the size of the sequence, 4 bytes per neuron and step in float32; an integrator whose decay does
not learn saves nothing. Inside torch.func transforms and forward mode the reference is used instead, by whoever calls this; a second
derivative in reverse mode falls to the reference here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikegrad.kernels import reference, results
from spikegrad.kernels import numba as kernels
from spikegrad.kernels.call import Call, called, read
from spikegrad.kernels.numba import Incoming, Sizes, Weights

State = tuple[Tensor, ...]
"""Empty for a layer that starts from rest."""
Parameters = tuple[Tensor | float, ...]
"""Decays and threshold: numbers, or tensors that broadcast over one step."""
Gradients = tuple[Any, ...]
"""Of spikes, of potentials if they are recorded, and of each part of the last state; None for zero."""


_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def _memory(tensor: Tensor) -> Tensor:
    """A tensor whose memory is C-contiguous, without gradient."""
    return tensor if tensor.is_contiguous() and not tensor.requires_grad else tensor.detach().contiguous()


class _Inputs(NamedTuple):
    """The inputs of a layer as the kernels take them."""

    layer: kernels.Layer
    currents: Tensor
    state: State
    parameters: tuple[Tensor, ...]
    weights: Weights | None


def _inputs(
    call: Call, currents: Tensor, state: State, parameters: Parameters, weights: Tensor | None, shape: tuple[int, ...]
) -> _Inputs:
    """`shape` is that of all steps; an integrator may have forgotten its currents."""
    dtype, step = currents.dtype, shape[1:]
    given: tuple[Tensor, ...] = ()
    if any(isinstance(p, Tensor) for p in parameters):
        given = tuple([torch.as_tensor(p, dtype=dtype).detach().expand(step).contiguous() for p in parameters])
    connections, features, senders = None, 0, 0
    if weights is not None:
        features, senders = shape[-1], len(weights) if weights.ndim == 2 else 1
        both = _memory(weights).view(senders, features)
        connections = Weights(both.T.contiguous() if weights.ndim == 2 else both, both)
        state = state or tuple([torch.zeros(step, dtype=dtype)] * call.states(True))
    numbers = () if given else parameters
    sizes = Sizes(_DTYPES[dtype], shape[0], math.prod(step), torch.get_num_threads(), numbers, features, senders)
    return _Inputs(kernels.layer(call, sizes), _memory(currents), tuple([_memory(part) for part in state]), given, connections)


def _forward(call: Call, currents: Tensor, state: State, parameters: Parameters, weights: Tensor | None) -> list[Tensor]:
    """Spikes, potentials if they are recorded, and the parts of the last state, in the dtype of the currents."""
    shape = currents.shape
    inputs = _inputs(call, currents, state, parameters, weights, shape)
    spikes, *potentials = [results.empty(shape, currents.dtype) for _ in range(1 + call.record)]
    last = [torch.empty(shape[1:], dtype=currents.dtype) for _ in range(call.states(False))]
    kernels.forward(*inputs, spikes, tuple(last), *potentials)
    if weights is not None:
        last.append(spikes[-1].clone() if len(spikes) else inputs.state[-1].clone())
    return [spikes, *potentials, *last]


def _backward(
    call: Call,
    saved: Tensor,
    state: State,
    parameters: Parameters,
    weights: Tensor | None,
    shape: tuple[int, ...],
    gradients: Gradients,
    learned: bool,
) -> tuple[Tensor, Tensor | None, list[Tensor], list[Tensor | None]]:
    """Gradients of currents (of the given shape), weights, state and parameters."""
    inputs = _inputs(call, saved, state, parameters, weights, shape)
    dtype, step = saved.dtype, shape[1:]

    def arriving(gradient: Tensor | None, wanted: tuple[int, ...]) -> Tensor:
        return torch.zeros(wanted, dtype=dtype) if gradient is None else _memory(gradient)

    def rows(number: int) -> list[Tensor]:
        return [torch.empty(step, dtype=dtype) for _ in range(number)]

    rest = gradients[1 + call.record :]
    ends = [arriving(gradient, step) for gradient in rest] if any(g is not None for g in rest) else []
    at_spikes = arriving(gradients[0], shape)
    if weights is not None and ends:  # the last spikes are part of the state
        at_spikes = at_spikes.clone()
        at_spikes[-1:] += ends[-1]
    incoming = Incoming(at_spikes, tuple(ends), arriving(gradients[1], shape) if call.record else None)
    grad, start, grads = results.empty(shape, dtype), rows(len(inputs.state)), rows(len(parameters) * learned)
    out = kernels.Gradients(grad, tuple(start), tuple(grads))
    grad_weights = spikes = None
    if weights is not None:  # spikes are not saved: they are the next layer's to keep
        spikes = results.empty(shape, dtype)
        kernels.forward(*inputs, spikes, ())
    kernels.backward(*inputs, spikes, incoming, out)
    if weights is not None and spikes is not None:
        if not len(grad) and ends:
            start[-1].copy_(ends[-1])
        sent = torch.cat([inputs.state[-1][None], spikes])[:-1].view(-1, shape[-1])
        received = grad.view(-1, shape[-1])
        grad_weights = received.T @ sent if weights.ndim == 2 else (received * sent).sum(0)
    wanted: list[Tensor | None] = [None] * len(parameters)
    for place, (g, p) in enumerate(zip(grads, parameters, strict=False)):
        wanted[place] = g.sum_to_size(p.shape).to(p.dtype) if isinstance(p, Tensor) else None
    return grad, grad_weights, start if state else [], wanted


def _saved(call: Call, currents: Tensor, learned: bool) -> Tensor:
    """What of the size of the sequence the backward pass needs."""
    return currents if learned or call.kind != "integrator" else currents.new_empty(0, *currents.shape[1:])


def _differentiable(
    call: Call, states: int, inputs: tuple[Any, ...], shape: tuple[int, ...], gradients: Gradients
) -> tuple[Tensor | None, ...]:
    """The gradients of all inputs by way of the reference, themselves differentiable."""
    currents, weights, *rest = inputs
    state, parameters = tuple(rest[:states]) or None, rest[states:]
    with torch.enable_grad():
        if call.kind == "integrator":
            if len(currents) != shape[0]:  # not saved, for the gradient does not depend on them
                currents = torch.zeros(shape, dtype=currents.dtype, requires_grad=True)
                inputs = (currents, *inputs[1:])
            outputs = [*reference.leaky_integrator(currents, state, *parameters)]
        else:

            def fire(x: Tensor, _: Any) -> Tensor:
                return call.surrogate(x, spike_at_threshold=call.options.spike_at_threshold)

            run: Any = reference.leaky if call.kind == "leaky" else reference.synaptic
            spikes, last, potentials = run(currents, state, *parameters, fire, call.options, weights, record=True)
            outputs = [spikes, *((potentials,) if call.record else ()), *(last if isinstance(last, tuple) else (last,))]
        heads, given = zip(*[(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None], strict=True)
        wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
        found = iter(torch.autograd.grad(heads, wanted, given, create_graph=True, allow_unused=True))
    return tuple(next(found) if isinstance(t, Tensor) and t.requires_grad else None for t in inputs)


class _Fused(torch.autograd.Function):
    """The eager path: an operator's dispatch through Python costs as much as a small layer."""

    @staticmethod
    def forward(ctx: Any, call: Call, states: int, currents: Tensor, weights: Tensor | None, *rest: Any) -> Any:  # pyright: ignore
        state, parameters = rest[:states], rest[states:]
        learned = True in ctx.needs_input_grad[4 + states :]
        tensors = [p for p in parameters if isinstance(p, Tensor)]
        plain = [None if isinstance(p, Tensor) else p for p in parameters] if tensors else parameters
        ctx.known = call, currents.shape, states, learned, plain
        ctx.save_for_backward(_saved(call, currents, learned), weights, *state, *tensors)
        ctx.set_materialize_grads(False)
        return tuple(_forward(call, currents, state, parameters, weights))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # pyright: ignore
        call, shape, states, learned, plain = ctx.known
        saved, weights, *rest = ctx.saved_tensors
        state, tensors = tuple(rest[:states]), iter(rest[states:])
        parameters = tuple([next(tensors) if p is None else p for p in plain])
        if torch.is_grad_enabled():  # create_graph=True
            return None, None, *_differentiable(call, states, (saved, weights, *state, *parameters), shape, gradients)
        grad, grad_weights, grad_start, grads = _backward(call, saved, state, parameters, weights, shape, gradients, learned)
        return None, None, grad, grad_weights, *grad_start, *grads


@torch.library.custom_op("spikegrad::layer", mutates_args=(), device_types="cpu")
def _layer(
    currents: Tensor, weights: Tensor | None, state: list[Tensor], parameters: list[Tensor], text: str, numbers: list[float]
) -> list[Tensor]:
    return _forward(_numbered(text, numbers), currents, tuple(state), tuple(parameters), weights)


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
    call = _numbered(text, numbers)
    shape = tuple(gradients[0].shape)
    grad, grad_weights, grad_state, grads = _backward(
        call, saved, tuple(state), tuple(parameters), weights, shape, tuple(gradients), learned
    )
    filled = (torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True))
    return [grad, saved.new_empty(0) if grad_weights is None else grad_weights, *grad_state, *filled]


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


def run(
    call: Call, text: str, currents: Tensor, state: State, parameters: Parameters, weights: Tensor | None
) -> tuple[Tensor, State, Tensor | None]:
    """Spikes, the last state and the potentials (None unless recorded) of a layer on the CPU; all tensors float32 or all float64.

    `text` is ``call.text``, made beforehand so that a compiler sees a constant.
    """
    if torch.compiler.is_compiling():
        tensors = [torch.as_tensor(p, dtype=currents.dtype) for p in parameters]
        numbers = list(call.surrogate.parameters.values())
        outputs = torch.ops.spikegrad.layer(currents, weights, list(state), tensors, text, numbers)
    elif torch.is_grad_enabled():
        outputs = _Fused.apply(call, len(state), currents, weights, *state, *parameters)  # pyright: ignore
    else:
        outputs = _forward(call, currents, state, parameters, weights)
    spikes, *last = outputs
    return spikes, tuple(last[call.record :]), last[0] if call.record else None
