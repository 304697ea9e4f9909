"""`lengths=`: every sample of a batch runs as it would by itself."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import spikegrad.jax as in_jax
from spikegrad import NoisyThreshold, neurons, nn

LENGTHS = [3, 6, 0, 1, 6, 3]
LAYERS = {
    "Leaky": lambda backend: nn.Leaky(torch.full((4,), 0.8), 0.5, learn="beta", backend=backend),
    "Synaptic": lambda backend: nn.Synaptic(0.5, 0.8, 0.5, learn=("alpha", "threshold"), reset_delay=True, backend=backend),
    "recurrent": lambda backend: nn.RecurrentLeaky(4, 0.8, 0.5, backend=backend),
    "one-to-one": lambda backend: nn.RecurrentLeaky(4, 0.8, 0.5, connection="one-to-one", backend=backend),
    "inhibition": lambda _: nn.Leaky(0.8, 0.5, inhibition=True, learn_beta=True),
    "one's own": lambda _: nn.Layer(neurons.Adaptive(0.8, threshold=0.5), learn=("beta", "jump"), backend="reference"),
}


def sequence(steps=8, features=4):
    """Filled up with what must not be seen."""
    x = torch.randn(steps, len(LENGTHS), features, generator=torch.Generator().manual_seed(0))
    for sample, end in enumerate(LENGTHS):
        x[end:, sample] = math.nan
    return x


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def loss(spikes, state, u, weights):
    """Different for every number, so that no gradient can stand at another's place."""
    return (spikes * weights).sum() + (u * weights.cos()).sum() + sum((part * weights[0].sin()).sum() for part in parts(state))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("given", [False, True], ids=["rest", "state"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_sample_is_as_by_itself(name, given, backend):
    torch.manual_seed(0)
    layer = LAYERS[name](backend)
    x, weights = sequence().requires_grad_(), torch.randn(8, 6, 4)
    start = None
    if given:
        start = tuple(torch.rand(6, 4).requires_grad_() for _ in parts(layer(torch.zeros(1, 6, 4), record=True)[1]))
    spikes, state, u = layer(x, start, record=True, lengths=torch.tensor(LENGTHS))
    wanted = [x, *layer.parameters(), *(start or ())]
    found = torch.autograd.grad(loss(spikes, state, u, weights), wanted)
    total = 0.0
    for k, end in enumerate(LENGTHS):
        own = None if start is None else tuple(part[k : k + 1] for part in start)
        alone = layer(x[:end, k : k + 1], own, record=True)
        for together, by_itself in zip((spikes, u), (alone[0], alone[2]), strict=True):
            assert torch.equal(together[:end, k], by_itself[:, 0]) or name == "recurrent"
            torch.testing.assert_close(together[:end, k], by_itself[:, 0])
            assert not together[end:, k].any()
        for together, by_itself in zip(parts(state), parts(alone[1]), strict=True):
            torch.testing.assert_close(together[k], by_itself[0])
        padded = [torch.cat([each, each.new_zeros(8 - end, 1, 4)]) for each in (alone[0], alone[2])]
        total = total + loss(padded[0], alone[1], padded[1], weights[:, k : k + 1])
    expected = torch.autograd.grad(total, wanted)
    for ours, alone in zip(found, expected, strict=True):
        assert alone.abs().sum() > 0
        torch.testing.assert_close(ours, alone)
    assert type(state) is type(layer(torch.zeros(1, 6, 4), record=True)[1])


def test_equal_lengths_are_no_lengths_and_samples_may_have_more_dimensions():
    layer, x = nn.Leaky(0.8, 0.5), torch.randn(5, 3, 2, 4)
    for lengths in ([5] * 3, (5, 5, 5), torch.full((3,), 5), np.full(3, 5)):
        for ours, expected in zip(layer(x, lengths=lengths), layer(x), strict=True):
            assert torch.equal(ours, expected)
    _, state = layer(x.half(), lengths=[2, 5, 0])
    assert state.dtype == torch.float32
    assert torch.equal(state[0], layer(x[:2].half())[1][0])
    assert not state[2].any()
    spikes, state = layer(torch.rand(5, 0, 4), lengths=[])
    assert (spikes.shape, state.shape) == ((5, 0, 4), (0, 4))


def test_a_chain_and_the_next_part_of_a_stream():
    torch.manual_seed(0)
    net = nn.Sequential(torch.nn.Linear(4, 4), nn.Leaky(0.8, 0.2), torch.nn.Linear(4, 2), nn.LeakyIntegrator(0.9))
    x = sequence().nan_to_num(0.0)
    out, state = net(x, lengths=LENGTHS)
    again, _ = net(x, state, lengths=LENGTHS)
    for k, end in enumerate(LENGTHS):
        alone, last = net(x[:end, k : k + 1])
        torch.testing.assert_close(out[:end, k], alone[:, 0])
        assert not out[end:, k].any()
        torch.testing.assert_close(state[1][k], last[1][0])
        torch.testing.assert_close(again[:end, k], net(x[:end, k : k + 1], last)[0][:, 0])
    with pytest.raises(TypeError, match=r"module 1 of the chain, torch.nn.GRU, does not take `lengths`"):
        nn.Sequential(nn.Leaky(0.8), torch.nn.GRU(4, 4))(x, lengths=LENGTHS)


def test_packed_sequences_come_in_by_their_lengths():
    layer, samples = nn.Leaky(0.8, 0.5), [torch.randn(n, 4) for n in (5, 3, 1)]
    x, lengths = torch.nn.utils.rnn.pad_packed_sequence(torch.nn.utils.rnn.pack_sequence(samples))
    _, state = layer(x, lengths=lengths)
    for k, sample in enumerate(samples):
        assert torch.equal(state[k], layer(sample)[1])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_noise_is_drawn_for_the_steps_there_are(backend):
    layer = nn.Leaky(0.8, 0.5, spike=NoisyThreshold(), backend=backend)
    spikes, state = layer(sequence(), lengths=LENGTHS)
    assert spikes.isfinite().all()
    assert state.isfinite().all()


WRONG = [
    ([3, 6], ValueError, "one for each of the 6 samples of currents of shape .*, got 2"),
    ([3, 6, 0, 1, 6, 9], ValueError, "between 0 and the 8 steps of currents of shape .*, got 9"),
    ([3, 6, 0, 1, 6, -1], ValueError, "between 0 and the 8 steps of currents of shape .*, got -1"),
    ([3.0] * 6, TypeError, "must be whole numbers, one for each sample, got"),
    ([True] * 6, TypeError, "must be whole numbers, one for each sample, got"),
    (5, TypeError, "must be whole numbers, one for each sample, got 5"),
    ("6", TypeError, "must be whole numbers, one for each sample, got '6'"),
]


@pytest.mark.parametrize(("lengths", "error", "match"), WRONG)
def test_wrong_lengths(lengths, error, match):
    x = sequence()
    with pytest.raises(error, match=f"`lengths` .*{match}"):
        nn.Leaky(0.8)(x, lengths=lengths)
    with pytest.raises(error, match=f"`lengths` .*{match}"):
        in_jax.leaky(jnp.asarray(x.numpy()), 0.8, lengths=lengths)


def test_lengths_need_a_batch():
    with pytest.raises(ValueError, match=r"`lengths` are of the samples of a batch.*got shape \(8, 4\)"):
        nn.Leaky(0.8)(torch.rand(8, 4), lengths=[1] * 8)
    with pytest.raises(ValueError, match=r"`lengths` are of the samples of a batch.*got shape \(8, 4\)"):
        in_jax.leaky(jnp.ones((8, 4)), 0.8, lengths=[1] * 8)
    with pytest.raises(ValueError, match="`beta` differs between the samples of a batch, which does not go with `lengths`"):
        nn.Leaky(torch.full((6, 4), 0.8))(sequence(), lengths=LENGTHS)
    with pytest.raises(ValueError, match="cannot run this layer: its samples have lengths of their own"):
        in_jax.leaky(jnp.ones((8, 6, 4)), 0.8, lengths=LENGTHS, backend="numba")
    for wrong in (jnp.ones(6), jnp.ones(5, int)):
        with pytest.raises(ValueError, match="`lengths` must be whole numbers, one for each sample of currents"):
            jax.jit(lambda n: in_jax.leaky(jnp.ones((8, 6, 4)), 0.8, lengths=n))(wrong)


@pytest.mark.parametrize("recurrent", [False, True])
def test_jax_gives_what_torch_gives(recurrent):
    torch.manual_seed(0)
    layer = nn.RecurrentLeaky(4, 0.8, 0.5, backend="reference") if recurrent else nn.Synaptic(0.5, 0.8, 0.5, backend="reference")
    x, weights = sequence().requires_grad_(), torch.randn(8, 6, 4)
    spikes, state, u = layer(x, record=True, lengths=LENGTHS)
    gradients = torch.autograd.grad(loss(spikes, state, u, weights), [x, *layer.parameters()])
    w = jnp.asarray(weights.numpy())

    def run(x, lengths, w_own):
        if recurrent:
            return in_jax.recurrent_leaky(x, w_own, 0.8, 0.5, record=True, lengths=lengths)
        return in_jax.synaptic(x, 0.5, 0.8, 0.5, record=True, lengths=lengths)

    def in_all(x, w_own, lengths):
        spikes, state, u = run(x, lengths, w_own)
        return (spikes * w).sum() + (u * jnp.cos(w)).sum() + sum((part * jnp.sin(w[0])).sum() for part in state)

    given = jnp.asarray(x.detach().numpy())
    own = jnp.asarray(layer.weight.detach().numpy()) if recurrent else jnp.zeros(())
    for lengths, call in ((jnp.array(LENGTHS), jax.jit(run)), (LENGTHS, run)):
        found = call(given, lengths, own)
        np.testing.assert_allclose(found[0], spikes.detach())
        np.testing.assert_allclose(found[2], u.detach(), rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(found[1], state, strict=True):
            np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(jax.jit(jax.grad(in_all, (0, 1)))(given, own, jnp.array(LENGTHS)), gradients, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
