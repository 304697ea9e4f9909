"""Formulas of one's own: checked, made from functions, called as functions; and the papers behind those of the catalogues."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import spikegrad
from spikegrad import (
    CATALOGUE,
    ATan,
    Decay,
    NoisyThreshold,
    Positive,
    State,
    Surrogate,
    agreement,
    derive,
    functional,
    neurons,
)
from spikegrad.citation import bibliography, references
from spikegrad.kernels import torch as kernels
from spikegrad.neuron import Neuron, Step
from spikegrad.training.named import built
from spikegrad.vocabulary import arctan, exp, maximum, minimum, tanh, where


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_passes_its_own_check(name):
    assert spikegrad.check(CATALOGUE[name]) == spikegrad.facts.of(CATALOGUE[name]())


def test_everything_wrong_is_listed():
    class Wrong(Surrogate):
        """A curve with a primitive twice too steep.

        Facts:
            peak: 2
            area: 1
        """

        def derivative(self, x):
            return exp(-abs(x)) / 2

        def primitive(self, x):
            return where(x < 0, exp(-abs(x)), 1 - exp(-abs(x)))

    with pytest.raises(ValueError, match="Wrong") as error:
        spikegrad.check(Wrong)
    assert "not an antiderivative: between" in str(error.value)
    assert "the peak is stated to be 2.0, the curve's is 0.5" in str(error.value)
    assert "area" not in str(error.value)


def test_a_primitive_that_is_off_by_a_little_is_found():
    def off(factor):
        return spikegrad.from_formula(lambda x: 1 / (1 + x**2), primitive=lambda x: factor * arctan(x))

    spikegrad.check(off(1.0))
    with pytest.raises(ValueError, match="antiderivative"):
        spikegrad.check(off(1.001))


def test_an_overflow_is_found():
    with pytest.raises(ValueError, match=r"derivative in float32 is not finite at \d+ of 5605 potentials, x = -4\d"):
        spikegrad.check(spikegrad.from_formula(lambda x: exp(-2 * x) / (1 + exp(-2 * x)) ** 2))


def test_only_surrogates_and_neurons_are_checked():
    with pytest.raises(TypeError, match="takes a surrogate or a neuron, got float"):
        spikegrad.check(1.0)


class Paired(Neuron):
    """Two inputs, two outputs, numbers without defaults, and most of the words."""

    beta: Decay
    gain: Positive
    threshold: Positive = 1.0

    v: State = 0.0
    m: State = 0.5

    def step(self, current, gate, v, m):
        u = self.quantized(self.beta * v + current * tanh(gate))
        s = self.fire(u - self.threshold - maximum(m, 0.0))
        m = minimum(0.9 * m + self.gain * abs(u) / (1 + self.hold(m) ** 2), 4.0)
        return Step(s, where(u > 0, u, 0.5 * u), v=self.after_spike(u, s, self.threshold), m=m, u=u)


@pytest.fixture
def installed(monkeypatch):
    """Only these packages, as far as a check of a neuron can see."""
    return lambda *names: monkeypatch.setattr(agreement, "find_spec", lambda name: name in names or None)


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_derivatives_of_every_neuron_are_those_of_its_soft_network(name, installed):
    installed()
    found = spikegrad.check(built(neurons.CATALOGUE[name], {}))
    assert found.backends == ()
    assert set(found.skipped) == {"PyTorch", "PyTorch kernels", "JAX", "JAX kernels"}
    assert found.error < 1e-6
    assert 0.1 <= found.rate <= 0.5 or name == "LeakyIntegrator"


class Unnumbered(Neuron):
    """A step of literals alone."""

    v: State = 0.0

    def step(self, current, v):
        u = 0.5 * v + current
        s = self.fire(u - 1)
        return Step(s, v=self.after_spike(u, s, 1.0))


def test_a_neuron_without_numbers_is_compared(installed):
    installed("torch", "numba")
    assert spikegrad.check(Unnumbered()).backends == ("PyTorch", "PyTorch kernels")


def compared(neuron):
    """What is found of a neuron that is in order."""
    found = spikegrad.check(neuron)
    assert found.backends == ("PyTorch", "PyTorch kernels", "JAX", "JAX kernels")
    assert found.skipped == {}
    assert found.error < 1e-6
    return found


@pytest.mark.parametrize("neuron", [Paired(0.75, gain=0.5), neurons.IntegerLeaky(), neurons.AdEx()], ids=lambda n: type(n).__name__)
def test_a_neuron_is_compared_on_every_backend(neuron):
    assert 0.1 <= compared(neuron).rate <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_every_neuron_passes_its_check(name):
    compared(built(neurons.CATALOGUE[name], {}))


def test_a_wrong_derivative_is_found(installed, monkeypatch):
    installed()
    monkeypatch.setitem(derive._RULES, "tanh", lambda g, n, a: (g * (1.001 - n * n),))
    with pytest.raises(ValueError, match=r"Paired\(beta=0.75, gain=0.5") as error:
        spikegrad.check(Paired(0.75, gain=0.5))
    lines = str(error.value).splitlines()
    assert "the derivative by gate is" in lines[1]
    assert "finite differences of the soft network give" in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda v: v.nextafter(v + 1), r"PyTorch kernels: the v is not that of the plain loop at \d+ of \d+ places, off by up to 5.96e-08"),
        (lambda v: v + 0.01 * (v - v.detach()), r"PyTorch kernels: the gradient of beta is not that of the plain loop at 1 of 1 places"),
        (lambda v: v.double(), r"PyTorch kernels: the v is float64, in the plain loop float32"),
    ],
)
def test_a_kernel_that_computes_something_else_is_found(installed, monkeypatch, tamper, message):
    def tampered(*arguments):
        spikes, v = run(*arguments)
        return spikes, tamper(v)

    installed("torch", "numba")
    run = kernels.run
    monkeypatch.setattr(kernels, "run", tampered)
    with pytest.raises(ValueError, match=message):
        spikegrad.check(neurons.Leaky(0.9))


def test_what_cannot_be_compared_is_said(installed):
    installed("torch", "numba")
    found = spikegrad.check(neurons.Leaky(0.9, spike=NoisyThreshold()))
    assert found.backends == ("PyTorch",)
    assert found.skipped["PyTorch kernels"] == found.skipped["finite differences"] == "NoisyThreshold draws noise"
    installed()
    assert spikegrad.check(neurons.IntegrateAndFire).backends == ()
    bare = spikegrad.from_formula(lambda x: 1 / (1 + x**2))
    assert spikegrad.check(neurons.IntegrateAndFire(spike=bare)).skipped["finite differences"] == "Formula has no primitive"


def lorentz(**parameters):
    return spikegrad.from_formula(
        derivative=lambda x, slope, height: height / (1 + (slope * x) ** 2),
        primitive=lambda x, slope, height: height / slope * arctan(slope * x) + 1 / 2,
        **parameters,
    )


def test_from_formula_is_a_value():
    spike = lorentz(slope=2.0, height=0.5)
    assert spike == lorentz(slope=2.0, height=0.5) != lorentz(slope=3.0, height=0.5)
    assert hash(spike) == hash(lorentz(slope=2.0, height=0.5))
    assert repr(spike) == "Formula(slope=2.0, height=0.5)"
    assert spike.parameters == {"slope": 2.0, "height": 0.5, "scale": 1.0}
    for other in (copy.copy(spike), copy.deepcopy(spike), pickle.loads(pickle.dumps(spike))):
        assert other == spike
        assert type(other) is type(spike)
    assert dataclasses.replace(spike, slope=3.0) == lorentz(slope=3.0, height=0.5)
    assert lorentz(slope=1.0, height=1.0, scale=2.0).peak == 2
    assert spike.matched_to(ATan()).half_width == pytest.approx(ATan().half_width)


def test_from_formula_pickles_into_a_new_process(tmp_path):
    (tmp_path / "spike").write_bytes(pickle.dumps(lorentz(slope=2.0, height=0.5)))
    program = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).derivative(0.5))"
    printed = subprocess.run([sys.executable, "-c", program, tmp_path / "spike"], capture_output=True, text=True, check=True).stdout
    assert float(printed) == 0.25


def test_from_formula_tells_formulas_apart_that_python_calls_equal():
    """In a record the integer 0 is an earlier result and 0.0 a number."""
    squared, nothing = spikegrad.from_formula(lambda x: square(exp(x))), spikegrad.from_formula(lambda x: exp(x) * 0.0)
    assert type(squared) is not type(nothing)
    assert (squared.derivative(0.5), nothing.derivative(0.5)) == (pytest.approx(np.e), 0)


def square(value):
    return value * value


def test_from_formula_runs_on_every_library():
    spike, x = lorentz(slope=2.0, height=1.0), np.array([-0.5, 0.25, 1.0])
    expected = 1 / (1 + (2 * x) ** 2)
    np.testing.assert_allclose(spike.derivative(x), expected)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.vmap(jax.grad(jax.jit(spike)))(jnp.asarray(x)), expected)
    for step in (spike, torch.compile(spike, fullgraph=True, backend="aot_eager")):
        given = torch.tensor(x, requires_grad=True)
        step(given).sum().backward()
        np.testing.assert_allclose(given.grad, expected)
    slope = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    spike(torch.tensor(x), slope=slope).sum().backward()
    assert slope.grad != 0
    assert "Formula_derivative" in spike.source("triton")


def test_from_formula_keeps_every_operation():
    spike = spikegrad.from_formula(lambda x, width: where((abs(x) < width) & ~(x == 0) | (x != x), x * 0 + 2, -x + 0.0), width=1.0)
    np.testing.assert_array_equal(spike.derivative(np.array([-3.0, 0.0, 0.5])), [3, 0, 2])


def test_from_formula_says_what_is_missing():
    with pytest.raises(TypeError, match=r"takes 'slope'.*from_formula\(\.\.\., slope=2\.0\)"):
        spikegrad.from_formula(lambda x, slope: slope * x)
    with pytest.raises(TypeError, match="`derivative` of from_formula: a formula cannot branch"):
        spikegrad.from_formula(lambda x: 1.0 if x > 0 else 0.0)
    with pytest.raises(ValueError, match="`slope` of Formula must be positive"):
        lorentz(slope=-1.0, height=1.0)


@pytest.mark.parametrize("name", functional.__all__)
def test_functional_forms_are_the_classes(name):
    function = getattr(functional, name)
    cls = next(c for n, c in CATALOGUE.items() if n.lower() == name.replace("_", ""))
    assert function.__name__ == name
    assert inspect.cleandoc(cls.__doc__) in function.__doc__
    fields = [f.name for f in dataclasses.fields(cls) if f.name != "scale"]
    assert list(inspect.signature(function).parameters)[: 1 + len(fields)] == ["x", *fields]
    x = torch.linspace(-1, 1, 8, requires_grad=True)
    torch.testing.assert_close(function(x, scale=2.0), cls(scale=2.0)(x))
    gradients = [torch.autograd.grad(f(x).sum(), x, allow_unused=True)[0] for f in (function, cls())]
    torch.testing.assert_close(*gradients)


def test_functional_forms_take_arrays_for_numbers():
    slope = torch.tensor(3.0, requires_grad=True)
    functional.atan(torch.tensor([0.2]), slope).sum().backward()
    assert slope.grad > 0
    assert functional.log_tailed_relu(1.0) == functional.logtailedrelu(1.0) == 1.0
    assert {"fast_sigmoid", "s2nn", "log_tailed_relu"} <= set(dir(functional))


def test_functional_refuses_what_it_has_not():
    with pytest.raises(AttributeError, match="has no attribute 'tanh'; it has atan, boxcar"):
        _ = functional.tanh
    with pytest.raises(TypeError, match="slop"):
        functional.atan(1.0, slop=2.0)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_surrogate_is_documented_in_full(name):
    cls = CATALOGUE[name]
    text = inspect.cleandoc(cls.__doc__)
    assert ".. math::" in text
    assert "Example:\n    >>>" in text
    assert spikegrad.facts.section(cls, "Elsewhere")
    assert references(cls)
    for key in references(cls):
        assert f"{{{key}," in cls.cite()


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_every_neuron_is_cited(name):
    cls = neurons.CATALOGUE[name]
    assert references(cls)
    assert built(cls, {}).cite() == spikegrad.cite(cls)
    assert [entry.split("{")[1].split(",")[0] for entry in cls.cite().split("\n\n")] == references(cls)


def test_papers_are_cited_once_and_all_are_used():
    citing = (*CATALOGUE.values(), *neurons.CATALOGUE.values())
    text = spikegrad.cite(*citing)
    assert {key for cls in citing for key in references(cls)} == set(bibliography())
    assert text.count("@") == len(bibliography())
    assert spikegrad.cite(ATan()) == ATan.cite()
    for entry in bibliography().values():
        assert entry.count("{") == entry.count("}")
        assert all(f"  {field} = {{" in entry for field in ("author", "title", "year"))


def test_an_unknown_reference_is_an_error():
    class Unsourced(Surrogate):
        """A line.

        References: nobody1900nothing
        """

        def derivative(self, x):
            return 1 / (1 + abs(x))

    with pytest.raises(KeyError, match="Unsourced refers to 'nobody1900nothing'"):
        spikegrad.cite(Unsourced)


def test_importing_loads_no_framework():
    program = "import sys, spikegrad; print(*{'torch', 'jax', 'numba', 'matplotlib', 'scipy', 'triton'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == ""
