"""The numbers of a layer in PyTorch, as its passes take them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spikegrad.kernels.plan import Call

Number = float | Tensor


def real(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states and parameters."""
    return torch.float64 if dtype is torch.float64 else torch.float32


class Numbers(NamedTuple):
    """The numbers of a layer, as floats where they are: those of the plan's parameters and of the surrogate, and where states rest.

    None stands for each that is a tensor, in their order among the tensors; states that are given, and recurrent weights, count as such.
    """

    parameters: tuple[float | None, ...]
    surrogate: tuple[float | None, ...]
    state: tuple[float | None, ...]
    weights: tuple[float | None, ...] = ()


@functools.lru_cache(maxsize=1024)
def _floats(call: Call, numbers: tuple[tuple[str, float], ...], surrogate: tuple[float | None, ...], real: torch.dtype) -> Numbers:
    """The numbers of a layer that starts from rest and whose neuron has no tensors."""
    like, given, plan = torch.empty(0, dtype=real, device="cpu"), dict(numbers), call.plan
    return Numbers(tuple(plan.computed(given, like).values()), surrogate, tuple(plan.rested(given, like).values()))


def values_of(
    call: Call, state: Sequence[Tensor], numbers: Mapping[str, Number], surrogate: Mapping[str, Number], real: torch.dtype
) -> tuple[Numbers, list[Tensor]]:
    """What the passes take in place of the numbers, and the tensors among it."""
    if not any(isinstance(x, Tensor) for x in numbers.values()):
        learned = [x for x in surrogate.values() if isinstance(x, Tensor)]
        spike = tuple(None if isinstance(x, Tensor) else x for x in surrogate.values()) if learned else tuple(surrogate.values())
        known = _floats(call, tuple(numbers.items()), spike, real)
        return known._replace(state=(None,) * len(state)) if state else known, [*learned, *state]
    like, plan = torch.empty(0, dtype=real, device="cpu"), call.plan
    weights = [numbers["weights"]] if "weights" in numbers else []
    start = tuple(state) or (*plan.rested(numbers, like).values(), *[0.0] * len(weights))
    parts: tuple[tuple[Number, ...], ...] = (tuple(plan.computed(numbers, like).values()), tuple(surrogate.values()), start, tuple(weights))
    numbered = Numbers(*(tuple(None if isinstance(x, Tensor) else x for x in part) for part in parts))
    return numbered, [x for part in parts for x in part if isinstance(x, Tensor)]
