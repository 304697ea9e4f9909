"""Whether a layer of weights and neurons runs over events, and how."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from spikegrad import facts
from spikegrad.errors import meant
from spikegrad.kernels import arguments, gate
from spikegrad.kernels.choice import Chosen
from spikegrad.kernels.lock import LOCK
from spikegrad.kernels.plan import FED
from spikegrad.kernels.values import values_of
from spikegrad.neuron import Neuron
from spikegrad.nn import backend
from spikegrad.nn.layer import Layer
from spikegrad.nn.recompute import watched

if TYPE_CHECKING:
    from spikegrad.kernels.plan import Call
    from spikegrad.kernels.spikes import Spikes

Way = Literal["auto", "event", "dense"]
WAYS = ("auto", "event", "dense")


def check(way: str) -> None:
    """Refuse an unknown word for the way a layer runs, and one that needs what is not installed."""
    if way not in WAYS:
        raise ValueError(f"`backend` of a SpikingLinear must be one of {', '.join(map(repr, WAYS))}, got {way!r}{meant(way, WAYS)}")
    if way == "event" and not backend.INSTALLED["numba"]:
        raise ValueError("backend='event' needs Numba; install it with `pip install numba`")


def expect(neuron: object) -> None:
    """Raise a TypeError unless something is a layer of neurons, or wraps one as `torch.compile` does."""
    if not hasattr(neuron, "state_of"):
        told = "; make a layer of it, nn.Layer(neuron)" if isinstance(neuron, Neuron) else ""
        raise TypeError(f"`neuron` must be a layer of neurons such as nn.Leaky(0.9), got {type(neuron).__name__}{told}")


def kernels() -> ModuleType:
    """The passes over events, which are imported when a layer first wants them."""
    with LOCK:
        return importlib.import_module("spikegrad.kernels.events")


def unreadable(tensors: Sequence[Tensor]) -> str | None:
    """Why no kernel over events can read these tensors now, or None."""
    if not backend.INSTALLED["numba"]:
        return "Numba is not installed"
    if torch.compiler.is_compiling():
        return "it is compiled"
    if (reason := gate.surroundings() or gate.obstacle(*tensors, device=gate.CPU)) is not None:
        return reason
    if any(x.dtype is not torch.float32 for x in tensors):
        return "it is not of float32"
    return "autocast may choose the dtype of its products" if torch.is_autocast_enabled("cpu") else None


def obstacle(neuron: Layer, cutoff: float, tensors: Sequence[Tensor]) -> str | None:
    """Why weights and these neurons cannot run over events, or None; `tensors` are what the passes would read."""
    own: list[Tensor] = [getattr(neuron, name) for name in neuron._tensors]  # pyright: ignore[reportPrivateUsage]
    fed = [] if neuron.weight is None else [neuron.weight]
    if (reason := unreadable([*tensors, *own, *fed])) is not None:
        return reason
    if neuron.backend not in ("auto", "numba"):
        return f"its neurons have backend={neuron.backend!r}"
    if watched(neuron) or backend.rewritten(neuron, Layer) is not None:
        return "its neurons have hooks, or a `forward` of their own"
    if neuron.spike.given or neuron.connection == "one-to-one":
        return "its surrogate is learned, or its neurons have weights to themselves"
    if any(x.ndim > 1 for x in own):
        return "its neurons have numbers that differ between samples"
    record = neuron._record  # pyright: ignore[reportPrivateUsage]
    if fed and (FED in record.inputs or not (emits(neuron) and windowed(neuron, cutoff))):
        return "its recurrent neurons take what is fed back apart, or their surrogate has no window (a `cutoff` makes one)"
    if (reason := backend.unlike(neuron.spike, neuron.inhibition, own_quantize=False)) is not None:
        return reason
    if neuron.quantize is not None:
        return "its state is quantised"
    return "its neurons have several inputs or outputs" if len(record.inputs) != 1 or record.outputs != 1 else None


def unfit(neuron: Layer, cutoff: float, *, arrived: bool, recompute: bool) -> str | None:
    """Why neurons are not worth running by events: part of the rule of ``"auto"``.

    `arrived` is whether the input came as events, `recompute` whether nothing is to be kept but its spikes.
    """
    if not neuron._record.fires:  # pyright: ignore[reportPrivateUsage]
        return None if arrived else "its neurons do not spike, and its input is a dense tensor"
    if recompute and not windowed(neuron, cutoff):
        kind = type(neuron.spike.surrogate).__name__
        return f"{kind} has no window outside of which it is known to be 0: by events more would be kept than memory='recompute' allows"
    return None


def windowed(neuron: Layer, cutoff: float) -> bool:
    """Whether the derivative of the surrogate counts as 0 outside of a window."""
    low, high = facts.window(neuron.spike.surrogate, cutoff)
    return math.isfinite(high - low)


def emits(neuron: Layer) -> bool:
    """Whether neurons put out spikes alone: what their step returns first is what `fire` gives."""
    step = neuron._record.step  # pyright: ignore[reportPrivateUsage]
    first = step.results[0]
    return isinstance(first, int) and step.instructions[first][0] in ("fire", "fire_above")


def listable(spikes: Tensor) -> bool:
    """Whether spikes that dense products made can be read, to be listed."""
    here = torch.compiler.is_compiling() or (gate.surroundings() or gate.obstacle(spikes)) is None
    return here and spikes.dtype is torch.float32


def listed(spikes: Tensor) -> Spikes | None:
    """The events of a sequence ``(time, batch, features)`` or ``(time, features)``; None if it has anything but 0 and 1."""
    found: Spikes | None = kernels().listed(spikes if spikes.ndim == 3 else spikes.unsqueeze(1))
    return found


def run(
    neuron: Layer,
    cutoff: float,
    chosen: Chosen,
    given: Spikes,
    weight: Tensor,
    bias: Tensor | None,
    state: Any,
    wanted: tuple[str, ...] = (),
) -> tuple[Any, Any, list[Tensor]] | None:
    """Output, state and the wanted values, by events; None where weights or potentials are not numbers.

    Only dense products spread those as they must: infinity times the 0 of a silent neuron is NaN, so that no row could be left out.
    """
    steps, samples, _ = given.shape
    own = neuron.weight
    if not given.shape.numel() * len(weight) or not all(
        math.isfinite(float(x.detach().sum())) for x in (weight, *([] if own is None else [own]))
    ):
        return None
    names, parts = neuron._state_names, ()  # pyright: ignore[reportPrivateUsage]
    like = torch.empty((), dtype=torch.float32, device="cpu").expand(steps, samples, len(weight))
    arguments.numbers({n: getattr(neuron, n) for n in neuron._tensors}, like)  # pyright: ignore[reportPrivateUsage]
    if own is not None:
        arguments.weights(own, like)
    if state is not None:
        each = state if isinstance(state, tuple | list) else (state,)
        single = samples == 1 and all(x.ndim == 1 for x in each)
        like = like[:, 0] if single else like
        parts = tuple(x.unsqueeze(0) if single else x for x in arguments.state(names, state, like))
    call = neuron._call(wanted, neuron.spike)  # pyright: ignore[reportPrivateUsage]
    of_call = _without_connection(call) if own is not None else call
    given_numbers = neuron._numbers(None, None)  # pyright: ignore[reportPrivateUsage]
    numbers, tensors = values_of(of_call, (), given_numbers, neuron.spike.floats, torch.float32)
    count = sum(value is None for value in numbers.parameters)
    if any(value is None for value in numbers.state):  # where they rest is learned: they are given
        rest = _resting((*numbers.state, *[0.0] * (own is not None)), tensors[count:], samples, len(weight))
        parts = parts or tuple(rest)
        numbers = numbers._replace(state=tuple(0.0 for _ in numbers.state))
    neurons = kernels().neurons_of(of_call, numbers, facts.window(neuron.spike.surrogate, cutoff), own is not None)
    found = kernels().run(neurons, chosen, given, weight, bias, own, tensors[:count], parts)
    return None if found is None else (found[0], neuron.state_of(found[1]), found[2])


@functools.lru_cache(maxsize=256)
def _without_connection(call: Call) -> Call:
    """Neurons to themselves, the same object each time: what is derived from it is derived once."""
    return dataclasses.replace(call, connection="none")


def _resting(state: Sequence[float | None], tensors: Sequence[Tensor], samples: int, features: int) -> Iterator[Tensor]:
    """States at rest, some of which are tensors."""
    each = iter(tensors)
    for value in state:
        yield (
            torch.full((samples, features), value, dtype=torch.float32, device="cpu")
            if value is not None
            else next(each).to(torch.float32).expand(samples, features)
        )


def squeezed(neuron: Layer, state: Any) -> Any:
    """A state without its batch of one sample."""
    parts = [x.squeeze(0) for x in (state if isinstance(state, tuple) else (state,))]
    return neuron.state_of(parts)
