"""PyTorch: a step with a surrogate's gradient, under every transform and compiled.

Inside a transform and for the compiler the step is built from differentiable operations alone. It is added to terms whose value is
exactly 0 and whose derivative is the surrogate's, with ^ for detached::

    H(x) + (x - x^) * sum_i w_i g(x^ + c_i (x - x^); p^) + P(x; p) - P(x; p^)

The middle term is the integral of g from x^ to x by Gauss's rule, all of whose nodes are the same number. With n of them its first 2 n
derivatives with respect to x are those of the integral: n is chosen by how many transforms there are, so that each may differentiate, and
two more derivatives be taken by autograd. The difference of primitives gives the parameters' gradient, and the mixed ones.

Run eagerly, the step is an `autograd.Function` that keeps x alone and multiplies by g(x) in the backward pass: a fraction of the
operations, and right to every order. Nowhere else, since ``torch.compile(torch.func.grad(f))`` over one
returns zeros without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch._guards import TracingContext
from torch.autograd import forward_ad

from spikegrad import evaluation
from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.vocabulary import inf, widen

if TYPE_CHECKING:
    from spikegrad.surrogate import Surrogate

F = TypeVar("F", bound=Callable[..., object])

if TracingContext.try_get() is None:  # else a compiler, which imports this, has seen that it was not there
    evaluation.pytorch = torch


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
            return _Step.apply(x, surrogate, spike_at_threshold)
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
    if training or traced():
        fixed, moved = wide.detach(), wide - wide.detach()
        change = moved * sum(w * frozen.derivative(fixed + c * moved, *noise) for c, w in _nodes(_orders()))
    else:
        spikes, change = _Step.apply(x, frozen, spike_at_threshold), 0.0
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


class _Stepped(Context, Protocol):
    surrogate: Surrogate


class _Step(Function):
    @staticmethod
    def forward(ctx: _Stepped, x: Tensor, surrogate: Surrogate, spike_at_threshold: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return _step(x, spike_at_threshold)

    @staticmethod
    def backward(ctx: _Stepped, *grad_outputs: Tensor) -> Gradients:
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
    return (
        isinstance(surrogate.scale, float)
        and surrogate.scale == 1.0
        and type(x) is Tensor
        and x.is_cpu
        and not traced()
        and math.isfinite(x.sum().item())
    )


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


def constant(function: F) -> F:
    """Tell a compiler to call a function once, as `torch.compiler.assume_constant_result`, which first loads the compiler, for a second."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


@constant
def transforming() -> bool:
    """Whether the caller runs inside a torch.func transform or a forward-mode level."""
    return maybe_current_level() is not None or forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]


@constant
def _orders() -> int:
    """How many derivatives can be asked for: one by each transform, and some by autograd beside them; by a compiler, one."""
    transforms = (maybe_current_level() or 0) + (forward_ad._current_level >= 0)  # pyright: ignore[reportPrivateUsage]
    return max(2, transforms) if torch.compiler.is_compiling() else max(4, transforms + 2)


@constant
def _nodes(orders: int) -> tuple[tuple[float, float], ...]:
    """Nodes between 0 and 1, and their weights, of a rule that integrates what has so many derivatives."""
    places, weights = np.polynomial.legendre.leggauss(max(1, (orders + 1) // 2))
    return tuple((float(c + 1) / 2, float(w) / 2) for c, w in zip(places, weights, strict=True))
