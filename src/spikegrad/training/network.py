"""The network that a configuration describes."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikegrad import encode, nn
from spikegrad.data import Events
from spikegrad.errors import InputError, meant
from spikegrad.kernels.choice import small
from spikegrad.nn import Spikes
from spikegrad.nn.sequential import joined
from spikegrad.training.config import Config
from spikegrad.training.named import function_of


class Activity(NamedTuple):
    """What a network did with one batch.

    Attributes:
        scores: one number for each class, (batch, class); the largest is the answer.
        trace: the readout over time, potentials or spikes, (time, batch, class).
        spikes: of each hidden layer, (time, batch, neuron), `Spikes` of those that ran by events; of a network of one's own, of its layers
            of spiking neurons from spikegrad.
    """

    scores: Tensor
    trace: Tensor
    spikes: list[Tensor | Spikes]

    @property
    def fired(self) -> list[Tensor]:
        """The spikes as tensors."""
        return [s.dense() if isinstance(s, Spikes) else s for s in self.spikes]


class Network(torch.nn.Module):
    """Hidden layers of spiking neurons and a readout.

    Each hidden layer is a linear map, batch normalisation if asked for, neurons, and dropout of their spikes. The readout is a linear
    map into integrators that do not spike, or, for the loss ``"count"``, into neurons whose spikes are counted. On the CPU, without batch
    normalisation, each linear map and its neurons run by events where that is the faster way, see `nn.SpikingLinear.chosen`.

    Args:
        config: see `Config`.
        features: number of inputs.
        classes: number of outputs.

    Example:
        >>> import torch
        >>> from spikegrad.training import Config
        >>> from spikegrad.training.network import Network
        >>> network = Network(Config(hidden=(32,), steps=5), features=64, classes=10)
        >>> activity = network(torch.rand(8, 64))
        >>> activity.scores.shape, activity.spikes[0].shape
        (torch.Size([8, 10]), torch.Size([5, 8, 32]))
    """

    def __init__(self, config: Config, features: int, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        layers: list[torch.nn.Module] = []
        for size in config.hidden:
            norm = [torch.nn.BatchNorm1d(size)] if config.norm else []
            modules = torch.nn.Linear(features, size, bias=config.bias and not config.norm), *norm, self._neurons(size)
            layers.append(nn.Sequential(*modules, memory=config.memory))  # pyright: ignore[reportArgumentType]
            features = size
        self.layers = torch.nn.ModuleList(layers)
        self.dropout = torch.nn.Dropout(config.dropout)
        last = self._neurons() if config.loss == "count" else nn.LeakyIntegrator(config.decay)
        self.readout = nn.Sequential(torch.nn.Linear(features, classes, bias=config.bias), last)

    def _neurons(self, size: int | None = None) -> nn.Layer:
        """One layer's neurons; a readout, of no `size`, has no recurrent connections."""
        recurrent: Any = self.config.recurrent if size is not None and self.config.recurrent != "none" else None
        return nn.Layer(self.config.cell, learn=self.config.learned, recurrent=recurrent, features=size)

    @property
    def takes_events(self) -> bool:
        """Whether it may run by events as it is, so that event data need not be made dense."""
        weight = next(self.parameters())
        return type(self) is Network and self._may_list and weight.is_cpu and weight.dtype is torch.float32

    def encode(self, x: Tensor) -> Tensor:
        """Samples (batch, feature) or (batch, time, channel) as input in time, (time, batch, feature)."""
        if x.ndim == 3:
            return x.transpose(0, 1)
        encoder = {"current": encode.current, "latency": encode.latency, "rate": encode.rate}[self.config.encoding]
        return encoder(x, self.config.steps or 10)

    def forward(self, x: Tensor | Events) -> Activity:
        """Answer a batch of samples, (batch, feature) or (batch, time, channel)."""
        return self.answer(Spikes.of(x) if isinstance(x, Events) else self.encode(x))

    def answer(self, x: Tensor | Spikes) -> Activity:
        """Answer what is encoded already, (time, batch, feature)."""
        spikes: list[Tensor | Spikes] = []
        for layer in (*self.layers, self.readout):
            linear, neurons = layer[0], layer[-1]  # pyright: ignore[reportIndexIssue]
            if self._may_list and isinstance(x, Tensor) and type(linear) is torch.nn.Linear and not small(x.shape, linear.out_features):
                merged = joined(linear, neurons)
                x = x if merged is None else merged.handed_on(x)
            x, _ = layer(self._dropped(x) if spikes else x)
            spikes.append(x)
        *hidden, last = spikes
        trace = last.dense() if isinstance(last, Spikes) else last
        return Activity(self.score(trace), trace, hidden)

    def _dropped(self, x: Tensor | Spikes) -> Tensor | Spikes:
        if isinstance(x, Tensor):
            return self.dropout(x)
        return x.dropped(self.dropout.p) if self.dropout.training else x

    @property
    def _may_list(self) -> bool:
        """Whether every layer is a linear map and its neurons, which may run by events, and keeps what autograd keeps."""
        return not self.config.norm and self.config.memory == "save"

    def score(self, trace: Tensor) -> Tensor:
        """One number for each class, (batch, class), from the readout over time."""
        wide = trace.float()
        return wide.mean(0) if self.config.loss == "mean" else wide.amax(0) if self.config.loss == "max" else wide.sum(0)


