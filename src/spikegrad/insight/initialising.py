"""Weights from which a deep network starts alive: potentials that fluctuate around rest as far as the threshold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.insight.measuring import batched, undisturbed
from spikegrad.insight.recording import LayerRecord, Recording, record
from spikegrad.insight.response import answered, reach, response_of
from spikegrad.insight.wiring import Wires, ordered, wiring
from spikegrad.nn import Layer, SpikingLinear

ROUNDS, NEAR = 6, 0.03
"""How often weights are corrected by what they give, and how near to the target that ends."""

Map = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | SpikingLinear


def fluctuation_driven(
    model: nn.Module, batch: Any, *, deviation: float = 1.0, recurrent: float = 0.1, generator: torch.Generator | None = None
) -> dict[str, float]:
    r"""Draw the weights anew so that the potential of every spiking layer fluctuates around rest with a given standard deviation.

    Rossbroich, Gygax and Zenke (2022): weights are normal, with mean 0 and the variance

    .. math:: \sigma_w^2 = \frac{\sigma_U^2}{\sum_j \mathrm{Var}[(\epsilon * s_j)(t)]}

    where the sum is over the inputs j of a neuron and :math:`\epsilon` is its response to a unit of current, which is computed from its
    formula. For Poisson spikes of rate :math:`\nu` the sum is the :math:`n \nu \hat\epsilon` of the paper; here the variance is that of the
    inputs which the batch brings, over time and samples, layer after layer. Since resets take part of the fluctuation away, the weights are
    then scaled until the potential, as it is before each reset, has the deviation. Biases become 0. Of recurrent layers the share
    `recurrent` of the variance comes from their own spikes. Readouts that do not spike keep their weights.

    Args:
        model: with layers that are fed by `torch.nn.Linear`, ``Conv1d``, ``Conv2d``, ``Conv3d`` or `nn.SpikingLinear`.
        batch: an input of the model, or the pair of an input and its labels, of which only the input is used; 100 samples or more.
        deviation: standard deviation of the potential of a neuron over time and samples, as a share of the way from rest to the threshold:
            the paper's 1 / xi.
        recurrent: share of the variance that recurrent connections bring.
        generator: where weights are drawn from; PyTorch's own if None.

    Returns:
        The standard deviation of each layer's potential, by name, in the same unit.

    Raises:
        ValueError: a layer is fed by something else, such as a normalisation, or gets no input; a share is out of range.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import nn
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(torch.nn.Linear(20, 64), nn.Leaky(0.9), torch.nn.Linear(64, 64), nn.Leaky(0.9))
        >>> reached = spikegrad.fluctuation_driven(net, torch.bernoulli(torch.full((50, 32, 20), 0.1)))
        >>> {name: round(value, 1) for name, value in reached.items()}
        {'1': 1.0, '3': 1.0}
    """
    if not 0 <= recurrent < 1 or not deviation > 0:
        raise ValueError(f"`deviation` must be positive and `recurrent` at least 0 and below 1, got {deviation} and {recurrent}")
    x = batch[0] if type(batch) in (tuple, list) else batch
    seen, inputs, wires = _run(model, x)
    for name in ordered(wires):
        layer = seen[name]
        if layer.spiking:
            owner = _owner(model, layer, wires[name])
            module: Any = layer.module
            weights = module.weight if isinstance(module, Layer) and module.connection != "none" else None
            share = recurrent if weights is not None else 0.0
            with torch.no_grad():
                _, inputs, _ = _run(model, x)
                _draw(owner, (1 - share) ** 0.5 * deviation, _spread(owner, inputs[owner], layer), generator)
                if weights is not None:
                    weights.zero_()
                    own, _, _ = _run(model, x)
                    spikes = own[name].spikes
                    assert spikes is not None
                    variance = _variance(layer, batched(spikes))
                    total = variance.flatten().sum() if module.connection == "all-to-all" else variance.mean()
                    weights.normal_(0, float((share / total.clamp(min=1e-12)).sqrt()) * deviation, generator=generator)
            _correct(model, x, name, owner, weights, deviation, share)
    reached, _, _ = _run(model, x)
    return {name: deviation_of(layer) for name, layer in reached.items() if layer.called and layer.spiking}


def deviation_of(layer: LayerRecord) -> float:
    """How far a layer's potentials fluctuate: their standard deviation over time and samples, as a share of the way to the threshold.

    Of the neurons the root mean square.
    """
    excess = layer.excess
    assert excess is not None
    return float((batched(excess.detach()) / reach(layer.module).to(excess)).double().var((0, 1), correction=0).mean().sqrt())


def _run(model: nn.Module, x: Any) -> tuple[Recording, dict[nn.Module, Tensor], dict[str, Wires]]:
    """The layers, and what each map was given, in one pass."""
    given: dict[nn.Module, list[Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(lambda m, args: given.setdefault(m, []).append(args[0].detach()))
        for module in model.modules()
        if isinstance(module, Map)
    ]
    try:
        with undisturbed(model), torch.enable_grad(), record(model, gradient=True) as seen:
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen, {module: torch.stack(parts) if len(parts) > 1 else parts[0] for module, parts in given.items()}, wiring(model, seen)


def _owner(model: nn.Module, layer: LayerRecord, wires: Wires) -> nn.Module:
    """The map that feeds a layer."""
    modules = dict(model.named_modules())
    module = modules[wires.last[0].rpartition(".")[0]] if wires.last else None
    if not isinstance(module, Map):
        found = "nothing that learns" if module is None else f"a {type(module).__name__}"
        raise ValueError(
            f"the weights of `{layer.name}` cannot be set: it is fed by {found}, and must be by a Linear, a convolution or an "
            "nn.SpikingLinear"
        )
    return module


def _variance(layer: LayerRecord, x: Tensor) -> Tensor:
    """The variance over time and samples of each input, as the layer's neurons answer it, in thresholds: ``(*features)``."""
    kernel = response_of(layer.module, len(x))
    kernel = (
        (kernel / reach(layer.module).cpu()).flatten(1).square().mean(1).sqrt() if kernel.ndim > 1 else kernel / reach(layer.module).cpu()
    )
    potential = answered(kernel.to(x.device), x.double().flatten(1)).unflatten(1, x.shape[1:])
    return potential.var((0, 1), correction=0)


