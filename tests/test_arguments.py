"""What a layer is given that does not fit, or has no elements: one error in words on every front end, or the value of the plain loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import spikegrad.jax as in_jax
from spikegrad import NoisyThreshold, neurons, nn
from spikegrad.compat import snntorch

X, Y = torch.full((5, 2, 3), 0.6), jnp.full((5, 2, 3), 0.6)
BACKENDS = ("numba", "reference")


def rnn_pack():
    return torch.nn.utils.rnn.pack_sequence([torch.rand(3, 3), torch.rand(2, 3)])


def nested():
    return torch.nested.nested_tensor([torch.rand(3, 3), torch.rand(2, 3)])


def leaky(currents, beta=0.9, state=None, **how):
    """A layer of either library."""
    if isinstance(currents, jax.Array):
        return in_jax.leaky(currents, beta, state=state, **how)
    return nn.Leaky(beta, **how)(currents, state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("full", [torch.full, jnp.full], ids=["torch", "jax"])
def test_wrong_shapes_name_both_shapes(full, backend):
    x = full((5, 2, 3), 0.6)
    for shape in ((4,), (2,), (7, 2, 3), (2, 1, 3)):
        what = rf"of shape \({', '.join(map(str, shape))},?\) does not fit one step of currents of shape \(5, 2, 3\)"
        with pytest.raises(ValueError, match=f"`beta` {what}"):
            leaky(x, full(shape, 0.9), backend=backend)
        with pytest.raises(ValueError, match=f"`threshold` {what}"):
            leaky(x, threshold=full(shape, 0.9), backend=backend)
    for shape in ((3,), (2, 4), (1, 3), (5, 2, 3), ()):
        with pytest.raises(
            ValueError, match=rf"`state` v has shape \({', '.join(map(str, shape))},?\), but currents of shape \(5, 2, 3\) need"
        ):
            leaky(x, state=full(shape, 0.5), backend=backend)
    for shape in ((3,), ()):
        with pytest.raises(ValueError, match=r"`currents` must be \(time, batch, \*features\) or \(time, features\), got shape"):
            leaky(full(shape, 0.5), backend=backend)
    for shape in ((4, 4), (4,), (2, 3)):
        match = r"recurrent weights of shape \(.*\) do not fit currents of shape \(5, 2, 3\), which have 3 features"
        with pytest.raises(ValueError, match=match):
            recurrent(x, full(shape, 0.5), backend)


def recurrent(currents, weights, backend):
    """A recurrent layer of either library."""
    if isinstance(currents, jax.Array):
        return in_jax.recurrent_leaky(currents, weights, 0.9, backend=backend)
    layer = nn.RecurrentLeaky(3, 0.9, backend=backend)
    layer.weight = torch.nn.Parameter(weights)
    return layer(currents)


GIVEN = {
    "a list": (lambda: [[0.5, 0.5]], TypeError, r"`currents` must be a PyTorch tensor, got builtins.list; stack them with torch.stack"),
    "NumPy": (lambda: np.ones((5, 2, 3), "float32"), TypeError, r"got numpy.ndarray; convert it with torch.from_numpy\(...\)"),
    "JAX": (lambda: Y, TypeError, "`currents` must be a PyTorch tensor, got jaxlib"),
    "packed": (rnn_pack, TypeError, r"got .*PackedSequence; pad it, x, lengths = .*, and give layer\(x, lengths=lengths\)"),
    "nested": (nested, TypeError, r"is a nested tensor; pad it with torch.nested.to_padded_tensor\(x, 0.0\)"),
    "integers": (
        lambda: X.long(),
        TypeError,
        r"`currents`: expected a floating-point tensor, got torch.int64; convert it with x.float\(\)",
    ),
    "booleans": (lambda: X.bool(), TypeError, "expected a floating-point tensor, got torch.bool"),
    "complex": (lambda: X + 0j, TypeError, "expected a floating-point tensor, got torch.complex64"),
    "8 bits": (lambda: X.to(torch.float8_e4m3fn), TypeError, "has the dtype torch.float8_e4m3fn, in which nothing can be computed"),
    "a number": (lambda: 0.5, TypeError, "must be a PyTorch tensor, got builtins.float"),
    "nothing": (lambda: None, TypeError, "must be a PyTorch tensor, got builtins.NoneType"),
    "a dict": (lambda: {"a": X}, TypeError, "must be a PyTorch tensor, got builtins.dict"),
}
IN_JAX = {
    "a list": (lambda: [[0.5, 0.5]], r"`currents` must be a JAX array, got builtins.list; convert it with jax.numpy.asarray"),
    "NumPy": (lambda: np.ones((5, 2, 3), "float32"), r"got numpy.ndarray; convert it with jax.numpy.asarray\(...\)"),
    "PyTorch": (lambda: X, "must be a JAX array, got torch.Tensor"),
    "integers": (lambda: Y.astype(int), "expected a floating-point array, got int32"),
    "booleans": (lambda: Y > 0, "expected a floating-point array, got bool"),
    "complex": (lambda: Y + 0j, "expected a floating-point array, got complex64"),
    "8 bits": (lambda: Y.astype(jnp.float8_e4m3fn), "`currents` has the dtype float8_e4m3fn, in which nothing can be computed"),
    "a number": (lambda: 0.5, "must be a JAX array, got builtins.float"),
    "nothing": (lambda: None, "must be a JAX array, got builtins.NoneType"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", GIVEN)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_inputs_that_are_no_tensors_of_floating_point(what, backend):
    """Eight bits killed the process in JAX, whose kernels read them as four bytes."""
    make, error, match = GIVEN[what]
    with pytest.raises(error, match=match):
        nn.Leaky(0.9, backend=backend)(make())
    if what in ("a list", "NumPy", "JAX", "packed", "nested", "a number", "nothing", "a dict"):
        with pytest.raises(error, match=match.replace("`currents`", "`input`")):
            nn.Sequential(torch.nn.Linear(3, 3), nn.Leaky(0.9, backend=backend))(make())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", IN_JAX)
def test_inputs_that_are_no_jax_arrays_of_floating_point(what, backend):
    make, match = IN_JAX[what]
    with pytest.raises(TypeError, match=match):
        in_jax.leaky(make(), 0.9, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_that_are_none(backend):
    layer, v = nn.Leaky(0.9, backend=backend), torch.full((2, 3), 0.5)
    for wrong, error, match in (
        (0.0, TypeError, "`state` v must be a PyTorch tensor, got builtins.float"),
        (v.numpy(), TypeError, "`state` v must be a PyTorch tensor, got numpy.ndarray; convert it"),
        ({"v": v}, TypeError, "`state` must be v, as it was returned, got a dict"),
        ([[0.0] * 3, [0.0] * 3], ValueError, "`state` must be v, got 2 arrays"),
        ((), ValueError, "`state` must be v, got 0 arrays"),
        (v.long(), TypeError, "`state` v: expected a floating-point tensor, got torch.int64"),
        (v > 0, TypeError, "`state` v: expected a floating-point tensor, got torch.bool"),
        (v + 0j, TypeError, "`state` v: expected a floating-point tensor, got torch.complex64"),
        (v.to("meta"), ValueError, r"`state` v is on meta, but currents are on cpu; move one with .to\('cpu'\)"),
        (v.to_sparse(), TypeError, r"`state` v has the layout torch.sparse_coo; make it dense with .to_dense\(\)"),
        (jnp.ones((2, 3)), TypeError, "`state` v must be a PyTorch tensor, got jaxlib"),
    ):
        with pytest.raises(error, match=match):
            layer(X, wrong)
    for wrong in (v, torch.stack([v, v]), {"i": v, "v": v}, (None, v)):
        with pytest.raises((TypeError, ValueError), match=r"`state` must be|`state` i must be"):
            nn.Synaptic(0.5, 0.9, backend=backend)(X, wrong)
    with pytest.raises(TypeError, match="`state` must be a tuple with one entry for each of the 1 modules, got Tensor"):
        nn.Sequential(layer)(X, v)
    with pytest.raises(ValueError, match=r"`beta` is on meta, but currents are on cpu"):
        nn.Leaky(torch.full((3,), 0.9, device="meta"), backend=backend)(X)
    expected = layer(X, v)
    for same in ([v], (v,), v.double(), v.half()):
        assert all(torch.equal(a, b) for a, b in zip(layer(X, same), expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_and_numbers_that_are_none_in_jax(backend):
    v = jnp.full((2, 3), 0.5)
    for wrong, error, match in (
        (0.0, TypeError, "`state` v must be a JAX array, got builtins.float"),
        (np.ones((2, 3)), TypeError, "`state` v must be a JAX array, got numpy.ndarray; convert it"),
        ({"v": v}, TypeError, "`state` must be v, as it was returned, got a dict"),
        (v.astype(int), TypeError, "`state` v: expected a floating-point array, got int32"),
        (v + 0j, TypeError, "`state` v: expected a floating-point array, got complex64"),
        (v.astype(jnp.float8_e4m3fn), TypeError, "`state` v has the dtype float8"),
    ):
        with pytest.raises(error, match=match):
            in_jax.leaky(Y, 0.9, state=wrong, backend=backend)
    for wrong in (torch.full((3,), 0.5), "half", jnp.full(3, 0.5 + 0j), [0.5 + 0j]):
        with pytest.raises(TypeError, match="`beta` must be a real number or a JAX array of them, got"):
            in_jax.run(neurons.Leaky(0.9), Y, values={"beta": wrong}, backend=backend)
    for wrong, match in (
        ([[0.5] * 3] * 3, "must be a JAX array, got builtins.list"),
        (torch.ones(3, 3), "must be a JAX array, got torch.Tensor"),
        (jnp.ones((3, 3), complex), "must be real, got complex64"),
    ):
        with pytest.raises(TypeError, match=f"recurrent weights {match}"):
            in_jax.recurrent_leaky(Y, wrong, 0.9, backend=backend)
    expected = in_jax.leaky(Y, jnp.full(3, 0.8), state=v, backend=backend)
    for same in ([0.8] * 3, np.full(3, 0.8), 0.8):
        found = in_jax.leaky(Y, same, state=[v], backend=backend)
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("make", [lambda: snntorch.Leaky(beta=0.9), lambda: snntorch.Synaptic(alpha=0.5, beta=0.9)])
def test_compat_takes_tensors(make):
    """One step at a time."""
    for wrong in ([0.5, 0.5], np.ones(3, "float32"), rnn_pack(), None, 0.5):
        with pytest.raises(TypeError, match=r"`input_` of .* must be a tensor, got"):
            make()(wrong)


EMPTY = [(5, 0, 3), (0, 2, 3), (5, 2, 0), (0, 3), (5, 0), (0, 0, 3)]
LAYERS = {
    "Leaky": lambda backend: nn.Leaky(0.9, learn_beta=True, backend=backend),
    "inhibition": lambda backend: nn.Leaky(0.9, learn_beta=True, inhibition=True, backend=backend),
    "noise": lambda backend: nn.Leaky(0.9, spike=NoisyThreshold(), learn_beta=True, backend=backend),
    "quantize": lambda backend: nn.Leaky(0.9, quantize=nn.Quantize(4, -1, 1), learn_beta=True, backend=backend),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("shape", EMPTY)
@pytest.mark.parametrize("name", LAYERS)
def test_nothing_to_do_gives_nothing_and_gradients_of_zero(name, shape, backend):
    layer = LAYERS[name](backend)
    for wanted in (True, False):
        x = torch.rand(shape).requires_grad_(wanted)
        spikes, state, u = layer(x, record=True)
        assert spikes.shape == u.shape == shape
        assert state.shape == shape[1:]
        layer.zero_grad()
        (spikes.sum() + state.sum() + u.sum()).backward()
        assert layer.beta_logit.grad == 0
        assert not wanted or x.grad.shape == shape


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("shape", [shape for shape in EMPTY if shape[-1] == 3])
def test_nothing_to_do_in_recurrent_layers(shape, backend):
    layer = nn.RecurrentLeaky(3, 0.9, backend=backend)
    spikes, state = layer(torch.rand(shape).requires_grad_())
    assert spikes.shape == shape
    assert [part.shape for part in state] == [shape[1:]] * 2
    spikes.sum().backward()
    assert torch.equal(layer.weight.grad, torch.zeros(3, 3))


@pytest.mark.parametrize("inhibition", [False, True])
@pytest.mark.parametrize("shape", EMPTY)
def test_nothing_to_do_in_jax(shape, inhibition):
    def spikes(x, beta, backend):
        return in_jax.leaky(x, beta, inhibition=inhibition, backend=backend)[0].sum()

    backends = ("auto", "reference")
    for x, dbeta in jax.jit(lambda *given: [jax.grad(spikes, (0, 1))(*given, backend) for backend in backends])(jnp.ones(shape), 0.9):
        assert x.shape == shape
        assert dbeta == 0


def test_levels_may_be_whole_numbers():
    """The kernels took -1 for an address."""
    for backend in BACKENDS:
        whole, floats = (nn.Leaky(0.9, quantize=nn.Quantize(4, low, high), backend=backend)(X) for low, high in ((-1, 1), (-1.0, 1.0)))
        assert all(torch.equal(a, b) for a, b in zip(whole, floats, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sparse_gradient_is_that_of_its_numbers(backend):
    layer, weights, last = nn.Leaky(0.9, backend=backend), torch.rand(5, 2, 3).relu(), torch.eye(3)[:2]
    found = []
    for sparse in (False, True):
        x = X.clone().requires_grad_()
        given = (weights.to_sparse(), last.to_sparse()) if sparse else (weights, last)
        gradient = torch.autograd.grad(layer(x), x, given)[0]
        found.append(gradient.to_dense() if gradient.is_sparse else gradient)
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(*found)
