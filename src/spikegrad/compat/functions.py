"""What the peers' classes with an `apply` share, and what they take for a potential."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from spikegrad.gradient.function import Function, Gradients
from spikegrad.vocabulary import Array

_RULES = ("forward", "backward", "setup_context", "jvp", "vmap", "generate_vmap_rule")


class Subclassable:
    """Base class of what the peers write as autograd functions, classes with an `apply` that is better than PyTorch's.

    The peers document them as ``Bases: Function`` with `forward` and `backward`. Ours have both, and save and hold what the peer's do, but
    their `apply` uses neither: what it does works in every transform, while ``torch.compile(torch.func.grad(f))`` over a
    `torch.autograd.Function` returns zeros without a word. A subclass that overrides one of the two is what it says: its `apply` is that of
    the `torch.autograd.Function` with its methods.
    """

    apply: ClassVar[Callable[..., Tensor]]
    forward: ClassVar[Callable[..., Tensor]]
    backward: ClassVar[Callable[..., Tensor | Gradients]]

    def __init_subclass__(cls) -> None:
        ours = next((base for base in cls.__mro__ if "apply" in vars(base)), None)
        if ours is None:
            return  # one of ours, which gets its methods next
        if cls.forward is not ours.forward or cls.backward is not ours.backward:
            rules = {name: inspect.getattr_static(cls, name) for name in _RULES if hasattr(cls, name)}
            function = type(cls.__name__, (Function,), {"__module__": cls.__module__, **rules})
            cls.apply = staticmethod(function.apply)


def floating(x: Array) -> Array:
    """A potential as it is, but whole numbers and booleans in PyTorch's default type: the peers take them, and their spikes are floats."""
    if isinstance(x, Tensor) and not (x.dtype.is_floating_point or x.dtype.is_complex):
        return x.to(torch.get_default_dtype())
    return x
