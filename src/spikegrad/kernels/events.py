"""Weights and neurons over events, as an autograd function on the CPU.

Second derivatives, and a backward pass where a kernel may not run or a gradient is not finite, fall to the plain loop.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels import gate, loop
from spikegrad.kernels.cpu import lists, memory, threads
from spikegrad.kernels.cpu.event_loops import compiled
from spikegrad.kernels.cpu.events import Variant, split_of
from spikegrad.kernels.plan import Call
from spikegrad.kernels.spikes import Pairs, Spikes, finite, picked
from spikegrad.kernels.spikes import listed as listed
from spikegrad.kernels.values import Numbers
from spikegrad.recorded import from_record
from spikegrad.vocabulary import Array

GROUPS = 4
"""Blocks of samples whose gradients of the weights are added up apart, and then in their order: so sums do not depend on the threads."""

COPIES = 2**29
"""Bytes that these gradients may take together; of larger weights there are fewer blocks, whatever the number of threads."""


@dataclass(frozen=True)
class Neurons:
    """The neurons of a layer: what they are, and numbers.

    Attributes:
        call: the static part.
        numbers: the plan's parameters, None for each that is a tensor, the surrogate's numbers, and where states rest, floats.
        window: a closed interval outside of which the surrogate's derivative is 0.
        fed: whether neurons receive the spikes of all of them a step later, through weights of their own.
    """

    call: Call
    numbers: Numbers
    window: tuple[float, float]
    fed: bool = False

    @property
    def rare(self) -> bool:
        """Whether the reverse of a step runs in full at few pairs alone."""
        return split_of(self.call).rare and math.isfinite(self.window[1] - self.window[0])

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the parameters that are tensors."""
        return tuple(n for n, x in zip(self.call.plan.parameters, self.numbers.parameters, strict=True) if x is None)

    def variant(self, backward: bool, senders: int, features: int, tensors: Sequence[Tensor], wanted: Sequence[bool]) -> Variant:
        """The kernel; `tensors` are the parameters that are such, and `wanted` says whose gradients are."""
        learned = tuple(name for name, want in zip(self.tensors, wanted, strict=True) if want)
        columns = tuple(name for name, x in zip(self.tensors, tensors, strict=True) if x.numel() > 1)
        return Variant(self.call, backward, self.rare, lists.kind_of(senders), lists.kind_of(features), self.fed, learned, columns)


def _numbers(neurons: Neurons, tensors: Sequence[Tensor], features: int) -> tuple[np.ndarray, dict[str, Tensor]]:
    """The parameters and the surrogate's numbers, one each; and the rows of those that have one for each neuron."""
    given = dict(zip(neurons.tensors, tensors, strict=True))
    rows = {f"column.{n}": x.detach().to(torch.float32).expand(features).contiguous() for n, x in given.items() if x.numel() > 1}
    parameters = zip(neurons.call.plan.parameters, neurons.numbers.parameters, strict=True)
    each = [value if value is not None else 0.0 if given[n].numel() > 1 else given[n].item() for n, value in parameters]
    return np.array([*each, *neurons.numbers.surrogate], np.float32), rows


def _kept(variant: Variant, samples: int, steps: int, features: int) -> dict[str, Tensor]:
    """What is kept for all neurons, by sample."""
    shape = (samples, steps, features)
    return {f"every.{name}": torch.empty(shape, dtype=torch.float32, device="cpu") for name in variant.everywhere}


