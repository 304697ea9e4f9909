"""The explorer page: what it computes is what Python computes, for every surrogate and every neuron; and it is one file.

One V8 engine runs the page's own script without its pictures; a real browser looks at the whole page in the slow tests.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from py_mini_racer import MiniRacer

from spikegrad import explore, facts, formulas, neurons, simulation
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
  const all = {derivative: of(derivative), primitive: of(primitive)};
  all.by = Object.fromEntries(Object.entries(by).map(([n, f]) => [n, of(f)]));
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
    options = {name: getattr(neuron, name) for name in CATALOGUE.neurons[type(neuron).__name__]["options"]}
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
        np.testing.assert_allclose(
            as_numbers(found["by"][name]), wanted, rtol=1e-10, atol=1e-12 * max(1, np.abs(wanted).max()), err_msg=name
        )
    known = facts.of(spike)
    for name in ("peak", "area", "half_width", "support"):
        if name in found["facts"]:
            got = [*map(float, np.ravel(found["facts"][name]))]
            np.testing.assert_allclose(got, np.ravel(getattr(known, name)), rtol=1e-4, err_msg=name)
    assert {"peak", "area", "half_width", "support"} <= found["facts"].keys()


CATALOGUE = explore.catalogue()
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


def drive(neuron: Any, seed: int, steps: int) -> Driven:
    random, plan = np.random.default_rng(seed), Call(neuron.record, neuron.spike.structure).plan
    drawn = {name: random.normal(0.6, 0.7, steps) for name in plan.inputs}
    strengths = 2.0 ** np.arange(-4, 9)
    made, _ = simulation.simulated(neuron, {name: x[:, None] * strengths for name, x in drawn.items()}, simulation.rest(neuron))
    often = (made["output 0"] != 0).mean(0)
    strength = strengths[np.abs(often - 0.15).argmin()]
    inputs = {name: x * strength for name, x in drawn.items()}
    outputs, states = simulation.simulated(neuron, inputs, simulation.rest(neuron))
    bars = {
        "outputs": random.normal(size=(len(outputs), steps)).tolist(),
        "states": dict(zip(plan.states, random.normal(size=len(plan.states)).tolist(), strict=True)),
        "recorded": {name: random.normal(size=steps).tolist() for name in neuron.record.recorded},
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
    first = [torch.as_tensor(x, dtype=torch.float64) + leaf(0.0) for x in first]

    def fire(x: torch.Tensor, spike_at_threshold: bool, _: None) -> torch.Tensor:
        closest[0] = min(closest[0], abs(x.item()))
        return neuron.spike(x, spike_at_threshold=spike_at_threshold, **of_spike)

    outputs, last, recorded = loop.run(call, fire, given, first, call.plan.computed(numbers, given[0]))
    arriving = [*bars["outputs"], *bars["states"].values(), *bars["recorded"].values()]
    total = sum((r * torch.tensor(g, dtype=torch.float64)).sum() for r, g in zip([*outputs, *last, *recorded], arriving, strict=True))
    names = [*neuron.record.inputs, *numbers, *(f"spike.{name}" for name in of_spike), *(f"first.{name}" for name in neuron.states)]
    leaves = [*given, *numbers.values(), *of_spike.values(), *first]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    gradients = {n: np.zeros(x.shape) if g is None else g.numpy() for n, x, g in zip(names, leaves, found, strict=True)}
    return gradients, closest[0]


def require_as_in_python(page: Page, neuron: Any, steps: int) -> None:
    driven = next(
        each for each in (drive(neuron, seed, steps) for seed in range(20)) if each.closest > 1e-6 and each.outputs["output 0"].any()
    )
    found = page("computed", of_neuron(neuron), [x.tolist() for x in driven.inputs], driven.bars)
    if CATALOGUE.neurons[type(neuron).__name__]["spiking"]:
        np.testing.assert_array_equal(found["outputs"], list(driven.outputs.values()), repr(neuron))
    back = found["back"]
    got = {**dict(zip(neuron.record.inputs, back["inputs"], strict=True)), **back["numbers"]}
    got |= {f"spike.{each}": value for each, value in back["spike"].items()}
    got |= {f"first.{each}": values[0] for each, values in back["states"].items()} | found["states"] | {"outputs": found["outputs"]}
    wanted = driven.gradients | driven.states | {"outputs": np.stack(list(driven.outputs.values()))}
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-12 * np.abs(value).max(), err_msg=f"{name} of {neuron!r}")
    assert np.abs(driven.gradients[neuron.record.inputs[0]]).max() > 0


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_neurons_of_the_page_are_pythons(page, name):
    """Outputs, states and gradients of 100 steps; fewer for the structure that differs most from the default."""
    first, *others = structures(name)
    require_as_in_python(page, first, STEPS)
    for other in others[-1:]:
        require_as_in_python(page, other, 30)


@pytest.mark.slow
@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_every_structure_of_the_page_is_pythons(page, name):
    for neuron in structures(name):
        require_as_in_python(page, neuron, STEPS)


@pytest.mark.parametrize("at_threshold", [True, False])
def test_a_potential_at_the_threshold(page, at_threshold):
    """On numbers that are exact."""
    neuron, currents = neurons.Leaky(0.5, spike_at_threshold=at_threshold), [1.0, 0.5, 0.25, 0.5]
    outputs, states = simulation.simulated(neuron, {"current": np.array(currents)}, {"v": 0.0})
    found = page("computed", of_neuron(neuron), [currents], {})
    assert found["outputs"] == [outputs["output 0"].tolist()] == [[float(at_threshold), 0.0, 0.0, 0.0]]
    assert found["states"] == {"v": states["v"].tolist()}
    assert page.engine.eval(f"Number.isNaN(forward(neuronOf({json.dumps(of_neuron(neuron))}), [[NaN]]).outputs[0][0])")


def test_every_structure_that_is_offered_has_its_variant(page):
    """And only one: whatever is chosen in the page finds the program that is its own."""
    for table in ("NEURONS", "SURROGATES"):
        for name in page.value(f"Object.keys({table})"):
            options = page.value(f"{table}.{name}.options")
            for picked in itertools.product(*(each["choices"] for each in options.values())):
                chosen = json.dumps(dict(zip(options, picked, strict=True)))
                count = f"{table}.{name}.variants.filter(({{when}}) => Object.keys(when).every(key => when[key] === {chosen}[key])).length"
                assert page.value(count) == 1, (name, chosen)


def test_everything_of_the_catalogues_is_there(page):
    assert {*page.value("Object.keys(NEURONS)")} == {*neurons.CATALOGUE}
    assert {*page.value("Object.keys(SURROGATES)")} == {*formulas.CATALOGUE}
    for name, kind in neurons.CATALOGUE.items():
        about = page.value(f"{{...NEURONS.{name}, variants: 0}}")
        assert about["numbers"].keys() == kind.numbers.keys()
        assert about["states"] == [*kind.states]
        assert "`" not in json.dumps(about)


def test_conditions_between_numbers_are_pythons(page):
    random, seen = np.random.default_rng(0), set()
    for name, kind in neurons.CATALOGUE.items():
        for _ in range(20):
            neuron = built(kind, {})
            numbers = {each: abs(value) * random.uniform(0.2, 3) for each, value in neuron.parameters.items()}
            numbers = {each: value if kind.numbers[each].holds(value) else neuron.parameters[each] for each, value in numbers.items()}
            holds = all(map(bool, neuron.bind(numbers).valid().values()))
            given = of_neuron(neuron) | {"numbers": numbers}
            assert (page.value(f"neuronOf({json.dumps(given)}).broken.length") == 0) == holds, (name, numbers)
            seen.add(holds)
    assert seen == {True, False}


def test_error_function(page):
    x = [*np.linspace(-7, 7, 281), 1e-300, 1e-9, 5.999, 6.001]
    np.testing.assert_allclose(page.value(f"{x}.map(erf)".replace("np.float64", "")), [math.erf(each) for each in x], rtol=1e-14)
    assert page.value("[erf(Infinity), erf(-Infinity), Number.isNaN(erf(NaN))]") == [1, -1, True]


def test_rate_is_that_of_the_layer(page):
    for current in (0.05, 0.3):
        outputs, _ = simulation.simulated(neurons.Leaky(0.9), {"current": np.full(500, current)}, {"v": 0.0})
        found = page.value(f"rateOf(neuronOf({json.dumps(of_neuron(neurons.Leaky(0.9)))}), [{current}])")
        assert found == pytest.approx(outputs["output 0"][100:].mean())
