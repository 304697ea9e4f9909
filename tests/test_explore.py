"""The explorer page: what it computes is what Python computes, for every surrogate and every neuron; and it is one file.

One V8 engine runs the page's own script without its pictures; a real browser looks at the whole page in the slow tests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from py_mini_racer import MiniRacer

from spikegrad import ATan, Neuron, explore, facts, formulas, neurons, simulation
from spikegrad.cli.app import run as command
from spikegrad.errors import InputError
from spikegrad.explore.printed import Catalogue
from spikegrad.kernels import loop
from spikegrad.kernels.plan import Call
from spikegrad.training.named import built

STEPS = 100
RUN = """
const computed = (neuron, inputs, bars) => {
  const ready = neuronOf(neuron), run = forward(ready, inputs), back = backward(ready, run, bars);
  return JSON.stringify({outputs: run.outputs, states: run.states, recorded: run.recorded, back});
};
const curves = (spike, x) => {
  const {derivative, primitive, by} = surrogateOf(spike), of = f => x.map(f);
  const text = (_, value) => typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
  const all = {derivative: of(derivative), primitive: of(primitive), by: Object.fromEntries(Object.entries(by).map(([n, f]) => [n, of(f)]))};
  return JSON.stringify({...all, facts: factsOf(spike)}, text);
};
"""


class Page:
    """The page's script in an engine, without its pictures."""

    def __init__(self) -> None:
        self.engine = MiniRacer()
        self.engine.eval(explore.model() + explore._text("notation.js", "inputs.js", "presets.js") + RUN)

    def __call__(self, function: str, *arguments: Any) -> Any:
        found = self.engine.eval(f"{function}({', '.join(map(json.dumps, arguments))})")
        return json.loads(found) if isinstance(found, str) else found

    def value(self, expression: str) -> Any:
        return json.loads(self.engine.eval(f"JSON.stringify({expression})"))


@pytest.fixture(scope="module")
def page():
    return Page()


def of_surrogate(spike: Any) -> dict[str, Any]:
    structure = [field.name for field in dataclasses.fields(spike) if field.name not in spike.numbers]
    return {"name": type(spike).__name__, "numbers": spike.parameters, "options": {name: getattr(spike, name) for name in structure}}


def of_neuron(neuron: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(neuron) if field.name not in (*neuron.numbers, *neuron.states, "spike")]
    options = {name: getattr(neuron, name) for name in names}
    return {"name": type(neuron).__name__, "numbers": neuron.parameters, "options": options, "spike": of_surrogate(neuron.spike)}


def choices(kind: Any) -> dict[str, list[Any]]:
    """What the page offers of a surrogate's structure."""
    found: dict[str, list[Any]] = {}
    for field in dataclasses.fields(kind):
        if field.name not in kind.numbers:
            found[field.name] = [True, False] if isinstance(field.default, bool) else list(range(1, 2 * field.default + 1))
    return found


def moved(values: dict[str, float], numbers: Any, factor: float) -> dict[str, float]:
    """Numbers beside their defaults, in their ranges."""
    return {name: x if not numbers[name].holds(factor * x) else factor * x for name, x in values.items()}


SURROGATES = [
    kind(**dict(zip(choices(kind), picked, strict=True)), **moved(kind().parameters, kind.numbers, factor))
    for kind in formulas.CATALOGUE.values()
    for factor in (1.0, 1.3)
    for picked in itertools.product(*choices(kind).values())
]


def as_numbers(values: Any) -> np.ndarray:
    return np.array([float(x) if isinstance(x, str) else x for x in values], dtype=np.float64)


@pytest.mark.parametrize("spike", SURROGATES, ids=repr)
def test_surrogates_of_the_page_are_pythons(page, spike):
    x = np.unique(np.concatenate([np.linspace(-3, 3, 61) + 1e-3, np.geomspace(1e-6, 1e3, 40), -np.geomspace(1e-6, 1e3, 40), [0.0]]))
    found = page("curves", of_surrogate(spike), x.tolist())
    np.testing.assert_allclose(as_numbers(found["derivative"]), spike.derivative(x), rtol=1e-12, atol=1e-14 * spike.peak)
    np.testing.assert_allclose(as_numbers(found["primitive"]), spike.primitive(x), rtol=1e-12, atol=1e-14)
    for name, value in spike.parameters.items():
        number = torch.full((len(x),), value, dtype=torch.float64, requires_grad=True)
        made = spike.bind({name: number}).primitive(torch.tensor(x))
        wanted = torch.autograd.grad(made.sum(), number, allow_unused=True)[0] if made.requires_grad else None
        wanted = np.zeros_like(x) if wanted is None else wanted.numpy()
        np.testing.assert_allclose(as_numbers(found["by"][name]), wanted, rtol=1e-10, atol=1e-12 * max(1, np.abs(wanted).max()), err_msg=name)
    known = facts.of(spike)
    for name in ("peak", "area", "half_width", "support"):
        if name in found["facts"]:
            got = [*map(float, np.ravel(found["facts"][name]))]
            np.testing.assert_allclose(got, np.ravel(getattr(known, name)), rtol=1e-4, err_msg=name)
    assert {"peak", "area", "half_width", "support"} <= found["facts"].keys()


def offered(table: Any, name: str) -> list[dict[str, Any]]:
    """Every structure that the page offers of a neuron."""
    options = table[name]["options"]
    return [dict(zip(options, picked, strict=True)) for picked in itertools.product(*(each["choices"] for each in options.values()))]


