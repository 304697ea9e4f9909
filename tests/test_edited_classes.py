"""Layers that were pickled before the class of their neuron or surrogate was edited."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
import torch

from spikegrad import nn

SOURCE = """
from spikegrad import Decay, Neuron, State, Step, Surrogate

class Mine(Neuron):
    beta: Decay = 0.5
    {more}
    v: State = 0.0

    def step(self, current, v):
        u = self.beta * v + {gain} * current
        s = self.fire(u - 1)
        return Step(s, v=self.after_spike(u, s, 1.0), u=u)

class Bump(Surrogate):
    def derivative(self, x):
        return {gain} / (1 + x * x)
"""


@pytest.fixture
def edited(monkeypatch):
    module = types.ModuleType("a_module_of_ones_own")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def edit(gain: float, more: str = "") -> types.ModuleType:
        exec(SOURCE.format(gain=gain, more=more), module.__dict__)
        return module

    return edit


@pytest.mark.parametrize("more", ["", "jump: float = 0.25"])
def test_a_pickled_layer_runs_as_its_class_is_now(edited, more):
    """As other objects do; it used to show the new class, and to run the old step."""
    x = torch.linspace(0, 2, 12).reshape(6, 2).requires_grad_()
    module = edited(1.0)
    layer = nn.Layer(module.Mine(spike=module.Bump()), learn="beta", backend="reference")
    layer(x, record=True)
    file = pickle.dumps(layer)
    module = edited(2.0, more)
    found, wanted = pickle.loads(file), nn.Layer(module.Mine(spike=module.Bump()), learn="beta", backend="reference")
    for ours, theirs in zip(found(x, record=True), wanted(x, record=True), strict=True):
        assert torch.equal(ours, theirs)
    # What the kernels take is the record: where that is the same, so are they.
    assert found._call(("u",), found.spike).key == wanted._call(("u",), wanted.spike).key
    assert torch.equal(*(torch.autograd.grad(each(x)[0].sum(), x)[0] for each in (found, wanted)))
    assert repr(found) == repr(wanted)
