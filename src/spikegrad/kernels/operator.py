"""The fused kernels as an operator of PyTorch, for where operations are compiled.

Everything static travels as text, everything else as tensors, so that a compiler sees plain arguments. A program in a file may give it
anything: what is not exactly what a layer would give is refused, before an address of it is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikegrad.kernels import gate
from spikegrad.kernels.plan import Call
from spikegrad.kernels.text import read
from spikegrad.kernels.torch import layer_of, run
from spikegrad.kernels.values import values_of


def _given(
    shape: torch.Size, tensors: Sequence[Tensor], floats: Tensor, surrogate: Tensor, text: str, names: str
) -> tuple[Call, list[Tensor], dict[str, float | Tensor], dict[str, float | Tensor]]:
    """The layer, and the state, the numbers and those of the surrogate as `run` takes them; `shape` is that of its sequences."""
    call, words = read(text), names.split()
    plan, fed = call.plan, call.connection == "all-to-all"
    _require(len(words) == len({*words}) == len(tensors), "it does not name each of its tensors")
    by_name = dict(zip(words, tensors, strict=True))
    firsts = [f"first.{name}" for name in (*plan.states, *("recurrent",) * fed)]
    of_spike = [f"spike.{name}" for name in call.surrogate.arguments[1:]]
    given = [name for name in words if name in firsts]
    _require({*words} <= {*plan.numbers, *of_spike, *firsts, *("weights",) * fed}, "one of its tensors is none of a layer")
    _require(given in ([], firsts), "its states are not those of the layer")
    _require(all(by_name[name].shape == shape[1:] for name in given), "a state is not of the shape of a step")
    _require(not fed or ("weights" in by_name and by_name["weights"].shape == (shape[-1],) * 2), "its weights do not fit")
    rest = [name for name in (*plan.numbers, *call.record.states) if name not in by_name]
    _require(floats.shape == (len(rest),) and surrogate.shape == (len(of_spike),), "it has not as many numbers as the layer")
    numbers: dict[str, float | Tensor] = dict(zip(rest, floats.tolist(), strict=True))
    spike: dict[str, float | Tensor] = dict(zip(call.surrogate.arguments[1:], surrogate.tolist(), strict=True))
    spike |= {name.removeprefix("spike."): by_name[name] for name in words if name in of_spike}
    state = [by_name[name] for name in given]
    return call, state, numbers | {n: x for n, x in by_name.items() if n in plan.numbers or n == "weights"}, spike


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise ValueError(f"this is no call of a layer of spikegrad: {words}; if it comes from a file, export it again")


def _require_sequences(sequences: Sequence[Tensor], like: Tensor, others: Sequence[Tensor]) -> None:
    """Raise an error unless the sequences are of the shape and dtype of one of them, and a kernel may take all addresses."""
    _require(all(x.shape == like.shape and x.dtype is like.dtype for x in sequences), "its inputs differ in shape or dtype")
    _require(like.ndim > 1, "its inputs have no time axis")
    reason = gate.obstacle(*sequences, *others, device=_card(like) or gate.CPU)
    _require(reason is None, str(reason))


def _card(x: Tensor) -> torch.device | None:
    """Where Triton's kernels run a layer with this input, or None for Numba's."""
    return x.device if x.is_cuda else None


# A layer where operations are compiled. It takes the inputs; the numbers and states that are tensors, whose names are the words of `names`,
# ``spike.slope`` and ``first.v`` among them; one tensor of those numbers of the neuron, and resting numbers of its states, that are not;
# one of the surrogate's, so that another slope compiles nothing; and the call as text.
@torch.library.custom_op("spikegrad::layer", mutates_args=(), device_types=("cpu", "cuda"))
def _layer(inputs: list[Tensor], tensors: list[Tensor], floats: Tensor, surrogate: Tensor, text: str, names: str) -> list[Tensor]:
    with torch.no_grad():
        _require(len(inputs) == len(read(text).record.inputs), "it has not as many inputs as the layer")
        _require_sequences(inputs, inputs[0], tensors)
        call, state, numbers, spike = _given(inputs[0].shape, tensors, floats, surrogate, text, names)
        return list(run(call, inputs, state, numbers, spike, triton=_card(inputs[0]) is not None))


@_layer.register_fake
def _(*given: Any) -> list[Tensor]:
    (like, *_), _, _, _, text, _ = given
    return [like.new_empty(shape, dtype=dtype) for shape, dtype in _made(read(text), like.shape, like.dtype)]


def _made(call: Call, shape: torch.Size, dtype: torch.dtype) -> list[tuple[torch.Size, torch.dtype]]:
    """Shapes and dtypes of the results of a layer whose inputs are like this."""
    real = torch.float64 if dtype is torch.float64 else torch.float32
    states = len(call.plan.states) + (call.connection == "all-to-all")
    return [(shape, dtype)] * call.plan.outputs + [(shape[1:], real)] * states + [(shape, real)] * len(call.recorded)


@torch.library.custom_op("spikegrad::layer_backward", mutates_args=(), device_types=("cpu", "cuda"))
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
    _require(bool(gradients) and len(wanted) == len(tensors), "a gradient is missing")
    like = gradients[0]
    real = torch.float64 if like.dtype is torch.float64 else torch.float32
    with torch.no_grad():
        _require_sequences(inputs, like, (*gradients, *tensors))
        call, state, floating, spike = _given(like.shape, tensors, floats, surrogate, text, names)
        given = dict(zip(names.split(), tensors, strict=True))
        learning = {name for name, want in zip(given, wanted, strict=True) if want}
        shapes = [(x.shape, x.dtype) for x in gradients]
        _require(shapes == _made(call, like.shape, like.dtype), "its gradients are not those of the layer's results")
        _require(len(inputs) in (0, len(call.record.inputs)), "it has not as many inputs as the layer")
        numbers, values = values_of(call, state, floating, spike, real)
        layer = layer_of(call, numbers, like.shape, like.dtype, _card(like))
        plan = layer.call.plan  # an equal call that was not read from text, so that its parameters have other names
        sources = {name: numbers for name, numbers in plan.sources.items() if not (state and name.startswith("first."))}
        asked = tuple(not learning.isdisjoint(sources.get(name, (name,))) for name in layer.tensors)
        if inputs and (layer.fed or _card(like)):
            # What was kept is computed anew: an operator returns what its caller asked for, and nothing beside it.
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
