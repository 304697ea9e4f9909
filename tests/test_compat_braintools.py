"""Our surrogates under braintools' names beside braintools' own: the same calls and numbers, and each deliberate difference shown."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from tests.conftest import once

import spikegrad

_x64 = jax.config.jax_enable_x64
theirs = pytest.importorskip("braintools.surrogate")
jax.config.update("jax_enable_x64", _x64)  # brainstate, which braintools imports, switches it off

import brainstate  # noqa: E402
import brainunit as u  # noqa: E402

from spikegrad.compat.braintools import surrogate as ours  # noqa: E402

CLASSES = sorted(name for name in theirs.__all__ if name[0].isupper() and name != "Surrogate")
FUNCTIONS = sorted(name for name in theirs.__all__ if name[0].islower())
ALIASES = {"PiecewiseLeakyRelu": "alpha", "piecewise_leaky_relu": "alpha", "MultiGaussianGrad": "gamma", "multi_gaussian_grad": "gamma"}
"""Second names of a parameter, which ours takes by keyword because braintools' documentation uses them."""

SLOPES = [{}, {"alpha": 0.3}, {"alpha": 7.1}]
VALUES = {
    "Sigmoid": SLOPES,
    "PiecewiseQuadratic": [{}, {"alpha": 0.3}, {"alpha": 16.2}],
    "PiecewiseExp": SLOPES,
    "SoftSign": SLOPES,
    "Arctan": SLOPES,
    "NonzeroSignLog": SLOPES,
    "ERF": SLOPES,
    "PiecewiseLeakyRelu": [{}, {"c": 0.0, "w": 0.3}, {"c": 0.2, "w": 0.75}],
    "SquarewaveFourierSeries": [{}, {"n": 1, "t_period": 3.7}, {"n": 5}],
    "S2NN": [{}, {"alpha": 1.3, "beta": 0.2}, {"alpha": 7.1, "beta": 3.0, "epsilon": 1e-6}],
    "QPseudoSpike": [{}, {"alpha": 1.0}, {"alpha": 0.5}, {"alpha": 3.7}],
    "LeakyRelu": [{}, {"alpha": 0.3, "beta": 0.7}, {"alpha": -0.1, "beta": 0.0}],
    "LogTailedRelu": [{}, {"alpha": 0.3}],
    "ReluGrad": [{}, {"alpha": 1.7, "width": 0.6}],
    "GaussianGrad": [{}, {"sigma": 0.3, "alpha": 1.7}, {"sigma": 1.1, "alpha": 0.0}],
    "MultiGaussianGrad": [{}, {"h": 0.3, "s": 2.2, "sigma": 0.8, "scale": 1.0}, {"h": 0.0}],
    "InvSquareGrad": [{}, {"alpha": 1.0}, {"alpha": 7.1}],
    "SlayerGrad": SLOPES,
}
WITHOUT_FUNCTION = {"ReluGrad", "GaussianGrad", "MultiGaussianGrad", "InvSquareGrad", "SlayerGrad"}


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def points(values):
    """256 potentials: wherever a curve may bend or jump, with the neighbours of those places, and random ones."""
    bends = [1.0, 0.5, *(v for v in values.values() if v), *(1 / v for v in values.values() if abs(v) > 0.01)]
    bends = np.array([0.0, *bends, *(-b for b in bends)])
    special = np.concatenate([bends, np.nextafter(bends, 9.0), np.nextafter(bends, -9.0), [-0.0, 5e-324, -5e-324]])
    return np.concatenate([special, np.random.default_rng(7).normal(size=256 - len(special)) * 2])


def array(x):
    return np.asarray(x, np.float64)


def gradient(f, x):
    return jax.grad(lambda x: f(x).sum())(x)


def close(got, wanted, relative=1e-12, eps=2.0**-52, least=0.0):
    """To a relative error, and to the rounding of the curve's largest value where a curve is a difference of such values."""
    got, wanted = array(got), array(wanted)
    wrong = ~(np.abs(got - wanted) <= relative * np.abs(wanted) + 8 * eps * np.abs(wanted).max(initial=0) + least)
    assert not wrong.any(), f"got {got[wrong]}, expected {wanted[wrong]}"


