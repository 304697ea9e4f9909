"""Every neuron against each peer that has it, forward and backward through autograd."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.agreement import same
from benchmarks.contenders import Run, snntorch_layer, steps
from benchmarks.layer import TorchSide
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section, alternate, quartiles

SIZE, QUICK = (100, 16, 512), (12, 2, 8)
PROOF = 64
"""Features of the proof that both sides agree, at the full number of steps."""


@dataclass(frozen=True)
class Pair:
    """A neuron and a peer that computes the same.

    Attributes:
        neuron: ours.
        peer: what the tables call theirs; the package comes first.
        make: given the shape of one step, a function from currents to outputs, from rest each time.
        mean: of the currents of the proof and of the race.
        deviation: likewise.
        synapse: decay of a current between the input and our neuron, which theirs has within.
        start: states to start from, where theirs does not start from rest.
    """

    neuron: Callable[[], Any]
    peer: str
    make: Callable[[tuple[int, ...]], Run]
    mean: float
    deviation: float
    synapse: float | None = None
    start: tuple[float, ...] = ()

    @property
    def package(self) -> str:
        """What must be installed."""
        return self.peer.split()[0].lower()

    def inputs(self, size: tuple[int, int, int]) -> tuple[Any, Any]:
        """Currents, and a gradient for the outputs."""
        generator = np.random.default_rng(0)
        return generator.normal(self.mean, self.deviation, size).astype(np.float32), generator.normal(0, 1, size).astype(np.float32)

    def ours(self, backend: str = "auto", record: str = "") -> Run:
        """Our layers, as a function from currents to outputs, or to what is to be recorded."""
        import torch

        from spikegrad import nn
        from spikegrad.neurons import LeakyIntegrator

        layer = nn.Layer(self.neuron(), backend=backend)
        synapse = None if self.synapse is None else nn.Layer(LeakyIntegrator(self.synapse), backend=backend)

        def run(currents: Any) -> Any:
            received = currents if synapse is None else synapse(currents)[0]
            state = tuple(torch.full_like(currents[0], value) for value in self.start) or None
            return layer(received, state, record=record)[2] if record else layer(received, state)[0]

        return run

    def prove(self, side: TorchSide, size: tuple[int, int, int]) -> str:
        """That both compute the same; in float64, since the gradients of some grow past what float32 can tell."""
        import torch

        arrays = [array.astype(np.float64) for array in self.inputs(size)]
        sides = [side.step(run, side.leaf(arrays[0]), side.tensor(arrays[1]))() for run in (self.ours(), self.make(size[1:]))]
        if "excess" in self.neuron().record.recorded:
            with torch.no_grad():
                excess = self.ours("reference", "excess")(side.tensor(arrays[0]))
            return same(self.peer, *sides, excess + 1.0, rounding=1e-4 * float(excess.abs().max()))
        ours, theirs = ([np.asarray(part) for part in each] for each in sides)
        worst = max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(ours, theirs, strict=True))
        if not worst < 1e-4:
            raise DisagreementError(f"{self.peer}: outputs or gradients differ by {worst:.2g} of the largest")
        return f"{self.peer}: same outputs and gradients (within {worst:.1g} of the largest)"


def pairs() -> list[Pair]:
    """All of them."""
    from spikegrad import Boxcar, FastSigmoid, neurons

    snntorch = {"spike_at_threshold": False, "reset_delay": True}
    norse: dict[str, Any] = {"spike": FastSigmoid(slope=1.0), "spike_at_threshold": False, "detach_reset": False}
    root = math.sqrt(2.6) / 0.08  # of Izhikevich's parabola, from its middle at -62.5
    izhikevich = {"tau": 4.0, "v_c": -62.5 + root, "a0": 0.04, "v_rest": -62.5 - root, "tau_w": 80.0, "v_reset": -65.0, "b": 8.0}
    start = {"v_rest": 0.0, "v_reset": 0.0, "tau": 2.0}
    return [
        Pair(lambda: neurons.IntegrateAndFire(), "SpikingJelly IFNode", _node("IFNode"), 0.05, 0.3),
        Pair(lambda: neurons.Leaky(0.75), "SpikingJelly LIFNode", _node("LIFNode", tau=4.0, decay_input=False), 0.2, 0.5),
        Pair(lambda: neurons.Synaptic(0.5, 0.75, detach_reset=False), "SpikingJelly CUBALIFNode", _cuba, 0.15, 0.5),
        Pair(
            lambda: neurons.LeakyIntegrator(0.75, scale_input=True), "SpikingJelly NonSpikingLIFNode",
            _node("NonSpikingLIFNode", spiking=False, tau=4.0), 0.5, 1.0,
        ),
        Pair(
            lambda: neurons.QuadraticIF(2.0, 0.75, 1.5, 0.0, 0.0), "SpikingJelly QIFNode",
            _node("QIFNode", v_c=0.75, a0=1.5, **start), 0.4, 0.6,
        ),
        Pair(
            lambda: neurons.ExponentialIF(2.0, 0.5, 0.75, 0.0, 0.0), "SpikingJelly EIFNode",
            _node("EIFNode", delta_T=0.5, theta_rh=0.75, **start), 0.4, 0.6,
        ),
        Pair(
            lambda: neurons.Izhikevich(a=0.05, b=0.0, dt=0.25), "SpikingJelly IzhikevichNode",
            _node("IzhikevichNode", v_threshold=30.0, **izhikevich), 80.0, 40.0,
        ),
        Pair(
            lambda: neurons.ResonateAndFire(-0.2, 1.0, 0.75, reset_phase=False, reset="subtract"), "SpikingJelly RAFNode",
            _node("RAFNode", b=-0.2, omega=1.0, dt=0.75), 0.3, 0.7,
        ),
        Pair(lambda: neurons.KLIF(4.0, 1.0), "SpikingJelly KLIFNode", _node("KLIFNode", tau=4.0), 1.5, 1.5),
        Pair(lambda: neurons.ComplementaryLeaky(3.0), "SpikingJelly ComplementaryLIFNode", _complementary, 0.5, 0.8),
        Pair(lambda: neurons.IntegerLeaky(0.25, 1.0, 3, spike=Boxcar(width=0.5)), "SpikingJelly ILIFNode", _integer, 0.5, 1.5),
        Pair(
            lambda: neurons.Ternary(0.75, 1.0, reset="subtract"), "SpikingJelly TernaryLIFNode",
            _node("TernaryLIFNode", tau=4.0, decay_input=False), 0.0, 0.7,
        ),
        Pair(lambda: neurons.IntegrateAndFire(reset="zero", **norse), "Norse IAFCell", _cell("IAF"), 0.05, 0.4),
        Pair(lambda: neurons.Leaky(0.75, scale_input=True, reset="zero", **norse), "Norse LIFBoxCell", _cell("LIFBox", MEMBRANE), 1.0, 3.0),
        Pair(
            lambda: neurons.Synaptic(0.7, 0.75, scale_input=True, reset="zero", **norse), "Norse LIFCell", _cell("LIF", SYNAPSE, MEMBRANE),
            0.5, 1.5,
        ),
        Pair(lambda: neurons.LeakyIntegrator(0.75, scale_input=True), "Norse LIBoxCell", _cell("LIBox", MEMBRANE), 0.5, 1.0),
        Pair(
            lambda: neurons.ExponentialIF(4.0, 0.5, 1.0, 0.0, 0.0, 1.0, **norse), "Norse LIFExCell",
            _cell("LIFEx", SYNAPSE, MEMBRANE, delta_T=0.5), 0.2, 1.0, 0.7,
        ),
        Pair(
            lambda: neurons.AdEx(4.0, 20.0, 0.5, 1.0, 0.0, 0.5, 0.25, 0.0, 1.0, **norse), "Norse LIFAdExCell",
            _cell("LIFAdEx", SYNAPSE, MEMBRANE, delta_T=0.5, adaptation_current=0.5, adaptation_spike=0.25, tau_ada_inv=50.0),
            0.5, 1.0, 0.7,
        ),
        Pair(
            lambda: neurons.Izhikevich(0.02, 0.2, -65.0, 6.0, 0.25, **norse), "Norse IzhikevichCell", _izhikevich, 60.0, 40.0,
            start=(-70.0, -14.0),
        ),
        Pair(lambda: neurons.Leaky(0.75, **snntorch), "snnTorch Leaky", snntorch_layer("Leaky", 0.75), 0.2, 0.5),
        Pair(lambda: neurons.Synaptic(0.5, 0.75, **snntorch), "snnTorch Synaptic", snntorch_layer("Synaptic", 0.5, 0.75), 0.2, 0.5),
        Pair(
            lambda: neurons.Alpha(0.875, 0.75, reset="zero", **snntorch), "snnTorch Alpha",
            snntorch_layer("Alpha", 0.875, 0.75, reset_mechanism="zero"), 0.8, 3.0,
        ),
    ]  # fmt: skip


MEMBRANE, SYNAPSE = {"tau_mem_inv": 250.0}, {"tau_syn_inv": 300.0}
"""Of Norse, per second, at steps of a millisecond."""


def _node(kind: str, spiking: bool = True, **options: Any) -> Callable[[tuple[int, ...]], Run]:
    """A multi-step node of SpikingJelly."""

    def make(_: tuple[int, ...]) -> Run:
        from spikingjelly.activation_based import functional, neuron, surrogate

        if spiking:
            reset = {} if "v_reset" in options else {"v_reset": 0.0 if kind == "KLIFNode" else None}
            more = {"surrogate_function": surrogate.ATan(2.0), "step_mode": "m", "detach_reset": True, **reset}
            node = getattr(neuron, kind)(**more, **options)
        else:
            node = getattr(neuron, kind)(**options)

        def run(currents: Any) -> Any:
            import torch

            functional.reset_net(node)
            return node(currents) if spiking else torch.stack(node(currents))

        return run

    return make


def _cuba(_: tuple[int, ...]) -> Run:
    import torch
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = neuron.CUBALIFNode(0.5, 0.75, 1.0, None, surrogate.ATan(2.0))

    def run(currents: Any) -> Any:
        functional.reset_net(node)
        return torch.stack([node(x) for x in currents.unbind(0)])

    return run


def _complementary(_: tuple[int, ...]) -> Run:
    from spikingjelly.activation_based import neuron, surrogate

    return lambda currents: neuron.ComplementaryLIFNode(tau=3.0, surrogate_function=surrogate.ATan(2.0), step_mode="m")(currents)


def _integer(_: tuple[int, ...]) -> Run:
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = neuron.ILIFNode(v_threshold=1.0, surrogate_function=surrogate.MultiLevelSpikeCount(3), detach_reset=True, step_mode="m")

    def run(currents: Any) -> Any:
        functional.reset_net(node)
        return node(currents)

    return run


def _cell(kind: str, *numbers: dict[str, float], **more: float) -> Callable[[tuple[int, ...]], Run]:
    """A cell of Norse."""

    def make_step(_: Any) -> Any:
        import torch
        from norse import torch as norse

        given = {name: torch.tensor(value) for part in (*numbers, more) for name, value in part.items()}
        cell = getattr(norse, f"{kind}Cell")(getattr(norse, f"{kind}Parameters")(**given))
        return (lambda: None), cell

    return steps(make_step)


def _izhikevich(shape: tuple[int, ...]) -> Run:
    from norse import torch as norse

    cell = norse.IzhikevichCell(norse.create_izhikevich_spiking_behavior(0.02, 0.2, -65.0, 6.0, -70.0, -70.0))
    return steps(lambda _: ((lambda: None), cell))(shape[-1])


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    report, side, size = Report(), TorchSide(), QUICK if effort.quick else SIZE
    found: dict[str, list[Row]] = {}
    for pair in pairs():
        if importlib.util.find_spec(pair.package) is None:
            report.skipped.append(f"{pair.peer}: {pair.package} is not installed")
            continue
        if effort.quick and found:
            continue
        report.checked.append(pair.prove(side, (*size[:2], PROOF)))
        arrays, ours = pair.inputs(size), pair.ours()
        tasks = {name: side.step(run, side.leaf(arrays[0]), side.tensor(arrays[1])) for name, run in (
            ("ours", ours), ("theirs", pair.make(size[1:])),
        )}  # fmt: skip
        samples = alternate(tasks, effort)
        ratios = [a / b for a, b in zip(samples["theirs"], samples["ours"], strict=True)]
        mine = quartiles([1e3 * x for x in samples["ours"]])[0]
        value = quartiles([1e3 * x for x in samples["theirs"]])
        note = f"ours, {type(pair.neuron()).__name__}, {mine:.3g} ms"
        row = Row(pair.peer, *value, *quartiles(ratios), note=note)
        found.setdefault(pair.peer.split()[0], []).append(row)
    shape = "T = {}, B = {}, N = {}".format(*size)
    for library, its in found.items():
        text = "Forward and backward through autograd, float32; ratios to the same neuron of ours."
        report.sections.append(Section(f"{library}, {shape}", "ms", its, "ours", text))
    return report