class OwnNetwork(Network):
    """Any module in the place of the network that a configuration describes.

    Args:
        config: gives `steps`, `encoding` and `loss`.
        model: a module from sequences, (time, batch, feature), to the readout over time, (time, batch, class), or to one number for each
            class, (batch, class); what else it returns in a tuple is left alone, so that `spikegrad.nn.Sequential` is one.
        classes: number of classes.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.training import Config
        >>> from spikegrad.training.network import OwnNetwork
        >>> model = nn.Sequential(torch.nn.Linear(64, 32), nn.Leaky(0.9), torch.nn.Linear(32, 10), nn.LeakyIntegrator(0.9))
        >>> activity = OwnNetwork(Config(steps=5), model, classes=10)(torch.rand(8, 64))
        >>> activity.scores.shape, activity.spikes[0].shape
        (torch.Size([8, 10]), torch.Size([5, 8, 32]))
    """

    def __init__(self, config: Config, model: torch.nn.Module, classes: int) -> None:
        torch.nn.Module.__init__(self)
        self.config, self.classes, self.model = config, classes, model

    def answer(self, x: Tensor | Spikes) -> Activity:
        """Answer what is encoded already, (time, batch, feature)."""
        x = x.dense() if isinstance(x, Spikes) else x
        fired: dict[str, list[Tensor]] = {}

        def keep(name: str) -> Any:
            def hook(module: torch.nn.Module, given: object, made: Any) -> None:
                fired.setdefault(name, []).append(made[0][0] if isinstance(made[0], tuple) else made[0])

            return hook

        layers = {name: module for name, module in self.model.named_modules() if isinstance(module, nn.Layer)}
        spiking = {name: module for name, module in layers.items() if "excess" in module.neuron.record.recorded}
        hooks = [module.register_forward_hook(keep(name)) for name, module in spiking.items()]
        try:
            made: Any = self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        out = made[0] if isinstance(made, tuple) and made else made
        if not isinstance(out, Tensor) or out.shape[-2:] != (x.shape[1], self.classes) or out.ndim not in (2, 3):
            got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise InputError(
                f"the network must return (time, batch, class) or (batch, class), here (..., {x.shape[1]}, {self.classes}) "
                f"for an input of shape {tuple(x.shape)}, got {got}"
            )
        spikes: list[Tensor | Spikes] = [torch.cat(each).flatten(2) for each in fired.values() if each[0] is not out]
        if out.ndim == 2:  # a score that was never a sequence is drawn as one that stays
            return Activity(out.float(), out.expand(len(x), *out.shape), spikes)
        return Activity(self.score(out), out, spikes)


SIZES = ("features", "classes", "steps", "shape")
"""What the function that makes a network may ask for."""


def network(config: Config, features: int, classes: int, shape: tuple[int, ...]) -> Network:
    """The network that a configuration describes, or that the function makes which it names.

    Raises:
        InputError: the function fails, asks for something else than sizes, or returns no module that learns.
    """
    if not config.model:
        return Network(config, features, classes)
    make = function_of(config.model)
    sizes = {"features": features, "classes": classes, "steps": config.steps, "shape": shape}
    asked = inspect.signature(make).parameters.values()
    needed = [each.name for each in asked if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    if unknown := [name for name in needed if name not in SIZES]:
        raise InputError(f"{config.model} asks for {unknown[0]!r}, and gets {', '.join(SIZES)}{meant(unknown[0], SIZES)}")
    given = sizes if any(each.kind is each.VAR_KEYWORD for each in asked) else {p.name: sizes[p.name] for p in asked if p.name in SIZES}
    try:
        made: Any = make(**given)
    except Exception as error:  # whatever a user's function raises
        raise InputError(f"{config.model} fails: {type(error).__name__}: {error}") from error
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"{config.model} must return a torch.nn.Module, got {type(made).__name__}")
    if not any(parameter.requires_grad for parameter in made.parameters()):
        raise InputError(f"{config.model} returns a {type(made).__name__} that has nothing to learn")
    return OwnNetwork(config, made, classes)
