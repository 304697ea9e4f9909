"""A training step whose cost follows spikes, against the same step by dense products, and against these products alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import BETA
from benchmarks.measure import DisagreementError, Effort, Report, Section, alternate, rows

RATE = 1e-7
"""Of learning: the weights hardly move, so that as many neurons spike in the last round as in the first."""


@dataclass(frozen=True)
class Task:
    """What a network of `nn.SpikingLinear` is trained on.

    Attributes:
        sizes: of its layers, input and readout included.
        density: share of the inputs that spike.
        rate: share of the hidden neurons that spike; weights are scaled to it.
        steps: of a sequence.
        batch: sequences of a training step.
        width: half of the window of the surrogate, a `Triangle`.
        recurrent: whether hidden neurons receive the spikes of all of their layer a step later.
    """

    sizes: tuple[int, ...] = (700, 256, 256, 20)
    density: float = 0.02
    rate: float = 0.015
    steps: int = 100
    batch: int = 64
    width: float = 0.3
    recurrent: bool = False

    @property
    def title(self) -> str:
        """What it is."""
        sizes = "-".join(map(str, self.sizes))
        sizes += ", recurrent" * self.recurrent
        return f"{sizes}, {self.density:.1%} of inputs and {self.rate:.1%} of neurons spike, T = {self.steps}, B = {self.batch}"

    def data(self) -> tuple[Any, Any]:
        """Input spikes and labels."""
        import torch

        generator = torch.Generator().manual_seed(0)
        spikes = (torch.rand(self.steps, self.batch, self.sizes[0], generator=generator) < self.density).float()
        return spikes, torch.randint(0, self.sizes[-1], (self.batch,), generator=generator)

    def network(self, way: str, weights: list[Any] | None = None, **options: Any) -> Any:
        """The network, with these weights, or with some that bring about the rate; neurons with other `options`."""
        import torch

        from spikegrad import Triangle, nn

        torch.manual_seed(0)
        spike = Triangle(width=self.width)
        hidden: list[Any] = [nn.Leaky(BETA, spike=spike, **options) for _ in self.sizes[1:-1]]
        if self.recurrent:
            hidden = [nn.RecurrentLeaky(size, BETA, spike=spike, **options) for size in self.sizes[1:-1]]
        neurons = [*hidden, nn.LeakyIntegrator(BETA)]
        own: Any = {"bias": False, "memory": "save", "backend": way}
        layers = [nn.SpikingLinear(a, b, n, **own) for a, b, n in zip(self.sizes, self.sizes[1:], neurons, strict=False)]
        with torch.no_grad():
            x = self.data()[0][:, :8]
            for place, layer in enumerate(layers):
                layer.weight.copy_(torch.randn_like(layer.weight))
                if place < len(hidden):
                    layer.weight.mul_(_gain(layer, x, self.rate))
                    x = hidden[place](x @ layer.weight.t())[0]
                else:
                    layer.weight.mul_(0.1)
        net = nn.Sequential(*layers)
        if weights is not None:
            with torch.no_grad():
                for own_weight, given in zip(net.parameters(), weights, strict=True):
                    own_weight.copy_(given)
        return net


def _gain(layer: Any, x: Any, rate: float) -> float:
    """What to multiply weights by so that a share of the neurons spikes."""
    low, high = 0.0, 10.0
    for _ in range(20):
        middle = (low + high) / 2
        fired = layer.neuron(x @ (middle * layer.weight).t())[0].mean()
        low, high = (middle, high) if fired < rate else (low, middle)
    return low


TASKS = (
    Task(),
    Task(rate=0.05),
    Task(batch=16),
    Task((2312, 512, 10), 0.017),
    Task(recurrent=True),
)
QUICK = (Task((60, 40, 6), 0.05, 0.05, 10, 4),)


class Side:
    """One way to train the network."""

    def __init__(self, task: Task, way: str, weights: list[Any] | None = None, *, listed: bool = False, **options: Any) -> None:
        import torch

        from spikegrad import Spikes

        self.net = task.network(way, weights, **options)
        self.x, self.labels = task.data()
        self.given = Spikes.of(self.x).detach() if listed else None
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=RATE, fused=True)

    def output(self) -> Any:
        """Potentials of the readout."""
        if self.given is None:
            return self.net(self.x)[0]
        x: Any = self.given
        for layer in self.net:
            x = layer(x)[0]
        return x

    def step(self) -> Any:
        """A training step: forward, loss, backward, Adam."""
        import torch

        self.optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.output().amax(0), self.labels)
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def products(task: Task) -> Callable[[], None]:
    """The dense matrix products of a training step, with nothing around them."""
    import torch

    count = task.steps * task.batch
    given = [torch.rand(count, size) for size in task.sizes[:-1]]
    back = [torch.rand(count, size) for size in task.sizes[1:]]
    weights = [torch.rand(b, a) for a, b in zip(task.sizes, task.sizes[1:], strict=False)]
    fed = [torch.rand(size, size) for size in task.sizes[1:-1]]

    def call() -> None:
        with torch.no_grad():
            for place, (x, weight, bar) in enumerate(zip(given, weights, back, strict=True)):
                torch.nn.functional.linear(x, weight)
                bar.t() @ x
                if place:
                    bar @ weight
                if task.recurrent and place < len(weights) - 1:
                    bar.t() @ bar
                    for part in bar.view(task.steps, task.batch, -1):
                        part @ fed[place]
                        part @ fed[place].t()

    return call


def prove(task: Task, sides: dict[str, Side], report: Report, most: float = 1e-3) -> None:
    """That all sides compute one loss and its gradients, the first side's."""
    first = {name: side.step() for name, side in sides.items()}
    (reference, expected), *others = sides.items()
    for name, side in others:
        worst = 0.0
        for ours, theirs in zip(side.net.parameters(), expected.net.parameters(), strict=True):
            worst = max(worst, float((ours.grad - theirs.grad).abs().max() / theirs.grad.abs().max()))
        # A spike that rounding puts on the other side of the threshold changes the gradient by its share.
        if not (worst <= most and abs(first[name] - first[reference]) <= most / 100 * abs(first[reference])):
            raise DisagreementError(f"{task.title}: {name}: gradients differ by {worst:.2g} of the largest from those of {reference}")
        report.checked.append(f"{task.title}: {name}: gradients within {worst:.1g} of the largest of {reference}")


