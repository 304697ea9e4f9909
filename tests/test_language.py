"""The language of neurons: what a class may say, what is refused and in which words, and what a neuron is as a value."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import math
import pickle
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from tests.conftest import structures

import spikegrad
from spikegrad import ATan, Between, Decay, FastSigmoid, Fraction, Neuron, NonNegative, Positive, State, Step, nn, trace
from spikegrad.kernels import interpret
from spikegrad.kernels.plan import Call
from spikegrad.neurons import (
    CATALOGUE,
    AdEx,
    Alpha,
    BalancedResonateAndFire,
    GatedLeaky,
    Leaky,
    LeakyIntegrator,
    RefractoryLeaky,
    TwoCompartment,
)
from spikegrad.nn.parameters import coordinate, number
from spikegrad.trace import OPERATIONS
from spikegrad.vocabulary import exp, where


def defined(
    step: Callable[..., Any], annotations: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None, **body: Any
) -> Any:
    """A class is recorded when it is defined, so defining it is the test."""
    annotations = {"beta": Decay, "v": State} if annotations is None else annotations
    return type(Neuron)(
        "User", (Neuron,), {"__annotations__": dict(annotations), "step": step, "__module__": __name__, **body}, **options or {}
    )


def plain(self, current, v):
    return Step(v + current, v=v)


def fires(self, current, v):
    u = self.beta * v + current
    s = self.fire(u - 1.0)
    return Step(s, v=self.after_spike(u, s, 1.0), u=u)


# Steps that are refused where they are defined.

REFUSED: dict[str, tuple[str, Callable[..., Any]]] = {
    "an undeclared state, as an argument": (r"`x`.*declare", lambda self, current, v, x: Step(v, v=v, x=x)),
    "an undeclared state, before a declared one": (r"returns `x`.*declare it: x: State", lambda self, current, x, v: Step(v, v=v, x=x)),
    "an input returned": (r"returns `current`, which is an input", lambda self, current, v: Step(v, v=v, current=v)),
    "a number returned": (r"returns `beta`, which is a number", lambda self, current, v: Step(v, v=v, beta=v)),
    "a forgotten state": (r"does not return the state `v`", lambda self, current, v: Step(v)),
    "no output": (r"returns no output", lambda self, current, v: Step(v=v)),
    "a tuple": (r"must return Step\(\.\.\.\), got tuple", lambda self, current, v: (v, v)),
    "nothing": (r"must return Step\(\.\.\.\), got NoneType", lambda self, current, v: None),
    "if": (r"branch on its input .*where", lambda self, current, v: Step(v if v > 0 else current, v=v)),
    "and": (r"branch on its input .*where", lambda self, current, v: Step(v * (v > 0 and v < 1), v=v)),
    "or": (r"branch on its input .*where", lambda self, current, v: Step(v or current, v=v)),
    "not": (r"branch on its input .*where", lambda self, current, v: Step(v * (not v), v=v)),
    "min": (r"branch on its input .*where", lambda self, current, v: Step(min(v, 1.0), v=v)),
    "max": (r"branch on its input .*where", lambda self, current, v: Step(max(v, current), v=v)),
    "a branch on a number": (r"branch on its input .*where", lambda self, current, v: Step(v if self.beta > 0.5 else current, v=v)),
    "torch": (r"`torch\.sigmoid` is outside the vocabulary", lambda self, current, v: Step(torch.sigmoid(v), v=v)),
    "numpy": (r"`numpy\.tanh` is outside the vocabulary", lambda self, current, v: Step(np.tanh(v), v=v)),
    "math": (r"not `math`", lambda self, current, v: Step(math.exp(v), v=v)),
    "a method": (r"`\.relu` is outside the vocabulary", lambda self, current, v: Step(v.relu(), v=v)),
    "an attribute": (r"`\.shape` is outside the vocabulary", lambda self, current, v: Step(v * v.shape[0], v=v)),
    "another operator": (r"%", lambda self, current, v: Step(v % 1.0, v=v)),
    "an index": (r"not subscriptable", lambda self, current, v: Step(v[0], v=v)),
    "a power": (r"base known to be positive", lambda self, current, v: Step(v**0.5, v=v)),
    "a power of a number that may be 0": (r"base known to be positive", lambda self, current, v: Step(v * self.beta**0.5, v=v)),
    "where the state rests": (r"`self\.v` is where the state v rests; .* the argument `v`", lambda self, current, v: Step(self.v, v=v)),
    "what is not there": (r"`tau`|`self\.tau`", lambda self, current, v: Step(self.tau * v, v=v)),
    "the surrogate": (r"fire", lambda self, current, v: Step(self.spike(v), v=v)),
    "a comparison as an output": (r"returns a comparison as an output", lambda self, current, v: Step(v > 0, v=v)),
    "a comparison as a state": (r"returns a comparison as v", lambda self, current, v: Step(v, v=v > 0)),
    "a comparison recorded": (r"returns a comparison as u", lambda self, current, v: Step(v, v=v, u=~(v > 0))),
    "a product with a comparison": (r"`multiply` is given a comparison", lambda self, current, v: Step((v > 0) * v, v=v)),
    "a sum with a comparison": (r"`subtract` is given a comparison", lambda self, current, v: Step(1 - (v > 0), v=v)),
    "a word of a comparison": (r"`exp` is given a comparison", lambda self, current, v: Step(exp(v > 0), v=v)),
    "a comparison of comparisons": (
        r"`equal` is given a comparison",
        lambda self, current, v: Step(where((v > 0) == (v < 1), v, 0.0), v=v),
    ),
    "a choice of a comparison": (r"`where` is given a comparison", lambda self, current, v: Step(where(v > 0, v > 1, v), v=v)),
    "a choice by a number": (r"`where` is given a number", lambda self, current, v: Step(where(v, v, current), v=v)),
    "a choice by a number, not used": (r"`and` is given a number", lambda self, current, v: Step(where((v > 0) & current, v, 0.0), v=v)),
    "a choice of two literals": (r"depends on the input, for its dtype", lambda self, current, v: Step(where(v > 0, 1.0, 0.0), v=v)),
    "a fire of a comparison": (r"comparison", lambda self, current, v: Step(self.fire(v > 0), v=v)),
    "a fire of a literal": (r"`fire` got float", lambda self, current, v: Step(self.fire(1.0), v=v)),
    "a fire of numbers alone": (r"fire", lambda self, current, v: Step(self.fire(self.beta - 0.5), v=v)),
    "a tensor": (r"not with Tensor", lambda self, current, v: Step(v * torch.ones(3), v=v)),
    "an array": (r"not with ndarray", lambda self, current, v: Step(v + np.ones(3), v=v)),
    "a text": (r"not with str", lambda self, current, v: Step(v * "2", v=v)),
    "None": (r"not with NoneType", lambda self, current, v: Step(None, v=v)),
    "a list": (r"got builtins\.list", lambda self, current, v: Step(exp([v]), v=v)),
    "a branch of an option that is not the default": (
        r"`torch\.relu` is outside",
        lambda self, current, v: Step(torch.relu(v) if self.reset == "none" else v, v=v),
    ),
    "a branch of an option within another": (
        r"does not return the state",
        lambda self, current, v: Step(v) if self.reset == "zero" and not self.spike_at_threshold else Step(v, v=v),
    ),
    "any number of arguments": (r"takes any number of arguments", lambda self, *arguments: Step(arguments[0], v=arguments[1])),
    "any named arguments": (r"takes any number of arguments", lambda self, current, v, **more: Step(v, v=v)),
    "an input after a state": (r"takes a state before an input", lambda self, v, current: Step(v, v=v)),
    "no input": (r"takes no input", lambda self, v: Step(v, v=v)),
    "no state": (r"does not take the state `v`", lambda self, current: Step(current, v=current)),
    "a number as an argument": (r"takes `beta`, which is a number: read `self\.beta`", lambda self, current, beta, v: Step(v, v=v)),
    "an argument called like a weight": (r"an argument cannot be called `weight`", lambda self, weight, v: Step(v, v=v)),
    "an argument called like a gradient": (r"an argument cannot be called `bar_v`", lambda self, bar_v, v: Step(v, v=v)),
    "a record called excess": (r"what is recorded cannot be called `excess`", lambda self, current, v: Step(v, v=v, excess=v)),
    "a record that is no name": (r"what is recorded cannot be called `a b`", lambda self, current, v: Step(v, v=v, **{"a b": v})),
    "a record that is a word of Python": (r"what is recorded cannot be called `if`", lambda self, current, v: Step(v, v=v, **{"if": v})),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_where_it_is_defined_naming_the_culprit(what):
    match, step = REFUSED[what]
    with pytest.raises(TypeError, match=rf"^User.*({match})"):
        defined(step)


def test_a_class_without_a_step_is_refused():
    with pytest.raises(TypeError, match=r"User does not define `step\(self, current, \.\.\.\)`"):
        type(Neuron)("User", (Neuron,), {"__annotations__": {"beta": Decay}, "__module__": __name__})(0.9)


WORDS = [name for name in dir(Neuron) if not name.startswith("_") and name not in ("spike", "reset", "detach_reset", "spike_at_threshold")]


@pytest.mark.parametrize("name", [*WORDS, "step", "_own", "__own"])
def test_a_field_called_like_a_word_of_neuron_is_refused(name):
    with pytest.raises(TypeError, match=f"User: a field cannot be called `{name}`, which is a word of Neuron"):
        defined(plain, {"v": State, name: float}, **{name: 1.0} if name not in ("step",) else {})


@pytest.mark.parametrize("kind", [float, State, int])
@pytest.mark.parametrize("name", ["excess", "recurrent", "weight", "weights", "bar_x", "spike_slope", "größe"])
def test_a_field_called_like_what_a_layer_adds_is_refused(name, kind):
    with pytest.raises(TypeError, match=f"User: a field cannot be called `{name}`"):
        defined(plain, {"v": State, name: kind}, **{name: 1})


def test_the_names_that_were_found_to_hide_methods_are_words():
    assert {"fire", "hold", "resetting", "after_spike", "reset_to", "quantized", "resting", "valid", "record", "numbers", "states"} <= {
        *WORDS
    }


@pytest.mark.parametrize("name", ["spike", "reset", "detach_reset", "spike_at_threshold"])
def test_an_option_declared_again_is_refused(name):
    with pytest.raises(
        TypeError, match=rf"`{name}` is an option of every neuron; for another default write class User\(Neuron, {name}=\.\.\.\)"
    ):
        defined(fires, {"beta": Decay, "v": State, name: bool}, **{name: True})


def test_a_field_that_a_mixin_has_is_no_way_around():
    class Mixin:
        def helper(self):
            return 1

    with pytest.raises(TypeError, match="a field cannot be called `fire`"):
        type(Neuron)("User", (Neuron, Mixin), {"__annotations__": {"v": State, "fire": float}, "step": plain, "__module__": __name__})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rset": "zero"}, r"User: there is no option `rset`; did you mean reset\?"),
        ({"nothing": 1}, r"User: there is no option `nothing`; choose from spike, reset"),
        ({"beta": 0.5}, r"User: there is no option `beta`"),
        ({"reset": "zro"}, r"`reset` of User must be one of 'subtract', 'zero', 'none', got 'zro'"),
        ({"detach_reset": 1}, r"`detach_reset` of User must be True or False, got 1"),
        ({"spike": None}, r"`spike` of User must be a surrogate such as ATan\(\), got None"),
    ],
)
def test_another_default_for_an_option_is_checked_at_the_definition(options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        defined(fires, options=options)


def test_another_default_for_an_option_that_no_structure_reads_is_refused():
    with pytest.raises((TypeError, ValueError), match="has no use for `reset`"):
        defined(plain, {"v": State}, options={"reset": "zero"})


@pytest.mark.parametrize(
    ("rests", "match"),
    [
        (lambda self: {"w": 1.0}, r"User\.resting names `w`, which is no state"),
        (lambda self: {"V": 1.0}, r"User\.resting names `V`, which is no state; did you mean v\?"),
        (lambda self: {"v": 1.0 if self.beta > 0.5 else 0.0}, r"User\.resting.*branch on its input"),
        (lambda self: {"v": "low"}, r"User\.resting.*not with str"),
        (lambda self: {"v": self.beta > 0.5}, r"User\.resting.*comparison"),
        (lambda self: {"v": self.fire(self.beta)}, r"User\.resting.*fire"),
        (lambda self: ["v"], r"User\.resting.*list"),
        (lambda self: {"v": torch.sigmoid(self.beta)}, r"User\.resting.*`torch\.sigmoid` is outside"),
    ],
)
def test_resting_is_refused_where_it_is_defined(rests, match):
    with pytest.raises(TypeError, match=match):
        defined(fires, resting=rests)


@pytest.mark.parametrize("annotation", ["Nope", "Literal[Nope]", "Annotated[float, Nope(0, 1)]"])
def test_an_annotation_that_names_what_is_not_known_is_refused(annotation):
    with pytest.raises(TypeError, match="User: name 'Nope' is not defined; import what annotations name at the top of the module"):
        defined(plain, {"v": State, "mode": annotation})


# Numbers and options that are refused where they are given.


class Everything(Neuron):
    """Every kind of field."""

    beta: Decay
    share: Fraction = 0.5
    width: Positive = 1.0
    size: NonNegative = 0.0
    angle: Annotated[float, Between(-1, 1)] = 0.25
    below: Annotated[float, Between(high=2)] = 0.0
    free: float = -3.0
    mode: Literal["one", "two"] = "one"
    count: int = 2
    label: str = "a"
    doubled: bool = dataclasses.field(default=False, kw_only=True)

    v: State = 0.25

    def valid(self):
        return {"`width` above `size`": self.width > self.size}

    def step(self, current, v):
        u = self.beta * v + current * self.share + self.angle * self.below + self.free
        if self.mode == "two":
            u = u * self.width
        for _ in range(self.count):
            u = u + self.size
        if self.label == "b":
            u = -u
        u = 2 * u if self.doubled else u
        s = self.fire(u - 1.0)
        return Step(s, v=self.after_spike(u, s, 1.0), u=u)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"beta": 1.5}, ValueError, r"`beta` of Everything must be between 0 and 1, got 1\.5"),
    ({"beta": -0.1}, ValueError, r"`beta` of Everything must be between 0 and 1"),
    ({"beta": math.nan}, ValueError, r"`beta` of Everything must be between 0 and 1, got nan"),
    ({"beta": 10**400}, ValueError, r"`beta` of Everything must be"),
    ({"share": 2}, ValueError, r"`share` of Everything must be between 0 and 1, got 2\.0"),
    ({"width": 0}, ValueError, r"`width` of Everything must be positive, got 0\.0"),
    ({"width": math.inf}, ValueError, r"`width` of Everything must be finite, got inf"),
    ({"size": -1e-9}, ValueError, r"`size` of Everything must be zero or positive"),
    ({"angle": 1.0001}, ValueError, r"`angle` of Everything must be between -1 and 1, got 1\.0001"),
    ({"below": 2.5}, ValueError, r"`below` of Everything must be at most 2, got 2\.5"),
    ({"free": -math.inf}, ValueError, r"`free` of Everything must be finite"),
    ({"v": math.nan}, ValueError, r"`v` of Everything must be"),
    ({"beta": True}, TypeError, r"`beta` of Everything must be a number, got bool"),
    ({"beta": "0.9"}, TypeError, r"`beta` of Everything must be a number, got str"),
    ({"beta": None}, TypeError, r"`beta` of Everything must be a number, got NoneType"),
    ({"beta": 1j}, TypeError, r"`beta` of Everything must be a number, got complex"),
    ({"v": False}, TypeError, r"`v` of Everything must be a number, got bool"),
    (
        {"beta": torch.tensor(0.9)},
        TypeError,
        r"got Tensor; pass tensors beside the neuron: spikegrad\.nn\.Layer\(neuron, values=\{'beta': tensor\}",
    ),
    ({"beta": np.array(0.9)}, TypeError, r"got ndarray; .*spikegrad\.jax\.run\(neuron, currents, values=\{'beta': array\}"),
    ({"v": torch.zeros(3)}, TypeError, r"`v` of Everything must be a number, got Tensor; .*state"),
    ({"mode": "tow"}, ValueError, r"`mode` of Everything must be one of 'one', 'two', got 'tow'; did you mean two\?"),
    ({"doubled": 1}, TypeError, r"`doubled` of Everything must be True or False, got 1"),
    ({"reset": "zro"}, ValueError, r"`reset` of Everything must be one of 'subtract', 'zero', 'none', got 'zro'; did you mean zero\?"),
    ({"detach_reset": 0}, TypeError, r"`detach_reset` of Everything must be True or False, got 0"),
    ({"spike": ATan}, TypeError, r"`spike` of Everything must be a surrogate such as ATan\(\)"),
    ({"spike": None}, TypeError, r"`spike` of Everything must be a surrogate"),
    ({"width": 1.0, "size": 1.0}, ValueError, r"Everything needs `width` above `size`"),
    ({"count": "many"}, TypeError, r"Everything\.step: .*"),
    ({"unknown": 1}, TypeError, r"unexpected keyword argument 'unknown'"),
]


@pytest.mark.parametrize(
    ("given", "error", "match"), WRONG, ids=[f"{place} {' '.join(given)}" for place, (given, _, _) in enumerate(WRONG)]
)
def test_wrong_values_are_refused(given, error, match):
    with pytest.raises(error, match=match):
        Everything(**{"beta": 0.9} | given)


def test_numbers_of_numpy_and_whole_numbers_are_numbers():
    for one in (1, 1.0, np.float64(1), np.float32(1), np.int64(1)):
        assert Everything(one) == Everything(1.0)
        assert type(Everything(one).beta) is float


def test_states_and_options_go_by_name():
    """So that a surrogate given by position is no state."""
    with pytest.raises(TypeError, match="positional argument"):
        Leaky(0.9, 1.0, FastSigmoid())
    with pytest.raises(TypeError, match="positional argument"):
        defined(plain, {"v": State}, v=dataclasses.field(default=1.0))(1.0)
    assert [p.name for p in inspect.signature(Everything).parameters.values() if p.kind is p.KEYWORD_ONLY] == [
        "spike", "reset", "detach_reset", "spike_at_threshold", "doubled", "v",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "given", "option"),
    [
        (AdEx, {"reset": "zero"}, "reset"),
        (LeakyIntegrator, {"beta": 0.9, "spike": FastSigmoid()}, "spike"),
        (LeakyIntegrator, {"beta": 0.9, "detach_reset": False}, "detach_reset"),
        (LeakyIntegrator, {"beta": 0.9, "spike_at_threshold": False}, "spike_at_threshold"),
        (BalancedResonateAndFire, {"detach_reset": False}, "detach_reset"),
    ],
)
def test_an_option_that_the_step_never_reads_is_refused(cls, given, option):
    with pytest.raises(ValueError, match=f"{cls.__name__} has no use for `{option}`"):
        cls(**given)


def test_conditions_between_numbers_hold_for_every_way_to_change_them():
    match = "Alpha needs `alpha` above `beta`, and both between 0 and 1"
    for wrong in (
        lambda: Alpha(0.5, 0.5),
        lambda: dataclasses.replace(Alpha(0.9, 0.5), beta=0.9),
        lambda: nn.Layer(Alpha(0.9, 0.5), values={"beta": torch.tensor([0.5, 0.95])}),
        lambda: nn.Layer(Alpha(0.9, 0.5), values={"beta": 0.95}),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()


@pytest.mark.parametrize("ends", [(1, 0), (1, 1), (math.nan, 1), (0, math.nan), (math.inf, math.inf)])
def test_a_range_with_wrong_ends_is_refused(ends):
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        Between(*ends)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_number_without_a_gradient_is_not_learned(name):
    """Whether it has one is asked of the plain loop."""
    for neuron in STRUCTURES[name]:
        values = {key: torch.tensor(value, dtype=torch.float64, requires_grad=True) for key, value in neuron.parameters.items()}
        plan = Call(neuron.record, neuron.spike.structure).plan
        given = {key: torch.ones((), dtype=torch.float64) for key in (*plan.inputs, *plan.states)}
        words = {**spikegrad.vocabulary.OPERATIONS, "fire": neuron.spike, "fire_above": neuron.spike, "quantized": lambda x: x}
        results = trace.evaluate(neuron.record.step, words, values | given)
        results += trace.evaluate(neuron.record.resting, words, values | {key: torch.zeros(()) for key in neuron.states})
        total = sum(x for x in results if isinstance(x, torch.Tensor))
        found = torch.autograd.grad(total, list(values.values()), allow_unused=True) if total.requires_grad else [None] * len(values)
        for key, gradient in zip(values, found, strict=True):
            if gradient is None:
                with pytest.raises(ValueError, match=f"`{key}` of {name} cannot be learned: nothing has a gradient with respect to it"):
                    neuron.require_learnable(key)
            else:
                neuron.require_learnable(key)


def test_a_layer_refuses_to_learn_what_has_no_gradient():
    for neuron, learn in ((RefractoryLeaky(0.9), "period"), (TwoCompartment(reset="none"), ("soma", "gamma"))):
        with pytest.raises(
            ValueError, match=f"`{learn if isinstance(learn, str) else learn[-1]}` of {type(neuron).__name__} cannot be learned"
        ):
            nn.Layer(neuron, learn=learn)
    with pytest.raises(ValueError, match="RefractoryLeaky has no number 'perod'; did you mean period"):
        RefractoryLeaky(0.9).require_learnable("perod")


# What a neuron is.


STRUCTURES = {name: structures(cls) for name, cls in CATALOGUE.items()}
"""As the definitions recorded them, before any test asks for more."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_neuron_is_a_value(name):
    for neuron in STRUCTURES[name]:
        number, value = next(iter(neuron.parameters.items()))
        other = dataclasses.replace(neuron, **{number: value * 0.99})
        assert other != neuron
        assert other.record == neuron.record
        assert other.record.key == neuron.record.key
        for same in (
            dataclasses.replace(neuron),
            copy.copy(neuron),
            copy.deepcopy(neuron),
            pickle.loads(pickle.dumps(neuron)),
            eval(repr(neuron), vars(spikegrad) | CATALOGUE),
        ):
            assert same == neuron
            assert hash(same) == hash(neuron)
            assert same.record.key == neuron.record.key
            assert repr(same) == repr(neuron)
        with pytest.raises(dataclasses.FrozenInstanceError):
            neuron.v = 1.0
        assert pickle.loads(pickle.dumps(neuron.record)) == neuron.record


