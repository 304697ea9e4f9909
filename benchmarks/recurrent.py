"""Layers whose neurons all feed each other, forward and backward, at rates of 1 to 20 %: against the plain loop and snnTorch."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from benchmarks.contenders import BETA, DELAYED
from benchmarks.layer import JaxSide, Side, TorchSide
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section, timed

SIZES = ((50, 64, 128), (50, 64, 512), (100, 256, 256))
RATES = (0.01, 0.05, 0.2)
QUICK = ((6, 2, 8),)
PROOF = (50, 16, 128)
PLAIN = {"PyTorch": "spikegrad, plain loop", "JAX": "spikegrad, lax.scan"}
PEER = "snnTorch RLeaky"


def weights(features: int, dyadic: bool = False) -> Any:
    """Recurrent weights as PyTorch begins with; or whole sixteenths, whose sums are exact in any order."""
    w = np.random.default_rng(1).uniform(-(features**-0.5), features**-0.5, (features, features)).astype(np.float32)
    return np.round(w * 16) / 16 if dyadic else w


def torch_layer(w: Any, beta: float, backend: str = "auto", **options: Any) -> Any:
    """A layer in PyTorch that takes currents and weights."""
    import torch

    from spikegrad import nn

    layer = nn.RecurrentLeaky(len(w), beta, backend=backend, **options)
    layer.weight = torch.nn.Parameter(torch.tensor(w).t().contiguous().t())
    return lambda currents: layer(currents)[0]


def jax_layer(w: Any, beta: float, backend: str = "auto") -> Any:
    """The same in JAX."""
    from spikegrad import jax

    return lambda currents: jax.recurrent_leaky(currents, w, beta, backend=backend)[0]


def snntorch_layer(w: Any, beta: float, spike: Any = None) -> Any:
    """snnTorch's, without the bias of its connection."""
    import snntorch
    import torch
    from snntorch import surrogate

    layer = snntorch.RLeaky(beta, linear_features=len(w), spike_grad=spike or surrogate.atan(2.0))
    layer.recurrent.weight = w if isinstance(w, torch.nn.Parameter) else torch.nn.Parameter(torch.tensor(w))
    layer.recurrent.bias = None

    def run(currents: Any) -> Any:
        spk, mem = (torch.zeros_like(currents[0]) for _ in range(2))
        spikes = []
        for current in currents.unbind(0):
            spk, mem = layer(current, spk, mem)
            spikes.append(spk)
        return torch.stack(spikes)

    return run


def driven(run: Any, size: tuple[int, int, int], rate: float) -> tuple[Any, float]:
    """Noise around a current that makes this share of the neurons spike in each step, and the share that does."""
    noise, low, high = np.random.default_rng(0).normal(0, 0.3, size).astype(np.float32), -3.0, 3.0
    share = middle = 0.0
    for _ in range(24):
        middle = (low + high) / 2
        share = float(np.asarray(run(noise + np.float32(middle))).mean())
        low, high = (middle, high) if share < rate else (low, middle)
    return noise + np.float32(middle), share


def prove(side: Side, layers: dict[str, Any]) -> str:
    """That all compute the same, on numbers whose sums are exact."""
    generator = np.random.default_rng(2)
    currents = np.round(generator.normal(0.15, 0.5, PROOF) * 64).astype(np.float32) / 64
    gradient = generator.normal(0, 1, PROOF).astype(np.float32)
    outcomes = {name: side.step(run, side.leaf(currents), side.tensor(gradient))() for name, run in layers.items()}
    (first, (spikes, grad)), *others = outcomes.items()
    spikes, grad = np.asarray(spikes), np.asarray(grad)
    for name, (other, other_grad) in others:
        worst = float(np.abs(grad - np.asarray(other_grad)).max() / np.abs(grad).max())
        if not (np.array_equal(spikes, np.asarray(other)) and worst < 1e-4 and 0.01 < spikes.mean() < 0.5):
            raise DisagreementError(f"{side.name}: {first} and {name} differ: gradients by {worst:.2g}, rate {spikes.mean():.2f}")
    return f"{side.name}: {', '.join(outcomes)}: equal spikes, gradients to 1e-4, where sums are exact"


def race(side: Side, size: tuple[int, int, int], rates: tuple[float, ...], peers: dict[str, Any], effort: Effort) -> Section:
    """One size at each rate."""
    import torch

    found: list[Row] = []
    make, w = (torch_layer if isinstance(side, TorchSide) else jax_layer), weights(size[-1])
    ours = make(w, BETA)
    for rate in rates:
        with torch.no_grad():
            currents, share = driven(lambda x: ours(side.tensor(x)), size, rate)
        gradient = np.random.default_rng(3).normal(0, 1, size).astype(np.float32)
        runs = {"spikegrad": ours, PLAIN[side.name]: make(w, BETA, backend="reference")}
        runs |= {name: peer(w, BETA) for name, peer in peers.items()}
        tasks = {name: side.step(run, side.leaf(currents), side.tensor(gradient)) for name, run in runs.items()}
        for row in timed(tasks, "spikegrad", effort):
            row.x, row.note = 100 * rate, f"{100 * share:.2g} % spiked" if row.name == "spikegrad" else ""
            found.append(row)
    shape = "T = {}, B = {}, H = {}".format(*size)
    return Section(f"{side.name}, all-to-all, {shape}", "ms", found, "spikegrad", "Forward and backward, ATan(2), float32.", "% spikes")


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    report = Report()
    peers = {PEER: snntorch_layer} if importlib.util.find_spec("snntorch") else {}
    if not peers:
        report.skipped.append(f"{PEER}: snntorch is not installed")
    sides: list[Side] = [TorchSide()]
    if importlib.util.find_spec("jax"):
        sides.append(JaxSide())
    else:
        report.skipped.append("everything in JAX: jax is not installed")
    sizes, rates = (QUICK, RATES[-1:]) if effort.quick else (SIZES, RATES)
    w, beta = weights(PROOF[-1], dyadic=True), 0.875
    for side in sides:
        torch_side = isinstance(side, TorchSide)
        make: Any = torch_layer if torch_side else jax_layer
        layers = {"spikegrad": make(w, beta), PLAIN[side.name]: make(w, beta, backend="reference")}
        report.checked.append(prove(side, layers))
        if torch_side and peers:
            report.checked.append(prove(side, {f"spikegrad as {PEER}": torch_layer(w, beta, **DELAYED), PEER: snntorch_layer(w, beta)}))
        for size in sizes:
            report.sections.append(race(side, size, rates, peers if torch_side else {}, effort))
    return report
