"""Parameters that stay in their range while they learn, without a gradient that dies at its edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Range:
    """Where a parameter lives, and the coordinate in which it is learned.

    Attributes:
        wanted: the range in words.
        holds: whether a tensor is in the range, elementwise.
        learnable: whether it can be learned from there, elementwise: open ends are excluded.
        coordinate: name of the coordinate that is learned.
        inward: from the parameter to the coordinate, any real number.
        outward: back.
    """

    wanted: str
    holds: Callable[[Tensor], Tensor]
    learnable: Callable[[Tensor], Tensor]
    coordinate: str
    inward: Callable[[Tensor], Tensor]
    outward: Callable[[Tensor], Tensor]


DECAY = Range("between 0 and 1", lambda p: (p >= 0) & (p <= 1), lambda p: (p > 0) & (p < 1), "logit", torch.logit, torch.sigmoid)
POSITIVE = Range("positive", lambda p: (p > 0) & (p < math.inf), lambda p: p > 0, "log", torch.log, torch.exp)
REAL = Range("finite", torch.isfinite, torch.isfinite, "value", lambda p: p, lambda p: p)


def hold(module: nn.Module, name: str, value: float | Tensor, within: Range, *, learn: bool) -> None:
    """Give a module a parameter, which `held` reads back.

    A number that is not learned stays a number (exact in every dtype), a tensor becomes the buffer ``<name>_fixed``, and a learned one the
    `nn.Parameter` ``<name>_<coordinate>``.

    Raises:
        TypeError: `value` is neither a number nor a floating-point tensor.
        ValueError: `value` is outside of the range.
    """
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`{name}` must be a number or a tensor, got {type(value).__name__}")
        value = float(value)
    elif not value.dtype.is_floating_point:
        raise TypeError(f"`{name}` must be of floating point, got {value.dtype}; convert it with .float()")
    tensor = torch.as_tensor(value).detach().clone()
    if not bool(within.holds(tensor).all()):
        raise ValueError(f"`{name}` must be {within.wanted}, got {value}")
    if learn and not bool(within.learnable(tensor).all()):
        raise ValueError(f"`{name}` is learned inside of its range, so it cannot start at the edge: got {value}")
    if learn:
        module.register_parameter(f"{name}_{within.coordinate}", nn.Parameter(within.inward(tensor)))
    elif isinstance(value, Tensor):
        module.register_buffer(f"{name}_fixed", tensor)
    else:
        setattr(module, f"{name}_fixed", value)


def held(module: nn.Module, name: str, within: Range) -> Any:
    """The value of a parameter given to a module by `hold`: a number or a tensor, with gradient where it is learned."""
    # Looked up where it is: a getattr that a module fails costs as much as a small kernel.
    learned = module._parameters.get(f"{name}_{within.coordinate}")  # pyright: ignore[reportPrivateUsage]
    return getattr(module, f"{name}_fixed") if learned is None else within.outward(learned)
