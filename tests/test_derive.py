"""What is derived from a recorded step: its reverse, what must be kept for it, and the passes that are cut from both.

The plain loop is held against a second entry of every neuron elsewhere; here the derived passes are held against the plain loop.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.conftest import structures

from spikegrad import ATan, Decay, Neuron, State, Step, derive, trace, vocabulary
from spikegrad.formulas import CATALOGUE as SURROGATES
from spikegrad.kernels import interpret, loop
from spikegrad.kernels.plan import QUANTIZED, Call
from spikegrad.neurons import CATALOGUE, Leaky
from spikegrad.trace import BOOLEANS, OPERATIONS, Program, StepRecord, Symbol, argument
from spikegrad.vocabulary import cos, exp, floor, log, maximum, minimum, sigmoid, sin, sqrt, tanh, where

STEPS, COLUMNS = 5, 3
CONNECTIONS = ("none", "one-to-one", "all-to-all")


def required(cls: type) -> dict[str, float]:
    """Values for the numbers without a default."""
    missing = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
    return dict(zip(missing, (0.8, 0.7), strict=False))


STRUCTURES = {name: structures(cls) for name, cls in CATALOGUE.items()}
"""As the definitions recorded them, before any test asks for more."""


def rounds(neuron: Any) -> bool:
    return any(operation == "quantized" for operation, *_ in neuron.record.step.instructions)


def test_every_structure_is_here():
    assert all(len(STRUCTURES[name]) >= 2 for name in CATALOGUE)
    assert sum(map(len, STRUCTURES.values())) > 250


def unheld(x: Any) -> Any:
    return x


def of_columns(spike: Any) -> dict[str, np.ndarray]:
    """The numbers of a surrogate, one for each column."""
    return {name: np.full(COLUMNS, value) for name, value in spike.parameters.items()}


@functools.cache
def learning(spike: Any, soft: bool) -> interpret.Words:
    """How the operations run that are a surrogate's whose numbers learn."""
    return interpret.words(spike, of_columns(spike), soft=soft)


evaluator = functools.cache(trace.evaluator)
"""A program as a function, which is compiled once, whatever it is run on."""


