"""Networks in the whole numbers of a chip: weights of few bits, states of few bits, decays by multiplying and shifting.

Everything is integer arithmetic, so that every machine computes the same bits. Weights are whole multiples of one unit for each layer, from
``-(2**(bits-1) - 1)`` to ``2**(bits-1) - 1``; the unit is the one with which the squares of what is lost add up to least. A potential is a
whole multiple of the unit over ``2**shift``, where `shift`, which may be negative, is the largest with which the threshold is at most an
eighth of the range of a state; so states reach from at least minus to plus four thresholds. In each step, in Python's words:

- what arrives is the sum of the weights of the spikes, times ``2**shift``, if `shift` is negative rounded, halves up; plus the bias;
- a state that decays is ``x * d``, with ``d`` the decay in 4096ths, divided by 4096 and cut towards zero, as on Intel's Loihi;
- a sum that is stored saturates at ``-2**(bits-1)`` and ``2**(bits-1) - 1``;
- spikes and resets are those of the neuron, on whole numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from spikegrad import neurons
from spikegrad.nn.layer import Layer, State
from spikegrad.nn.linear import SpikingLinear
from spikegrad.nn.sequential import Sequential

DECAY_BITS = 12
"""Of the fraction that says what is left of a state after a step, as on Loihi."""

HEADROOM = 3
"""Bits of a state above the threshold, one of them its sign."""

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d


def unit_of(bits: int, *weights: Tensor) -> float:
    """The distance of two weights of so many bits with which they lose least, in squares, the largest cut; 1 for zeros."""
    given = torch.cat([w.detach().double().flatten() for w in weights])
    largest = float(given.abs().max()) if given.numel() else 0.0
    if not largest:
        return 1.0
    units = [largest / (2 ** (bits - 1) - 1) * share / 64 for share in range(64, 7, -1)]
    return min(units, key=lambda unit: float((given - integers(given, unit, bits) * unit).square().sum()))


def integers(weights: Tensor, unit: float, bits: int) -> Tensor:
    """Weights as whole numbers of this unit and so many bits, those beyond cut, in float64."""
    return whole(weights, unit).clamp(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def whole(x: Tensor, unit: float) -> Tensor:
    """Numbers in this unit, rounded to whole ones, halves to even; in float64, which holds every whole number below 2**53."""
    return torch.round(x.detach().double() / unit)


class FixedPoint(Layer):
    """A layer of `Leaky`, `Synaptic`, `IntegrateAndFire` or `LeakyIntegrator` neurons in whole numbers, as a chip computes it.

    Args:
        layer: the layer as it was trained.
        unit: what a weight of 1 before it stands for, in potential.
        bits: of each state, its sign included.
        largest: potential that takes the threshold's place in a `LeakyIntegrator`, which has none: states reach to four times it.
        weight_bits: of each recurrent weight.

    What arrives is in the unit, in float64, whose sums of whole numbers are exact. The output is spikes, or, of a `LeakyIntegrator`,
    potentials; the state is int64, in units over ``2**shift``. There are no gradients.

    Raises:
        ValueError: the layer has no such form; fewer than 4 bits or more than 32.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.exchange.fixed_point import FixedPoint
        >>> layer = FixedPoint(nn.Leaky(0.9), unit=0.25, bits=8)
        >>> layer.shift, int(layer.theta), int(layer.decays[0])
        (3, 32, 3686)
        >>> spikes, v = layer(torch.tensor([[3.0], [2.0], [0.0]]).double())  # of weights that stand for 0.75 and 0.5
        >>> spikes.ravel().tolist(), v.tolist()
        ([0.0, 1.0, 0.0], [4])
    """

    def __init__(self, layer: Layer, unit: float, bits: int, largest: float = 1.0, weight_bits: int = 16) -> None:
        if (why := unsupported(layer)) is not None:
            raise ValueError(f"{why}, and has no fixed-point form")
        if not 4 <= bits <= 32:
            raise ValueError(f"`bits` of a state must be between 4 and 32, got {bits}")
        super().__init__(layer.neuron, spike=layer.spike)
        self.unit, self.bits = unit, bits
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        largest = float(_number(layer, "threshold").max()) if "threshold" in layer.neuron.numbers else largest
        self.shift = math.floor(math.log2(2 ** (bits - HEADROOM) * unit / largest) + 1e-9)
        fine = unit / 2.0**self.shift
        names = [name for name in ("alpha", "beta") if name in layer.neuron.numbers]
        self.decays = [torch.round(_number(layer, name) * 2**DECAY_BITS).long() for name in names] or [torch.tensor(2**DECAY_BITS)]
        self.theta = whole(_number(layer, "threshold"), fine).long().clamp(min=1) if "threshold" in layer.neuron.numbers else None
        self.fine = fine
        self.connection, self.neuron = layer.connection, layer.neuron
        self.back = None if layer.weight is None else integers(layer.weight * _scale(layer), unit, weight_bits)

    def arriving(self, current: Tensor) -> Tensor:
        """What arrives, in the unit, as whole multiples of what a state is a multiple of; rounded, halves up, where it is none."""
        return torch.floor(current.double() * 2.0**self.shift + 0.5).long()

    def decayed(self, x: Tensor, decay: Tensor) -> Tensor:
        """What is left of a state, cut towards zero."""
        product = x * decay
        return torch.where(product < 0, -(-product >> DECAY_BITS), product >> DECAY_BITS)

    def saturated(self, x: Tensor) -> Tensor:
        """A state within its bits."""
        return x.clamp(self.low, self.high)

    def forward(self, currents: Any, state: State = None, **options: Any) -> tuple[Any, ...]:
        """Run the layer over a sequence, ``(time, batch, *features)``, in units; see `Layer.forward`."""
        if options:
            raise ValueError(f"in fixed point a layer does not take {', '.join(options)}")
        count = len(self._state_names)
        first = [torch.zeros_like(currents[0] if len(currents) else currents.sum(0), dtype=torch.int64) for _ in range(count)]
        parts: list[Any] = first if state is None else [*state] if isinstance(state, tuple | list) else [state]
        outputs: list[Tensor] = []
        for current in currents.unbind(0):
            if self.back is not None:
                spikes = parts[-1].double()
                current = current + (spikes @ self.back.T if self.back.ndim == 2 else spikes * self.back)
            made, parts = self._step(self.arriving(current), parts)
            outputs.append(made)
        out = torch.stack(outputs) if outputs else torch.zeros_like(currents, dtype=torch.float64)
        return (out.double() * (1.0 if self.theta is not None else self.fine)), self.state_of(parts)

    def _step(self, current: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One step in whole numbers: the output, and the states."""
        neuron: Any = self.neuron
        v = state[1] if isinstance(neuron, neurons.Synaptic) else state[0]
        synaptic: list[Tensor] = []
        if isinstance(neuron, neurons.Synaptic):
            current = self.saturated(self.decayed(state[0], self.decays[0]) + current)
            synaptic = [current]
        beta = self.decays[-1]
        if self.theta is None:
            u = self.saturated(self.decayed(v, beta) + current)
            return u, [u]
        delayed = getattr(neuron, "reset_delay", False)
        due = self._over(v) if delayed else torch.zeros_like(v)
        if neuron.reset == "zero" and not synaptic:
            v = v * (1 - due)
        u = self.decayed(v, beta) + current
        if delayed and neuron.reset == "subtract":
            u = u - self.theta * due
        if delayed and neuron.reset == "zero" and synaptic:
            u = u * (1 - due)
        u = self.saturated(u)
        s = self._over(u)
        v = u if delayed or neuron.reset == "none" else u - self.theta * s if neuron.reset == "subtract" else u * (1 - s)
        return s, [*synaptic, v, *([s] if self.back is not None else [])]

    def _over(self, u: Tensor) -> Tensor:
        """1 where a potential spikes."""
        assert self.theta is not None
        return (u >= self.theta if self.neuron.spike_at_threshold else u > self.theta).long()


