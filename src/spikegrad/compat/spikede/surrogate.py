"""``spikeDE.surrogate``: the names, defaults and argument order of SpikeDE (February 2026), on spikegrad's formulas.

Each function takes potential minus threshold and a number, and returns spikes, 1 where the input reaches 0. Unlike there, spikes have the
dtype of the input, a number that is a tensor which requires a gradient gets one, a number that is not positive is refused, and every
PyTorch transform applies.

Example:
    >>> import torch
    >>> from spikegrad.compat.spikede import surrogate
    >>> x = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    >>> spikes = surrogate.arctan_surrogate(x, scale=2.0)
    >>> spikes.tolist()
    [0.0, 1.0, 1.0]
    >>> torch.autograd.grad(spikes.sum(), x)[0]
    tensor([0.2884, 1.0000, 0.2884])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import spikegrad
from spikegrad import Surrogate
from spikegrad.compat.functions import Subclassable, floating
from spikegrad.gradient.function import Context, Gradients
from spikegrad.vocabulary import Array

__all__ = [
    "ArctanSurrogate",
    "GaussianSurrogate",
    "NoisyThresholdSpikeModule",
    "PiecewiseLinearSurrogate",
    "SigmoidSurrogate",
    "arctan_surrogate",
    "gaussian_surrogate",
    "noisy_threshold_spike",
    "piecewise_linear_surrogate",
    "sigmoid_surrogate",
]

Number = float | Tensor


def _spike(cls: type[Surrogate], input: Tensor, fields: Mapping[str, Number], **how: Any) -> Tensor:
    """Spikes; fields that are tensors travel beside the surrogate, and get the gradient of its primitive."""
    arrays: dict[str, Array] = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    return cls(**{name: value for name, value in fields.items() if not isinstance(value, Tensor)})(input, **how, **arrays)


def sigmoid_surrogate(input: Tensor, scale: Number = 5.0) -> Tensor:
    """Spikes with the gradient of the logistic function of this slope, both tails exact: `spikegrad.Sigmoid`.

    Args:
        input: potential minus threshold, any shape; whole numbers count as PyTorch's default type.
        scale: steepness, positive, in 1/potential; a tensor must broadcast to `input`, and is not checked.

    Returns:
        Spikes of the shape of `input`, and of its dtype if that is one of floating point; NaN gives NaN.

    Raises:
        TypeError: `input` is not a tensor of real numbers.
        ValueError: `scale` is not positive, or does not broadcast.

    Example:
        >>> sigmoid_surrogate(torch.tensor([-0.5, 0.0]))
        tensor([0., 1.])
    """
    return _spike(spikegrad.Sigmoid, floating(input), {"slope": scale})


def arctan_surrogate(input: Tensor, scale: Number = 2.0) -> Tensor:
    """Spikes with gradient (scale / 2) / (1 + (pi/2 scale x)^2), which is SpikeDE's code, not what it documents: `spikegrad.ATan`.

    Args:
        input: potential minus threshold, any shape; whole numbers count as PyTorch's default type.
        scale: steepness, positive, in 1/potential; a tensor must broadcast to `input`, and is not checked.

    Returns:
        Spikes of the shape of `input`, and of its dtype if that is one of floating point; NaN gives NaN.

    Raises:
        TypeError: `input` is not a tensor of real numbers.
        ValueError: `scale` is not positive, or does not broadcast.

    Example:
        >>> scale = torch.tensor(2.0, requires_grad=True)
        >>> arctan_surrogate(torch.tensor([0.5]), scale).sum().backward()
        >>> scale.grad
        tensor(0.0721)
    """
    return _spike(spikegrad.ATan, floating(input), {"slope": scale})


def piecewise_linear_surrogate(input: Tensor, gamma: Number = 1.0) -> Tensor:
    """Spikes with gradient 1 / (2 gamma) where abs(x) <= gamma, else 0: a box, although called triangular: `spikegrad.Boxcar`.

    SpikeDE's neurons pass it their `surrogate_grad_scale`, 5 unless told otherwise: a larger number makes this one broader, not sharper.

    Args:
        input: potential minus threshold, any shape; whole numbers count as PyTorch's default type.
        gamma: half of the width, positive, in units of the potential; a tensor must broadcast to `input`, and is not checked.

    Returns:
        Spikes of the shape of `input`, and of its dtype if that is one of floating point; NaN gives NaN.

    Raises:
        TypeError: `input` is not a tensor of real numbers.
        ValueError: `gamma` is not positive, or does not broadcast.

    Example:
        >>> piecewise_linear_surrogate(torch.tensor([-0.5, 0.0]))
        tensor([0., 1.])
    """
    if not isinstance(gamma, Tensor) and not gamma > 0:
        raise ValueError(f"`gamma` of piecewise_linear_surrogate must be positive, got {gamma}")
    return _spike(spikegrad.Boxcar, floating(input), {"width": gamma, "height": 1 / (2 * gamma)})


def gaussian_surrogate(input: Tensor, sigma: Number = 1.0) -> Tensor:
    """Spikes whose gradient is the normal density: `spikegrad.Gaussian`.

    SpikeDE's neurons pass it their `surrogate_grad_scale`, 5 unless told otherwise: a larger number makes this one broader, not sharper.

    Args:
        input: potential minus threshold, any shape; whole numbers count as PyTorch's default type.
        sigma: standard deviation, positive, in units of the potential; a tensor must broadcast to `input`, and is not checked.

    Returns:
        Spikes of the shape of `input`, and of its dtype if that is one of floating point; NaN gives NaN.

    Raises:
        TypeError: `input` is not a tensor of real numbers.
        ValueError: `sigma` is not positive, or does not broadcast.

    Example:
        >>> gaussian_surrogate(torch.tensor([-0.5, 0.0]))
        tensor([0., 1.])
    """
    return _spike(spikegrad.Gaussian, floating(input), {"width": sigma})


def noisy_threshold_spike(
    input: Tensor,
    scale: Number = 5.0,
    training: bool = True,
    sample: bool = True,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Soft spikes of a threshold with logistic noise in training, hard spikes in evaluation: `spikegrad.NoisyThreshold`.

    In training the output is a number between 0 and 1 and its gradient the true one; it is above 1/2 with probability
    sigmoid(scale x), while its mean is closer to 1/2 than that. In evaluation, unlike in SpikeDE, the spikes have the gradient of the
    mean field, so that a network can be attacked or tuned as it is used.

    Args:
        input: potential minus threshold, any shape; floating point where noise is drawn.
        scale: steepness, positive, in 1/potential; a tensor must broadcast to `input`, and is not checked.
        training: whether the output is soft.
        sample: whether noise is drawn; without it the soft output is the mean field, sigmoid(scale x).
        generator: where noise comes from; PyTorch's default generator if None. In half precision it is drawn in float32.

    Returns:
        Tensor of the shape and dtype of `input`; NaN gives NaN.

    Raises:
        TypeError: `input` is not a tensor of real numbers, of floating point where noise is drawn.
        ValueError: `scale` is not positive, or does not broadcast.

    Example:
        >>> x = torch.tensor([-0.2, 0.2])
        >>> noisy_threshold_spike(x, training=False)
        tensor([0., 1.])
        >>> noisy_threshold_spike(x, sample=False)
        tensor([0.2689, 0.7311])
    """
    input = input if training and sample else floating(input)  # noise of whole numbers has no type
    return _spike(spikegrad.NoisyThreshold, input, {"slope": scale, "sample": sample}, training=training, random=generator)


