"""Passes of weights and neurons over events, and what they are given in memory: pieces of weights, lists, numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spikegrad.kernels.choice import Pieces
from spikegrad.kernels.cpu import lists, memory, threads
from spikegrad.kernels.cpu.event_loops import compiled
from spikegrad.kernels.cpu.events import Variant, split_of
from spikegrad.kernels.places import Pairs
from spikegrad.kernels.plan import Call
from spikegrad.kernels.spikes import Spikes
from spikegrad.kernels.values import Numbers


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

    @functools.cached_property
    def rare(self) -> bool:
        """Whether the reverse of a step runs in full at few pairs alone."""
        return split_of(self.call).rare and math.isfinite(self.window[1] - self.window[0])

    @functools.cached_property
    def tensors(self) -> tuple[str, ...]:
        """The names of the parameters that are tensors."""
        return tuple(n for n, x in zip(self.call.plan.parameters, self.numbers.parameters, strict=True) if x is None)

    def variant(self, backward: bool, senders: int, features: int, tensors: Sequence[Tensor], wanted: Sequence[bool]) -> Variant:
        """The kernel; `tensors` are the parameters that are such, and `wanted` says whose gradients are."""
        learned = tuple(name for name, want in zip(self.tensors, wanted, strict=True) if want)
        columns = tuple(name for name, x in zip(self.tensors, tensors, strict=True) if x.numel() > 1)
        key = backward, lists.kind_of(senders), lists.kind_of(features), learned, columns
        found = self._variants.get(key)
        if found is None:
            found = self._variants[key] = Variant(self.call, backward, self.rare, *key[1:3], self.fed, learned, columns)
        return found

    @functools.cached_property
    def _variants(self) -> dict[tuple[bool, str, str, tuple[str, ...], tuple[str, ...]], Variant]:
        """Those that there were, each the same object each time, which knows its arguments and rows."""
        return {}

    @functools.cached_property
    def constants(self) -> Tensor:
        """What no call changes: where states rest, a 0, and the window."""
        return torch.tensor([*self.numbers.state, 0.0, *self.window], dtype=torch.float32, device="cpu")

    @functools.cached_property
    def floats(self) -> Tensor:
        """The parameters and the surrogate's numbers, 0 for those that are tensors."""
        return torch.tensor([x or 0.0 for x in (*self.numbers.parameters, *self.numbers.surrogate)], dtype=torch.float32, device="cpu")

    @property
    def window_at(self) -> int:
        """The address of the window."""
        return self.constants.data_ptr() + 4 * (len(self.numbers.state) + 1)


