"""Layers on a GPU whose neurons receive the outputs of all of them: a matrix product and a kernel for each step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from spikegrad.kernels.loop import fed_back
from spikegrad.kernels.plan import Call, fed_as_input
from spikegrad.kernels.values import Number, real

_fed_as_input = functools.lru_cache(maxsize=256)(fed_as_input)

Run = Callable[[Call, Sequence[Tensor], Sequence[Tensor], Mapping[str, Number]], Sequence[Tensor]]


def run(call: Call, inputs: Sequence[Tensor], state: Sequence[Tensor], numbers: Mapping[str, Number], step: Run) -> list[Tensor]:
    """Outputs, states after the last step and recorded values; `step` runs a layer without connections.

    Each step is a sequence of length one, in the working dtype. Autograd goes through all of them: it keeps the states of each.
    """
    dtype, one = inputs[0].dtype, _fed_as_input(call)
    wide, weights = [x.to(real(dtype)) for x in inputs], numbers["weights"]
    rest = {name: value for name, value in numbers.items() if name != "weights"}
    outputs, states = call.plan.outputs, len(call.plan.states)
    after, sent = tuple(state[:states]), state[states] if len(state) else wide[0].new_zeros(wide[0].shape[1:])
    each: list[tuple[Tensor, ...]] = []
    for t in range(len(wide[0])):
        fed = fed_back(sent, weights)
        made = step(one, [*(x[t : t + 1] for x in wide), fed[None]], after, rest)
        after, sent = tuple(made[outputs : outputs + states]), made[0][0]
        each.append((*made[:outputs], *made[outputs + states :]))
    if not each:  # of no steps: whatever they would have returned, and the states that they would have begun with
        made = step(one, [*wide, wide[0]], after, rest)
        each, after = [(*made[:outputs], *made[outputs + states :])], tuple(made[outputs : outputs + states])
    sequences = [torch.cat(parts) for parts in zip(*each, strict=True)]
    return [*(x.to(dtype) for x in sequences[:outputs]), *after, sent, *sequences[outputs:]]