def _spread(owner: nn.Module, given: Tensor, layer: LayerRecord) -> float:
    """The variance of a neuron's potential for weights of variance 1."""
    steps, samples = batched(layer.current).shape[:2]
    sequence = given.reshape(steps, samples, *given.shape[given.ndim - _dimensions(owner) :])
    variance = _variance(layer, sequence)
    if isinstance(owner, nn.Linear | SpikingLinear):
        return float(variance.sum(-1).mean())
    convolution: Any = owner
    size = (convolution.groups, convolution.in_channels // convolution.groups, *convolution.kernel_size)
    function: Any = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[len(convolution.kernel_size)]
    padding = convolution.padding if convolution.padding_mode == "zeros" else 0
    options = {"stride": convolution.stride, "padding": padding, "dilation": convolution.dilation, "groups": convolution.groups}
    return float(function(variance[None], torch.ones(size, dtype=variance.dtype, device=variance.device), **options).mean())


def _dimensions(owner: nn.Module) -> int:
    """How many of an input's dimensions are those of one step of one sample."""
    return 1 if isinstance(owner, nn.Linear | SpikingLinear) else 1 + len(owner.kernel_size)  # pyright: ignore


def _draw(owner: Any, deviation: float, spread: float, generator: torch.Generator | None) -> None:
    if not spread > 0:
        raise ValueError(f"nothing arrives at a {type(owner).__name__} of the model, whose weights are to be set: its input never changes")
    owner.weight.normal_(0, deviation / math.sqrt(spread), generator=generator)
    if owner.bias is not None:
        owner.bias.zero_()


def _correct(model: nn.Module, x: Any, name: str, owner: Any, weights: Tensor | None, deviation: float, share: float) -> None:
    """Scale a layer's weights until its potential has the deviation, and of that its own spikes bring their share."""
    for _ in range(ROUNDS if weights is None else 2 * ROUNDS):
        seen, _, _ = _run(model, x)
        now, own = deviation_of(seen[name]), _own_share(seen[name]) if share else share
        if not now > 0 or (abs(now / deviation - 1) < NEAR and abs(own - share) < NEAR):
            return
        with torch.no_grad():
            owner.weight.mul_(_within(deviation / now * math.sqrt((1 - share) / max(1 - own, 1e-6))))
            if weights is not None and share:
                weights.mul_(_within(deviation / now * math.sqrt(share / max(own, 1e-6))))


def _within(factor: float) -> float:
    return min(max(factor, 0.5), 2.0)


def _own_share(layer: LayerRecord) -> float:
    """What share of the variance of a recurrent layer's potential its own spikes bring, were it never reset."""
    module: Any = layer.module
    spikes = layer.spikes
    assert spikes is not None
    spikes = batched(spikes.detach()).float()
    late = torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]])
    fed = late @ module.weight.detach().T if module.connection == "all-to-all" else late * module.weight.detach()
    own, given = (float(_variance(layer, part).mean()) for part in (fed, batched(layer.current.detach())))
    return own / max(own + given, 1e-30)