def test_different_structures_are_different_records():
    keys = {name: [neuron.record.key for neuron in STRUCTURES[name]] for name in CATALOGUE}
    everyone = [key for each in keys.values() for key in each]
    assert len(set(everyone)) == len(everyone)
    assert Leaky(0.9) != LeakyIntegrator(0.9)
    assert Leaky(0.9, spike=FastSigmoid(5)) != Leaky(0.9, spike=FastSigmoid(6)) == Leaky(0.9, spike=FastSigmoid(6))


def test_repr_shows_numbers_and_what_differs():
    assert repr(Everything(0.9)) == "Everything(beta=0.9, share=0.5, width=1.0, size=0.0, angle=0.25, below=0.0, free=-3.0)"
    changed = Everything(0.9, mode="two", count=3, v=0.5, reset="zero", spike=FastSigmoid(5), doubled=True)
    assert eval(repr(changed), vars(spikegrad) | {"Everything": Everything}) == changed
    assert "spike=FastSigmoid(slope=5" in repr(changed)


def test_what_a_class_says_of_itself():
    assert Everything.states == ("v",)
    assert Everything.inputs == ("current",)
    assert list(Everything.numbers) == ["beta", "share", "width", "size", "angle", "below", "free"]
    assert Everything(0.9).parameters == {"beta": 0.9, "share": 0.5, "width": 1.0, "size": 0.0, "angle": 0.25, "below": 0.0, "free": -3.0}
    assert GatedLeaky.inputs == ("current", "conductance")
    assert Everything(0.9).record.recorded == ("u", "excess")
    assert LeakyIntegrator(0.9).record.recorded == ("u",)


