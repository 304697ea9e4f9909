"""sinabs's activations under their own names: equal to the installed sinabs but for its defects, each of which is shown beside ours.

The numbers of the defects (I-1, T-4 ...) are those of docs/migrating.md.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import math
import pickle

import pytest
import torch

import spikegrad
from spikegrad import nn
from spikegrad.compat.sinabs import activation as ours
from spikegrad.compat.sinabs import adapt

theirs = pytest.importorskip("sinabs").activation
layers = importlib.import_module("sinabs.layers")

PUBLIC = {name: value for name, value in vars(theirs).items() if inspect.isclass(value)}
GRADIENTS = sorted(name for name, value in PUBLIC.items() if value.__module__.endswith("surrogate_gradient_fn"))
# Arguments to compare at, besides the defaults. A gradient of sinabs that is missing here fails the comparison.
ARGUMENTS = {
    "Gaussian": [(0.3, 0.7, 2.0), (-0.1, 0.2, -1.0)],
    "Heaviside": [(0.5,), (0.0,)],
    "MultiGaussian": [(0.4, 0.7, 0.2, 3.0, 1.5)],
    "PeriodicExponential": [(0.3, 2.0), (1.1, -0.5)],
    "SingleExponential": [(0.3, 2.0), (1.5, -1.0)],
}
CASES = [(name, a) for name in GRADIENTS for a in [(), *ARGUMENTS[name]]]
FLOAT32 = {"Gaussian": 1e-7, "MultiGaussian": 1e-7, "Heaviside": 1e-7}  # T-3: their normaliser; the window as a float32
SPIKES = {"SingleSpike": [()], "MultiSpike": [()], "MaxSpike": [(), (2,)]}


def spike_fn(module, name, arguments=()):
    """A class or, for MaxSpike, an instance, as the layers take it."""
    return getattr(module, name)(*arguments) if name == "MaxSpike" else getattr(module, name)


def points(theta=1.0, dtype=torch.float64):
    """Multiples of the threshold and their halves, where the curves have kinks, and random potentials."""
    kinks = torch.arange(-4, 13, dtype=torch.float64) / 2 * theta
    return torch.cat([kinks, torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 * theta]).to(dtype)


def gradient_of(f, *tensors):
    tensors = [t.clone().requires_grad_() for t in tensors]
    out = f(*tensors)
    weights = torch.randint(-8, 9, out.shape, generator=torch.Generator().manual_seed(5)) / 4
    return out.detach(), torch.autograd.grad(out, tensors, weights.to(out.dtype), allow_unused=True)


def test_every_name_is_there():
    assert len(PUBLIC) == 12
    assert {*ARGUMENTS} == {*GRADIENTS}
    for name, peer in PUBLIC.items():
        mine = getattr(ours, name)
        assert mine.__doc__
        # Also where sinabs keeps it.
        module = importlib.import_module(peer.__module__.replace("sinabs", "spikegrad.compat.sinabs"))
        assert getattr(module, name) is mine
        if dataclasses.is_dataclass(peer):
            fields = [(f.name, f.default) for f in dataclasses.fields(mine) if not f.kw_only]
            assert fields == [(f.name, f.default) for f in dataclasses.fields(peer)]
        if hasattr(peer, "required_states") and not isinstance(peer.required_states, property):
            assert mine.required_states == peer.required_states
    assert ours.MaxSpike().required_states == theirs.MaxSpike().required_states
    for name in ("SingleSpike", "MultiSpike"):
        names = list(inspect.signature(getattr(ours, name).apply).parameters)
        assert names == list(inspect.signature(getattr(theirs, name).forward).parameters)[1:]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("theta", [1.0, 2.0, 0.75])
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_gradients_equal_sinabs(name, arguments, theta, dtype):
    dtype = getattr(torch, dtype)
    v = points(theta, dtype)
    mine, peer = getattr(ours, name)(*arguments), getattr(theirs, name)(*arguments)
    wide = v.double() if dtype.itemsize < 4 else v
    expected = peer(wide, theta).double()
    tolerance = {torch.float64: FLOAT32.get(name, 1e-12), torch.float32: 2e-5}.get(dtype, 2 * torch.finfo(dtype).eps)
    size = torch.finfo(dtype).smallest_normal + (expected.abs().max() * tolerance if name == "MultiGaussian" else 0)
    per_neuron = torch.full_like(v, theta)
    for threshold in (theta, torch.tensor(theta), torch.nn.Parameter(torch.tensor(theta)), per_neuron):
        value = mine(v, threshold)
        assert value.dtype == dtype
        torch.testing.assert_close(value.detach().double(), expected, rtol=tolerance, atol=float(size))
    # The same as a surrogate of potential minus threshold.
    torch.testing.assert_close(mine.at(theta).derivative(v.double() - theta), mine(v.double(), theta), rtol=1e-12, atol=1e-300)
    assert adapt(mine.at(theta))(v, theta).dtype == dtype


@pytest.mark.parametrize("fn", GRADIENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("theta", [1.0, 0.75])
@pytest.mark.parametrize(("name", "arguments"), [(n, a) for n, all_ in SPIKES.items() for a in all_], ids=str)
def test_spikes_equal_sinabs(name, arguments, theta, dtype, fn):
    v = points(theta, dtype)
    for threshold in (theta, torch.tensor(theta, dtype=dtype)):
        mine = gradient_of(lambda v, t=threshold: spike_fn(ours, name, arguments).apply(v, t, getattr(ours, fn)()), v)
        peer = gradient_of(lambda v, t=threshold: spike_fn(theirs, name, arguments).apply(v, t, getattr(theirs, fn)()), v)
        assert mine[0].dtype == dtype
        assert torch.equal(mine[0], peer[0].to(dtype))
        tolerance = FLOAT32.get(fn, 1e-12) if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(mine[1][0], peer[1][0], rtol=tolerance, atol=tolerance if fn == "MultiGaussian" else 1e-38)


LAYERS = {
    "LIF": lambda **how: layers.LIF(tau_mem=8.0, **how),
    "LIF with synapse": lambda **how: layers.LIF(tau_mem=8.0, tau_syn=4.0, norm_input=False, **how),
    "IAF": lambda **how: layers.IAF(**how),
    "LIFRecurrent": lambda **how: layers.LIFRecurrent(tau_mem=8.0, rec_connect=recurrent(), **how),
}


def recurrent():
    connect = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.constant_(connect.weight, 0.1)
    return connect


def through(layer):
    """Spikes of a sinabs layer, (batch, time, features), and the gradients of its input and its parameters."""
    drive = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(2)).mul(2.0).add(0.8).requires_grad_()
    spikes = layer(drive)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    weights = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(7))
    return spikes.detach(), torch.autograd.grad((spikes * weights).sum(), [drive, *parameters])


@pytest.mark.parametrize("part", ["surrogate_grad_fn", "spike_fn", "reset_fn", "all"])
@pytest.mark.parametrize("fn", GRADIENTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_inside_sinabs_layers(layer, fn, part):
    def made(module, name, *arguments):
        chosen = module if part in (name, "all") else theirs
        return {
            "surrogate_grad_fn": lambda: getattr(chosen, fn)(),
            "spike_fn": lambda: chosen.MultiSpike if layer != "IAF" else chosen.MaxSpike(2),
            "reset_fn": lambda: chosen.MembraneSubtract(),
        }[name]()

    mine, peer = (
        LAYERS[layer](**{name: made(module, name) for name in ("surrogate_grad_fn", "spike_fn", "reset_fn")}) for module in (ours, theirs)
    )
    peer.load_state_dict(mine.state_dict())
    (spikes, gradients), (their_spikes, their_gradients) = through(mine), through(peer)
    assert 0.02 < spikes.mean() < 3
    assert torch.equal(spikes, their_spikes)
    for gradient, expected in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("MembraneReset", ()), ("MembraneReset", (0.0,)), ("MembraneSubtract", ()), ("MembraneSubtract", (0.7,))],
    ids=str,
)
def test_resets_equal_sinabs(name, arguments):
    """A reset to another value than 0 is wrong in sinabs: see test_i1."""
    state = {"v_mem": points(), "i_syn": torch.ones(3)}
    spikes = theirs.MultiSpike.apply(points(), 1.0, theirs.SingleExponential()).double()
    mine, peer = (getattr(module, name)(*arguments)(spikes, state, 1.0) for module in (ours, theirs))
    assert torch.equal(mine["v_mem"], peer["v_mem"])
    assert mine["i_syn"] is state["i_syn"]
    assert torch.equal(state["v_mem"], points())


@pytest.mark.parametrize("name", ["Quantize", "StochasticRounding"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_rounding_equals_sinabs(name, dtype):
    def seeded(module):
        def apply(x):
            torch.manual_seed(0)
            return getattr(module, name).apply(x)

        return apply

    x = points(dtype=getattr(torch, dtype))
    mine, peer = gradient_of(seeded(ours), x), gradient_of(seeded(theirs), x)
    assert mine[0].dtype == mine[1][0].dtype == x.dtype
    if name == "Quantize" or x.dtype.itemsize > 2:  # theirs draws in half precision
        assert torch.equal(mine[0], peer[0].to(x.dtype))
    assert torch.equal(mine[1][0], peer[1][0])
    assert ((mine[0] == x.floor()) | (mine[0] == x.ceil())).all()


def test_stochastic_rounding_has_a_generator_and_is_unbiased():
    x = torch.full((100_000,), 0.125, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    untouched = torch.rand(1)
    torch.manual_seed(0)
    first = ours.StochasticRounding.apply(x, generator)
    assert torch.rand(1) == untouched
    assert torch.equal(first, ours.StochasticRounding.apply(x, generator.manual_seed(1)))
    assert first.float().mean().item() == pytest.approx(0.125, abs=0.005)
    with pytest.raises(NotImplementedError):
        theirs.StochasticRounding.apply(torch.tensor([1]))
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch.int64; convert it with x.float\(\)"):
        ours.StochasticRounding.apply(torch.tensor([1]))


@pytest.mark.parametrize(("name", "arguments"), [*CASES, ("MaxSpike", (3,)), ("MembraneReset", (0.5,)), ("MembraneSubtract", ())], ids=str)
def test_is_a_value(name, arguments):
    mine = getattr(ours, name)(*arguments)
    assert mine == getattr(ours, name)(*arguments) == pickle.loads(pickle.dumps(mine)) == copy.deepcopy(mine)
    assert hash(mine) == hash(getattr(ours, name)(*arguments))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(mine, dataclasses.fields(mine)[0].name, 1.0)
    with pytest.raises(TypeError, match="unhashable"):
        hash(getattr(theirs, name)(*arguments))


@pytest.mark.parametrize("name", SPIKES)
def test_layers_copy_and_pickle(name):
    layer = layers.LIF(tau_mem=8.0, spike_fn=spike_fn(ours, name), reset_fn=ours.MembraneReset(), surrogate_grad_fn=ours.Gaussian())
    expected = through(copy.deepcopy(layer))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(through(copied)[0], expected[0])


# What differs on purpose: the number of the defect, what sinabs does, what ours does.


@pytest.mark.parametrize("name", SPIKES)
def test_t1_t2_spikes_have_the_dtype_of_the_potential(name):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        v = points(dtype=dtype)
        mine, peer = (spike_fn(m, name).apply(v, 1.0, m.SingleExponential()) for m in (ours, theirs))
        assert (mine.dtype, peer.dtype) == (dtype, torch.float32)
        assert torch.equal(mine, peer.to(dtype))

    def change(module):
        v = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
        s = spike_fn(module, name).apply(v, 1.0, module.SingleExponential()).double().sum()
        one, other = (torch.autograd.grad(s * scale, v, retain_graph=True)[0] for scale in (1, 1 + 1e-9))
        return (other / one - 1).item()

    assert change(theirs) == 0
    assert change(ours) == pytest.approx(1e-9, rel=1e-5)


def test_t3_constants_are_not_float32():
    v = torch.tensor([1.1], dtype=torch.float64)
    exact = math.exp(-(0.1**2) / (2 * 0.3**2)) / (0.3 * math.sqrt(2 * math.pi))
    assert abs(theirs.Gaussian(sigma=0.3)(v, 1.0).item() / exact - 1) > 1e-10
    assert ours.Gaussian(sigma=0.3)(v, 1.0).item() == pytest.approx(exact, rel=2e-15)


@pytest.mark.parametrize("name", SPIKES)
def test_t4_every_transform_applies(name):
    def fire(module, v):
        return spike_fn(module, name).apply(v, 1.0, module.SingleExponential())

    v = points()
    expected = ours.SingleExponential()(v, 1.0)
    for transformed in (
        torch.func.vmap(torch.func.grad(lambda v: fire(ours, v))),
        lambda v: torch.func.jvp(lambda v: fire(ours, v), (v,), (torch.ones_like(v),))[1],
        torch.compile(torch.func.grad(lambda v: fire(ours, v).sum()), backend="aot_eager", fullgraph=True),
    ):
        torch.testing.assert_close(transformed(v), expected, rtol=1e-13, atol=0)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda v: fire(theirs, v).sum())(v)


@pytest.mark.parametrize("name", SPIKES)
def test_t5_second_derivatives(name):
    def second_of_square(module):
        v = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
        s = spike_fn(module, name).apply(v, 1.0, module.SingleExponential())
        (first,) = torch.autograd.grad((s**2).sum(), v, create_graph=True)
        return torch.autograd.grad(first.sum(), v)[0].item()

    g = 2 * math.exp(-2 * 0.3)  # and g' = -2 g, s = 1
    assert second_of_square(theirs) == pytest.approx(2 * g**2, rel=1e-6)  # g' is lost
    assert second_of_square(ours) == pytest.approx(2 * g**2 - 4 * g, rel=1e-13)


@pytest.mark.parametrize(("name", "gradient"), [("SingleSpike", ours.Gaussian(0.2, 0.4)), ("MultiSpike", ours.PeriodicExponential())])
def test_t5_t6_mixed_derivatives_are_those_of_a_gradient(name, gradient):
    """What is differentiated twice in either order is the same, and what autograd says of the first derivatives is what they do."""
    v = torch.tensor([0.4, 1.3, 2.6], dtype=torch.float64)
    theta = torch.tensor([1.0, 0.9, 1.2], dtype=torch.float64)

    def first(v, theta):
        v, theta = v.requires_grad_(), theta.requires_grad_()
        s = spike_fn(ours, name).apply(v, theta, gradient).sum()
        return torch.autograd.grad(s, (v, theta), create_graph=True)

    by_v, by_theta = first(v.clone(), theta.clone())
    h = 1e-6
    a, b = v.clone().requires_grad_(), theta.clone().requires_grad_()
    s = spike_fn(ours, name).apply(a, b, gradient).sum()
    d = torch.autograd.grad(s, (a, b), create_graph=True)
    numeric = (first(v + h, theta.clone())[0] - first(v - h, theta.clone())[0]) / (2 * h)
    torch.testing.assert_close(torch.autograd.grad(d[0].sum(), a, retain_graph=True)[0], numeric, rtol=1e-6, atol=1e-8)
    if name == "SingleSpike":
        assert torch.equal(by_theta, -by_v)  # unchanged if both rise alike
    else:
        torch.testing.assert_close(v * by_v + theta * by_theta, torch.zeros_like(v), rtol=0, atol=1e-14)  # unchanged if both double


def test_t6_a_threshold_learns():
    theta = torch.tensor(1.0, requires_grad=True)
    v = torch.tensor([0.7, 2.4], requires_grad=True)
    theirs.MultiSpike.apply(v, theta, theirs.SingleExponential()).sum().backward()
    assert theta.grad is None
    ours.MultiSpike.apply(v, theta, ours.SingleExponential()).sum().backward()
    gradient = ours.SingleExponential()(v.detach(), 1.0)
    torch.testing.assert_close(theta.grad, -(v.detach() * gradient).sum())
    # A layer that holds its threshold still leaves it without one.
    layer = layers.LIF(tau_mem=8.0, spike_fn=ours.MultiSpike)
    layer(torch.ones(1, 5, 2)).sum().backward()
    assert layer.spike_threshold.grad is None
    layer.spike_threshold.requires_grad_()
    layer.reset_states()
    layer(torch.full((1, 5, 2), 4.0)).sum().backward()
    assert layer.spike_threshold.grad < 0


def test_t6_adaptive_neurons_train_their_adaptation():
    """ALIF's threshold is a function of its past spikes; with sinabs's spike function no gradient reaches it, with ours it does."""

    def run(spike_fn, surrogate_grad_fn):
        layer = layers.ALIF(tau_mem=8.0, tau_adapt=6.0, spike_fn=spike_fn, surrogate_grad_fn=surrogate_grad_fn)
        return through(layer)

    peer = run(theirs.SingleSpike, theirs.SingleExponential())
    same = run(theirs.SingleSpike, ours.SingleExponential())
    mine = run(ours.SingleSpike, ours.SingleExponential())
    assert torch.equal(peer[0], same[0])
    assert torch.equal(peer[0], mine[0])
    torch.testing.assert_close(same[1][0], peer[1][0], rtol=2e-5, atol=2e-6)
    assert (mine[1][0] - peer[1][0]).abs().max() > 0.01


@pytest.mark.parametrize("name", SPIKES)
def test_t12_t13_nan_stays_nan_and_infinity_has_no_gradient(name):
    v = torch.tensor([math.nan, math.inf, -math.inf])
    spikes, (gradient,) = gradient_of(lambda v: spike_fn(ours, name).apply(v, 1.0, ours.PeriodicExponential()), v)
    assert spikes[0].isnan()
    assert spikes[1:].tolist() == [1 if name == "SingleSpike" else math.inf, 0]
    assert gradient[0].isnan()
    assert gradient[1:].tolist() == [0, 0]
    their_spikes, (their_gradient,) = gradient_of(lambda v: spike_fn(theirs, name).apply(v, 1.0, theirs.PeriodicExponential()), v)
    assert their_gradient[1:].isnan().any()
    assert their_spikes[0] == 0 if name == "SingleSpike" else their_spikes[2].isnan()
    for fn in GRADIENTS:
        assert getattr(ours, fn)()(v, 1.0)[0].isnan()
    assert theirs.Heaviside()(v, 1.0)[0] == 0


def test_i1_membrane_reset_leaves_silent_neurons_alone():
    state, spikes = {"v_mem": torch.tensor([0.3, 1.2])}, torch.tensor([0.0, 1.0])
    torch.testing.assert_close(theirs.MembraneReset(-0.5)(spikes, state, 1.0)["v_mem"], torch.tensor([-0.2, -0.5]))
    torch.testing.assert_close(ours.MembraneReset(-0.5)(spikes, state, 1.0)["v_mem"], torch.tensor([0.3, -0.5]))
    nan = ours.MembraneReset()(torch.tensor([math.nan]), {"v_mem": torch.tensor([math.nan])}, 1.0)
    assert nan["v_mem"].isnan().all()


def test_i3_the_window_is_kept_absolute():
    """Its documentation says relative to threshold; what people trained with is this."""
    v = torch.tensor([0.9, 1.0, 1.4, 1.5])
    for module in (theirs, ours):
        assert module.Heaviside(window=0.5)(v, 2.0).tolist() == [0, 0, 0, 0.5]


def test_i4_i5_what_was_first_published():
    v = torch.tensor([0.5, 1.0, 1.25, 1.5])
    torch.testing.assert_close(theirs.PeriodicExponential()(v, 1.0), torch.tensor([0.368, 1, 0.368, 0.135]), rtol=0, atol=1e-3)
    torch.testing.assert_close(ours.PeriodicExponential()(v, 1.0), theirs.PeriodicExponential()(v, 1.0))
    before = ours.PeriodicExponential(first_published=True)
    torch.testing.assert_close(before(v, 1.0), torch.tensor([0.368, 1, 0.607, 0.368]), rtol=0, atol=1e-3)
    # As it was published, in units of the potential but for one step of 1 per threshold.
    for theta, width in ((1.0, 0.5), (2.0, 0.5), (0.75, 0.3)):
        wide = points(theta)
        h = wide - theta / 2
        p = torch.where(wide < theta, h, h - torch.floor(h / theta))
        published = torch.exp(-(p - theta / 2).abs() / width) / theta
        got = ours.PeriodicExponential(width, 1.5, first_published=True)(wide, theta)
        torch.testing.assert_close(got, 1.5 * published, rtol=1e-12, atol=0)
    assert before(torch.tensor(2.0), 2.0) == 0.5
    assert theirs.MultiGaussian()(torch.ones(1), 1.0).item() == pytest.approx(0.8782, abs=1e-4)
    plain = ours.MultiGaussian(0.1, 0.4, grad_scale=2.0, first_published=True)
    assert torch.equal(plain(v, 1.0), ours.Gaussian(0.1, 0.4, 2.0)(v, 1.0))
    assert ours.MultiGaussian(0.1, 0.4, 2.0, first_published=True) == plain  # whose third argument was this one
    assert dataclasses.replace(plain, sigma=0.5) == ours.MultiGaussian(0.1, 0.5, 2.0, first_published=True)
    for wrong in (lambda: ours.MultiGaussian(h=0.2, first_published=True), lambda: ours.MultiGaussian(0, 1, 2, 3, first_published=True)):
        with pytest.raises(TypeError, match="MultiGaussian as first published takes mu, sigma, grad_scale, each once; got"):
            wrong()
    assert ours.MultiGaussian(first_published=True)(torch.ones(1), 1.0).item() == pytest.approx(0.7979, abs=1e-4)


def test_i6_counts_are_those_of_the_given_precision():
    """A float64 potential of 0.3 lies below three thresholds of 0.1, a float32 one above: neither is rounded to the other."""
    for module in (theirs, ours):
        for dtype, counts in ((torch.float32, [3, 7]), (torch.float64, [2, 6])):
            v = torch.tensor([0.3, 0.7], dtype=dtype)
            assert module.MultiSpike.apply(v, 0.1, module.SingleExponential()).tolist() == counts
    assert math.copysign(1, theirs.MultiSpike.apply(torch.tensor([-2.0]), 1.0, theirs.SingleExponential()).item()) == -1
    assert math.copysign(1, ours.MultiSpike.apply(torch.tensor([-2.0]), 1.0, ours.SingleExponential()).item()) == 1


def test_i7_thresholds_and_widths_are_checked():
    v = torch.ones(2)
    assert theirs.SingleExponential()(v * 0, torch.tensor(0.0)).isnan().all()
    for name in ("SingleExponential", "PeriodicExponential", "Heaviside"):
        for theta in (0.0, -1.0, math.nan, torch.tensor(0.0), torch.tensor([1.0, -1.0])):
            with pytest.raises(ValueError, match="`spike_threshold` must be positive, since the potential is measured in units of it; got"):
                getattr(ours, name)()(v, theta)
    for name in ("MultiSpike", "MaxSpike"):
        with pytest.raises(ValueError, match="`spike_threshold` must be positive"):
            spike_fn(ours, name).apply(v, 0.0, ours.Gaussian())
    for make, message in (
        (lambda: ours.SingleExponential(0.0)(v, 1.0), "`grad_width` must be positive, got 0.0"),
        (lambda: ours.Gaussian(sigma=-1)(v, 1.0), "`width` of Gaussian must be positive, got -1.0"),
        (lambda: ours.PeriodicExponential(0.0)(v, 1.0), "`width` of PeriodicExponential must be positive, got 0.0"),
        (lambda: ours.MultiGaussian(h=-1)(v, 1.0), "`lobe` of MultiGaussian must be zero or positive, got -1.0"),
        (lambda: ours.MaxSpike(0), "`max_num_spikes_per_bin` must be at least 1 or None, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_gradient_moves_to_spikegrads_own_neurons():
    spike = ours.SingleExponential(grad_width=0.3).at(1.7)
    assert spike == spikegrad.Exponential(slope=1 / (1.7 * 0.3), height=1 / (1.7 * 0.3))
    spikes, _ = nn.Leaky(beta=0.9, threshold=1.7, spike=spike)(torch.ones(5, 2, 3))
    assert spikes.shape == (5, 2, 3)


RECOGNISED = ["MembraneReset", "MembraneSubtract", "SingleExponential", "MultiGaussian", "PeriodicExponential", "Heaviside", "Gaussian"]


@pytest.mark.parametrize("name", RECOGNISED)
def test_sinabs_recognises_ours(name):
    """Its builders for hardware ask with `isinstance` what resets a layer, and with which gradient it fires."""
    mine = getattr(ours, name)()
    assert isinstance(mine, getattr(theirs, name))
    assert type(mine) is getattr(ours, name)
    others = [getattr(theirs, other) for other in RECOGNISED if other != name]
    assert not isinstance(mine, tuple(other for other in others if not issubclass(getattr(theirs, name), other)))
