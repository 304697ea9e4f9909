"""Spikes between layers: which neurons spiked when, and whose gradient anybody will ask for."""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels.lock import LOCK


def _lists() -> ModuleType:
    """Kernels that make lists, which load the compiler when they are first wanted."""
    with LOCK:
        return importlib.import_module("spikegrad.kernels.cpu.lists")


class Pairs(NamedTuple):
    """Pairs of neuron and step, at which alone the gradient of spikes is read.

    Attributes:
        neurons: the neurons, sample by sample and step by step.
        base: where each sample begins, and the end.
        near: counted from there, where each part of each step begins, ``(batch, time * parts + 1)``.
        active: where those of a part end that have a gradient, ``(batch, time * parts)``; the rest made a spike that its reverse has to
            see.
        parts: how many blocks of neurons a step has.
    """

    neurons: Tensor
    base: Tensor
    near: Tensor
    active: Tensor
    parts: int

    @property
    def since(self) -> Tensor:
        """Where each step begins, ``(batch, time + 1)``."""
        return self.near[:, :: self.parts].contiguous()


class Spikes:
    """Spikes of ``(time, batch, neurons)``, as the places of the neurons that spiked.

    Layers that run by events hand them on without a dense tensor; `dense` makes one. Gradients flow through both.

    Args:
        shape: time, batch, neurons.
        index: neurons that spiked, sample by sample and step by step: uint16, or int32 where there are more than 65536.
        base: where in it each sample begins, and the end, int64 of shape ``(batch + 1,)``.
        since: counted from there, where each step begins, and the end, int32 of shape ``(batch, time + 1)``.
        pairs: where the gradient is read, if not everywhere.
        carrier: what autograd sees: for each of the pairs an element, else a tensor of the shape; None for no gradient.

    Example:
        >>> import torch
        >>> from spikegrad import Spikes
        >>> spikes = Spikes.of(torch.tensor([[[0.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]]]))
        >>> spikes.index.tolist(), len(spikes), spikes.density
        ([1, 2, 0], 3, 0.5)
        >>> spikes.dense().shape
        torch.Size([2, 1, 3])
    """

    def __init__(
        self, shape: torch.Size, index: Tensor, base: Tensor, since: Tensor, pairs: Pairs | None = None, carrier: Tensor | None = None
    ) -> None:
        self.shape, self.index, self.base, self.since, self.pairs, self.carrier = shape, index, base, since, pairs, carrier
        self.beyond: list[Tensor] = []
        """Gradients that arrived in a backward pass and are not finite: times the 0 beyond the pairs they are NaN, which has to spread."""

    @staticmethod
    def of(dense: Tensor) -> Spikes:
        """Those of a dense tensor on the CPU: ``(time, batch, neurons)`` of float32, 0 or 1. A gradient goes to it.

        Raises:
            TypeError: it is no such tensor.
            ValueError: it has another number of dimensions, or other values.
        """
        if dense.dtype is not torch.float32 or not dense.is_cpu:
            raise TypeError(f"events are made from a tensor of float32 on the CPU, got {dense.dtype} on {dense.device}")
        if dense.ndim != 3:
            raise ValueError(f"events are made from a tensor (time, batch, neurons), got shape {tuple(dense.shape)}")
        found = listed(dense)
        if found is None:
            raise ValueError("events are made from a tensor of 0 and 1, got other values")
        return found

    def dense(self) -> Tensor:
        """As a tensor of float32, with gradient."""
        if self.pairs is None and self.carrier is not None and not self.stands_in:
            return self.carrier
        return _Dense.apply(self.carrier, self)

    def last(self) -> Tensor:
        """The last step, ``(batch, neurons)`` of float32, with gradient."""
        return _Last.apply(self.carrier, self)

    def detach(self) -> Spikes:
        """The same without gradient."""
        return Spikes(self.shape, self.index, self.base, self.since)

    @property
    def stands_in(self) -> bool:
        """Whether the carrier has the spikes' shape but not their values."""
        return self.carrier is not None and self.pairs is None and not any(self.carrier.stride())

    @property
    def requires_grad(self) -> bool:
        """Whether somebody asks for its gradient."""
        return self.carrier is not None and self.carrier.requires_grad

    def __len__(self) -> int:
        return len(self.index)

    @property
    def density(self) -> float:
        """Share of neurons and steps that spiked."""
        return len(self.index) / max(1, self.shape.numel())

    @property
    def share(self) -> float:
        """Share of neurons and steps at which the gradient is read."""
        return 1.0 if self.pairs is None else len(self.pairs.neurons) / max(1, self.shape.numel())

    @property
    def nbytes(self) -> int:
        """Bytes of all lists."""
        return sum(x.nbytes for x in (self.index, self.base, self.since, *(self.pairs or ())[:4]))

    def __repr__(self) -> str:
        return f"Spikes({tuple(self.shape)}, {len(self)} spikes, density={self.density:.3g})"