@dataclasses.dataclass
class Case:
    """A layer of a few columns over a few steps: all that goes in, the gradients that arrive at all that comes out, and its results."""

    call: Call
    spike: Any
    spike_at_threshold: bool
    inputs: list[np.ndarray]
    state: list[np.ndarray]
    numbers: dict[str, np.ndarray]
    arriving: list[np.ndarray]

    @property
    def of_spike(self) -> dict[str, np.ndarray]:
        return of_columns(self.spike)

    @property
    def leaves(self) -> dict[str, np.ndarray]:
        plan = self.call.plan
        given = dict(zip((*plan.inputs, *plan.states), (*self.inputs, *self.state), strict=True))
        return given | self.numbers | {f"spike.{name}": value for name, value in self.of_spike.items()}

    def parameters(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        like = next(iter(numbers.values())) if numbers else self.inputs[0]
        return self.call.plan.computed(numbers, like)

    def interpreted(self, *, soft: bool = False) -> interpret.Result:
        parameters = self.parameters(self.numbers)
        words = learning(self.spike, soft)
        learned = frozenset((*parameters, *(f"spike.{name}" for name in self.of_spike)))
        return interpret.run(self.call, words, self.inputs, self.state, parameters, self.arriving, learned)

    def of_numbers(self, of_parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Gradients of the numbers from those of what is computed from them once a call."""
        numbers = {name: torch.tensor(value, requires_grad=True) for name, value in self.numbers.items()}
        parts = {name: part for name, part in self.parameters(numbers).items() if isinstance(part, torch.Tensor) and part.requires_grad}
        if not parts:
            return {}
        arriving = [torch.tensor(np.broadcast_to(of_parameters[name], part.shape).copy()) for name, part in parts.items()]
        found = torch.autograd.grad(list(parts.values()), list(numbers.values()), arriving, allow_unused=True)
        return {name: np.zeros(COLUMNS) if g is None else g.numpy() for name, g in zip(numbers, found, strict=True)}


def run(case: Case, words: Mapping[str, Any], leaves: Mapping[str, np.ndarray]) -> list[Any]:
    """All results of a layer, from its step as it was recorded: outputs, last states, recorded values."""
    plan, evaluate = case.call.plan, evaluator(case.call.plan.step)
    fixed = case.parameters({name: leaves[name] for name in case.numbers}) if case.numbers else {}
    now, made, n, m = {name: leaves[name] for name in plan.states}, [], plan.outputs, len(plan.states)
    for t in range(STEPS):
        values = evaluate({**fixed, **now, **{name: leaves[name][t] for name in plan.inputs}}, {"quantized": unheld, **words})
        made.append((*values[:n], *values[n + m :]))
        now = dict(zip(plan.states, values[n : n + m], strict=True))
    sequences = [np.stack(np.broadcast_arrays(*parts)) for parts in zip(*made, strict=True)]
    return [*sequences[:n], *now.values(), *sequences[n:]]


@functools.cache
def call_of(record: StepRecord, connection: str, quantized: bool) -> Call:
    """A layer that records everything; the same object each time, since its passes are what takes time."""
    return Call(record, ATan().structure, record.recorded, quantized, connection)


SPIKES = interpret.words(ATan())
"""How the operations that are the surrogate's run where its numbers are its own."""


@functools.cache
def case_of(neuron: Any, connection: str = "none", quantized: bool = False, *, strong: bool = True) -> Case:
    """A layer of this neuron, whose input is just strong enough for spikes; several tests read it, and none changes it."""
    spike, random, call = ATan(), np.random.default_rng(1), call_of(neuron.record, connection, quantized)
    plan, threshold = call.plan, abs(neuron.parameters.get("threshold", 1.0))
    values = neuron.parameters | {"weight": 0.3}
    values |= dict(zip(QUANTIZED, (-3.1 * threshold, 1.3 * threshold, 4.4 / 32 * threshold), strict=True))
    numbers = {name: np.full(COLUMNS, values[name]) for name in plan.numbers}
    rest = plan.rested(numbers | {name: np.full(COLUMNS, getattr(neuron, name, 0.0)) for name in plan.states}, np.zeros(1))
    state = [rest[name] + random.uniform(0.0, 0.05, COLUMNS) for name in plan.states]
    drawn = [random.normal(0.5, 0.75, (STEPS, COLUMNS)) for _ in plan.inputs]
    sizes = [(STEPS, COLUMNS)] * plan.outputs + [(COLUMNS,)] * len(plan.states) + [(STEPS, COLUMNS)] * len(call.recorded)
    arriving = [random.normal(size=size) for size in sizes]
    case = Case(call, spike, neuron.spike_at_threshold, drawn, state, numbers, arriving)
    for strength in 2.0 ** np.arange(-2, 10) if strong else ():
        case.inputs = [x * strength for x in drawn]
        if np.mean(run(case, SPIKES, case.leaves)[0] != 0) > 0.1:
            return case
    assert not strong, f"{neuron} does not spike"
    return case


def by_autograd(case: Case) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Results of the plain loop, and gradients of all that goes in."""
    plan = case.call.plan
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in case.leaves.items() if name not in case.numbers}
    parameters = case.parameters({name: torch.tensor(value) for name, value in case.numbers.items()})
    leaves |= {
        name: torch.as_tensor(value, dtype=torch.float64).expand(COLUMNS).clone().requires_grad_() for name, value in parameters.items()
    }
    of_spike = {name: leaves[f"spike.{name}"] for name in case.of_spike}

    def fire(x: torch.Tensor, spike_at_threshold: bool, _: None) -> torch.Tensor:
        return case.spike(x, spike_at_threshold=spike_at_threshold, **of_spike)

    inputs, state = ([leaves[name] for name in names] for names in (plan.inputs, plan.states))
    results = list(itertools.chain(*loop.run(case.call, fire, inputs, state, {name: leaves[name] for name in parameters})))
    pairs = [(r, torch.tensor(g)) for r, g in zip(results, case.arriving, strict=True) if r.requires_grad]
    found = torch.autograd.grad([r for r, _ in pairs], list(leaves.values()), [g for _, g in pairs], allow_unused=True)
    gradients = {k: np.zeros(leaf.shape) if g is None else g.numpy() for (k, leaf), g in zip(leaves.items(), found, strict=True)}
    return [r.detach().numpy() for r in results], gradients


def by_differences(case: Case) -> dict[str, np.ndarray]:
    """Gradients of all that goes in, of the soft network, over five points; what `hold` returned is replayed.

    Each perturbation is a row of an additional axis.
    """
    plan, leaves = case.call.plan, case.leaves
    held: list[Any] = []
    run(case, {**learning(case.spike, True), "hold": lambda x: held.append(x) or x}, leaves)
    places = [(name, t) for name, x in leaves.items() for t in (range(STEPS) if x.ndim == 2 else (None,))]
    size = {name: 1e-5 * (np.abs(x).max() or 1.0) for name, x in leaves.items()}
    moved = {name: np.repeat(x[..., None, :], 4 * len(places), -2) for name, x in leaves.items()}
    for row, (name, t) in enumerate(places):
        at = moved[name] if t is None else moved[name][t]
        at[4 * row : 4 * row + 4] += size[name] * np.array([-2, -1, 1, 2])[:, None]
    again = iter(held)
    of_spike = {name: moved[f"spike.{name}"] for name in case.of_spike}
    results = run(case, interpret.words(case.spike, of_spike, soft=True) | {"hold": lambda x: next(again)}, moved)
    parts = [
        np.broadcast_to(g[..., None, :] * r, (*g.shape[:-1], *moved[plan.states[0]].shape))
        for g, r in zip(case.arriving, results, strict=True)
    ]
    total = sum(part if part.ndim == 2 else part.sum(0) for part in parts)
    slopes = np.einsum("k,rkc->rc", np.array([1, -8, 8, -1]) / 12, total.reshape(len(places), 4, COLUMNS))
    found: dict[str, np.ndarray] = {name: np.zeros(x.shape) for name, x in leaves.items()}
    for row, (name, t) in enumerate(places):
        found[name][... if t is None else t] = slopes[row] / size[name]
    assert next(again, None) is None
    assert {*plan.inputs, *plan.states} <= found.keys()
    return found


def require_close(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float, what: Any) -> None:
    """Gradients by name, each to a part of its largest."""
    for name, value in wanted.items():
        error = np.abs(got[name] - value).max()
        assert error <= tolerance * np.abs(value).max(), f"{name} of {what}: off by {error}, largest {np.abs(value).max()}"


def require_equal_to_autograd(case: Case, what: Any) -> interpret.Result:
    found = case.interpreted()
    results, gradients = by_autograd(case)
    for got, want in zip((*found.outputs, *found.state, *found.recorded), results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max(), err_msg=str(what))
    require_close(found.gradients, gradients, 1e-12, what)
    return found


# The passes of every neuron.


@pytest.mark.parametrize("name", CATALOGUE)
def test_passes_equal_autograd_of_the_plain_loop(name):
    for neuron in STRUCTURES[name]:
        require_equal_to_autograd(case_of(neuron), neuron)


@pytest.mark.parametrize("connection", CONNECTIONS[1:])
@pytest.mark.parametrize("name", CATALOGUE)
def test_passes_with_recurrence_equal_autograd_of_the_plain_loop(name, connection):
    for neuron in STRUCTURES[name]:
        case = case_of(neuron, connection)
        added = {"recurrent", "weight"} if connection == "one-to-one" else {"fed"}
        assert added <= {*case.call.plan.inputs, *case.call.plan.states, *case.numbers}
        require_equal_to_autograd(case, neuron)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if rounds(STRUCTURES[name][0])])
def test_passes_with_quantized_states_equal_autograd_of_the_plain_loop(name):
    for neuron in STRUCTURES[name]:
        case = case_of(neuron, quantized=True)
        u = require_equal_to_autograd(case, neuron).recorded[case.call.recorded.index("u")]
        low, high, spacing = (case.numbers[number][0] for number in QUANTIZED)
        assert (u.min() >= low - 1e-9) & (u.max() <= high + 1e-9)
        np.testing.assert_allclose((u - low) / spacing, np.round((u - low) / spacing), atol=1e-9)


@pytest.mark.parametrize("name", CATALOGUE)
def test_gradients_equal_finite_differences_of_the_soft_network(name):
    """Of the neurons' own numbers, too, through what is computed from them once a call."""
    for neuron, (connection, quantized) in itertools.product(STRUCTURES[name], (("none", False), ("none", True), ("one-to-one", False))):
        if quantized and not rounds(neuron):
            continue
        case = case_of(neuron, connection, quantized)
        found = case.interpreted(soft=True).gradients
        found = found | {name: np.zeros(COLUMNS) for name in case.numbers} | case.of_numbers(found)
        wanted = by_differences(case)
        largest = max(np.abs(value).max() for value in wanted.values())
        for key, value in wanted.items():
            assert np.abs(found[key] - value).max() <= 1e-5 * largest, f"{key} of {neuron}"


# Steps that are written otherwise than those of the catalogue.


class Odd(Neuron):
    """A step from outside, with two inputs, two states and two numbers."""

    beta: Decay = 0.75
    theta: float = 0.5
    v: State = 0.0
    w: State = 0.0

    def step(self, current, gate, v, w):
        return Step(self.fire(self.beta * v + w + current * gate - self.theta), v=v, w=w)


ODD: dict[str, Callable[..., Step]] = {
    "an input that only gates a gradient": lambda self, current, gate, v, w: Step(
        self.fire(v - self.theta), v=where(gate > 0, v + current, self.hold(v + current)), w=w
    ),
    "a state that only gates a gradient": lambda self, current, gate, v, w: Step(
        self.fire(where(w > 0, current, self.hold(current)) - v), v=v + gate, w=v
    ),
    "a condition on numbers alone": lambda self, current, gate, v, w: Step(
        self.fire(v - self.theta), v=where(self.beta > self.theta, v + current, v - gate), w=where(self.beta > 5, self.beta, current)
    ),
    "a choice between numbers alone": lambda self, current, gate, v, w: Step(
        self.fire(current - where(self.beta > self.theta, self.beta, self.theta)), v=v * where(self.theta > 0, self.theta, 1.0), w=gate + w
    ),
    "a place to round numbers alone": lambda self, current, gate, v, w: Step(
        self.fire(v - self.theta), v=v * self.quantized(self.beta) + current, w=self.hold(self.beta) * gate
    ),
    "literals": lambda self, current, gate, v, w: Step(1.0, self.fire(current - self.theta), v=0.5, w=0.0, u=-0.0, one=1.0),
    "numbers as results": lambda self, current, gate, v, w: Step(
        self.fire(current - v), self.beta, v=self.theta, w=self.beta * 2, u=self.theta + 1
    ),
    "states that are never changed": lambda self, current, gate, v, w: Step(self.fire(current * w - v), v=v, w=w, u=gate),
    "states that change places": lambda self, current, gate, v, w: Step(self.fire(v - self.theta), v=w, w=v * self.beta + current * gate),
    "equal states": lambda self, current, gate, v, w: Step(self.fire(v - w), v=v + current, w=v + current, u=v + current),
    "inputs as results": lambda self, current, gate, v, w: Step(current, gate, v=gate, w=current, u=v, x=w),
    "nothing that varies": lambda self, current, gate, v, w: Step(self.hold(self.fire(v)), v=self.hold(current), w=0.0),
    "states kept for a step that forgets": lambda self, current, gate, v, w: Step(
        self.fire(v * v * w - self.theta), v=current, w=gate * gate
    ),
    "spikes of spikes": lambda self, current, gate, v, w: Step(
        self.fire(self.fire(v - self.theta) * gate + self.fire(current) - 0.75), v=self.fire(v - w) + current, w=self.fire(gate)
    ),
}


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("step", ODD)
def test_odd_steps_have_passes_that_equal_autograd(step, connection):
    neuron = type("Odd", (Odd,), {"step": ODD[step], "__module__": __name__})()
    require_equal_to_autograd(case_of(neuron, connection, strong=False), step)


# What is kept.

KEPT = {
    "AdEx": ((2, 0, 1), (3, 1, 0)),
    "Adaptive": ((1, 0, 0), (2, 0, 1)),
    "AdaptiveLeaky": ((1, 0, 1), (2, 1, 0)),
    "Alpha": ((1, 0, 0), (2, 0, 2)),
    "BalancedHarmonic": ((2, 0, 1), (3, 1, 0)),
    "BalancedResonateAndFire": ((3, 1, 0), (3, 1, 0)),
    "ComplementaryLeaky": ((4, 0, 0), (4, 0, 2)),
    "ConductanceLeaky": ((4, 2, 0), (4, 2, 0)),
    "ExponentialIF": ((2, 0, 1), (2, 1, 0)),
    "GatedLeaky": ((1, 2, 2), (1, 2, 2)),
    "IntegerLeaky": ((1, 0, 0), (1, 0, 1)),
    "IntegrateAndFire": ((1, 0, 0), (1, 0, 0)),
    "Izhikevich": ((1, 0, 1), (2, 1, 0)),
    "KLIF": ((1, 0, 0), (1, 1, 0)),
    "Lapicque": ((1, 0, 0), (1, 1, 0)),
    "Leaky": ((1, 0, 0), (1, 0, 1)),
    "LeakyIntegrator": ((0, 0, 0), (1, 0, 0)),
    "QuadraticIF": ((1, 0, 1), (1, 1, 0)),
    "RefractoryLeaky": ((2, 0, 0), (2, 0, 1)),
    "ResonateAndFire": ((1, 0, 0), (2, 0, 0)),
    "SigmaDelta": ((2, 0, 0), (2, 0, 0)),
    "SymplecticAdaptiveLeaky": ((1, 0, 0), (2, 1, 0)),
    "Synaptic": ((1, 0, 0), (2, 0, 1)),
    "Ternary": ((1, 0, 0), (1, 0, 1)),
    "TwoCompartment": ((1, 0, 0), (2, 0, 0)),
}
"""With default options: values kept, inputs read again and states restored, where no number is learned and where all are.

Of what is kept AdEx, ConductanceLeaky and ExponentialIF have one exponential each and ComplementaryLeaky two sigmoids, which would
otherwise be computed again."""


def test_no_more_is_kept_than_was():
    found = {}
    for name, cls in CATALOGUE.items():
        plan = Call(cls(**required(cls)).record, ATan().structure).plan
        each = (plan.passes(), plan.passes(frozenset(plan.parameters)))
        found[name] = tuple((len(passes.kept), len(passes.reread), len(passes.restored)) for passes in each)
    assert found == KEPT


@pytest.mark.parametrize("name", CATALOGUE)
def test_programs_read_what_they_say_and_no_boolean_is_kept(name):
    for neuron, connection in itertools.product(STRUCTURES[name], CONNECTIONS):
        plan = call_of(neuron.record, connection, False).plan
        for learned in (frozenset(), frozenset((*plan.parameters, "spike.slope", "spike.scale"))):
            passes = plan.passes(learned)
            start, parameters = {*plan.inputs, *plan.states, *plan.parameters}, {*plan.parameters}
            bars = {f"bar_{of}" for of in (*range(plan.outputs), *plan.states, *plan.call.recorded)}
            for program in (passes.forward, passes.keeping, passes.recompute, plan.step):
                assert program.arguments() <= start
            assert passes.restore.arguments() <= {*passes.kept} | parameters
            assert passes.reverse.arguments() <= {*passes.kept, *passes.reread, *passes.restored} | parameters | bars
            assert {*passes.reread} <= {*plan.inputs}
            assert {*passes.restored} <= {*plan.states}
            assert {*passes.adjoints} <= {*plan.inputs, *plan.states} | learned
            assert len({*passes.kept}) == len(passes.kept)
            assert len(passes.reverse.results) == len(passes.adjoints)
            for program, places in (
                (passes.keeping, slice(len(passes.forward.results), None)),
                (passes.recompute, slice(len(passes.kept))),
            ):
                kept = program.results[places]
                assert len(kept) == len(passes.kept)
                assert not any(isinstance(o, float) for o in kept)
                assert not any(isinstance(o, int) and program.instructions[o][0] in BOOLEANS for o in kept)
            for program in (passes.forward, passes.keeping, passes.recompute, passes.restore):
                assert not {operation for operation, *_ in program.instructions} & {"hold", "quantized", "derivative"}


@pytest.mark.parametrize("name", CATALOGUE)
def test_restored_states_follow_from_what_is_kept(name):
    """To the bit: they are computed as they were."""
    for neuron in STRUCTURES[name]:
        case = case_of(neuron)
        plan, parameters = case.call.plan, case.parameters(case.numbers)
        for learned in (frozenset(), frozenset(parameters)):
            passes = plan.passes(learned)
            given = parameters | dict(zip((*plan.inputs, *plan.states), (*(x[0] for x in case.inputs), *case.state), strict=True))
            *kept, last = (trace.evaluate(passes.recompute, SPIKES, given)[k] for k in range(len(passes.recompute.results)))
            after = dict(zip(plan.states, [*kept, last][len(passes.kept) :], strict=True))
            known = dict(zip(passes.kept, [*kept, last], strict=False))
            restored = trace.evaluate(passes.restore, SPIKES, parameters | known)
            for state, value in zip(passes.restored, restored, strict=True):
                np.testing.assert_array_equal(np.broadcast_to(value, COLUMNS), np.broadcast_to(after[state], COLUMNS))


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_depends_on_numbers_alone_leaves_the_step_and_changes_nothing(name):
    for neuron in STRUCTURES[name]:
        case = case_of(neuron)
        plan, record = case.call.plan, neuron.record
        varying: list[bool] = []
        for _, *operands in plan.step.instructions:
            varying.append(any(varying[o] if isinstance(o, int) else o in {*plan.inputs, *plan.states} for o in operands))
        assert {i[0] for i, varies in zip(plan.step.instructions, varying, strict=True) if not varies} <= {"hold"}
        words = {**SPIKES, "quantized": unheld}
        given = dict(zip((*plan.inputs, *plan.states), (*(x[0] for x in case.inputs), *case.state), strict=True))
        whole = trace.evaluate(record.step, words, given | case.numbers)
        parts = trace.evaluate(plan.step, words, given | case.parameters(case.numbers))
        np.testing.assert_array_equal(np.stack(np.broadcast_arrays(*parts)), np.stack(np.broadcast_arrays(*whole)))


# The reverse of single words.

POINTS = np.array([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])
"""Whole and half numbers: ties, corners and the steps of `round`."""

WORDS: dict[str, Callable[..., Any]] = {
    **vocabulary.OPERATIONS,
    "fire": ATan(),
    "fire_above": lambda x: ATan()(x, spike_at_threshold=False),
    "quantized": unheld,
    "derivative": ATan().derivative,
}


def of_arguments(formula: Callable[..., Any], count: int, *, guarded: bool = True) -> tuple[Program, list[str]]:
    """A formula as a program of x, y …, as a step is recorded."""
    names = ["x", "y", "z"][:count]
    (result,), _ = (derive.guarded if guarded else lambda roots, names: (roots, names))([formula(*map(argument, names))], {})
    return trace.flatten([result]), names


def reversed_program(program: Program, names: Sequence[str]) -> tuple[Program, list[str]]:
    """The value and its gradients, from arguments and what arrives; and which gradients are not always 0."""
    given = {name: argument(name) for name in names}
    results, _ = trace.symbols(program, given)
    found = dict(zip(names, derive.reverse(results, [argument("bar")], list(given.values())), strict=True))
    found = {name: value for name, value in found.items() if value is not None}
    values, _ = derive.rewritten([*results, *found.values()], derive.plain, {})
    return trace.flatten(values), list(found)


def derived(formula: Callable[..., Any], *points: Any, bar: float = 1.0) -> dict[str, np.ndarray]:
    """The gradients of a formula by its arguments, by the rules; those that are always 0 are missing."""
    program, names = of_arguments(formula, len(points))
    both, found = reversed_program(program, names)
    given = {name: np.asarray(point, float) for name, point in zip(names, points, strict=True)}
    arriving = np.full(np.broadcast_shapes(*(x.shape for x in given.values())), bar)
    with np.errstate(all="ignore"):
        _, *gradients = trace.evaluate(both, WORDS, given | {"bar": arriving})
    return {name: np.asarray(gradient) for name, gradient in zip(found, gradients, strict=True)}


def by_torch(program: Program, points: Sequence[Any]) -> list[np.ndarray]:
    given = dict(zip("xyz", (torch.tensor(point, dtype=torch.float64, requires_grad=True) for point in points), strict=False))
    (value,) = trace.evaluator(program, lambda x: torch.tensor(x, dtype=torch.float64))(given, WORDS)
    if not value.requires_grad:
        return [np.zeros(x.shape) for x in given.values()]
    found = torch.autograd.grad(value.sum(), list(given.values()), allow_unused=True)
    return [np.zeros(np.shape(x)) if g is None else g.numpy() for x, g in zip(points, found, strict=True)]


def by_jax(program: Program, points: Sequence[Any]) -> list[np.ndarray]:
    with jax.enable_x64(True):
        arrays = [jax.numpy.asarray(point, dtype="float64") for point in points]
        total = jax.grad(lambda arrays: trace.evaluate(program, WORDS, dict(zip("xyz", arrays, strict=False)))[0].sum())
        return [np.asarray(g) for g in jax.jit(total)(arrays)]


def check_against_libraries(formula: Callable[..., Any], *points: Any) -> dict[str, np.ndarray]:
    """The rules, and those of PyTorch and JAX for the same record."""
    found = derived(formula, *points)
    program, names = of_arguments(formula, len(points))
    for library in (by_torch, by_jax):
        for name, want in zip(names, library(program, points), strict=True):
            got = np.broadcast_to(found.get(name, 0.0), want.shape)
            np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-15, err_msg=f"{library.__name__} {name}")
    return found


@pytest.mark.parametrize("operation", [word for word, kinds in OPERATIONS.items() if kinds == "n"])
def test_rule_of_a_word_of_one_argument(operation):
    points = POINTS[POINTS > 0] if operation in ("log", "sqrt") else POINTS
    check_against_libraries(lambda x: Symbol(operation, x), points)


@pytest.mark.parametrize("operation", [word for word, kinds in OPERATIONS.items() if kinds == "nn" and word not in BOOLEANS])
def test_rule_of_a_word_of_two_arguments(operation):
    """At all pairs, ties among them."""
    first, second = (grid.ravel() for grid in np.meshgrid(POINTS, POINTS[POINTS != 0]))
    check_against_libraries(lambda x, y: Symbol(operation, x, y), first, second)
    check_against_libraries(lambda x: Symbol(operation, x, 0.5), POINTS)
    check_against_libraries(lambda x: Symbol(operation, 0.5, x), POINTS[POINTS != 0])


@pytest.mark.parametrize("comparison", BOOLEANS[:6])
def test_rule_of_where(comparison):
    first, second = (grid.ravel() for grid in np.meshgrid(POINTS, POINTS))

    def formula(x, y):
        condition = Symbol(comparison, x, y)
        return where(condition & ~(x > 1.0), x * y, x - y) + where(condition | (y < 0.5), 3 * x, y)

    check_against_libraries(formula, first, second)


def test_ties_give_half_to_each():
    for low, word in ((True, minimum), (False, maximum)):
        assert {name: float(g) for name, g in derived(word, 1.0, 1.0).items()} == {"x": 0.5, "y": 0.5}
        assert derived(lambda x, word=word: word(x, 2.0), [1.0, 2.0, 3.0])["x"].tolist() == [low, 0.5, not low]
        assert derived(lambda x, word=word: word(2.0, x), [1.0, 2.0, 3.0])["x"].tolist() == [low, 0.5, not low]
        assert derived(lambda x, word=word: word(x, x), 1.0)["x"] == 1.0


def test_the_corner_of_abs_has_no_gradient():
    assert derived(abs, [-2.0, -0.0, 0.0, 2.0])["x"].tolist() == [-1.0, 0.0, 0.0, 1.0]
    assert np.isnan(derived(abs, np.nan)["x"])


@pytest.mark.parametrize("word", ["floor", "round", "step", "hold"])
def test_what_is_constant_between_jumps_passes_no_gradient_on(word):
    assert derived(lambda x: Symbol(word, x * 2), POINTS) == {}
    assert derived(lambda x: Symbol(word, x * 2) + x, 0.3)["x"] == 1.0
    assert derived(lambda x: where(Symbol(word, x) > 0.0, x, 3 * x), [-0.6, 1.6])["x"].tolist() == [3.0, 1.0]


def test_straight_through_is_written_with_hold():
    assert derived(lambda x: x + Symbol("hold", vocabulary.round(x) - x), POINTS)["x"].tolist() == [1.0] * len(POINTS)


def test_the_logistic_has_tails():
    assert derived(sigmoid, [-1000.0, 1000.0])["x"].tolist() == [0.0, 0.0]
    assert derived(sigmoid, -100.0)["x"] == pytest.approx(math.exp(-100.0), rel=1e-14)
    assert derived(tanh, [-1000.0, 1000.0])["x"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bar", [1.0, np.inf, np.nan])
@pytest.mark.parametrize("word", ["fire", "fire_above"])
def test_an_infinite_potential_has_no_gradient_and_nan_stays(word, bar):
    found = derived(lambda x: Symbol(word, x), [-np.inf, np.inf, np.nan], bar=bar)["x"]
    assert found[:2].tolist() == [0.0, 0.0]
    assert np.isnan(found[2])


def test_an_infinite_potential_has_no_gradient_in_a_layer_and_nan_stays():
    """In the column and at the time of the spike; and it gives no gradient to the surrogate's numbers."""
    currents = np.zeros((3, 4))
    currents[1] = [np.inf, -np.inf, np.nan, 0.5]
    neuron = Leaky(0.5, reset="none")
    call, ones = Call(neuron.record, ATan().structure), np.ones((3, 4))
    learned = frozenset(("spike.slope", "spike.scale"))
    with np.errstate(invalid="ignore"):
        found = interpret.run(call, interpret.words(ATan()), [currents], [np.zeros(4)], neuron.parameters, [ones, ones[0] * 0], learned)
    spikes, gradient = found.outputs[0], found.gradients["current"]
    np.testing.assert_array_equal(spikes[1], [1.0, 0.0, np.nan, 0.0])
    np.testing.assert_array_equal(gradient[1:, :2], 0.0)
    assert np.isfinite(gradient[0, :2]).all()
    assert np.isnan(gradient[1:, 2]).all()
    assert (gradient[:, 3] > 0).all()
    for name in learned:
        assert np.isfinite(found.gradients[name][[0, 1, 3]]).all()
        assert np.isnan(found.gradients[name][2])


@pytest.mark.parametrize("name", [name for name, cls in SURROGATES.items() if cls.has_primitive])
def test_derivatives_of_primitives_by_their_numbers(name, points, expected_of_parameter):
    surrogate = SURROGATES[name]()
    if surrogate.stochastic:
        pytest.skip("its primitive takes noise; it is learned in the plain loop")
    words = interpret.words(surrogate)
    for number, value in surrogate.parameters.items():
        if value != 0:
            got = words[f"primitive_by_{number}"](points)
            expected_of_parameter(surrogate, number, points, np.full(points.shape, value))["first"].check(got, "float64", number)


# What `where` does not take.


def taken(formula: Callable[..., Any], *points: float) -> tuple[float, list[float]]:
    """Value and gradients of a formula of which only the branches are computed that are taken: what is right, if anything is."""
    names = ["x", "y", "z"][: len(points)]
    given = {name: torch.tensor(float(point), dtype=torch.float64, requires_grad=True) for name, point in zip(names, points, strict=True)}
    known: dict[int, Any] = {}

    def value(node: Any) -> Any:
        if not isinstance(node, Symbol):
            return torch.tensor(node, dtype=torch.float64)
        if id(node) not in known:
            if node.operation == "argument":
                known[id(node)] = given[node.name]
            elif node.operation == "where":
                condition, a, b = node.arguments
                known[id(node)] = value(a if value(condition) else b)
            else:
                known[id(node)] = WORDS[node.operation](*map(value, node.arguments))
        return known[id(node)]

    result = value(formula(*map(argument, names)))
    found = torch.autograd.grad(result, list(given.values()), allow_unused=True) if result.requires_grad else [None] * len(points)
    return result.item(), [0.0 if g is None else g.item() for g in found]


def shared(value: Callable[..., Any], formula: Callable[..., Any]) -> Callable[..., Any]:
    """A formula of its arguments and of one value of them, which is written once."""
    return lambda *arguments: formula(value(*arguments), *arguments)


NOT_TAKEN: dict[str, tuple[Callable[..., Any], list[Sequence[float]]]] = {
    "logarithm": (lambda x: where(x > 0, log(x), x), [(0.0,), (-1.0,), (2.0,)]),
    "root": (lambda x: where(x > 0, sqrt(x), 2 * x), [(0.0,), (-1.0,), (2.0,)]),
    "exponential": (lambda x: where(x < 50, exp(x), x), [(1000.0,), (1.0,)]),
    "quotient": (lambda x: where(x != 0, sin(x) / x, 1 - x * x / 6), [(0.0,), (1.0,)]),
    "quotient of the other argument": (lambda x, y: where(x > 0, y / x, y), [(0.0, 3.0), (-1.0, 3.0), (2.0, 3.0)]),
    "product with what overflows": (lambda x, y: where(x < 50, y * exp(x), y), [(1000.0, 2.0), (1.0, 2.0)]),
    "what has been computed from it": (lambda x: where(x < 50, 2 * exp(x) + 1, x), [(1000.0,), (1.0,)]),
    "the other branch": (lambda x: where(x <= 0, x, log(x)), [(0.0,), (-1.0,), (2.0,)]),
    "both branches": (lambda x: where(x > 0, log(x), log(-x)), [(-1.0,), (2.0,)]),
    "a difference": (lambda x: where(x > 1, log(x - 1), x), [(1.0,), (0.5,), (2.0,)]),
    "a negative": (lambda x: where(x < 0, log(-x), x), [(0.0,), (1.0,), (-2.0,)]),
    "a difference of two": (lambda x, y: where(x > y, sqrt(x - y), x * y), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0)]),
    "a choice": (lambda x, y: where(x > 0, log(where(y > 0, x, x + 0.0)), x), [(0.0, 1.0), (0.0, -1.0), (2.0, 1.0)]),
    "a held value": (lambda x: where(x > 0, log(x) * Symbol("hold", 1 / x), x), [(0.0,), (2.0,)]),
    "a spike": (lambda x: where(x > 0, Symbol("fire", log(x)), x), [(0.0,), (-1.0,), (2.0,)]),
    "nested": (lambda x: where(x > 0, where(x < 50, exp(x), log(x)), x), [(1000.0,), (0.0,), (-1.0,), (2.0,)]),
    "nested, a difference": (lambda x: where(x > 0, where(x > 1, log(x - 1), 2 * x), x), [(1.0,), (0.5,), (-1.0,), (2.0,)]),
    "nested in what is not taken": (lambda x, y: where(y > 0, where(x > 0, log(x), 1 / x), x), [(0.0, -1.0), (2.0, 1.0), (-2.0, 1.0)]),
    "nested deeply": (
        lambda x: where(x < 2, where(x < 1, where(x > 0, sqrt(x), x), log(x)), 1 / (x - 2)),
        [(2.5,), (1.5,), (0.5,), (-1.0,), (0.0,), (1.0,)],
    ),
    "a condition of a choice": (lambda x, y: where(where(x > 0, x, 1 / x) > 1, x, y), [(0.0, 1.0), (2.0, 1.0), (-2.0, 1.0)]),
    "shared with its condition": (shared(log, lambda value, x: where(value > 0, value, x)), [(0.0,), (-1.0,), (2.0,)]),
    "shared with its condition, a root": (shared(sqrt, lambda value, x: where(value > 0.5, value, 2 * x)), [(0.0,), (-1.0,), (2.0,)]),
    "shared with what is held": (
        shared(log, lambda value, x: where(x > 0, value, x) + where(x > 1, Symbol("hold", value), x)),
        [(0.0,), (-1.0,), (2.0,)],
    ),
    "shared by branches of one condition": (
        shared(log, lambda value, x: where(x > 0, value, x) + where(x > 0, value * value, x)),
        [(0.0,), (-1.0,), (2.0,)],
    ),
    "shared by branches of two conditions": (
        shared(lambda x, y: log(x), lambda value, x, y: where(x > 0, value, x) + where(x > y, value * value, x)),
        [(0.0, 1.0), (-1.0, 1.0), (0.5, 1.0), (2.0, 1.0)],
    ),
    "shared by opposite branches": (
        shared(lambda x, y: log(x), lambda value, x, y: where(x > 0, value, y) + where(x <= 0, x, value)),
        [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)],
    ),
    "shared by a branch and a branch within": (
        shared(log, lambda value, x: where(x > 0, where(x > 1, value, 2 * x) + value, x)),
        [(0.0,), (-1.0,), (0.5,), (2.0,)],
    ),
    "a value written twice": (lambda x: where(x > 0, log(x), x) + where(x > 0, 2 * log(x), x), [(0.0,), (-1.0,), (2.0,)]),
    "the least of two": (lambda x: where(x > 0, minimum(log(x), 1.0), x), [(0.0,), (-1.0,), (2.0,)]),
    "a size": (lambda x: where(x > 0, abs(log(x)), x), [(0.0,), (-1.0,), (2.0,)]),
}
"""Formulas of which a branch that is not taken has no derivative, and points."""


