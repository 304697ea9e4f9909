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
from spikegrad.kernels.plan import Call
from spikegrad.kernels.spikes import Pairs, Spikes
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


def numbers(neurons: Neurons, tensors: Sequence[Tensor], features: int) -> tuple[np.ndarray, dict[str, Tensor]]:
    """The parameters and the surrogate's numbers, one each; and the rows of those that have one for each neuron."""
    given = dict(zip(neurons.tensors, tensors, strict=True))
    rows = {f"column.{n}": x.detach().to(torch.float32).expand(features).contiguous() for n, x in given.items() if x.numel() > 1}
    parameters = zip(neurons.call.plan.parameters, neurons.numbers.parameters, strict=True)
    each = [value if value is not None else 0.0 if given[n].numel() > 1 else given[n].item() for n, value in parameters]
    return np.array([*each, *neurons.numbers.surrogate], np.float32), rows


def kept(variant: Variant, samples: int, steps: int, features: int) -> dict[str, Tensor]:
    """What is kept for all neurons, by sample."""
    shape = (samples, steps, features)
    return {f"every.{name}": torch.empty(shape, dtype=torch.float32, device="cpu") for name in variant.everywhere}


def run(variant: Variant, steps: int, cut: Pieces, given: Mapping[str, int]) -> None:
    """Run a pass; the samples, features and senders are among what is given."""
    line = -(-cut.breadth // lists.LANES) * lists.LANES * 4
    share = len(variant.rows()) * line
    units = cut.groups * cut.parts
    most = min(torch.get_num_threads(), threads.MOST, units)
    working = memory.take(share * most)
    given = {**given, **cut._asdict(), "line": line}
    words = [given.get(name, 0) for name in variant.arguments()]
    job = threads.job(compiled(variant), most, steps, units, 1, share, words)
    job[threads.SCRATCH] = working.address
    threads.run(job)
    memory.give(working)


def ends(names: Sequence[str], tensors: Sequence[Tensor | None], floats: np.ndarray) -> dict[str, int]:
    """Where states are at one end of time, given or as one number."""
    found: dict[str, int] = {}
    for k, (name, x) in enumerate(zip(names, tensors, strict=True)):
        found[f"first.{name}"] = floats.ctypes.data + 4 * k if x is None else x.data_ptr()
        found[f"columns.{name}"], found[f"samples.{name}"] = (0, 0) if x is None else (1, x.shape[-1])
    return found


def in_blocks(weight: Tensor, cut: Pieces) -> Tensor:
    """Weights by sender, a block of columns after the other."""
    features, senders = weight.shape
    blocks = torch.empty(features * senders, dtype=torch.float32, device="cpu")
    for piece, part in zip(blocks.split(cut.breadth * senders), weight.detach().split(cut.breadth), strict=True):
        piece.view(senders, -1).copy_(part.t())
    return blocks


def from_blocks(blocks: Tensor, cut: Pieces, senders: int) -> Tensor:
    """The reverse: by receiver, as PyTorch has weights."""
    parts = [piece.view(senders, -1).t() for piece in blocks.split(cut.breadth * senders)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


ROOMS = 2**28
"""Bytes of the lists of samples that are worked on at once: each has room for all neurons, since nobody knows how many will spike."""


def listed(variant: Variant, shape: tuple[int, int, int], cut: Pieces, words: Mapping[str, int], kept: dict[str, Tensor]) -> Spikes:
    """Run the forward pass of neurons that spike, some samples at a time, and put the lists of all pieces together."""
    steps, samples, features = shape
    item, each = lists.place_type(features), lists.room(steps, cut.breadth)
    types = {"spikes": item, "pairs": item} | {f"kept.{name}": np.dtype(np.float32) for name in variant.pairs}
    types = {name: kind for name, kind in types.items() if variant.rare or name == "spikes"}
    size = each * cut.parts
    most = min(samples, max(torch.get_num_threads(), ROOMS // (size * sum(kind.itemsize for kind in types.values()))))
    rooms = {name: memory.take(size * most * kind.itemsize) for name, kind in types.items()}
    given = {**words, **{name: block.address for name, block in rooms.items()}, "room": each}
    apart = {"base": 8, "since": 4 * (steps + 1), "flags": 4 * cut.parts, "fed": 4 * features, "currents": 4 * features}
    apart |= {name: 4 * steps * features for name in words if name.startswith("every.")}
    apart |= {f"record.{name}": 4 * features for name in variant.call.recorded}
    apart |= {f"first.{name}": 4 * words[f"samples.{name}"] for name in variant.call.plan.states}
    apart |= {f"last.{name}": 4 * features for name in variant.call.plan.states}
    found: dict[str, list[np.ndarray]] = {}
    for first in range(0, samples, most):
        count = min(most, samples - first)
        starts = {name: np.empty((cut.parts, count, steps + 1), np.int32) for name in ("spiked", "near")}
        starts["active"] = np.empty((cut.parts, count, steps), np.int32)
        there = {name: given[name] + first * by for name, by in apart.items() if given.get(name)}
        run(variant, steps, cut._replace(groups=count), {**given, **there, **{name: x.ctypes.data for name, x in starts.items()}})
        some: dict[str, np.ndarray] = {"since": np.ascontiguousarray(lists.begins(starts["spiked"])[:, :: cut.parts])}
        if variant.rare:
            some["near"] = lists.begins(starts["near"])
            ends = (starts["active"] - starts["near"][..., :-1]).transpose(1, 2, 0).reshape(count, -1)
            some["active"] = some["near"][:, :-1] + ends
        for name, kind in types.items():
            since = starts["spiked" if name == "spikes" else "near"]
            some[name], begins = lists.packed(rooms[name], kind, since, each, torch.get_num_threads())
            some[f"base.{name}"] = np.diff(begins)
        for name, x in some.items():
            found.setdefault(name, []).append(x)
    for block in rooms.values():
        memory.give(block)
    whole = {name: torch.from_numpy(x[0] if len(x) == 1 else np.concatenate(x)) for name, x in found.items()}

    def base(name: str) -> Tensor:
        return torch.nn.functional.pad(whole[f"base.{name}"].cumsum(0), (1, 0))

    pairs = None
    if variant.rare:
        pairs = Pairs(whole["pairs"], base("pairs"), whole["near"], whole["active"], cut.parts)
        kept |= {name: whole[name] for name in types if name.startswith("kept.")}
    return Spikes(torch.Size(shape), whole["spikes"], base("spikes"), whole["since"], pairs)


def sizes(given: Spikes, features: int) -> dict[str, int]:
    """How many samples, neurons and senders a layer has."""
    return {"samples": given.shape[1], "features": features, "senders": given.shape[2]}


@functools.lru_cache(maxsize=256)
def neurons_of(call: Call, numbers: Numbers, window: tuple[float, float], fed: bool = False) -> Neurons:
    """The neurons of a layer, the same object each time."""
    return Neurons(call, numbers, window, fed)
