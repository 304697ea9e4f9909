"""Where ours differs from braintools 0.3.0 on purpose: each defect as braintools shows it, and ours without it."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.conftest import once

_x64 = jax.config.jax_enable_x64
theirs = pytest.importorskip("braintools.surrogate")
jax.config.update("jax_enable_x64", _x64)  # B-3
import brainunit  # noqa: E402

from spikegrad.compat.braintools import surrogate as ours  # noqa: E402

CLASSES = sorted(name for name in theirs.__all__ if name[0].isupper() and name != "Surrogate")
POINTS = np.array([-1.73, -0.813, -0.313, -0.0413, 0.0227, 0.291, 0.777, 1.61])


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def gradient(f, x):
    return jax.grad(lambda x: f(x).sum())(x)


def second(f, x):
    return jax.vmap(jax.grad(jax.grad(f)))(x)


@pytest.mark.parametrize("name", CLASSES)
def test_b1_second_derivatives(name):
    """Theirs are 0; ours are those of the bump, also of a function of the spikes: (s^2)'' = 2 g^2 + 2 s g'."""
    mine, peer = getattr(ours, name)(), getattr(theirs, name)()

    def compute(x):
        curved = jax.vmap(jax.grad(peer.surrogate_grad))(x)
        lost = second(peer, x), second(lambda x: peer(x) ** 2, x)
        return mine.surrogate_grad(x), curved, lost, second(mine, x), second(lambda x: mine(x) ** 2, x)

    g, curved, (nothing, too_little), got, of_square = once(compute, POINTS)
    square = 2 * g**2 + 2 * (POINTS >= 0) * curved
    assert np.array_equal(nothing, np.zeros(8))
    assert np.abs(too_little - square).max() > 1e-3
    np.testing.assert_allclose(got, curved, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_square, square, rtol=1e-9, atol=1e-12)


def constant(module, values):
    class Constant(module.Surrogate):
        """A gradient per neuron, which does not depend on the potential and is not mapped over."""

        def surrogate_grad(self, x):
            return jnp.asarray(values)

    return Constant()


def test_b2_mapping_over_another_axis():
    def mapped(spike, x):
        return once(lambda x: gradient(lambda x: jax.vmap(spike, in_axes=1, out_axes=1)(x), x), x)

    square, wide = np.zeros((4, 4)), np.zeros((4, 3))
    right = np.tile(np.arange(1.0, 5.0)[:, None], 4)
    values = [1.0, 2.0, 3.0, 4.0]
    assert np.array_equal(mapped(constant(theirs, values), square), right.T)
    assert np.array_equal(mapped(constant(ours, values), square), right)
    with pytest.raises(ValueError, match="Incompatible shapes"):
        mapped(constant(theirs, values), wide)
    assert np.array_equal(mapped(constant(ours, values), wide), right[:, :3])


def test_b3_import_leaves_jax_alone():
    """Importing brainstate, as braintools does, switches x64 off. Importing ours changes nothing, and imports neither of them."""
    code = (
        "import sys, jax; jax.config.update('jax_enable_x64', True); before = dict(jax.config.values); import {}; "
        "print(jax.config.jax_enable_x64, before == dict(jax.config.values), 'brainstate' in sys.modules, 'braintools' in sys.modules)"
    )

    def run(module):
        return subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True).stdout.split()

    assert run("braintools.surrogate") == ["False", "False", "True", "True"]
    assert run("spikegrad.compat.braintools.surrogate") == ["True", "True", "False", "False"]


def count_traces(spikes):
    traces = []

    def step(spike, x):
        traces.append(spike)
        return spike(x).sum()

    static = jax.jit(step, static_argnums=0)
    for spike in spikes:
        static(spike, POINTS)
    return len(traces)


