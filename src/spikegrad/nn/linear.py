"""Weights and neurons in one layer, whose cost follows spikes, or which forgets everything but its input spikes, as bits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spikegrad.kernels.choice import Chosen, chosen
from spikegrad.kernels.gate import has_memory
from spikegrad.nn import events
from spikegrad.nn.backend import rewritten
from spikegrad.nn.bits import outline, pack, packed
from spikegrad.nn.layer import Layer, State, Stateful
from spikegrad.nn.neurons import Leaky
from spikegrad.nn.quantize import has_levels
from spikegrad.nn.recompute import Blocks, Memory, check, replayed, replayed_tree, visible, watched
from spikegrad.nn.record import Record, known, returned
from spikegrad.nn.spike import Spike
from spikegrad.surrogate import Surrogate

if TYPE_CHECKING:
    from spikegrad.kernels.spikes import Spikes

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

    Where a surrogate is 0 outside of a window (`Triangle`, `Boxcar`, `SparseFastSigmoid`), the layer can run by *events* on the CPU: a
    spike adds a row of weights, the gradient of the weights is computed where the input spiked, and that of the input where the surrogate
    of the layer below is not 0. Nothing is approximated: gradients are those of the dense form, to rounding. What is kept for the backward
    pass are the events, and a number for each neuron and step inside of the window, whatever `memory` says. In a chain of such layers
    events are handed on as `Spikes`; given those, the layer returns such. ``backend="auto"`` takes for each of the three products what
    costs less at the shares of senders that spiked and of pairs of neuron and step inside of the window (`chosen` says which, and why),
    if the neurons allow events and the layer is not small. A surrogate without a window is exact, too, and the gradient of such spikes a
    dense product; ``"auto"`` takes events for it with ``memory="save"``, since a number is kept for every neuron and step.

    Args:
        in_features: input spikes per step.
        out_features: neurons.
        neuron: the neurons, such as ``nn.Leaky(0.9)``, recurrent ones too.
        bias: whether the neurons have a constant input.
        dropout: share of the input spikes that is dropped in training; the rest is not scaled (it stays binary), the weights are.
        memory: ``"recompute"``, or ``"save"`` to keep what autograd keeps.
        backend: ``"event"``, ``"dense"``, or ``"auto"`` for the faster one of each product.
        cutoff: share of its peak below which the surrogate's derivative may count as 0, where the layer runs by events. At each neuron and
            step that leaves out at most `cutoff` times the peak times the gradient that arrives at its spike. So the gradient of the
            currents, of neurons with a detached reset, is off by at most what a surrogate of this constant height would make of the
            absolute values of those gradients. 0 is exact.

    Raises:
        TypeError: `neuron` is no layer of neurons.
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
        backend: events.Way = "auto",
        cutoff: float = 0.0,
    ) -> None:
        super().__init__()
        check(memory)
        events.check(backend)
        events.expect(neuron)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout}")
        if not 0 <= cutoff < 1:
            raise ValueError(f"`cutoff` is a share of the surrogate's peak, at least 0 (exact) and below 1, got {cutoff}")
        if cutoff and backend == "dense":
            raise ValueError(f"`cutoff` leaves products by events out, of which backend='dense' has none; got {cutoff}")
        linear = nn.Linear(in_features, out_features, bias=bias)
        self.weight, self.bias = linear.weight, linear.bias
        self.neuron, self.dropout, self.memory, self.backend, self.cutoff = neuron, dropout, memory, backend, cutoff

    @classmethod
    def of(cls, linear: nn.Linear, neuron: Layer) -> SpikingLinear:
        """The layer that has the weights of a linear one, and these neurons; it keeps what autograd keeps."""
        layer = cls.__new__(cls)
        Stateful.__init__(layer)
        layer.weight, layer.bias, layer.neuron = linear.weight, linear.bias, neuron
        layer.dropout, layer.memory, layer.backend, layer.cutoff = 0.0, "save", "auto", 0.0
        return layer

    def forward(
        self, currents: Tensor | Spikes, state: Tensor | tuple[Tensor, ...] | list[Tensor] | None = None, *, record: Record = False
    ) -> tuple[Any, ...]:
        """Run the layer over a sequence of spikes.

        Args:
            currents: the input spikes, ``(time, batch, in_features)`` or ``(time, in_features)``: 0 or 1, of floating point; or `Spikes`.
            state: that of the neurons, or None for rest.
            record: also return other values of the neurons' step, as `Layer.forward` does: dense tensors, by events too, through which
                gradients flow.

        Returns:
            ``(output, state)`` of the neurons or ``(output, state, recorded)``, the output ``(time, batch, out_features)``; `Spikes` if
            those were given and the neurons spike, in float32 and outside of transforms.

        Raises:
            ValueError: the input has another number of features, or values that are neither 0 nor 1; ``backend="event"`` cannot run the
                layer, and why; or a value to record that the step does not name.
        """
        wanted = known(self.neuron, record) if record is not False else ()
        out, last, *recorded = self._over_steps(currents, state, wanted)
        return (out, last, *returned(record, wanted, recorded))

    def _over_steps(self, currents: Tensor | Spikes, state: Any, wanted: tuple[str, ...]) -> tuple[Any, ...]:
        """Output, state, then the wanted values."""
        if not isinstance(currents, Tensor):
            return self._of_events(currents, state, wanted)
        spikes = currents
        if spikes.ndim not in (2, 3) or spikes.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"input spikes must be (time, batch, {self.weight.shape[1]}), got shape {tuple(spikes.shape)}")
        plain = visible(spikes)
        if plain and spikes.is_cpu and not has_memory(spikes):  # PyTorch's own `==` would read it
            raise RuntimeError("input spikes are out of bounds for storage of size 0: their memory was given back")
        reason = self._obstacle(spikes, state)
        given = None if reason is not None else events.listed(spikes)
        if plain and given is None and not bool(((spikes == 0) | (spikes == 1)).all()):
            raise ValueError("input spikes must be 0 or 1; for other inputs use torch.nn.Linear and a layer of neurons")
        mask = self._mask(spikes)
        if given is not None:
            given = given if mask is None else events.listed(spikes * mask)
            if given is not None and (found := self._over(given, state, wanted)) is not None:
                out, last, recorded = found
                out = out if isinstance(out, Tensor) else out.dense()
                if spikes.ndim == 3:
                    return out, last, *recorded
                return out.squeeze(1), events.squeezed(self.neuron, last), *(x.squeeze(1) for x in recorded)
        return self._densely(spikes, mask, state, wanted)

    def handed_on(self, spikes: Tensor) -> Tensor | Spikes:
        """The input spikes as events if the layer would run by them, else as they are: so that it returns events, too."""
        if spikes.ndim != 3 or self._obstacle(spikes, None) is not None or (given := events.listed(spikes)) is None:
            return spikes
        return given if self._chosen(given).by_events else spikes

    def chosen(self, currents: Tensor | Spikes) -> Chosen:
        """The way of each of the layer's products for such input spikes, by events or dense, and why.

        Args:
            currents: as of `forward`.

        Returns:
            A named tuple: ``currents``, and the gradients of ``weights`` and ``inputs``, are ``"event"`` or ``"dense"``; ``why`` says why.

        Raises:
            ValueError: ``backend="event"`` cannot run the layer.

        Example:
            >>> import torch
            >>> from spikegrad import nn
            >>> nn.SpikingLinear(9, 4, nn.Leaky(0.9), backend="dense").chosen(torch.zeros(5, 1, 9))
            Chosen(currents='dense', weights='dense', inputs='dense', why="backend='dense' was asked for")
        """
        reason = self._obstacle(currents, None)
        given = events.listed(currents) if reason is None and isinstance(currents, Tensor) else currents
        if reason is not None or isinstance(given, Tensor) or given is None:
            return Chosen.densely(reason or "its input has other values than 0 and 1")
        return self._chosen(given)

    def _obstacle(self, given: Tensor | Spikes, state: Any) -> str | None:
        """Why the layer cannot run by events, or is not to.

        Raises:
            ValueError: events were asked for by name, and it cannot.
        """
        if self.backend == "dense":
            return "backend='dense' was asked for"
        if self.backend == "auto" and not torch.compiler.is_compiling():  # it asks little, and says no of most layers
            arrived, recompute = not isinstance(given, Tensor), self.memory == "recompute"
            if (reason := events.unfit(self.neuron, self.cutoff, arrived=arrived, recompute=recompute)) is not None:
                return reason
        parts = () if state is None else tuple(state) if isinstance(state, tuple | list) else (state,)
        own = [x for x in self._parameters.values() if x is not None]
        reason = events.obstacle(self.neuron, self.cutoff, [*([given] if isinstance(given, Tensor) else []), *own, *parts])
        if reason is not None and self.backend == "event":
            raise ValueError(f"backend='event' cannot run this layer: {reason}; use backend='auto' or 'dense'")
        return reason

    def _chosen(self, given: Spikes) -> Chosen:
        """The way of each product for events that the layer can run by."""
        if self.backend == "event":
            return Chosen("event", "event", "event" if given.pairs is not None else "dense", "backend='event' was asked for")
        return chosen(given, len(self.weight))

    def _over(self, given: Spikes, state: Any, wanted: tuple[str, ...]) -> tuple[Any, Any, list[Tensor]] | None:
        """Output, state and recorded values, by events; None where dense products are to be taken."""
        ways = self._chosen(given)
        if not ways.by_events:
            return None
        share = (1 - self.dropout if self._drops else 1.0) / given.scale
        weight = self.weight if share == 1.0 else self.weight / share
        return events.run(self.neuron, self.cutoff, ways, given, weight, self.bias, state, wanted)

    def _of_events(self, given: Spikes, state: Any, wanted: tuple[str, ...]) -> tuple[Any, ...]:
        """Output, state, then the wanted values, for spikes that arrived as events."""
        if given.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"input spikes must be (time, batch, {self.weight.shape[1]}), got shape {tuple(given.shape)}")
        reason = self._obstacle(given, state)
        if self._drops and (mask := self._mask(torch.empty(given.shape, dtype=torch.float32, device="cpu"))) is not None:
            given = given.masked(mask)
        if reason is None and (found := self._over(given, state, wanted)) is not None:
            return *found[:2], *found[2]
        out, *others = self._densely(given.dense().to(self.weight.dtype), None, state, wanted)
        made = events.listed(out) if events.emits(self.neuron) and events.listable(out) else None
        return out if made is None else made, *others

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _mask(self, spikes: Tensor) -> Tensor | None:
        """Which spikes are not dropped, now."""
        return torch.bernoulli(torch.full_like(spikes, 1 - self.dropout)) if self._drops else None

    def _densely(self, spikes: Tensor, mask: Tensor | None, state: Any, wanted: tuple[str, ...]) -> tuple[Any, ...]:
        """Output, state, then the wanted values, by a dense product."""
        parts = () if state is None else tuple(state) if isinstance(state, tuple | list) else (state,)
        share = 1 - self.dropout if self._drops else 1.0
        if self.memory == "save" or not visible(spikes) or not torch.is_grad_enabled() or watched(self.neuron):
            made, last = _run(self, spikes if mask is None else spikes * mask, parts or None, share, wanted)
            return self._apart(made, last, wanted)
        given = spikes if mask is None else spikes * mask
        kept = packed(given, spikes=True)
        stand_in = given if kept is None else outline(spikes, None if mask is None else pack(mask))
        count = self.neuron._record.outputs + len(wanted)  # pyright: ignore[reportPrivateUsage]
        blocks = self._blocks(spikes.shape, parts, count)
        if not (_foreseen(self) and all(isinstance(part, Tensor) for part in parts)):
            run = functools.partial(_run, share=share, wanted=wanted)
            sequences, last = replayed_tree(run, self, (stand_in, parts or None), blocks, kept)
            return self._apart(sequences, last, wanted)
        run = functools.partial(_flat, share=share, wanted=wanted)
        made = replayed(run, self, (stand_in, *parts), blocks, kept, draws=False)
        return self._apart(made[:count], self.neuron.state_of(made[count:]), wanted)

    def _apart(self, made: tuple[Tensor, ...], last: Any, wanted: tuple[str, ...]) -> tuple[Any, ...]:
        """Output, state, then the wanted values, of which the sequences are `made`."""
        count = len(made) - len(wanted)
        return made[0] if count == 1 else made[:count], last, *made[count:]

    def _blocks(self, shape: torch.Size, state: Sequence[Tensor], count: int) -> Blocks | None:
        """Shares of the batch whose currents are held at once; the same forward and backward, so that sums round alike."""
        if len(shape) == 2 or any(part.ndim == 0 or len(part) != shape[1] for part in state):  # one sample, or a state that does not fit
            return None
        if not _ours(self.neuron) or differ(self.neuron, shape[1]):
            return None
        size = max(1, _BLOCK // max(1, shape[0] * max(shape[2], len(self.weight))))
        return Blocks(size, shape[1], (1, *[0] * len(state)), (*[1] * count, 0))

    def extra_repr(self) -> str:
        """Sizes and what differs from the defaults."""
        shown = f"{self.weight.shape[1]}, {self.weight.shape[0]}, dropout={self.dropout}, memory={self.memory!r}"
        shown += "" if self.backend == "auto" else f", backend={self.backend!r}"
        return f"{shown}, cutoff={self.cutoff}" if self.cutoff else shown


def _foreseen(layer: SpikingLinear) -> bool:
    """Whether all that a run calls is ours, so that it is known what it returns, and draws no random numbers.

    To look for what it does not do would cost a small layer as much as its products.
    """
    return type(layer) is SpikingLinear and not layer.neuron.spike.surrogate.stochastic and _ours(layer.neuron)


def _ours(neuron: Layer) -> bool:
    """Whether neurons call nobody's own code, which may do with some samples of a batch what it does not with all."""
    spike, quantize = neuron.spike, neuron.quantize
    ours = type(neuron).__module__ in _OURS and rewritten(neuron, type(neuron)) is None and (quantize is None or has_levels(quantize))
    return ours and type(spike.surrogate).__call__ is Surrogate.__call__ and rewritten(spike, Spike) is None


