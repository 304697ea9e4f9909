"""How the time and the memory of a training step grow with the share of neurons that spike, by events and dense; and of its products."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from benchmarks import crossing, events
from benchmarks.measure import Effort, Report, Row, Section, alternate, quartiles, rows

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
TASK = events.Task(batch=32)
LAYER = (700, 256)
AXIS = "% that spike"
NAMES = {"auto": "spikegrad", "event": "all by events", "dense": "all dense"}
"""What is drawn, by the `backend` of layers: `spikegrad` chooses each product apart."""


def run(effort: Effort, report: Report) -> None:
    """Add what was measured to a report: processor time of one thread, since the shapes of curves are what counts."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shares = SHARES[3:5] if effort.quick else SHARES
    base = dataclasses.replace(TASK, sizes=(60, 40, 6), steps=10, batch=4) if effort.quick else TASK
    steps: list[Row] = []
    kept: list[Row] = []
    worst = 1.0
    for share in shares:
        task = dataclasses.replace(base, density=share, rate=share)
        dense = events.Side(task, "dense")
        weights = [parameter.detach().clone() for parameter in dense.net.parameters()]
        sides = {name: dense if way == "dense" else events.Side(task, way, weights) for way, name in NAMES.items()}
        events.prove(task, {name: sides[name] for name in reversed(sides)}, report)
        samples = alternate({name: side.step for name, side in sides.items()}, effort, time.thread_time)
        first, *others = samples.values()
        lost = quartiles([a / min(each) for a, *each in zip(first, *others, strict=True)])[0]
        worst = max(worst, lost)
        said = activity(sides[NAMES["event"]])
        for row in rows(samples, NAMES["auto"]):
            row.x, row.note = 100 * share, said if row.name == NAMES["auto"] else ""
            steps.append(row)
        for name, side in sides.items():
            value = saved(side)
            kept.append(Row(name, value, value, value, x=100 * share))
    sizes = "-".join(map(str, base.sizes))
    text = (
        f"Leaky, Triangle(width={base.width}), T = {base.steps}, B = {base.batch}; forward, loss, backward, Adam. Inputs and hidden "
        f"neurons spike at this rate. Choosing costs at most {worst:.2f} times the better of the others."
    )
    report.sections.append(Section(f"Over density, a training step of {sizes}", "ms", steps, NAMES["auto"], text, AXIS))
    text = "Kept for the backward pass of all layers, for each hidden neuron and step: what autograd saves, and lists of events."
    report.sections.append(Section(f"Over density, memory of {sizes}", "bytes", kept, "", text, AXIS))
    products(effort, report, shares)
    torch.set_num_threads(threads)


def activity(side: events.Side) -> str:
    """Which shares of the hidden neurons spike and are active."""
    from spikegrad import Spikes

    x: Any = Spikes.of(side.x).detach()
    said = []
    for layer in side.net[:-1]:
        x, _ = layer(x)
        said.append(f"{x.density:.1%} spike, {x.share:.1%} active")
    return "; ".join(said)


def saved(side: events.Side) -> float:
    """Bytes between the passes: every storage that the graph holds, each once, but for weights; and lists that are not tensors of it."""
    import torch

    held: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        if not isinstance(tensor, torch.nn.Parameter):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = side.output()
    held.pop(side.x.untyped_storage().data_ptr(), None)  # the input is there before and after
    lists, waiting, seen = 0, [out.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        made = getattr(node, "made", None)
        lists += made.nbytes if made is not None else 0
        waiting += [following for following, _ in node.next_functions]
    steps, batch, _ = side.x.shape
    neurons = steps * batch * sum(layer.weight.shape[0] for layer in side.net[:-1])
    return (sum(held.values()) + lists) / neurons


def products(effort: Effort, report: Report, shares: tuple[float, ...]) -> None:
    """Each of the three products of one layer."""
    for product, title in crossing.PRODUCTS.items():
        points: list[Row] = []
        for share in shares:
            calls, taken = crossing.passes(product, LAYER, share, *((4, 2) if effort.quick else (100, 16)))
            for row in rows(alternate(calls, effort, time.thread_time), "event"):
                row.x, row.note = 100 * share, "taken" if row.name == taken else ""
                points.append(row)
        name = f"Over density, {title} of {LAYER[0]}-{LAYER[1]}"
        text = "A pass with the neurons in it. Of the gradient of the input the share is that of pairs inside of the window."
        report.sections.append(Section(name, "ms", points, "event", text, AXIS))