def activity(task: Task, side: Side) -> str:
    """Rates and shares of hidden layers, and what is kept for the backward pass."""
    from spikegrad import Spikes

    x: Any = Spikes.of(side.x).detach()
    rates, kept, neurons = [], 0, 0
    for layer in side.net[:-1]:
        x, _ = layer(x)
        rates.append(f"{x.density:.1%} of the neurons spike and {x.share:.1%} are inside of the window")
        made = x.carrier.grad_fn
        kept += x.nbytes + sum(part.nbytes for part in made.saved_tensors[-len(made.kept) :])
        neurons += x.shape.numel()
    return f"{'; '.join(rates)}. Kept for the backward pass: {kept / neurons:.2f} bytes for each hidden neuron and step, by dense layers 8."


def compare(task: Task, effort: Effort, report: Report, other: Path | None = None) -> None:
    """Time one network: by the wall's clock with all threads, and by the processor's with one; beside another checkout's dense stack."""
    import torch

    from benchmarks import event_peers

    dense = Side(task, "dense")
    weights = [parameter.detach().clone() for parameter in dense.net.parameters()]
    sides = {"dense": dense, "events": Side(task, "event", weights), "events, given as such": Side(task, "event", weights, listed=True)}
    prove(task, sides, report)
    peers = event_peers.sides(task, weights, report)
    tasks: dict[str, Callable[[], Any]] = {name: side.step for name, side in {**sides, **peers}.items()}
    tasks["dense products alone"] = products(task)
    checkout = None if other is None else event_peers.Checkout(task, weights, other)
    if checkout is not None:
        report.checked.append(checkout.prove(Side(task, "event", weights)))
        tasks[checkout.name] = checkout.step
    what = f"Forward, loss, backward, Adam, fused on all sides. {activity(task, sides['events'])}"
    found = rows(alternate(tasks, effort), "events")
    report.sections.append(Section(f"Events: {task.title}", "ms", found, "events", what))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if checkout is not None:
        checkout.ask("one thread")
    found = rows(alternate(tasks, effort, lambda: time.thread_time() + (0.0 if checkout is None else checkout.spent)), "events")
    torch.set_num_threads(threads)
    text = "The same on one thread, in the processor's time, which other work on the machine disturbs less."
    report.sections.append(Section(f"Events, one thread: {task.title}", "ms", found, "events", text))
    if checkout is not None:
        checkout.end()
