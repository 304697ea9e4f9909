"""The benchmarks ``layer``, ``network`` and ``neurons`` on a GPU: ``--device cuda``."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import contenders, layer, sew
from benchmarks.card import Card, alternate, moved, share, tried, wall
from benchmarks.contenders import Contender, Twin, ours, ours_jax
from benchmarks.layer import JaxSide, TorchSide
from benchmarks.measure import DisagreementError, Effort, Report, Section, Task, quartiles, rows
from benchmarks.network import QUICK as TINY
from benchmarks.network import TASKS, Network, prove, readout_ours
from benchmarks.neurons import pairs

LAYERS = (((32, 64, 2**16), "float16"), ((32, 64, 2**16), "float32"), ((500, 256, 1024), "float32"), ((100, 16, 512), "float32"))
"""Steps, samples and neurons, and their type."""
JAX = ((504, 128, 512), (499, 127, 509))
NEURONS = (100, 256, 4096)
LINEAR = (512, 4096, 16_384)
"""Neurons of the case that Open Neuromorphic publishes: a linear layer and a leaky one, 16 samples of 500 steps."""
PROOF = (100, 16, 64)


def _peers() -> tuple[Contender, ...]:
    """Those that run on GPUs."""
    return (*(p for p in contenders.LEAKY if p.package in ("snntorch", "spikingjelly", "norse")), contenders.FLEX)


def _arrays(size: tuple[int, ...], dtype: str, device: str, mean: float = 0.15, deviation: float = 0.3) -> tuple[Any, Any]:
    """Currents, and a gradient for the spikes, made on the device."""
    import torch

    made = torch.randn(size, device=device, generator=torch.Generator(device).manual_seed(0)).mul_(deviation).add_(mean)
    return made.to(getattr(torch, dtype)), torch.ones_like(made[:1]).expand(size).mul(0.5).to(getattr(torch, dtype))


def _compared(
    title: str, tasks: dict[str, Task], twins: Mapping[str, str], card: Card, effort: Effort, text: str, bytes_moved: int, report: Report
) -> None:
    """A section of tasks, each with its share of the bandwidth; the ratio of a peer is to its twin of ours."""
    if not tasks:
        return
    bandwidth, samples = card.bandwidth(), alternate(tasks, effort, card, 8.0)
    shown = {name: values for name, values in samples.items() if name not in twins.values() or name == "spikegrad"}
    found = rows(shown, "spikegrad")
    for row in found:
        row.note = share(bytes_moved, row.value * 1e-3, bandwidth)
        if (twin := twins.get(row.name)) in samples:
            mine = samples[twin]
            row.ratio, row.ratio_low, row.ratio_high = quartiles([a / b for a, b in zip(samples[row.name], mine, strict=True)])
            row.note += f"; ours as such {quartiles(mine)[0] * 1e3:.3g} ms"
    report.sections.append(Section(title, "ms", found, "spikegrad", f"{text} A copy moves {bandwidth / 1e12:.3g} TB/s."))


def _layers(size: tuple[int, int, int], dtype: str, card: Card, effort: Effort, report: Report) -> None:
    side = TorchSide(card.device)
    currents, gradient = _arrays(size, dtype, card.device)

    def task(run: Any) -> Task:
        return side.step(run, side.leaf(currents), gradient)

    def own(twin: Twin) -> Task:
        return task(ours("Leaky", twin))

    makers: dict[str, Callable[[], Task]] = {"spikegrad": lambda: own(Twin())}
    makers["spikegrad in a graph"] = lambda: card.graphed(own(Twin()))
    makers["spikegrad, reference loop"] = lambda: task(ours("Leaky", Twin(), "reference"))
    twins: dict[str, str] = {}
    for peer in _peers():
        if not peer.installed():
            report.skipped.append(peer.missing())
            continue
        twins[peer.name] = f"spikegrad as {peer.name}"
        makers[twins[peer.name]] = functools.partial(own, peer.twin)
        makers[peer.name] = functools.partial(layer.task, side, peer, size[-1], (currents, gradient))
    from spikegrad.neurons import Leaky

    tasks = tried(makers, report)
    twins = {name: twin for name, twin in twins.items() if name in tasks}
    tasks = {name: task for name, task in tasks.items() if not name.startswith("spikegrad as ") or name in twins.values()}
    bytes_moved = moved(Leaky(0.9), size[0], size[1] * size[2], 2 if dtype == "float16" else 4)
    shape, ratio = "T = {}, B = {}, N = {}, ".format(*size) + dtype, "The ratio of a peer is to ours with its options."
    text = f"Forward and backward through autograd, ATan(2), on the device. {ratio}"
    _compared(f"Leaky, {shape}", tasks, twins, card, effort, text, bytes_moved, report)
    if size == LAYERS[-1][0]:
        text = f"The same by the clock, one call after the other is done: what launching costs shows. {ratio}"
        _compared(f"Leaky by the clock, {shape}", tasks, twins, wall(card), effort, text, bytes_moved, report)


def _in_time(card: Card, seconds: float, what: str, report: Report) -> bool:
    """Whether so many seconds are left for something."""
    if card.left() < seconds:
        report.skipped.append(f"{what}: no time was left")
        return False
    return True


def _prove_layers(card: Card, size: tuple[int, int, int], report: Report) -> None:
    """That peers compute the same there, and that our kernels compute what the reference does, bit for bit."""
    import torch

    side = TorchSide(card.device)
    arrays = layer.inputs(size)
    leaves = [side.leaf(arrays[0]) for _ in range(2)]
    found = [
        side.step(ours("Leaky", Twin(), backend), leaf, side.tensor(arrays[1]))()
        for backend, leaf in zip(("auto", "reference"), leaves, strict=True)
    ]
    if not torch.equal(found[0][0], found[1][0]):
        raise DisagreementError("Leaky: the kernels and the reference spike differently")
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    report.checked.append("Leaky: kernels and reference spike alike bit for bit, gradients agree")
    for peer in _peers():
        if not peer.installed():
            continue
        try:
            report.checked.append(layer.prove(side, "Leaky", peer, arrays, ours("Leaky", peer.twin)))
        except DisagreementError:
            raise
        except Exception as error:  # it will not run below either, which says why
            report.skipped.append(f"{peer.name} was not compared: {type(error).__name__}")


def _jax(size: tuple[int, int, int], card: Card, effort: Effort, report: Report) -> None:
    if importlib.util.find_spec("jax") is None:
        report.skipped.append("everything in JAX: jax is not installed")
        return
    import jax

    if card.device == "cuda" and jax.default_backend() != "gpu":
        report.skipped.append("everything in JAX: it has no GPU here, pip install 'jax[cuda12]'")
        return
    side, arrays = JaxSide(), layer.inputs(size)
    on_card = {"backend": "triton"} if card.device == "cuda" else {}
    makers: dict[str, Callable[[], Task]] = {
        "spikegrad": lambda: side.step(ours_jax("Leaky", Twin(), **on_card), side.leaf(arrays[0]), side.tensor(arrays[1])),
        "spikegrad, lax.scan": lambda: side.step(
            ours_jax("Leaky", Twin(), backend="reference"), side.leaf(arrays[0]), side.tensor(arrays[1])
        ),
    }
    for peer in contenders.JAX:
        if peer.installed():
            makers[peer.name] = functools.partial(layer.task, side, peer, size[-1], arrays)
        else:
            report.skipped.append(peer.missing())
    from spikegrad.neurons import Leaky

    bytes_moved = moved(Leaky(0.9), size[0], size[1] * size[2], 4)
    text = "Forward and backward under jit, by the clock, with results ready."
    _compared("JAX, Leaky, T = {}, B = {}, N = {}".format(*size), tried(makers, report), {}, wall(card), effort, text, bytes_moved, report)


def run_layer(effort: Effort, card: Card, report: Report) -> None:
    """One layer: large, long and small, and in JAX."""
    _prove_layers(card, (12, 2, 8) if effort.quick else PROOF, report)
    for size, dtype in (((12, 2, 8), "float32"),) if effort.quick else LAYERS:
        if _in_time(card, 15, "Leaky, T = {}, B = {}, N = {}, ".format(*size) + dtype, report):
            _layers(size, dtype, card, effort, report)
    for size in ((12, 2, 8),) if effort.quick else JAX:
        if _in_time(card, 15, "JAX, T = {}, B = {}, N = {}".format(*size), report):
            _jax(size, card, effort, report)


def run_neurons(effort: Effort, card: Card, report: Report) -> None:
    """Every neuron of the catalogue, and beside it the peers' that compute the same."""
    import torch

    from spikegrad import neurons, nn

    size, side = (12, 2, 8) if effort.quick else NEURONS, TorchSide(card.device)
    small = (12, 2, 8) if effort.quick else PROOF
    found, bandwidth = [], card.bandwidth()
    for name in ("Leaky", "GatedLeaky") if effort.quick else neurons.CATALOGUE:
        neuron = _with_numbers(neurons.CATALOGUE[name])

        def step(shape: tuple[int, ...], backend: str, neuron: Any = neuron) -> Task:
            currents, gradient = _arrays(shape, "float32", card.device, 0.5, 1.0)
            given = [currents.clone().requires_grad_() for _ in neuron.inputs]
            of = nn.Layer(neuron, backend=backend).to(card.device)

            def call() -> Any:
                made = of(tuple(given) if len(given) > 1 else given[0])[0]
                outputs = made if isinstance(made, tuple) else (made,)
                return outputs, torch.autograd.grad(outputs, given, [gradient] * len(outputs))

            return call

        (ours_, slopes), (wanted, theirs) = (step(small, backend)() for backend in ("auto", "reference"))
        for a, b in (*zip(ours_, wanted, strict=True), *zip(slopes, theirs, strict=True)):
            if not torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True):
                raise DisagreementError(f"{name}: kernels and reference differ by up to {float((a - b).abs().max()):.2g}")
        samples = alternate({name: step(size, "auto")}, effort, card, 3.0)
        (row,) = rows(samples, "")
        row.note = share(moved(neuron, size[0], size[1] * size[2], 4), row.value * 1e-3, bandwidth)
        found.append(row)
    report.checked.append(f"{len(found)} neurons: kernels and reference agree")
    shape = "T = {}, B = {}, N = {}".format(*size)
    text = f"Forward and backward through autograd, float32. A copy moves {bandwidth / 1e12:.3g} TB/s."
    report.sections.append(Section(f"Every neuron, {shape}", "ms", found, "", text))
    _against(report, side, card, effort)