def test_b4_equal_by_value():
    """Three equal surrogates are traced three times by theirs, once by ours; one that holds an array is no key for theirs."""
    assert theirs.Sigmoid(4.0) != theirs.Sigmoid(4.0)
    assert count_traces([theirs.Sigmoid(4.0) for _ in range(3)]) == 3
    assert ours.Sigmoid(4.0) == ours.Sigmoid(4.0) == ours.Sigmoid(alpha=4)
    assert hash(ours.Sigmoid(4.0)) == hash(ours.Sigmoid(4.0))
    assert len({ours.Sigmoid(4.0), ours.Sigmoid(4.0), ours.Sigmoid(5.0), ours.Arctan(4.0)}) == 3
    assert count_traces([ours.Sigmoid(4.0) for _ in range(3)]) == 1
    assert count_traces([ours.Sigmoid(4.0), ours.Sigmoid(5.0)]) == 2

    with pytest.raises((TypeError, ValueError), match=r"unhashable|not hashable"):
        count_traces([theirs.Sigmoid(jnp.ones(8))])
    assert count_traces([ours.Sigmoid(jnp.ones(8)) for _ in range(3)]) == 1
    assert count_traces([ours.Sigmoid(jnp.ones(8)), ours.Sigmoid(jnp.full(8, 2.0)), ours.Sigmoid(np.ones(8, "f4"))]) == 3
    assert ours.Sigmoid(1.0) != ours.Sigmoid(jnp.asarray(1.0))
    assert ours.Sigmoid() != "Sigmoid(alpha=4.0)"
    with_list, again = ours.Sigmoid(), ours.Sigmoid()
    with_list.notes, again.notes = [jnp.ones(2), {"a": set()}], [jnp.ones(2), {"a": set()}]
    assert {with_list: 1}[again] == 1
    again.notes[0] = jnp.zeros(2)
    assert with_list != again

    @jax.jit
    def compare(alpha):
        one = ours.Sigmoid(alpha)
        assert one == ours.Sigmoid(alpha)
        assert one != ours.Sigmoid(alpha + 1)
        return hash(one) * 0

    compare(2.0)


