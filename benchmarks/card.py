"""Times on a GPU: by its own events, with nothing of the last call in its caches, and what share of a copy's bandwidth they are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from benchmarks.measure import DisagreementError, Effort, Report, Task

FLUSHED = 2**28
"""Bytes that are written before each call, more than any cache has."""
COPIED = 2**30
"""Bytes of the tensor whose copy shows the bandwidth."""
FLUSHING = 5e-5
"""Seconds that this takes at least."""
LAUNCHED = 4e-3
"""Seconds that a device waits for a task's launches."""
MINUTES = 3.0
"""Within which a benchmark ends; what there is no time left for is left out, with a line that says so."""


class Card(Protocol):
    """A device, and how long things take there."""

    device: str

    def seconds(self, task: Task) -> float:
        """One call, with cold caches."""
        ...

    def graphed(self, task: Task) -> Task:
        """The same as one graph of launches."""
        ...

    def compiled(self, module: Any) -> Any:
        """A module, compiled."""
        ...

    def bandwidth(self) -> float:
        """Bytes a second that a copy reads and writes."""
        ...

    def left(self) -> float:
        """Seconds that are left."""
        ...


class Cuda:
    """The current CUDA device."""

    device = "cuda"

    def __init__(self, minutes: float = MINUTES) -> None:
        import torch

        self._flush = torch.empty(FLUSHED, dtype=torch.int8, device=self.device)
        self._end = time.monotonic() + 60 * minutes
        self._launching: dict[int, float] = {}  # by identity: what a task holds on the card is not kept

    def seconds(self, task: Task) -> float:
        """One call, from an event before it to one after it, when both have happened.

        The device has something else to do until all is launched that the last call of the task launched in `LAUNCHED`: what it takes to
        launch it, longer than that alone, shows.
        """
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        ahead = min(self._launching.get(id(task), LAUNCHED), LAUNCHED)
        for _ in range(1 + int(ahead / FLUSHING)):
            self._flush.zero_()
        start.record()
        began = time.perf_counter()
        task()
        self._launching[id(task)] = 1.5 * (time.perf_counter() - began)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e-3

    def graphed(self, task: Task) -> Task:
        """The task captured, after three calls on a stream of its own, and replayed."""
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                task()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            task()
        return graph.replay

    def compiled(self, module: Any) -> Any:
        """By `torch.compile`."""
        import torch

        return torch.compile(module)

    def bandwidth(self) -> float:
        """The median of nine copies."""
        import torch

        source = torch.empty(COPIED, dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        return copied(lambda: target.copy_(source), 2 * COPIED, self)

    def left(self) -> float:
        """Seconds until the benchmark shall end."""
        return self._end - time.monotonic()


class Wall(Cuda):
    """The same device, timed by the clock on the wall, until its results are ready: what whoever waits for one call sees."""

    def __init__(self, card: Cuda) -> None:
        super().__init__()
        self._end = card._end

    def seconds(self, task: Task) -> float:
        """One call."""
        import torch

        self._flush.zero_()
        torch.cuda.synchronize()
        start = time.perf_counter()
        task()
        torch.cuda.synchronize()
        return time.perf_counter() - start


def wall(card: Card) -> Card:
    """A card timed by the clock."""
    return Wall(card) if isinstance(card, Cuda) else card


def copied(copy: Task, moved: int, card: Card) -> float:
    """Bytes a second of a copy that moves so many."""
    copy()
    return moved / statistics.median(card.seconds(copy) for _ in range(9))


def alternate(tasks: Mapping[str, Task], effort: Effort, card: Card, seconds: float = 20.0) -> dict[str, list[float]]:
    """Seconds of each task, A B C A B C …, as many rounds as there is time for, at least three."""
    once = {name: min(card.seconds(task) for _ in range(2)) for name, task in tasks.items()}
    rounds = max(3, min(effort.rounds, int(min(seconds, card.left()) / max(sum(once.values()), 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            samples[name].append(card.seconds(task))
    return samples


def tried(makers: Mapping[str, Callable[[], Task]], report: Report) -> dict[str, Task]:
    """The tasks that can be made and run twice; why not the others, peers that refuse a type or need more memory than there is."""
    found: dict[str, Task] = {}
    for name, make in makers.items():
        try:
            task = make()
            for _ in range(2):  # compiles, allocates
                task()
            found[name] = task
        except DisagreementError:
            raise
        except Exception as error:  # whatever a peer raises
            if name.startswith("spikegrad"):
                raise
            first = str(error).strip().splitlines()
            report.skipped.append(f"{name}: {type(error).__name__}: {first[0][:120] if first else ''}")
    return found


def moved(neuron: Any, steps: int, columns: int, item: int) -> int:
    """Bytes that must be read or written for a layer's forward and backward pass, each once.

    These are the inputs, the outputs, the gradients that arrive and those that are made, the inputs again where the backward pass needs
    them, the states at the beginnings of rounds, written and read, and those after the last step.
    """
    from spikegrad.kernels.gpu.choice import choice, work
    from spikegrad.kernels.gpu.source import recomputing
    from spikegrad.kernels.plan import Call

    call = Call(neuron.record, neuron.spike.structure)
    plan, passes = call.plan, call.plan.passes()
    again = bool(passes.kept or passes.restored)
    sequences = 2 * len(plan.inputs) + 2 * plan.outputs + len(plan.inputs if again else passes.reread)
    rounds = -(-steps // choice(work(passes), steps, columns, item).steps) if steps else 0
    kept = 2 * max(rounds - 1, 0) * len(recomputing(call, passes)[0]) if again else 0
    real = max(4, item)
    return columns * (sequences * steps * item + (kept + len(plan.states)) * real)


def share(bytes_moved: int, seconds: float, bandwidth: float) -> str:
    """What the time of something that must move so many bytes says beside a copy."""
    return f"{bytes_moved / seconds / bandwidth:.0%} of the copy's bandwidth"
