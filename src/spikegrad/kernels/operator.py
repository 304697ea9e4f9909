"""The fused kernels in PyTorch: a custom operator for `torch.compile`, an autograd function outside of it.

Both save the currents and nothing else of the size of the sequence, 4 bytes per neuron and step in float32; an integrator whose decay does
not learn saves nothing. Inside torch.func transforms and forward mode the reference is used instead, by whoever calls this; a second
derivative in reverse mode falls to the reference here.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikegrad.kernels import numba as kernels
from spikegrad.kernels import reference
from spikegrad.kernels.call import Call, read
from spikegrad.kernels.numba import Incoming, Layer

State = tuple[Tensor, ...]
Parameters = tuple[Tensor | float, ...]
"""Decays and threshold: numbers, or tensors that broadcast over one step."""
Gradients = tuple[Any, ...]
"""Of spikes, of potentials (None unless recorded) and of each state."""


def _flat(tensor: Tensor) -> Any:
    """A sequence as a contiguous NumPy array ``(time, columns)``."""
    return tensor.detach().contiguous().numpy().reshape(len(tensor), tensor.shape[1:].numel())


def _row(tensor: Tensor) -> Any:
    """One step as a contiguous NumPy array ``(columns,)``."""
    return tensor.detach().contiguous().numpy().reshape(-1)


@functools.lru_cache(maxsize=64)
def _filled(value: float, columns: int, dtype: str) -> Any:
    """A number by column; kernels only read it."""
    return np.full(columns, value, dtype)


def _columns(parameter: Tensor | float, shape: torch.Size, dtype: Any) -> Any:
    """A parameter by column."""
    if not isinstance(parameter, Tensor):
        return _filled(parameter, shape.numel(), dtype.name)
    columns = np.empty(shape, dtype)
    torch.from_numpy(columns).copy_(parameter.detach())  # also from bfloat16, which NumPy does not have
    return columns.reshape(-1)


def _arrays(call: Call, currents: Tensor, state: State, parameters: Parameters, weights: Tensor | None) -> tuple[Any, ...]:
    """The inputs as the kernels take them: layer, currents, state, parameters, weights."""
    flat = _flat(currents)
    layer = Layer(call.options, call.started, 0 if weights is None else currents.shape[-1], torch.get_num_threads())
    columns = tuple(_columns(p, currents.shape[1:], flat.dtype) for p in parameters)
    return layer, flat, tuple(map(_row, state)), columns, None if weights is None else weights.detach().contiguous().numpy()


def _forward(call: Call, currents: Tensor, state: State, parameters: Parameters, weights: Tensor | None) -> tuple[Tensor, Tensor, State]:
    """Spikes, potentials (of the last step unless recorded) and the last state, in the dtype of the currents."""
    shape = currents.shape[1:]
    layer, flat, states, columns, connections = _arrays(call, currents, state, parameters, weights)
    if call.kind == "integrator":
        potentials, v = kernels.leaky_integrator(flat, states[0], columns[0], layer.threads)
        return torch.from_numpy(potentials).view(currents.shape), currents.new_zeros(1, *shape), (torch.from_numpy(v).view(shape),)
    out = kernels.forward(call.kind, flat, states, columns, layer, connections, record=call.record)
    potentials = torch.from_numpy(out.potentials).view(len(out.potentials), *shape)
    return torch.from_numpy(out.spikes).view(currents.shape), potentials, tuple(torch.from_numpy(s).view(shape) for s in out.state)


def _backward(
    call: Call, saved: Tensor, state: State, parameters: Parameters, weights: Tensor | None, gradients: Gradients, learned: bool
) -> tuple[Tensor, Tensor | None, State, tuple[Tensor | None, ...]]:
    """Gradients of currents, weights, state and parameters, from those of spikes, potentials and state."""
    grad_spikes, grad_potentials, *grad_state = gradients
    shape = grad_spikes.shape[1:]
    layer, flat, states, columns, connections = _arrays(call, saved, state, parameters, weights)
    arriving = _flat(grad_spikes), tuple(map(_row, grad_state)), _flat(grad_potentials) if call.record else None
    grad_weights = None
    if call.kind == "integrator":
        potentials = kernels.leaky_integrator(flat, states[0], columns[0], layer.threads)[0] if learned else None
        grad, start, grad_beta = kernels.leaky_integrator_backward(
            potentials, states[0], columns[0], arriving[0], arriving[1][0], layer.threads
        )
        out = kernels.Gradients(grad, (start,), (grad_beta,))
    else:
        spikes = None
        if connections is not None:  # spikes are not saved: they are the next layer's to keep
            spikes = kernels.forward(call.kind, flat, states, columns, layer, connections).spikes
        incoming = Incoming(*arriving)
        out = kernels.backward(call.kind, flat, states, columns, layer, connections, spikes, call.surrogate, incoming, learned=learned)
        if weights is not None and spikes is not None:
            sent = torch.from_numpy(np.concatenate([states[-1][None], spikes])[:-1]).view(-1, layer.features)
            received = torch.from_numpy(out.currents).view(-1, layer.features)
            grad_weights = received.T @ sent if weights.ndim == 2 else (received * sent).sum(0)
    grads: list[Tensor | None] = [None] * len(parameters)
    if learned:
        for place, (g, p) in enumerate(zip(out.parameters, parameters, strict=True)):
            grads[place] = torch.from_numpy(g).view(shape).sum_to_size(p.shape).to(p.dtype) if isinstance(p, Tensor) else None
    grad = torch.from_numpy(out.currents).view(grad_spikes.shape)
    return grad, grad_weights, tuple(torch.from_numpy(g).view(shape) for g in out.state), tuple(grads)


def _saved(call: Call, currents: Tensor, learned: bool) -> Tensor:
    """What of the size of the sequence the backward pass needs."""
    return currents if learned or call.kind != "integrator" else currents.new_empty(0, *currents.shape[1:])


def _differentiable(call: Call, inputs: tuple[Any, ...], gradients: Gradients) -> tuple[Tensor | None, ...]:
    """The gradients of all inputs by way of the reference, themselves differentiable."""
    currents, weights, *rest = inputs
    count = len(rest) - {"leaky": 2, "synaptic": 3, "integrator": 1}[call.kind]
    state, parameters = tuple(rest[:count]), rest[count:]
    with torch.enable_grad():
        if call.kind == "integrator":
            if len(currents) != len(gradients[0]):  # not saved, for the gradient does not depend on them
                currents = torch.zeros_like(gradients[0], requires_grad=True)
                inputs = (currents, *inputs[1:])
            outputs = [*reference.leaky_integrator(currents, state, *parameters)]
        else:

            def fire(x: Tensor, _: Any) -> Tensor:
                return call.surrogate(x, spike_at_threshold=call.options.spike_at_threshold)

            run: Any = reference.leaky if call.kind == "leaky" else reference.synaptic
            start = state if call.started else None
            spikes, last, potentials = run(currents, start, *parameters, fire, call.options, weights, record=True)
            outputs = [spikes, *((potentials,) if call.record else ()), *(last if isinstance(last, tuple) else (last,))]
        given = [gradients[0], *((gradients[1],) if call.record else ()), *gradients[2:]]
        wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
        found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True))
    return tuple(next(found) if isinstance(t, Tensor) and t.requires_grad else None for t in inputs)


class _Fused(torch.autograd.Function):
    """The eager path: an operator's dispatch through Python costs as much as a small layer."""

    @staticmethod
    def forward(ctx: Any, call: Call, states: int, currents: Tensor, weights: Tensor | None, *rest: Any) -> Any:  # pyright: ignore
        state, parameters = rest[:states], rest[states:]
        spikes, potentials, last = _forward(call, currents, state, parameters, weights)
        ctx.call, ctx.states, ctx.learned = call, states, any(ctx.needs_input_grad[4 + states :])
        ctx.plain = [None if isinstance(p, Tensor) else p for p in parameters]
        saved = _saved(call, currents, ctx.learned)
        ctx.save_for_backward(saved, weights, *state, *(p for p in parameters if isinstance(p, Tensor)))
        ctx.set_materialize_grads(False)
        if not call.record:
            ctx.mark_non_differentiable(potentials)
        return spikes, potentials, *last

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_potentials: Tensor | None, *grad_state: Tensor | None) -> Any:  # pyright: ignore
        saved, weights, *rest = ctx.saved_tensors
        state, tensors = tuple(rest[: ctx.states]), iter(rest[ctx.states :])
        parameters = tuple(next(tensors) if p is None else p for p in ctx.plain)
        shape = state[0].shape
        steps = len(saved) if grad_spikes is None else len(grad_spikes)
        zeros = torch.zeros(shape, dtype=saved.dtype)
        gradients = (
            torch.zeros(steps, *shape, dtype=saved.dtype) if grad_spikes is None else grad_spikes,
            torch.zeros(steps, *shape, dtype=saved.dtype) if grad_potentials is None and ctx.call.record else grad_potentials,
            *(zeros if g is None else g for g in grad_state),
        )
        if torch.is_grad_enabled():  # create_graph=True
            return None, None, *_differentiable(ctx.call, (saved, weights, *state, *parameters), gradients)
        grad, grad_weights, grad_start, grads = _backward(ctx.call, saved, state, parameters, weights, gradients, ctx.learned)
        return None, None, grad, grad_weights, *grad_start, *grads


