"""PyTorch: a step with a surrogate's gradient, built from differentiable operations alone.

An `autograd.Function` would be silently wrong: `torch.compile(torch.func.grad(f))` over one returns zeros. Instead the step is added
to terms whose value is exactly 0 and whose derivative is the surrogate's, with ^ for detached::

    H(x) + (g(x; p^) + g^) / 2 * (x - x^) + P(x; p) - P(x; p^)

The symmetric middle term has the right first and second derivative with respect to x (the third comes out as 3/2 of what it should
be); the difference of primitives gives the parameters' gradient, and the mixed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

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
    parameters = {name: torch.as_tensor(value, device=x.device) for name, value in parameters.items()}
    constant = x.detach()
    infinite = constant.abs() == inf
    fired = constant >= 0 if spike_at_threshold else constant > 0
    spikes = torch.where(constant == constant, fired.to(x.dtype), constant)
    soft = training and surrogate.soft
    if not (soft or _differentiates([x, *parameters.values()])):
        return spikes
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


def _differentiates(tensors: Iterable[Tensor]) -> bool:
    """Whether a derivative may be asked of these tensors: by autograd, a torch.func transform or forward mode."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return transforming()


@torch.compiler.assume_constant_result
def transforming() -> bool:
    """Whether the caller runs inside a torch.func transform or a forward-mode level."""
    return torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0  # pyright: ignore
