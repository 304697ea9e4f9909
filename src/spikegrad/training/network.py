"""The network that a configuration describes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikegrad import encode, nn
from spikegrad.training.config import Config


class Activity(NamedTuple):
    """What a network did with one batch.

    Attributes:
        scores: one number for each class, (batch, class); the largest is the answer.
        trace: the readout over time, potentials or spikes, (time, batch, class).
        spikes: of each hidden layer, (time, batch, neuron).
    """

    scores: Tensor
    trace: Tensor
    spikes: list[Tensor]


class Network(torch.nn.Module):
    """Hidden layers of spiking neurons and a readout.

    Each hidden layer is a linear map, batch normalisation if asked for, neurons, and dropout of their spikes. The readout is a linear
    map into integrators that do not spike, or, for the loss ``"count"``, into neurons whose spikes are counted.

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
            layers.append(nn.Sequential(torch.nn.Linear(features, size, bias=not config.norm), *norm, self._neurons(size)))
            features = size
        self.layers = torch.nn.ModuleList(layers)
        self.dropout = torch.nn.Dropout(config.dropout)
        last = self._neurons() if config.loss == "count" else nn.LeakyIntegrator(config.decay)
        self.readout = nn.Sequential(torch.nn.Linear(features, classes), last)

    def _neurons(self, size: int | None = None) -> nn.Layer:
        """One layer's neurons; a readout, of no `size`, has no recurrent connections."""
        recurrent: Any = self.config.recurrent if size is not None and self.config.recurrent != "none" else None
        return nn.Layer(self.config.cell, learn=self.config.learned, recurrent=recurrent, features=size)

    def encode(self, x: Tensor) -> Tensor:
        """Samples (batch, feature) or (batch, time, channel) as input in time, (time, batch, feature)."""
        if x.ndim == 3:
            return x.transpose(0, 1)
        encoder = {"current": encode.current, "latency": encode.latency, "rate": encode.rate}[self.config.encoding]
        return encoder(x, self.config.steps or 10)

    def forward(self, x: Tensor) -> Activity:
        """Answer a batch of samples, (batch, feature) or (batch, time, channel)."""
        return self.answer(self.encode(x))

    def answer(self, x: Tensor) -> Activity:
        """Answer what is encoded already, (time, batch, feature)."""
        spikes: list[Tensor] = []
        for layer in self.layers:
            fired, _ = layer(x)
            spikes.append(fired)
            x = self.dropout(fired)
        trace, _ = self.readout(x)
        wide = trace.float()
        scores = wide.mean(0) if self.config.loss == "mean" else wide.amax(0) if self.config.loss == "max" else wide.sum(0)
        return Activity(scores, trace, spikes)
