"""Our own kernels: half types, one number as a gradient, learned slopes, quantised states, every neuron, threads after a matrix product.

What runs in one thread is timed on one core in processor time, which a neighbour's work disturbs less than the clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import contenders, machine
from benchmarks.agreement import same
from benchmarks.layer import PROOF, inputs
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section, alternate, rows

SIZES = ((100, 16, 512), (500, 16, 4096))
QUICK = ((12, 2, 8), (24, 2, 16))
LARGE_ROUNDS = 9
"""Rounds of the large size, whose calls take long enough."""
FLAT, QUICK_FLAT = (100, 1, 16384), (10, 1, 64)
"""The layer right after a matrix product."""
CALLS = 16
"""Calls of it in a round, a product before each."""
PRODUCT = 700
"""Rows and columns of that product."""


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """This many threads of PyTorch; a single one is pinned to a core."""
    import torch

    before, cores = torch.get_num_threads(), os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(count)
    if count == 1 and cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if cores:
            os.sched_setaffinity(0, cores)


def both(layer: Any, arrays: tuple[Any, Any], dtype: str = "float32", total: bool = False) -> Any:
    """Forward and backward of a layer through autograd: a function that returns spikes, and the gradients of currents and parameters."""
    import torch

    x, gradient = (torch.from_numpy(array).to(getattr(torch, dtype)) for array in arrays)
    x.requires_grad_()
    parameters = tuple(layer.parameters())

    def call() -> tuple[Any, ...]:
        for leaf in (x, *parameters):
            leaf.grad = None
        spikes = layer(x)[0]
        if total:
            spikes.sum().backward()
        else:
            spikes.backward(gradient)
        return spikes.detach(), x.grad, *(p.grad for p in parameters)

    return call


def _apart(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """By how much arrays differ at most, relative to the largest of each."""
    pairs = [(a.double(), b.double()) for a, b in zip(ours, theirs, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def prove(name: str, first: Any, second: Any, tolerance: float) -> str:
    """That two calls return the same spikes bit for bit, and gradients to a tolerance."""
    import torch

    (spikes, *grads), (other, *others) = first(), second()
    worst = _apart(grads, others)
    if not (torch.equal(spikes, other) and worst <= tolerance and 0 < float(spikes.float().mean()) < 1):
        raise DisagreementError(f"{name}: spikes differ, or gradients by {worst:.2g} of the largest, more than {tolerance:.2g}")
    return f"{name}: same spikes bit for bit, gradients within {worst:.1g} of the largest"


def _narrow(size: tuple[int, int, int]) -> tuple[Any, Any]:
    return inputs((*size[:2], min(size[2], PROOF)))


def _shape(size: tuple[int, int, int]) -> str:
    return "T = {}, B = {}, N = {}".format(*size)


def _rounds(size: tuple[int, int, int], effort: Effort) -> Effort:
    return dataclasses.replace(effort, rounds=min(effort.rounds, LARGE_ROUNDS)) if size[0] >= 500 else effort


def halves(size: tuple[int, int, int], effort: Effort, report: Report) -> Section:
    """Half-precision sequences, which a kernel reads and writes itself."""
    from spikegrad import nn

    plain = nn.Leaky(contenders.BETA, backend="reference")
    for dtype, digits in (("float16", 11), ("bfloat16", 8), ("float32", 24)):
        pair = (both(layer, _narrow(size), dtype) for layer in (nn.Leaky(contenders.BETA, backend="numba"), plain))
        report.checked.append(prove(f"{dtype} and the plain loop", *pair, max(2.0**-digits, 1e-4)))
    arrays = inputs(size)
    tasks = {dtype: both(nn.Leaky(contenders.BETA), arrays, dtype) for dtype in ("float32", "bfloat16", "float16")}
    text = "Forward and backward through autograd, the sequences and their gradients in this type; all threads."
    return Section(f"Half types, {_shape(size)}", "ms", rows(alternate(tasks, _rounds(size, effort)), "float32"), "float32", text)


def gradients(size: tuple[int, int, int], effort: Effort, report: Report) -> Section:
    """The gradient that `spikes.sum()` sends, one number for all, against one in memory."""
    from spikegrad import nn

    currents, gradient = inputs(size)
    ones = currents, np.ones_like(gradient)
    layer = nn.Leaky(contenders.BETA)
    report.checked.append(
        prove(f"{_shape(size)}: spikes.sum() and a gradient of ones", both(layer, ones, total=True), both(layer, ones), 0.0)
    )
    tasks = {"a given gradient": both(layer, (currents, gradient)), "spikes.sum()": both(layer, ones, total=True)}
    with threads(1):
        samples = alternate(tasks, _rounds(size, effort), time.thread_time)
    text = "Forward and backward; processor time of one thread on one core."
    return Section(f"The gradient of a sum, {_shape(size)}", "ms", rows(samples, "a given gradient"), "a given gradient", text)


def options(size: tuple[int, int, int], effort: Effort, report: Report) -> Section:
    """What a learned slope and a quantised state add."""
    from spikegrad import neurons, nn

    def layers(backend: str) -> dict[str, Any]:
        return {
            "plain": nn.Leaky(contenders.BETA, backend=backend),
            "learned slope": nn.Layer(neurons.Leaky(contenders.BETA), learn=("spike.slope",), backend=backend),
            "quantised state": nn.Leaky(contenders.BETA, quantize=nn.Quantize(8), backend=backend),
        }

    for (name, fused), plain in zip(layers("numba").items(), layers("reference").values(), strict=True):
        pair = (both(layer, _narrow(size)) for layer in (fused, plain))
        report.checked.append(prove(f"{_shape(size)}: {name} and the plain loop", *pair, 1e-4))
    arrays = inputs(size)
    tasks = {name: both(layer, arrays) for name, layer in layers("auto").items()}
    with threads(1):
        samples = alternate(tasks, _rounds(size, effort), time.thread_time)
    text = "Forward and backward through autograd; processor time of one thread on one core."
    return Section(f"Options, {_shape(size)}", "ms", rows(samples, "plain"), "plain", text)


def _kernels(neuron: Any, currents: list[Any], gradient: Any) -> Any:
    """A neuron's kernels alone, forward and backward."""
    import torch

    from spikegrad.kernels.plan import Call
    from spikegrad.kernels.torch import layer_of
    from spikegrad.kernels.values import values_of

    call = Call(neuron.record, neuron.spike.structure)
    resting = {name: getattr(neuron, name) for name in neuron.states}
    numbers, _ = values_of(call, (), neuron.parameters | resting, neuron.spike.parameters, torch.float32)
    layer = layer_of(call, numbers, gradient.shape, torch.float32)
    arriving = (*[gradient] * call.plan.outputs, *[None] * len(call.plan.states))
    learned = layer.asked(())[1]

    def run() -> None:
        _, saved = layer.saving(currents, (), learned)
        layer.backward(saved, (), arriving, ())

    return run


