"""Convolution of events, as an autograd function on the CPU: channels last, the gradient of the input a dense product."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels.choice import GROUPS
from spikegrad.kernels.cpu import patches
from spikegrad.kernels.spikes import Spikes, finite


class Geometry(NamedTuple):
    """Of an image ``(height, width)``, and of how a kernel moves over it."""

    size: tuple[int, int]
    stride: int
    padding: tuple[int, int]

    def out(self, kernel: torch.Size) -> tuple[int, int]:
        """Height and width of what comes out."""
        (h, w), (y, x) = self.size, self.padding
        return (h + 2 * y - kernel[-2]) // self.stride + 1, (w + 2 * x - kernel[-1]) // self.stride + 1


class _Context(Context, Protocol):
    given: Spikes
    geometry: Geometry


class _Convolved(Function):
    @staticmethod
    def forward(ctx: _Context, given: Spikes, geometry: Geometry, carrier: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.given, ctx.geometry = given, geometry
        ctx.save_for_backward(carrier, weight)
        taps = _by_channel(weight.detach(), geometry.stride)
        out = torch.empty(*given.shape[:2], *geometry.out(weight.shape), len(weight), dtype=torch.float32, device="cpu")
        own = None if bias is None else bias.detach().contiguous()
        _run("currents", given, geometry, weight.shape, taps, out, given.shape[1], own)
        return out

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor) -> Gradients:
        (carrier, weight), (g,), given, again = ctx.saved_tensors, arriving, ctx.given, torch.is_grad_enabled()
        wants_input, wants_weight, wants_bias = ctx.needs_input_grad[2:]
        of_bias = g.sum((0, 1, 2, 3)) if wants_bias else None
        of_weight: Tensor | None = None
        if wants_weight and not again and finite(g):
            groups = min(GROUPS, given.shape[1])
            taps = _by_channel(weight, ctx.geometry.stride)
            shares = torch.empty(groups, *taps.shape, dtype=torch.float32, device="cpu")
            _run("weights", given, ctx.geometry, weight.shape, shares, g.to(torch.float32).contiguous(), groups)
            of_weight, wants_weight = _by_receiver(shares.sum(0), weight.shape, ctx.geometry.stride), False
        if not (wants_input or wants_weight):
            return None, None, None, of_weight, of_bias
        with torch.enable_grad():
            weight, carrier = weight.view_as(weight), carrier.view_as(carrier) if wants_input else None
            below = Spikes(given.shape, given.index, given.base, given.since, given.pairs, carrier)
            below.beyond, below.mask = given.beyond, given.mask
            out = dense(below.dense(), ctx.geometry, weight)
            wanted = [*([] if carrier is None else [carrier]), *([weight] if wants_weight else [])]
            found = iter(torch.autograd.grad(out, wanted, g, create_graph=again))
        of_input = next(found) if wants_input else None
        return None, None, of_input, next(found) if wants_weight else of_weight, of_bias


def dense(spikes: Tensor, geometry: Geometry, weight: Tensor) -> Tensor:
    """The same for a sequence ``(time, batch, neurons)``, by PyTorch: ``(time, batch, height, width, channels)``."""
    images = spikes.reshape(-1, weight.shape[1], *geometry.size)
    out = functional.conv2d(images, weight, None, geometry.stride, geometry.padding)
    return out.unflatten(0, spikes.shape[:2]).permute(0, 1, 3, 4, 2)


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


def convolved(given: Spikes, geometry: Geometry, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What events bring about, ``(time, batch, height, width, channels)``.

    Args:
        given: events of images, ``(time, batch, channels * height * width)``.
        geometry: of the images.
        weight: ``(out channels, channels, rows, columns)``, finite.
        bias: ``(out channels,)``.
    """
    found: Tensor = _Convolved.apply(given, geometry, given.carrier, weight if given.scale == 1.0 else weight * given.scale, bias)
    return found
