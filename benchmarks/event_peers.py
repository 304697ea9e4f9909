"""Who trains the networks of `benchmarks.events` beside it: snnTorch and SpikingJelly, and the dense stack of another checkout.

Run as a module it is a process of the other checkout: it uses nothing that a checkout may lack.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import contenders, events, machine, network
from benchmarks.contenders import BETA, DELAYED
from benchmarks.measure import DisagreementError, Report

TOLERANCE = 2e-2
"""Of gradients: a spike that rounding puts on the other side of the threshold changes them by its share."""
KINDS = {"snnTorch": ("snntorch", DELAYED), "SpikingJelly": ("spikingjelly", {})}
"""Packages, and with which options our neurons compute what theirs do."""


class Peer(events.Side):
    """The network of a peer: linear layers over whole sequences, its neurons with our surrogate."""

    def __init__(self, task: events.Task, package: str, weights: list[Any]) -> None:
        import torch

        from spikegrad import Triangle

        spike = Triangle(width=task.width)
        self.x, self.labels = task.data()
        self.net: Any = torch.nn.ParameterList([torch.nn.Parameter(weight.clone()) for weight in weights])
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=events.RATE, fused=True)
        self.linear = list(self.net)[:: 2 if task.recurrent else 1]
        if task.recurrent:
            from benchmarks.recurrent import snntorch_layer

            hidden = [snntorch_layer(weight, BETA, spike) for weight in list(self.net)[1::2]]
        elif package == "snntorch":
            hidden = [contenders.snntorch_layer("Leaky", BETA, spike_grad=spike)(size) for size in task.sizes[1:-1]]
        else:
            make = contenders.spikingjelly_layer("LIFNode", v_reset=None, surrogate_function=spike)
            hidden = [make(size) for size in task.sizes[1:-1]]
        self.neurons = [*hidden, network.READOUTS[package]()]

    def output(self) -> Any:
        """Potentials of the readout."""
        import torch

        x = self.x
        for weight, neurons in zip(self.linear, self.neurons, strict=True):
            x = neurons(torch.nn.functional.linear(x, weight))
        return x


def sides(task: events.Task, weights: list[Any], report: Report) -> dict[str, events.Side]:
    """The peers that are there, each proved to compute what our layers do by events, with its reset."""
    found: dict[str, events.Side] = {}
    for name, (package, options) in KINDS.items():
        contender = next(each for each in contenders.LEAKY if each.package == package)
        if not contender.installed():
            report.skipped.append(contender.missing())
        elif not task.recurrent or package == "snntorch":
            twin = {f"events, {name}'s reset": events.Side(task, "event", weights, **options)}
            events.prove(task, {**twin, name: Peer(task, package, weights)}, report, TOLERANCE)
            found[name] = Peer(task, package, weights)
    return found


class Checkout:
    """A process of another checkout, which trains a dense stack."""

    def __init__(self, task: events.Task, weights: list[Any], path: Path) -> None:
        import torch

        self.name, self.task, self.spent = f"dense stack of {machine.commit_of(path)}", task, 0.0
        self.folder = tempfile.TemporaryDirectory()
        torch.save(weights, f"{self.folder.name}/weights.pt")
        here = Path(__file__).parents[1]
        given = [json.dumps(dataclasses.asdict(task)), str(torch.get_num_threads()), self.folder.name]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(path.resolve() / "src"), str(here)))}
        command = [sys.executable, "-m", "benchmarks.event_peers", *given]
        self.process = subprocess.Popen(command, env=environment, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: str) -> list[float]:
        """What the process answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(what, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended without a word; what it wrote stands above")
        return json.loads(answer)

    def step(self) -> None:
        """A training step there; the processor's time that it took is added to `spent`."""
        self.spent += self.ask("step")[1]

    def prove(self, ours: events.Side) -> str:
        """That it computes the loss and the gradients of a side of ours."""
        import torch

        (loss,), mine = self.ask("gradients"), ours.step()
        worst = 0.0
        for a, b in zip(torch.load(f"{self.folder.name}/gradients.pt"), ours.net.parameters(), strict=True):
            worst = max(worst, float((a - b.grad).abs().max() / b.grad.abs().max()))
        if not (worst <= TOLERANCE and abs(loss - mine) <= 1e-4 * abs(mine)):
            raise DisagreementError(f"{self.task.title}: {self.name}: gradients differ by {worst:.2g} of the largest")
        return f"{self.task.title}: {self.name}: gradients within {worst:.1g} of the largest of events"

    def end(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def work(task: events.Task, folder: str) -> None:
    """Do what each line that arrives asks for, and answer with numbers."""
    import torch

    from spikegrad import Triangle, nn

    spike = Triangle(width=task.width)
    modules: list[Any] = []
    for a, b in zip(task.sizes, task.sizes[1:-1], strict=False):
        neurons = nn.RecurrentLeaky(b, BETA, spike=spike) if task.recurrent else nn.Leaky(BETA, spike=spike)
        modules += [torch.nn.Linear(a, b, bias=False), neurons]
    net = nn.Sequential(*modules, torch.nn.Linear(*task.sizes[-2:], bias=False), nn.LeakyIntegrator(BETA))
    with torch.no_grad():
        for own, given in zip(net.parameters(), torch.load(f"{folder}/weights.pt"), strict=True):
            own.copy_(given)
    x, labels = task.data()
    optimiser = torch.optim.Adam(net.parameters(), lr=events.RATE, fused=True)
    for line in sys.stdin:
        if line.strip() == "one thread":
            torch.set_num_threads(1)
            print(json.dumps([]), flush=True)
            continue
        start = time.perf_counter(), time.thread_time()
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x)[0].amax(0), labels)
        loss.backward()
        if line.strip() == "gradients":
            torch.save([parameter.grad for parameter in net.parameters()], f"{folder}/gradients.pt")
            print(json.dumps([float(loss.detach())]), flush=True)
            continue
        optimiser.step()
        print(json.dumps([time.perf_counter() - start[0], time.thread_time() - start[1]]), flush=True)


if __name__ == "__main__":
    import torch

    options = json.loads(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    work(events.Task(**{**options, "sizes": tuple(options["sizes"])}), sys.argv[3])
