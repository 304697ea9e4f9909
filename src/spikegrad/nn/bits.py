"""Sequences of two values, 0 and another, as bits: what recomputing keeps of spikes."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from spikegrad.gradient.function import Function, Gradients
from spikegrad.kernels.cpu import results
from spikegrad.kernels.gate import has_memory, surroundings
from spikegrad.nn.recompute import Packed

_ROWS = 2**18
"""Numbers that are looked at together: so many stay in the processor's cache from one look to the next."""
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def packed(x: Tensor, *, spikes: bool) -> Packed | None:
    """A sequence ``(time, batch, *features)``, or ``(time, features)``, kept as bits; None if it has more values than 0 and one other.

    On the CPU the numbers are looked at. Elsewhere that would wait for the device, so that it is done if they are `spikes` by what made
    them, which NaN alone makes others; then all that is computed from the bits is NaN, too.
    """
    x = x.detach()
    order = sorted(range(2, x.ndim), key=lambda dim: -x.stride(dim)) if x.ndim > 3 else []  # such as channels last: as they lie in memory
    lying = x.permute(0, 1, *order) if order else x
    rows = lying.flatten(2) if order else lying
    kept, high = _looked_at(rows) if _by_numpy(x) else (pack(rows), x.amax()) if spikes and x.numel() else (None, 0)
    if kept is None:
        return None
    back = (0, 1, *(2 + order.index(dim) for dim in range(2, x.ndim))) if order else ()
    features = lying.shape[2:] if order else torch.Size()
    return Packed(x, kept, functools.partial(_unpacked, high=high, features=features, back=back, dtype=x.dtype, width=rows.shape[-1]))


def _looked_at(rows: Tensor) -> tuple[Tensor | None, int]:
    """Bits of rows ``(…, features)`` on the CPU, and what is in the place of ones, as an integer of the same bits; None if it cannot be."""
    if not rows.numel() or rows.dtype.itemsize not in _INTEGERS or rows.is_complex() or not has_memory(rows):
        return None, 0
    numbers: Any = rows.resolve_neg().view(_INTEGERS[rows.dtype.itemsize]).reshape(-1, rows.shape[-1]).numpy()
    made = np.empty((len(numbers), -(-rows.shape[-1] // 8)), np.uint8)
    high, together = 0, max(1, _ROWS // rows.shape[-1])
    for start in range(0, len(numbers), together):
        part = numbers[start : start + together]
        most = int(part.max())
        high = high or most
        fired = part != 0
        if most not in (0, high) or np.count_nonzero(fired) != (np.count_nonzero(part == high) if high else 0):
            return None, 0
        made[start : start + together] = np.packbits(fired, axis=-1)
    return torch.from_numpy(made).view(*rows.shape[:-1], -1), high


def _unpacked(
    kept: Tensor, start: int, length: int, *, high: Any, features: torch.Size, back: tuple[int, ...], dtype: torch.dtype, width: int
) -> Tensor:
    """The sequence again, or some samples of it, laid out as it was."""
    some = kept[:, start : start + length] if length else kept
    ones = unpack(some, width)
    if _by_numpy(some):
        x = results.empty(torch.Size((*ones.shape[:-1], *features)) if features else ones.shape, dtype)
        integers: Any = x.view(_INTEGERS[dtype.itemsize]).view(ones.shape).numpy()
        np.multiply(ones.numpy(), integers.dtype.type(high), out=integers)
        return x.permute(back) if features else x
    x = ones.to(_INTEGERS[dtype.itemsize]).mul_(high).view(dtype) if isinstance(high, int) else ones.to(dtype).mul_(high)
    return x.unflatten(-1, features).permute(back) if features else x


def _by_numpy(x: Tensor) -> bool:
    """Whether NumPy, which is several times as fast, may read a tensor: where nobody looks on who would not see what it does."""
    return x.is_cpu and surroundings() is None


def pack(x: Tensor) -> Tensor:
    """Where numbers are not 0, as bits along the last dimension, the first of eight highest; bits that fill up are 0."""
    x = x.detach() != 0
    if _by_numpy(x):
        return torch.from_numpy(np.packbits(x.numpy(), axis=-1))
    x = torch.nn.functional.pad(x, (0, -x.shape[-1] % 8))
    made = x[..., ::8].to(torch.uint8)
    for place in range(1, 8):
        made = made.mul_(2).add_(x[..., place::8])
    return made


def unpack(bits: Tensor, count: int) -> Tensor:
    """So many of them as 0 and 1, of bytes."""
    if _by_numpy(bits):
        return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, count=count))
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(-1) >> places).bitwise_and_(1).flatten(-2)[..., :count]


class _Outlined(Protocol):
    features: int
    saved_tensors: tuple[Tensor | None]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class _Outline(Function):
    @staticmethod
    def forward(ctx: _Outlined, x: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.features = x.shape[-1]
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: _Outlined, *arriving: Tensor) -> Gradients:
        (mask,) = ctx.saved_tensors
        return arriving[0] if mask is None else arriving[0] * unpack(mask, ctx.features).to(arriving[0]), None


def outline(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """What stands for a tensor that is kept as bits: one of its shape without memory, through which gradients reach it.

    Args:
        x: the tensor.
        mask: bits along its last dimension, by which gradients are multiplied.
    """
    return _Outline.apply(x, mask) if x.requires_grad else x.new_zeros(()).expand(x.shape)