def unsupported(layer: Layer) -> str | None:
    """Why a layer has no form in whole numbers here, or None."""
    kind = type(layer.neuron)
    if kind not in (neurons.IntegrateAndFire, neurons.Leaky, neurons.LeakyIntegrator, neurons.Synaptic):
        return f"a {kind.__name__} is none of Leaky, Synaptic, IntegrateAndFire and LeakyIntegrator"
    if layer.inhibition:
        return "it has inhibition"
    if kind is neurons.LeakyIntegrator and layer.weight is not None:
        return "it feeds back what are no spikes"
    if layer.quantize is not None:
        return "its states are quantised already"
    if any(getattr(layer.neuron, name) != 0 for name in layer.neuron.states):
        return "its states rest elsewhere than at 0"
    return None


def _number(layer: Layer, name: str) -> Tensor:
    value = getattr(layer, name)
    return value.detach().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _scale(layer: Layer) -> Tensor:
    """What incoming weights are multiplied by, so that no step has to."""
    if not getattr(layer.neuron, "scale_input", False):
        return torch.ones((), dtype=torch.float64)
    scale = 1 - _number(layer, "beta")
    return scale[..., None] if layer.connection == "all-to-all" and scale.ndim else scale


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A network with few bits.

    Attributes:
        network: it.
        notes: what stayed in floating point, and why, by the names of modules.
    """

    network: nn.Module
    notes: dict[str, str]


@torch.no_grad()
def quantized(
    network: nn.Module, weights: int, states: int | None = None, *, sample: Tensor | None = None, input_bits: int = 8
) -> Quantized:
    """A trained network whose weights have few bits, and whose states do if asked for.

    Each layer of weights is rounded to whole multiples of a unit of its own, see `unit_of`; so are recurrent weights, with those before the
    same neurons. Biases have the precision of states. A BatchNorm becomes part of the layer
    before it. With `states`, neurons compute in whole numbers (`FixedPoint`), and what goes into the network, unless it is spikes, is
    rounded to `input_bits`.

    Args:
        network: in which every layer of neurons follows its weights in an `nn.Sequential`; it is left as it is.
        weights: bits of a weight, its sign included, 2 to 16.
        states: bits of a state, its sign included, 4 to 32; None for floating point.
        sample: an input of the network, which shows how large what goes in is, and the potentials of a readout that does not spike;
            both are taken to be 1 without it.
        input_bits: of what goes in.

    Returns:
        The network, in float64, and what stayed in floating point.

    Raises:
        ValueError: a number of bits out of range.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.exchange.fixed_point import quantized
        >>> net = nn.Sequential(torch.nn.Linear(4, 8), nn.Leaky(0.9), torch.nn.Linear(8, 2), nn.LeakyIntegrator(0.9))
        >>> sequence = torch.rand(20, 3, 4)
        >>> chip = quantized(net, weights=4, states=12, sample=sequence).network
        >>> out, state = chip(sequence.double())
        >>> out.shape, state[1].dtype, int(chip[2].weight.abs().max())
        (torch.Size([20, 3, 2]), torch.int64, 7)
    """
    if not 2 <= weights <= 16:
        raise ValueError(f"`weights` must be between 2 and 16 bits, got {weights}")
    made, notes = copy.deepcopy(network).eval().requires_grad_(False).double(), dict[str, str]()
    for name, module in [(name, module) for name, module in made.named_modules() if isinstance(module, SpikingLinear)]:
        linear: Any = nn.Linear(1, 1)
        linear.weight, linear.bias = module.weight, module.bias
        parent, _, last = name.rpartition(".")
        setattr(made.get_submodule(parent), last, Sequential(linear, module.neuron))
    for chain in [module for module in made.modules() if isinstance(module, nn.Sequential)]:
        _normalised(chain)
    seen = _seen(made, sample)
    names = {module: name for name, module in made.named_modules()}
    for number, (chain, place, other) in enumerate([*_pairs(made)]):
        before, layer = chain[place], None if other is None else chain[other]
        why = None if layer is None else unsupported(layer) or _unscalable(layer, before)
        if layer is None or why is not None or states is None:
            fed = [] if layer is None or layer.weight is None else [layer.weight]
            unit = unit_of(weights, before.weight, *fed)
            for weight in (before.weight, *fed):
                weight.copy_(integers(weight, unit, weights) * unit)
            if states is not None and why is not None:
                notes[names[layer]] = why
            continue
        scale = _scale(layer)
        rows = scale.flatten() if scale.numel() > 1 else scale.reshape(1)
        scaled = before.weight * rows.reshape(-1, *[1] * (before.weight.ndim - 1))
        unit = unit_of(weights, scaled, *([] if layer.weight is None else [layer.weight * scale]))
        chain[other] = fixed = FixedPoint(layer, unit, states, seen.get(layer, 1.0), weights)
        before.weight = nn.Parameter(integers(scaled, unit, weights), requires_grad=False)
        if before.bias is not None:
            before.bias = nn.Parameter(whole(before.bias * rows, fixed.fine) * 2.0**-fixed.shift, requires_grad=False)
        if number == 0:
            chain[place] = nn.Sequential(Rounded(input_bits, seen.get(before, 1.0)), before)
    return Quantized(made, notes)


def _seen(network: nn.Module, sample: Tensor | None) -> dict[nn.Module, float]:
    """The largest input of each layer of weights, and the largest output of each layer that does not spike."""
    found: dict[nn.Module, float] = {}

    def look(module: nn.Module, given: tuple[Tensor, ...], made: Any) -> None:
        x = given[0] if isinstance(module, Weighted) else made[0]
        found[module] = max(found.get(module, 0.0), float(x.abs().max()) if x.numel() else 0.0)

    watched = [m for m in network.modules() if isinstance(m, Weighted) or (isinstance(m, Layer) and "threshold" not in m.neuron.numbers)]
    hooks = [module.register_forward_hook(look) for module in watched if sample is not None]
    try:
        if sample is not None:
            network(sample.double())
    finally:
        for hook in hooks:
            hook.remove()
    return {module: largest for module, largest in found.items() if largest > 0}


def _unscalable(layer: Layer, before: Any) -> str | None:
    """Why the scale of a layer's input cannot be part of the weights before it, or None."""
    scale = _scale(layer)
    if scale.numel() not in (1, len(before.weight)):
        return "the scale of its input differs within what the weights before it make alike"
    return None


