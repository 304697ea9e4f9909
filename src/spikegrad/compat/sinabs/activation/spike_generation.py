"""Spike functions as sinabs's layers call them: ``spike_fn.apply(v_mem, spike_threshold, surrogate_grad_fn)``.

The gradient with respect to the potential is what `surrogate_grad_fn` says, one of this package's, of sinabs's, any
`spikegrad.Surrogate`, or a function of one's own. Unlike in sinabs, spikes have the dtype of the potential, second derivatives and every
transform are right, and a threshold that requires a gradient gets the one that follows from what a spike function does not change under:

- a single spike depends on the potential minus the threshold, so the gradient of the threshold is that of the potential with its sign
  changed;
- a number of spikes depends on the potential divided by the threshold, so the gradient of the threshold is that of the potential times
  minus this ratio.

sinabs's adaptive neurons (ALIF) compute their thresholds from their spikes; with these functions their adaptation is trained too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

import spikegrad
from spikegrad.compat.functions import Subclassable, floating
from spikegrad.compat.likeness import Alike
from spikegrad.compat.sinabs.activation.surrogate_gradient_fn import Threshold, checked
from spikegrad.compat.sinabs.adapted import adapt
from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.gradient.torch import transforming
from spikegrad.vocabulary import inf, widen

GradientFn = Callable[[Tensor, Threshold], Tensor]
"""A gradient as a function of potential and threshold; a `spikegrad.Surrogate` is one."""


class _Context(Context, Protocol):
    spike_threshold: Threshold
    surrogate_grad_fn: GradientFn


class BackwardClass:
    """The backward pass of the spike functions, for subclasses of theirs."""

    @staticmethod
    def backward(ctx: _Context, grad_output: Tensor) -> Gradients:
        """The gradient with respect to the potential, and none for the other arguments."""
        (v_mem,) = ctx.saved_tensors
        return grad_output * ctx.surrogate_grad_fn(v_mem, ctx.spike_threshold), None, None, None


class SingleSpike(BackwardClass, Subclassable):
    """At most one spike per step: 1 where the potential reaches the threshold, else 0. Pass the class itself as `spike_fn`.

    Example:
        >>> from spikegrad import ATan
        >>> SingleSpike.apply(torch.tensor([0.5, 1.0, 3.5]), 1.0, ATan())
        tensor([0., 1., 1.])
    """

    required_states: ClassVar[list[str]] = ["v_mem"]

    @staticmethod
    def apply(v_mem: Tensor, spike_threshold: Threshold, surrogate_grad_fn: GradientFn) -> Tensor:
        """Spikes of the shape and dtype of `v_mem`, PyTorch's default type for whole numbers; NaN gives NaN."""
        return _fire(floating(v_mem), spike_threshold, surrogate_grad_fn, _single)

    @staticmethod
    def forward(ctx: _Context, v_mem: Tensor, spike_threshold: Threshold, surrogate_grad_fn: GradientFn) -> Tensor:
        """What PyTorch calls in a subclass."""
        return _forward(ctx, v_mem, spike_threshold, surrogate_grad_fn, _single)


class MultiSpike(BackwardClass, Subclassable):
    """As many spikes per step as thresholds fit into the potential, none for a negative one. Pass the class itself as `spike_fn`.

    Example:
        >>> from spikegrad.compat.sinabs.activation import PeriodicExponential
        >>> MultiSpike.apply(torch.tensor([-2.0, 0.5, 1.0, 3.5]), 1.0, PeriodicExponential())
        tensor([0., 0., 1., 3.])
    """

    required_states: ClassVar[list[str]] = ["v_mem"]

    @staticmethod
    def apply(v_mem: Tensor, spike_threshold: Threshold, surrogate_grad_fn: GradientFn) -> Tensor:
        """Numbers of spikes, of the shape and dtype of `v_mem`; NaN gives NaN, an infinite potential an infinite number or none.

        Raises:
            ValueError: the threshold is not positive.
        """
        return _fire(floating(v_mem), checked(spike_threshold), surrogate_grad_fn, _multiple)

    @staticmethod
    def forward(ctx: _Context, v_mem: Tensor, spike_threshold: Threshold, surrogate_grad_fn: GradientFn) -> Tensor:
        """What PyTorch calls in a subclass."""
        return _forward(ctx, v_mem, checked(spike_threshold), surrogate_grad_fn, _multiple)


class MaxSpikeInner(BackwardClass, Subclassable):
    """What `MaxSpike` calls, with the limit as the second argument.

    Example:
        >>> from spikegrad import ATan
        >>> MaxSpikeInner.apply(torch.tensor([0.5, 1.0, 3.5]), 2, 1.0, ATan())
        tensor([0., 1., 2.])
    """

    required_states: ClassVar[list[str]] = ["v_mem", "max_num_spikes_per_bin"]

    @staticmethod
    def apply(v_mem: Tensor, max_num_spikes_per_bin: int | None, spike_threshold: Threshold, surrogate_grad_fn: GradientFn) -> Tensor:
        """See `MaxSpike.apply`."""
        return _fire(floating(v_mem), checked(spike_threshold), surrogate_grad_fn, _multiple, max_num_spikes_per_bin)

    @staticmethod
    def forward(
        ctx: _Context, v_mem: Tensor, max_num_spikes_per_bin: int | None, spike_threshold: Threshold, surrogate_grad_fn: GradientFn
    ) -> Tensor:
        """What PyTorch calls in a subclass."""
        return _forward(ctx, v_mem, checked(spike_threshold), surrogate_grad_fn, _multiple, max_num_spikes_per_bin)