@pytest.mark.parametrize("formula", NOT_TAKEN)
def test_a_branch_that_is_not_taken_gives_no_nan(formula):
    """By the rules, and by PyTorch and JAX for the same record."""
    function, points = NOT_TAKEN[formula]
    wanted = [taken(function, *point) for point in points]
    assert all(np.isfinite([value, *gradients]).all() for value, gradients in wanted), "the test is wrong"
    columns = [np.array(column) for column in zip(*points, strict=True)]
    program, names = of_arguments(function, len(columns))
    found = derived(function, *columns)
    for way, got in {
        "by the rules": [np.broadcast_to(found.get(name, 0.0), len(points)) for name in names],
        "by PyTorch": by_torch(program, columns),
        "by JAX": by_jax(program, columns),
    }.items():
        for point, (_, gradients), each in zip(points, wanted, zip(*got, strict=True), strict=True):
            np.testing.assert_allclose(each, gradients, rtol=1e-12, err_msg=f"{way} at {point}")


@pytest.mark.parametrize("formula", NOT_TAKEN)
def test_what_is_guarded_has_the_same_values(formula):
    function, points = NOT_TAKEN[formula]
    for point in points:
        given = dict(zip("xyz", map(np.float64, point), strict=False))
        with np.errstate(all="ignore"):
            one, other = (
                trace.evaluate(of_arguments(function, len(point), guarded=guarded)[0], WORDS, given)[0] for guarded in (True, False)
            )
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("formula", NOT_TAKEN)
def test_a_branch_that_is_not_taken_agrees_with_finite_differences(formula):
    """At the points that are not on an edge. What does not spike has the gradient of its surrogate, and what is held none."""
    function, points = NOT_TAKEN[formula]
    program, names = of_arguments(function, len(points[0]))
    if {"hold", "fire"} & {operation for operation, *_ in of_arguments(function, len(points[0]), guarded=False)[0].instructions}:
        return
    h, compared = 1e-6, 0
    for point in points:
        found = derived(function, *point)
        for k, name in enumerate(names):
            sides = [taken(function, *point[:k], point[k] + d, *point[k + 1 :])[0] for d in (-h, 0.0, h)]
            left, right = (sides[1] - sides[0]) / h, (sides[2] - sides[1]) / h
            if abs(left - right) <= 1e-4 * max(1.0, abs(left)):
                np.testing.assert_allclose(found.get(name, 0.0), (left + right) / 2, rtol=1e-6, atol=1e-6, err_msg=f"{name} at {point}")
                compared += 1
    assert compared
    assert {*program.arguments()} <= {*names}


