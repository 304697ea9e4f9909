"""A chain of modules run in segments, of which only what goes in is kept: spikes, as bits.

A segment ends with what sees time, usually spiking neurons. What treats each sample by itself is run some samples at a time, forward and
backward alike, so that the values inside of a segment are never all there at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils import _pytree as tree

from spikegrad.nn.bits import outline, packed
from spikegrad.nn.events import emits
from spikegrad.nn.layer import Layer, State, Stateful
from spikegrad.nn.lengths import Lengths
from spikegrad.nn.linear import SpikingLinear, differ
from spikegrad.nn.quantize import Quantize
from spikegrad.nn.recompute import Blocks, replayed_tree, watched
from spikegrad.nn.snapshot import uncached
from spikegrad.nn.spike import Spike
from spikegrad.nn.steps import Steps

Role = Literal["sequence", "folded"]
"""What a module of a chain is given: the whole sequence and a state, or time folded into the batch."""

_HELD = 2**21
"""Numbers that a segment holds at once while it is computed anew, about: the values between its modules for some samples."""

_ALONE: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.Sequential,
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d,
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Softplus,
)  # fmt: skip
"""Modules of PyTorch's that treat each sample by itself, whatever their mode."""


Measured = dict[Any, tuple[int, int]]
"""How many numbers a segment holds for one step of one sample, and how many outputs it has, by its place and the shape of its input."""


class Link(NamedTuple):
    """A module of a chain.

    Attributes:
        module: the module.
        role: what it is given.
        name: what messages call it.
    """

    module: nn.Module
    role: Role
    name: str


Chained = Callable[[Sequence[Link], Any, Sequence[State], Lengths], tuple[Any, list[State]]]
"""Links, one after the other: their output, and their states."""


def recomputed(
    links: Sequence[Link], x: Any, states: Sequence[State], lengths: Lengths, chained: Chained, measured: Measured
) -> tuple[Any, list[State]]:
    """`chained`, of which is kept what goes into each segment; of one that is watched, what autograd keeps.

    Args:
        links: the chain.
        x: its input.
        states: one for each link.
        lengths: of the samples, or None.
        chained: runs some links as autograd does it.
        measured: what is known of the segments, to be added to.
    """
    lasts: list[State] = []
    for segment, spikes in _divided(links):
        first = len(lasts)
        given = states[first : first + len(segment)]
        if _recomputes(segment[0].module) or not isinstance(x, Tensor) or any(watched(link.module) for link in segment):
            x, last = chained(segment, x, given, lengths)
        else:
            x, last = _replayed(first, segment, x, given, lengths, chained, measured, spikes)
        lasts += last
    return x, lasts


def _divided(links: Sequence[Link]) -> Iterator[tuple[Sequence[Link], bool]]:
    """Segments, and whether what arrives at each is known to be spikes.

    A dropout of spikes is one by itself: it draws for all samples together, and what it leaves has two values again.
    """
    segment: list[Link] = []
    arrive = follow = False
    for link in links:
        alone = _recomputes(link.module) or (not segment and follow and _drops(link.module))
        if segment and _recomputes(link.module):
            yield segment, arrive
            segment, follow = [], False
        if not segment:
            arrive = follow
        segment.append(link)
        if alone or link.role == "sequence":
            follow = _drops(link.module) or _spikes(link.module)
            yield segment, arrive
            segment = []
    if segment:
        yield segment, arrive