@dataclasses.dataclass(frozen=True)
class MaxSpike(Alike):
    """`MultiSpike` with at most `max_num_spikes_per_bin` spikes per step. Pass an instance as `spike_fn`.

    As in sinabs a neuron at its limit keeps its gradient, so that it can be told that it fires too much.

    Args:
        max_num_spikes_per_bin: the limit, or None for none.

    Raises:
        ValueError: the limit is less than 1.

    Example:
        >>> from spikegrad import ATan
        >>> MaxSpike(2).apply(torch.tensor([0.5, 1.0, 3.5]), 1.0, ATan())
        tensor([0., 1., 2.])
    """

    PEER = "sinabs.activation"
    max_num_spikes_per_bin: int | None = None

    def __post_init__(self) -> None:
        if self.max_num_spikes_per_bin is not None and self.max_num_spikes_per_bin < 1:
            raise ValueError(f"`max_num_spikes_per_bin` must be at least 1 or None, got {self.max_num_spikes_per_bin}")

    @property
    def required_states(self) -> list[str]:
        """Names of the states that `apply` takes."""
        return ["v_mem"]

    def apply(self, v_mem: Tensor, spike_threshold: Threshold, surrogate_grad_fn: GradientFn) -> Tensor:
        """Numbers of spikes, of the shape and dtype of `v_mem`; NaN gives NaN.

        Raises:
            ValueError: the threshold is not positive.
        """
        return MaxSpikeInner.apply(v_mem, self.max_num_spikes_per_bin, spike_threshold, surrogate_grad_fn)


def _single(v_mem: Tensor, theta: Threshold, most: int | None) -> Tensor:
    return spikegrad.StraightThrough()(v_mem - theta).to(v_mem.dtype)


def _multiple(v_mem: Tensor, theta: Threshold, most: int | None) -> Tensor:
    # Rounded down before it is cut off at 0, so that -0.0 and minus infinity give 0 and NaN stays NaN.
    return (widen(v_mem) / theta).trunc().clamp(min=0, max=most).abs().to(v_mem.dtype)


def _forward(
    ctx: _Context, v_mem: Tensor, theta: Threshold, gradient: GradientFn, spikes: Callable[..., Tensor], most: int | None = None
) -> Tensor:
    """Spikes, and on `ctx` what sinabs leaves there for `BackwardClass`."""
    ctx.save_for_backward(v_mem)
    ctx.spike_threshold, ctx.surrogate_grad_fn = theta, gradient
    return spikes(floating(v_mem), theta, most)


def _fire(v_mem: Tensor, theta: Threshold, gradient: GradientFn, spikes: Callable[..., Tensor], most: int | None = None) -> Tensor:
    """Spikes with the gradient; what they depend on is the difference of potential and threshold, or the ratio."""
    if isinstance(gradient, spikegrad.Surrogate):
        gradient = adapt(gradient)
    if transforming() or torch.compiler.is_compiling():
        with_ratio = spikes is _multiple
        constant = theta.detach() if isinstance(theta, Tensor) else theta

        def term(v: Tensor) -> tuple[Tensor, Tensor]:
            return (widen(v) / theta, gradient(v, theta) * theta) if with_ratio else (widen(v) - theta, gradient(v, theta))

        return attach(spikes(v_mem.detach(), constant, most), v_mem, term)
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (v_mem, theta)):
        return _Fire.apply(v_mem, theta, gradient, spikes, most)
    return spikes(v_mem, theta, most)


class _Fired(Context, Protocol):
    theta: float
    gradient: GradientFn
    with_ratio: bool


class _Fire(Function):
    # A third of the operations of `attach`, and as right; but a compiler that traces a transform would drop its gradient.

    @staticmethod
    def forward(
        ctx: _Fired, v_mem: Tensor, theta: Threshold, gradient: GradientFn, spikes: Callable[..., Tensor], most: int | None
    ) -> Tensor:
        ctx.save_for_backward(v_mem, *((theta,) if isinstance(theta, Tensor) else ()))  # not copies: these can be differentiated again
        ctx.theta = 1.0 if isinstance(theta, Tensor) else theta  # a tensor is saved
        ctx.gradient, ctx.with_ratio = gradient, spikes is _multiple
        return spikes(v_mem, theta, most)

    @staticmethod
    def backward(ctx: _Fired, *grad_outputs: Tensor) -> Gradients:
        v_mem, *tensors = ctx.saved_tensors
        theta = tensors[0] if tensors else ctx.theta
        infinite = v_mem.abs() == inf
        finite = torch.where(infinite, 0.0, v_mem)
        by_v = torch.where(infinite, 0.0, grad_outputs[0] * ctx.gradient(finite, theta))
        by_theta = None
        if ctx.needs_input_grad[1] and isinstance(theta, Tensor):
            by_theta = (-by_v * (widen(finite) / theta) if ctx.with_ratio else -by_v).sum_to_size(theta.shape).to(theta.dtype)
        return by_v.to(v_mem.dtype), by_theta, None, None, None


def attach(spikes: Tensor, x: Tensor, term: Callable[[Tensor], tuple[Tensor, Tensor | float]]) -> Tensor:
    """`spikes` plus a term of value 0 with a derivative: ``term(x)`` is a coordinate and the derivative with respect to it.

    The second derivative is right as well; see `spikegrad.gradient.torch`, whose construction it is. An infinite `x` has none.
    """
    infinite = x.detach().abs() == inf
    coordinate, slope = term(torch.where(infinite, 0.0, x))
    average = (slope + slope.detach()) / 2 if isinstance(slope, Tensor) else slope
    return spikes + torch.where(infinite, 0.0, average * (coordinate - coordinate.detach())).to(spikes.dtype)