def test_structure_of_every_kind_makes_records_of_its_own():
    """Bools and choices at the definition, others when they are asked for; numbers make none."""
    assert len({record.key for record, _ in Everything._records.values()}) >= 2 * 2 * 3 * 2 * 2 - 2 * 2 * 2
    some = [Everything(0.9), *(Everything(0.9, **each) for each in ({"mode": "two"}, {"count": 3}, {"label": "b"}, {"doubled": True}))]
    assert len({neuron.record.key for neuron in some}) == len(some)
    assert Everything(0.8, width=3.0, v=0.5).record.key == some[0].record.key
    assert Everything(0.9, count=0).record.key != Everything(0.9, count=1).record.key


@pytest.mark.parametrize(
    ("annotation", "one", "other"),
    [
        ("tuple[int, ...]", (1, 2), (4,)),
        ("int | None", 1, 2),
        ("Annotated[int, 'spikes']", 1, 2),
        ("tuple[float, float]", (0.5, 1.0), (0.25, 1.0)),
    ],
)
def test_structure_of_another_type(annotation, one, other):
    def step(self, current, v):
        taps = self.taps if isinstance(self.taps, tuple) else (self.taps,)
        return Step(current * sum(float(tap) for tap in taps), v=v)

    user = defined(step, {"v": State, "taps": annotation}, taps=one)
    assert user().record.key == user(taps=one).record.key != user(taps=other).record.key