# Formulas that nobody thought of.

TOTAL: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: sin(a) * b,
    "divide": lambda a, b: a / (1 + b * b),
    "minimum": minimum,
    "maximum": maximum,
    "negative": lambda a: -a,
    "abs": abs,
    "hold": lambda a: Symbol("hold", a),
    "fire": lambda a: Symbol("fire", a),
    "fire_above": lambda a: Symbol("fire_above", a),
    "quantized": lambda a: Symbol("quantized", a),
    "exp": lambda a: exp(minimum(a, 1.0)),
    "log": lambda a: log(1 + a * a),
    "sqrt": lambda a: sqrt(1 + a * a),
    "sin": sin,
    "cos": cos,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "arctan": vocabulary.arctan,
    "erf": vocabulary.erf,
    "floor": floor,
    "round": vocabulary.round,
    "step": vocabulary.step,
    "where": lambda c, a, b: where(c, a, b),
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "not": lambda a: ~a,
}
"""The words, each where its value is tame whatever it is given."""

PARTIAL = {
    **{word: TOTAL[word] for word in ("add", "subtract", "negative", "abs", "hold", "where", "less", "greater_equal", "and", "or", "not")},
    **{"multiply": lambda a, b: a * b, "divide": lambda a, b: a / b, "exp": lambda a: exp(a * a * 10), "log": log, "sqrt": sqrt},
}
"""Some words as they are, infinite or NaN for some arguments."""