@torch.library.custom_op("spikegrad::layer", mutates_args=(), device_types="cpu")
def _layer(
    currents: Tensor, weights: Tensor | None, state: list[Tensor], parameters: list[Tensor], text: str, numbers: list[float]
) -> list[Tensor]:
    spikes, potentials, last = _forward(_numbered(text, numbers), currents, tuple(state), tuple(parameters), weights)
    return [spikes, potentials, *last]


@_layer.register_fake
def _(
    currents: Tensor, weights: Tensor | None, state: list[Tensor], parameters: list[Tensor], text: str, numbers: list[float]
) -> list[Tensor]:
    potentials = torch.empty_like(currents) if read(text).record else currents.new_empty(1, *currents.shape[1:])
    return [currents.new_empty(currents.shape), potentials.contiguous(), *(s.new_empty(s.shape) for s in state)]


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
    grad, grad_weights, grad_state, grads = _backward(call, saved, tuple(state), tuple(parameters), weights, tuple(gradients), learned)
    filled = (torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True))
    return [grad, saved.new_empty(0) if grad_weights is None else grad_weights, *grad_state, *filled]


@_layer_backward.register_fake
def _(
    saved: Tensor,
    weights: Tensor | None,
    state: list[Tensor],
    parameters: list[Tensor],
    text: str,
    numbers: list[float],
    gradients: list[Tensor],
    learned: bool,
) -> list[Tensor]:
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
) -> tuple[Tensor, State, Tensor]:
    """Spikes, the last state and the potentials of a layer on the CPU; all tensors float32 or all float64.

    `text` is ``call.text``, made beforehand so that a compiler sees a constant.
    """
    if torch.compiler.is_compiling():
        tensors = [torch.as_tensor(p, dtype=currents.dtype) for p in parameters]
        numbers = list(call.surrogate.parameters.values())
        spikes, potentials, *last = torch.ops.spikegrad.layer(currents, weights, list(state), tensors, text, numbers)
    else:
        spikes, potentials, *last = _Fused.apply(call, len(state), currents, weights, *state, *parameters)  # pyright: ignore
    return spikes, tuple(last), potentials
