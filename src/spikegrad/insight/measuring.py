"""One pass forward and backward through a model that is left as it was, and what it says of every layer."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikegrad.insight.recording import LayerRecord, Recording, record
from spikegrad.insight.response import reach
from spikegrad.insight.wiring import Wires, wiring
from spikegrad.nn import Layer

Loss = Callable[[Any, Any], Tensor]

FLAT = 0.01
"""A surrogate's derivative below this share of its peak is as good as none."""
ALWAYS = 0.9
"""A neuron that spikes in this share of all steps is saturated."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Measured:
    """What one layer did in one pass. Potentials are in thresholds: 0 at rest, 1 where it spikes; those of a readout as they are.

    Attributes:
        name: where it stands in the model.
        kind: its class, of an `nn.Layer` that of its neuron.
        spiking: whether it spikes; if not, what is said of spikes and of the surrogate is 0.
        neurons: how many.
        steps: how long the sequence was.
        rate: spikes per neuron and step.
        silent: share of neurons that never spike.
        saturated: share of neurons that spike in nine of ten steps or more.
        mean: of the potential.
        deviation: its standard deviation over neurons, samples and time.
        quantiles: its quantiles, `QUANTILES`.
        distance: root of the mean square of potential minus threshold, in the potential's own unit.
        flat: share of pairs of neuron and step at which the surrogate's derivative is below one hundredth of its peak.
        left: mean of the derivative, as a share of the peak.
        half_width: of the surrogate, in the potential's own unit.
        removed: what the reset takes from the potential, as a share of the potential's mean size.
        gradient: norm of the gradient of its current.
        gradient_over_time: the same for each step.
        weights: names of the parameters that lead to it.
        weight_gradient: norm of their gradient.
        dead: share of these weights whose gradient is exactly 0.
        update: size of one update over that of these weights; None without an optimiser.
        before: names of the layers that lead to it.
        readout: whether it leads to no other layer.
    """

    name: str
    kind: str
    spiking: bool
    neurons: int
    steps: int
    rate: float
    silent: float
    saturated: float
    mean: float
    deviation: float
    quantiles: tuple[float, ...]
    distance: float
    flat: float
    left: float
    half_width: float
    removed: float
    gradient: float
    gradient_over_time: tuple[float, ...]
    weights: tuple[str, ...]
    weight_gradient: float
    dead: float
    update: float | None
    before: tuple[str, ...]
    readout: bool


@dataclass
class Pass:
    """One pass: the loss, the layers, and the gradients of currents and parameters."""

    loss: float
    recording: Recording
    wires: dict[str, Wires]
    gradients: dict[str, Tensor]
    """Of the parameters that the loss depends on, by name."""
    of_currents: dict[str, Tensor | None]
    """Of the current of each layer that was called, ``(time, batch, *features)``."""


def first_of(output: Any) -> Any:
    """What the loss is given of what a model returned: the first of a plain tuple or list, as of ``(spikes, state)``, else all of it."""
    return output[0] if type(output) in (tuple, list) and len(output) else output


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Generator[None]:
    """Leave random numbers, buffers, hidden states and statistics as they were."""
    buffers = [(m, dict(m._buffers)) for m in model.modules()]  # pyright: ignore[reportPrivateUsage]
    values = [(x, x.detach().clone()) for _, each in buffers for x in each.values() if x is not None]
    devices = sorted({x.device.index or 0 for x in model.parameters() if x.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, each in buffers:
            module._buffers.clear()  # pyright: ignore[reportPrivateUsage]
            module._buffers.update(each)  # pyright: ignore[reportPrivateUsage]
        for x, was in values:
            if not torch.equal(x.detach(), was):
                x.data.copy_(was)  # not seen by a graph of the user's that it may be part of


def run(model: nn.Module, x: Any, y: Any, loss: Loss) -> Pass:
    """Run a model forward and backward once, without touching its gradients."""
    with undisturbed(model), torch.enable_grad(), record(model, gradient=True) as seen:
        output = model(x)
        value = loss(first_of(output), y)
    if not isinstance(value, Tensor) or value.numel() != 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__  # pyright: ignore
        raise TypeError(f"`loss` must return one number as a tensor, got {given}; take its mean over samples and time")
    value = value.reshape(())
    wires = wiring(model, seen)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parts = {name: [x for x in layer.parts("current") if x.requires_grad] for name, layer in seen.items()}
    tensors = [*named.values(), *(x for each in parts.values() for x in each)]
    found: Sequence[Tensor | None] = [None] * len(tensors)
    if value.requires_grad and tensors:
        found = torch.autograd.grad(value, tensors, allow_unused=True)
    made = iter(found)
    gradients = {name: g for name, g in zip(named, made, strict=False) if g is not None}
    made = iter(found[len(named) :])
    currents: dict[str, Tensor | None] = {}
    for name, layer in seen.items():
        given = layer.parts("current")
        each = [g if x.requires_grad and (g := next(made)) is not None else torch.zeros_like(x) for x in given]
        currents[name] = (
            (torch.stack(each) if layer.stepwise else torch.cat(each)).detach() if any(x.requires_grad for x in given) else None
        )
    return Pass(float(value.detach()), seen, wires, gradients, currents)


def measured(done: Pass, model: nn.Module, updates: Mapping[str, float] | None) -> dict[str, Measured]:
    """What a pass says of every layer, in the order of the model.

    Args:
        done: the pass.
        model: what was run.
        updates: size of one update of each parameter, by name.
    """
    parameters = dict(model.named_parameters())
    layers = {name: layer for name, layer in done.recording.items() if layer.called}
    return {name: _measure(layer, done, parameters, updates) for name, layer in layers.items()}


def _measure(layer: LayerRecord, done: Pass, parameters: Mapping[str, Tensor], updates: Mapping[str, float] | None) -> Measured:
    wires, prefix = done.wires[layer.name], f"{layer.name}." if layer.name else ""
    own = [name for name in parameters if name.startswith(prefix) and id(parameters[name]) in {id(p) for p in layer.module.parameters()}]
    weights = tuple(dict.fromkeys((*wires.parameters, *own)))
    gradients = [done.gradients[name] for name in weights if name in done.gradients]
    total = sum(parameters[name].numel() for name in weights if parameters[name].requires_grad)
    alive = sum(int((g != 0).sum()) for g in gradients)
    size = norm([parameters[name] for name in weights])
    moved = math.hypot(*(updates[name] for name in weights if name in updates)) if updates is not None else None
    arriving = done.of_currents[layer.name]
    over_time = () if arriving is None else tuple(arriving.double().flatten(1).norm(dim=1).tolist())
    current = batched(layer.current)
    common: dict[str, Any] = {
        "name": layer.name,
        "kind": type(layer.module.neuron if type(layer.module) is Layer else layer.module).__name__,
        "spiking": layer.spiking,
        "neurons": current[0, 0].numel(),
        "steps": len(current),
        "gradient": math.hypot(*over_time),
        "gradient_over_time": over_time,
        "weights": weights,
        "weight_gradient": norm(gradients),
        "dead": 1 - alive / total if total else 0.0,
        "update": None if moved is None else moved / size if size else 0.0,
        "before": wires.before,
        "readout": all(layer.name not in each.before for each in done.wires.values()),
    }
    nothing = dict.fromkeys(("rate", "silent", "saturated", "distance", "flat", "left", "half_width", "removed"), 0.0)
    if not layer.spiking:
        potential = layer.potential
        mean, deviation, quantiles = _distribution(current if potential is None else potential.detach())
        return Measured(**common, **nothing, mean=mean, deviation=deviation, quantiles=quantiles)
    spikes, excess = layer.spikes, layer.excess
    assert spikes is not None
    assert excess is not None
    spikes, excess = batched(spikes.detach()), batched(excess.detach())
    fired = (spikes != 0).float().mean((0, 1))
    within = reach(layer.module).to(excess)
    mean, deviation, quantiles = _distribution(1 + excess / within)
    sample = _sample(excess)
    slopes, peak = layer.derivative(sample).abs().nan_to_num(0), peak_of(layer)
    return Measured(
        **common,
        rate=float(fired.mean()),
        silent=float((fired == 0).float().mean()),
        saturated=float((fired >= ALWAYS).float().mean()),
        mean=mean,
        deviation=deviation,
        quantiles=quantiles,
        distance=float(excess.double().square().mean().sqrt()),
        flat=float((slopes < FLAT * peak).float().mean()) if peak else 1.0,
        left=float(slopes.double().mean() / peak) if peak else 0.0,
        half_width=half_width_of(layer),
        removed=_removed(layer, spikes, excess, within),
    )


def batched(x: Tensor) -> Tensor:
    """A sequence ``(time, batch, *features)``, also of one sample."""
    return x if x.ndim > 2 else x.unsqueeze(1)


def _sample(x: Tensor, most: int = 2**18) -> Tensor:
    flat = x.flatten()
    return flat[:: -(-len(flat) // most)]


def _distribution(x: Tensor) -> tuple[float, float, tuple[float, ...]]:
    x = _sample(x).double()
    quantiles = torch.quantile(x, torch.tensor(QUANTILES, dtype=x.dtype, device=x.device)) if bool(x.isfinite().all()) else x[:5]
    return float(x.mean()), float(x.std(correction=0)), tuple(quantiles.tolist())


def _removed(layer: LayerRecord, spikes: Tensor, excess: Tensor, within: Tensor) -> float:
    """How much of the potential the reset takes."""
    module: Any = layer.module
    how = module.neuron.reset if isinstance(module, Layer) else module.reset_mechanism
    potential = excess + within
    taken = {"subtract": within * spikes, "zero": potential * spikes}.get(how)
    return 0.0 if taken is None else float(taken.abs().double().mean() / potential.abs().double().mean().clamp(min=1e-30))


def peak_of(layer: LayerRecord) -> float:
    """The largest value of a layer's surrogate derivative."""
    surrogate = layer.surrogate
    return surrogate.peak if surrogate is not None else float(layer.derivative(_grid(layer)).abs().nan_to_num(0).max())


