"""The fused kernels as an operator of PyTorch, for where operations are compiled.

Everything static travels as text, everything else as tensors, so that a compiler sees plain arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikegrad.kernels.plan import Call
from spikegrad.kernels.text import read
from spikegrad.kernels.torch import layer_of, run, values_of


def _given(
    tensors: Sequence[Tensor], floats: Tensor, surrogate: Tensor, text: str, names: str
) -> tuple[Call, list[Tensor], dict[str, Any], dict[str, Any]]:
    """The layer, and the state, the numbers and those of the surrogate as `run` takes them."""
    call, by_name = read(text), dict(zip(names.split(), tensors, strict=True))
    plan = call.plan
    numbers: dict[str, Any] = dict(zip((n for n in (*plan.numbers, *call.record.states) if n not in by_name), floats.tolist(), strict=True))
    spike = dict(zip(call.surrogate.arguments[1:], surrogate.tolist(), strict=True))
    spike |= {name.removeprefix("spike."): x for name, x in by_name.items() if name.startswith("spike.")}
    state = [x for name, x in by_name.items() if name.startswith("first.")]
    return call, state, numbers | {n: x for n, x in by_name.items() if "." not in n or n in plan.numbers}, spike


# A layer where operations are compiled. It takes the inputs; the numbers and states that are tensors, whose names are the words of `names`,
# ``spike.slope`` and ``first.v`` among them; one tensor of those numbers of the neuron, and resting numbers of its states, that are not;
# one of the surrogate's, so that another slope compiles nothing; and the call as text.
@torch.library.custom_op("spikegrad::layer", mutates_args=(), device_types="cpu")
def _layer(inputs: list[Tensor], tensors: list[Tensor], floats: Tensor, surrogate: Tensor, text: str, names: str) -> list[Tensor]:
    with torch.no_grad():
        call, state, numbers, spike = _given(tensors, floats, surrogate, text, names)
        return list(run(call, inputs, state, numbers, spike))


@_layer.register_fake
def _(*given: Any) -> list[Tensor]:
    (like, *_), _, _, _, text, _ = given
    call = read(text)
    real = torch.float64 if like.dtype is torch.float64 else torch.float32
    outputs = [like.new_empty(like.shape) for _ in range(call.plan.outputs)]
    last = [like.new_empty(like.shape[1:], dtype=real) for _ in (*call.plan.states, *["recurrent"] * (call.connection == "all-to-all"))]
    return [*outputs, *last, *(like.new_empty(like.shape, dtype=real) for _ in call.recorded)]


@torch.library.custom_op("spikegrad::layer_backward", mutates_args=(), device_types="cpu")
def _layer_backward(
    inputs: list[Tensor],
    tensors: list[Tensor],
    floats: Tensor,
    surrogate: Tensor,
    text: str,
    names: str,
    gradients: list[Tensor],
    wanted: list[bool],
) -> list[Tensor]:
    like, given = gradients[0], dict(zip(names.split(), tensors, strict=True))
    real = torch.float64 if like.dtype is torch.float64 else torch.float32
    learning = {name for name, want in zip(given, wanted, strict=True) if want}
    with torch.no_grad():
        call, state, floating, spike = _given(tensors, floats, surrogate, text, names)
        numbers, values = values_of(call, state, floating, spike, real)
        layer = layer_of(call, numbers, like.shape, like.dtype)
        plan = layer.call.plan  # an equal call that was not read from text, so that its parameters have other names
        sources = {name: numbers for name, numbers in plan.sources.items() if not (state and name.startswith("first."))}
        asked = tuple(not learning.isdisjoint(sources.get(name, (name,))) for name in layer.tensors)
        if layer.fed:  # what was kept is computed anew: an operator returns what its caller asked for, and nothing beside it
            saved = layer.saving(inputs, values, layer.asked(asked)[1])[1]
        else:
            by_name = dict(zip(layer.inputs, inputs, strict=False))  # none, if none is read again
            saved = [by_name[name] for name in layer.saved(layer.asked(asked)[1])]
        grads, of_values = layer.backward(saved, values, tuple(gradients), asked)
        found = {name: g for name, g in zip(layer.tensors, of_values, strict=True) if g is not None}
        # Autograd does not see what an operator computes, so that what is computed from numbers is differentiated here.
        through = {name: found.pop(name) for name in sources if name in found}
        for name, part in plan.pulled_back(floating, through, torch.empty(0, dtype=real, device="cpu")):
            if name in given:
                part = part.sum_to_size(given[name].shape)
                found[name] = found[name] + part if name in found else part
        of_tensors = [found[name].to(t.dtype) if name in found else None for name, t in given.items()]
    rows = torch.contiguous_format
    return [*grads, *(t.new_zeros(t.shape) if g is None else g.clone(memory_format=rows) for g, t in zip(of_tensors, tensors, strict=True))]


@_layer_backward.register_fake
def _(*given: Any) -> list[Tensor]:
    _, tensors, _, _, text, _, gradients, _ = given
    count = len(read(text).record.inputs)
    return [*(gradients[0].new_empty(gradients[0].shape) for _ in range(count)), *(t.new_empty(t.shape) for t in tensors)]


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    sequences, tensors, floats, surrogate, ctx.text, ctx.names = inputs
    ctx.wanted, call = [t.requires_grad for t in tensors], read(ctx.text)
    passes = call.plan.passes(frozenset(call.plan.parameters) if any(ctx.wanted) else frozenset())
    saved = sequences if call.connection == "all-to-all" or passes.kept or passes.reread else []
    ctx.count, ctx.saved = len(sequences), len(saved)
    ctx.save_for_backward(*saved, *tensors, floats, surrogate)


def _gradient(ctx: Any, gradients: list[Tensor]) -> Any:
    *given, floats, surrogate = ctx.saved_tensors
    inputs, tensors = given[: ctx.saved], given[ctx.saved :]
    operator = torch.ops.spikegrad.layer_backward
    found = operator(inputs, tensors, floats, surrogate, ctx.text, ctx.names, gradients, ctx.wanted)
    return found[: ctx.count], found[ctx.count :], None, None, None, None


_layer.register_autograd(_gradient, setup_context=_setup)