EXACT = {
    **{word: TOTAL[word] for word in ("add", "subtract", "minimum", "maximum", "negative", "abs", "hold", "where", *BOOLEANS)},
    "fire": lambda a: Symbol("fire", a - argument("current")),
    "multiply": lambda a, b: where(abs(a) > 8.0, 0.5, a) * b,
    "divide": TOTAL["divide"],
}
"""Words whose values PyTorch and NumPy round alike, so that both take the same branches; not `sqrt`, which PyTorch takes from MKL."""

LITERALS = st.sampled_from((-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0))
GRID = st.sampled_from(POINTS.tolist())


@st.composite
def formulas(draw: st.DrawFn, words: Mapping[str, Callable[..., Any]], names: Sequence[str], results: int = 1) -> Program:
    """Random instructions on these arguments, of which the last are the results; one result alone is a choice, if it can be."""
    numbers: list[Symbol] = [argument(name) for name in names]
    conditions: list[Symbol] = []
    for _ in range(draw(st.integers(3, 14))):
        possible = [word for word in words if conditions or "b" not in OPERATIONS[word]] + ["where"] * (4 * bool(conditions))
        word = draw(st.sampled_from(possible))
        operands: list[Any] = []
        for place, kind in enumerate(OPERATIONS[word]):
            literal = kind == "n" and len(OPERATIONS[word]) - place < len(OPERATIONS[word].lstrip("b")) and draw(st.booleans())
            operands.append(draw(LITERALS) if literal else draw(st.sampled_from(numbers if kind == "n" else conditions)))
        (conditions if word in BOOLEANS else numbers).append(words[word](*operands))
    if conditions and results == 1:
        numbers.append(where(draw(st.sampled_from(conditions)), numbers[-1], draw(st.sampled_from(numbers))))
    return trace.flatten(numbers[-results:])