def _replayed(
    place: int,
    segment: Sequence[Link],
    x: Tensor,
    states: Sequence[State],
    lengths: Lengths,
    chained: Chained,
    measured: Measured,
    spikes: bool,
) -> tuple[Any, list[State]]:
    ends = None if lengths is None else torch.as_tensor(lengths)
    blocks = None
    if x.ndim > 2 and x.numel() and all(_by_sample(link.module, x.shape[1]) for link in segment) and _fit(states, x.shape[1]):
        kinds = (link.module.neuron.record.outputs if isinstance(link.module, Layer) else type(link.module) for link in segment)
        key = place, x.shape[2:], *kinds
        if key not in measured:
            measured[key] = _held(segment, x, chained)
        held, outputs = measured[key]
        if held:
            count = -(-x.shape[1] // max(1, _HELD // (held * len(x))))
            others = sum(isinstance(each, Tensor) for each in tree.tree_leaves((states, ends)))
            blocks = Blocks(-(-x.shape[1] // count), x.shape[1], (1, *[0] * others), (*[1] * outputs, 0))

    def run(modules: nn.Module, x: Tensor, states: Sequence[State], ends: Tensor | None) -> tuple[Any, list[State]]:
        assert isinstance(modules, nn.ModuleList)
        return chained([link._replace(module=module) for module, link in zip(modules, empty, strict=True)], x, states, ends)

    kept = packed(x, spikes=spikes)
    empty = [link._replace(module=nn.Identity()) for link in segment]  # the run is given the modules, as they were
    stand_in = x if kept is None else outline(x)
    modules = nn.ModuleList([link.module for link in segment])
    made, last = replayed_tree(run, modules, (stand_in, list(states), ends), blocks, kept, draws=blocks is None)
    return made, last


def _held(segment: Sequence[Link], x: Tensor, chained: Chained) -> tuple[int, int]:
    """What is to be known of a segment; 0 numbers if a sample has no dimension of its own."""
    count, outputs, made = 0, (x,), x[:1, :1]
    with torch.no_grad(), uncached(x.device.type):
        for link in segment:
            before = made.numel()
            try:
                found, _ = chained([link], made, [None], None)
            except Exception:  # which the run itself will say, of its own input
                return 0, 1
            outputs = found if isinstance(found, tuple) else (found,)
            inside = sum(1 for each in link.module.modules() if not next(each.children(), None))
            count += max(before, sum(each.numel() for each in outputs)) * inside
            if outputs[0].ndim < 3:
                return 0, 1
            made = outputs[0]
    return count, len(outputs)


def _fit(states: Sequence[State], samples: int) -> bool:
    """Whether each part of the states is of so many samples."""
    return all(_fit(s, samples) if isinstance(s, tuple | list) else s is None or (s.ndim > 0 and len(s) == samples) for s in states)  # pyright: ignore


def _recomputes(module: nn.Module) -> bool:
    """Whether a module keeps its input as bits by itself."""
    return isinstance(module, SpikingLinear) and module.memory == "recompute"


def _drops(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.training and not module.inplace


def _spikes(module: nn.Module) -> bool:
    """Whether a module is known to put out spikes alone: what it returns first is what `fire` gives."""
    neuron = module.neuron if isinstance(module, SpikingLinear) else module
    return isinstance(neuron, Layer) and emits(neuron)


def statistics(module: nn.Module) -> nn.Module | None:
    """What of a module takes statistics over the batch, and so over all samples and steps together, now; or None."""
    return next((each for each in module.modules() if _counts(each)), None)


def _counts(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return module.training or module.running_mean is None
    return isinstance(module, _InstanceNorm) and module.training and module.track_running_stats


def _by_sample(module: nn.Module, samples: int) -> bool:
    """Whether a module does with some samples of a batch what it does with them among all: known modules alone."""
    return all(_alone(each, samples) for each in module.modules())


def _alone(module: nn.Module, samples: int) -> bool:
    if "forward" in module.__dict__ or not type(module).__module__.startswith(("torch.nn.modules.", "spikegrad.nn.")):
        return False
    if isinstance(module, Layer):
        own = module.quantize is not None and not isinstance(module.quantize, Quantize)
        return not own and not differ(module, samples)
    if isinstance(module, Spike):
        return not (module.surrogate.stochastic and module.training)
    if isinstance(module, SpikingLinear):
        return not (module.training and module.dropout)
    if isinstance(module, _BatchNorm | _InstanceNorm):
        return not _counts(module)
    if isinstance(module, _DropoutNd):
        return not module.training or not module.p
    if isinstance(module, nn.Flatten | nn.Unflatten):
        return (module.start_dim if isinstance(module, nn.Flatten) else module.dim) not in (0,)
    return isinstance(module, (Quantize, Stateful, *_ALONE)) and not isinstance(module, Steps)