def differ(neuron: Layer, samples: int) -> bool:
    """Whether numbers of neurons may differ between the samples of a batch.

    They are of the shape of a step; those that only look like it, ``(channels, 1, 1)``, are not worth telling.
    """
    return any((x := getattr(neuron, name)).ndim > 1 and x.shape[0] == samples > 1 for name in neuron._tensors)  # pyright: ignore


_OURS = (Layer.__module__, Leaky.__module__)
"""Where our own classes of layers are."""


def _run(layer: SpikingLinear, spikes: Tensor, state: State, share: float, wanted: tuple[str, ...]) -> tuple[tuple[Tensor, ...], Any]:
    """Outputs and the wanted values, and the state, for a share of the input spikes."""
    weight = layer.weight if share == 1.0 else layer.weight / share
    asked: dict[str, Any] = {"record": wanted} if wanted else {}  # neurons of one's own may not know it
    out, last, *recorded = layer.neuron(functional.linear(spikes, weight, layer.bias), state, **asked)
    others = recorded[0].values() if wanted else ()
    return (*(out if isinstance(out, tuple) else (out,)), *others), last


def _flat(layer: nn.Module, spikes: Tensor, *state: Tensor, share: float, wanted: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The same as tensors."""
    assert isinstance(layer, SpikingLinear)
    made, last = _run(layer, spikes, state or None, share, wanted)
    return (*made, *(last if isinstance(last, tuple) else (last,)))
