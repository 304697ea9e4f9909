"""Memory of the backward pass: what a layer and a dense stack save for it, and the peak of the process."""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contenders
from benchmarks.agreement import same
from benchmarks.contenders import BETA, Run, Twin, ours
from benchmarks.layer import TorchSide, inputs, potentials, prove
from benchmarks.measure import Effort, Report, Row, Section

SIZE, QUICK, DEPTH = (500, 16, 512), (20, 2, 16), 4


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


def stack(spiking: Callable[[int], Run], width: int) -> Run:
    """Dense layers of one width, each followed by spiking neurons."""
    import torch

    torch.manual_seed(0)
    linear = [torch.nn.Linear(width, width, bias=False) for _ in range(DEPTH)]
    for layer in linear:
        torch.nn.init.uniform_(layer.weight, -(width**-0.5), 3 * width**-0.5)  # enough input to spike
    neurons = [spiking(width) for _ in range(DEPTH)]

    def run(x: Any) -> Any:
        for layer, fire in zip(linear, neurons, strict=True):
            x = fire(layer(x))
        return x

    return run


def recomputing(width: int) -> Run:
    """The same stack, of layers that save bits of their input and recompute the rest."""
    import torch

    from spikegrad import nn

    torch.manual_seed(0)
    layers = [nn.SpikingLinear(width, width, BETA, memory="recompute") for _ in range(DEPTH)]

    def run(x: Any) -> Any:
        for layer in layers:
            x = layer(x)[0]
        return x

    return run


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
    makers = {name: functools.partial(stack, make) for name, make in makers.items()}
    if hasattr(nn, "SpikingLinear"):
        makers["spikegrad, SpikingLinear recomputing"] = recomputing
    return makers


def given(stacked: bool, size: tuple[int, int, int]) -> Any:
    """Input spikes of a stack, or currents of a layer."""
    import torch

    if stacked:
        return (torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    return torch.tensor(inputs(size)[0], requires_grad=True)


def resident() -> int:
    """Bytes of this process in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak(name: str, stacked: bool, size: tuple[int, int, int]) -> int:
    """Bytes by which a forward and a backward pass raise the peak of this process."""
    make = runs(stacked)[name]
    small = given(stacked, (2, 1, size[-1]))
    out = make(size[-1])(small)
    out.backward(out.detach())  # what is compiled and loaded once is not the layer's
    run, x = make(size[-1]), given(stacked, size)
    before = resident()
    out = run(x)
    out.sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def peak_elsewhere(name: str, stacked: bool, size: tuple[int, int, int]) -> int:
    """`peak` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps([name, stacked, size])]
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
    for stacked, title in ((False, "one layer"), (True, f"a stack of {DEPTH} dense layers")):
        shape = "T = {}, B = {}, N = {}".format(*size)
        neurons = per * (DEPTH if stacked else 1)
        bytes_, peaks = [], []
        for name, make in runs(stacked).items():
            kept = saved(make(size[-1]), given(stacked, size)) / neurons
            bytes_.append(Row(name, kept, kept, kept))
            if not effort.quick or (name == "spikegrad" and not stacked):
                high = peak_elsewhere(name, stacked, size) / neurons
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
    if "spikegrad, SpikingLinear recomputing" not in runs(stacked=True):
        report.skipped.append("SpikingLinear with memory='recompute': this version does not have it")
    return report


if __name__ == "__main__":
    print(peak(*json.loads(sys.argv[1])))