def _operator(of: Callable[[Tensor, Number], Tensor]) -> Callable[[type[Subclassable]], type[Subclassable]]:
    """Give a class `apply`, which is `of`, and for subclasses `forward` and `backward`, which save and hold what SpikeDE's do."""
    number = list(inspect.signature(of).parameters.values())[1]

    def forward(ctx: Context, input: Tensor, value: Number = number.default) -> Tensor:
        ctx.save_for_backward(input)
        setattr(ctx, number.name, value)
        return of(input, value)

    def backward(ctx: Context, *grad_outputs: Tensor) -> Gradients:
        (input,) = ctx.saved_tensors
        with torch.enable_grad():
            x = input if input.requires_grad else input.detach().requires_grad_()
            spikes = of(x, getattr(ctx, number.name))
        (gradient,) = torch.autograd.grad(spikes, x, grad_outputs[0].to(spikes.dtype), create_graph=torch.is_grad_enabled())
        return gradient, None

    def finish(cls: type[Subclassable]) -> type[Subclassable]:
        cls.forward, cls.backward, cls.apply = staticmethod(forward), staticmethod(backward), staticmethod(of)
        return cls

    return finish


@_operator(sigmoid_surrogate)
class SigmoidSurrogate(Subclassable):
    """``SigmoidSurrogate.apply(input, scale=5.0)`` is `sigmoid_surrogate`."""


