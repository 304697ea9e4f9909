"""What researchers write that nobody thought of: constants of NumPy, powers of numbers, lists, conditions between numbers."""

from __future__ import annotations

import operator
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from spikegrad import ATan, Neuron, State, Step, Surrogate, neurons, nn, trace
from spikegrad.jax import run
from spikegrad.trace import argument, flatten
from spikegrad.vocabulary import OPERATIONS, where

V = argument("v")
OPERATORS = ("add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne")


POINTS = np.array([0.5, 3.0, 4.0])


def values(made: Any) -> Any:
    return trace.evaluate(flatten([made]), OPERATIONS, {"v": POINTS})[0]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_numbers_of_numpy_stand_on_either_side(name, kind):
    """As in ``np.sqrt(2) * v``, which used to be NumPy's product."""
    apply = getattr(operator, name)
    np.testing.assert_allclose(values(apply(kind(3), V)), apply(3.0, POINTS))
    np.testing.assert_allclose(values(apply(V, kind(3))), apply(POINTS, 3.0))


@pytest.mark.parametrize("apply", [operator.mul, operator.lt, operator.pow])
def test_arrays_of_numpy_do_not(apply):
    with pytest.raises(TypeError, match="combine its input with numbers and its own parameters, not with ndarray"):
        apply(np.ones(3), V)
    with pytest.raises(TypeError, match=r"`numpy\.multiply` is outside the vocabulary"):
        np.multiply.outer(np.float64(2), V)


@pytest.mark.parametrize("base", [0, -2.0, np.float64(-2)])
def test_a_power_of_a_number_that_is_not_positive(base):
    with pytest.raises(TypeError, match="a power of a number needs one that is positive, got"):
        base**V


def test_functions_of_jax_are_refused_as_others_are():
    with pytest.raises(TypeError, match=r"^Wrong\.step: "):

        class Wrong(Neuron):
            v: State = 0.0

            def step(self, current, v):
                return Step(jnp.tanh(current), v=v)


class Scaled(Surrogate):
    """Constants of NumPy, of which one product is a float64."""

    slope: float = 2.0

    def derivative(self, x):
        return np.sqrt(2) / (1 + (np.sqrt(3) * self.slope * x) ** 2)

    def primitive(self, x):
        return np.sqrt(2) * x


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_constants_of_numpy_make_no_other_dtype(dtype):
    x = np.linspace(-1, 1, 5, dtype=dtype)
    for method in (Scaled().derivative, Scaled(slope=1.0, scale=2.0).derivative, Scaled().primitive):
        assert method(x).dtype == dtype
        assert method(torch.from_numpy(x)).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("base", [Neuron, Surrogate])
def test_structure_without_a_hash_is_named(base):
    class Listed(base):
        taps: Any = ()
        if base is Neuron:
            v: State = 0.0

            def step(self, current, v):
                u = sum(tap * current for tap in self.taps) + v
                return Step(self.fire(u), v=u)

        else:

            def derivative(self, x):
                return sum(tap / (1 + x * x) for tap in self.taps) + 0 * x

    with pytest.raises(TypeError, match=r"Listed: a field that is no number is structure, .* unhashable type: 'list'; give a tuple"):
        _ = getattr(Listed([1.0, 2.0]), "record" if base is Neuron else "structure")
    assert getattr(Listed((1.0, 2.0)), "record" if base is Neuron else "structure")


@pytest.mark.parametrize("returned", [None, True, 1.0])
def test_valid_returns_conditions(returned):
    class Wrong(Neuron):
        v: State = 0.0

        def valid(self):
            return returned

        def step(self, current, v):
            return Step(self.fire(v + current), v=v)

    with pytest.raises(TypeError, match=r"Wrong\.valid must return conditions, by what they ask for, got"):
        Wrong()


class Choosing(Neuron):
    a: float = 0.5
    b: float = 2.0
    c: float = 1.0

    v: State = 0.0

    def resting(self):
        return {"v": where((self.a > 0) & ~(self.b < 0), self.c, self.b)}

    def step(self, current, v):
        gain = where(self.a > 0, self.b, self.c) + where((self.b > 1) & (self.a == 0.5) | (self.c != 1), self.c, 3 * self.a)
        u = 0.5 * v + gain * current
        s = self.fire(u - 3)
        return Step(s, v=u - s)


@pytest.mark.parametrize("given", ["a", "bc"])
def test_conditions_between_numbers_of_which_some_are_tensors(given):
    """Where a number decides, it used to be made a float beside a tensor."""
    neuron, x = Choosing(), torch.linspace(-1, 2, 24).reshape(6, 2, 2)
    wanted = nn.Layer(neuron, backend="reference")(x)
    values = {name: torch.full((2,), getattr(neuron, name)) for name in given}
    for layer in (nn.Layer(neuron, values=values, backend="reference"), nn.Layer(neuron, learn=tuple(given), backend="reference")):
        for ours, theirs in zip(layer(x), wanted, strict=True):
            assert torch.equal(ours, theirs)
    arrays = {name: jnp.asarray(value.numpy()) for name, value in values.items()}
    for ours, theirs in zip(run(neuron, jnp.asarray(x.numpy()), values=arrays, backend="reference"), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_number_of_a_layer_is_not_set():
    """It was shown, and did nothing, or took the place of what learns."""
    layer = nn.Layer(neurons.Adaptive(0.9), learn="rho", values={"jump": torch.full((3,), 0.2)})
    for name, what in (
        ("beta", r"layer\.neuron = dataclasses\.replace\(layer\.neuron, beta="),
        ("rho", "`rho_logit`"),
        ("jump", "`jump_fixed`"),
    ):
        with pytest.raises(AttributeError, match=f"`{name}` of a layer only says what the number is now; .*{what}"):
            setattr(layer, name, 0.5)
    assert layer.beta == 0.9
    layer.gamma = 0.5  # which is no number of its neuron


@pytest.mark.parametrize("features", [3.0, True, "3", None, 0])
def test_features_are_a_whole_number(features):
    with pytest.raises(ValueError, match="needs `features`, the number of its neurons, at least 1, got"):
        nn.RecurrentLeaky(features, 0.9)


def test_what_is_learned_is_named():
    with pytest.raises(TypeError, match=r"what is learned is said by name, as in learn=\('beta', 'spike.slope'\), got True"):
        nn.Leaky(0.9, learn=True)


def test_a_surrogate_is_an_option_without_assertions_too():
    """``python -O`` drops them; one of them was what read the surrogate."""
    line = "from spikegrad import ATan; from spikegrad.neurons import Leaky; print(Leaky(0.9, spike=ATan(3.0)).spike)"
    assert subprocess.run([sys.executable, "-O", "-c", line], capture_output=True, text=True, check=True).stdout.strip() == repr(ATan(3.0))