def guarded(program: Program, names: Sequence[str]) -> Program:
    """The program as the definition of a neuron records it."""
    results, called = trace.symbols(program, {name: argument(name) for name in names})
    return trace.flatten(*derive.guarded(results, called))


def evaluated_by_torch(program: Program, given: Mapping[str, Any]) -> list[torch.Tensor]:
    with torch.no_grad():
        return trace.evaluator(program, lambda x: torch.tensor(x, dtype=torch.float64))(given, WORDS)


RANDOM = settings(deadline=None, derandomize=True, report_multiple_bugs=False)


def test_random_formulas_have_every_word():
    assert TOTAL.keys() == OPERATIONS.keys()
    for word, kinds in OPERATIONS.items():
        made = TOTAL[word](*(argument("x") if kind == "n" else argument("x") > 0 for kind in kinds))
        assert any(node.operation == word for node in trace.ordered([made]))


@settings(RANDOM, max_examples=200)
@given(formulas(TOTAL, "xyz"), st.lists(st.tuples(GRID, GRID, GRID), min_size=4, max_size=4))
def test_random_formulas_equal_autograd(formula, points):
    """The rules, evaluated by PyTorch, against its own: the same values, so the same branches."""
    columns = list(zip(*points, strict=True))
    both, found = reversed_program(guarded(formula, "xyz"), "xyz")
    given = {name: torch.tensor(column, dtype=torch.float64) for name, column in zip(("bar", *"xyz"), ((1.0,) * 4, *columns), strict=True)}
    value, *gradients = evaluated_by_torch(both, given)
    assume(float(value.abs().max()) < 1e6)
    for name, want in zip("xyz", by_torch(formula, columns), strict=True):
        got = np.broadcast_to(dict(zip(found, gradients, strict=True)).get(name, 0.0), want.shape)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11 * max(1.0, np.abs(want).max()))


