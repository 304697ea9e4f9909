"""PyTorch: a step with a surrogate's gradient, under every transform and compiled.

Inside a transform and for the compiler the step is built from differentiable operations alone. It is added to terms whose value is
exactly 0 and whose derivative is the surrogate's, with ^ for detached::

    H(x) + (g(x; p^) + g^) / 2 * (x - x^) + P(x; p) - P(x; p^)

The symmetric middle term has the right first and second derivative with respect to x (the third comes out as 3/2 of what it should
be); the difference of primitives gives the parameters' gradient, and the mixed one.

Run eagerly, with nothing but x to differentiate, the step is an `autograd.Function` that keeps x alone and multiplies by g(x) in the
backward pass: a fraction of the operations, and right to every order. Nowhere else, since ``torch.compile(torch.func.grad(f))`` over one
returns zeros without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from spikegrad.vocabulary import inf, widen

if TYPE_CHECKING:
    from spikegrad.surrogate import Surrogate


def spike(
    surrogate: Surrogate,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    spike_at_threshold: bool,
    training: bool,
    random: torch.Generator | None,
) -> Tensor:
    """See `Surrogate.__call__`."""
    if not x.dtype.is_floating_point:
        widen(x)  # refuses it in words
    soft = training and surrogate.soft
    if not parameters and not training and not traced():
        if x.requires_grad and torch.is_grad_enabled():
            stepped: Any = _Step.apply(x, surrogate, spike_at_threshold)
            return stepped
        return _step(x, spike_at_threshold)
    parameters = {name: torch.as_tensor(value, device=x.device) for name, value in parameters.items()}
    spikes = _step(x.detach(), spike_at_threshold)
    if not (soft or _differentiates([x, *parameters.values()])):
        return spikes
    infinite = x.detach().abs() == inf
    wide = widen(torch.where(infinite, 0.0, x))
    parameters = {name: value.to(wide) for name, value in parameters.items()}
    noise: tuple[Tensor, ...] = ()
    if training:
        noise = (torch.rand(x.shape, generator=random, dtype=wide.dtype, device=x.device),)
    if soft:
        return torch.where(infinite, spikes, surrogate.bind(parameters).primitive(wide, *noise).to(x.dtype))
    frozen = surrogate.bind({name: value.detach() for name, value in parameters.items()})
    slope = frozen.derivative(wide, *noise)
    change = (slope + slope.detach()) / 2 * (wide - wide.detach())
    if parameters:
        change = change + surrogate.bind(parameters).primitive(wide, *noise) - frozen.primitive(wide, *noise)
    return spikes + torch.where(infinite, 0.0, change).to(x.dtype)


def _step(x: Tensor, spike_at_threshold: bool) -> Tensor:
    """1 where x reaches 0, else 0, and NaN where it is NaN; without a gradient."""
    # On the CPU comparing and choosing cost ten times as much, since PyTorch does not vectorise between floats and booleans, and rounding
    # wakes all threads for a few thousand elements. The sum keeps NaN, whose sign is 0.
    clamped = x.clamp(-1, 0) if spike_at_threshold else x.clamp(0, 1)
    spikes = clamped.sign().add_(clamped, alpha=0)
    return spikes.add_(1) if spike_at_threshold else spikes


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate, spike_at_threshold: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return _step(x, spike_at_threshold)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (x,) = ctx.saved_tensors
        wide = widen(x)
        gradient = grad_outputs[0].to(wide.dtype)
        if not torch.is_grad_enabled() and _plain(ctx.surrogate, wide):
            formula: Any = type(ctx.surrogate).derivative
            return (gradient * formula.__wrapped__(ctx.surrogate, wide)).to(x.dtype), None, None
        # An infinite potential has no gradient, whatever comes in; what is differentiated again must be finite in the branch not taken.
        infinite = wide.abs() == inf
        slope = ctx.surrogate.derivative(torch.where(infinite, 0.0, wide))
        return torch.where(infinite, 0.0, gradient * slope).to(x.dtype), None, None


def _plain(surrogate: Surrogate, x: Tensor) -> bool:
    """Whether the formula as it was written, a fifth of the cost, is the derivative: every x is finite, and no scale is left."""
    return surrogate.scale == 1.0 and x.is_cpu and not traced() and math.isfinite(x.sum().item())


def traced() -> bool:
    """Whether this runs for a compiler, in a transform or in a dispatch mode, which must see plain operations and no numbers read off."""
    if torch.compiler.is_compiling() or transforming():
        return True
    return bool(torch._C._get_tracing_state()) or torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore[reportPrivateUsage]


def _differentiates(tensors: Iterable[Tensor]) -> bool:
    """Whether a derivative may be asked of these tensors: by autograd, a torch.func transform or forward mode."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return transforming()


@torch.compiler.assume_constant_result
def transforming() -> bool:
    """Whether the caller runs inside a torch.func transform or a forward-mode level."""
    return torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0  # pyright: ignore
