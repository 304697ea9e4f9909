"""What the passes of a layer have in common in PyTorch, on whichever device its kernels run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from spikegrad.kernels.plan import FED, Call
from spikegrad.kernels.values import Number, Numbers, real

Given = tuple[Tensor | None, ...]


class Layer(ABC):
    """A layer whose inputs have this shape and dtype: what its passes have in common, whichever kernels run them.

    Attributes:
        call: the layer apart from its arrays.
        shape: of the inputs; `step` is that of one step.
        dtype: of the inputs.
        device: where they are.
        real: the dtype of states and parameters.
        fed: whether neurons receive the outputs of all of them.
        inputs: names of what is given at each step.
        states: names of the states, what is fed back last.
        values: all numbers by name, None for each tensor.
        tensors: the names of these, in their order.
    """

    def __init__(self, call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        self.call, self.shape, self.dtype, self.device = call, shape, dtype, device
        self.real = real(dtype)
        self.fed = call.connection == "all-to-all"
        self.inputs = tuple(name for name in call.plan.inputs if name != FED)
        self.states = (*call.plan.states, *("recurrent",) * self.fed)
        surrogate = (f"spike.{name}" for name in call.surrogate.arguments[1:])
        names = (*call.plan.parameters, *surrogate, *(f"first.{name}" for name in self.states), *("weights",) * self.fed)
        self.values = dict(zip(names, (v for part in numbers for v in part), strict=True))
        self.tensors = tuple(name for name, value in self.values.items() if value is None)
        self.firsts = tuple(f"first.{name}" for name in self.states)
        self.step = shape[1:]
        self._asked: dict[tuple[bool, ...], tuple[frozenset[str], frozenset[str]]] = {}

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Number]:
        """All numbers by name."""
        known = {name: value for name, value in self.values.items() if value is not None}
        return {**known, **dict(zip(self.tensors, tensors, strict=True))}

    def asked(self, wanted: tuple[bool, ...]) -> tuple[frozenset[str], frozenset[str]]:
        """Names of the tensors whose gradients are wanted, and of those the ones that kernels sum over the steps."""
        found = self._asked.get(wanted)
        if found is None:
            names = frozenset(name for name, want in zip(self.tensors, wanted, strict=True) if want)
            found = self._asked[wanted] = names, frozenset(n for n in names if n != "weights" and not n.startswith("first."))
        return found

    def saved(self, learned: frozenset[str]) -> tuple[str, ...]:
        """What of the size of the sequence the backward pass is given."""
        passes = self.call.plan.passes(learned)
        if self.fed:
            return (*(name for name in passes.reread if name != FED), "0", *(f"kept.{name}" for name in passes.kept))
        return self.inputs if passes.kept else passes.reread

    @abstractmethod
    def forward(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs, states after the last step and recorded values."""

    @abstractmethod
    def saving(
        self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """What `forward` returns; and what a backward pass with gradients of the `learned` is given: what `saved` says, then anything."""

    @abstractmethod
    def backward(
        self, saved: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given, wanted: tuple[bool, ...]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        """Gradients of the inputs, and of those tensors that are wanted; from what was saved."""
