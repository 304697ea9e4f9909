"""What snnTorch's neurons call: potential minus threshold in, spikes with a surrogate gradient out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

import spikegrad
from spikegrad import Surrogate
from spikegrad.compat.functions import floating
from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.gradient.torch import transforming


@dataclasses.dataclass(frozen=True)
class SpikeGradient:
    """A surrogate as snnTorch's neurons call it: ``spike_grad(potential - threshold)``, which spikes above 0.

    Args:
        surrogate: the surrogate; a stochastic one draws its noise once per call, whether or not anything trains.
        generator: where that noise comes from; PyTorch's default generator if None.

    Raises:
        TypeError: `surrogate` is not a `spikegrad.Surrogate`.

    Example:
        >>> from spikegrad import Triangle
        >>> from spikegrad.compat.snntorch.surrogate import SpikeGradient
        >>> SpikeGradient(Triangle(width=0.5))
        SpikeGradient(Triangle(width=0.5, height=1.0))
    """

    surrogate: Surrogate
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.surrogate, Surrogate):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`surrogate` must be a spikegrad.Surrogate such as spikegrad.ATan(), got {self.surrogate!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes of the shape and dtype of `x`, potential minus threshold: 1 where it is above 0, else 0."""
        # A soft surrogate's training output is no spike, and nothing tells here whether the neuron trains.
        drawing = self.surrogate.stochastic and not self.surrogate.soft
        return self.surrogate(floating(x), spike_at_threshold=False, training=drawing, random=self.generator)

    def __repr__(self) -> str:
        return f"SpikeGradient({self.surrogate!r}{'' if self.generator is None else f', generator={self.generator!r}'})"


@dataclasses.dataclass(frozen=True)
class CustomGradient:
    """A step whose backward pass is a function of the user's; see `custom_surrogate`. It is run as it is, so layers never fuse it."""

    function: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"a function f(input_, grad_input, spikes) is needed, got {self.function!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes of the shape and dtype of `x`, potential minus threshold: 1 where it is above 0, else 0."""
        if torch.compiler.is_compiling() and transforming():
            raise RuntimeError(
                "a custom_surrogate inside a torch.func transform cannot be compiled: PyTorch would return zeros; leave torch.compile out, "
                "or write the formula with spikegrad.from_formula"
            )
        spikes: Tensor = _Custom.apply(floating(x), self.function)
        return spikes


def step(x: Tensor) -> Tensor:
    """1 above 0, else 0, without a gradient."""
    return spikegrad.StraightThrough()(x.detach(), spike_at_threshold=False)


class _Context(Context, Protocol):
    function: Callable[[Tensor, Tensor, Tensor], object]


class _Custom(Function):
    # Only a Function can run what need not be linear in the gradient. The spikes are computed again in the backward pass, not saved:
    # that is half the memory, and a caller may change the returned ones in place.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        return step(x)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor, Callable[[Tensor, Tensor, Tensor], Tensor]], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> Gradients:
        (x,) = ctx.saved_tensors
        gradient = ctx.function(x, grad_outputs[0].clone(), step(x))
        if not isinstance(gradient, Tensor):
            raise TypeError(
                f"the function given to custom_surrogate must return the gradient, a tensor of shape {tuple(x.shape)}, "
                f"got {type(gradient).__name__}"
            )
        return gradient, None
