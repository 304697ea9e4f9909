"""One spiking layer, forward and backward through autograd, against the peers and against a copy of the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
from typing import Any

import numpy as np

from benchmarks import contenders
from benchmarks.agreement import same
from benchmarks.contenders import Contender, Twin, ours, ours_jax
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section, alternate, quartiles, rows, timed

SIZES = {"small": (100, 16, 512), "large": (500, 16, 4096)}
QUICK = {"small": (12, 2, 8)}
COPY = "copy of the same bytes"
LARGE_ROUNDS = 9
"""Rounds of the large size, whose calls take long enough."""
PROOF = 256
"""Features of the proof that both sides agree, at the full number of steps."""


def inputs(size: tuple[int, int, int]) -> tuple[Any, Any]:
    """Currents that make a neuron of decay 0.9 spike now and then, and a gradient for its spikes; float32 NumPy arrays."""
    generator = np.random.default_rng(0)
    return generator.normal(0.15, 0.3, size).astype(np.float32), generator.normal(0, 1, size).astype(np.float32)


def early(array: Any, lag: int) -> Any:
    """The array `lag` steps earlier."""
    return np.concatenate([array[lag:], np.zeros_like(array[:lag])])


class TorchSide:
    """Forward and backward of a layer in PyTorch, on a device."""

    name = "PyTorch"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def leaf(self, array: Any) -> Any:
        """An array as a tensor that receives a gradient."""
        return self.tensor(array).requires_grad_()

    def tensor(self, array: Any) -> Any:
        """An array as a tensor; a tensor as another that shares its memory."""
        import torch

        return array.detach() if isinstance(array, torch.Tensor) else torch.tensor(array, device=self.device)

    def place(self) -> Any:
        """Around what makes a layer: its tensors lie on the device."""
        import torch

        return contextlib.nullcontext() if self.device == "cpu" else torch.device(self.device)

    def step(self, run: Any, leaf: Any, gradient: Any) -> Any:
        """A function of nothing that returns spikes and gradient."""

        def call() -> Any:
            leaf.grad = None
            spikes = run(leaf)
            spikes.backward(gradient)
            return spikes.detach(), leaf.grad

        return call


class JaxSide:
    """The same in JAX, compiled."""

    name = "JAX"

    def leaf(self, array: Any) -> Any:
        """An array of JAX."""
        import jax.numpy as jnp

        return jnp.asarray(array)

    tensor = leaf

    def place(self) -> Any:
        """Nothing: JAX has its own default."""
        return contextlib.nullcontext()

    def step(self, run: Any, leaf: Any, gradient: Any) -> Any:
        """A function of nothing that returns spikes and gradient, both ready."""
        import jax

        @jax.jit
        def both(currents: Any, incoming: Any) -> Any:
            spikes, back = jax.vjp(run, currents)
            return spikes, back(incoming)[0]

        return lambda: jax.block_until_ready(both(leaf, gradient))


Side = TorchSide | JaxSide


def task(side: Side, peer: Contender, features: int, arrays: tuple[Any, Any]) -> Any:
    """Forward and backward of a peer."""
    currents, gradient = arrays
    native = peer.native
    leaf = side.leaf(currents / np.float32(peer.gain))
    if peer.batch_first:
        leaf = native(leaf.detach()).requires_grad_()
    with side.place():
        run = peer.make(features)
    return side.step(run, leaf, native(side.tensor(gradient)))


def potentials(kind: str, twin: Twin, currents: Any) -> Any:
    """Potentials before reset of ours, by the reference."""
    import torch

    from spikegrad import nn

    decays = (contenders.BETA,) if kind == "Leaky" else (contenders.ALPHA, contenders.BETA)
    layer = getattr(nn, kind)(*decays, spike=twin.surrogate, backend="reference", **twin.options)
    with torch.no_grad():
        return layer(torch.tensor(currents), record=True)[2]


def host(array: Any) -> Any:
    """An array of any library in NumPy."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def prove(side: Side, kind: str, peer: Contender, arrays: tuple[Any, Any], mine: Any) -> str:
    """That ours with a peer's options, `mine`, computes what the peer does."""
    currents, gradient = arrays
    spikes, grad = side.step(mine, side.leaf(currents), side.tensor(early(gradient, peer.twin.lag)))()
    their_spikes, their_grad = task(side, peer, currents.shape[-1], arrays)()
    theirs = early(host(peer.major(their_spikes)), peer.twin.lag), host(peer.major(their_grad)) / np.float32(peer.gain)
    compared = slice(0, len(currents) - peer.twin.lag)
    u = potentials(kind, peer.twin, currents)
    both = [(host(a)[compared], host(b)[compared]) for a, b in ((spikes, grad), theirs)]
    return same(f"{side.name} {peer.name}", *both, u[compared])


