"""Rounding whose gradient is 1, as sinabs has it: ``Quantize.apply(x)``, ``StochasticRounding.apply(x)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spikegrad.compat.functions import Subclassable
from spikegrad.compat.sinabs.activation.spike_generation import attach
from spikegrad.gradient.function import Context
from spikegrad.vocabulary import widen


class _Rounding(Subclassable):
    @staticmethod
    def backward(ctx: Context, grad_output: Tensor) -> Tensor:
        """What PyTorch calls in a subclass: the gradient as it comes."""
        return grad_output.clone()


class Quantize(_Rounding):
    """Largest whole number not above the input, with the gradient of the identity.

    Example:
        >>> Quantize.apply(torch.tensor([-0.5, 1.5]))
        tensor([-1.,  1.])
    """

    @staticmethod
    def forward(ctx: Any, inp: Tensor) -> Tensor:
        """What PyTorch calls in a subclass."""
        return inp.floor()

    @staticmethod
    def apply(inp: Tensor) -> Tensor:
        """Whole numbers of the shape and dtype of `inp`, which is itself one of them if its dtype is."""
        if not (inp.dtype.is_floating_point or inp.dtype.is_complex):
            return inp.floor()
        return attach(widen(inp).detach().floor().to(inp.dtype), inp, lambda x: (x, 1.0))


class StochasticRounding(_Rounding):
    """The whole number above the input with the probability of its fraction, else the one below; with the gradient of the identity.

    Example:
        >>> StochasticRounding.apply(torch.tensor([2.0, -3.0]))
        tensor([ 2., -3.])
    """

    @staticmethod
    def forward(ctx: Any, inp: Tensor) -> Tensor:
        """What PyTorch calls in a subclass."""
        return _drawn(inp, None)

    @staticmethod
    def apply(inp: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Whole numbers of the shape and dtype of `inp`; randomness from `generator`, or from PyTorch's default one."""
        return attach(_drawn(inp, generator), inp, lambda x: (x, 1.0))


def _drawn(inp: Tensor, generator: torch.Generator | None) -> Tensor:
    wide = widen(inp).detach()  # a half type has too few numbers below 1 to draw from
    whole = wide.floor()
    drawn = torch.rand(wide.shape, generator=generator, dtype=wide.dtype, device=wide.device)
    return (whole + (drawn < wide - whole)).to(inp.dtype)