def test_every_name_is_there():
    public = {name for name, value in vars(theirs).items() if getattr(value, "__module__", "").startswith("braintools.surrogate")}
    assert set(theirs.__all__) <= public
    assert public == set(ours.__all__)
    assert len(CLASSES) == len(FUNCTIONS) == 18
    assert set(VALUES) == set(CLASSES)
    for name in CLASSES:
        assert issubclass(getattr(ours, name), ours.Surrogate)


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_signature(name):
    def parameters(module):
        found = inspect.signature(getattr(module, name)).parameters.values()
        return [(p.name, p.default, p.kind) for p in found]

    mine = parameters(ours)
    if name in ALIASES:
        assert mine.pop() == (ALIASES[name], None, inspect.Parameter.KEYWORD_ONLY)
    assert mine == parameters(theirs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", CLASSES)
def test_value_and_gradient(name, dtype):
    """In float64 to 1e-12 of theirs; in other types as exact as the type allows, measured by theirs in float64 (see T-10)."""
    function = getattr(ours, next(f for f in FUNCTIONS if f.replace("_", "") == name.lower()))
    info, wide = ml_dtypes.finfo(dtype), max(2.0**-52, min(2.0**-23, float(ml_dtypes.finfo(dtype).eps)))
    relative = 1e-12 if dtype == "float64" else 2 * float(info.eps) + 8 * wide
    # 0.3 is not a number of the other types: see test_end_of_a_window.
    cases = [values for values in VALUES[name] if dtype == "float64" or values.get("w") != 0.3]
    xs = [points(values).astype(jnp.dtype(dtype)) for values in cases]

    def compute(values, x):
        mine, peer = getattr(ours, name)(**values), getattr(theirs, name)(**values)
        spikes = {"class": mine(x), "function": function(x, **values), "by name": function(x=x, **values), "theirs": peer(x)}
        slopes = {"class": gradient(mine, x), "function": gradient(lambda x: function(x, **values), x), "direct": mine.surrogate_grad(x)}
        return spikes, slopes, gradient(peer, x.astype(jnp.float64))

    for x, (spikes, slopes, wanted) in zip(xs, once(lambda xs: list(map(compute, cases, xs)), xs), strict=True):
        for got in spikes.values():
            assert got.dtype == x.dtype
            assert np.array_equal(array(got), array(spikes["theirs"]))  # XLA takes the smallest numbers below 0 for 0
        for got in slopes.values():
            assert got.dtype == x.dtype
            close(got, wanted, relative, wide, float(info.smallest_subnormal))


def test_positional_arguments():
    cases = {"S2NN": (3.0, 0.5, 1e-6), "GaussianGrad": (0.3, 1.7), "MultiGaussianGrad": (0.3, 2.2, 0.8, 1.0)}

    def gradients(module, x):
        return [
            *(gradient(getattr(module, name)(*given), x) for name, given in cases.items()),
            gradient(lambda x: module.relu_grad(x, 1.7, 0.6), x),
        ]

    for got, wanted in zip(*once(lambda x: (gradients(ours, x), gradients(theirs, x)), np.linspace(-1, 1, 9)), strict=True):
        close(got, wanted)


def test_end_of_a_window():
    """The potential 0.3 of float32 lies inside a window of 0.3, for both; that of bfloat16, 0.30078, outside, since ours is exact."""
    peer, mine = theirs.PiecewiseLeakyRelu(c=0.0, w=0.3), ours.PiecewiseLeakyRelu(c=0.0, w=0.3)
    for dtype, of_theirs, of_ours in (("float32", 1 / 0.6, 1 / 0.6), ("bfloat16", 1.664, 0.0)):
        slopes = once(lambda x: (gradient(peer, x), gradient(mine, x)), jnp.asarray([0.3], dtype))
        assert array(slopes[0]) == pytest.approx(of_theirs, rel=1e-3)
        assert array(slopes[1]) == pytest.approx(of_ours, rel=1e-3)


@pytest.mark.parametrize("name", CLASSES)
def test_surrogate_fun(name):
    """The same function, to the constant, where braintools has one (B-7), and the antiderivative of the gradient in every case."""
    cases, inside = VALUES[name], slice(60, None)  # at the bends the derivative of a piecewise function is a matter of taste

    def compute(values, x):
        mine, peer = getattr(ours, name)(**values), getattr(theirs, name)(**values)
        peer.epsilon = 0.0  # S2NN: see test_s2nn_epsilon
        wanted = None if name in WITHOUT_FUNCTION else peer.surrogate_fun(x)
        return mine.surrogate_fun(x), wanted, gradient(mine.surrogate_fun, x), mine.surrogate_grad(x)

    for got, wanted, slope, bump in once(lambda xs: list(map(compute, cases, xs)), list(map(points, cases))):
        np.testing.assert_allclose(slope[inside], bump[inside], rtol=1e-9, atol=1e-12)
        if wanted is not None:
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


def test_scalars_and_numpy():
    """What braintools takes beside JAX arrays gives the same array of the same dtype; whole numbers stay whole and have no gradient."""
    given = [0.3, -0.3, 1, -1, np.float32(0.2), np.float64(-0.2), np.array([0.1, -0.2]), np.arange(2) - 1, np.zeros((2, 0))]
    given += [jnp.arange(2) - 1, jnp.asarray([1, 0], jnp.uint8), np.array([0.5, -0.5], ml_dtypes.bfloat16), np.array([0.5], np.float16)]
    cases = [(name, x) for x in given for name in ("Sigmoid", "SlayerGrad")]

    def everything():  # the numbers and arrays are not its arguments, which would be arrays of JAX
        made = [(getattr(ours, name)(), getattr(theirs, name)(), x) for name, x in cases]
        assert all(isinstance(mine(x), jax.Array) for mine, _, x in made)
        return [((mine(x), peer(x)), (mine.surrogate_grad(x), peer.surrogate_grad(x))) for mine, peer, x in made]

    for (mine, peer), (grad, wanted) in once(everything):
        assert (mine.dtype, mine.shape) == (peer.dtype, peer.shape)
        assert np.array_equal(mine, peer)
        if grad.dtype.itemsize == 8:
            close(grad, wanted)
    assert isinstance(ours.Sigmoid()(0.3), jax.Array)
    with pytest.raises(TypeError, match="requires real- or complex-valued inputs"):
        jax.grad(ours.Sigmoid())(1)
    with pytest.raises(TypeError, match=r"must be a JAX or NumPy array or a number, got builtins.list"):
        ours.Sigmoid()([0.1])
    with pytest.raises(TypeError, match=r"got complex64; convert it with x.astype\('float32'\)"):
        ours.Sigmoid()(jnp.asarray([1j], jnp.complex64))


class Mine(ours.Surrogate):
    """A user's class: the derivative of an arctangent, which is the catalogue's ATan."""

    def __init__(self, alpha=2.0):
        super().__init__()
        self.alpha = alpha

    def surrogate_fun(self, x):
        return jnp.arctan(jnp.pi / 2 * self.alpha * x) / jnp.pi + 0.5

    def surrogate_grad(self, x):
        return self.alpha / 2 / (1 + (jnp.pi / 2 * self.alpha * x) ** 2)


class Theirs(theirs.Surrogate):
    def __init__(self, alpha=2.0):
        super().__init__()
        self.alpha = alpha

    surrogate_grad = Mine.surrogate_grad


def scanned(f, x):
    return jax.grad(lambda x: jax.lax.scan(lambda carry, x: (carry + f(x), None), x[0] * 0, x)[0])(x)


ONLY_JAX = {
    "vjp": ("first", lambda jax, f, x: jax.vjp(f, x)[1](x * 0 + 1)[0]),
    "linearize": ("first", lambda jax, f, x: jax.linearize(f, x)[1](x * 0 + 1)),
    "checkpoint": ("first", lambda jax, f, x: gradient(jax.checkpoint(f), x)),
    "checkpoint, twice": ("second", lambda jax, f, x: jax.vmap(jax.grad(jax.grad(jax.checkpoint(f))))(x)),
    "scan": ("first", lambda jax, f, x: scanned(f, x)),
    "jit of jit": ("first", lambda jax, f, x: gradient(jax.jit(f), x)),
}


@pytest.mark.parametrize("made", [Mine, ours.Arctan], ids=["own", "named"])
@pytest.mark.parametrize("parameter", ["number", "array", "traced", "per neuron"])
def test_transforms(made, parameter, points, transforms, expected):
    """Every transform to second order, of a user's class and of a named one, whatever its parameter is."""
    table = {**transforms, **ONLY_JAX}

    def everything(x, alpha):
        spike = made(alpha)
        if parameter == "per neuron":  # 8 values of alpha, mapped with x wherever x is mapped
            assert alpha.shape == x.shape
            return {"grad": gradient(spike, x), "hessian": jax.hessian(lambda x: spike(x).sum())(x).sum(0), "scan": scan_rows(spike, x)}
        return {name: run(jax, spike, x) for name, (_, run) in table.items()}

    def scan_rows(spike, x):
        return jax.grad(lambda x: jax.lax.scan(lambda c, x: (c + spike(x).sum(), None), 0.0, jnp.stack([x, x]))[0])(x) / 2

    alpha = {"number": 2.0, "array": jnp.asarray(2.0), "traced": jnp.asarray(2.0), "per neuron": jnp.full(8, 2.0)}[parameter]
    x, fixed = jnp.asarray(points), parameter in ("number", "array")
    run = (lambda x, _: everything(x, alpha)) if fixed else everything
    got = once(run, x, jnp.asarray(alpha))
    wanted = expected(spikegrad.ATan(2.0), points)
    for name, value in got.items():
        wanted[table[name][0]].check(array(value), "float64", name)


SPIKES = {"own": Mine(), "named": ours.Arctan(alpha=2.0), "with an array": ours.Arctan(alpha=np.full((), 2.0))}
WITHOUT_JIT = [
    pytest.param(name, made, marks=() if (place + turn) % 3 == 0 else pytest.mark.slow)
    for place, name in enumerate(("grad", "vmap(grad)", "vmap over columns", "jvp", "jacfwd", "hessian"))
    for turn, made in enumerate(SPIKES)
]
"""Each transform of one of them in turn, since every operation compiles by itself; of all when there is time. `test_transforms` has all."""


@pytest.mark.parametrize(("name", "made"), WITHOUT_JIT)
def test_transforms_without_jit(name, made, points, transforms, expected):
    order, run = transforms[name]
    expected(spikegrad.ATan(2.0), points)[order].check(array(run(jax, SPIKES[made], jnp.asarray(points))), "float64", name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32"])
def test_own_class_spikes_like_theirs(dtype):
    """At threshold too, in the dtype given; its gradient is what the class says, computed in that dtype as there."""
    x = np.append(points({}), [1.0, 0.0, -1.0]).astype(jnp.dtype(dtype))
    whole = dtype == "int32"
    mine, peer, *slopes = once(lambda x: [f(x) for f in (Mine(), Theirs())] + [gradient(f, x) for f in (Mine(), Theirs()) if not whole], x)
    assert mine.dtype == peer.dtype == x.dtype
    assert np.array_equal(array(mine), array(peer))
    assert mine[-2] == 1
    if not whole:
        assert slopes[0].dtype == x.dtype
        close(*slopes, eps=float(ml_dtypes.finfo(dtype).eps))


def test_mapped_over_a_parameter():
    """The potential stays, the slope varies: as when one looks for the best."""
    x, slopes = points({})[:20], np.array([0.5, 2.0, 8.0])

    def compute(made, x, slopes):
        return jax.vmap(lambda a: gradient(made(a), x))(slopes), jax.vmap(lambda a: made(a)(x))(slopes)

    for mine, peer in ((ours.Arctan, theirs.Arctan), (Mine, Theirs)):
        (slope, spikes), (wanted, peers) = once(lambda x, a, m=mine, p=peer: (compute(m, x, a), compute(p, x, a)), x, slopes)
        np.testing.assert_allclose(slope, wanted, rtol=1e-12)
        assert spikes.shape == (3, 20)
        assert np.array_equal(spikes, peers)


def test_first_derivatives_are_those_of_braintools(points):
    def compute(x, f):
        return [
            gradient(f, x),
            jax.jvp(f, (x,), (x,))[1],
            jax.vmap(jax.vmap(jax.grad(f)), 1, 1)(x.reshape(2, 4)),
            jax.jacfwd(f)(x),
            scanned(f, x),
            gradient(jax.checkpoint(f), x),
        ]

    pairs = [(Mine(), Theirs()), (ours.Sigmoid(), theirs.Sigmoid()), (ours.S2NN(beta=2.0), theirs.S2NN(beta=2.0))]
    for mine, peer in pairs:
        for got, wanted in zip(*once(lambda x, m=mine, p=peer: (compute(x, m), compute(x, p)), points), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_may_be_arrays(name):
    """Per neuron, as braintools allows: what one surrogate per neuron gives, and theirs."""
    numbers = VALUES[name][-1] | {"SquarewaveFourierSeries": {"t_period": 3.7}}.get(name, {})
    each = [{parameter: v if parameter == "n" else v * factor for parameter, v in numbers.items()} for factor in (1.0, 1.25, 0.5)]
    together = {parameter: np.array([values[parameter] for values in each]) for parameter in numbers if parameter != "n"}
    fixed = {parameter: v for parameter, v in numbers.items() if parameter == "n"}
    x = points(numbers)[:255].reshape(85, 3)

    def compute(x, arrays):
        mine = getattr(ours, name)(**fixed, **arrays)
        got = {"grad": gradient(mine, x), "surrogate_grad": mine.surrogate_grad(x), "surrogate_fun": mine.surrogate_fun(x)}
        alone = [getattr(ours, name)(**values) for values in each]
        wanted = {
            "grad": [gradient(spike, x[:, column]) for column, spike in enumerate(alone)],
            "surrogate_grad": [spike.surrogate_grad(x[:, column]) for column, spike in enumerate(alone)],
            "surrogate_fun": [spike.surrogate_fun(x[:, column]) for column, spike in enumerate(alone)],
        }
        peer = getattr(theirs, name)(**fixed, **arrays)
        of_numpy = getattr(ours, name)(**fixed, **together)
        narrow = (
            gradient(mine, x.astype(jnp.bfloat16)),
            mine.surrogate_grad(x.astype(jnp.float32)),
            mine.surrogate_fun(x.astype(jnp.float16)),
        )
        return (mine(x), peer(x)), got, wanted, gradient(peer, x), gradient(of_numpy, x), narrow

    spikes, got, wanted, peer, of_numpy, narrow = once(compute, x, together)
    assert np.array_equal(*spikes)
    for what, columns in wanted.items():
        for column, alone in enumerate(columns):
            close(got[what][:, column], alone)
    close(got["grad"], peer)
    close(got["grad"], of_numpy)
    assert [value.dtype for value in narrow] == [jnp.bfloat16, jnp.float32, jnp.float16]
    mine = getattr(ours, name)(**fixed, **together)
    with pytest.raises(ValueError, match=f"{name}.* holds an array"):
        _ = mine.spikegrad


@pytest.mark.parametrize("name", CLASSES)
def test_stands_for_a_surrogate_of_spikegrad(name):
    spike, x = getattr(ours, name)(**VALUES[name][-1]), np.linspace(-2, 2, 41)
    assert isinstance(spike.spikegrad, spikegrad.Surrogate)
    np.testing.assert_allclose(spike.spikegrad.derivative(x), once(spike.surrogate_grad, x), rtol=1e-13, atol=1e-15)


def test_subclass_of_a_named_surrogate():
    class Halved(ours.Sigmoid):
        def __init__(self, alpha=4.0, factor=0.5):
            super().__init__(alpha)
            self.factor = factor

        def surrogate_grad(self, x):
            return self.factor * super().surrogate_grad(x)

    assert Halved() == Halved()
    assert Halved() != ours.Sigmoid()
    replaced, steeper = ours.Sigmoid(), ours.Sigmoid()
    replaced.surrogate_grad = lambda x: jnp.ones_like(x)
    steeper.alpha = 2.0
    spikes = Halved(), ours.Sigmoid(), replaced, steeper, ours.Sigmoid(2.0)
    halved, whole, ones, *alike = once(lambda x: [gradient(spike, x) for spike in spikes], np.linspace(-1, 1, 5))
    assert np.array_equal(halved, 0.5 * np.asarray(whole))
    assert np.array_equal(ones, np.ones(5))
    assert np.array_equal(*alike)
    assert not np.array_equal(whole, alike[0])


def test_pickles_copies_and_prints():
    for name in CLASSES:
        for spike in (getattr(ours, name)(**VALUES[name][-1]), getattr(ours, name)()):
            assert pickle.loads(pickle.dumps(spike)) == spike == copy.deepcopy(spike) == eval(repr(spike), vars(ours))
    for name in FUNCTIONS:
        assert pickle.loads(pickle.dumps(getattr(ours, name))) is getattr(ours, name)
    held = ours.Sigmoid(alpha=jnp.asarray([1.0, 2.0]))
    assert pickle.loads(pickle.dumps(held)) == held
    assert pickle.loads(pickle.dumps(Mine(3.0))) == Mine(3.0)
    assert repr(Mine(3.0)) == "Mine(alpha=3.0)"


def test_refused():
    cases = [
        (ValueError, "`alpha` of Sigmoid must be positive, got -1.0", lambda: ours.Sigmoid(-1.0)),
        (ValueError, "`alpha` of ERF must be positive, got nan", lambda: ours.erf(0.1, float("nan"))),
        (ValueError, "`alpha` of ERF must be finite, got inf", lambda: ours.ERF(float("inf"))),
        (ValueError, "`beta` of LeakyRelu must be a number, got nan", lambda: ours.LeakyRelu(beta=float("nan"))),
        (ValueError, "`c` of PiecewiseLeakyRelu must be zero or positive, got -0.1", lambda: ours.PiecewiseLeakyRelu(-0.1)),
        (ValueError, "`n` of SquarewaveFourierSeries must be a whole number of at least 1, got 0", lambda: ours.SquarewaveFourierSeries(0)),
        (ValueError, "`n` of SquarewaveFourierSeries must be a whole number", lambda: ours.SquarewaveFourierSeries(2.5)),
        (TypeError, "`alpha` of Sigmoid must be a number or an array, got str", lambda: ours.Sigmoid("steep")),
        (TypeError, "`alpha` of Sigmoid must be a number or an array, got list", lambda: ours.Sigmoid([1.0])),
        (TypeError, "`alpha` is another name for `w`; give one of them, got w=2.0", lambda: ours.PiecewiseLeakyRelu(w=2.0, alpha=1.0)),
        (TypeError, "`gamma` is another name for `scale`", lambda: ours.MultiGaussianGrad(scale=jnp.ones(2), gamma=1.0)),
        (TypeError, "unexpected keyword argument 'beta'", lambda: ours.sigmoid(0.1, beta=1.0)),
        (NotImplementedError, "Surrogate must define `surrogate_grad", lambda: ours.Surrogate()(0.1)),
        (NotImplementedError, "Surrogate does not define `surrogate_fun", lambda: ours.Surrogate().surrogate_fun(0.1)),
    ]
    for kind, words, call in cases:
        with pytest.raises(kind) as caught:
            call()
        assert words in str(caught.value)


def test_gradient_of_the_wrong_shape_is_told():
    class Wrong(ours.Surrogate):
        def surrogate_grad(self, x):
            return jnp.ones((2, 3))

    with pytest.raises(ValueError, match=r"`surrogate_grad` of Wrong must return .* shape of `x`, \(3,\), got shape \(2, 3\)"):
        Wrong()(jnp.zeros(3))
    assert np.array_equal(once(lambda x: gradient(Wrong(), x), np.zeros((4, 2, 3))), np.ones((4, 2, 3)))


def test_a_gradient_that_cannot_be_differentiated_is_possible():
    """From outside of JAX, say: behind a stop_gradient, as braintools does it for everyone."""

    class Table(ours.Surrogate):
        def surrogate_grad(self, x):
            x = jax.lax.stop_gradient(x)
            return jax.pure_callback(lambda x: np.exp(-np.abs(x)), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    x = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(once(lambda x: gradient(Table(), x), x), np.exp(-np.abs(x)))


def test_functions_have_examples_that_run():
    import doctest

    for name in FUNCTIONS:
        finder = doctest.DocTestFinder()
        (example,) = finder.find(getattr(ours, name), name, globs=vars(ours), module=False)
        assert doctest.DocTestRunner().run(example).failed == 0


class Neurons(brainstate.nn.Module):
    """Leaky neurons in millivolts, as brainstate's users write them: the surrogate comes in as `spk_fun`."""

    def __init__(self, size, spk_fun):
        super().__init__()
        self.weight = brainstate.ParamState(jnp.linspace(-3, 9, 4 * size).reshape(4, size))
        self.v, self.spk_fun, self.v_th = brainstate.HiddenState(jnp.full(size, -65.0) * u.mV), spk_fun, -50.0 * u.mV

    def update(self, x):
        v = self.v.value + (-65.0 * u.mV - self.v.value) * 0.1 + (x @ self.weight.value) * u.mV
        spikes = self.spk_fun((v - self.v_th) / (10.0 * u.mV))
        self.v.value = v - jax.lax.stop_gradient(spikes) * 15.0 * u.mV
        return spikes


MADE = {
    "named": lambda module: module.Sigmoid(),
    "negative lobes": lambda module: module.MultiGaussianGrad(),
    "own": lambda module: Mine(1.0) if module is ours else Theirs(1.0),
    "spikegrad itself": lambda module: spikegrad.Sigmoid(4.0) if module is ours else theirs.Sigmoid(4.0),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_inside_brainstate(make):
    """The same network with our surrogate and with theirs: potentials in units, for_loop, jit, grad and vmap of brainstate."""
    x = jnp.asarray(np.random.default_rng(0).random((30, 4)))

    def run(module):
        neurons = Neurons(5, make(module))

        @brainstate.transform.jit
        def loss(x):
            neurons.v.value = jnp.full(5, -65.0) * u.mV
            spikes = brainstate.transform.for_loop(neurons.update, x)
            return (spikes.mean(0) ** 2).sum(), spikes

        weights = neurons.states(brainstate.ParamState)
        gradients, value, spikes = brainstate.transform.grad(loss, weights, has_aux=True, return_value=True)(x)
        return array(value), array(spikes), array(next(iter(gradients.values())))

    mine, peer = run(ours), run(theirs)
    assert 0.05 < mine[1].mean() < 0.95
    assert np.abs(mine[2]).min() > 0
    for got, wanted in zip(mine, peer, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_module_with_a_surrogate_is_copied_printed_and_taken_apart():
    neurons = Neurons(3, ours.Sigmoid(alpha=2.0))
    assert "Sigmoid(alpha=2.0)" in repr(neurons)
    assert copy.deepcopy(neurons).spk_fun == neurons.spk_fun
    graph, state = brainstate.graph.treefy_split(neurons)
    assert brainstate.graph.treefy_merge(graph, state).spk_fun == neurons.spk_fun
    close(*once(lambda x: (brainstate.transform.vector_grad(ours.Sigmoid())(x), theirs.Sigmoid().surrogate_grad(x)), np.linspace(-1, 1, 5)))


CLASSES = [name for name in theirs.__all__ if isinstance(getattr(theirs, name), type) and name != "Surrogate"]


@pytest.mark.parametrize("name", CLASSES)
def test_printed_as_in_braintools(name):
    assert repr(getattr(ours, name)()) == repr(getattr(theirs, name)())