def test_structure_without_a_default_is_recorded_when_it_is_given():
    user = defined(
        lambda self, current, v: Step(current * self.times if self.times < 3 else torch.relu(v), v=v), {"v": State, "times": int}
    )
    assert user(1).record.key != user(2).record.key
    with pytest.raises(TypeError, match=r"User\.step: `torch\.relu` is outside"):
        user(3)


def test_several_inputs_and_outputs():
    def step(self, excitation, inhibition, v):
        u = self.beta * v + excitation - inhibition
        s = self.fire(u - 1.0)
        return Step(s, u, v=u - s)

    user = defined(step)
    assert user.inputs == ("excitation", "inhibition")
    (spikes, u), v, excess = nn.Layer(user(0.5), backend="reference")((torch.full((2, 1), 1.5), torch.full((2, 1), 0.25)), record="excess")
    assert spikes.ravel().tolist() == [1.0, 1.0]
    assert u.ravel().tolist() == [1.25, 1.375]
    assert excess.ravel().tolist() == [0.25, 0.375]
    assert v.item() == 0.375


def test_subclasses_inherit_override_and_add():
    class Slow(Leaky):
        beta: Decay = 0.99

    class Zero(Leaky, reset="zero"):
        pass

    class Traced(Zero, spike=FastSigmoid(10)):
        decay: Decay = 0.5
        mean: State = 0.125

        def step(self, current, v, mean):
            made = super().step(current, v)
            mean = self.decay * mean + made.outputs[0]
            return Step(*made.outputs, v=made.named["v"], u=made.named["u"], mean=mean)

    class Quiet(Traced):
        def step(self, current, v, mean):
            return Step(current * 0, v=v, mean=self.decay * mean)

    assert Slow() == Slow(0.99)
    assert Slow().record == Leaky(0.9).record
    assert Slow(0.5, 2.0).threshold == 2.0
    assert Zero(0.9).reset == "zero"
    assert Zero(0.9).record == Leaky(0.9, reset="zero").record
    assert (Traced(0.9).reset, Traced(0.9).spike) == ("zero", FastSigmoid(10))
    assert Traced.states == ("v", "mean")
    assert Traced(0.9, 1.0, 0.25).decay == 0.25
    assert Traced(0.9, reset="none").record != Traced(0.9).record
    assert set(Quiet.numbers) == {"beta", "threshold", "decay"}
    with pytest.raises(ValueError, match="Quiet has no use for `reset`"):
        Quiet(0.9, reset="none")
    with pytest.raises(TypeError, match="does not take the state `mean`"):
        type(Neuron)("User", (Traced,), {"step": lambda self, current, v: Step(v, v=v), "__module__": __name__})


