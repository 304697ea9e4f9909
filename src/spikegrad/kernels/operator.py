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

import numpy as np
import torch
from torch import Tensor

from spikegrad.kernels import memory, reference
from spikegrad.kernels import numba as kernels
from spikegrad.kernels.call import Call, read
from spikegrad.kernels.numba import Incoming, Layer

State = tuple[Tensor, ...]
"""Empty for a layer that starts from rest."""
Parameters = tuple[Tensor | float, ...]
"""Decays and threshold: numbers, or tensors that broadcast over one step."""
Gradients = tuple[Any, ...]
"""Of spikes, of potentials if they are recorded, and of each part of the last state; None for zero."""


def _array(tensor: Tensor) -> Any:
    """The memory of a tensor as a C-contiguous NumPy array, without gradient."""
    array = tensor.detach().numpy()
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


@functools.lru_cache(maxsize=64)
def _filled(value: float, columns: int, dtype: np.dtype[Any]) -> Any:
    """A number by column; kernels only read it."""
    return np.full(columns, value, dtype)


def _columns(parameter: Tensor | float, shape: tuple[int, ...], columns: int, dtype: np.dtype[Any]) -> Any:
    """A parameter by column."""
    if not isinstance(parameter, Tensor):
        return _filled(parameter, columns, dtype)
    expanded = np.empty(shape, dtype)
    torch.from_numpy(expanded).copy_(parameter.detach())  # also from bfloat16, which NumPy does not have
    return expanded.reshape(columns)


class _Given(NamedTuple):
    """The inputs of a layer as the kernels take them."""

    layer: Layer
    shape: tuple[int, ...]
    currents: Any
    state: tuple[Any, ...]
    parameters: tuple[Any, ...]
    weights: Any


def _given(call: Call, currents: Tensor, state: State, parameters: Parameters, weights: Tensor | None, shape: tuple[int, ...]) -> _Given:
    """`shape` is that of one step; an integrator may have forgotten its currents."""
    array = _array(currents)
    columns, dtype = math.prod(shape), array.dtype
    parts = [_array(part).reshape(columns) for part in state] if state else [np.zeros(columns, dtype)] * call.states(weights is not None)
    return _Given(
        Layer(call.options, call.started, 0 if weights is None else shape[-1], torch.get_num_threads()),
        shape,
        array.reshape(len(array), columns),
        tuple(parts),
        tuple([_columns(parameter, shape, columns, dtype) for parameter in parameters]),
        None if weights is None else _array(weights),
    )


def _forward(call: Call, currents: Tensor, state: State, parameters: Parameters, weights: Tensor | None) -> list[Tensor]:
    """Spikes, potentials if they are recorded, and the parts of the last state, in the dtype of the currents."""
    shape = tuple(currents.shape)
    given = _given(call, currents, state, parameters, weights, shape[1:])
    spikes = memory.empty(shape, given.currents.dtype)
    flat = spikes.reshape(given.currents.shape)
    if call.kind == "integrator":
        last = (kernels.leaky_integrator(given.currents, given.state[0], given.parameters[0], given.layer.threads, out=flat)[1],)
        sequences = [spikes]
    else:
        potentials = memory.empty(shape, spikes.dtype) if call.record else spikes[:0]
        out = (flat, potentials.reshape(flat.shape)) if call.record else (flat,)
        found = kernels.forward(
            call.kind, given.currents, given.state, given.parameters, given.layer, given.weights, record=call.record, out=out
        )
        last, sequences = found.state, [spikes, potentials] if call.record else [spikes]
    return [torch.from_numpy(array) for array in (*sequences, *[part.reshape(shape[1:]) for part in last])]


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
    given = _given(call, saved, state, parameters, weights, shape[1:])
    dtype, flat = given.parameters[0].dtype, (shape[0], len(given.parameters[0]))

    def arriving(gradient: Tensor | None, wanted: tuple[int, ...]) -> Any:
        return np.zeros(wanted, dtype) if gradient is None else _array(gradient).reshape(wanted)

    grad_spikes, rest = arriving(gradients[0], flat), gradients[1 + call.record :]
    grad_state = tuple([arriving(gradient, flat[1:]) for gradient in rest])
    into = memory.empty(shape, dtype)
    grad_weights = None
    if call.kind == "integrator":
        decay, threads = given.parameters[0], given.layer.threads
        potentials = kernels.leaky_integrator(given.currents, given.state[0], decay, threads)[0] if learned else None
        _, start, grad_beta = kernels.leaky_integrator_backward(
            potentials, given.state[0], decay, grad_spikes, grad_state[0], threads, out=into.reshape(flat)
        )
        out = kernels.Gradients(into, (start,), (grad_beta,))
    else:
        spikes = None
        same = call.kind, given.currents, given.state, given.parameters, given.layer, given.weights
        if weights is not None:  # spikes are not saved: they are the next layer's to keep
            spikes = kernels.forward(*same).spikes
        incoming = Incoming(grad_spikes, grad_state, arriving(gradients[1], flat) if call.record else None)
        out = kernels.backward(*same, spikes, call.surrogate, incoming, learned=learned, out=into.reshape(flat))
        if weights is not None and spikes is not None:
            sent = torch.from_numpy(np.concatenate([given.state[-1][None], spikes])[:-1]).view(-1, given.layer.features)
            received = torch.from_numpy(into).view(-1, given.layer.features)
            grad_weights = received.T @ sent if weights.ndim == 2 else (received * sent).sum(0)
    grads: list[Tensor | None] = [None] * len(parameters)
    if learned:
        for place, (g, p) in enumerate(zip(out.parameters, parameters, strict=True)):
            grads[place] = torch.from_numpy(g.reshape(shape[1:])).sum_to_size(p.shape).to(p.dtype) if isinstance(p, Tensor) else None
    grad_start = [torch.from_numpy(g.reshape(shape[1:])) for g in out.state] if state else []
    return torch.from_numpy(into), grad_weights, grad_start, grads


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
        outputs = _forward(call, currents, state, parameters, weights)
        ctx.call, ctx.shape, ctx.states, ctx.learned = call, tuple(currents.shape), states, any(ctx.needs_input_grad[4 + states :])
        ctx.plain = [None if isinstance(p, Tensor) else p for p in parameters]
        saved = _saved(call, currents, ctx.learned)
        ctx.save_for_backward(saved, weights, *state, *[p for p in parameters if isinstance(p, Tensor)])
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # pyright: ignore
        saved, weights, *rest = ctx.saved_tensors
        state, tensors = tuple(rest[: ctx.states]), iter(rest[ctx.states :])
        parameters = tuple([next(tensors) if p is None else p for p in ctx.plain])
        if torch.is_grad_enabled():  # create_graph=True
            return None, None, *_differentiable(ctx.call, ctx.states, (saved, weights, *state, *parameters), ctx.shape, gradients)
        grad, grad_weights, grad_start, grads = _backward(ctx.call, saved, state, parameters, weights, ctx.shape, gradients, ctx.learned)
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
    names = call.surrogate.parameters
    return dataclasses.replace(call, surrogate=dataclasses.replace(call.surrogate, **dict(zip(names, numbers, strict=True))))


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
