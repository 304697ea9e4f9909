"""This checkout against another: layers and a training step, in processes of both that take turns.

Run as a module it is one of these processes, with the package of either checkout on its path: it uses nothing that a checkout may lack.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import contenders, kernels, machine
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section, quartiles

JAX = " in JAX"
LAYERS = {
    f"{kind}{library}, {label}": (kind, size)
    for library in ("", JAX)
    for label, size in zip(("small", "large"), kernels.SIZES, strict=True)
    for kind in ("Leaky", "Synaptic")
}
QUICK = {f"Leaky{library}, small": ("Leaky", kernels.QUICK[0]) for library in ("", JAX)}
STEP = "the rest of a training step"
PROCESSES, ROUNDS = 4, 7
"""Pairs of processes, and rounds of each: where memory happens to lie differs between processes, and is worth several percent."""
CALLS = {"small": 100, "large": 3}
"""Calls of a layer in a round, whose median counts."""


def _median(samples: list[float]) -> float:
    return quartiles(samples)[0]


def _layer(kind: str, size: tuple[int, int, int], calls: int) -> tuple[Any, Any]:
    """A function that times a round, and one that says what the layer computes."""
    from spikegrad import nn

    decays = (contenders.BETA,) if kind == "Leaky" else (contenders.ALPHA, contenders.BETA)
    call = kernels.both(getattr(nn, kind)(*decays), kernels.inputs(size))

    def sample() -> float:
        samples: list[float] = []
        for _ in range(calls):
            start = time.thread_time()
            call()
            samples.append(time.thread_time() - start)
        return _median(samples)

    return sample, lambda: hashlib.sha256(b"".join(x.numpy().tobytes() for x in call())).hexdigest()


def _in_jax(kind: str, size: tuple[int, int, int], calls: int) -> tuple[Any, Any]:
    """The same in JAX, jitted, by the processor's time of all its threads, which share one core."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores is not None:
        os.sched_setaffinity(0, {min(cores)})  # for the threads, too, that JAX makes when it first computes
    import jax

    from spikegrad.jax import leaky, synaptic

    currents, gradient = (jax.numpy.asarray(x) for x in kernels.inputs(size))

    def spikes(x: Any) -> Any:
        return (leaky(x, contenders.BETA) if kind == "Leaky" else synaptic(x, contenders.ALPHA, contenders.BETA))[0]

    @jax.jit
    def both(x: Any, g: Any) -> Any:
        out, back = jax.vjp(spikes, x)
        return out, back(g)[0]

    def call() -> Any:
        return jax.block_until_ready(both(currents, gradient))

    call()
    if cores is not None:
        os.sched_setaffinity(0, cores)

    def sample() -> float:
        samples: list[float] = []
        for _ in range(calls):
            start = time.process_time()
            call()
            samples.append(time.process_time() - start)
        return _median(samples)

    return sample, lambda: hashlib.sha256(b"".join(bytes(x) for x in call())).hexdigest()


def _rest(quick: bool) -> tuple[Any, Any]:
    """The same of a training step without its matrix products, by the clock."""
    shape = ((30, 16, 16, 4), 12, 2) if quick else ((700, 256, 256, 20), 100, 64)
    step, products, _ = kernels.training_step(*shape)

    def sample() -> float:
        samples: list[float] = []
        for _ in range(3):
            times = [time.perf_counter()]
            for part in (step, products):
                part()
                times.append(time.perf_counter())
            samples.append(2 * times[1] - times[0] - times[2])
        return _median(samples)

    return sample, lambda: f"{step():.6f}"


def work(quick: bool, most: int) -> None:
    """For each line that arrives, the name of a task: the first time say what it computes, then time a round of it."""
    tasks: dict[str, Any] = {}
    for line in sys.stdin:
        task = line.strip()
        with kernels.threads(most if task == STEP else 1):
            if task in tasks:
                print(tasks[task](), flush=True)
                continue
            if task == STEP:
                sample, says = _rest(quick)
            else:
                kind, size = (QUICK if quick else LAYERS)[task]
                sample, says = (_in_jax if JAX in task else _layer)(kind, size, 2 if quick else CALLS[task.split()[-1]])
            tasks[task] = sample
            print(says(), flush=True)
            sample()


class _Worker:
    """A process of one checkout."""

    def __init__(self, checkout: Path, quick: bool, most: int) -> None:
        here = Path(__file__).parents[1]
        path = os.pathsep.join((str(checkout / "src"), str(here)))
        command = [sys.executable, "-m", "benchmarks.against", str(int(quick)), str(most)]
        environment = {**os.environ, "PYTHONPATH": path}
        self._process = subprocess.Popen(command, env=environment, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, task: str) -> str:
        """What a task computes, the first time; then a round's seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"{self._process.args} ended without a word; what it wrote stands above")
        return answer

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _timed(tasks: Sequence[str], other: Path, effort: Effort, most: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each task in both checkouts, in pairs of processes that take turns."""
    times: dict[str, dict[str, list[float]]] = {task: {"this": [], "other": []} for task in tasks}
    here = Path(__file__).parents[1]
    for k in range(1 if effort.quick else PROCESSES):
        order = (("this", here), ("other", other))[:: 1 if k % 2 else -1]
        workers = {name: _Worker(checkout, effort.quick, most) for name, checkout in order}
        try:
            for task in tasks:
                print(f"timing {task}, pair {k + 1} of {PROCESSES}", file=sys.stderr, flush=True)
                if workers["this"].ask(task) != workers["other"].ask(task):
                    raise DisagreementError(f"{task}: the checkouts do not compute the same")
                for _ in range(min(effort.rounds, ROUNDS)):
                    for name, worker in workers.items():
                        times[task][name].append(float(worker.ask(task)))
        finally:
            for worker in workers.values():
                worker.end()
    return times


def run(effort: Effort, other: Path) -> Report:
    """The comparison."""
    import torch

    report, tasks = Report(), (*(QUICK if effort.quick else LAYERS), STEP)
    found: list[Row] = []
    for task, times in _timed(tasks, other, effort, torch.get_num_threads()).items():
        report.checked.append(f"{task}: both checkouts compute the same{'' if task == STEP else ', bit for bit'}")
        ratios = quartiles([a / b for a, b in zip(times["this"], times["other"], strict=True)])
        mine, theirs = (quartiles([1e3 * x for x in times[name]]) for name in ("this", "other"))
        found += [Row(f"{task}: the other", *theirs, 1.0, 1.0, 1.0), Row(f"{task}: this checkout", *mine, *ratios)]
    text = (
        f"The other is commit {machine.commit_of(other)}. Forward and backward, processor time of one thread, in JAX of one core; the "
        f"training step by the clock, with {torch.get_num_threads()} threads. {PROCESSES} pairs of processes; "
        "ratios of rounds next to each other."
    )
    report.sections.append(Section("This checkout against another", "ms", found, "the other", text))
    return report


if __name__ == "__main__":
    work(bool(int(sys.argv[1])), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # a checkout whose kernels run in Python on JAX's threads may never end otherwise