def test_an_option_never_becomes_the_first_argument():
    class Zero(Neuron, reset="zero"):
        beta: Decay
        v: State = 0.0
        step = fires

    assert Zero(0.5) == Zero(beta=0.5)
    assert (Zero(0.5).reset, Zero(0.5, reset="subtract").reset) == ("zero", "subtract")


NOTEBOOK = """
from spikegrad import Neuron, Decay, State, Step
class Mine(Neuron):
    beta: Decay = 0.5
    v: State = 0.0
    def step(self, current, v):
        u = self.beta * v + {times} * current
        s = self.fire(u - 1)
        return Step(s, v=self.after_spike(u, s, 1.0), u=u)
"""


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_a_class_that_is_defined_again_has_new_records(future):
    cell: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for times in (1, 2, 1):
        exec(future + NOTEBOOK.format(times=times), cell)
        neuron = cell["Mine"]()
        spikes, _ = nn.Layer(neuron, backend="reference")(torch.full((1, 1), 0.75))
        found.append((neuron.record.key, spikes.item()))
    assert found[0] == found[2]
    assert found[0][0] != found[1][0]
    assert (found[0][1], found[1][1]) == (0.0, 1.0)


def test_a_class_may_be_defined_in_a_function():
    """Where annotations are text, and the names of ranges need not be imported."""
    namespace: dict[str, Any] = {}
    source = """
from __future__ import annotations
def make(factor):
    from spikegrad import Neuron, State, Step, Decay, Between
    from typing import Annotated
    class Local(Neuron):
        beta: Decay
        gain: Annotated[float, Between(0, 4)] = 1.0
        v: State = 0.0
        def step(self, current, v):
            u = self.beta * v + factor * self.gain * current
            return Step(self.fire(u - 1), v=u)
    return Local
"""
    exec(source, namespace)
    one, other = namespace["make"](1.0), namespace["make"](2.0)
    assert one(0.5).record.key != other(0.5).record.key
    assert one.numbers["gain"] == Between(0, 4)