CATALOGUE = Catalogue(formulas.CATALOGUE, {name: built(kind, {}) for name, kind in neurons.CATALOGUE.items()})
SPIKES = [kind() for kind in formulas.CATALOGUE.values()]


def structures(name: str) -> list[Any]:
    """A neuron for each variant that the page has, each with another surrogate, where it can also with the threshold itself silent."""
    kind, found = neurons.CATALOGUE[name], []
    place = list(neurons.CATALOGUE).index(name)
    for number, variant in enumerate(CATALOGUE.neurons[name]["variants"]):
        options = dict(variant["when"])
        if "spike_at_threshold" in CATALOGUE.neurons[name]["options"]:
            options["spike_at_threshold"] = number % 2 == 0
        if CATALOGUE.neurons[name]["spiking"]:
            options["spike"] = SPIKES[(place + number) % len(SPIKES)]
        found.append(built(kind, options))
    return found


@dataclasses.dataclass
class Driven:
    """A neuron under a random input that makes it spike, with gradients that arrive; and what comes of it in Python."""

    inputs: list[np.ndarray]
    bars: dict[str, Any]
    outputs: dict[str, np.ndarray]
    states: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    closest: float
    """How near any potential came to its threshold."""


def drive(neuron: Any, seed: int) -> Driven:
    random, plan = np.random.default_rng(seed), Call(neuron.record, neuron.spike.structure).plan
    drawn = {name: random.normal(0.6, 0.7, STEPS) for name in plan.inputs}
    strengths = 2.0 ** np.arange(-4, 9)
    made, _ = simulation.simulated(neuron, {name: x[:, None] * strengths for name, x in drawn.items()}, simulation.rest(neuron))
    often = (made["output 0"] != 0).mean(0)
    strength = strengths[np.abs(often - 0.15).argmin()]
    inputs = {name: x * strength for name, x in drawn.items()}
    outputs, states = simulation.simulated(neuron, inputs, simulation.rest(neuron))
    bars = {
        "outputs": random.normal(size=(len(outputs), STEPS)).tolist(),
        "states": dict(zip(plan.states, random.normal(size=len(plan.states)).tolist(), strict=True)),
        "recorded": {name: random.normal(size=STEPS).tolist() for name in neuron.record.recorded},
    }
    return Driven(list(inputs.values()), bars, outputs, states, *by_autograd(neuron, list(inputs.values()), bars))


def by_autograd(neuron: Any, inputs: list[np.ndarray], bars: dict[str, Any]) -> tuple[dict[str, np.ndarray], float]:
    """Gradients of PyTorch's own, through the plain loop and all that is computed once a call."""
    call, closest = Call(neuron.record, neuron.spike.structure, neuron.record.recorded), [math.inf]

    def leaf(x: Any) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.float64, requires_grad=True)

    given = [leaf(x) for x in inputs]
    numbers = {name: leaf(value) for name, value in neuron.parameters.items()}
    of_spike = {name: leaf(value) for name, value in neuron.spike.parameters.items()}
    rests = {name: torch.tensor(getattr(neuron, name), dtype=torch.float64) for name in neuron.states}
    first = call.plan.rested(numbers | rests, given[0]).values()
    first = [torch.as_tensor(x, dtype=torch.float64) + 0.0 for x in first]

    def fire(x: torch.Tensor, spike_at_threshold: bool, _: None) -> torch.Tensor:
        closest[0] = min(closest[0], abs(x.item()))
        return neuron.spike(x, spike_at_threshold=spike_at_threshold, **of_spike)

    outputs, last, recorded = loop.run(call, fire, given, first, call.plan.computed(numbers, given[0]))
    arriving = [*bars["outputs"], *bars["states"].values(), *bars["recorded"].values()]
    total = sum((r * torch.tensor(g, dtype=torch.float64)).sum() for r, g in zip([*outputs, *last, *recorded], arriving, strict=True))
    names = [*neuron.record.inputs, *numbers, *(f"spike.{name}" for name in of_spike)]
    leaves = [*given, *numbers.values(), *of_spike.values()]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    gradients = {n: np.zeros(x.shape) if g is None else g.numpy() for n, x, g in zip(names, leaves, found, strict=True)}
    return gradients, closest[0]


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_neurons_of_the_page_are_pythons(page, name):
    """Outputs, states and gradients of 100 steps, with every structure that the page has."""
    spiked = 0
    for neuron in structures(name):
        driven = next(each for each in (drive(neuron, seed) for seed in range(9)) if each.closest > 1e-6)
        found = page("computed", of_neuron(neuron), [x.tolist() for x in driven.inputs], driven.bars)
        np.testing.assert_array_equal(found["outputs"], list(driven.outputs.values())) if CATALOGUE.neurons[name]["spiking"] else None
        np.testing.assert_allclose(found["outputs"], list(driven.outputs.values()), rtol=1e-9)
        back = found["back"]
        got = {**dict(zip(neuron.record.inputs, back["inputs"], strict=True)), **back["numbers"]}
        got |= {f"spike.{each}": value for each, value in back["spike"].items()}
        pairs = [(found["states"][each], x) for each, x in driven.states.items()]
        pairs += [(got[each], x) for each, x in driven.gradients.items()]
        for each, wanted in pairs:
            np.testing.assert_allclose(each, wanted, rtol=1e-9, atol=1e-12 * np.abs(wanted).max(), err_msg=repr(neuron))
        assert np.abs(driven.gradients[neuron.record.inputs[0]]).max() > 0
        spiked += bool((driven.outputs["output 0"] != 0).any())
    assert spiked == len(structures(name))
