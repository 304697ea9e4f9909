"""A convolutional network with the shapes of SEW-ResNet18 at four steps, ours and SpikingJelly's neurons in the same network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.card import Card, alternate, tried, wall
from benchmarks.measure import DisagreementError, Effort, Report, Section, Task, rows

STEPS, BATCH, SIDE = 4, 32, 224
WIDTHS = (64, 128, 256, 512)
Spiking = Callable[[], nn.Module]


def each(module: nn.Module, x: Tensor) -> Tensor:
    """A module of samples over a sequence."""
    made = module(x.flatten(0, 1))
    return made.unflatten(0, x.shape[:2])


class Block(nn.Module):
    """Two convolutions, each with batch normalisation and neurons, whose spikes are added to what came in."""

    def __init__(self, before: int, width: int, stride: int, spiking: Spiking) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.neurons = nn.ModuleList(spiking() for _ in range(2 + (stride > 1)))
        self.past = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Spikes to spikes."""
        out = self.neurons[1](each(self.second, self.neurons[0](each(self.first, x))))
        return out + (x if self.past is None else self.neurons[2](each(self.past, x)))


class Network(nn.Module):
    """The stem, four stages of two blocks, and a classifier of the mean over time."""

    def __init__(self, spiking: Spiking, widths: tuple[int, ...] = WIDTHS, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]))
        self.neurons, self.pool = spiking(), nn.MaxPool2d(3, 2, 1)
        shapes = [(before, width, 1 + (before != width)) for before, width in zip((widths[0], *widths), widths, strict=False)]
        pairs = (Block(b, w, s if k == 0 else 1, spiking) if k == 0 else Block(w, w, 1, spiking) for b, w, s in shapes for k in range(2))
        self.blocks = nn.Sequential(*pairs)
        self.last = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to scores."""
        spikes = self.neurons(each(self.stem, x))
        return self.last(self.blocks(each(self.pool, spikes)).mean((0, 3, 4)))


class Ours(nn.Module):
    """An integrate-and-fire layer that returns its spikes alone."""

    def __init__(self) -> None:
        super().__init__()
        from spikegrad import neurons
        from spikegrad import nn as own

        self.layer = own.Layer(neurons.IntegrateAndFire(reset="zero"))

    def forward(self, x: Tensor) -> Tensor:
        """Currents to spikes."""
        return self.layer(x)[0]


def theirs() -> nn.Module:
    """SpikingJelly's, with what it chooses itself."""
    from spikingjelly.activation_based import neuron, surrogate

    return neuron.IFNode(surrogate_function=surrogate.ATan(2.0), detach_reset=True, step_mode="m")


def step(spiking: Spiking, card: Card, shape: tuple[int, ...], widths: tuple[int, ...], *, compiled: bool) -> Task:
    """A training step, in channels last."""
    torch.manual_seed(0)
    network = Network(spiking, widths).to(card.device, memory_format=torch.channels_last)
    run = card.compiled(network) if compiled else network
    x = torch.randn(shape[1:], generator=torch.Generator().manual_seed(0)).to(card.device, memory_format=torch.channels_last)
    images = x.expand(shape[0], *x.shape)
    labels = torch.zeros(shape[1], dtype=torch.long, device=card.device)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    memories = [m for m in network.modules() if hasattr(m, "reset") and m is not network]

    def call() -> Any:
        for memory in memories:  # which theirs keeps between calls
            memory.reset()
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return call


def compare(card: Card, effort: Effort, report: Report) -> None:
    """Training steps of both, with and without a compiler, which comes last, if there is time for it."""
    shape, widths = ((2, 2, 3, 8, 8), (4,)) if effort.quick else ((STEPS, BATCH, 3, SIDE, SIDE), WIDTHS)
    sides: dict[str, Spiking] = {"spikegrad": Ours}
    if importlib.util.find_spec("spikingjelly") is not None:
        sides["SpikingJelly"] = theirs
        losses = [[float(call()) for _ in range(2)] for call in (step(s, card, shape, widths, compiled=False) for s in sides.values())]
        if not all(abs(a - b) < 1e-2 * abs(a) for a, b in zip(*losses, strict=True)):
            raise DisagreementError(f"SEW-ResNet18: losses of the first steps are {losses[0]}, theirs {losses[1]}")
        report.checked.append(f"SEW-ResNet18: the losses of two steps agree, {losses[0][0]:.4g} and {losses[0][1]:.4g}")
    else:
        report.skipped.append("SpikingJelly's SEW-ResNet18: spikingjelly is not installed")
    makers: dict[str, Callable[[], Task]] = {}
    for name, spiking in sides.items():
        makers[name] = lambda spiking=spiking: step(spiking, card, shape, widths, compiled=False)
    tasks = tried(makers, report)
    for name, spiking in sides.items():
        if card.left() < 70:
            report.skipped.append(f"{name}, compiled: no time was left")
        else:
            tasks |= tried({f"{name}, compiled": lambda spiking=spiking: step(spiking, card, shape, widths, compiled=True)}, report)
    title = "SEW-ResNet18's shapes, T = {}, B = {}, {} by {}".format(shape[0], shape[1], *shape[3:])
    text = "Forward, loss, backward and SGD of integrate-and-fire neurons, float32, channels last, by the clock."
    report.sections.append(Section(title, "ms", rows(alternate(tasks, effort, wall(card), 8.0), "spikegrad"), "spikegrad", text))
