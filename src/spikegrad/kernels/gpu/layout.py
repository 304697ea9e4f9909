"""How the tensors of a layer lie in memory, and the launch of a kernel that takes them so: worked out once, then repeated.

Of a step's columns the kernels only want that they lie one after the other in memory, in whatever order: what is made gets the order that
the first input has, channels last for example, and nothing is copied but what lies otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from spikegrad.kernels.gpu.source import Argument, How
from spikegrad.remembering import remember

Order = tuple[int, ...]
"""The dimensions of a step, the one whose neighbours lie furthest apart in memory first."""

ALIGNED = 16
"""Bytes at whose multiples memory begins, unless somebody begins within it."""


def lie(tensors: Iterable[Tensor | None]) -> Hashable:
    """All that a launch depends on in the tensors that it is given, but where they begin."""
    return tuple([None if x is None else (x.shape, x.stride(), x.dtype) for x in tensors])


def order_of(x: Tensor) -> Order:
    """The order in which the columns of a step lie in memory; that of the dimensions where they do not lie densely."""
    return _ordered(tuple(x.shape[1:]), x.stride()[1:])


@functools.lru_cache(maxsize=1024)
def _ordered(shape: tuple[int, ...], strides: tuple[int, ...]) -> Order:
    usual = tuple(range(len(shape)))
    order = tuple(sorted(usual, key=lambda d: (-strides[d], d)))
    return order if _dense(shape, strides, order) else usual


def _dense(shape: Sequence[int], strides: Sequence[int], order: Order) -> bool:
    """Whether in this order each neighbour lies in the next place."""
    expected = 1
    for d in reversed(order):
        if shape[d] != 1 and strides[d] != expected:
            return False
        expected *= shape[d]
    return True


def _strides(shape: Sequence[int], order: Order) -> tuple[int, ...]:
    found, by = [0] * len(shape), 1
    for d in reversed(order):
        found[d] = by
        by *= shape[d]
    return tuple(found)


class Layout:
    """What a kernel is given, by label, and how; tensors by their places: first those that are given, then those that are made.

    Attributes:
        how: as `Variant.given` says it.
        places: of tensors.
        values: numbers, and tensors that are the same each time.
        distances: elements between the rows of sequences that do not follow each other.
        shares: of numbers that some columns share, how many, and how many such numbers there are.
        prepared: what is done with a tensor, by its place, before a kernel can read it.
        made: shapes, strides and dtypes of what is made.
    """

    def __init__(self, given: Sequence[Tensor | None], shape: torch.Size, real: torch.dtype, order: Order) -> None:
        self.given, self.shape, self.step, self.real, self.order = given, shape, shape[1:], real, order
        self.columns, self.inner = self.step.numel(), _strides(self.step, order)
        self.how: dict[str, How] = {}
        self.places: dict[str, int] = {}
        self.values: dict[str, Tensor | float] = {}
        self.distances: dict[str, int] = {}
        self.shares: dict[str, tuple[int, int]] = {}
        self.prepared: dict[int, Callable[[Tensor], Tensor]] = {}
        self.made: list[tuple[Sequence[int], Sequence[int], torch.dtype]] = []

    def nothing(self, label: str) -> None:
        """What is 0, or nobody wants."""
        self.how[label] = "none"

    def sequence(self, label: str, place: int, dtype: torch.dtype) -> None:
        """Something with rows, copied if these do not lie in memory as they should."""
        x = self._given(place)
        strides, step = x.stride(), self.step
        distance = strides[0] if len(x) > 1 else self.columns
        if not _dense(step, strides[1:], self.order) or (0 < strides[0] < self.columns and len(x) > 1):
            shape, dense, distance = x.shape, (self.columns, *self.inner), self.columns
            self.prepared[place] = lambda x: torch.empty_strided(shape, dense, dtype=dtype, device=x.device).copy_(x)
        elif x.dtype is not dtype:  # which hooks may have saved in another
            self.prepared[place] = lambda x: x.to(dtype)
        self._tensor(label, place, "rows" if distance == self.columns else "apart")
        if distance != self.columns:
            self.distances[label] = distance

    def arriving(self, label: str, place: int, dtype: torch.dtype) -> None:
        """The gradient of a sequence, None for zeros. One number for all of it is read as it is, as `sum` makes it."""
        x = self.given[place]
        if x is None:
            self.nothing(label)
        elif x.numel() > 1 and not any(x.stride()):
            self._tensor(label, place, "one")
        else:
            self.sequence(label, place, dtype)

    def state(self, label: str, place: int) -> None:
        """Something that broadcasts to the shape of a step, or None for zeros."""
        if self.given[place] is None:
            self.nothing(label)
            return
        x, step, inner, real = self._given(place), self.step, self.inner, self.real
        if x.shape != step or not _dense(step, x.stride(), self.order):
            self.prepared[place] = lambda x: torch.empty_strided(step, inner, dtype=real, device=x.device).copy_(x.expand(step))
        elif x.dtype is not real:
            self.prepared[place] = lambda x: x.to(real)
        self._tensor(label, place, "columns")

    def number(self, label: str, place: int) -> None:
        """One number in memory, or some that broadcast to a step."""
        x, real = self._given(place), self.real
        share = None if x.numel() == 1 else self._shared(x)
        if x.numel() != 1 and share is None:
            self.state(label, place)
            return
        if x.dtype is not real or not x.is_contiguous():
            self.prepared[place] = lambda x: x.to(real).contiguous()
        self._tensor(label, place, "one" if share is None else "each")
        if share is not None:
            self.shares[label] = share

    def numbers(self, names: Iterable[str], constants: Mapping[str, Tensor | float], places: Mapping[str, int]) -> None:
        """Those that are the same each time, and those that are given."""
        for name in names:
            if name in constants:
                self.constant(name, constants[name])
            else:
                self.number(name, places[name])

    def constant(self, label: str, value: Tensor | float) -> None:
        """A number that is the same each time: as a value, or in memory."""
        self.how[label], self.values[label] = "value" if isinstance(value, float) else "one", value

    def matrix(self, label: str, place: int) -> None:
        """Weights, row after row."""
        x, real = self._given(place), self.real
        if x.dtype is not real or not x.is_contiguous():
            self.prepared[place] = lambda x: x.to(real).contiguous()
        self._tensor(label, place, "columns")

    def memory(self, label: str, place: int) -> None:
        """What lies in a kernel's own order."""
        self._tensor(label, place, "columns")

    def rows(self, label: str, dtype: torch.dtype) -> None:
        """Room for a sequence."""
        self._room(label, "rows", self.shape, (self.columns, *self.inner), dtype)

    def column(self, label: str) -> None:
        """Room for what has the shape of a step."""
        self._room(label, "columns", self.step, self.inner, self.real)

    def parts(self, label: str, programs: int) -> None:
        """Room for a sum's part from each program."""
        self._room(label, "one", (programs,), (1,), self.real)

    def several(self, label: str, *shape: int) -> None:
        """Room for so many times all columns, in a kernel's own order."""
        strides = [self.columns]
        for n in reversed(shape[1:]):
            strides.insert(0, n * strides[0])
        self._room(label, "columns", (*shape, self.columns), (*strides, 1), self.real)

    def _given(self, place: int) -> Tensor:
        found = self.given[place]
        assert found is not None
        return found

    def _tensor(self, label: str, place: int, how: How) -> None:
        self.how[label], self.places[label] = how, place

    def _room(self, label: str, how: How, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> None:
        self._tensor(label, len(self.given) + len(self.made), how)
        self.made.append((tuple(shape), tuple(strides), dtype))

    def _shared(self, x: Tensor) -> tuple[int, int] | None:
        """Of numbers that differ in one dimension, how many columns in a row share one, and how many there are."""
        at = [d - x.ndim + len(self.step) for d in range(x.ndim) if x.shape[d] != 1]
        return (self.inner[at[0]], self.step[at[0]]) if len(at) == 1 else None


class Launch:
    """A kernel, and where its arguments come from: tensors that are given or made and what never changes, then `numbers` and `constants`.

    The last of the constants is the unit, in which distances are counted.
    """

    def __init__(
        self,
        layout: Layout,
        device: torch.device,
        function: Any,
        arguments: Iterable[Argument],
        numbers: Sequence[int],
        unit: int,
        programs: int,
        warps: int,
        constants: Sequence[int | str],
    ) -> None:
        self._device, self._function, self._programs, self._warps = device, function, programs, warps
        self._prepared, self._made, self._count = tuple(layout.prepared.items()), tuple(layout.made), len(layout.given)
        self._numbers, self._constants = tuple(numbers), (*constants, unit)
        self._arguments: list[Any] = []
        places: list[tuple[int, int]] = []
        for argument in arguments:
            label = argument.label
            if argument.what == "distance":
                self._arguments.append(layout.distances[label] // unit)
            elif argument.what in ("share", "count"):
                self._arguments.append(layout.shares[label][argument.what == "count"])
            elif label in layout.values:
                self._arguments.append(layout.values[label])
            else:
                places.append((len(self._arguments), layout.places[label]))
                self._arguments.append(None)
        self._places = tuple(places)
        self._compiled: Callable[..., object] | None = None

    def __call__(self, given: Sequence[Tensor | None], steps: Iterable[int] | None = None) -> list[Tensor]:
        """Launch the kernel on tensors that lie as it was made for; give what was made.

        With `steps` it is launched for each, whose number is the first of its `numbers`.
        """
        tensors = [*given]
        for place, prepare in self._prepared:
            x = tensors[place]
            assert x is not None
            tensors[place] = prepare(x)
        made = [torch.empty_strided(shape, strides, dtype=dtype, device=self._device) for shape, strides, dtype in self._made]
        if not self._programs:
            return made
        tensors += made
        arguments, aligned = self._arguments.copy(), True
        for argument, place in self._places:
            arguments[argument] = x = tensors[place]
            assert x is not None
            aligned = aligned and (place >= self._count or x.data_ptr() % ALIGNED == 0)
        with _guard(self._device):
            stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else None
            for step in ((),) if steps is None else ((t,) for t in steps):
                self._launch((*arguments, *step, *self._numbers), aligned, stream)
        return made

    def _launch(self, arguments: Sequence[Any], aligned: bool, stream: Any) -> None:
        if aligned and self._compiled is not None:  # without asking again what it was compiled for, and where it is to run
            self._compiled(*arguments, *self._constants, stream=stream)
            return
        # Where a spike is decided, forward and again backward, each operation is rounded by itself.
        kernel = self._function[(self._programs,)](*arguments, *self._constants, num_warps=self._warps, enable_fp_fusion=False)
        if aligned and kernel is not None:  # the interpreter has none
            self._compiled = kernel[(self._programs, 1, 1)]


class Launches:
    """The launches of a layer, each made when tensors first lie so."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Launch] = {}

    def run(
        self, kind: Hashable, given: Sequence[Tensor | None], make: Callable[[], Launch], steps: Iterable[int] | None = None
    ) -> list[Tensor]:
        """Launch what `make` makes for the `kind` of pass and tensors that lie like the `given`; as `Launch` is called."""
        key = kind, lie(given)
        found = self._found.get(key)
        if found is None:
            found = make()
            remember(self._found, key, found)
        return found(given, steps)


def _guard(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    there = device.type != "cuda" or torch.cuda.current_device() == device.index
    return nullcontext() if there else torch.cuda.device(device)
