"""A training step of two networks, with the same weights on all sides, and the share of its parts; and of one that runs by events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import contenders, events
from benchmarks.contenders import BETA, Run, Twin, ours
from benchmarks.measure import DisagreementError, Effort, Report, Section, alternate, rows


@dataclass(frozen=True)
class Task:
    """What a network is trained on.

    Attributes:
        title: what it is.
        kind: the neurons of its hidden layers, ``"Leaky"`` or ``"Synaptic"``.
        sizes: of the layers, input and readout included.
        steps: of a sequence.
        batch: sequences of a training step.
        density: share of the inputs that spike; None for a latency code, in which half of the inputs spike once.
    """

    title: str
    kind: str
    sizes: tuple[int, ...]
    steps: int
    batch: int
    density: float | None

    def data(self) -> tuple[Any, Any]:
        """Input spikes and labels."""
        import torch

        generator = torch.Generator().manual_seed(0)
        shape = (self.steps, self.batch, self.sizes[0])
        if self.density is not None:
            spikes = (torch.rand(shape, generator=generator) < self.density).float()
        else:
            times = torch.randint(0, 2 * self.steps, shape[1:], generator=generator)
            spikes = (torch.arange(self.steps)[:, None, None] == times).float()
        return spikes, torch.randint(0, self.sizes[-1], (self.batch,), generator=generator)

    def weights(self) -> list[Any]:
        """Linear layers without bias; larger than PyTorch's own, since few inputs spike."""
        import torch

        torch.manual_seed(0)
        layers = [torch.nn.Linear(a, b, bias=False) for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
        with torch.no_grad():
            for layer in layers:
                layer.weight.mul_(3)
        return layers


TASKS = (
    Task("700-256-256-20, Leaky, 2 % of the inputs spike", "Leaky", (700, 256, 256, 20), 100, 64, 0.02),
    Task("784-100-10 of SpyTorch's tutorial 2, Synaptic, latency code", "Synaptic", (784, 100, 10), 100, 256, None),
)
QUICK = (Task("tiny", "Leaky", (30, 16, 4), 20, 4, 0.1),)


def readout_ours() -> Run:
    """A leaky integrator."""
    from spikegrad import nn

    layer = nn.LeakyIntegrator(BETA)
    return lambda currents: layer(currents)[0]


def readout_snntorch() -> Run:
    """The same in snnTorch."""
    import snntorch
    import torch

    layer = snntorch.Leaky(BETA, reset_mechanism="none")

    def run(currents: Any) -> Any:
        potential, potentials = layer.reset_mem(), []
        for current in currents.unbind(0):
            _, potential = layer(current, potential)
            potentials.append(potential)
        return torch.stack(potentials)

    return run


def readout_spikingjelly() -> Run:
    """The same in SpikingJelly, whose integrator divides its input by tau."""
    import torch
    from spikingjelly.activation_based import functional, neuron

    layer = neuron.NonSpikingLIFNode(tau=1 / (1 - BETA))
    layer.step_mode = "m"

    def run(currents: Any) -> Any:
        functional.reset_net(layer)
        potentials = layer(currents / (1 - BETA))
        return torch.stack(potentials) if isinstance(potentials, list) else potentials

    return run


class Network:
    """Linear layers, spiking layers and a readout, run layer by layer over whole sequences."""

    def __init__(self, task: Task, spiking: Callable[[int], Run], readout: Run, device: str = "cpu") -> None:
        import torch

        self.inputs, self.labels = (x.to(device) for x in task.data())
        self.linear = [layer.to(device) for layer in task.weights()]
        self.neurons = [*(spiking(size) for size in task.sizes[1:-1]), readout]
        self.optimiser = torch.optim.Adam([layer.weight for layer in self.linear], lr=1e-3, capturable=device == "cuda")

    def forward(self) -> Any:
        """Potentials of the readout."""
        x = self.inputs
        for linear, neurons in zip(self.linear, self.neurons, strict=True):
            x = neurons(linear(x))
        return x

    def loss(self, potentials: Any) -> Any:
        """Cross-entropy of the largest potential over time."""
        import torch

        return torch.nn.functional.cross_entropy(potentials.amax(0), self.labels)

    def step(self) -> Any:
        """A training step."""
        self.optimiser.zero_grad()
        loss = self.loss(self.forward())
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def parts(self) -> dict[str, Callable[[], Any]]:
        """The parts of a training step, forward and backward, each on its own with the tensors of a real step."""
        import torch

        given, between = [self.inputs], []
        with torch.no_grad():
            for linear, neurons in zip(self.linear, self.neurons, strict=True):
                between.append(linear(given[-1]))
                given.append(neurons(between[-1]))
        given = [given[0], *(x.requires_grad_() for x in given[1:])]
        between = [x.requires_grad_() for x in between]
        downstream = [torch.randn_like(x) * 1e-3 for x in between]
        upstream = [torch.randn_like(x) * 1e-3 for x in given[1:]]

        def through(layers: list[Any], inputs: list[Any], gradients: list[Any]) -> Callable[[], Any]:
            def call() -> None:
                self.optimiser.zero_grad()
                for layer, x, gradient in zip(layers, inputs, gradients, strict=True):
                    x.grad = None
                    layer(x).backward(gradient)

            return call

        def loss() -> None:
            given[-1].grad = None
            self.loss(given[-1]).backward()

        self.step()
        return {
            "linear layers": through(self.linear, given[:-1], downstream),
            "neurons": through(self.neurons, between, upstream),
            "loss": loss,
            "optimiser": self.optimiser.step,
        }


class StepByStep(Network):
    """The same network with all layers inside one loop over time, as snnTorch's tutorials write it."""

    def __init__(self, task: Task) -> None:
        import snntorch
        from snntorch import surrogate

        super().__init__(task, lambda size: lambda x: x, lambda x: x)
        decays = (BETA,) if task.kind == "Leaky" else (contenders.ALPHA, BETA)
        hidden = [getattr(snntorch, task.kind)(*decays, spike_grad=surrogate.atan(2.0)) for _ in task.sizes[1:-1]]
        self.cells = [*hidden, snntorch.Leaky(BETA, reset_mechanism="none")]

    def forward(self) -> Any:
        """Potentials of the readout."""
        import torch

        states: list[Any] = [cell.reset_mem() for cell in self.cells]
        states = [list(state) if isinstance(state, tuple) else [state] for state in states]
        potentials = []
        for x in self.inputs.unbind(0):
            for place, (linear, cell) in enumerate(zip(self.linear, self.cells, strict=True)):
                x, *states[place] = cell(linear(x), *states[place])
            potentials.append(states[-1][-1])
        return torch.stack(potentials)


READOUTS = {"snntorch": readout_snntorch, "spikingjelly": readout_spikingjelly}


def prove(task: Task, name: str, mine: Network, theirs: Network) -> str:
    """That the first losses and gradients agree, and that both learn."""
    first = mine.step(), theirs.step()
    worst = 0.0
    for a, b in zip(mine.linear, theirs.linear, strict=True):
        worst = max(worst, float((a.weight.grad - b.weight.grad).abs().max() / a.weight.grad.abs().max()))
    if not abs(first[0] - first[1]) <= 1e-3 * abs(first[0]):
        raise DisagreementError(f"{task.title}: {name}: first loss {first[1]:.6g}, ours {first[0]:.6g}")
    # A spike that rounding puts on the other side of the threshold changes the gradient by its share.
    if not worst <= 2e-2:
        raise DisagreementError(f"{task.title}: {name}: gradients of the weights differ by {worst:.2g} of the largest")
    for side, network, start in (("ours", mine, first[0]), (name, theirs, first[1])):
        last = [network.step() for _ in range(10)][-1]
        if not last < start:
            raise DisagreementError(f"{task.title}: {side} does not learn: loss {start:.4g}, after ten steps {last:.4g}")
    return f"{task.title}: {name}: first loss within {abs(first[0] / first[1] - 1):.1g}, gradients within {worst:.1g}; both losses fall"


def compare(task: Task, effort: Effort, report: Report) -> None:
    """Time one network on all sides."""
    peers = {p.name: p for p in (contenders.LEAKY if task.kind == "Leaky" else contenders.SYNAPTIC) if p.package in READOUTS}
    networks = {"spikegrad": Network(task, lambda size: ours(task.kind, Twin()), readout_ours())}
    for name, peer in peers.items():
        if not peer.installed():
            report.skipped.append(peer.missing())
            continue
        makers = {name: lambda peer=peer: Network(task, peer.make, READOUTS[peer.package]())}
        if peer.package == "snntorch":
            makers[f"{name}, step by step"] = lambda: StepByStep(task)
        for label, make in makers.items():
            mine = Network(task, lambda size, peer=peer: ours(task.kind, peer.twin), readout_ours())
            report.checked.append(prove(task, label, mine, make()))
            networks[label] = make()
    found = rows(alternate({name: network.step for name, network in networks.items()}, effort), "spikegrad")
    text = "Forward, loss, backward, Adam. Layer by layer over whole sequences, unless step by step."
    title = f"Training step, {task.title}, T = {task.steps}, B = {task.batch}"
    report.sections.append(Section(title, "ms", found, "spikegrad", text))

    pieces = {f"{name}: {part}": call for name, n in networks.items() if type(n) is Network for part, call in n.parts().items()}
    found = rows(alternate(pieces, effort), "")
    for row in found:
        whole = sum(other.value for other in found if other.name.split(": ")[0] == row.name.split(": ")[0])
        row.note = f"{row.value / whole:.0%}"
    text = "Forward and backward of each part on its own, with the tensors of a real step; the remark is its share of their sum."
    report.sections.append(Section(f"Parts, {task.title}", "ms", found, "", text))


def run(effort: Effort, other: Path | None = None) -> Report:
    """The whole benchmark; what trains by events also beside another checkout's dense stack."""
    report = Report()
    for task in QUICK if effort.quick else TASKS:
        compare(task, effort, report)
    for task in events.QUICK if effort.quick else events.TASKS:
        events.compare(task, effort, report, other)
    return report
