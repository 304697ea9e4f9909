"""Memory of the backward pass: what a layer and stacks of layers save for it, and the peak of the process."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contenders, recompute
from benchmarks.agreement import same
from benchmarks.contenders import BETA, Run, Twin, ours
from benchmarks.layer import TorchSide, inputs, potentials, prove
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section

SIZE, QUICK, DEPTH = (500, 16, 512), (20, 2, 16), 4
RECOMPUTING = "spikegrad, SpikingLinear recomputing"


def saved(run: Run, currents: Any) -> int:
    """Bytes that autograd keeps between the passes, each storage once, parameters not counted."""
    import torch

    kept: dict[int, Any] = {}  # holds what it counts, so that no address is used twice

    def pack(tensor: Any) -> Any:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        spikes = run(currents)
    assert spikes.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


class Stack:
    """Dense layers of one width, each followed by spiking neurons."""

    def __init__(self, spiking: Callable[[int], Run], width: int) -> None:
        import torch

        torch.manual_seed(0)
        sizes = [width] * DEPTH
        linear = [torch.nn.Linear(size, size, bias=False) for size in sizes]
        for layer in linear:
            torch.nn.init.uniform_(layer.weight, -(width**-0.5), 3 * width**-0.5)  # enough input to spike
        self.weights = [layer.weight for layer in linear]
        self.layers = [lambda x, dense=dense, fire=fire: fire(dense(x)) for dense, fire in zip(linear, map(spiking, sizes), strict=True)]

    def __call__(self, x: Any) -> Any:
        """Spikes of the last layer."""
        for layer in self.layers:
            x = layer(x)
        return x


class Recomputing(Stack):
    """The same stack, of layers that save their input as bits and recompute the rest."""

    def __init__(self, width: int) -> None:
        from spikegrad import nn

        super().__init__(lambda _: lambda x: x, width)
        layers = [nn.SpikingLinear(width, width, nn.Leaky(BETA), bias=False, memory="recompute") for _ in range(DEPTH)]
        for layer, weight in zip(layers, self.weights, strict=True):
            layer.weight = weight
        self.layers = [lambda x, layer=layer: layer(x)[0] for layer in layers]


def prove_recomputing(size: tuple[int, int, int]) -> str:
    """That recomputing gives the dense stack's spikes and its gradients of the weights."""
    import torch

    x = given(True, size)
    sides = [Stack(lambda width: ours("Leaky", Twin()), size[-1]), Recomputing(size[-1])]
    spikes = [side(x) for side in sides]
    for out in spikes:
        out.backward(torch.linspace(-1, 1, out.numel()).reshape(out.shape))
    pairs = [(a.grad, b.grad) for a, b in zip(*(side.weights for side in sides), strict=True)]
    worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    if not torch.equal(*spikes) or not spikes[0].any() or not worst <= 1e-4:
        differ = int((spikes[0] != spikes[1]).sum())
        raise DisagreementError(f"recomputing: {differ} of {spikes[0].numel()} spikes differ, gradients of the weights by {worst:.2g}")
    return f"recomputing: same spikes as the dense stack, gradients of the weights within {worst:.1g} of the largest"


def runs(stacked: bool) -> dict[str, Callable[[int], Run]]:
    """Everything that can be measured here, by name."""
    from spikegrad import nn

    makers: dict[str, Callable[[int], Run]] = {
        "spikegrad": lambda width: ours("Leaky", Twin()),
        "spikegrad, reference loop": lambda width: ours("Leaky", Twin(), backend="reference"),
    }
    makers |= {peer.name: peer.make for peer in contenders.LEAKY if peer.installed() and not peer.batch_first}
    if not stacked:
        return makers | {peer.name: peer.make for peer in contenders.LEAKY if peer.installed() and peer.batch_first}
    makers = {name: functools.partial(Stack, make) for name, make in makers.items()}
    if hasattr(nn, "SpikingLinear"):
        makers[RECOMPUTING] = Recomputing
    return makers


