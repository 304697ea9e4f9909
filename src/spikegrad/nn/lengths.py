"""Samples of different lengths in one batch: each runs as it would by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spikegrad.kernels import arguments

Currents = Tensor | Sequence[Tensor]
Lengths = Tensor | Sequence[int] | None

Run = Callable[[tuple[Tensor, ...], tuple[Tensor, ...] | None], tuple[list[Tensor], list[Tensor]]]
"""A layer over some steps of some samples, from states or rest: its sequences, and the states after it."""


def to_ends(
    layer: Run, inputs: tuple[Tensor, ...], state: tuple[Tensor, ...] | None, lengths: Tensor | Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """A layer over samples that end at different steps: its sequences, zero from the end of each sample on, and the states at the ends.

    Between one end and the next the layer runs on the samples that go on, so that no step is computed that no sample has, and nothing of
    what fills a batch up, not even NaN, is seen.
    """
    ends = arguments.ends(lengths, inputs[0])
    device, steps = inputs[0].device, len(inputs[0])
    order = sorted(range(len(ends)), key=lambda sample: -ends[sample])
    longest_first = torch.tensor(order, dtype=torch.long, device=device)
    inputs = tuple(x.index_select(1, longest_first) for x in inputs)
    states = None if state is None else tuple(x.index_select(0, longest_first) for x in state)
    parts: list[list[Tensor]] = []
    finished: list[tuple[Tensor, ...]] = []
    begin = 0
    for end in sorted(set(ends)) or [0]:
        left = sum(each >= end for each in ends)
        if states is not None and len(states[0]) > left:
            finished.insert(0, tuple(x[left:] for x in states))
            states = tuple(x[:left] for x in states)
        made, last = layer(tuple(x[begin:end, :left] for x in inputs), states)
        parts.append([_filled(x, len(ends)) for x in made])
        states, begin = tuple(last), end
    assert states is not None
    finished.insert(0, states)
    back = torch.empty_like(longest_first)
    back[longest_first] = torch.arange(len(order), device=device)
    sequences = [torch.cat(each) for each in zip(*parts, strict=True)]
    rest = [x.new_zeros(steps - len(x), *x.shape[1:]) for x in sequences]
    sequences = [torch.cat([x, more]).index_select(1, back) for x, more in zip(sequences, rest, strict=True)]
    return sequences, [torch.cat(each).index_select(0, back) for each in zip(*finished, strict=True)]


def _filled(x: Tensor, samples: int) -> Tensor:
    """A sequence with zeros for the samples that have ended."""
    return torch.cat([x, x.new_zeros(len(x), samples - x.shape[1], *x.shape[2:])], 1)
