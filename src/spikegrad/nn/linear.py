"""Weights and neurons in one layer, which can forget everything but its input spikes, as bits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spikegrad.kernels.gate import has_memory
from spikegrad.nn.bits import outline, pack, packed
from spikegrad.nn.layer import Layer, State, Stateful
from spikegrad.nn.recompute import Blocks, Memory, check, replayed_tree, visible, watched

_BLOCK = 2**19
"""Currents that are held at once while they are computed anew, in elements."""


class SpikingLinear(Stateful):
    """A linear layer from spikes to neurons: ``neuron(spikes @ weight.T + bias)``.

    With ``memory="recompute"`` nothing is saved for the backward pass but the input spikes as bits, 1/8 byte each (and as much again
    for the mask of a dropout), where a linear layer and its neurons save 8 bytes. Currents and potentials are computed anew, some
    samples at a time, by the same operations in the same shapes, with parameters, options, autocast and random numbers as they were: the
    gradients are exact, to every order. Parameters that were changed in place before the backward pass are an error, as in PyTorch. It
    costs a second forward pass. Inside of compilers, tracers and torch.func transforms the layer keeps what these keep, and with hooks
    on its neurons what autograd keeps.

    Args:
        in_features: input spikes per step.
        out_features: neurons.
        neuron: the neurons, such as ``nn.Leaky(0.9)``, recurrent ones too.
        bias: whether the neurons have a constant input.
        dropout: share of the input spikes that is dropped in training; the rest is not scaled (it stays binary), the weights are.
        memory: ``"recompute"``, or ``"save"`` to keep what autograd keeps.

    Raises:
        ValueError: an argument outside of its range.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> layer = nn.SpikingLinear(100, 20, nn.Leaky(0.9))
        >>> spikes, state = layer(torch.bernoulli(torch.full((50, 8, 100), 0.1)))
        >>> spikes.shape
        torch.Size([50, 8, 20])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        neuron: Layer,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        memory: Memory = "recompute",
    ) -> None:
        super().__init__()
        check(memory)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout}")
        linear = nn.Linear(in_features, out_features, bias=bias)
        self.weight, self.bias = linear.weight, linear.bias
        self.neuron, self.dropout, self.memory = neuron, dropout, memory

    def forward(self, currents: Tensor, state: Tensor | tuple[Tensor, ...] | list[Tensor] | None = None) -> tuple[Any, ...]:
        """Run the layer over a sequence of spikes.

        Args:
            currents: the input spikes, ``(time, batch, in_features)`` or ``(time, in_features)``: 0 or 1, of floating point.
            state: that of the neurons, or None for rest.

        Returns:
            ``(output, state)`` of the neurons, the output ``(time, batch, out_features)``.

        Raises:
            ValueError: the input has another number of features, or values that are neither 0 nor 1.
        """
        spikes = currents
        if spikes.ndim not in (2, 3) or spikes.shape[-1] != self.weight.shape[1]:
            wanted = f"(time, batch, {self.weight.shape[1]})"
            raise ValueError(f"input spikes must be {wanted}, got shape {tuple(spikes.shape)}")
        plain = visible(spikes)
        if plain and spikes.is_cpu and not has_memory(spikes):  # PyTorch's own `==` would read it
            raise RuntimeError("input spikes are out of bounds for storage of size 0: their memory was given back")
        if plain and not bool(((spikes == 0) | (spikes == 1)).all()):
            raise ValueError("input spikes must be 0 or 1; for other inputs use torch.nn.Linear and a layer of neurons")
        mask = torch.bernoulli(torch.full_like(spikes, 1 - self.dropout)) if self.training and self.dropout else None
        parts = () if state is None else tuple(state) if isinstance(state, tuple | list) else (state,)
        share = 1.0 if mask is None else 1 - self.dropout
        if self.memory == "save" or not plain or not torch.is_grad_enabled() or watched(self.neuron):
            return _run(self, spikes if mask is None else spikes * mask, parts or None, share)
        given = spikes if mask is None else spikes * mask
        kept = packed(given, spikes=True)
        stand_in = given if kept is None else outline(spikes, None if mask is None else pack(mask))
        run = functools.partial(_run, share=share)
        return replayed_tree(run, self, (stand_in, parts or None), self._blocks(spikes.shape, parts), kept)

    def _blocks(self, shape: torch.Size, state: Sequence[Tensor]) -> Blocks | None:
        """Shares of the batch whose currents are held at once; the same forward and backward, so that sums round alike."""
        if len(shape) == 2 or any(part.ndim == 0 or len(part) != shape[1] for part in state):  # one sample, or a state that does not fit
            return None
        size = max(1, _BLOCK // max(1, shape[0] * max(shape[2], len(self.weight))))
        return Blocks(size, shape[1], (1, *[0] * len(state)), (*[1] * self.neuron.neuron.record.outputs, 0))

    def extra_repr(self) -> str:
        """Sizes and what differs from the defaults."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, dropout={self.dropout}, memory={self.memory!r}"


def _run(layer: SpikingLinear, spikes: Tensor, state: State, share: float) -> tuple[Any, ...]:
    """Output and state for a share of the input spikes."""
    weight = layer.weight if share == 1.0 else layer.weight / share
    return layer.neuron(functional.linear(spikes, weight, layer.bias), state)
