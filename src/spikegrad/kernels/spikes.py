"""Spikes between layers: which neurons spiked when, and whose gradient anybody will ask for."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels import gate
from spikegrad.kernels.lock import LOCK
from spikegrad.kernels.places import Both, Drawn, Given, Mask, Pairs, places, seen_as


def _lists() -> ModuleType:
    """Kernels that make lists, which load the compiler when they are first wanted."""
    with LOCK:
        return importlib.import_module("spikegrad.kernels.cpu.lists")


@runtime_checkable
class Binned(Protocol):
    """Samples of event data, as `spikegrad.data.Events` has them: ``(sample, time, channel)``."""

    step: NDArray[np.integer]
    channel: NDArray[np.integer]
    starts: NDArray[np.integer]
    shape: tuple[int, int, int]

    def ordered(self) -> Binned:
        """With events in the order of samples, steps and channels."""
        ...


class Spikes:
    """Spikes of ``(time, batch, neurons)``, as the places of the neurons that spiked.

    Layers that run by events hand them on without a dense tensor; `dense` makes one. Gradients flow through both. A place that is there
    several times stands for a whole number: events that were counted, or pooled. `Spikes.of` makes them.

    Args:
        shape: time, batch, neurons.
        index: neurons that spiked, sample by sample and step by step: uint16, or int32 where there are more than 65536.
        base: where in it each sample begins, and the end, int64 of shape ``(batch + 1,)``.
        since: counted from there, where each step begins, and the end, int32 of shape ``(batch, time + 1)``.
        pairs: where the gradient is read, if not everywhere.
        carrier: what autograd sees: for each of the pairs an element, else a tensor of the shape; None for no gradient.
        scale: what an event counts.

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
        self,
        shape: torch.Size,
        index: Tensor,
        base: Tensor,
        since: Tensor,
        pairs: Pairs | None = None,
        carrier: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        self.shape, self.index, self.base, self.since, self.pairs, self.carrier = shape, index, base, since, pairs, carrier
        self.scale = scale
        self.version = _version(carrier)
        """Of the carrier if it has the values of the events: it has not if it was changed in place since."""
        self.beyond: list[Tensor] = []
        """Gradients that arrived in a backward pass and are not finite: times the 0 beyond the pairs they are NaN, which has to spread."""
        self.mask: Mask | None = None
        """Which of them were left out by `dropped`: those gradients are to be multiplied by it."""

    @staticmethod
    def of(given: Tensor | Binned | Sequence[Tensor]) -> Spikes:
        """Those of a dense tensor, of sparse matrices, or of event data.

        Args:
            given: a tensor ``(time, batch, neurons)`` of float32 on the CPU, to which a gradient goes; for each sample a matrix
                ``(time, neurons)`` of layout ``torch.sparse_csr``, or one alone; or samples of `spikegrad.data`, whether they come from a
                file or from arrays. Values are whole numbers from 0: events, counted.

        Raises:
            TypeError: it is none of them.
            ValueError: it has another number of dimensions, matrices of different shapes, or other values.

        Example:
            >>> import numpy as np, torch
            >>> from spikegrad import Spikes
            >>> from spikegrad.data import Events
            >>> Spikes.of(torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]])).index.tolist()
            [1, 1, 0]
            >>> Spikes.of(Events(np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([0, 3]), steps=3, channels=2))
            Spikes((3, 1, 2), 3 spikes, density=0.5)
        """
        if isinstance(given, Tensor) and given.layout is torch.strided:
            return _of_tensor(given)
        matrices: Sequence[Tensor] = [given] if isinstance(given, Tensor) else given if isinstance(given, list | tuple) else ()
        if matrices and all(getattr(x, "layout", None) is torch.sparse_csr for x in matrices):
            return _of_matrices(matrices)
        if isinstance(given, Binned):
            events, (size, steps, channels) = given.ordered(), given.shape
            sample = np.repeat(np.arange(size), np.diff(events.starts))
            return _sorted(sample, events.step, events.channel, (steps, size, channels))
        raise TypeError(
            f"events are made from a tensor, from matrices of layout torch.sparse_csr or from spikegrad.data, got {_kind(given)}"
        )

    def dropped(self, share: float) -> Spikes:
        """Without a share of them, drawn at random; the others count more, as what `torch.nn.Dropout` leaves. Gradients likewise.

        Raises:
            ValueError: the share is not between 0 and 1.

        Example:
            >>> import torch
            >>> from spikegrad import Spikes
            >>> some = Spikes.of(torch.ones(10, 4, 25)).dropped(0.5)
            >>> 400 < len(some) < 600, some.scale
            (True, 2.0)
        """
        if not 0 <= share <= 1:
            raise ValueError(f"the share that is dropped must be between 0 and 1, got {share}")
        if not share:
            return self
        if share == 1:
            return self.masked(torch.zeros(self.shape, device="cpu"))
        made = self._left(Drawn(int(torch.randint(2**62, (), device="cpu")), share))
        made.scale /= 1 - share
        return made

    def masked(self, mask: Tensor) -> Spikes:
        """Those where a tensor of the shape is 1 and not 0; gradients likewise.

        Raises:
            ValueError: it has another shape.
        """
        if mask.shape != self.shape:
            raise ValueError(f"a mask of these spikes must have their shape {tuple(self.shape)}, got {tuple(mask.shape)}")
        return self._left(Given(mask != 0))

    def _left(self, mask: Mask) -> Spikes:
        stays = mask.at(places(self.index.numpy(), self.base, self.since, self.shape))
        before = np.concatenate([[0], np.cumsum(stays)])
        first = before[self.base.numpy()]
        since = before[self.base.numpy()[:-1, None] + self.since.numpy()] - first[:-1, None]
        carrier = self.carrier
        if carrier is not None and self.pairs is not None:
            there = mask.at(places(self.pairs.neurons.numpy(), self.pairs.base, self.pairs.since, self.shape))
            carrier = carrier * torch.from_numpy(there)
        elif carrier is not None:
            carrier = self.unscaled() * mask.whole(self.shape)
        lists = torch.from_numpy(self.index.numpy()[stays]), torch.from_numpy(first), torch.from_numpy(since.astype(np.int32))
        made = Spikes(self.shape, *lists, self.pairs, carrier, self.scale)
        made.beyond, made.mask = self.beyond, mask if self.mask is None else Both(self.mask, mask)
        return made

    def dense(self) -> Tensor:
        """As a tensor of float32, with gradient."""
        return self.unscaled() if self.scale == 1.0 else self.unscaled() * self.scale

    def unscaled(self) -> Tensor:
        """The same, in which each event counts 1."""
        carrier = self.carrier
        if self.pairs is None and carrier is not None and self.version == _version(carrier) >= 0 and gate.has_memory(carrier):
            return carrier
        if self.carrier is None and not torch.compiler.is_compiling() and gate.surroundings():
            return _counted(self)  # where no function of our own may be applied
        return _Dense.apply(self.carrier, self)

    def last(self) -> Tensor:
        """The last step, ``(batch, neurons)`` of float32, with gradient."""
        last: Tensor = _Last.apply(self.carrier, self)
        return last if self.scale == 1.0 else last * self.scale

    def detach(self) -> Spikes:
        """The same without gradient."""
        return Spikes(self.shape, self.index, self.base, self.since, scale=self.scale)

    def carried_by(self, carrier: Tensor | None) -> Spikes:
        """The same events for another carrier, each of which counts 1."""
        made = Spikes(self.shape, self.index, self.base, self.since, self.pairs)
        made.carrier, made.beyond, made.mask = carrier, self.beyond, self.mask
        return made

    @property
    def requires_grad(self) -> bool:
        """Whether somebody asks for its gradient."""
        return self.carrier is not None and self.carrier.requires_grad

    def __getstate__(self) -> dict[str, Any]:
        """Places of 16 bits with a sign: Python's pickle knows no tensor without."""
        pairs = None if self.pairs is None else self.pairs._replace(neurons=seen_as(self.pairs.neurons, torch.int16))
        return self.__dict__ | {"index": seen_as(self.index, torch.int16), "pairs": pairs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.index = seen_as(self.index, torch.uint16)
        self.pairs = None if self.pairs is None else self.pairs._replace(neurons=seen_as(self.pairs.neurons, torch.uint16))

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


def listed(dense: Tensor) -> Spikes | None:
    """The events of a sequence ``(time, batch, neurons)``, with itself as their carrier; None if it has anything but 0 and 1."""
    found = _lists().listed(dense.detach().resolve_neg().contiguous(), torch.get_num_threads())
    if found is None:
        return None
    index, base, since = map(torch.from_numpy, found)
    return Spikes(dense.shape, index, base, since, carrier=dense)


def finite(g: Tensor) -> bool:
    """Whether a tensor has numbers to look at, and they are finite."""
    return type(g) is Tensor and gate.has_memory(g) and math.isfinite(float(g.detach().sum()))


def _version(x: Tensor | None) -> int:
    """How often a tensor was changed in place; -1 where nobody counts."""
    return -1 if x is None or x.is_inference() else x._version


def _kind(given: object) -> str:
    return f"a tensor of layout {given.layout}" if isinstance(given, Tensor) else type(given).__name__


def _of_tensor(dense: Tensor) -> Spikes:
    if dense.dtype is not torch.float32 or not dense.is_cpu:
        raise TypeError(f"events are made from a tensor of float32 on the CPU, got {dense.dtype} on {dense.device}")
    if (reason := gate.surroundings() or gate.obstacle(dense.resolve_neg())) is not None:
        raise TypeError(f"events cannot be made from this tensor here: {reason}")
    if dense.ndim != 3:
        raise ValueError(f"events are made from a tensor (time, batch, neurons), got shape {tuple(dense.shape)}")
    if (found := listed(dense)) is not None:
        return found
    x = dense.detach().transpose(0, 1)
    each = x.nonzero(as_tuple=True)
    sample, step, neuron = (places.repeat_interleave(_counts(x[each])).numpy() for places in each)
    return _sorted(sample, step, neuron, tuple(dense.shape), dense)


def _of_matrices(matrices: Sequence[Tensor]) -> Spikes:
    shapes = {tuple(x.shape) for x in matrices}
    if len(shapes) > 1 or matrices[0].ndim != 2:
        told = ", ".join(map(str, sorted(shapes)))
        raise ValueError(f"events are made from matrices (time, neurons) of one shape, one for each sample, got shapes {told}")
    if any(x.requires_grad for x in matrices):
        raise ValueError("no gradient goes to a sparse matrix; detach it, or give its dense form")
    steps, features = matrices[0].shape
    counts = [_counts(x.values()) for x in matrices]
    row = [torch.arange(steps, device="cpu").repeat_interleave(x.crow_indices().cpu().diff()) for x in matrices]
    sample = np.repeat(np.arange(len(matrices)), [int(each.sum()) for each in counts])
    step = torch.cat([x.repeat_interleave(n) for x, n in zip(row, counts, strict=True)])
    neuron = torch.cat([x.col_indices().cpu().repeat_interleave(n) for x, n in zip(matrices, counts, strict=True)])
    return _sorted(sample, step.numpy(), neuron.numpy(), (steps, len(matrices), features))


def _counts(values: Tensor) -> Tensor:
    """How often each is to be listed."""
    found = values.detach().cpu().double()
    if not bool(((found >= 0) & (found < 2**31) & (found == found.round())).all()):
        raise ValueError("events are made from whole numbers from 0, got other values")
    return found.long()


def _sorted(
    sample: NDArray[np.integer],
    step: NDArray[np.integer],
    neuron: NDArray[np.integer],
    shape: tuple[int, ...],
    carrier: Tensor | None = None,
) -> Spikes:
    """The lists of events that come in the order of samples and of steps."""
    steps, batch, features = shape
    for name, place, size in (("step", step, steps), ("neuron", neuron, features)):
        if len(place) and not 0 <= int(place.min()) <= int(place.max()) < size:
            raise ValueError(f"an event is at {name} {place.min() if place.min() < 0 else place.max()}, but there are {size}, from 0 on")
    counts = np.bincount(sample * steps + step, minlength=batch * steps).reshape(batch, steps)
    since, base = np.zeros((batch, steps + 1), np.int32), np.zeros(batch + 1, np.int64)
    np.cumsum(counts, axis=1, out=since[:, 1:])
    np.cumsum(counts.sum(1), out=base[1:])
    index = neuron.astype(np.uint16 if features <= 2**16 else np.int32)
    return Spikes(torch.Size(shape), torch.from_numpy(index), torch.from_numpy(base), torch.from_numpy(since), carrier=carrier)


class _Context(Context, Protocol):
    pairs: Pairs | None
    beyond: list[Tensor]
    mask: Mask | None
    shape: torch.Size


class _Dense(Function):
    @staticmethod
    def forward(ctx: _Context, carrier: Tensor | None, spikes: Spikes) -> Tensor:
        ctx.pairs, ctx.beyond, ctx.mask = spikes.pairs, spikes.beyond, spikes.mask
        return _counted(spikes)

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor) -> Gradients:
        return brought(ctx, arriving[0]), None


