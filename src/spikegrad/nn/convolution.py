"""A convolution and neurons in one layer, whose products follow the events of the images."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.kernels import arguments, choice
from spikegrad.kernels.choice import Chosen
from spikegrad.kernels.lock import LOCK
from spikegrad.kernels.spikes import Spikes
from spikegrad.nn import events
from spikegrad.nn.backend import rewritten
from spikegrad.nn.layer import Layer, Stateful
from spikegrad.nn.recompute import watched
from spikegrad.nn.record import Record, known, returned


class SpikingConv2d(Stateful):
    """A convolution from spikes of images to neurons: ``neuron(conv(spikes))``.

    On the CPU the convolution can run by *events*: each adds the weights around it to the currents, and the gradient of the weights is
    computed where the input spiked. What is computed is what the dense form computes, to rounding. Neurons, and the gradient of the input
    if one is asked for, are dense.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the neurons.
        kernel_size: rows and columns of the kernel, or one number for both.
        neuron: the neurons, such as ``nn.Leaky(0.9)``.
        stride: steps of the kernel, in both directions.
        padding: zeros around the image, in each direction, or one number for both.
        bias: whether the neurons of each channel have a constant input.
        size: height and width of the images, for `Spikes`, which do not say it.
        backend: ``"event"``, ``"dense"``, or ``"auto"`` for the faster one.

    Raises:
        TypeError: `neuron` is no layer of neurons.
        ValueError: an argument outside of its range.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> layer = nn.SpikingConv2d(2, 16, 5, nn.Leaky(0.9))
        >>> spikes, state = layer(torch.bernoulli(torch.full((10, 4, 2, 34, 34), 0.01)))
        >>> spikes.shape, state.shape
        (torch.Size([10, 4, 16, 30, 30]), torch.Size([4, 16, 30, 30]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        neuron: Layer,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        size: tuple[int, int] | None = None,
        backend: events.Way = "auto",
    ) -> None:
        super().__init__()
        events.check(backend)
        events.expect(neuron)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.neuron, self.size, self.backend = neuron, size, backend

    def forward(
        self, currents: Tensor | Spikes, state: Tensor | tuple[Tensor, ...] | list[Tensor] | None = None, *, record: Record = False
    ) -> tuple[Any, ...]:
        """Run the layer over a sequence of spikes.

        Args:
            currents: the input, ``(time, batch, in_channels, height, width)``; or `Spikes` of ``(time, batch, in_channels * height *
                width)``, if the layer knows the `size`.
            state: that of the neurons, or None for rest.
            record: also return other values of the neurons' step, as `Layer.forward` does.

        Returns:
            ``(output, state)`` of the neurons, ``(time, batch, out_channels, …, …)`` and without time, or ``(output, state, recorded)``.

        Raises:
            ValueError: the input has another shape; or ``backend="event"`` cannot run the layer, and why.
        """
        own, asked = self.neuron, dict[str, Any]()
        if record is not False:  # neurons of one's own may not know it
            asked["record"] = known(own, record)
        size, (given, ways) = self._size(currents), self._chosen(currents)
        if given is None or not ways.by_events:
            listed = isinstance(currents, Spikes)
            dense = currents.dense().to(self.conv.weight.dtype).unflatten(2, (self.conv.in_channels, *size)) if listed else currents
            return _as_asked(record, *own(self.conv(dense.flatten(0, 1)).unflatten(0, dense.shape[:2]), state, **asked))
        kernels, padding = _kernels(), self.conv.padding
        images = currents if isinstance(currents, Tensor) else None
        geometry = kernels.Geometry(size, self.conv.stride[0], padding)
        made: Tensor = kernels.convolved(given, geometry, self.conv.weight, self.conv.bias, images)
        if own.weight is not None or own.inhibition or any(getattr(own, n).ndim for n in own._tensors) or watched(own):  # pyright: ignore
            return _as_asked(record, *own(made.permute(0, 1, 4, 2, 3), state, **asked))
        last = None
        if state is not None:
            parts = arguments.state(own._state_names, state, made.permute(0, 1, 4, 2, 3))  # pyright: ignore[reportPrivateUsage]
            last = own.state_of([x.permute(0, 2, 3, 1) for x in parts])
        out, after, *recorded = own(made, last, **asked)  # channels stay last: neurons do not see each other
        outs = tuple(x.permute(0, 1, 4, 2, 3) for x in (out if isinstance(out, tuple) else (out,)))
        ends = own.state_of([x.permute(0, 3, 1, 2) for x in (after if isinstance(after, tuple) else (after,))])
        found = [{name: x.permute(0, 1, 4, 2, 3) for name, x in each.items()} for each in recorded]
        return _as_asked(record, outs if isinstance(out, tuple) else outs[0], ends, *found)

    def chosen(self, currents: Tensor | Spikes) -> Chosen:
        """The way of each of the layer's products for such input, by events or dense, and why: as `SpikingLinear.chosen`."""
        self._size(currents)
        return self._chosen(currents)[1]

    def _chosen(self, currents: Tensor | Spikes) -> tuple[Spikes | None, Chosen]:
        reason = self._obstacle(currents)
        given = currents if isinstance(currents, Spikes) else None
        if reason is None and given is None and isinstance(currents, Tensor):
            given = _kernels().listed(currents)
            reason = "its input has other values than 0 and 1" if given is None else None
        if reason is not None and self.backend == "event":
            raise ValueError(f"backend='event' cannot run this layer: {reason}; use backend='auto' or 'dense'")
        if reason is not None or given is None:
            return None, Chosen.densely(reason or "")
        if not given.shape.numel():
            return given, Chosen.densely("its input is empty")
        if self.backend == "event":
            return given, Chosen("event", "event", "dense", "backend='event' was asked for")
        if choice.small(given.shape, self.conv.weight[:, 0].numel()):
            return given, Chosen.densely("it is so small that calls cost more than products")
        most = choice.crossing_of_images(self.conv.weight[0].numel(), len(self.conv.weight))
        why = f"{given.density:.1%} of its inputs spike, events cost less below {most:.0%}"
        return given, Chosen("event", "event", "dense", why) if given.density < most else Chosen.densely(why)

    def _obstacle(self, currents: Tensor | Spikes) -> str | None:
        """Why the convolution cannot run by events, or is not to."""
        if self.backend == "dense":
            return "backend='dense' was asked for"
        tensors = [*([currents] if isinstance(currents, Tensor) else []), *self.conv.parameters()]
        if (reason := events.unreadable(tensors)) is not None:
            return reason
        conv = self.conv
        if type(conv) is not nn.Conv2d or rewritten(conv, nn.Conv2d) is not None:
            return "its convolution has hooks, a `forward` that somebody set, or is of a class of its own"
        if conv.stride[0] != conv.stride[1] or conv.dilation != (1, 1) or conv.groups != 1 or conv.padding_mode != "zeros":
            return "its convolution has two strides, groups, a dilation, or other padding than zeros"
        if isinstance(conv.padding, str):
            return f"its convolution has the padding {conv.padding!r}, not a number"
        finite = bool(torch.isfinite(self.conv.weight.detach().sum()))
        return None if finite else "its weights are not finite: infinity times 0 is NaN, so that no event could be left out"

    def _size(self, currents: Tensor | Spikes) -> tuple[int, int]:
        """Height and width of the images."""
        shape, channels = currents.shape, self.conv.in_channels
        if isinstance(currents, Tensor):
            if len(shape) != 5 or shape[2] != channels:
                raise ValueError(f"input must be (time, batch, {channels}, height, width), got shape {tuple(shape)}")
            return shape[3], shape[4]
        wanted = None if self.size is None else channels * self.size[0] * self.size[1]
        if self.size is None or shape[-1] != wanted:
            told = "(give the layer `size=(height, width)`)" if wanted is None else f"(time, batch, {wanted})"
            raise ValueError(f"Spikes of images of {channels} channels must be {told}, got shape {tuple(shape)}")
        return self.size

    def extra_repr(self) -> str:
        """What differs from the defaults."""
        return "" if self.backend == "auto" else f"backend={self.backend!r}"


def _kernels() -> ModuleType:
    """The passes over events of images, which are imported when a layer first wants them."""
    with LOCK:
        return importlib.import_module("spikegrad.kernels.convolution")


def _as_asked(record: Record, out: Any, state: Any, recorded: dict[str, Tensor] | None = None) -> tuple[Any, ...]:
    """What the layer returns."""
    return (out, state) if recorded is None else (out, state, *returned(record, tuple(recorded), recorded.values()))