def _run(variant: Variant, sizes: tuple[int, int, int], features: int, given: Mapping[str, int]) -> None:
    steps, samples, block = sizes
    line = -(-features // lists.LANES) * lists.LANES * 4
    share = len(variant.rows()) * line
    most = min(torch.get_num_threads(), threads.MOST, -(-samples // block))
    working = memory.take(share * most)
    words = [given.get(name, line if name == "line" else 0) for name in variant.arguments()]
    job = threads.job(compiled(variant), most, steps, samples, block, share, words)
    job[threads.SCRATCH] = working.address
    threads.run(job)
    memory.give(working)


def _ends(names: Sequence[str], tensors: Sequence[Tensor | None], floats: np.ndarray) -> dict[str, int]:
    """Where states are at one end of time, given or as one number."""
    found: dict[str, int] = {}
    for k, (name, x) in enumerate(zip(names, tensors, strict=True)):
        found[f"first.{name}"] = floats.ctypes.data + 4 * k if x is None else x.data_ptr()
        found[f"columns.{name}"], found[f"samples.{name}"] = (0, 0) if x is None else (1, x.shape[-1])
    return found


class _NotANumberError(ArithmeticError):
    """A potential is not a number, and so is its spike, which no list can say."""


class _Context(Context, Protocol):
    neurons: Neurons
    given: Spikes
    made: Spikes | None
    kept: tuple[str, ...]
    by_sender: tuple[Tensor | None, Tensor | None]


class _Events(Function):
    @staticmethod
    def forward(
        ctx: _Context, neurons: Neurons, given: Spikes, made: list[Spikes], carrier: Tensor | None, weight: Tensor, bias: Tensor | None,
        recurrent: Tensor | None, fed: Tensor | None, *others: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        steps, samples, senders = given.shape
        features = len(weight)
        count, names = len(neurons.tensors), neurons.call.plan.states
        tensors, state = others[:count], others[count:]
        variant = neurons.variant(False, senders, features, tensors, ctx.needs_input_grad[8 : 8 + count])
        by_sender, own = weight.detach().t().contiguous(), None if bias is None else bias.detach().contiguous()
        last = [torch.empty(samples, features, dtype=torch.float32, device="cpu") for _ in names]
        numbers, columns = _numbers(neurons, tensors, features)
        rest, window = np.array(neurons.numbers.state or [0.0], np.float32), np.array(neurons.window, np.float32)
        first = [x.detach().to(torch.float32).contiguous() for x in state] or [None] * len(names)
        kept = _kept(variant, samples, steps, features)
        flags = np.zeros(samples, np.float32)
        own_by_sender = None if recurrent is None else recurrent.detach().t().contiguous()
        fed_first = None if fed is None else fed.detach().contiguous()
        words = {
            "recurrent": 0 if own_by_sender is None else own_by_sender.data_ptr(),
            "fed": 0 if fed_first is None else fed_first.data_ptr(),
            "features": features, "senders": senders, "weights": by_sender.data_ptr(), "index": given.index.data_ptr(),
            "base": given.base.data_ptr(), "since": given.since.data_ptr(), "numbers": numbers.ctypes.data,
            "window": window.ctypes.data, "flags": flags.ctypes.data, **_ends(names, first, rest),
            "bias": 0 if own is None else own.data_ptr(),
            **{f"last.{name}": x.data_ptr() for name, x in zip(names, last, strict=True)},
            **{name: x.data_ptr() for name, x in (kept | columns).items()},
        }  # fmt: skip
        out: Tensor | None = None
        spikes: Spikes | None = None
        if variant.split.emits is None:
            out = torch.empty(steps, samples, features, dtype=torch.float32, device="cpu")
            _run(variant, (steps, samples, 1), features, words | {"out": out.data_ptr()})
        else:
            spikes = _listed(variant, (steps, samples, features), words, kept)
            if flags.any():
                raise _NotANumberError
            made.append(spikes)
            shape = spikes.shape if spikes.pairs is None else (len(spikes.pairs.neurons),)
            out = torch.zeros((), dtype=torch.float32, device="cpu").expand(shape)
        ctx.neurons, ctx.given, ctx.made, ctx.kept = neurons, _without_carrier(given), spikes, tuple(kept)
        ctx.by_sender = by_sender if carrier is not None and given.pairs is not None else None, own_by_sender
        ctx.save_for_backward(carrier, weight, bias, recurrent, fed, *others, *kept.values())
        ctx.set_materialize_grads(False)
        return out, *last

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor | None) -> Gradients:
        saved, count = cast("tuple[Tensor | None, ...]", ctx.saved_tensors), len(ctx.kept)
        given, kept = saved[: len(saved) - count], saved[len(saved) - count :]
        readable = tuple(_readable(g) for g in arriving)
        beyond = [] if ctx.made is None else ctx.made.beyond
        if beyond or torch.is_grad_enabled() or gate.surroundings() is not None or not all(map(_readily, readable)):
            return None, None, None, *_by_the_loop(ctx, given, arriving)
        named = {name: x for name, x in zip(ctx.kept, kept, strict=True) if x is not None}
        return None, None, None, *_backward(ctx, given, named, readable)


def _without_carrier(spikes: Spikes) -> Spikes:
    made = Spikes(spikes.shape, spikes.index, spikes.base, spikes.since, spikes.pairs)
    made.beyond = spikes.beyond
    return made


def _readable(g: Tensor | None) -> Tensor | None:
    """A gradient as numbers in memory."""
    if g is None or type(g) is not Tensor:
        return g
    g = g.to_dense() if g.layout is not torch.strided else g
    g = g.clone() if g.is_neg() or torch._is_zerotensor(g) else g  # pyright: ignore
    return g.to(torch.float32).contiguous()


def _readily(g: Tensor | None) -> bool:
    """Whether a gradient is one that kernels can read: infinity times the 0 of a silent neuron is NaN, so that none could be left out."""
    return g is None or (type(g) is Tensor and finite(g))


def _listed(variant: Variant, shape: tuple[int, int, int], words: Mapping[str, int], kept: dict[str, Tensor]) -> Spikes:
    """Run the forward pass of neurons that spike, and put the lists of all samples together."""
    steps, samples, features = shape
    item, each = lists.place_type(features), lists.room(steps, features)
    starts = {name: torch.empty(samples, steps + 1, dtype=torch.int32, device="cpu") for name in ("spiked", "near")}
    starts["active"] = torch.empty(samples, steps, dtype=torch.int32, device="cpu")
    types = {"spikes": item, "pairs": item} | {f"kept.{name}": np.dtype(np.float32) for name in variant.pairs}
    rooms = {name: memory.take(each * samples * kind.itemsize) for name, kind in types.items() if variant.rare or name == "spikes"}
    places = {name: x.data_ptr() for name, x in starts.items()} | {name: block.address for name, block in rooms.items()}
    _run(variant, (steps, samples, 1), features, {**words, **places, "room": each})

    def together(name: str, since: Tensor) -> tuple[Tensor, Tensor]:
        exact, base = lists.packed(rooms[name], types[name], since.numpy()[:, -1], each, torch.get_num_threads())
        return torch.from_numpy(exact), torch.from_numpy(base)

    index, base = together("spikes", starts["spiked"])
    pairs = None
    if variant.rare:
        pairs = Pairs(*together("pairs", starts["near"]), starts["near"], starts["active"])
        kept |= {name: together(name, starts["near"])[0] for name in rooms if name.startswith("kept.")}
    for block in rooms.values():
        memory.give(block)
    return Spikes(torch.Size(shape), index, base, starts["spiked"], pairs)


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
    wants_input, wants_weight, wants_bias, wants_recurrent, wants_fed, *rest = ctx.needs_input_grad[3:]
    wanted, wants_state = rest[:count], rest[count:]
    variant = neurons.variant(True, senders, features, tensors, wanted)
    weights = 4 * features * (senders + features * neurons.fed)
    block = max(1, -(-samples // max(1, min(GROUPS, COPIES // weights))))
    groups = -(-samples // block)
    (numbers, columns), nothing = _numbers(neurons, tensors, features), np.zeros(len(names) or 1, np.float32)
    g, *ends = arriving
    if g is None:
        g = torch.zeros((len(made.pairs.neurons),) if made is not None and made.pairs is not None else (steps, samples, features))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device="cpu")

    first = [empty(samples, features) for _ in wants_state]
    learned = {f"sum.{name}": empty(samples, features) for name in variant.learned}
    words = {
        "features": features, "senders": senders, "index": given.index.data_ptr(), "base": given.base.data_ptr(),
        "since": given.since.data_ptr(), "numbers": numbers.ctypes.data, **_ends(names, ends, nothing),
        **{f"last.{name}": x.data_ptr() for name, x in zip(names, first, strict=False)},
        **{name: x.data_ptr() for name, x in {**kept, **columns, **learned}.items()},
    }  # fmt: skip
    if variant.rare and made is not None and made.pairs is not None:
        words |= {"pairs": made.pairs.neurons.data_ptr(), "near": made.pairs.near.data_ptr(), "active": made.pairs.active.data_ptr()}
        words |= {"origin": made.pairs.base.data_ptr(), "arriving": g.data_ptr()}
    else:
        words |= {"out": g.data_ptr()}
    of_weight, of_bias, of_input, of_current, of_recurrent, of_fed = (None,) * 6
    below, own = ctx.by_sender
    if own is not None and made is not None:
        words |= {"recurrent": own.data_ptr(), "spikes": made.index.data_ptr(), "spiked": made.since.data_ptr()}
        words |= {"own.base": made.base.data_ptr()}
    if wants_recurrent:
        of_recurrent = empty(groups, features, features)
        words["grad.recurrent"] = of_recurrent.data_ptr()
    if wants_fed:
        of_fed = empty(samples, features)
        words["fed"] = of_fed.data_ptr()
    if wants_weight:
        of_weight = empty(groups, senders, features)
        words["grad.weights"] = of_weight.data_ptr()
    if wants_bias:
        of_bias = empty(groups, features)
        words["grad.bias"] = of_bias.data_ptr()
    if wants_input and given.pairs is not None and below is not None:
        of_input = empty(len(given.pairs.neurons))
        words |= {"below": given.pairs.neurons.data_ptr(), "below.base": given.pairs.base.data_ptr()}
        words |= {"below.near": given.pairs.near.data_ptr(), "below.active": given.pairs.active.data_ptr()}
        words |= {"grad.below": of_input.data_ptr(), "weights": below.data_ptr()}
    elif wants_input:
        of_current = empty(steps, samples, features)
        words["currents"] = of_current.data_ptr()
    _run(variant, (steps, samples, block), features, words)
    if of_current is not None:
        of_input = of_current @ weight.detach()
    sums = [None if each is None else _added(each) for each in (of_weight, of_bias, of_recurrent)]
    by_receiver = [None if each is None else each.t() for each in (sums[0], sums[2])]
    found = [of_input, by_receiver[0], sums[1], by_receiver[1], of_fed]
    of_tensors = [learned[f"sum.{name}"] if want else None for name, want in zip(neurons.tensors, wanted, strict=True)]
    found += [None if g is None else g.sum(0).sum_to_size(x.shape).to(x.dtype) for g, x in zip(of_tensors, tensors, strict=True)]
    return [*found, *(x if want else None for x, want in zip(first, wants_state, strict=True))]


def _added(shares: Tensor) -> Tensor:
    """Their sum, in their order."""
    total = shares[0].clone() if len(shares) == 1 else shares[0] + shares[1]
    for share in shares[2:]:
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
        given = _without_carrier(ctx.given)
        given.carrier = carrier
        currents = torch.nn.functional.linear(given.dense(), weight, bias)
        if fed is not None:
            currents = torch.cat([currents[:1] + fed, currents[1:]])
        start = [x for x in state if x is not None] or [currents.new_full(currents.shape[1:], x) for x in numbers.state if x is not None]
        parameters: dict[str, Array] = dict(zip(call.plan.parameters, numbers.parameters, strict=True)) | own
        if neurons.fed:
            call = dataclasses.replace(call, connection="all-to-all")
            start.append(torch.zeros_like(currents[0]))
        outputs, last, _ = loop.run(call, fire, [currents], start, parameters, recurrent, rested=False)
        out = outputs[0] if ctx.made is None or ctx.made.pairs is None else picked(outputs[0], ctx.made.pairs)
        beyond = [] if ctx.made is None else [(outputs[0], ctx.made.beyond.pop()) for _ in list(ctx.made.beyond)]
        heads = [(o, g) for o, g in (*zip((out, *last), arriving, strict=False), *beyond) if g is not None and o.requires_grad]
        wanted = [x for x in tensors if x is not None and x.requires_grad]
        found = iter([None] * len(wanted))
        if heads:
            outs, gradients = zip(*heads, strict=True)
            found = iter(torch.autograd.grad(outs, wanted, gradients, create_graph=again, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in tensors]


def run(
    neurons: Neurons,
    given: Spikes,
    weight: Tensor,
    bias: Tensor | None,
    recurrent: Tensor | None,
    tensors: Sequence[Tensor],
    state: Sequence[Tensor],
) -> tuple[Spikes | Tensor, list[Tensor]] | None:
    """Spikes, or outputs that are numbers, and the states after the last step; None where a potential is not a number.

    Args:
        neurons: the neurons.
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
        out, *last = _Events.apply(neurons, given, made, given.carrier, weight, bias, recurrent, fed, *tensors, *state)
    except _NotANumberError:
        return None
    if made:
        made[0].carrier = out
        if recurrent is not None:
            last.append(made[0].last())
    return (made[0] if made else out), last


@functools.lru_cache(maxsize=256)
def neurons_of(call: Call, numbers: Numbers, window: tuple[float, float], fed: bool = False) -> Neurons:
    """The neurons of a layer, the same object each time."""
    return Neurons(call, numbers, window, fed)
