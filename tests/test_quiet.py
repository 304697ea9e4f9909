"""The reverse of a step taken apart: the full one is the reverse, and the quiet one is it wherever nothing happens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.conftest import driving, example

from spikegrad import Triangle, neurons, trace
from spikegrad.kernels.interpret import words
from spikegrad.kernels.plan import Call
from spikegrad.quiet import split

SPIKE = Triangle(width=0.3)


def made(name, **options):
    spikes = {} if name == "LeakyIntegrator" else {"spike": SPIKE}
    neuron = example(name, **spikes, **options)
    call = Call(neuron.record, neuron.spike.structure)
    return None if call.plan.outputs != 1 else (neuron, call.plan)


RESETS = [
    {"reset": reset, "detach_reset": detached, "reset_delay": delayed}
    for reset, detached, delayed in itertools.product(("subtract", "zero", "none"), (True, False), (False, True))
]
DELAYED = [("subtract", False), ("zero", False), ("zero", True)]
"""Resets that depend on whether the state before the step was above threshold."""
OPTIONS = [("Leaky", options) for options in (*RESETS, {"spike_at_threshold": False}, {"scale_input": True})]
OPTIONS += [("Synaptic", options) for options in RESETS if options["reset"] == "zero"]
CASES = [(name, {}) for name in neurons.CATALOGUE if made(name)] + OPTIONS


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_both_are_the_reverse(name, options, learns):
    neuron, plan = made(name, **options)
    for learned in [plan.parameters, *((name,) for name in plan.parameters)] if learns else [()]:
        both_are_the_reverse(neuron, plan, learned)


def both_are_the_reverse(neuron, plan, learned):
    random, found = np.random.default_rng(0), split(plan.step, plan.inputs, plan.states, plan.parameters, learned)
    columns = 4000
    like = np.zeros(columns)
    own = neuron.parameters | {n: float(getattr(neuron, n)) for n in neuron.states}
    given = {n: np.broadcast_to(np.asarray(x, float), columns) for n, x in plan.computed(own, like).items()}
    given |= {n: random.normal(x, max(0.5, abs(float(x))), columns) for n, x in plan.rested(own, like).items()}
    given |= dict(zip(plan.inputs, driving(neuron, columns), strict=True))
    bars = {f"bar_{n}": random.normal(size=columns) for n in ("0", *plan.states)}

    def run(program, *parts):
        together = {name: value for part in parts for name, value in part.items()}
        values = trace.evaluator(program, np.float64)(together, words(SPIKE))
        return [np.broadcast_to(np.asarray(x, float), columns) for x in values]

    passes = plan.passes(frozenset(learned))
    forward = run(passes.keeping, given)
    kept = dict(zip(passes.kept, forward[len(passes.forward.results) :], strict=True))
    before = {n: given[n] for n in passes.restored}
    reread = {n: given[n] for n in passes.reread}
    numbers = {n: given[n] for n in plan.parameters}
    expected = dict(zip(passes.adjoints, run(passes.reverse, numbers, kept, before, reread, bars), strict=True))

    values = run(found.forward, given)
    for ours, theirs in zip(values[: 1 + len(plan.states)], forward[: 1 + len(plan.states)], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    names = (*found.watched, *found.everywhere, *found.pairs)
    seen = dict(zip(names, values[1 + len(plan.states) :], strict=True))
    everywhere = {n: seen[n] for n in found.everywhere}
    full = dict(zip(found.adjoints, run(found.full, numbers, everywhere, {n: seen[n] for n in found.pairs}, bars), strict=True))
    quiet = dict(zip(found.adjoints, run(found.quiet, numbers, everywhere, bars), strict=True))
    happens = np.zeros(columns, bool)
    for x in found.watched[: found.near]:
        happens |= ~(np.abs(seen[x]) > SPIKE.width)
    for x, operation in zip(found.watched[found.near :], found.fires, strict=True):
        happens |= seen[x] >= 0 if operation == "fire" else seen[x] > 0
    assert not happens.all()
    assert happens.any() or not plan.call.record.fires
    for name in found.adjoints:
        whole = expected.get(name, np.zeros(columns))
        np.testing.assert_allclose(full[name], whole, rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(quiet[name][~happens], whole[~happens], rtol=1e-12, atol=1e-12, err_msg=name)
    assert found.rare == (found.emits is not None)


@pytest.mark.parametrize(
    ("name", "options"), [("Leaky", {}), ("Synaptic", {}), ("Adaptive", {}), ("ResonateAndFire", {}), *OPTIONS], ids=str
)
def test_neurons_that_are_linear_between_spikes_keep_nothing_for_all(name, options):
    _, plan = made(name, **options)
    found = split(plan.step, plan.inputs, plan.states, plan.parameters)
    reads_state = options.get("reset_delay", False) and (options["reset"], options["detach_reset"]) in DELAYED
    assert (found.everywhere, len(found.pairs)) == ((), 1 + reads_state)


def test_a_neuron_of_ones_own():
    class Mine(neurons.Leaky):
        """Leaky."""

    neuron = Mine(0.9, spike=SPIKE)
    plan = Call(neuron.record, neuron.spike.structure).plan
    found = split(plan.step, plan.inputs, plan.states, plan.parameters)
    leaky = made("Leaky")[1]
    assert found == split(leaky.step, leaky.inputs, leaky.states, leaky.parameters)