@settings(RANDOM, max_examples=300)
@given(formulas(PARTIAL, "xyz"), st.tuples(GRID, GRID, GRID))
def test_random_formulas_have_no_nan_from_what_is_not_taken(formula, point):
    """Wherever the branches that are taken have a finite derivative, the formula has it."""
    value, wanted = taken(lambda *xyz: trace.symbols(formula, dict(zip("xyz", xyz, strict=True)))[0][0], *point)
    assume(np.isfinite([value, *wanted]).all() and max(map(abs, (value, *wanted))) < 1e6)
    both, found = reversed_program(guarded(formula, "xyz"), "xyz")
    given = dict(zip("xyz", (torch.tensor(x, dtype=torch.float64) for x in point), strict=True))
    _, *gradients = evaluated_by_torch(both, given | {"bar": torch.ones((), dtype=torch.float64)})
    got = [float(dict(zip(found, gradients, strict=True)).get(name, 0.0)) for name in "xyz"]
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


ARGUMENTS = ("current", "v", "w", "beta", "theta")


@settings(RANDOM, max_examples=100)
@given(formulas(EXACT, ARGUMENTS, results=4), st.integers(0, 2**32 - 1))
def test_random_steps_have_passes_that_equal_autograd(step, seed):
    """Two states and two numbers: what is kept, restored, read again or computed before the loop is whatever comes of it."""
    record = StepRecord(("current",), ("v", "w"), ("beta", "theta"), 1, ("u",), guarded(step, ARGUMENTS), Program((), ("v", "w")))
    call, random = Call(record, ATan().structure, ("u",)), np.random.default_rng(seed)
    sizes = ((STEPS, COLUMNS), (COLUMNS,), (COLUMNS,), (STEPS, COLUMNS))
    inputs, state = [random.normal(size=sizes[0])], [random.normal(size=COLUMNS) for _ in range(2)]
    numbers = {"beta": random.uniform(0.5, 0.9, COLUMNS), "theta": random.uniform(0.5, 1.5, COLUMNS)}
    case = Case(call, ATan(), True, inputs, state, numbers, [random.normal(size=size) for size in sizes])
    with np.errstate(all="ignore"):
        values = run(case, SPIKES, case.leaves)
        assume(all(np.isfinite(x).all() and np.abs(x).max() < 1e4 for x in values))
        found = case.interpreted()
    wanted, gradients = by_autograd(case)
    for got, want in zip((*found.outputs, *found.state, *found.recorded), wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    largest = max(np.abs(value).max() for value in gradients.values())
    for name, value in gradients.items():
        np.testing.assert_allclose(found.gradients[name], value, rtol=1e-10, atol=1e-10 * largest, err_msg=name)