def numbers(neurons: Neurons, tensors: Sequence[Tensor], features: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The parameters and the surrogate's numbers, one each; and the rows of those that have one for each neuron."""
    if not tensors:
        return neurons.floats, {}
    given = dict(zip(neurons.tensors, tensors, strict=True))
    rows = {f"column.{n}": x.detach().to(torch.float32).expand(features).contiguous() for n, x in given.items() if x.numel() > 1}
    parameters = zip(neurons.call.plan.parameters, neurons.numbers.parameters, strict=True)
    each = [value if value is not None else 0.0 if given[n].numel() > 1 else given[n].item() for n, value in parameters]
    return torch.tensor([*each, *neurons.numbers.surrogate], dtype=torch.float32, device="cpu"), rows


def kept(variant: Variant, samples: int, steps: int, features: int) -> dict[str, Tensor]:
    """What is kept for all neurons, by sample."""
    shape = (samples, steps, features)
    return {f"every.{name}": torch.empty(shape, dtype=torch.float32, device="cpu") for name in variant.everywhere}


def run(variant: Variant, steps: int, cut: Pieces, given: Mapping[str, int]) -> None:
    """Run a pass; the samples, features and senders are among what is given."""
    line = -(-cut.breadth // lists.LANES) * lists.LANES * 4
    share = len(variant.rows) * line
    units = cut.groups * cut.parts
    most = min(torch.get_num_threads(), threads.MOST, units)
    working = memory.take(share * most)
    given = {**given, **cut._asdict(), "line": line}
    words = [given.get(name, 0) for name in variant.arguments]
    job = threads.job(compiled(variant), most, steps, units, 1, share, words)
    job[threads.SCRATCH] = working.address
    threads.run(job)
    memory.give(working)


def ends(neurons: Neurons, tensors: Sequence[Tensor | None], *, rest: bool) -> dict[str, int]:
    """Where states are at one end of time, given or as one number: where they rest, or 0."""
    names, floats = neurons.call.plan.states, neurons.constants.data_ptr()
    found: dict[str, int] = {}
    for k, (name, x) in enumerate(zip(names, tensors, strict=True)):
        found[f"first.{name}"] = floats + 4 * (k if rest else len(names)) if x is None else x.data_ptr()
        found[f"columns.{name}"], found[f"samples.{name}"] = (0, 0) if x is None else (1, x.shape[-1])
    return found


class Scratch:
    """Memory of one pass, which is used again: fresh memory costs a page fault for every 4 KiB."""

    def __init__(self) -> None:
        self._blocks: list[memory.Block] = []

    def take(self, *shape: int) -> Tensor:
        """A tensor of float32, uninitialised."""
        self._blocks.append(memory.take(4 * math.prod(shape)))
        return torch.from_numpy(self._blocks[-1].bytes.view(np.float32)).view(shape)

    def give(self) -> None:
        """Let all of it be taken again."""
        for block in self._blocks:
            memory.give(block)


def put_in_blocks(blocks: Tensor, weight: Tensor, cut: Pieces) -> None:
    """Write weights by sender, a block of columns after the other."""
    if cut.parts == 1:
        blocks.view(-1, len(weight)).copy_(weight.detach().t())
        return
    for piece, part in zip(blocks.split(cut.breadth * weight.shape[1]), weight.detach().split(cut.breadth), strict=True):
        piece.view(-1, len(part)).copy_(part.t())


def from_blocks(blocks: Tensor, cut: Pieces, senders: int) -> Tensor:
    """The reverse: by receiver, as PyTorch has weights."""
    if cut.parts == 1:
        return blocks.view(senders, -1).t().clone(memory_format=torch.contiguous_format)
    return torch.cat([piece.view(senders, -1).t() for piece in blocks.split(cut.breadth * senders)])


ROOMS = 2**28
"""Bytes of the lists of samples that are worked on at once: each has room for all neurons, since nobody knows how many will spike."""


def listed(variant: Variant, shape: tuple[int, int, int], cut: Pieces, words: Mapping[str, int], kept: dict[str, Tensor]) -> Spikes:
    """Run the forward pass of neurons that spike, some samples at a time, and put the lists of all pieces together."""
    (steps, samples, features), at_most = shape, torch.get_num_threads()
    item, each = lists.place_type(features), lists.room(steps, cut.breadth)
    types = {"spiked": {"spikes": item}}
    if variant.rare:
        types["near"] = {"pairs": item, **{f"kept.{name}": np.dtype(np.float32) for name in variant.pairs}}
    places = {name: kind.itemsize for group in types.values() for name, kind in group.items()}
    size = each * cut.parts
    most = min(samples, max(at_most, ROOMS // (size * sum(places.values()))))
    rooms = {name: memory.take(size * most * bytes_each) for name, bytes_each in places.items()}
    given = {**words, **{name: block.address for name, block in rooms.items()}, "room": each}
    apart = {"base": 8, "since": 4 * (steps + 1), "flags": 4 * cut.parts, "fed": 4 * features, "currents": 4 * features}
    apart |= {name: 4 * steps * features for name in words if name.startswith("every.")}
    apart |= {f"record.{name}": 4 * features for name in variant.call.recorded}
    apart |= {f"first.{name}": 4 * words[f"samples.{name}"] for name in variant.call.plan.states}
    apart |= {f"last.{name}": 4 * features for name in variant.call.plan.states}
    base = {name: np.zeros(samples + 1, np.int64) for name in types}
    found: dict[str, list[np.ndarray]] = {}
    for first in range(0, samples, most):
        count = min(most, samples - first)
        starts = {name: np.empty((cut.parts, count, steps + 1), np.int32) for name in ("spiked", "near")}
        starts["active"] = np.empty((cut.parts, count, steps), np.int32)
        there = {name: given[name] + first * by for name, by in apart.items() if given.get(name)} if first else {}
        run(variant, steps, cut._replace(groups=count), {**given, **there, **{name: x.ctypes.data for name, x in starts.items()}})
        some: dict[str, np.ndarray] = {"since": np.ascontiguousarray(lists.begins(starts["spiked"])[:, :: cut.parts])}
        if variant.rare:
            some["near"] = lists.begins(starts["near"])
            ends = (starts["active"] - starts["near"][..., :-1]).transpose(1, 2, 0).reshape(count, -1)
            some["active"] = some["near"][:, :-1] + ends
        for name, group in types.items():
            some |= lists.packed(rooms, group, starts[name], base[name][first : first + count + 1], each, at_most)
        for name, x in some.items():
            found.setdefault(name, []).append(x)
    for block in rooms.values():
        memory.give(block)
    whole = {name: torch.from_numpy(x[0] if len(x) == 1 else np.concatenate(x)) for name, x in found.items()}
    pairs = None
    if variant.rare:
        pairs = Pairs(whole["pairs"], torch.from_numpy(base["near"]), whole["near"], whole["active"], cut.parts)
        kept |= {name: x for name, x in whole.items() if name.startswith("kept.")}
    return Spikes(torch.Size(shape), whole["spikes"], torch.from_numpy(base["spiked"]), whole["since"], pairs)


def sizes(given: Spikes, features: int) -> dict[str, int]:
    """How many samples, neurons and senders a layer has."""
    return {"samples": given.shape[1], "features": features, "senders": given.shape[2]}


@functools.lru_cache(maxsize=256)
def neurons_of(call: Call, numbers: Numbers, window: tuple[float, float], fed: bool = False) -> Neurons:
    """The neurons of a layer, the same object each time."""
    return Neurons(call, numbers, window, fed)
