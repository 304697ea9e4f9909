"""Weights and neurons in one layer, which can forget everything but its input spikes, as bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from spikegrad.nn.layer import Layer, Stateful

Memory = Literal["save", "recompute"]

_BLOCK = 2**19
"""Currents that are held at once while they are computed anew, in elements."""


class SpikingLinear(Stateful):
    """A linear layer from spikes to neurons: ``neuron(spikes @ weight.T + bias)``.

    With ``memory="recompute"`` nothing is saved for the backward pass but the input spikes as bits, 1/8 byte each (and as much again
    for the mask of a dropout), where a linear layer and its neurons save 8 bytes. Currents and potentials are computed anew, some
    samples at a time, by the same operations in the same shapes; the gradients are exact. It costs a second forward pass.

    Args:
        in_features: input spikes per step.
        out_features: neurons.
        neuron: the neurons, such as ``nn.Leaky(0.9)``, recurrent ones too.
        bias: whether the neurons have a constant input.
        dropout: share of the input spikes that is dropped in training; the rest is not scaled (it stays binary), the weights are.
        memory: ``"recompute"``, or ``"save"`` to keep what autograd keeps.

    Raises:
        ValueError: an argument outside of its range, or neurons that draw noise and so cannot be computed twice.

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
        if memory not in get_args(Memory):
            raise ValueError(f"`memory` must be one of {', '.join(map(repr, get_args(Memory)))}, got {memory!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout}")
        if memory == "recompute" and neuron.spike.surrogate.stochastic:
            raise ValueError(f"{neuron.spike.surrogate!r} draws noise, so its layer cannot be computed twice; use memory='save'")
        linear = nn.Linear(in_features, out_features, bias=bias)
        self.weight, self.bias = linear.weight, linear.bias
        self.neuron, self.dropout, self.memory = neuron, dropout, memory

    def forward(self, currents: Tensor, state: Any = None) -> tuple[Any, ...]:
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
        if not bool(((spikes == 0) | (spikes == 1)).all()):
            raise ValueError("input spikes must be 0 or 1; for other inputs use torch.nn.Linear and a layer of neurons")
        mask = torch.empty_like(spikes).bernoulli_(1 - self.dropout) if self.training and self.dropout else None
        weight = self.weight if mask is None else self.weight / (1 - self.dropout)
        if self.memory == "save" or not torch.is_grad_enabled():
            return self.neuron(functional.linear(spikes if mask is None else spikes * mask, weight, self.bias), state)
        if spikes.ndim == 2:
            parts = state if isinstance(state, tuple) or state is None else (state,)
            inner = None if parts is None else tuple(part[None] for part in parts)
            out, last = self._recomputed(spikes[:, None], None if mask is None else mask[:, None], weight, inner)
            return out[:, 0], self.neuron.state_of([part[0] for part in (last if isinstance(last, tuple) else (last,))])
        return self._recomputed(spikes, mask, weight, state)

    def _recomputed(self, spikes: Tensor, mask: Tensor | None, weight: Tensor, state: Any) -> tuple[Tensor, Any]:
        parts = () if state is None else state if isinstance(state, tuple) else (state,)
        parameters = [p for p in self.neuron.parameters() if p.requires_grad]
        out, *last = _Recomputed.apply(self.neuron, len(parts), spikes, mask, weight, self.bias, *parts, *parameters)  # pyright: ignore
        return out, self.neuron.state_of(last)

    def extra_repr(self) -> str:
        """Sizes and what differs from the defaults."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, dropout={self.dropout}, memory={self.memory!r}"


def _packed(spikes: Tensor) -> Tensor:
    """Spikes as bits, ``(time, batch, features / 8)``."""
    return torch.from_numpy(np.packbits(spikes.detach().cpu().numpy() != 0, axis=-1))


def _unpacked(bits: Tensor, features: int, like: Tensor) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, count=features)).to(like)


def _blocks(shape: torch.Size, neurons: int) -> Iterator[slice]:
    """Shares of the batch whose currents are held at once; the same forward and backward, so that sums round alike."""
    steps, batch, features = shape
    size = max(1, _BLOCK // max(1, steps * max(features, neurons)))
    return (slice(start, min(start + size, batch)) for start in range(0, max(batch, 1), size))


class _Recomputed(torch.autograd.Function):
    """The layer, whose backward pass runs it again."""

    @staticmethod
    def forward(
        ctx: Any, neuron: nn.Module, states: int, spikes: Tensor, mask: Tensor | None, weight: Tensor, bias: Any, *rest: Any
    ) -> Any:  # pyright: ignore
        state = rest[:states]
        kept = spikes if mask is None else spikes * mask
        output = spikes.new_empty(*spikes.shape[:2], len(weight))
        lasts: list[tuple[Tensor, ...]] = []
        for block in _blocks(spikes.shape, len(weight)):
            start = tuple(part[block] for part in state)
            output[:, block], last = neuron(functional.linear(kept[:, block], weight, bias), start if states else None)
            lasts.append(last if isinstance(last, tuple) else (last,))
        ctx.neuron, ctx.states, ctx.shape = neuron, states, spikes.shape
        ctx.parameters = rest[states:]
        ctx.save_for_backward(_packed(kept), None if mask is None else _packed(mask), weight, bias, *state)
        ctx.set_materialize_grads(False)
        return output, *(torch.cat(parts) for parts in zip(*lasts, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, *grad_last: Tensor | None) -> Any:  # pyright: ignore
        bits, mask_bits, weight, bias, *state = ctx.saved_tensors
        tensors = [weight.detach().requires_grad_(), *([] if bias is None else [bias.detach().requires_grad_()])]
        sums = [torch.zeros_like(t) for t in (*tensors, *ctx.parameters)]
        grad_spikes = torch.empty(ctx.shape, dtype=weight.dtype, device=weight.device)
        grad_state = [torch.empty_like(part) for part in state]
        for block in _blocks(ctx.shape, len(weight)):
            kept = _unpacked(bits[:, block], ctx.shape[-1], weight).requires_grad_()
            start = tuple(part[block].detach().requires_grad_() for part in state)
            with torch.enable_grad():
                currents = functional.linear(kept, *tensors)
                out, last = ctx.neuron(currents, start if ctx.states else None)
            outputs = [out, *(last if isinstance(last, tuple) else (last,))]
            given = [grad_out if grad_out is None else grad_out[:, block], *(g if g is None else g[block] for g in grad_last)]
            pairs = [(o, g) for o, g in zip(outputs, given, strict=True) if g is not None and o.requires_grad]
            if not pairs:
                continue
            wanted = [kept, *start, *tensors, *ctx.parameters]
            heads, arriving = zip(*pairs, strict=True)
            grads = torch.autograd.grad(heads, wanted, arriving, allow_unused=True, materialize_grads=True)
            grad_spikes[:, block] = grads[0]
            for total, part in zip(grad_state, grads[1:], strict=False):
                total[block] = part
            for total, part in zip(sums, grads[1 + len(start) :], strict=True):
                total += part
        if mask_bits is not None:
            grad_spikes *= _unpacked(mask_bits, ctx.shape[-1], grad_spikes)
        return None, None, grad_spikes, None, sums[0], None if bias is None else sums[1], *grad_state, *sums[len(tensors) :]
