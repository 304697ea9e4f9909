"""Convolution of events, as an autograd function on the CPU: channels last, the gradient of the input a dense product."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels import gate, spikes
from spikegrad.kernels.choice import GROUPS
from spikegrad.kernels.cpu import patches
from spikegrad.kernels.spikes import Spikes, finite


class Geometry(NamedTuple):
    """Of an image ``(height, width)``, and of how a kernel moves over it."""

    size: tuple[int, int]
    stride: int
    padding: tuple[int, int]

    def out(self, kernel: torch.Size) -> tuple[int, int]:
        """Height and width of what comes out.

        Raises:
            ValueError: kernels are larger than the padded images.
        """
        (h, w), (y, x) = self.size, self.padding
        if kernel[-2] > h + 2 * y or kernel[-1] > w + 2 * x:
            raise ValueError(f"kernels of {tuple(kernel[-2:])} are larger than images of {self.size} with padding {self.padding}")
        return (h + 2 * y - kernel[-2]) // self.stride + 1, (w + 2 * x - kernel[-1]) // self.stride + 1


class _Context(Context, Protocol):
    given: Spikes
    geometry: Geometry
    from_images: bool


class _Convolved(Function):
    @staticmethod
    def forward(ctx: _Context, given: Spikes, geometry: Geometry, carrier: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.given, ctx.geometry, ctx.from_images = given.carried_by(None), geometry, carrier is not None and carrier.ndim == 5
        ctx.save_for_backward(carrier, weight)
        taps = _by_channel(weight.detach(), geometry.stride)
        out = torch.empty(*given.shape[:2], *geometry.out(weight.shape), len(weight), dtype=torch.float32, device="cpu")
        own = None if bias is None else bias.detach().contiguous()
        _run("currents", given, geometry, weight.shape, taps, out, given.shape[1], own)
        return out

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor) -> Gradients:
        (carrier, weight), (g,), given = ctx.saved_tensors, arriving, ctx.given
        weight, again = weight.to(torch.float32), torch.is_grad_enabled()  # hooks may have saved it in another dtype
        loop = again or not gate.has_memory(g)
        wants_input, wants_weight, wants_bias = ctx.needs_input_grad[2:]
        of_bias = g.sum((0, 1, 2, 3)) if wants_bias else None
        of_weight: Tensor | None = None
        if wants_weight and not loop and finite(g):
            groups = min(GROUPS, given.shape[1])
            taps = _by_channel(weight, ctx.geometry.stride)
            shares = torch.empty(groups, *taps.shape, dtype=torch.float32, device="cpu")
            _run("weights", given, ctx.geometry, weight.shape, shares, g.to(torch.float32).contiguous(), groups)
            of_weight, wants_weight = _by_receiver(shares.sum(0), weight.shape, ctx.geometry.stride), False
        of_input: Tensor | None = None
        if wants_input and not loop:
            of_images = _of_images(g, ctx.geometry, weight)
            of_input = of_images if ctx.from_images else spikes.brought(given, of_images.reshape(given.shape))
            wants_input = False
        if not (wants_input or wants_weight):
            return None, None, of_input, of_weight, of_bias
        with torch.enable_grad():
            weight, carrier = weight.view_as(weight), carrier.view_as(carrier) if wants_input else carrier
            out = dense(carrier if ctx.from_images else given.carried_by(carrier).dense(), ctx.geometry, weight)
            wanted = [*([carrier] if wants_input else []), *([weight] if wants_weight else [])]
            found = iter(torch.autograd.grad(out, wanted, g, create_graph=again))
        of_input = next(found) if wants_input else of_input
        return None, None, of_input, next(found) if wants_weight else of_weight, of_bias


def _of_images(g: Tensor, geometry: Geometry, weight: Tensor) -> Tensor:
    """The gradient of the images ``(time, batch, channels, height, width)``, with channels last in memory.

    It does not depend on the images, of which none are made. With their channels first PyTorch takes twice as long or more.
    """
    arriving = g.permute(0, 1, 4, 2, 3).flatten(0, 1)
    shape = len(arriving), weight.shape[1], *geometry.size
    like = torch.empty(shape, dtype=g.dtype, device="cpu", memory_format=torch.channels_last)
    how = [geometry.stride] * 2, [*geometry.padding], [1, 1], False, [0, 0], 1
    found: Tensor = torch.ops.aten.convolution_backward(arriving, like, weight, None, *how, [True, False, False])[0]
    return found.unflatten(0, g.shape[:2])


def dense(x: Tensor, geometry: Geometry, weight: Tensor) -> Tensor:
    """The same for a sequence, of neurons or of images, by PyTorch: ``(time, batch, height, width, channels)``."""
    images = x.reshape(-1, weight.shape[1], *geometry.size)
    out = functional.conv2d(images, weight, None, geometry.stride, geometry.padding)
    return out.unflatten(0, x.shape[:2]).permute(0, 1, 3, 4, 2)


def _by_channel(weight: Tensor, stride: int) -> Tensor:
    """Weights as kernels read them: ``(channel, row, column % stride, columns reversed, out channel)``."""
    out, channels, rows, columns = weight.shape
    reach = -(-columns // stride)
    padded = functional.pad(weight, (0, reach * stride - columns)).view(out, channels, rows, reach, stride)
    return padded.flip(3).permute(1, 2, 4, 3, 0).contiguous()


def _by_receiver(taps: Tensor, shape: torch.Size, stride: int) -> Tensor:
    """The reverse."""
    out, channels, rows, columns = shape
    return taps.permute(4, 0, 1, 3, 2).flip(3).reshape(out, channels, rows, -1)[..., :columns].contiguous()


def _run(
    name: str, given: Spikes, geometry: Geometry, kernel: torch.Size, taps: Tensor, out: Tensor, groups: int, bias: Tensor | None = None
) -> None:
    (height, width), (pad_y, pad_x), (out_height, out_width) = geometry.size, geometry.padding, geometry.out(kernel)
    steps, samples, _ = given.shape
    together = -(-samples // groups)
    words = {
        "index": given.index.data_ptr(), "base": given.base.data_ptr(), "since": given.since.data_ptr(), "weights": taps.data_ptr(),
        "out": out.data_ptr(), "height": height, "width": width, "rows": kernel[2], "stride": geometry.stride, "pad_y": pad_y,
        "pad_x": pad_x, "reach": taps.shape[-2], "channels": kernel[0], "out_height": out_height, "out_width": out_width,
        "samples": samples, "together": together, "share": 0 if name == "currents" else taps[0].numel(),
        "bias": 0 if bias is None else bias.data_ptr(),
    }  # fmt: skip
    patches.run(name, given.index.dtype is torch.uint16, steps, groups, words)


def convolved(given: Spikes, geometry: Geometry, weight: Tensor, bias: Tensor | None, images: Tensor | None = None) -> Tensor:
    """What events bring about, ``(time, batch, height, width, channels)``.

    Args:
        given: events of images, ``(time, batch, channels * height * width)``.
        geometry: of the images.
        weight: ``(out channels, channels, rows, columns)``, finite.
        bias: ``(out channels,)``.
        images: what the events were listed from, ``(time, batch, channels, height, width)``, to which a gradient goes.
    """
    carrier = given.carrier if images is None else images
    carrier = carrier if carrier is not None and carrier.requires_grad else None
    found: Tensor = _Convolved.apply(given, geometry, carrier, weight if given.scale == 1.0 else weight * given.scale, bias)
    return found


def listed(images: Tensor) -> Spikes | None:
    """The events of images ``(time, batch, channels, height, width)``, without gradient; None if they have anything but 0 and 1.

    Where channels lie last in memory they are listed like that and put in order: to copy the images takes longer.
    """
    images = images.detach()
    last = images.permute(0, 1, 3, 4, 2)
    moved = not images.is_contiguous() and last.is_contiguous()
    found = spikes.listed((last if moved else images).flatten(2))
    if found is None or not moved:
        return None if found is None else found.detach()
    size = found.shape[2]
    place = np.arange(size).reshape(images.shape[2:]).transpose(1, 2, 0).reshape(-1)
    row = size * np.repeat(np.arange(found.since.numel() - len(found.since)), np.diff(found.since.numpy()).reshape(-1))
    there = np.sort(row + place[found.index.numpy()]) - row
    return Spikes(found.shape, torch.from_numpy(there.astype(found.index.numpy().dtype)), found.base, found.since)