def _with_numbers(kind: Any) -> Any:
    """A neuron, its decays of no special value where it has no defaults."""
    needed = (field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING)
    return kind(**{name: {"alpha": 0.95}.get(name, contenders.BETA) for name in needed})


def _against(report: Report, side: TorchSide, card: Card, effort: Effort) -> None:
    size = (12, 2, 8) if effort.quick else (100, 64, 4096)
    for pair in pairs()[: 1 if effort.quick else None]:
        if importlib.util.find_spec(pair.package) is None:
            report.skipped.append(f"{pair.peer}: {pair.package} is not installed")
            continue
        if not _in_time(card, 15, pair.peer, report):
            continue
        report.checked.append(pair.prove(TorchSide(), (*size[:2], min(size[2], 32)) if effort.quick else (50, 4, 32)))
        arrays = _arrays(size, "float32", card.device, pair.mean, pair.deviation)

        def theirs(pair: Any = pair, arrays: Any = arrays) -> Task:
            with side.place():
                run = pair.make(size[1:])
            return side.step(run, side.leaf(arrays[0]), arrays[1])

        makers = {"spikegrad": lambda p=pair, a=arrays: side.step(p.ours(), side.leaf(a[0]), a[1]), pair.peer: theirs}
        tasks = tried(makers, report)
        if len(tasks) == 2:
            bytes_moved = moved(pair.neuron(), size[0], size[1] * size[2], 4)
            text = "Forward and backward through autograd, float32."
            title = f"{type(pair.neuron()).__name__} and {pair.peer}, " + "T = {}, B = {}, N = {}".format(*size)
            _compared(title, tasks, {}, card, dataclasses.replace(effort, rounds=7), text, bytes_moved, report)