def half_width_of(layer: LayerRecord) -> float:
    """Half of the width over which the derivative is at least half of its peak, also of a surrogate that is none of ours."""
    surrogate = layer.surrogate
    if surrogate is not None:
        return surrogate.half_width
    x = _grid(layer)
    slopes = layer.derivative(x).abs().nan_to_num(0)
    above = x[slopes >= slopes.max() / 2]
    return float(above.max() - above.min()) / 2 if len(above) < len(x) else math.inf


def _grid(layer: LayerRecord) -> Tensor:
    """Potentials over the threshold, close together near 0 and reaching far out."""
    side = torch.from_numpy(np.geomspace(1e-6, 100, 8001))
    module: Any = layer.module
    like = module.threshold.detach()
    return torch.cat([-side.flip(0), torch.zeros(1, dtype=side.dtype), side]).to(like if like.is_floating_point() else like.float())


def norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all of them together."""
    return math.hypot(*(float(x.detach().double().norm()) for x in tensors))


@dataclass(frozen=True)
class Update:
    """One step of an optimiser, taken on copies.

    Attributes:
        sizes: the norm of what it added to each parameter, by name.
        loss: of the same batch afterwards.
    """

    sizes: dict[str, float]
    loss: float


def updated(
    model: nn.Module, x: Any, y: Any, loss: Loss, optimizer: torch.optim.Optimizer, gradients: Mapping[str, Tensor], factor: float = 1.0
) -> Update:
    """Take one step of a copy of an optimiser on copies of the parameters, with its learning rates times a factor.

    Raises:
        ValueError: the optimiser has no parameter of the model, or wants a closure.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    twin = copy.deepcopy(optimizer)
    twin.__dict__.pop("step", None)  # where a scheduler has put a wrapper around the step of the original
    pairs = [
        (p, q)
        for group, other in zip(optimizer.param_groups, twin.param_groups, strict=True)
        for p, q in zip(group["params"], other["params"], strict=True)
    ]
    if not any(id(p) in names for p, _ in pairs):
        raise ValueError("the optimizer has no parameter of this model: make it with model.parameters() of the model that is given")
    for group in twin.param_groups:
        group["lr"] = group["lr"] * factor
    for p, q in pairs:
        gradient = gradients.get(names.get(id(p), ""))
        q.grad = None if gradient is None else gradient.detach().clone()
    try:
        twin.step()
    except TypeError as error:
        raise ValueError(f"one step of {type(optimizer).__name__} cannot be measured: {error}; leave the optimizer out") from error
    moved = {names[id(p)]: (p.detach(), q.detach()) for p, q in pairs if id(p) in names}
    sizes = {name: float((q - p).double().norm()) for name, (p, q) in moved.items()}
    with undisturbed(model), torch.no_grad():
        output = torch.func.functional_call(model, {name: q for name, (_, q) in moved.items()}, (x,))
        value = float(loss(first_of(output), y))
    return Update(sizes, value)


@contextlib.contextmanager
def detached_resets(model: nn.Module) -> Generator[list[str]]:
    """The layers whose reset passes a gradient, by name, run without that meanwhile."""
    names: list[str] = []
    with contextlib.ExitStack() as undo:
        for name, module in model.named_modules():
            if isinstance(module, Layer) and not module.neuron.detach_reset:
                with contextlib.suppress(ValueError):  # its step has no such reset
                    other = dataclasses.replace(module.neuron, detach_reset=True)
                    undo.callback(setattr, module, "neuron", module.neuron)
                    module.neuron = other
                    names.append(name)
        yield names


def compared(done: Pass, other: Pass) -> dict[str, tuple[float, float]]:
    """Of each layer's weights the norm of the gradient of another pass, and its cosine with that of this one."""
    found: dict[str, tuple[float, float]] = {}
    for name, wires in done.wires.items():
        pairs = [
            (done.gradients[each].double(), other.gradients[each].double())
            for each in wires.parameters
            if each in done.gradients.keys() & other.gradients
        ]
        one, two = norm([a for a, _ in pairs]), norm([b for _, b in pairs])
        if two > 0:
            found[name] = two, sum(float((a * b).sum()) for a, b in pairs) / max(one * two, 1e-300)
    return found
