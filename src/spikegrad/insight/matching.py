"""Surrogates as wide as the potentials they see are spread."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.insight.measuring import half_width_of, peak_of, undisturbed
from spikegrad.insight.recording import LayerRecord, record
from spikegrad.nn import Layer
from spikegrad.nn.parameters import coordinate
from spikegrad.surrogate import Surrogate

LEFT = 0.4
"""What a matched surrogate's derivative is on average, as a share of its peak."""


def match(model: nn.Module, batch: Any, *, left: float = LEFT) -> dict[str, float]:
    """Set the width of each layer's surrogate from its potentials, so that gradients get through but stay near the threshold.

    The model runs once on the batch and is left as it was but for the slopes (or widths) of its surrogates, each of which is set so that
    its derivative is on average `left` of its peak at the layer's potentials. Shapes and peaks stay; so do surrogates without a width,
    such as `StraightThrough`. A slope that is learned starts anew there. The result does not depend on the slope before.

    Args:
        model: any that `record` sees.
        batch: an input of the model, or the pair of an input and its labels, of which only the input is used.
        left: the share, between 0 and 1: more is wider.

    Returns:
        The half width of each surrogate by the name of its layer, in the unit of the potential.

    Raises:
        ValueError: a layer's surrogate is a function whose slope cannot be found, or `left` is out of range.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import FastSigmoid, nn
        >>> layer = nn.Leaky(0.9, spike=FastSigmoid(1000))
        >>> net = nn.Sequential(torch.nn.Linear(4, 8), layer, torch.nn.Linear(8, 2), nn.LeakyIntegrator(0.9))
        >>> list(spikegrad.match(net, torch.rand(10, 3, 4))), layer.spike.surrogate.slope < 10
        (['1'], True)
    """
    if not 0 < left < 1:
        raise ValueError(f"`left` must be between 0 and 1, got {left}")
    with undisturbed(model), torch.no_grad(), record(model) as seen:
        model(batch[0] if type(batch) in (tuple, list) else batch)
    found: dict[str, float] = {}
    for name, layer in seen.items():
        if layer.called and layer.spiking and (width := matched_width(layer, left)) is not None:
            set_half_width(layer, width)
            found[name] = width
    return found


def matched_width(layer: LayerRecord, left: float = LEFT) -> float | None:
    """The half width at which the mean of a layer's derivative is this share of its peak; None of a surrogate without a width."""
    excess, surrogate, now = layer.excess, layer.surrogate, half_width_of(layer)
    if excess is None or not math.isfinite(now) or (surrogate is not None and not {"slope", "width"} & surrogate.numbers.keys()):
        return None
    x = excess.detach().flatten()
    x = x[:: -(-len(x) // 4096)].double()
    x = x[x.isfinite()]
    if not len(x):
        return None

    def share(width: float) -> float:
        # A surrogate as wide as that, seen at x, is the present one at x in proportion.
        slopes = layer.derivative((x * (now / width)).to(excess)).abs().double()
        return float(slopes.mean() / peak)

    peak = peak_of(layer)
    low, high = math.log(float(x.abs().mean()) * 1e-4 + 1e-30), math.log(float(x.abs().mean()) * 1e4 + 1e-30)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if share(math.exp(middle)) < left else (low, middle)
    return math.exp(high)


def set_half_width(layer: LayerRecord, width: float) -> None:
    """Give a layer's surrogate another half width, whoever wrote it.

    Raises:
        ValueError: it has nothing to change.
    """
    module: Any = layer.module
    surrogate, factor = layer.surrogate, half_width_of(layer) / width
    spike = module.spike if isinstance(module, Layer) else module.spike_grad
    if surrogate is None:
        module.spike_grad = _steeper(spike, factor, layer, width)
        return
    other = surrogate.matched_to(width)
    if isinstance(spike, nn.Module):
        set_surrogate(spike, other)
        if isinstance(module, Layer):
            module.neuron = dataclasses.replace(module.neuron, spike=spike.surrogate)  # pyright: ignore[reportArgumentType]
    else:
        module.spike_grad = dataclasses.replace(spike, surrogate=other)


def set_peak(layer: LayerRecord, peak: float) -> None:
    """Give the surrogate of a layer of `spikegrad.nn` another peak, by its `scale`."""
    module: Any = layer.module
    surrogate = module.spike.surrogate
    set_surrogate(module.spike, dataclasses.replace(surrogate, scale=surrogate.scale * peak / surrogate.peak))
    module.neuron = dataclasses.replace(module.neuron, spike=module.spike.surrogate)


def set_surrogate(spike: Any, surrogate: Surrogate) -> None:
    """Give an `nn.Spike` other numbers, also where they are learned or tensors."""
    for name in spike.given:
        value, within = surrogate.parameters[name], surrogate.numbers[name]
        held: Tensor | None = spike._parameters.get(f"{name}_{within.coordinate}")
        with torch.no_grad():
            if held is not None:
                held.copy_(coordinate(torch.full_like(held, value), within))
            else:
                spike._buffers[f"{name}_fixed"].fill_(value)
    spike.surrogate = surrogate


def _steeper(function: Any, factor: float, layer: LayerRecord, width: float) -> Any:
    """A function of snnTorch's, which has its slope among what it encloses, with another slope."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    for place, name in enumerate(names):
        value = function.__closure__[place].cell_contents
        if name in ("slope", "alpha", "beta", "k") and isinstance(value, int | float):
            cells = [*function.__closure__]
            cells[place] = types.CellType(value * factor)
            made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells))
            layer.module.spike_grad = made  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            if abs(half_width_of(layer) / width - 1) < 0.1:
                return made
            layer.module.spike_grad = function
    raise ValueError(
        f"`{layer.name}` spikes by {function!r}, in which no slope was found to change; give it a surrogate of spikegrad.compat.snntorch, "
        "such as spike_grad=surrogate.fast_sigmoid(10)"
    )