COPIES = """
@row
def copied(count, source, target):
    for j in range(count):
        target[j] = source[j]

@row
def summed(count, source, gradient, target):
    for j in range(count):
        target[j] = source[j] + gradient[j]

@numba.njit(forceinline=True)
def at(job, k, t, start):
    return reals(job[ARGUMENTS + U(2 * k)] + (t * job[ARGUMENTS + U(2 * k + 1)] + start) * SIZE)

@entry(2)
def copy(address, mine):
    job = words(address)
    start = claimed(job, mine)
    while start < job[COLUMNS]:
        count = min(job[BLOCK], job[COLUMNS] - start)
        for t in range(job[STEPS]):
            copied(count, at(job, 0, t, start), at(job, 1, t, start))
        start = claimed(job, mine)

@entry(2)
def add(address, mine):
    job = words(address)
    start = claimed_back(job, mine)
    while start < job[COLUMNS]:
        count = min(job[BLOCK], job[COLUMNS] - start)
        for t in range(job[STEPS]):
            summed(count, at(job, 0, t, start), at(job, 1, t, start), at(job, 2, t, start))
        start = claimed_back(job, mine)
"""
"""Loops like ours that do nothing but read and write."""


def floor(currents: Any, gradient: Any) -> dict[str, Any]:
    """The same bytes copied: read currents, write spikes, read gradient and currents, write gradient; buffers reused, and new each time.

    Our threads share the work, block by block as in our kernels.
    """
    import torch

    from spikegrad.kernels.cpu import compiler, threads

    machine_code, workers = compiler.loaded("copies", compiler.header("float32") + COPIES), torch.get_num_threads()
    first, second = np.empty_like(currents), np.empty_like(currents)
    steps, columns = len(currents), currents[0].size

    def run(kernel: Any, *arrays: Any) -> None:
        arguments = [word for array in arrays for word in (array.ctypes.data, columns)]
        threads.run(threads.job(kernel.address, workers, steps, columns, 1024, 0, arguments))

    def copy(spikes: Any, grad: Any) -> None:
        run(machine_code.copy, currents, spikes)
        run(machine_code.add, currents, gradient, grad)

    copy(first, second)
    if not (np.array_equal(first, currents) and np.array_equal(second, currents + gradient)):
        raise DisagreementError("the copy of the same bytes is none")
    return {
        COPY: lambda: copy(first, second),
        "copy into new memory": lambda: copy(np.empty_like(currents), np.empty_like(currents)),
    }


def kernels(currents: Any, gradient: Any) -> Any:
    """Our kernels alone."""
    import torch

    from spikegrad import ATan
    from spikegrad.kernels.plan import Call
    from spikegrad.kernels.torch import layer_of
    from spikegrad.kernels.values import values_of
    from spikegrad.neurons import Leaky

    x, g, neuron, spike = torch.from_numpy(currents), torch.from_numpy(gradient), Leaky(contenders.BETA), ATan()
    call = Call(neuron.record, spike.structure)
    numbers, _ = values_of(call, (), neuron.parameters | {"v": 0.0}, spike.parameters, torch.float32)
    layer = layer_of(call, numbers, x.shape, torch.float32)
    return lambda: (layer.forward((x,), ()), layer.backward((x,), (), (g, None), ()))


