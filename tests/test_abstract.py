"""Classes of surrogates and neurons that leave something to their subclasses."""

from __future__ import annotations

import abc
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

import spikegrad
from spikegrad import Decay, Neuron, Positive, State, Step, Surrogate, nn


class Scaled(Surrogate):
    """Curves of the potential in units of a width."""

    width: Positive = 1.0

    def scaled(self, x):
        return x / self.width


class Bump(Scaled):
    power: int = 2

    def derivative(self, x):
        return 1 / (1 + self.scaled(x) ** 2) ** self.power


class Template(Surrogate):
    """The method that is left is not `derivative`."""

    width: Positive = 1.0

    @abc.abstractmethod
    def shape(self, x):
        """A curve of width 1."""

    def derivative(self, x):
        return self.shape(x / self.width) / self.width


class Narrow(Template):
    def shape(self, x):
        return 1 / (1 + x**2)


class Strict(Surrogate, abc.ABC):
    """Python's own way."""

    @abc.abstractmethod
    def derivative(self, x): ...


class StrictBump(Strict):
    def derivative(self, x):
        return 1 / (1 + x**2)


@pytest.mark.parametrize("cls", [Scaled, Template, Strict, Surrogate])
def test_an_abstract_surrogate_has_no_instances(cls):
    missing = "shape" if cls is Template else "derivative"
    with pytest.raises(
        TypeError, match=rf"{cls.__name__} (does not define `{missing}\(self, (x|...)\)`: it is abstract|with abstract.*)|{missing}"
    ):
        cls()
    with pytest.raises(TypeError, match=missing):
        spikegrad.check(cls)


def test_what_derives_from_it_is_a_surrogate_like_any():
    x = np.array([0.0, 0.5])
    assert Bump(0.5).derivative(x).tolist() == [1.0, 0.25]
    assert Bump.numbers.keys() == {"width", "scale"}
    assert Bump().unwritten == ()
    assert dataclasses.replace(Bump(), power=1).derivative(x)[1] == 0.8
    assert Narrow(0.5).derivative(x).tolist() == [2.0, 1.0]
    assert StrictBump().derivative(x).tolist() == [1.0, 0.8]
    for spike in (Bump(), Narrow(), StrictBump()):
        spikegrad.check(spike)
        potential = torch.zeros(1, requires_grad=True)
        spike(potential).backward()
        assert potential.grad == 1


class Family(Neuron, reset="zero"):
    """Neurons whose input passes through something."""

    beta: Decay
    threshold: Positive = 1.0
    v: State = 0.0

    @abc.abstractmethod
    def filtered(self, current):
        """What arrives at the potential."""

    def step(self, current, v):
        u = self.beta * v + self.filtered(current)
        s = self.fire(u - self.threshold)
        return Step(s, v=self.after_spike(u, s, self.threshold), u=u)


class Halved(Family):
    def filtered(self, current):
        return current / 2


class Bare(Neuron):
    beta: Decay = 0.5
    v: State = 0.0

    def leak(self, v):
        return self.beta * v


class OfBare(Bare):
    def step(self, current, v):
        u = self.leak(v) + current
        return Step(self.fire(u - 1), v=u)


def test_an_abstract_neuron():
    with pytest.raises(
        TypeError, match=r"Family does not define `filtered\(self, ...\)`: it is abstract; derive a class from it that does"
    ):
        Family(0.9)
    for cls in (Bare, Neuron):
        with pytest.raises(TypeError, match=rf"{cls.__name__} does not define `step\(self, current, ...\)`: it is abstract"):
            cls()
    with pytest.raises(TypeError, match="Bare does not define `step"):
        spikegrad.check(Bare)
    assert Halved(0.5).reset == "zero"
    for neuron, expected in ((Halved(0.5), [0.0, 1.0, 0.0]), (OfBare(), [1.0, 1.0, 1.0])):
        spikes, _ = nn.Layer(neuron, backend="reference")(torch.tensor([[1.5], [1.5], [1.5]]))
        assert spikes.ravel().tolist() == expected


def test_what_is_abstract_is_checked_as_far_as_it_goes():
    with pytest.raises(TypeError, match="`spike` is an option of every neuron"):

        class Wrong(Neuron):
            spike: float = 1.0

    with pytest.raises(TypeError, match="there is no option `rest`"):

        class Other(Neuron, rest="zero"):
            pass


def test_the_command_line_shows_no_abstract_class(tmp_path):
    """A file that defines one beside a neuron of its own."""
    file = tmp_path / "mine.py"
    file.write_text("from spikegrad import Neuron\n\n\nclass Mine(Neuron):\n    gain: float = 1.0\n")
    run = subprocess.run([sys.executable, "-m", "spikegrad", "show", f"{file}:Mine"], capture_output=True, text=True)
    assert run.returncode != 0
    assert "Mine does not define `step(self, current, ...)`" in run.stderr
    assert "Traceback" not in run.stderr
