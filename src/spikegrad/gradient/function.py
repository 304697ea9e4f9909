"""PyTorch's autograd functions as a type checker is to see them: PyTorch gives their methods and contexts no types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:

    class Function:
        """`torch.autograd.Function`, whose `forward` each subclass writes with arguments of its own."""

        apply: ClassVar[Callable[..., Any]]

else:
    Function = torch.autograd.Function

Gradients = Sequence[Tensor | None]
"""What a `backward` receives, one for each output, or returns, one for each argument."""


class Context(Protocol):
    """What PyTorch hands to `forward` and to `backward`; derived protocols name what the one leaves there for the other."""

    needs_input_grad: tuple[bool, ...]

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """What was saved."""
        ...

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for `backward`."""

    def set_materialize_grads(self, value: bool) -> None:
        """Whether gradients that do not arrive are zeros instead of None."""

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say which outputs have no gradient."""
