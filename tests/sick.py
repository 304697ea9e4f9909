"""Networks that do not learn, each for one reason, and networks that do: for the tests of the diagnosis.

The task: 20 spike trains of 24 steps whose rates, in each of four classes, follow curves of their own. Chance is 0.25.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spikegrad import ATan, FastSigmoid, Surrogate, Triangle, nn

CLASSES, INPUTS, STEPS, HIDDEN = 4, 20, 24, 32


@dataclasses.dataclass
class Case:
    """A network with what it is trained with."""

    model: torch.nn.Module
    loss: Callable[[Any, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    scores: Callable[[Tensor], Tensor]

    def batch(self, size: int = 64) -> tuple[Tensor, Tensor]:
        x, y = self.train
        return x[:, :size], y[:size]

    def trained(self, epochs: int = 20, batch: int = 32) -> float:
        """Accuracy on the test samples after training."""
        x, y = self.train
        for _ in range(epochs):
            for part in torch.randperm(len(y)).split(batch):
                self.optimizer.zero_grad()
                self.loss(output(self.model(x[:, part])), y[part]).backward()
                self.optimizer.step()
        with torch.no_grad():
            answers = self.scores(output(self.model(self.test[0]))).argmax(1)
        return float((answers == self.test[1]).float().mean())


def output(made: Any) -> Tensor:
    return made[0] if isinstance(made, tuple) else made


def samples(count: int, rates: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.arange(count) % len(rates)
    return torch.bernoulli(rates[y].transpose(0, 1)), y


def curves(steps: int = STEPS) -> Tensor:
    """Rates of each class over time, ``(class, time, input)``: smooth, and the same on average."""
    time = torch.arange(steps) / steps
    phase, turns = torch.rand(CLASSES, 1, INPUTS), torch.randint(1, 4, (CLASSES, 1, INPUTS))
    return 0.2 + 0.18 * torch.sin(2 * torch.pi * (turns * time[:, None] + phase))


def mean(out: Tensor) -> Tensor:
    return out.mean(0)


def count(out: Tensor) -> Tensor:
    return out.sum(0)


def population(out: Tensor) -> Tensor:
    return out.sum(0).unflatten(1, (CLASSES, -1)).mean(2)


def last(out: Tensor) -> Tensor:
    return out[-1]


def case(
    model: torch.nn.Module, scores: Callable[[Tensor], Tensor], optimizer: Callable[..., torch.optim.Optimizer], rates: Tensor | None = None
) -> Case:
    rates = curves() if rates is None else rates

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(scores(out), y)

    return Case(model, loss, optimizer(model.parameters()), samples(512, rates), samples(400, rates), scores)


def chain(layers: int, spike: Surrogate, readout: torch.nn.Module | None = None, **options: Any) -> nn.Sequential:
    """Hidden layers of 32 neurons, and four that integrate or spike."""
    sizes = [INPUTS, *[HIDDEN] * layers]
    hidden = [m for a, b in itertools.pairwise(sizes) for m in (torch.nn.Linear(a, b), nn.Leaky(0.9, spike=spike, **options))]
    return nn.Sequential(*hidden, torch.nn.Linear(HIDDEN, CLASSES), readout or nn.LeakyIntegrator(0.9))


def adam(lr: float = 5e-3) -> Callable[..., torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr)


def sgd(lr: float) -> Callable[..., torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr, momentum=0.9)


def weaken(module: torch.nn.Module, factor: float) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(factor)


def silent() -> Case:
    model = chain(2, Triangle(0.5))
    weaken(model[0], 0.02)
    return case(model, mean, adam())


def saturated() -> Case:
    model = chain(2, Triangle(0.5))
    torch.nn.init.constant_(model[0].bias, 5.0)
    return case(model, mean, adam())


def steep() -> Case:
    spike = FastSigmoid(1000)
    return case(chain(3, spike, nn.Leaky(0.9, spike=spike)), count, adam())


def exploding() -> Case:
    return case(chain(2, ATan(40), detach_reset=False), mean, sgd(0.003))


def dead_readout() -> Case:
    """Of five neurons for each class."""
    model = chain(2, ATan())
    model[4], model[5] = torch.nn.Linear(HIDDEN, 5 * CLASSES), nn.Leaky(0.9, spike=Triangle(0.8))
    weaken(model[4], 0.01)
    return case(model, population, adam())


def forgetful() -> Case:
    model = chain(1, ATan(), nn.LeakyIntegrator(0.1))
    model[1] = nn.Leaky(0.1)
    rates = curves()
    rates[:, STEPS // 3 :] = 0.2
    return case(model, last, adam(), rates)


def dead_middle() -> Case:
    model = chain(3, Triangle(0.5))
    weaken(model[2], 0.01)
    return case(model, mean, adam())


def hasty() -> Case:
    return case(chain(2, ATan()), mean, adam(10.0))


SICK: dict[str, Callable[[], Case]] = {
    "silent": silent,
    "saturated": saturated,
    "steep": steep,
    "exploding": exploding,
    "dead readout": dead_readout,
    "forgetful": forgetful,
    "dead middle": dead_middle,
    "hasty": hasty,
}


def feedforward() -> Case:
    return case(chain(2, ATan()), mean, adam())


def recurrent() -> Case:
    layer = nn.RecurrentSynaptic(HIDDEN, 0.7, 0.9, spike=FastSigmoid(5))
    return case(
        nn.Sequential(torch.nn.Linear(INPUTS, HIDDEN), layer, torch.nn.Linear(HIDDEN, CLASSES), nn.LeakyIntegrator(0.9)), last, adam()
    )


def convolutional() -> Case:
    """Images of 8 by 8, one smooth pattern of rates for each class, and a readout that spikes."""
    patterns = torch.nn.functional.interpolate(torch.rand(CLASSES, 1, 3, 3), 8, mode="bicubic").clamp(0, 1)
    model = nn.Sequential(
        torch.nn.Conv2d(1, 6, 3),
        nn.Leaky(0.9, spike=FastSigmoid(5)),
        torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(6, 12, 3),
        nn.Leaky(0.9, spike=FastSigmoid(5)),
        torch.nn.Flatten(),
        torch.nn.Linear(12, CLASSES),
        nn.Leaky(0.9),
    )
    return case(model, count, adam(), 0.6 * patterns[:, None].expand(-1, STEPS, -1, -1, -1))


HEALTHY: dict[str, Callable[[], Case]] = {"feedforward": feedforward, "recurrent": recurrent, "convolutional": convolutional}
