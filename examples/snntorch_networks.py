"""Two networks written for snnTorch, trained for an epoch on handwritten digits: step by step, and fused.

Only the imports were changed: they read ``import snntorch as snn`` and ``from snntorch import surrogate, utils`` before. The networks are
those that snnTorch's documentation shows: two layers of `Synaptic` neurons with a surrogate each, their states passed in and out; and a
convolutional `nn.Sequential` of `Leaky` neurons that keep their states. `snn.fuse` makes one call over all time steps of either.

    python examples/snntorch_networks.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from spikegrad import encode
from spikegrad.compat import snntorch as snn
from spikegrad.compat.snntorch import surrogate, utils
from spikegrad.data import load

STEPS, BATCH, HIDDEN, CLASSES = 25, 32, 100, 10
Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From input currents ``(time, batch, ...)`` to spikes and potentials of the last layer."""


class TwoLayers(nn.Module):
    """One time step; the states go in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, HIDDEN)
        self.lif1 = snn.Synaptic(alpha=0.8, beta=0.85, spike_grad=surrogate.fast_sigmoid())
        self.fc2 = nn.Linear(HIDDEN, CLASSES)
        self.lif2 = snn.Synaptic(alpha=0.8, beta=0.85, spike_grad=surrogate.fast_sigmoid(slope=50))

    def forward(self, x: Tensor, syn1: Tensor, mem1: Tensor, syn2: Tensor, mem2: Tensor) -> tuple[Tensor, ...]:
        """Spikes and states after one step."""
        spk1, syn1, mem1 = self.lif1(self.fc1(x.flatten(1)), syn1, mem1)
        spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
        return spk2, syn1, mem1, syn2, mem2


def two_layers(fused: bool) -> tuple[nn.Module, Run]:
    """The network of `Synaptic` neurons, and how to run it over time."""
    net = TwoLayers()
    if fused:
        whole = snn.fuse(net, step=True)
        return whole, lambda x: (whole(x)[0], whole(x)[-1])

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        syn1, mem1 = net.lif1.init_synaptic()
        syn2, mem2 = net.lif2.init_synaptic()
        spikes, potentials = [], []
        for step in range(x.size(0)):
            spk2, syn1, mem1, syn2, mem2 = net(x[step], syn1, mem1, syn2, mem2)
            spikes.append(spk2)
            potentials.append(mem2)
        return torch.stack(spikes), torch.stack(potentials)

    return net, run


def convolutional(fused: bool) -> tuple[nn.Module, Run]:
    """The network of layers that keep their states, and how to run it over time."""
    beta, spike_grad = 0.8, surrogate.fast_sigmoid(slope=25)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        snn.Leaky(beta=beta, spike_grad=spike_grad, init_hidden=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        snn.Leaky(beta=beta, spike_grad=spike_grad, init_hidden=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 2 * 2, CLASSES),
        snn.Leaky(beta=beta, spike_grad=spike_grad, init_hidden=True, output=True),
    )
    if fused:
        whole = snn.fuse(net)
        return whole, whole

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        utils.reset(net)
        results = [net(x[step]) for step in range(x.size(0))]
        return torch.stack([spikes for spikes, _ in results]), torch.stack([potentials for _, potentials in results])

    return net, run


NETWORKS = {"two layers of Synaptic": two_layers, "convolutional, Leaky": convolutional}


def batches(images: Tensor, labels: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images as constant currents ``(time, batch, 1, 8, 8)``, and labels."""
    random = torch.Generator().manual_seed(seed)
    for chosen in torch.randperm(len(labels), generator=random).split(BATCH):
        yield encode.current(images[chosen], STEPS), labels[chosen]


def train(name: str, fused: bool, epochs: int = 1) -> float:
    """Train a network of that name, print what happens, and return its accuracy on the test set."""
    digits = load("digits")
    (x_train, y_train), (x_test, y_test) = (
        (torch.from_numpy(x).reshape(-1, 1, 8, 8), torch.from_numpy(y)) for x, y in (digits.train, digits.test)
    )
    torch.manual_seed(0)
    net, run = NETWORKS[name](fused)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    start, losses = time.perf_counter(), list[float]()
    for epoch in range(epochs):
        for currents, labels in batches(x_train, y_train, seed=epoch):
            _, potentials = run(currents)
            loss = nn.functional.cross_entropy(potentials.flatten(0, 1), labels.repeat(STEPS))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    seconds = time.perf_counter() - start
    right = 0
    with torch.no_grad():
        for currents, labels in batches(x_test, y_test, seed=0):
            right += int((run(currents)[1].mean(0).argmax(-1) == labels).sum())
    accuracy = right / len(y_test)
    way = "fused" if fused else "step by step"
    print(f"{name}, {way}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, accuracy {accuracy:.1%}, {seconds:.2f} s")
    return accuracy


def main() -> None:
    """Both networks, both ways."""
    for name in NETWORKS:
        for fused in (False, True):
            train(name, fused)


if __name__ == "__main__":
    main()
