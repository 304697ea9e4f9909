"""What has to be waited for once: imports, the first call of each kind of layer, compilation."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import DisagreementError, Effort, Report, Row, Section

PROCESSES = 3

IMPORTS = """
import json, time
times, start = {}, time.perf_counter()
for name in ("numpy", "spikegrad", "torch", "spikegrad.nn", "numba"):
    __import__(name)
    times["import " + name], start = time.perf_counter() - start, time.perf_counter()
print(json.dumps(times))
"""

FIRST = """
import json, time
import numba, torch
from spikegrad import nn
layers = {"Leaky": nn.Leaky(0.9), "Synaptic": nn.Synaptic(0.8, 0.9), "LeakyIntegrator": nn.LeakyIntegrator(0.9),
          "RecurrentLeaky": nn.RecurrentLeaky(8, 0.9)}
times = {}
for name, layer in layers.items():
    start = time.perf_counter()
    layer(torch.rand(5, 2, 8, requires_grad=True))[0].sum().backward()
    times[name] = time.perf_counter() - start
print(json.dumps(times))
"""

SWEEP = """
import json, os, time
import torch
from pathlib import Path
from spikegrad import ATan, nn
def files():
    return len([p for p in Path(os.environ["SPIKEGRAD_CACHE"]).rglob("*.py")])
times, counts, gradients = [], [], []
for k in range(20):
    x = torch.linspace(0, 0.6, 80).reshape(5, 2, 8).requires_grad_()
    start = time.perf_counter()
    nn.Leaky(0.9, spike=ATan(slope=1 + k))(x)[0].sum().backward()
    times.append(time.perf_counter() - start)
    counts.append(files())
    gradients.append(float(x.grad.abs().sum()))
print(json.dumps({"times": times, "counts": counts, "different": len(set(gradients))}))
"""

COMPILE = """
import json, sys, time
import torch
from spikegrad import nn
layer = torch.compile(nn.Leaky(0.9, backend="reference"))
x = torch.rand(48, 2, 8, requires_grad=True)
start = time.perf_counter()
layer(x)[0].sum().backward()
print(json.dumps({"torch.compile of the reference loop, 48 steps": time.perf_counter() - start}))
"""


def start(script: str, cache: Path | str) -> subprocess.Popen[str]:
    """A new process with a cache folder of its own; torch's compiler finds none either."""
    environment = os.environ | {"SPIKEGRAD_CACHE": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(Path(cache) / "inductor")}
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> Any:
    """What the process printed."""
    out, err = process.communicate()
    if process.returncode:
        raise DisagreementError(f"a fresh process failed: {err[-2000:]}")
    return json.loads(out.splitlines()[-1])


def collect(samples: list[dict[str, float]], prefix: str = "") -> list[Row]:
    """A row for each thing timed: median, least and most of a few processes."""
    found = []
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        found.append(Row(prefix + name, statistics.median(values), min(values), max(values)))
    return found


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        if not effort.quick:
            rows = collect([finish(start(IMPORTS, folder)) for _ in range(PROCESSES)])
            report.sections.append(Section("Imports, one after the other in a new process", "s", rows, text="Median, least and most."))
            empty = [Path(folder) / f"empty-{k}" for k in range(PROCESSES)]
            first = [finish(start(FIRST, cache)) for cache in empty]
            again = [finish(start(FIRST, empty[0])) for _ in range(PROCESSES)]
            rows = collect(first, "first ever: ") + collect(again, "cached on disk: ")
            text = "Forward and backward of a tiny input, numba and torch being imported."
            report.sections.append(Section("First call of each kind of layer in a new process", "s", rows, text=text))

        sweep = finish(start(SWEEP, Path(folder) / "sweep"))
        if sweep["different"] < 20 or sweep["counts"][0] != sweep["counts"][-1]:
            raise DisagreementError(f"a sweep over 20 slopes compiled again, or gave equal gradients: {sweep}")
        modules = f"{sweep['counts'][0]} modules, forward, backward and what shares them out"
        report.checked.append(f"a sweep over 20 slopes compiles {modules}, at its first slope only")
        rest = sweep["times"][1:]
        rows = [Row("first slope", *[sweep["times"][0]] * 3), Row("each further slope", statistics.median(rest), min(rest), max(rest))]
        report.sections.append(Section("A sweep over 20 slopes", "s", rows))

        if not effort.quick:
            both = [start(FIRST, Path(folder) / "shared") for _ in range(2)]
            for process in both:
                finish(process)
            report.checked.append("two processes started at once with an empty cache both succeed")
            try:
                rows = collect([finish(start(COMPILE, Path(folder) / "compile"))])
                report.sections.append(Section("For comparison", "s", rows, text="Forward and backward, grows with the number of steps."))
            except DisagreementError as failure:
                last = str(failure).strip().splitlines()[-1]
                report.skipped.append(f"torch.compile of the reference loop, which needs a C++ compiler: {last[:200]}")
    return report
