"""What a trained network is worth: accuracy, confusion and firing rates, and one sample looked at closely."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spikegrad.data.dataset import Part
from spikegrad.training.batches import Batches, derived, loader
from spikegrad.training.network import Activity, Network

BATCH = 256


@dataclass(frozen=True)
class Measurement:
    """A network on some samples.

    Attributes:
        confusion: counts, (right class, answered class).
        rates: share of steps with a spike, of either sign, of each hidden layer.
        silent: share of each hidden layer's neurons that never spiked.
        ties: samples of which two classes had the highest score, so that the answer, the first of them, means little.
    """

    confusion: NDArray[np.int64]
    rates: list[float]
    silent: list[float]
    ties: int

    @property
    def samples(self) -> int:
        """How many samples were answered."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """How many of them rightly."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.correct / self.samples


@dataclass(frozen=True)
class Look:
    """One sample on its way through a network.

    Attributes:
        input: (time, feature).
        spikes: of each hidden layer, (time, neuron).
        trace: of the readout, (time, class).
        label: the right class.
        answer: the class answered.
    """

    input: NDArray[np.float32]
    spikes: list[NDArray[np.float32]]
    trace: NDArray[np.float32]
    label: int
    answer: int


@torch.no_grad()
def measure(network: Network, part: Part, seed: int) -> Measurement:
    """Answer every sample, without dropout, with the noise of `seed`.

    Args:
        network: a network, on any device.
        part: samples and labels.
        seed: seed of what noise the encoding draws.
    """
    confusion = torch.zeros(network.classes, network.classes, dtype=torch.int64)
    sums: list[torch.Tensor] = []
    ties = 0
    for activity, y in activities(network, part, seed):
        confusion.index_put_((y, activity.scores.argmax(1).cpu()), torch.ones_like(y), accumulate=True)
        ties += int(((activity.scores == activity.scores.amax(1, keepdim=True)).sum(1) > 1).sum())
        rates = [(s != 0).double().mean(0).sum(0).cpu() for s in activity.fired]
        sums = [a + b for a, b in zip(sums, rates, strict=True)] if sums else rates
    total = len(part[1])
    silent = [float((s == 0).double().mean()) for s in sums]
    return Measurement(confusion.numpy(), [float(s.mean() / total) for s in sums], silent, ties)


def activities(network: Network, part: Part, seed: int) -> Generator[tuple[Activity, torch.Tensor]]:
    """What a network does with every batch of some samples, without dropout, with the noise of `seed`; and the labels of the batch."""
    network.eval()
    weight = next(network.parameters())
    for number, (x, y) in enumerate(loader(part, Batches(len(part[1]), BATCH), network.takes_events)):
        torch.manual_seed(derived(seed, "evaluation", number))
        with torch.no_grad():
            activity = network(x.to(weight.device, weight.dtype) if isinstance(x, torch.Tensor) else x)
        yield activity, y


@torch.no_grad()
def look(network: Network, part: Part, index: int, seed: int) -> Look:
    """Follow one sample through a network."""
    network.eval()
    weight = next(network.parameters())
    torch.manual_seed(derived(seed, "evaluation", 0))
    x = torch.from_numpy(part[0][slice(index, index + 1)]).to(weight.device, weight.dtype)
    encoded = network.encode(x)
    activity = network.answer(encoded)

    def plain(tensor: torch.Tensor) -> NDArray[np.float32]:
        return tensor[:, 0].float().cpu().numpy()

    spikes = [plain(s) for s in activity.fired]
    return Look(plain(encoded), spikes, plain(activity.trace), int(part[1][index]), int(activity.scores.argmax()))