@_operator(arctan_surrogate)
class ArctanSurrogate(Subclassable):
    """``ArctanSurrogate.apply(input, scale=2.0)`` is `arctan_surrogate`."""


@_operator(piecewise_linear_surrogate)
class PiecewiseLinearSurrogate(Subclassable):
    """``PiecewiseLinearSurrogate.apply(input, gamma=1.0)`` is `piecewise_linear_surrogate`."""


@_operator(gaussian_surrogate)
class GaussianSurrogate(Subclassable):
    """``GaussianSurrogate.apply(input, sigma=1.0)`` is `gaussian_surrogate`."""


class NoisyThresholdSpikeModule(nn.Module):
    """`noisy_threshold_spike` as a module, which is soft in training mode and hard in evaluation mode.

    Unlike in SpikeDE `scale` is part of the state: saved, loaded and, if it is an `nn.Parameter`, learned. Checkpoints of SpikeDE, which
    hold no scale, load and leave it as it is.

    Args:
        scale: steepness, positive, in 1/potential.
        sample: whether noise is drawn in training.
        generator: where noise comes from; PyTorch's default generator if None.

    Raises:
        ValueError: `scale` is not positive.

    Example:
        >>> spike = NoisyThresholdSpikeModule(scale=3.0).eval()
        >>> spike(torch.tensor([-0.2, 0.2]))
        tensor([0., 1.])
        >>> spike.state_dict()["_extra_state"]
        tensor(3., dtype=torch.float64)
    """

    scale: float | nn.Parameter

    def __init__(self, scale: float | nn.Parameter = 5.0, sample: bool = True, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.scale = scale if isinstance(scale, nn.Parameter) else spikegrad.NoisyThreshold(float(scale)).slope
        self.sample = sample
        self.generator = generator
        self.register_load_state_dict_pre_hook(_without_scale)

    def forward(self, input: Tensor) -> Tensor:
        """Soft or hard spikes of the shape and dtype of `input`, potential minus threshold."""
        return noisy_threshold_spike(input, self.scale, self.training, self.sample, generator=self.generator)

    def extra_repr(self) -> str:
        """The scale, and whether noise is drawn."""
        return f"scale={float(self.scale)}, sample={self.sample}"

    # A number is kept in float64 whatever the module is cast to; as a tensor, so that every format of checkpoints can hold it.
    def get_extra_state(self) -> Tensor:
        """The scale if it is a number, nothing if it is a parameter and saved as such."""
        return torch.tensor([] if isinstance(self.scale, nn.Parameter) else self.scale, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the scale over."""
        if not isinstance(self.scale, nn.Parameter) and state.numel():
            self.scale = state.item()


def _without_scale(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    state_dict.setdefault(f"{prefix}_extra_state", module.get_extra_state())