def run_network(effort: Effort, card: Card, report: Report) -> None:
    """Training steps, a linear and a leaky layer, a convolutional network."""
    _training(TINY[0] if effort.quick else TASKS[0], card, effort, report)
    for features in (8,) if effort.quick else LINEAR:
        if _in_time(card, 15, f"Linear and Leaky, N = {features}", report):
            _linear((6, 2, features) if effort.quick else (500, 16, features), card, effort, report)
    if _in_time(card, 15, "SEW-ResNet18", report):
        sew.compare(card, effort, report)


def _training(task: Any, card: Card, effort: Effort, report: Report) -> None:
    """A training step of a feedforward and a recurrent network, and as a graph."""
    from spikegrad import nn

    def recurrent(features: int) -> Any:
        of = nn.RecurrentLeaky(features, contenders.BETA).to(card.device)
        return lambda currents: of(currents)[0]

    def placed(peer: Contender) -> Callable[[int], Any]:
        def make(features: int) -> Any:
            with TorchSide(card.device).place():
                return peer.make(features)

        return make

    def network(spiking: Callable[[int], Any]) -> Network:
        return Network(task, spiking, readout_ours(), card.device)

    makers: dict[str, Callable[[], Task]] = {
        "spikegrad": lambda: network(lambda _: ours("Leaky", Twin())).step,
        "spikegrad in a graph": lambda: card.graphed(network(lambda _: ours("Leaky", Twin())).step),
        "spikegrad, reference loop": lambda: network(lambda _: ours("Leaky", Twin(), "reference")).step,
        "spikegrad, recurrent": lambda: network(recurrent).step,
        "spikegrad, recurrent, in a graph": lambda: card.graphed(network(recurrent).step),
    }
    mine = network(lambda _: ours("Leaky", Twin()))
    report.checked.append(prove(task, "the reference", mine, network(lambda _: ours("Leaky", Twin(), "reference"))))
    for peer in _peers():
        if peer.package in ("snntorch", "spikingjelly") and peer.installed():
            makers[peer.name] = lambda peer=peer: network(placed(peer)).step
    found = rows(alternate(tried(makers, report), effort, wall(card), 8.0), "spikegrad")
    text = "Forward, loss, backward, Adam, by the clock; peers with our readout."
    title = f"Training step, {task.title}, T = {task.steps}, B = {task.batch}"
    report.sections.append(Section(title, "ms", found, "spikegrad", text))


def _linear(size: tuple[int, int, int], card: Card, effort: Effort, report: Report) -> None:
    import torch

    side = TorchSide(card.device)
    currents, gradient = _arrays(size, "float32", card.device)

    def through(make: Callable[[int], Any] | None) -> Task:
        with side.place():
            torch.manual_seed(0)
            linear, neurons = torch.nn.Linear(size[-1], size[-1]), None if make is None else make(size[-1])
        return side.step(lambda x: linear(x) if neurons is None else neurons(linear(x)), side.leaf(currents), gradient)

    makers: dict[str, Callable[[], Task]] = {"spikegrad": lambda: through(lambda _: ours("Leaky", Twin()))}
    makers |= {peer.name: functools.partial(through, peer.make) for peer in _peers() if peer.installed()}
    makers["the linear layer alone"] = lambda: through(None)
    found = rows(alternate(tried(makers, report), effort, wall(card), 10.0), "spikegrad")
    text = "Forward and backward, float32, by the clock, as Open Neuromorphic publishes it."
    report.sections.append(Section("Linear and Leaky, T = {}, B = {}, N = {}".format(*size), "ms", found, "spikegrad", text))


RUN = {"layer": run_layer, "network": run_network, "neurons": run_neurons}
"""What can be measured there."""
