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
    like = gradients[0]
    real = torch.float64 if like.dtype is torch.float64 else torch.float32
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(want) for t, want in zip(tensors, wanted, strict=True)]
        call, state, floating, spike = _given(leaves, floats, surrogate, text, names)
        numbers, values = values_of(call, state, floating, spike, real)
    with torch.no_grad():
        layer = layer_of(call, numbers, like.shape, like.dtype)
        asked = tuple(v.requires_grad for v in values)
        detached, learned = [v.detach() for v in values], layer.asked(asked)[1]
        if layer.fed:  # what was kept is computed anew: an operator returns what its caller asked for, and nothing beside it
            saved = layer.saving(inputs, detached, learned)[1]
        else:
            saved = [x for name, x in zip(layer.inputs, inputs, strict=False) if name in layer.saved(learned)]
        grads, of_values = layer.backward(saved, detached, tuple(gradients), asked)
    heads = [(v, g) for v, g in zip(values, of_values, strict=True) if g is not None]
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    outs, of_outs = zip(*heads, strict=True) if heads and asked else ((), ())
    found = iter(torch.autograd.grad(outs, asked, of_outs, allow_unused=True) if outs else [None] * len(asked))
    of_tensors = [next(found) if leaf.requires_grad else None for leaf in leaves]
    return [*grads, *(torch.zeros_like(t) if g is None else g.clone() for g, t in zip(of_tensors, tensors, strict=True))]


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