def test_b5_gradient_of_a_parameter():
    """Of the spikes themselves it would be 0. Theirs is the derivative of the bump, which does not say what a change of the parameter does
    to any loss. Ours is the gradient of `surrogate_fun`, as for every surrogate of spikegrad."""
    x, alpha = jnp.asarray(0.3), 4.0

    def of_alpha(x, alpha):
        def by_alpha(f):
            return jax.grad(f)(alpha)

        return (
            by_alpha(lambda alpha: theirs.sigmoid(x, alpha=alpha)),
            by_alpha(lambda alpha: ours.sigmoid(x, alpha=alpha)),
            by_alpha(lambda alpha: theirs.Sigmoid(alpha).surrogate_grad(x)),
            by_alpha(lambda alpha: theirs.Sigmoid(alpha).surrogate_fun(x)),
        )

    peer, mine, of_bump, of_function = once(of_alpha, x, alpha)
    assert peer == pytest.approx(0.0632, abs=1e-4)
    np.testing.assert_allclose(peer, of_bump, rtol=1e-12)
    s = 1 / (1 + np.exp(-alpha * 0.3))
    np.testing.assert_allclose(mine, 0.3 * s * (1 - s), rtol=1e-12)
    np.testing.assert_allclose(mine, of_function, rtol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_b5_every_parameter_learns(name):
    """Its gradient is that of `surrogate_fun`, and how the bump depends on it is known to the second order, in either order."""
    for parameter, value in vars(getattr(ours, name)()).items():
        if parameter in ("n", "epsilon"):
            continue
        p = jnp.full(8, value or 0.1)

        def call(x, p, method="__call__", parameter=parameter):
            return getattr(getattr(ours, name)(**{parameter: p}), method)(x)

        def derivative(order, x, p, method="__call__", call=call):
            f = functools.partial(call, method=method)
            for argument in order:
                f = jax.grad(f, argument)
            return jax.vmap(f)(x, p)

        def compute(x, p, derivative=derivative):
            first = derivative([1], x, p), derivative([1], x, p, "surrogate_fun")
            mixed = derivative([0, 1], x, p), derivative([1, 0], x, p)
            return first, mixed, derivative([1], x, p, "surrogate_grad")

        (first, of_function), mixed, of_bump = once(compute, POINTS, p)
        np.testing.assert_allclose(first, of_function, rtol=1e-9, atol=1e-12)
        for got in mixed:
            np.testing.assert_allclose(got, of_bump, rtol=1e-8, atol=1e-11)


def own(module):
    class Own(module.Surrogate):
        def __init__(self, alpha):
            super().__init__()
            self.alpha = alpha

        def surrogate_grad(self, x):
            return jnp.exp(-self.alpha * jnp.abs(x))

    return Own


def test_b5_parameters_of_a_users_class():
    """They have no part in the spikes, gradient 0, and their full part in the gradient, so that how learning goes can be learned from."""
    x, alpha = 0.3, 2.0
    bump = -x * np.exp(-alpha * x)

    def direct_and_through(made, alpha):
        return jax.grad(lambda alpha: made(alpha)(x))(alpha), jax.grad(lambda alpha: jax.grad(made(alpha))(x))(alpha)

    peer, mine = once(lambda alpha: [direct_and_through(own(module), alpha) for module in (theirs, ours)], alpha)
    assert peer == (pytest.approx(bump), pytest.approx(bump))
    assert mine == (0, pytest.approx(bump))


def blocks(text):
    """The code that a docstring shows."""
    lines, found = textwrap.dedent(text).splitlines(), []
    for start, line in enumerate(lines):
        if not re.match(r"\s*\.\. (code-block:: python|plot::)", line):
            continue
        indent, body = len(line) - len(line.lstrip()), []
        for inner in lines[start + 1 :]:
            if inner.strip() and len(inner) - len(inner.lstrip()) <= indent:
                break
            body.append("" if ":include-source:" in inner else inner)
        code = textwrap.dedent("\n".join(body)).strip()
        if ">>>" in code:
            code = "\n".join(line[4:] for line in code.splitlines() if line.startswith((">>>", "...")))
        found.append(code)
    return found


DOCUMENTED = [
    (f"{name} {n}", code)
    for name in ("", *theirs.__all__)
    for n, code in enumerate(blocks((getattr(theirs, name) if name else theirs).__doc__ or ""))
]
REFUSED = {"PiecewiseLeakyRelu(c=0.01, alpha=1.0)": "'alpha'", "gamma=0.5": "'gamma'"}
"""What the documentation shows and the code refuses (B-6)."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_b6_documented_code_runs(monkeypatch):
    """Every example in braintools' docstrings, theirs by an import of theirs and ours by one of ours; and the two that theirs refuses."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    for name in ("show", "tight_layout"):  # what draws; nobody looks
        monkeypatch.setattr(pyplot, name, lambda: None)
    monkeypatch.setattr("builtins.print", lambda *_: None)
    assert len(DOCUMENTED) >= 45
    refused, outdated = [], []
    with jax.enable_x64(False):
        for where, code in DOCUMENTED:
            if "bst.transform.grad(" in code:  # written for an older brainstate: see examples/braintools_networks.py
                outdated.append(where)
                continue
            if wanted := [words for call, words in REFUSED.items() if call in code]:
                with pytest.raises(TypeError, match=f"unexpected keyword argument {wanted[0]}"):
                    exec(code, {})
                refused.append(where)
            code = code.replace("braintools.surrogate", "spikegrad.compat.braintools.surrogate")
            code = re.sub(r"import braintools$", "import spikegrad.compat.braintools", code, flags=re.M)
            assert "braintools" not in code or "spikegrad.compat.braintools" in code, where
            exec(code, {})
            pyplot.close("all")
    assert len(refused) == len(outdated) == 2


def test_b6_what_the_other_names_mean():
    assert ours.PiecewiseLeakyRelu(c=0.01, alpha=2.0) == ours.PiecewiseLeakyRelu(c=0.01, w=2.0)
    assert ours.MultiGaussianGrad(h=0.15, s=6.0, gamma=0.25) == ours.MultiGaussianGrad(h=0.15, s=6.0, scale=0.25)
    named = lambda x: ours.multi_gaussian_grad(x, gamma=0.25), lambda x: ours.piecewise_leaky_relu(x, alpha=jnp.asarray(2.0))
    alike = ours.MultiGaussianGrad(scale=0.25), ours.PiecewiseLeakyRelu(w=2.0)
    pairs = list(zip(named, alike, strict=True))
    for slopes in once(lambda x: [(gradient(f, x), gradient(g, x)) for f, g in pairs], np.linspace(-3, 3, 61)):
        assert np.array_equal(*slopes)
    # The height inside the window is that of the code, 1 / (2w), which makes the area 1, not that of the class's documentation, 1 / w.
    heights = once(lambda: [module.PiecewiseLeakyRelu(w=2.0).surrogate_grad(0.0) for module in (ours, theirs)])
    assert heights == [0.25, 0.25]


def test_b7_every_surrogate_has_its_function():
    without = "ReluGrad", "GaussianGrad", "MultiGaussianGrad", "InvSquareGrad", "SlayerGrad"
    for name in without:
        with pytest.raises(NotImplementedError):
            getattr(theirs, name)().surrogate_fun(POINTS)
    spikes = [getattr(ours, name)() for name in without]
    for slope, bump in once(lambda x: [(gradient(spike.surrogate_fun, x), spike.surrogate_grad(x)) for spike in spikes], POINTS):
        np.testing.assert_allclose(slope, bump, rtol=1e-12)


def test_b8_errors_that_say_what_is_wrong():
    spike = ours.Sigmoid(alpha=jnp.ones(4))
    with pytest.raises(TypeError, match="broadcast_in_dim"):
        gradient(theirs.Sigmoid(alpha=jnp.ones(4)), jnp.asarray(0.1))
    with pytest.raises(ValueError, match=r"`alpha` of Sigmoid must broadcast to the shape of `x`, \(\), got shape \(4,\)"):
        spike(jnp.asarray(0.1))
    assert spike(jnp.zeros((2, 4))).shape == (2, 4)

    volts = jnp.asarray([1.0, -1.0]) * brainunit.mV
    with pytest.raises(TypeError, match="expit requires ndarray or scalar arguments"):
        theirs.Sigmoid()(volts)
    for call in (ours.Sigmoid(), ours.Sigmoid().surrogate_grad, ours.Sigmoid().surrogate_fun, ours.Surrogate()):
        with pytest.raises(TypeError, match=r"`x` must be a plain array, got a quantity in mV; divide by a unit, as in \(V - V_th\) / mV"):
            call(volts)
    with pytest.raises(TypeError, match="must be a plain array"):
        ours.Sigmoid()(brainunit.Quantity(jnp.ones(2)))
    assert np.array_equal(ours.Sigmoid()(volts / brainunit.mV), theirs.Sigmoid()(volts / brainunit.mV))

    # Every truth value is at least 0, so that theirs always spikes.
    assert theirs.Sigmoid()(jnp.asarray([True, False])).tolist() == [True, True]
    for given in (jnp.asarray([True, False]), True, np.bool_(False)):
        with pytest.raises(TypeError, match="got bool; convert it"):
            ours.Sigmoid()(given)

    with pytest.raises(ZeroDivisionError):
        theirs.PiecewiseQuadratic(0)(POINTS)
    assert np.array_equal(gradient(theirs.PiecewiseQuadratic(-1.0), POINTS), np.zeros(8))
    for alpha in (0, -1.0):
        with pytest.raises(ValueError, match=f"`alpha` of PiecewiseQuadratic must be positive, got {alpha}"):
            ours.PiecewiseQuadratic(alpha)


def test_t10_tail_of_the_logistic():
    """Theirs multiplies s by 1 - s, which has lost its digits where s is near 1; in half precision it is gone altogether."""
    for dtype, x, lost in (("float32", 4.0, 5e-2), ("bfloat16", 2.0, 1.0), ("float16", 3.0, 1.0)):
        exact = 4 * np.exp(-4 * x) / (1 + np.exp(-4 * x)) ** 2
        peer, mine = once(lambda x: [gradient(module.Sigmoid(), x)[0] for module in (theirs, ours)], jnp.asarray([x], dtype))
        assert abs(float(peer) / exact - 1) >= lost
        assert abs(float(mine) / exact - 1) <= float(jnp.finfo(dtype).eps)


def test_t11_no_negative_gradient_at_the_end_of_the_window():
    for dtype, lowest in (("float32", -1e-6), ("float16", -0.005), ("bfloat16", -0.1)):
        alpha = np.linspace(0.1, 20.0, 400).astype(jnp.dtype(dtype))
        x = (1 / alpha.astype(float)[:, None] * (1 + np.arange(-4, 5) * float(jnp.finfo(dtype).eps))).astype(alpha.dtype)
        peer, mine = once(lambda a, x: [gradient(m.PiecewiseQuadratic(a), x).min() for m in (theirs, ours)], alpha[:, None], x)
        assert peer < lowest
        assert mine == 0


def test_t12_nan_is_not_hidden():
    """Theirs never shows it in the spikes, nor in the gradients of those that compare; ours always does, a user's own surrogate too."""
    nan = jnp.asarray([float("nan")])
    masked = {"LeakyRelu": 1.0, "LogTailedRelu": 0.0, "PiecewiseLeakyRelu": 0.5}

    def compute(x):
        pairs = {name: (getattr(theirs, name)(), getattr(ours, name)()) for name in CLASSES}
        return {name: (peer(x), gradient(peer, x), mine(x), gradient(mine, x)) for name, (peer, mine) in pairs.items()}

    for name, (hidden, peer, spikes, slope) in once(compute, nan).items():
        assert hidden.tolist() == [0.0]
        assert peer.tolist() == [masked[name]] if name in masked else np.isnan(peer).all()
        assert np.isnan(spikes).all()
        assert np.isnan(slope).all()
    assert (constant(theirs, 1.0)(nan).tolist(), gradient(constant(ours, 1.0), nan).tolist()[0]) == (
        [0.0],
        pytest.approx(np.nan, nan_ok=True),
    )
    assert np.isnan(constant(ours, 1.0)(nan)).all()


def test_t13_infinite_potentials():
    infinite = jnp.asarray([float("inf"), -float("inf")])
    assert np.isnan(gradient(theirs.SquarewaveFourierSeries(), infinite)).all()
    spikes = [*(getattr(ours, name)() for name in CLASSES), constant(ours, 1.0)]
    for fired, slope, curved in once(lambda x: [(spike(x), gradient(spike, x), second(spike, x)) for spike in spikes], infinite):
        assert fired.tolist() == [1.0, 0.0]
        assert slope.tolist() == [0.0, 0.0]
        assert np.isfinite(curved).all()


def test_s2nn_epsilon():
    """Theirs adds it in the logarithm of the function, which then has not quite the gradient that it stands for."""
    epsilon = 0.1
    peer, mine = theirs.S2NN(epsilon=epsilon), ours.S2NN(epsilon=epsilon)

    def compute(x):
        functions = theirs.S2NN().surrogate_fun(x), ours.S2NN().surrogate_fun(x)
        return gradient(peer.surrogate_fun, x[4:]), gradient(mine.surrogate_fun, x[4:]), peer.surrogate_grad(x[4:]), functions

    of_peer, of_mine, bump, functions = once(compute, POINTS)
    assert np.abs(of_peer - bump).min() > 0.01
    np.testing.assert_allclose(of_mine, bump, rtol=1e-12)
    assert np.abs(np.subtract(*functions)).max() <= 1e-8


def test_q_pseudo_spike_at_threshold():
    """The derivative of their function is 0 exactly at threshold, since sign(0) is; the bump is 1 there."""
    peer, mine = theirs.QPseudoSpike(), ours.QPseudoSpike()
    assert once(lambda x: (jax.grad(peer.surrogate_fun)(x), jax.grad(mine.surrogate_fun)(x), mine.surrogate_grad(x)), 0.0) == (0, 1, 1)


def test_whole_numbers_do_not_wrap():
    """Squaring minus a byte."""

    def bumps(x):
        return theirs.GaussianGrad().surrogate_grad(x), ours.GaussianGrad().surrogate_grad(x), ours.GaussianGrad().surrogate_grad(1.0)

    wrong, right, wanted = once(bumps, jnp.asarray([1], jnp.uint8))
    assert wrong[0] > 1e200
    np.testing.assert_allclose(right, wanted, rtol=1e-12)