def compare(side: Side, kind: str, table: tuple[Contender, ...], label: str, size: Any, effort: Effort, report: Report) -> None:
    """Ours against everyone in a table; each peer's ratio is to ours with the peer's own options, in the same round."""
    arrays, default = inputs(size), Twin()
    make = (
        functools.partial(ours, kind)
        if isinstance(side, TorchSide)
        else functools.partial(ours_jax, kind, **({"backend": "numba"} if fused_jax() else {}))
    )
    plain: dict[str, Any] = {"spikegrad": make(default)}
    if isinstance(side, TorchSide):
        plain["spikegrad, reference loop"] = make(default, backend="reference")
    elif fused_jax():
        plain["spikegrad, lax.scan"] = make(default, backend="reference")
    else:
        report.skipped.append("spikegrad.jax: this version has no fused kernels for JAX; `spikegrad` stands for lax.scan")

    def tasks_of(given: tuple[Any, Any]) -> dict[str, Any]:
        return {name: side.step(run, side.leaf(given[0]), side.tensor(given[1])) for name, run in plain.items()}

    proof = inputs((*size[:2], min(size[2], PROOF)))  # neurons are alike, steps are not
    u, (first, *others) = potentials(kind, default, proof[0]), tasks_of(proof).items()
    for name, other in others:
        report.checked.append(f"{label}: " + same(f"{side.name} {kind}: spikegrad and {name}", first[1](), other(), u))
    tasks = tasks_of(arrays)
    notes: dict[str, str] = {}
    twins: dict[str, str] = {}
    for peer in table:
        if not peer.installed():
            report.skipped.append(peer.missing())
            continue
        mine = make(peer.twin)
        report.checked.append(f"{label}: " + prove(side, kind, peer, proof, mine))
        twin = f"spikegrad as {peer.name}"
        tasks[twin] = side.step(mine, side.leaf(arrays[0]), side.tensor(arrays[1]))
        tasks[peer.name] = task(side, peer, size[-1], arrays)
        twins[peer.name], notes[peer.name] = twin, peer.note
    kernels_too = kind == "Leaky" and isinstance(side, TorchSide)
    if kernels_too:
        tasks |= {**floor(*arrays), "our kernels alone": kernels(*arrays)}
    if label == "large":
        effort = dataclasses.replace(effort, rounds=LARGE_ROUNDS)
    samples = alternate(tasks, effort)
    found = rows({name: s for name, s in samples.items() if name not in twins.values()}, "spikegrad", notes)
    for row in found:
        if row.name in twins:
            mine = samples[twins[row.name]]
            row.ratio, row.ratio_low, row.ratio_high = quartiles([a / b for a, b in zip(samples[row.name], mine, strict=True)])
            row.note += f"; ours as such {quartiles(mine)[0] * 1e3:.3g} ms"
    shape = "T = {}, B = {}, N = {}".format(*size)
    text = "Forward and backward, ATan(2), float32. The ratio of a peer is to ours with that peer's options."
    report.sections.append(Section(f"{side.name}, {kind}, {shape}", "ms", found, "spikegrad", text))
    if kernels_too:
        bare = {name: samples[name] for name in (COPY, "copy into new memory", "our kernels alone", "spikegrad")}
        text = "The same run: our kernels alone and the layer through autograd, both with memory for what they return that is used again."
        report.sections.append(Section(f"Above the floor, {shape}", "ms", rows(bare, COPY), COPY, text))


def fused_jax() -> bool:
    """Whether `spikegrad.jax` can choose a backend."""
    if importlib.util.find_spec("jax") is None:
        return False
    from spikegrad.jax import Keywords

    return "backend" in Keywords.__annotations__


def surrogates_section(size: Any, effort: Effort, report: Report) -> Section:
    """Every surrogate of the catalogue in the same layer, relative to ATan."""
    from spikegrad import CATALOGUE

    arrays, side = inputs(size), TorchSide()
    tasks: dict[str, Any] = {}
    few = ("ATan", "Sigmoid", "StochasticLeak")
    for name, surrogate in CATALOGUE.items():
        if effort.quick and name not in few:  # each compiles
            continue
        if surrogate.stochastic:
            report.skipped.append(f"{name}: it draws noise, which the fused kernels leave to the reference loop")
            continue
        twin = Twin(surrogate())
        mine, reference = (side.step(ours("Leaky", twin, b), side.leaf(arrays[0]), side.tensor(arrays[1])) for b in ("numba", "reference"))
        # Ours must agree bit for bit, so that no rounding is excused.
        same(f"{name}, fused and reference", mine(), reference(), potentials("Leaky", twin, arrays[0]), rounding=0.0)
        tasks[name] = mine
    report.checked.append(f"{len(tasks)} surrogates: fused and reference spike alike bit for bit, gradients agree")
    found: list[Row] = sorted(timed(tasks, "ATan", effort), key=lambda row: row.ratio or 0)
    return Section(
        "Every surrogate, PyTorch, T = {}, B = {}, N = {}".format(*size), "ms", found, "ATan", "Forward and backward through autograd."
    )


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    report = Report()
    for label, size in (QUICK if effort.quick else SIZES).items():
        compare(TorchSide(), "Leaky", contenders.LEAKY, label, size, effort, report)
        compare(TorchSide(), "Synaptic", contenders.SYNAPTIC, label, size, effort, report)
        if importlib.util.find_spec("jax") is not None:
            compare(JaxSide(), "Leaky", contenders.JAX, label, size, effort, report)
        else:
            report.skipped.append("everything in JAX: jax is not installed")
    report.sections.append(surrogates_section((QUICK if effort.quick else SIZES)["small"], effort, report))
    return report