def given(stacked: bool, size: tuple[int, int, int]) -> Any:
    """Input spikes of a stack, or currents of a layer."""
    import torch

    if stacked:
        return (torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    return torch.tensor(inputs(size)[0], requires_grad=True)


def resident(most: bool = False) -> int:
    """Bytes of this process in memory, now or at most.

    Not by `getrusage` where it can be helped: on Linux a new process begins with the peak of the one that started it.
    """
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM" if most else "VmRSS"].split()[0]) * 1024
    except (OSError, KeyError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak(name: str, stacked: bool, size: tuple[int, int, int]) -> int:
    """Bytes by which a forward and a backward pass raise the peak of this process."""
    make = runs(stacked)[name]
    small = given(stacked, (2, 1, size[-1]))
    out = make(size[-1])(small)
    out.backward(out.detach())  # what is compiled and loaded once is not the layer's
    run, x = make(size[-1]), given(stacked, size)
    return raised(lambda: run(x).sum().backward())


def raised(task: Callable[[], object]) -> int:
    """Bytes by which a task raises the peak of this process."""
    with contextlib.suppress(OSError, AttributeError):  # what the allocator keeps in reserve would hide what the task takes
        ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    task()
    return resident(most=True) - before


def elsewhere(module: str, name: str, *given: Any) -> int:
    """The `peak` of a module in a process of its own."""
    command = [sys.executable, "-m", module, json.dumps([name, *given])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    if done.returncode:
        raise RuntimeError(f"the peak of {name} could not be measured: {done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    report = Report()
    size = QUICK if effort.quick else SIZE
    per = int(np.prod(size))
    side, arrays = TorchSide(), inputs((size[0], 2, min(size[2], 128)))
    for peer in contenders.LEAKY:
        if peer.installed():
            report.checked.append(prove(side, "Leaky", peer, arrays, ours("Leaky", peer.twin)))
        else:
            report.skipped.append(peer.missing())
    fused, plain = (side.step(ours("Leaky", Twin(), b), side.leaf(arrays[0]), side.tensor(arrays[1])) for b in ("auto", "reference"))
    report.checked.append(same("spikegrad, fused and reference loop", fused(), plain(), potentials("Leaky", Twin(), arrays[0])))
    if RECOMPUTING in runs(stacked=True):
        report.checked.append(prove_recomputing((size[0], 2, min(size[2], 128))))
    for stacked, title in ((False, "one layer"), (True, f"a stack of {DEPTH} dense layers")):
        shape = "T = {}, B = {}, N = {}".format(*size)
        neurons = per * (DEPTH if stacked else 1)
        bytes_, peaks = [], []
        for name, make in runs(stacked).items():
            kept = saved(make(size[-1]), given(stacked, size)) / neurons
            bytes_.append(Row(name, kept, kept, kept))
            if not effort.quick or (name == "spikegrad" and not stacked):
                high = elsewhere("benchmarks.memory", name, stacked, size) / neurons
                peaks.append(Row(name, high, high, high))
        for rows in filter(None, (bytes_, peaks)):
            for row in rows:
                row.ratio = row.ratio_low = row.ratio_high = row.value / rows[0].value
        unit = "bytes per neuron and step"
        text = "Each storage once; parameters are not counted, the input is." + (
            " A dense layer saves its input, 4 bytes, besides what its neurons save." if stacked else ""
        )
        report.sections.append(Section(f"Saved for the backward pass, {title}, {shape}", unit, bytes_, "spikegrad", text))
        text = "By how much a forward and a backward pass raise the peak of a process of its own, outputs and gradients included."
        if peaks:
            report.sections.append(Section(f"Peak, {title}, {shape}", unit, peaks, "spikegrad", text))
    if RECOMPUTING not in runs(stacked=True):
        report.skipped.append("SpikingLinear with memory='recompute': this version does not have it")
    recompute.compare(effort, report)
    return report


if __name__ == "__main__":
    print(peak(*json.loads(sys.argv[1])))
