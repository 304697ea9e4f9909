"""How the time of a layer grows with its steps, its neurons and its threads; and of a training step with the share that spikes."""

from __future__ import annotations

from typing import Any

from benchmarks import contenders, density
from benchmarks.agreement import same
from benchmarks.contenders import Twin, ours
from benchmarks.layer import TorchSide, floor, inputs, potentials, prove, task
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section, timed

STEPS = {"x": (25, 100, 400, 1600), "size": lambda x: (x, 16, 512)}
NEURONS = {"x": (64, 512, 4096, 16384), "size": lambda x: (100, 16, x)}
PEERS = ("snnTorch Leaky", "SpikingJelly LIFNode")


def tasks(size: tuple[int, int, int], peers: bool = True) -> dict[str, Any]:
    """Ours, the peers that compute most nearly the same, and the floor."""
    side, arrays = TorchSide(), inputs(size)
    found = {"spikegrad": side.step(ours("Leaky", Twin()), side.leaf(arrays[0]), side.tensor(arrays[1]))}
    if peers:
        for peer in contenders.LEAKY:
            if peer.name in PEERS and peer.installed():
                found[peer.name] = task(side, peer, size[-1], arrays)
    return found | floor(*arrays)


def at(x: float, rows: list[Row]) -> list[Row]:
    """The rows as points over `x`."""
    for row in rows:
        row.x = x
    return rows


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    import torch

    report, side, threads = Report(), TorchSide(), torch.get_num_threads()
    arrays = inputs((50, 4, 64))
    for peer in contenders.LEAKY:
        if peer.name in PEERS:
            if peer.installed():
                report.checked.append(prove(side, "Leaky", peer, arrays, ours("Leaky", peer.twin)))
            else:
                report.skipped.append(peer.missing())
    text = f"Forward and backward, ATan(2), float32, {threads} threads."
    for axis, plan, fixed in (("T", STEPS, "B = 16, N = 512"), ("N", NEURONS, "T = 100, B = 16")):
        values = plan["x"][:1] if effort.quick else plan["x"]
        rows = [row for x in values for row in at(x, timed(tasks(plan["size"](x)), "spikegrad", effort))]
        report.sections.append(Section(f"Over {axis}, {fixed}", "ms", rows, "spikegrad", text, axis))

    size = (20, 4, 64) if effort.quick else (500, 16, 4096)
    arrays, rows, results = inputs(size), [], []
    step = side.step(ours("Leaky", Twin()), side.leaf(arrays[0]), side.tensor(arrays[1]))
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append([part.clone() for part in step()])
        rows += at(count, timed(tasks(size, peers=False), "spikegrad", effort))
    torch.set_num_threads(threads)
    if not all(torch.equal(a, b) for a, b in zip(*results, strict=True)):
        raise DisagreementError("one and two threads do not compute the same")
    report.checked.append("one and two threads compute the same, bit for bit")
    report.sections.append(Section("Over threads, T = {}, B = {}, N = {}".format(*size), "ms", rows, "spikegrad", "As above.", "threads"))
    u = potentials("Leaky", Twin(), (small := inputs((50, 4, 64)))[0])
    sides = [side.step(ours("Leaky", Twin(), b), side.leaf(small[0]), side.tensor(small[1]))() for b in ("auto", "reference")]
    report.checked.append(same("spikegrad, fused and reference loop", *sides, u))
    density.run(effort, report)
    return report
