"""The same network in snnTorch's style on snnTorch, on `spikegrad.compat.snntorch`, and after `fuse`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders import ALPHA, BETA
from benchmarks.measure import DisagreementError, Effort, Report, Section, alternate, rows
from benchmarks.network import QUICK, TASKS, Task

SMALL = Task("64-128-10, Leaky, 10 % of the inputs spike", "Leaky", (64, 128, 10), 100, 16, 0.1)
"""As for handwritten digits. Of small layers what a step costs is to begin it, of large ones its memory."""
NAMES = ("snnTorch", "compat", "compat, fused")
"""Who is compared; the last is what ratios are taken to."""


def library(name: str) -> Any:
    """Whose neurons a network is made of."""
    if name == "snnTorch":
        import snntorch

        return snntorch
    from spikegrad.compat import snntorch as compat

    return compat


class Network(nn.Module):
    """Linear and spiking layers with states passed from step to step, as snnTorch's tutorials write it."""

    def __init__(self, name: str, task: Task) -> None:
        super().__init__()
        snn = library(name)
        decays = (BETA,) if task.kind == "Leaky" else (ALPHA, BETA)
        self.linear = nn.ModuleList(task.weights())
        self.neurons = nn.ModuleList(getattr(snn, task.kind)(*decays) for _ in task.sizes[1:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and potentials of the last layer at each step."""
        states = [neuron.reset_mem() for neuron in self.neurons]
        states = [list(state) if isinstance(state, tuple) else [state] for state in states]
        spikes, potentials = [], []
        for step in range(x.size(0)):
            out = x[step]
            for place, (linear, neuron) in enumerate(zip(self.linear, self.neurons, strict=True)):
                out, *states[place] = neuron(linear(out), *states[place])
            spikes.append(out)
            potentials.append(states[-1][-1])
        return torch.stack(spikes), torch.stack(potentials)


class Alone(nn.Module):
    """A spiking layer by itself, of which only the spikes are wanted."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        """Spikes at each step."""
        state = self.neuron.reset_mem()
        state = state if isinstance(state, tuple) else (state,)
        spikes = []
        for current in x.unbind(0):
            out, *state = self.neuron(current, *state)
            spikes.append(out)
        return torch.stack(spikes)


class Training:
    """A network with its data and its optimiser."""

    def __init__(self, name: str, task: Task) -> None:
        self.name, self.task = name, task
        self.inputs, self.labels = task.data()
        self.network: Any = Network(name, task)
        if name == NAMES[-1]:
            from spikegrad.compat.snntorch import fuse

            self.network = fuse(self.network, self.inputs[:, :2])
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def loss(self, potentials: Tensor) -> Tensor:
        """Cross-entropy of the largest potential over time."""
        return nn.functional.cross_entropy(potentials.amax(0), self.labels)

    def step(self) -> float:
        """Forward, loss, backward, Adam."""
        self.optimiser.zero_grad()
        loss = self.loss(self.network(self.inputs)[1])
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def over_time(self, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        """One layer over a sequence, in the way of this side."""
        fused = self.name == NAMES[-1]
        if isinstance(layer, nn.Linear):
            return layer if fused else lambda sequence: torch.stack([layer(x) for x in sequence.unbind(0)])
        alone = Alone(layer)
        if fused:
            from spikegrad.compat.snntorch import fuse

            return fuse(alone, step=False)
        return alone

    def parts(self) -> dict[str, Callable[[], Any]]:
        """The parts of a training step, forward and backward, each on its own with the tensors of a real step."""
        linear = [self.over_time(layer) for layer in self.network.linear]
        neurons = [self.over_time(neuron) for neuron in self.network.neurons]
        given, between = [self.inputs], []
        with torch.no_grad():
            for one, other in zip(linear, neurons, strict=True):
                between.append(one(given[-1]))
                given.append(other(between[-1]))
        given = [given[0], *(x.requires_grad_() for x in given[1:])]
        between = [x.requires_grad_() for x in between]

        def through(layers: list[Any], inputs: list[Tensor], like: list[Tensor]) -> Callable[[], Any]:
            gradients = [torch.randn_like(x) * 1e-3 for x in like]

            def call() -> None:
                self.optimiser.zero_grad()
                for layer, x, gradient in zip(layers, inputs, gradients, strict=True):
                    x.grad = None
                    layer(x).backward(gradient)

            return call

        def loss() -> None:
            between[-1].grad = None
            self.loss(between[-1]).backward()

        self.step()
        neuron_layers = through(neurons, between, given[1:])
        return {
            "neurons": neuron_layers,
            "linear layers": through(linear, given[:-1], between),
            "loss": loss,
            "optimiser": self.optimiser.step,
        }


def prove(task: Task) -> list[str]:
    """That all sides compute the same: spikes and potentials bit for bit where sums are exact, gradients, and the course of training.

    Raises:
        DisagreementError: they do not.
    """
    sides = {name: Training(name, task) for name in NAMES}
    lines, first = [], sides[NAMES[0]]
    with torch.no_grad():
        for side in sides.values():
            for layer in side.network.linear:
                layer.weight.copy_((layer.weight * 64).round() / 64)
    outputs = {name: side.network(side.inputs) for name, side in sides.items()}
    for side, (_, potentials) in zip(sides.values(), outputs.values(), strict=True):
        side.loss(potentials).backward()
    if not outputs[NAMES[0]][0].any():
        raise DisagreementError(f"{task.title}: the last layer does not spike, so that nothing was compared")
    for name, side in list(sides.items())[1:]:
        for what, ours, theirs in zip(("spikes", "potentials"), outputs[name], outputs[NAMES[0]], strict=True):
            if not torch.equal(ours, theirs):
                raise DisagreementError(f"{task.title}: {name}: {what} differ by {float((ours - theirs).abs().max()):.3g}")
        worst = 0.0
        for a, b in zip(side.network.linear, first.network.linear, strict=True):
            worst = max(worst, float((a.weight.grad - b.weight.grad).abs().max() / b.weight.grad.abs().max()))
        if not worst <= 1e-4:
            raise DisagreementError(f"{task.title}: {name}: gradients of the weights differ by {worst:.2g} of the largest")
        lines.append(f"{task.title}: {name} and snnTorch: spikes and potentials bit for bit, gradients within {worst:.1g} of the largest")
    courses = {name: [side.step() for _ in range(6)] for name, side in sides.items()}
    for name, course in courses.items():
        if not course[-1] < course[0]:
            raise DisagreementError(f"{task.title}: {name} does not learn: losses {course}")
    return lines


def compare(task: Task, effort: Effort, report: Report) -> None:
    """Time one network on all sides."""
    report.checked += prove(task)
    sides = {name: Training(name, task) for name in NAMES}
    found = rows(alternate({name: side.step for name, side in sides.items()}, effort), NAMES[-1])
    title = f"Training step in snnTorch's style, {task.title}, T = {task.steps}, B = {task.batch}"
    report.sections.append(Section(title, "ms", found, NAMES[-1], "Forward, loss, backward, Adam; one loop over time, unless fused."))

    parts = {name: side.parts() for name, side in sides.items()}
    samples = alternate({f"{name}: {part}": call for name, side in parts.items() for part, call in side.items()}, effort)
    neurons = {name: samples[f"{name}: neurons"] for name in NAMES}
    text = "Forward and backward of all spiking layers, one after the other, each on its own with the tensors of a real step."
    report.sections.append(Section(f"Spiking layers in snnTorch's style, {task.title}", "ms", rows(neurons, NAMES[-1]), NAMES[-1], text))

    found = rows(samples, "")
    for row in found:
        side = row.name.rpartition(": ")[0]
        row.note = f"{row.value / sum(other.value for other in found if other.name.rpartition(': ')[0] == side):.0%}"
    text = "Forward and backward of each part on its own, with the tensors of a real step; the remark is its share of their sum."
    report.sections.append(Section(f"Parts in snnTorch's style, {task.title}", "ms", found, "", text))


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    report = Report()
    if importlib.util.find_spec("snntorch") is None:
        report.skipped.append("snnTorch: snntorch is not installed, and there is nothing to compare with")
        return report
    for task in QUICK if effort.quick else (SMALL, *TASKS):
        compare(task, effort, report)
    return report
