"""Rounding whose gradient is 1, as sinabs has it: ``Quantize.apply(x)``, ``StochasticRounding.apply(x)``."""

from __future__ import annotations

import torch
from torch import Tensor

from spikegrad.compat.sinabs.activation.spike_generation import attach
from spikegrad.vocabulary import widen


class Quantize:
    """Largest whole number not above the input, with the gradient of the identity.

    Example:
        >>> Quantize.apply(torch.tensor([-0.5, 1.5]))
        tensor([-1.,  1.])
    """

    @staticmethod
    def apply(inp: Tensor) -> Tensor:
        """Whole numbers of the shape and dtype of `inp`."""
        return attach(widen(inp).detach().floor().to(inp.dtype), inp, lambda x: (x, 1.0))


class StochasticRounding:
    """The whole number above the input with the probability of its fraction, else the one below; with the gradient of the identity.

    Example:
        >>> StochasticRounding.apply(torch.tensor([2.0, -3.0]))
        tensor([ 2., -3.])
    """

    @staticmethod
    def apply(inp: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Whole numbers of the shape and dtype of `inp`; randomness from `generator`, or from PyTorch's default one."""
        wide = widen(inp).detach()  # a half type has too few numbers below 1 to draw from
        whole = wide.floor()
        drawn = torch.rand(wide.shape, generator=generator, dtype=wide.dtype, device=wide.device)
        return attach((whole + (drawn < wide - whole)).to(inp.dtype), inp, lambda x: (x, 1.0))
