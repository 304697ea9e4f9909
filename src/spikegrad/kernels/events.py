"""Weights and neurons over events, as an autograd function on the CPU.

Second derivatives, and a backward pass where a kernel may not run or a gradient is not finite, fall to the plain loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels import event_passes as passes
from spikegrad.kernels import gate, loop
from spikegrad.kernels.choice import Chosen, pieces
from spikegrad.kernels.event_passes import Neurons
from spikegrad.kernels.event_passes import neurons_of as neurons_of
from spikegrad.kernels.spikes import Spikes, finite, picked
from spikegrad.kernels.spikes import listed as listed
from spikegrad.recorded import from_record
from spikegrad.vocabulary import Array


class _NotANumberError(ArithmeticError):
    """A potential is not a number, and so is its spike, which no list can say."""


class _Context(Context, Protocol):
    neurons: Neurons
    given: Spikes
    made: Spikes | None
    kept: tuple[str, ...]
    by_sender: tuple[Tensor | None, Tensor | None]
    chosen: Chosen


class _Events(Function):
    @staticmethod
    def forward(
        ctx: _Context, neurons: Neurons, chosen: Chosen, given: Spikes, made: list[Spikes], carrier: Tensor | None, weight: Tensor,
        bias: Tensor | None, recurrent: Tensor | None, fed: Tensor | None, *others: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        steps, samples, senders = given.shape
        features = len(weight)
        count, names = len(neurons.tensors), neurons.call.plan.states
        tensors, state = others[:count], others[count:]
        variant = neurons.variant(False, senders, features, tensors, ctx.needs_input_grad[9 : 9 + count])
        cut, scratch = pieces(senders, features, samples, neurons.fed), passes.Scratch()
        back = carrier is not None and chosen.inputs == "event"
        by_sender, currents, own = None, None, None if bias is None else bias.detach().contiguous()
        if chosen.currents == "dense":
            currents, own = torch.nn.functional.linear(given.unscaled().detach(), weight.detach(), own), None
        if currents is None or back:
            by_sender = torch.empty(weight.numel(), dtype=torch.float32, device="cpu") if back else scratch.take(weight.numel())
            passes.put_in_blocks(by_sender, weight, cut)
        last = [torch.empty(samples, features, dtype=torch.float32, device="cpu") for _ in names]
        recorded = {f"record.{n}": torch.empty(steps, samples, features, dtype=torch.float32, device="cpu") for n in neurons.call.recorded}
        numbers, columns = passes.numbers(neurons, tensors, features)
        first = [x.detach().to(torch.float32).contiguous() for x in state] or [None] * len(names)
        kept = passes.kept(variant, samples, steps, features)
        flags = np.zeros(samples * cut.parts, np.float32)
        own_by_sender = None if recurrent is None else recurrent.detach().t().contiguous()
        fed_first = None if fed is None else fed.detach().contiguous()
        words = {
            "recurrent": 0 if own_by_sender is None else own_by_sender.data_ptr(),
            "fed": 0 if fed_first is None else fed_first.data_ptr(),
            **passes.sizes(given, features), "weights": 0 if by_sender is None else by_sender.data_ptr(),
            "index": 0 if currents is not None else given.index.data_ptr(), "currents": 0 if currents is None else currents.data_ptr(),
            "base": given.base.data_ptr(), "since": given.since.data_ptr(), "numbers": numbers.data_ptr(),
            "window": neurons.window_at, "flags": flags.ctypes.data, **passes.ends(neurons, first, rest=True),
            "bias": 0 if own is None else own.data_ptr(),
            **{f"last.{name}": x.data_ptr() for name, x in zip(names, last, strict=True)},
            **{name: x.data_ptr() for name, x in (kept | columns | recorded).items()},
        }  # fmt: skip
        out: Tensor | None = None
        spikes: Spikes | None = None
        if variant.split.emits is None:
            out = torch.empty(steps, samples, features, dtype=torch.float32, device="cpu")
            passes.run(variant, steps, cut._replace(groups=samples), words | {"out": out.data_ptr()})
        else:
            spikes = passes.listed(variant, (steps, samples, features), cut._replace(groups=samples), words, kept)
            if flags.any():
                raise _NotANumberError
            made.append(spikes)
            shape = spikes.shape if spikes.pairs is None else (len(spikes.pairs.neurons),)
            out = torch.zeros((), dtype=torch.float32, device="cpu").expand(shape)
        scratch.give()
        ctx.neurons, ctx.given, ctx.kept, ctx.chosen = neurons, given.carried_by(None), tuple(kept), chosen
        ctx.made = (
            None if spikes is None else spikes.carried_by(None)
        )  # the carrier refers to this: a circle that only Python's collector frees
        ctx.by_sender = by_sender if back else None, own_by_sender
        ctx.save_for_backward(carrier, weight, bias, recurrent, fed, *others, *kept.values())
        ctx.set_materialize_grads(False)
        return out, *last, *recorded.values()

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor | None) -> Gradients:
        saved, count = cast("tuple[Tensor | None, ...]", ctx.saved_tensors), len(ctx.kept)
        saved = tuple(None if x is None else x.to(torch.float32) for x in saved)  # hooks may give it back in another dtype, and layout
        given, kept = saved[: len(saved) - count], saved[len(saved) - count :]
        readable = tuple(_readable(g) for g in arriving)
        beyond = [] if ctx.made is None else ctx.made.beyond
        if beyond or torch.is_grad_enabled() or gate.surroundings() is not None or not all(map(_readily, readable)):
            return None, None, None, None, *_by_the_loop(ctx, given, arriving)
        named = {name: x.contiguous() for name, x in zip(ctx.kept, kept, strict=True) if x is not None}
        return None, None, None, None, *_backward(ctx, given, named, readable)


def _readable(g: Tensor | None) -> Tensor | None:
    """A gradient as numbers in memory."""
    if g is None or type(g) is not Tensor:
        return g
    g = g.to_dense() if g.layout is not torch.strided else g
    g = g.clone() if g.is_neg() or torch._is_zerotensor(g) else g  # pyright: ignore
    return g.to(torch.float32).contiguous()


def _readily(g: Tensor | None) -> bool:
    """Whether a gradient is one that kernels can read: infinity times the 0 of a silent neuron is NaN, so that none could be left out."""
    return g is None or finite(g)


def _backward(
    ctx: _Context, saved: Sequence[Tensor | None], kept: Mapping[str, Tensor], arriving: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of the carrier, weights, bias, recurrent weights, what these brought at first, and first states."""
    neurons, given, made = ctx.neurons, ctx.given, ctx.made
    weight = saved[1]
    assert weight is not None
    steps, samples, senders = given.shape
    features = len(weight)
    count, names = len(neurons.tensors), neurons.call.plan.states
    tensors = [x for x in saved[5 : 5 + count] if x is not None]
    wants_input, wants_weight, wants_bias, wants_recurrent, wants_fed, *rest = ctx.needs_input_grad[4:]
    wanted, wants_state = rest[:count], rest[count:]
    variant = neurons.variant(True, senders, features, tensors, wanted)
    cut, chosen, scratch = pieces(senders, features, samples, neurons.fed), ctx.chosen, passes.Scratch()
    numbers, columns = passes.numbers(neurons, tensors, features)
    (g, *ends), recorded = arriving[: 1 + len(names)], dict(zip(neurons.call.recorded, arriving[1 + len(names) :], strict=True))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device="cpu")

    if g is None:
        g = empty(*((len(made.pairs.neurons),) if made is not None and made.pairs is not None else (steps, samples, features))).zero_()
    told = {f"record.{n}": empty(steps, samples, features).zero_() if x is None else x for n, x in recorded.items()}
    first = [empty(samples, features) for _ in wants_state]
    learned = {f"sum.{name}": empty(samples, features) for name in variant.learned}
    words = {
        **passes.sizes(given, features), "index": given.index.data_ptr(), "base": given.base.data_ptr(),
        "since": given.since.data_ptr(), "numbers": numbers.data_ptr(), **passes.ends(neurons, ends, rest=False),
        **{f"last.{name}": x.data_ptr() for name, x in zip(names, first, strict=False)},
        **{name: x.data_ptr() for name, x in {**kept, **columns, **learned, **told}.items()},
    }  # fmt: skip
    if variant.rare and made is not None and made.pairs is not None:
        words |= {"pairs": made.pairs.neurons.data_ptr(), "near": made.pairs.near.data_ptr(), "active": made.pairs.active.data_ptr()}
        words |= {"origin": made.pairs.base.data_ptr(), "arriving": g.data_ptr()}
    else:
        words |= {"out": g.data_ptr()}
    shares, of_bias, of_pairs, of_current, of_recurrent, of_fed = (None,) * 6
    below, own = ctx.by_sender
    if own is not None and made is not None:
        words |= {"recurrent": own.data_ptr(), "spikes": made.index.data_ptr(), "spiked": made.since.data_ptr()}
        words |= {"own.base": made.base.data_ptr()}
    if wants_recurrent:
        of_recurrent = scratch.take(cut.groups, features, features)
        words["grad.recurrent"] = of_recurrent.data_ptr()
    if wants_fed:
        of_fed = empty(samples, features)
        words["fed"] = of_fed.data_ptr()
    if wants_weight and chosen.weights == "event":
        shares = scratch.take(cut.groups, senders * features)
        words["grad.weights"] = shares.data_ptr()
    if wants_bias:
        of_bias = scratch.take(cut.groups, features)
        words["grad.bias"] = of_bias.data_ptr()
    if wants_input and given.pairs is not None and below is not None:
        of_pairs = empty(cut.parts, len(given.pairs.neurons))
        words |= {"below": given.pairs.neurons.data_ptr(), "below.base": given.pairs.base.data_ptr()}
        words |= {"below.near": given.pairs.near.data_ptr(), "below.active": given.pairs.active.data_ptr()}
        words |= {"below.parts": given.pairs.parts, "below.count": len(given.pairs.neurons)}
        words |= {"grad.below": of_pairs.data_ptr(), "weights": below.data_ptr()}
    if (wants_input and of_pairs is None) or (wants_weight and shares is None):
        of_current = empty(steps, samples, features)
        words["currents"] = of_current.data_ptr()
    passes.run(variant, steps, cut, words)
    of_input = None if of_pairs is None else _added(of_pairs) if len(of_pairs) == 1 else _added(of_pairs).clone()
    of_weight = None if shares is None else passes.from_blocks(_added(shares), cut, senders)
    if of_current is not None and wants_input and of_input is None:
        of_input = of_current @ weight.detach()
        of_input = of_input if given.pairs is None else picked(of_input, given.pairs)
    if of_current is not None and wants_weight and of_weight is None:
        of_weight = of_current.flatten(0, 1).t() @ given.unscaled().flatten(0, 1)
    of_bias = None if of_bias is None else _added(of_bias).clone()
    of_recurrent = None if of_recurrent is None else _added(of_recurrent).t().clone(memory_format=torch.contiguous_format)
    scratch.give()
    found = [of_input, of_weight, of_bias, of_recurrent, of_fed]
    of_tensors = [learned[f"sum.{name}"] if want else None for name, want in zip(neurons.tensors, wanted, strict=True)]
    found += [None if g is None else g.sum(0).sum_to_size(x.shape).to(x.dtype) for g, x in zip(of_tensors, tensors, strict=True)]
    return [*found, *(x if want else None for x, want in zip(first, wants_state, strict=True))]