def places(index: NDArray[np.generic], base: Tensor, since: Tensor, shape: torch.Size) -> Tensor:
    """Of each entry of a list where it is in a flat sequence: for operations that autograd differentiates again."""
    steps, batch, features = shape
    counts = np.diff(since.numpy(), axis=1)
    step, sample = np.tile(np.arange(steps), batch), np.repeat(np.arange(batch), steps)
    row = np.repeat(step * batch + sample, counts.reshape(-1))
    return torch.from_numpy(row * features + index.astype(np.int64))


def listed(dense: Tensor) -> Spikes | None:
    """The events of a sequence ``(time, batch, neurons)``, with itself as their carrier; None if it has anything but 0 and 1."""
    found = _lists().listed(dense.detach().contiguous(), torch.get_num_threads())
    if found is None:
        return None
    index, base, since = map(torch.from_numpy, found)
    return Spikes(dense.shape, index, base, since, carrier=dense)


def finite(g: Tensor) -> bool:
    """Whether the numbers of a tensor are finite."""
    return math.isfinite(float(g.detach().sum()))


class _Context(Context, Protocol):
    pairs: Pairs | None
    beyond: list[Tensor]
    shape: torch.Size


class _Dense(Function):
    @staticmethod
    def forward(ctx: _Context, carrier: Tensor | None, spikes: Spikes) -> Tensor:
        ctx.pairs, ctx.beyond = spikes.pairs, spikes.beyond
        dense = torch.zeros(spikes.shape, dtype=torch.float32, device="cpu")
        given = spikes.index.data_ptr(), spikes.base.data_ptr(), spikes.since.data_ptr()
        _lists().write_ones(dense, *given, torch.get_num_threads())
        return dense

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor) -> Gradients:
        return _brought(ctx, arriving[0]), None


class _Last(Function):
    @staticmethod
    def forward(ctx: _Context, carrier: Tensor | None, spikes: Spikes) -> Tensor:
        ctx.pairs, ctx.beyond, ctx.shape = spikes.pairs, spikes.beyond, spikes.shape
        found = np.zeros(spikes.shape[1:], np.float32)
        index, base, since = spikes.index.numpy(), spikes.base.numpy(), spikes.since.numpy()
        for sample in range(spikes.shape[1] if spikes.shape[0] else 0):
            found[sample, index[base[sample] + since[sample, -2] : base[sample] + since[sample, -1]]] = 1.0
        return torch.from_numpy(found)

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor) -> Gradients:
        whole = torch.cat([arriving[0].new_zeros((ctx.shape[0] - 1, *ctx.shape[1:])), arriving[0][None]])
        return _brought(ctx, whole), None


def _brought(ctx: _Context, g: Tensor) -> Tensor:
    """The gradient of a carrier from that of the dense form."""
    if ctx.pairs is None:
        return g
    if not finite(g):
        ctx.beyond.append(g)
        return g.new_zeros(len(ctx.pairs.neurons))
    return picked(g, ctx.pairs)


def picked(x: Tensor, pairs: Pairs) -> Tensor:
    """A sequence's values at pairs."""
    if torch.is_grad_enabled() or type(x) is not Tensor or x.dtype is not torch.float32:
        return x.reshape(-1)[places(pairs.neurons.numpy(), pairs.base, pairs.since, x.shape)]
    x, since = x.contiguous(), pairs.since
    values = torch.empty(len(pairs.neurons), dtype=x.dtype, device="cpu")
    _lists().read_there(x, values, pairs.neurons.data_ptr(), pairs.base.data_ptr(), since.data_ptr(), torch.get_num_threads())
    return values