def _prove_neuron(name: str, neuron: Any, arrays: list[Any]) -> str:
    """That a neuron's layer computes what the plain loop does, in float32; spikes may differ where a potential is at the threshold."""
    import torch

    from spikegrad import nn

    sides: list[tuple[Any, list[Any]]] = []
    gradient = torch.from_numpy(inputs(arrays[0].shape)[1])
    for backend in ("numba", "reference"):
        leaves = [torch.from_numpy(array).requires_grad_() for array in arrays]
        layer = nn.Layer(neuron, backend=backend)
        made = layer(tuple(leaves) if len(leaves) > 1 else leaves[0])[0]
        outputs = made if isinstance(made, tuple) else (made,)
        torch.autograd.backward(outputs, [gradient] * len(outputs))
        sides.append((outputs[0].detach(), [leaf.grad for leaf in leaves]))
    (spikes, grads), (other, others) = sides
    if "excess" not in neuron.record.recorded:
        worst = _apart((spikes, *grads), (other, *others))
        if not worst < 1e-4:
            raise DisagreementError(f"{name}: outputs or gradients differ by {worst:.2g} of the largest")
        return f"{name}: same outputs and gradients (within {worst:.1g} of the largest)"
    with torch.no_grad():
        given = [torch.from_numpy(array) for array in arrays]
        excess = nn.Layer(neuron, backend="reference")(tuple(given) if len(given) > 1 else given[0], record="excess")[2]
    rounding = 1e-4 * float(excess.abs().max())
    said = [same(name, (spikes, grad), (other, its), excess + 1.0, rounding=rounding) for grad, its in zip(grads, others, strict=True)]
    return said[0]


def every_neuron(size: tuple[int, int, int], effort: Effort, report: Report) -> Section:
    """The kernels of every neuron of the catalogue, relative to Leaky's."""
    import torch
    from tests.conftest import driving, example  # what drives each neuron is said once

    from spikegrad import neurons

    tasks: dict[str, Any] = {}
    names = ("Leaky", "ExponentialIF") if effort.quick else tuple(neurons.CATALOGUE)
    for name in names:
        neuron = example(name)
        report.checked.append(
            _prove_neuron(f"{name} and the plain loop", neuron, [a.astype(np.float32) for a in driving(neuron, *size[:2], 64)])
        )
        currents = [torch.from_numpy(a.astype(np.float32)) for a in driving(neuron, *size)]
        tasks[name] = _kernels(neuron, currents, torch.from_numpy(inputs(size)[1]))
    with threads(1):
        samples = alternate(tasks, effort, time.thread_time)
    found = sorted(rows(samples, "Leaky"), key=lambda row: row.ratio or 0)
    text = "Forward and backward without autograd, float32; processor time of one thread on one core."
    return Section(f"Every neuron's kernels, {_shape(size)}", "ms", found, "Leaky", text)