class _Last(Function):
    @staticmethod
    def forward(ctx: _Context, carrier: Tensor | None, spikes: Spikes) -> Tensor:
        ctx.pairs, ctx.beyond, ctx.mask, ctx.shape = spikes.pairs, spikes.beyond, spikes.mask, spikes.shape
        (steps, batch, features), since = spikes.shape, spikes.since[:, -2:]
        if not steps:
            return torch.zeros(batch, features, dtype=torch.float32, device="cpu")
        last = Spikes(torch.Size((1, batch, features)), spikes.index, spikes.base, since.contiguous())
        return _counted(last)[0]

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor) -> Gradients:
        whole = torch.cat([arriving[0].new_zeros((ctx.shape[0] - 1, *ctx.shape[1:])), arriving[0][None]])
        return brought(ctx, whole), None


def _counted(spikes: Spikes) -> Tensor:
    """The dense form, without gradient."""
    if gate.surroundings() is None:
        dense = torch.zeros(spikes.shape, dtype=torch.float32, device="cpu")
        address = dense.data_ptr()
    else:  # tensors are made with what transforms them around them, and have no address
        array = np.zeros(spikes.shape, np.float32)
        dense, address = torch.from_numpy(array), array.ctypes.data
    given = spikes.index.data_ptr(), spikes.base.data_ptr(), spikes.since.data_ptr()
    _lists().count(spikes.shape, address, *given, torch.get_num_threads())
    return dense


def brought(ctx: Spikes | _Context, g: Tensor) -> Tensor:
    """The gradient of a carrier from that of the dense form."""
    if ctx.pairs is None:
        return g
    if not finite(g):
        ctx.beyond.append(g if ctx.mask is None else g * ctx.mask.whole(g.shape))
        return g.new_zeros(len(ctx.pairs.neurons))
    return picked(g, ctx.pairs)


def picked(x: Tensor, pairs: Pairs) -> Tensor:
    """A sequence's values at pairs."""
    if torch.is_grad_enabled() or x.dtype is not torch.float32 or gate.obstacle(x) is not None:
        return x.reshape(-1)[places(pairs.neurons.numpy(), pairs.base, pairs.since, x.shape)]
    x, since = x.contiguous(), pairs.since
    values = torch.empty(len(pairs.neurons), dtype=x.dtype, device="cpu")
    _lists().read_there(x, values, pairs.neurons.data_ptr(), pairs.base.data_ptr(), since.data_ptr(), torch.get_num_threads())
    return values