class Rounded(nn.Module):
    """What goes into a chip: whole multiples of a power of two, of so many bits up to the largest value; spikes stay what they are."""

    def __init__(self, bits: int, largest: float) -> None:
        super().__init__()
        self.bits, self.unit = bits, 2.0 ** (math.ceil(math.log2(largest) if largest > 0 else 0) - bits + 1)

    def forward(self, x: Tensor) -> Tensor:
        """The nearest multiple, halves to even, in float64."""
        return torch.round(x.double() / self.unit).clamp(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1)) * self.unit

    def extra_repr(self) -> str:
        """Bits and unit."""
        return f"bits={self.bits}, unit={self.unit:g}"


def _normalised(chain: nn.Sequential) -> None:
    """Make normalisations part of the layers before them."""
    children = [*chain.named_children()]
    for (name, before), (other, norm) in itertools.pairwise(children):
        if isinstance(before, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            chain._modules[name] = fuse_linear_bn_eval(before, norm)  # pyright: ignore[reportPrivateUsage]
        elif isinstance(before, nn.Conv1d | nn.Conv2d) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            chain._modules[name] = fuse_conv_bn_eval(before, norm)  # pyright: ignore[reportPrivateUsage]
        else:
            continue
        chain._modules[other] = nn.Identity()  # pyright: ignore[reportPrivateUsage]


def _pairs(root: nn.Module) -> Iterator[tuple[Any, int, int | None]]:
    """Chains, and in each the places of weights and of the neurons that they lead to, if these are in the same chain."""
    for chain in [module for module in root.modules() if isinstance(module, nn.Sequential)]:
        waiting: int | None = None
        for place, module in enumerate(chain):
            if isinstance(module, Weighted):
                if waiting is not None:
                    yield chain, waiting, None
                waiting = place
            elif isinstance(module, Layer) and waiting is not None:
                yield chain, waiting, place
                waiting = None
        if waiting is not None:
            yield chain, waiting, None
