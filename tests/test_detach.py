"""`spikegrad.detach`: states through which no gradient flows, for truncated backpropagation."""

from __future__ import annotations

import collections
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import spikegrad
import spikegrad.jax as in_jax
from spikegrad import nn

Pair = namedtuple("Pair", "i v")


def test_every_part_is_cut_off_and_every_class_kept():
    x = torch.ones(2, requires_grad=True) * 2
    state = (None, x, [x, Pair(x, None)], {"a": x, "b": (x,)}, collections.OrderedDict(c=x), 0.5, np.ones(2))
    found = spikegrad.detach(state)
    assert [type(part) for part in found] == [type(part) for part in state]
    assert type(found[2][1]) is Pair
    for part in (found[1], found[2][0], found[2][1].i, found[3]["a"], found[3]["b"][0], found[4]["c"]):
        assert not part.requires_grad
        assert part.data_ptr() == x.data_ptr()
    assert found[0] is found[2][1].v is None
    assert found[5] == 0.5
    assert x.requires_grad  # what was given stays as it is
    for wrong in ("state", torch.nn.Linear(1, 1), [object()]):
        with pytest.raises(TypeError, match="a state is of tensors, arrays, None, and tuples, lists and dicts of them, got"):
            spikegrad.detach(wrong)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_truncated_backpropagation_is_that_of_each_part_from_a_given_state(backend):
    torch.manual_seed(0)
    net = nn.Sequential(torch.nn.Linear(3, 4), nn.Synaptic(0.5, 0.9, backend=backend), torch.nn.Linear(4, 2), nn.LeakyIntegrator(0.9))
    first, second = torch.randn(2, 6, 5, 3).requires_grad_()
    _, state = net(first)
    assert state[1].v.requires_grad
    cut = spikegrad.detach(state)
    assert type(cut[1]) is type(state[1])
    out, _ = net(second, cut)
    given = tuple(None if part is None else Pair(*part) if isinstance(part, tuple) else part for part in cut)
    expected, _ = net(second, given)
    assert torch.equal(out, expected)
    parameters = [*net.parameters()]
    grads = torch.autograd.grad(out.sum(), parameters)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), parameters))
    whole, _ = net(second, state)
    assert not torch.allclose(torch.autograd.grad(whole.sum(), parameters)[0], grads[0])


def test_in_jax():
    x = jnp.ones((4, 3))

    def loss(beta, cut):
        _, state = in_jax.synaptic(x, 0.5, beta, 100.0)
        _, last = in_jax.synaptic(x, 0.5, 0.9, 100.0, state=spikegrad.detach(state) if cut else state)
        return last.v.sum()

    assert jax.grad(loss)(0.9, True) == 0
    assert jax.grad(loss)(0.9, False) > 0
    assert jax.jit(lambda v: spikegrad.detach({"v": [v]}))(x)["v"][0].shape == x.shape
