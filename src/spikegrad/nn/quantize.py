"""Quantisation of states."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn

from spikegrad.nn.backend import rewritten


class Quantize(nn.Module):
    """Round a state to evenly spaced levels, with the gradient of a clamp: 1 inside the range, 0 outside.

    Args:
        bits: the number of levels is ``2 ** bits``.
        low: lowest level, in potential.
        high: highest level.

    Raises:
        ValueError: fewer than 1 bit, or an empty range.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> nn.Quantize(bits=2, low=0.0, high=3.0)(torch.tensor([-1.0, 0.4, 1.6, 9.0]))
        tensor([0., 0., 2., 3.])
    """

    def __init__(self, bits: int = 8, low: float = -2.0, high: float = 2.0) -> None:
        super().__init__()
        if bits < 1:
            raise ValueError(f"`bits` must be at least 1, got {bits}")
        if not low < high:
            raise ValueError(f"`low` must be below `high`, got {low} and {high}")
        self.bits, self.low, self.high = bits, float(low), float(high)

    @property
    def numbers(self) -> tuple[float, float, float]:
        """Lowest and highest level, and the distance between two."""
        return self.low, self.high, (self.high - self.low) / (2**self.bits - 1)

    def forward(self, state: Tensor) -> Tensor:
        """The state on its nearest level, same shape and dtype."""
        low, high, spacing = self.numbers
        clamped = state.clamp(low, high)
        level = (
            torch.round((clamped.detach() - low) * (1 / torch.full((), spacing, dtype=state.dtype, device=state.device))) * spacing + low
        )
        return clamped + (level - clamped.detach())

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"bits={self.bits}, low={self.low}, high={self.high}"


def has_levels(quantize: Callable[[Tensor], Tensor] | None) -> TypeGuard[Quantize]:
    """Whether a state is rounded as `nn.Quantize` does it, so that its levels say everything."""
    return isinstance(quantize, Quantize) and rewritten(quantize, Quantize) is None