PRINT_KEYS = """
from spikegrad.neurons import CATALOGUE
from spikegrad.kernels.plan import Call
from spikegrad import ATan, trace
for name, cls in CATALOGUE.items():
    for structure in sorted(cls._records, key=repr):
        record = cls._records[structure][0]
        call = Call(record, ATan().structure, record.recorded)
        passes = call.plan.passes(frozenset(call.plan.parameters))
        print(name, record.key, call.key, trace.digest(passes))
"""


def test_records_and_passes_are_the_same_in_every_process():
    runs = [
        subprocess.run([sys.executable, "-c", PRINT_KEYS], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    here = {neuron.record.key for name in CATALOGUE for neuron in STRUCTURES[name]}
    there = {line.split()[1] for line in runs[0].splitlines()}
    assert there <= here


def test_a_profiler_changes_nothing_but_names():
    before = defined(fires)(0.5).record
    profile = sys.getprofile()
    sys.setprofile(lambda *_: None)
    try:
        after = defined(fires)(0.5).record
    finally:
        sys.setprofile(profile)
    assert after == before
    assert after.key == before.key


def test_a_step_may_not_touch_what_it_is_given():
    """It records itself on symbols, so that ``v += current`` makes a new one."""

    def step(self, current, v):
        before = v
        v += current
        v *= self.beta
        return Step(before, v=v)

    state = torch.ones(1)
    before, after = nn.Layer(defined(step)(0.5), backend="reference")(torch.ones(1, 1), state)
    assert (before.item(), after.item(), state.item()) == (1.0, 1.0, 1.0)


# Ranges, and what a number is learned in.


@pytest.mark.parametrize(
    ("within", "name", "values"),
    [
        (Between(0, 1), "logit", [0.001, 0.5, 0.9]),
        (Between(-1, 3), "logit", [-0.9, 0.0, 2.5]),
        (Between(0), "log", [1e-3, 1.0, 50.0]),
        (Between(2), "log", [2.001, 5.0]),
        (Between(high=0), "log", [-3.0, -1e-3]),
        (Between(high=5), "log", [-3.0, 4.5]),
        (Between(), "value", [-3.0, 0.0, 7.0]),
    ],
)
def test_coordinates_of_ranges(within, name, values):
    """Any real number is a value inside of the range, and each value has one."""
    assert within.coordinate == name
    values = torch.tensor(values, dtype=torch.float64)
    assert torch.allclose(number(coordinate(values, within), within), values, rtol=1e-13)
    everywhere = number(torch.linspace(-30, 30, 101, dtype=torch.float64), within)
    assert within.holds(everywhere).all()
    assert (everywhere.diff() != 0).any()
    assert not within.inside(torch.tensor([x for x in (within.low, within.high) if math.isfinite(x)])).any()


def test_signs_and_words_of_ranges():
    ranges = [Between(), Between(0), Between(0, above=True), Between(1, 2), Between(high=3), Between(-1, 1)]
    assert [each.sign for each in ranges] == [-1, 0, 1, 1, -1, -1]
    assert [each.words for each in ranges] == ["a number", "at least 0", "at least 0", "between 1 and 2", "at most 3", "between -1 and 1"]
    assert [bool(Between(0, 1).holds(x)) for x in (-1e-9, 0.0, 1.0, 1.1, math.nan)] == [False, True, True, False, False]
    assert not Between(0, above=True).holds(0.0)
    assert np.array_equal(Between(0).holds(np.array([-1.0, 0.0, math.inf])), [False, True, False])
    assert Between(infinite=True).holds(math.inf)


def test_decay_of_a_time_constant():
    assert spikegrad.decay(20) == math.exp(-1 / 20)
    assert spikegrad.decay(tau=5, dt=0.5) == math.exp(-0.1)
    assert Leaky(spikegrad.decay(tau=20)).beta == math.exp(-0.05)
    for wrong in ({"tau": 0}, {"tau": -1}, {"tau": math.inf}, {"tau": math.nan}, {"tau": 1, "dt": 0}, {"tau": 1, "dt": math.nan}):
        with pytest.raises(ValueError, match=f"`{'dt' if 'dt' in wrong else 'tau'}` must be positive and finite"):
            spikegrad.decay(**wrong)


# What is printed.

PYTHON = {
    **{name: getattr(np, name) for name in ("exp", "log", "sqrt", "sin", "cos", "tanh", "arctan", "floor")},
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "erf": math.erf,
    "real": float,
    "inf": math.inf,
    "np": np,
}
"""What the words of a print for Numba mean to Python."""

TRITON = {
    "tl": types.SimpleNamespace(
        **{name: getattr(np, name) for name in ("abs", "exp", "log", "sqrt", "sin", "cos", "floor", "where")},
        sigmoid=PYTHON["sigmoid"],
        erf=math.erf,
        minimum=lambda a, b, propagate_nan: np.minimum(a, b),
        maximum=lambda a, b, propagate_nan: np.maximum(a, b),
        PropagateNan=types.SimpleNamespace(ALL="all"),
    )
}
"""The same for Triton."""


class Printed:
    """The functions of a neuron's source, run as Python, and what each was given and returned."""

    def __init__(self, neuron: Any, dialect: str) -> None:
        self.name = type(neuron).__name__
        self.text = "\n".join(neuron.source(dialect, of) for of in ("forward", "backward"))
        self.scope = dict(PYTHON if dialect == "numba" else TRITON)
        exec(self.text, self.scope)
        once = "\n".join(dict.fromkeys(self.text.split("\n\n")))  # both passes print what they share
        returned = re.findall(r"def (\w+)\(.*\):\n    # returns (.*)\n", once)
        self.returned = {name: names.split(", ") for name, names in returned}
        assert len(self.returned) == len(returned)
        # A name that means something to the language has an underscore behind it.
        self.written = {name: [*inspect.signature(self.scope[name]).parameters] for name in self.returned}
        self.calls: list[tuple[str, list[float], list[float]]] = []

    def __contains__(self, part: str) -> bool:
        return f"{self.name}_{part}" in self.scope

    def __call__(self, part: str, given: Mapping[str, float], without: int = 0) -> dict[str, float]:
        """The results by the names that the source gives them, without the last few."""
        name = f"{self.name}_{part}"
        arguments = [given[each] if each in given else given[each.removesuffix("_")] for each in self.written[name]]
        made = self.scope[name](*arguments)
        values = [float(x) for x in (made if isinstance(made, tuple) else (made,))]
        self.calls.append((name, arguments, values))
        names = self.returned[name]
        assert len(names) == len(values)
        return dict(zip(names[: len(names) - without], values, strict=False))


class Driven(NamedTuple):
    """A few steps of one neuron, by which it spikes: what it is given, and what both passes give as they are interpreted on arrays."""

    inputs: list[np.ndarray]
    state: list[np.ndarray]
    bars: list[np.ndarray]
    expected: interpret.Result


@functools.cache
def driven(neuron: Any) -> Driven:
    call, random = Call(neuron.record, neuron.spike.structure), np.random.default_rng(3)
    plan, steps = call.plan, 5
    drawn = [random.normal(0.5, 0.75, (steps, 1)) for _ in plan.inputs]
    rest = plan.rested(neuron.parameters | {name: getattr(neuron, name) for name in neuron.states}, np.zeros(1))
    state = [rest[name] + random.uniform(0, 0.05, 1) for name in plan.states]
    bars = [*random.normal(size=(plan.outputs, steps, 1)), *random.normal(size=(len(plan.states), 1))]
    words = interpret.words(neuron.spike)
    fixed = {name: np.asarray(value) for name, value in plan.computed(neuron.parameters, drawn[0]).items()}
    for strength in 2.0 ** np.arange(-2, 10):
        inputs = [x * strength for x in drawn]
        expected = interpret.run(call, words, inputs, state, fixed, bars)
        if expected.outputs[0].any():
            break
    return Driven(inputs, state, bars, expected)


@functools.cache
def run_as_printed(neuron: Any, dialect: str) -> tuple[Printed, interpret.Result, list[float]]:
    """Both passes as printed, and as interpreted."""
    plan, printed = Call(neuron.record, neuron.spike.structure).plan, Printed(neuron, dialect)
    inputs, state, bars, expected = driven(neuron)
    steps = len(inputs[0])
    parameters = printed("constants", neuron.parameters) if "constants" in printed else neuron.parameters
    given = parameters | {f"spike_{name}": value for name, value in neuron.spike.parameters.items()}
    now, kept, found = dict(zip(plan.states, map(float, np.ravel(state)), strict=True)), [], []
    start = now
    for t in range(steps):
        arriving = dict(zip(plan.inputs, (float(x[t, 0]) for x in inputs), strict=True))
        kept.append(arriving | (printed("kept", given | now | arriving, len(plan.states)) if "kept" in printed else now))
        after = printed("forward", given | now | arriving)
        found += [value for name, value in after.items() if name.startswith("output")]
        now = {name: after[name] for name in plan.states}
    back = {f"bar_{name}": float(x[0]) for name, x in zip(plan.states, bars[plan.outputs :], strict=True)}
    found += now.values()
    for t in reversed(range(steps)):
        before = start if t == 0 else printed("restored", given | kept[t - 1]) if "restored" in printed else {}
        arriving = {f"bar_{place}": float(bars[place][t, 0]) for place in range(plan.outputs)}
        gradients = printed("backward", given | before | kept[t] | arriving | back)
        gradients = {name.removeprefix("the gradient of "): value for name, value in gradients.items()}
        found += [gradients.get(name, 0.0) for name in plan.inputs]
        back = {f"bar_{name}": gradients.get(name, 0.0) for name in plan.states}
    return printed, expected, [*found, *back.values()]


def require_as_interpreted(expected: interpret.Result, found: list[float], call: Any) -> None:
    plan = call.plan
    wanted = [*np.stack(expected.outputs, 1).ravel(), *np.ravel(expected.state)]
    wanted += [expected.gradients[name][t, 0] for t in reversed(range(5)) for name in plan.inputs]
    wanted += [expected.gradients[name][0] for name in plan.states]
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11 * np.abs(wanted).max())


@pytest.mark.parametrize("dialect", ["numba", "triton"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_source_runs_and_gives_what_is_interpreted(name, dialect):
    for neuron in STRUCTURES[name]:
        _, expected, found = run_as_printed(neuron, dialect)
        require_as_interpreted(expected, found, Call(neuron.record, neuron.spike.structure))


def javascript(script: str) -> Any:
    """What a script leaves in `results`."""
    if (node := shutil.which("node")) is not None:
        script += "\nprocess.stdout.write(JSON.stringify(results));\n"
        return json.loads(subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=True).stdout)
    racer = pytest.importorskip("py_mini_racer", reason="there is no engine for JavaScript")
    return json.loads(racer.MiniRacer().eval(f"{script}\nJSON.stringify(results)"))


@pytest.mark.parametrize("name", CATALOGUE)
def test_source_in_javascript_gives_the_same(name):
    script, wanted = ["const results = [];"], []
    for neuron in STRUCTURES[name]:
        printed, _, _ = run_as_printed(neuron, "numba")
        calls = [f"results.push([{name}({', '.join(map(repr, map(float, arguments)))})].flat());" for name, arguments, _ in printed.calls]
        script += ["{", *(neuron.source("javascript", of) for of in ("forward", "backward")), *calls, "}"]
        wanted += [values for _, _, values in printed.calls]
    for got, want in zip(javascript("\n".join(script)), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * max(np.abs(want)))


@pytest.mark.parametrize("dialect", ["numba", "triton", "javascript"])
@pytest.mark.parametrize("name", ["exp", "abs", "real", "inf", "np", "tl", "Math", "constant", "output", "kept"])
def test_a_number_may_be_called_like_a_word_of_the_print(name, dialect):
    def step(self, current, v):
        u = exp(-abs(getattr(self, name) * v)) + current
        return Step(self.fire(u - 1.0), v=self.hold(u) * exp(getattr(self, name)))

    neuron = defined(step, {"v": State, name: float}, **{name: 0.5})()
    printed, expected, found = run_as_printed(neuron, "numba" if dialect == "javascript" else dialect)
    if dialect != "javascript":
        require_as_interpreted(expected, found, Call(neuron.record, neuron.spike.structure))
        return
    script = ["const results = [];", *(neuron.source("javascript", of) for of in ("forward", "backward"))]
    script += [f"results.push([{called}({', '.join(map(repr, map(float, arguments)))})].flat());" for called, arguments, _ in printed.calls]
    for got, (_, _, want) in zip(javascript("\n".join(script)), printed.calls, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_local_names_are_kept_and_never_clash():
    def step(self, current, v):
        current = (1 - self.beta) * current
        real = self.beta * v + current
        inf = exp(-abs(real))
        s = self.fire(real - inf)
        lambda_ = real - s
        return Step(s, v=lambda_ * inf, u=real)

    neuron = defined(step)(0.5)
    assert re.search(r"lambda_ = ", neuron.source("numba"))
    for dialect in ("numba", "triton"):
        _, expected, found = run_as_printed(neuron, dialect)
        require_as_interpreted(expected, found, Call(neuron.record, neuron.spike.structure))


def test_source_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="unknown dialect 'cuda'; there are javascript, numba, triton"):
        Leaky(0.9).source("cuda")
    with pytest.raises(ValueError, match="`of` must be 'forward' or 'backward', got 'sideways'"):
        Leaky(0.9).source("numba", "sideways")
    arctan = defined(lambda self, current, v: Step(self.fire(spikegrad.vocabulary.arctan(v) - 1), v=v + current), {"v": State})()
    with pytest.raises(ValueError, match="triton cannot write User_forward: there is no word for arctan"):
        arctan.source("triton")


def test_every_operation_has_a_meaning_and_a_word():
    """In the plain loop and in the kernels; other languages say what they lack."""
    words = {*spikegrad.vocabulary.OPERATIONS, "fire", "fire_above", "quantized"}
    assert words >= {*OPERATIONS}
    for operation, kinds in OPERATIONS.items():
        arguments = [trace.argument(name) if kind == "n" else trace.argument(name) > 0 for name, kind in zip("xyz", kinds, strict=False)]
        program = trace.flatten([trace.Symbol(operation, *arguments)])
        assert "def f(" in spikegrad.printing.function(program, ["x", "y", "z"], "f", "numba")
