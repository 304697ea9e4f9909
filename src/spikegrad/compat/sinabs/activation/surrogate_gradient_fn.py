"""Surrogate gradients as sinabs calls them: ``fn(v_mem, spike_threshold)`` returns the gradient, in the dtype of the potential.

Each is a value: a frozen dataclass with sinabs's fields and defaults. `at` gives the `spikegrad.Surrogate` that it is at a threshold, for
use in spikegrad's own neurons.

Example:
    >>> import torch
    >>> from spikegrad.compat.sinabs.activation import SingleExponential
    >>> fn = SingleExponential(grad_width=0.5)
    >>> fn(torch.tensor([0.5, 1.0, 1.5]), 1.0)
    tensor([0.7358, 2.0000, 0.7358])
    >>> fn.at(1.0)
    Exponential(slope=2.0, height=2.0, shift=0.0, two_sided=True)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

import spikegrad
from spikegrad import Surrogate
from spikegrad.compat.functions import floating
from spikegrad.compat.likeness import Alike
from spikegrad.gradient.torch import transforming
from spikegrad.ranges import Positive
from spikegrad.vocabulary import Array, exp, floor, where, widen

Threshold = float | Tensor


def checked(spike_threshold: Threshold) -> Threshold:
    """A threshold that is positive, where that can be told without waiting for a device or breaking a trace."""
    if isinstance(spike_threshold, Tensor):
        hidden = spike_threshold.device.type != "cpu" or torch.compiler.is_compiling() or transforming()
        if hidden or bool((spike_threshold > 0).all()):
            return spike_threshold
        lowest = spike_threshold.min().item()
    elif spike_threshold > 0:
        return spike_threshold
    else:
        lowest = spike_threshold
    raise ValueError(f"`spike_threshold` must be positive, since the potential is measured in units of it; got {lowest}")


@dataclasses.dataclass(frozen=True)
class SurrogateGradientFn(Alike):
    """What the five share; a subclass says which surrogate it is at a threshold."""

    PEER = "sinabs.activation"

    def fields_at(self, spike_threshold: Threshold) -> tuple[type[Surrogate], Mapping[str, Threshold]]:
        """The class of the surrogate and its fields; a threshold that is a tensor gives tensors."""
        raise NotImplementedError

    def at(self, spike_threshold: float = 1.0) -> Surrogate:
        """The surrogate, a function of potential minus threshold, that this is at a threshold.

        Raises:
            ValueError: a number is out of range.
        """
        cls, fields = self.fields_at(float(spike_threshold))
        return _with_numbers(cls, fields)

    def __call__(self, v_mem: Tensor, spike_threshold: Threshold) -> Tensor:
        """The gradient of spikes with respect to the potential.

        Args:
            v_mem: potentials, any shape; whole numbers count as PyTorch's default type.
            spike_threshold: a number, or a tensor that broadcasts to `v_mem`.

        Returns:
            Tensor of the shape and dtype of `v_mem`, in 1/potential. NaN gives NaN, an infinite potential 0.

        Raises:
            ValueError: the threshold is not positive and the potential is measured in units of it. On other devices than the CPU, and
                while a compiler or a transform traces, a threshold that is a tensor is not looked at.
        """
        v_mem = floating(v_mem)
        if isinstance(spike_threshold, Tensor):
            spike_threshold = spike_threshold.to(torch.promote_types(v_mem.dtype, torch.float32))
        cls, fields = self.fields_at(spike_threshold)
        return _derivative(cls, fields, widen(v_mem) - spike_threshold).to(v_mem.dtype)


def _with_numbers(cls: type[Surrogate], fields: Mapping[str, Threshold]) -> Surrogate:
    return cls(**{name: value for name, value in fields.items() if not isinstance(value, Tensor)})


def _derivative(cls: type[Surrogate], fields: Mapping[str, Threshold], x: Tensor) -> Tensor:
    """The derivative of a surrogate, some of whose numbers may be tensors."""
    arrays = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    return _with_numbers(cls, fields).bind(arrays).derivative(x)


def gaussian(x: Tensor, mu: float | Tensor, sigma: float | Tensor) -> Tensor:
    """The normal density at `x`: `spikegrad.Gaussian`.

    Args:
        x: any shape; whole numbers count as PyTorch's default type.
        mu: mean.
        sigma: standard deviation, positive.

    Returns:
        Tensor of the shape of `x`.

    Raises:
        ValueError: `sigma` is a number that is not positive.

    Example:
        >>> gaussian(torch.tensor([0.0, 1.0]), mu=0.0, sigma=1.0)
        tensor([0.3989, 0.2420])
    """
    return _derivative(spikegrad.Gaussian, {"width": sigma, "shift": mu}, floating(x))


@dataclasses.dataclass(frozen=True)
class Heaviside(SurrogateGradientFn):
    """1 / threshold where the potential is at most `window` below threshold, or above it, else 0: `spikegrad.Heaviside`.

    Args:
        window: how far below threshold the gradient begins, in units of the potential, not of the threshold.

    Example:
        >>> Heaviside(window=0.5)(torch.tensor([1.4, 1.5, 2.0]), 2.0)
        tensor([0.0000, 0.5000, 0.5000])
    """

    window: float = 1.0

    def fields_at(self, spike_threshold: Threshold) -> tuple[type[Surrogate], Mapping[str, Threshold]]:
        """See `SurrogateGradientFn`."""
        return spikegrad.Heaviside, {"height": 1 / checked(spike_threshold), "shift": -self.window}


@dataclasses.dataclass(frozen=True)
class Gaussian(SurrogateGradientFn):
    """The normal density times `grad_scale`: `spikegrad.Gaussian`.

    Args:
        mu: its mean, above threshold.
        sigma: its standard deviation, positive.
        grad_scale: a factor.

    Example:
        >>> Gaussian()(torch.tensor([0.5, 1.0]), 1.0)
        tensor([0.4839, 0.7979])
    """

    mu: float = 0.0
    sigma: float = 0.5
    grad_scale: float = 1.0

    def fields_at(self, spike_threshold: Threshold) -> tuple[type[Surrogate], Mapping[str, Threshold]]:
        """See `SurrogateGradientFn`."""
        return spikegrad.Gaussian, {"width": self.sigma, "shift": self.mu, "scale": self.grad_scale}


@dataclasses.dataclass(frozen=True, init=False)
class MultiGaussian(SurrogateGradientFn):
    """A normal density with a broad negative one to either side: `spikegrad.MultiGaussian`.

    Args:
        mu: mean of the density in the middle, above threshold; those at the sides stay where they are.
        sigma: its standard deviation, positive.
        h: how large the negative ones are, not negative.
        s: how much broader the negative ones are, positive.
        grad_scale: a factor.
        first_published: whether to compute what sinabs first published under this name, a plain density without `h` and `s`, so that the
            third argument is `grad_scale`.

    Raises:
        TypeError: the first published one is given `h` or `s`.

    Example:
        >>> v_mem = torch.tensor([1.0, 4.0])
        >>> MultiGaussian()(v_mem, 1.0)
        tensor([ 0.8782, -0.0242])
        >>> MultiGaussian(first_published=True)(v_mem, 1.0)
        tensor([7.9788e-01, 1.2152e-08])
    """

    mu: float = 0.0
    sigma: float = 0.5
    h: float = 0.15
    s: float = 6
    grad_scale: float = 1.0
    first_published: bool = dataclasses.field(default=False, kw_only=True)

    def __init__(self, mu: float = 0.0, sigma: float = 0.5, *others: float, first_published: bool = False, **named: float) -> None:
        names = ("grad_scale",) if first_published else ("h", "s", "grad_scale")
        given = dict(zip(names, others, strict=False))
        values = {"h": 0.15, "s": 6, "grad_scale": 1.0} | given | named
        wrong = [name for name in named if name in given or name not in ("h", "s", "grad_scale")]
        if first_published:
            wrong += [name for name, default in (("h", 0.15), ("s", 6)) if values[name] != default]
        if len(others) > len(names) or wrong:
            raise TypeError(
                f"MultiGaussian{' as first published' if first_published else ''} takes mu, sigma, {', '.join(names)}, each once; got "
                f"{2 + len(others)} by position and {', '.join(wrong or named) or 'none'} by name"
            )
        for name, value in {"mu": mu, "sigma": sigma, **values, "first_published": first_published}.items():
            object.__setattr__(self, name, value)

    def fields_at(self, spike_threshold: Threshold) -> tuple[type[Surrogate], Mapping[str, Threshold]]:
        """See `SurrogateGradientFn`."""
        plain = {"width": self.sigma, "shift": self.mu, "scale": self.grad_scale}
        if self.first_published:
            return spikegrad.Gaussian, plain
        return spikegrad.MultiGaussian, {**plain, "lobe": self.h, "spread": self.s}


@dataclasses.dataclass(frozen=True)
class SingleExponential(SurrogateGradientFn):
    """A two-sided exponential whose width is measured in thresholds and whose area is 2 `grad_scale`: `spikegrad.Exponential`.

    Args:
        grad_width: its width in units of the threshold, positive.
        grad_scale: a factor.

    Example:
        >>> SingleExponential()(torch.tensor([1.0, 2.0]), 2.0)
        tensor([0.3679, 1.0000])
    """

    grad_width: float = 0.5
    grad_scale: float = 1.0

    def fields_at(self, spike_threshold: Threshold) -> tuple[type[Surrogate], Mapping[str, Threshold]]:
        """See `SurrogateGradientFn`."""
        inverse = 1 / (checked(spike_threshold) * _positive("grad_width", self.grad_width))
        return spikegrad.Exponential, {"slope": inverse, "height": inverse, "scale": self.grad_scale}


@dataclasses.dataclass(frozen=True)
class PeriodicExponential(SurrogateGradientFn):
    """An exponential at every multiple of the threshold, for neurons that spike several times a step: `spikegrad.PeriodicExponential`.

    Args:
        grad_width: its width in units of the potential, not of the threshold, positive.
        grad_scale: its peak.
        first_published: whether to compute what sinabs first published under this name: peaks of height 1 / threshold that fall as slowly
            above threshold as below it. Their distance is 1 whatever the threshold, so that at others than 1 they drift away from its
            multiples.

    Example:
        >>> v_mem = torch.tensor([0.5, 1.0, 1.25, 1.5])
        >>> PeriodicExponential()(v_mem, 1.0)
        tensor([0.3679, 1.0000, 0.3679, 0.1353])
        >>> PeriodicExponential(first_published=True)(v_mem, 1.0)
        tensor([0.3679, 1.0000, 0.6065, 0.3679])
    """

    grad_width: float = 0.5
    grad_scale: float = 1.0
    first_published: bool = dataclasses.field(default=False, kw_only=True)

    def fields_at(self, spike_threshold: Threshold) -> tuple[type[Surrogate], Mapping[str, Threshold]]:
        """See `SurrogateGradientFn`."""
        period = checked(spike_threshold)
        if self.first_published:
            return _FirstPublished, {"width": self.grad_width, "period": period, "scale": self.grad_scale}
        return spikegrad.PeriodicExponential, {"width": self.grad_width, "period": period, "scale": self.grad_scale}


class _FirstPublished(Surrogate):
    """`PeriodicExponential` as sinabs first published it; of its `x` the threshold is taken already, of its h only half of it."""

    width: Positive = 0.5
    period: Positive = 1.0

    def derivative(self, x: Array) -> Array:
        h = x + self.period / 2
        p = where(x < 0, h, h - floor(h / self.period))
        return exp(-abs(p - self.period / 2) / self.width) / self.period


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}")
    return value