def after_product(size: tuple[int, int, int], effort: Effort, report: Report) -> Section:
    """A layer right after a matrix product, whose threads are still looking for work."""
    import torch

    from spikegrad import nn

    most = min(2, machine.cores())
    layer, arrays = nn.Leaky(contenders.BETA), inputs(size)
    call = both(layer, arrays)
    x, gradient = (torch.from_numpy(array) for array in arrays)
    x.requires_grad_()
    matrix = torch.ones(PRODUCT, PRODUCT)
    once = call()
    with threads(1):
        report.checked.append(prove("one thread and two", lambda: once, call, 0.0))
    samples: dict[str, list[float]] = {f"{part}, {n}": [] for part in ("forward", "backward") for n in ("one thread", "two threads")}

    def step() -> tuple[float, float]:
        torch.mm(matrix, matrix)
        start = time.perf_counter()
        x.grad = None
        spikes = layer(x)[0]
        forward = time.perf_counter() - start
        torch.mm(matrix, matrix)
        start = time.perf_counter()
        spikes.backward(gradient)
        return forward, time.perf_counter() - start

    before = torch.get_num_threads()
    for _ in range(effort.rounds):
        for count, word in ((1, "one thread"), (most, "two threads")):
            torch.set_num_threads(count)
            step()
            for part, found in zip(("forward", "backward"), zip(*(step() for _ in range(CALLS)), strict=True), strict=True):
                samples[f"{part}, {word}"].append(min(found))
    torch.set_num_threads(before)
    table: list[Row] = []
    for part in ("forward", "backward"):
        of = {name: samples[name] for name in samples if name.startswith(part)}
        table += rows(of, f"{part}, one thread")
    text = (
        f"A product of two {PRODUCT} x {PRODUCT} matrices by the same threads before each pass; by the clock, the least of {CALLS} calls "
        "in each round, since whoever else works takes one of two threads long before the only one. Ratios are to one thread."
    )
    return Section(f"After a matrix product, {_shape(size)}", "ms", table, "one thread", text)


def training(effort: Effort, report: Report) -> Section:
    """A training step of 700-256-256-20, and what it costs besides its eight matrix products."""
    sizes = (30, 16, 16, 4) if effort.quick else (700, 256, 256, 20)
    steps, batch = (12, 2) if effort.quick else (100, 64)
    step, products, check = training_step(sizes, steps, batch)
    report.checked.append(check())
    samples = alternate({"training step": step, "eight matrix products": products}, effort)
    pairs = zip(samples["training step"], samples["eight matrix products"], strict=True)
    samples["the rest"] = [whole - part for whole, part in pairs]
    text = "Forward, loss, backward, SGD; Leaky, LeakyIntegrator as the readout, 5 % of the inputs spike; all threads, by the clock."
    name = "-".join(map(str, sizes))
    return Section(f"A training step, {name}, T = {steps}, B = {batch}", "ms", rows(samples, "training step"), "training step", text)


def training_step(sizes: tuple[int, ...], steps: int, batch: int) -> tuple[Any, Any, Any]:
    """Functions of nothing: a training step, its eight matrix products alone, and the proof that fused layers train as plain ones do."""
    import torch

    from spikegrad import nn

    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(steps, batch, sizes[0], generator=generator) < 0.05).float()
    y = torch.randint(0, sizes[-1], (batch,), generator=generator)

    def network(backend: str) -> Any:
        torch.manual_seed(0)
        first, second, third = (torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        leaky, readout = functools.partial(nn.Leaky, contenders.BETA, backend=backend), nn.LeakyIntegrator(contenders.BETA, backend=backend)
        return nn.Sequential(first, leaky(), second, leaky(), third, readout)

    def trained(net: Any) -> Any:
        optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)

        def step() -> float:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(x)[0].mean(0), y)
            loss.backward()
            optimiser.step()
            return float(loss.detach())

        return step

    def check() -> str:
        fused, plain = (trained(network(backend)) for backend in ("auto", "reference"))
        worst = max(abs(fused() - plain()) for _ in range(3))
        if not worst < 1e-5:
            raise DisagreementError(f"losses of a network with fused and with plain layers differ by {worst:.2g}")
        return f"a network with fused layers and one in the plain loop: three losses within {worst:.1g}"

    weights = [torch.rand(b, a, generator=generator) for a, b in itertools.pairwise(sizes)]
    between = [torch.rand(steps * batch, n, generator=generator) for n in sizes[1:]]
    given = [x.reshape(steps * batch, -1), *between[:-1]]

    def products() -> None:
        for received, weight, out in zip(given, weights, between, strict=True):
            torch.mm(received, weight.t())
            torch.mm(out.t(), received)
        for out, weight in zip(between[1:], weights[1:], strict=True):
            torch.mm(out, weight)

    return trained(network("auto")), products, check


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    report, (small, large) = Report(), QUICK if effort.quick else SIZES
    report.sections.append(every_neuron(small, effort, report))
    for size in (small, large):
        report.sections.append(options(size, effort, report))
        report.sections.append(gradients(size, effort, report))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > machine.cores() + 1 and not effort.quick:  # half types, products and training run in all threads, by the clock
        report.skipped.append(f"what runs in several threads: others keep the machine busy, {load:.0f} threads on {machine.cores()} cores")
        return report
    report.sections.append(halves(large, effort, report))
    report.sections.append(after_product(QUICK_FLAT if effort.quick else FLAT, effort, report))
    report.sections.append(training(effort, report))
    return report