def _added(shares: Tensor) -> Tensor:
    """Their sum, in their order; the first of them becomes it."""
    total, *others = shares.unbind()
    for share in others:
        total += share
    return total


def _by_the_loop(ctx: _Context, saved: Sequence[Tensor | None], arriving: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The same by way of the plain loop, themselves differentiable if that is asked for."""
    again, neurons = torch.is_grad_enabled(), ctx.neurons
    call, numbers = neurons.call, neurons.numbers
    of_surrogate = zip(call.surrogate.arguments[1:], numbers.surrogate, strict=True)
    surrogate = from_record(call.surrogate)(**{name: value for name, value in of_surrogate if value is not None})

    def fire(x: Tensor, spike_at_threshold: bool, _: None) -> Tensor:
        return surrogate(x, spike_at_threshold=spike_at_threshold)

    with torch.enable_grad():
        # Each by itself, where one was computed from another: the way from the one to the other is autograd's, outside of the layer.
        tensors = [None if x is None else x.view_as(x) for x in saved]
        carrier, weight, bias, recurrent, fed, *others = tensors
        own, state = dict(zip(neurons.tensors, others, strict=False)), others[len(neurons.tensors) :]
        assert weight is not None
        currents = torch.nn.functional.linear(ctx.given.carried_by(carrier).dense(), weight, bias)
        if fed is not None:
            currents = torch.cat([currents[:1] + fed, currents[1:]])
        start = [x for x in state if x is not None] or [currents.new_full(currents.shape[1:], x) for x in numbers.state if x is not None]
        parameters: dict[str, Array] = dict(zip(call.plan.parameters, numbers.parameters, strict=True)) | own
        if neurons.fed:
            call = dataclasses.replace(call, connection="all-to-all")
            start.append(torch.zeros_like(currents[0]))
        outputs, last, recorded = loop.run(call, fire, [currents], start, parameters, recurrent, rested=False)
        out = outputs[0] if ctx.made is None or ctx.made.pairs is None else picked(outputs[0], ctx.made.pairs)
        beyond = [] if ctx.made is None else [(outputs[0], ctx.made.beyond.pop()) for _ in list(ctx.made.beyond)]
        heads = [
            (o, g)
            for o, g in (*zip((out, *last[: len(call.plan.states)], *recorded), arriving, strict=True), *beyond)
            if g is not None and o.requires_grad
        ]
        wanted = [x for x in tensors if x is not None and x.requires_grad]
        found = iter([None] * len(wanted))
        if heads:
            outs, gradients = zip(*heads, strict=True)
            found = iter(torch.autograd.grad(outs, wanted, gradients, create_graph=again, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in tensors]


def run(
    neurons: Neurons,
    chosen: Chosen,
    given: Spikes,
    weight: Tensor,
    bias: Tensor | None,
    recurrent: Tensor | None,
    tensors: Sequence[Tensor],
    state: Sequence[Tensor],
) -> tuple[Spikes | Tensor, list[Tensor], list[Tensor]] | None:
    """Spikes, or outputs that are numbers, states after the last step, and recorded values, dense; None where a potential is not a number.

    Args:
        neurons: the neurons.
        chosen: the way of each product.
        given: events that arrive.
        weight: ``(features, senders)``, finite.
        bias: ``(features,)``.
        recurrent: ``(features, features)``, finite, of neurons that receive their own spikes.
        tensors: the parameters that are such, of one number or with one for each neuron.
        state: the states before the first step, ``(batch, features)`` each, with `recurrent` what is fed back last; empty for rest.
    """
    made: list[Spikes] = []
    fed: Tensor | None = None
    if recurrent is not None and state:
        *state, before = state
        fed = before @ recurrent.t()
    try:
        carrier = given.carrier if given.requires_grad else None
        out, *others = _Events.apply(neurons, chosen, given, made, carrier, weight, bias, recurrent, fed, *tensors, *state)
    except _NotANumberError:
        return None
    count = len(neurons.call.plan.states)
    last, recorded = others[:count], others[count:]
    if made:
        made[0].carrier = out
        if recurrent is not None:
            last.append(made[0].last())
    return (made[0] if made else out), last, recorded
