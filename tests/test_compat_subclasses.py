"""Classes that the peers document as autograd functions can be derived from, as theirs can."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from spikegrad.compat.sinabs import activation
from spikegrad.compat.sinabs.activation import spike_generation
from spikegrad.compat.snntorch import Leaky
from spikegrad.compat.snntorch import surrogate as ours
from spikegrad.compat.spikede import surrogate as spikede

theirs = pytest.importorskip("snntorch").surrogate
sinabs = pytest.importorskip("sinabs").activation
sinabs_spikes = pytest.importorskip("sinabs.activation.spike_generation")

ARGUMENTS = {
    "StraightThroughEstimator": (),
    "Triangular": (2.0,),
    "FastSigmoid": (20.0,),
    "ATan": (3.0,),
    "Heaviside": (),
    "Sigmoid": (2.0,),
    "SpikeRateEscape": (1.0, 2.0),
    "StochasticSpikeOperator": (0.5, 0.2),
    "LeakySpikeOperator": (0.25,),
    "SparseFastSigmoid": (25.0, 0.1),
    "CustomSurrogate": (lambda input_, grad_input, spikes: grad_input * input_ * (1 + spikes),),
}
X = torch.tensor([-1.5, -0.25, 0.0, 0.125, 0.75, 2.0])


def gradient(operator, *arguments):
    x = X.clone().requires_grad_()
    spikes = operator(x, *arguments)
    return spikes.detach(), torch.autograd.grad(spikes, x, torch.arange(1.0, 7.0))[0]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_forward_and_backward_are_theirs(name):
    """Both, called by PyTorch through a subclass, compute what `apply` does, and leave on the context what snnTorch's leave there."""
    base, peer, arguments = getattr(ours, name), getattr(theirs, name), ARGUMENTS[name]
    seen = {}

    def watched(of):
        class Watched(of):
            @staticmethod
            def forward(ctx, *given):
                return of.forward(ctx, *given)

            @staticmethod
            def backward(ctx, *grads):
                seen[of] = [tensor.clone() for tensor in ctx.saved_tensors], {k: v for k, v in vars(ctx).items() if k[0] != "_"}
                return of.backward(ctx, *grads)

        return Watched

    torch.manual_seed(0)
    got = gradient(watched(base).apply, *arguments)
    assert "Watched" in str(watched(base).apply(X.clone().requires_grad_(), *arguments).grad_fn)
    if name in ("LeakySpikeOperator", "StochasticSpikeOperator", "Triangular"):  # S-2, S-9, S-5
        watched(peer).apply(X.clone().requires_grad_(), *arguments)
        spikes, slope = gradient(base.apply, *arguments)
        assert torch.equal(got[0], spikes)
        assert torch.equal(got[1][X > 0], slope[X > 0])
        assert name == "StochasticSpikeOperator" or torch.equal(got[1], slope)
        return
    expected = gradient(watched(peer).apply, *arguments)
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], rtol=2e-6, atol=0)
    (mine, numbers), (saved, named) = seen[base], seen[peer]
    assert len(mine) == len(saved)
    assert all(map(torch.equal, mine, saved))
    assert numbers == named
    assert list(inspect.signature(peer.forward).parameters)[:2] == list(inspect.signature(base.forward).parameters)[:2] == ["ctx", "input_"]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # which PyTorch's compiler does
def test_a_gradient_of_ones_own():
    """The way to change a surrogate of snnTorch: keep its forward pass, write the backward pass."""

    class Steeper(ours.FastSigmoid):
        @staticmethod
        def backward(ctx, grad_output):
            (input_,) = ctx.saved_tensors
            return grad_output / (2 * ctx.slope * input_.abs() + 1), None

    class Scaled(Steeper):
        @staticmethod
        def backward(ctx, grad_output):
            gradient, _ = Steeper.backward(ctx, grad_output)
            return 10 * gradient, None

    class Renamed(Steeper):
        pass

    weights = torch.arange(1.0, 7.0)
    for cls, factor in ((Steeper, 1), (Scaled, 10), (Renamed, 1)):
        spikes, slope = gradient(cls.apply, 5.0)
        assert torch.equal(spikes, (X > 0).float())
        torch.testing.assert_close(slope, factor * weights / (10 * X.abs() + 1))
        torch.testing.assert_close(gradient(cls.apply)[1], factor * weights / (50 * X.abs() + 1))  # and the default of the function
    compiled = torch.compile(lambda x: Steeper.apply(x, 5.0), backend="aot_eager", fullgraph=True)
    assert torch.equal(gradient(compiled)[1], gradient(Steeper.apply, 5.0)[1])
    layer = Leaky(0.9, spike_grad=Steeper.apply)
    current = torch.full((1, 3), 0.5, requires_grad=True)
    spk, _ = layer(current, torch.zeros(1, 3))
    spk.sum().backward()
    torch.testing.assert_close(current.grad, torch.full((1, 3), 1 / 26))


def test_a_subclass_that_changes_nothing_keeps_the_better_apply():
    class Mine(ours.ATan):
        threshold = 3

    assert Mine.apply is ours.ATan.apply
    assert torch.func.grad(lambda x: Mine.apply(x, 2.0))(torch.tensor(0.0)) == 1.0


def test_operators_are_right_where_an_autograd_function_is_not():
    """Over a `torch.autograd.Function`, compiled transforms return zeros without a word: ours are none."""
    slope = torch.func.grad(lambda x: ours.ATan.apply(x, 2.0).sum())
    assert torch.equal(torch.compile(slope, backend="aot_eager", fullgraph=True)(X), slope(X))
    assert slope(X).min() > 0


SPIKEDE = {"SigmoidSurrogate": 3.0, "ArctanSurrogate": 3.0, "PiecewiseLinearSurrogate": 0.5, "GaussianSurrogate": 0.5}


@pytest.mark.parametrize("name", SPIKEDE)
def test_spikede(name):
    base, number = getattr(spikede, name), SPIKEDE[name]
    attribute = {"PiecewiseLinearSurrogate": "gamma", "GaussianSurrogate": "sigma"}.get(name, "scale")

    class Doubled(base):
        @staticmethod
        def backward(ctx, grad_output):
            (input_,) = ctx.saved_tensors
            assert torch.equal(input_, X)
            assert getattr(ctx, attribute) == number
            slope, nothing = base.backward(ctx, grad_output)
            assert nothing is None
            return 2 * slope, None

    spikes, slope = gradient(base.apply, number)
    mine = gradient(Doubled.apply, number)
    assert torch.equal(mine[0], spikes)
    assert torch.equal(mine[1], 2 * slope)
    assert slope.abs().max() > 0

    class Forward(base):
        @staticmethod
        def forward(ctx, *arguments):
            return base.forward(ctx, *arguments)

    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(Forward.apply(x, number).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(base.apply(x, number).sum(), x, create_graph=True)
    assert torch.equal(first, expected)
    if name != "PiecewiseLinearSurrogate":
        assert torch.equal(torch.autograd.grad(first.sum(), x)[0], torch.autograd.grad(expected.sum(), x)[0])
    assert base.apply(torch.tensor([-1, 0, 2])).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["SingleSpike", "MultiSpike", "MaxSpikeInner"])
def test_sinabs(name):
    limit = (2,) if name == "MaxSpikeInner" else ()
    x, found = X + 1, []
    for module, fn in ((spike_generation, activation.Gaussian()), (sinabs_spikes, sinabs.Gaussian())):
        base = getattr(module, name)

        class Mine(base):
            @staticmethod
            def forward(ctx, *arguments, base=base):
                return base.forward(ctx, *arguments)

        assert Mine.required_states == base.required_states
        for spike in (base, Mine):
            v = x.clone().requires_grad_()
            spikes = spike.apply(v, *limit, 0.75, fn)
            found.append((spikes.detach(), torch.autograd.grad(spikes.sum(), v)[0]))
    for spikes, slope in found[1:]:
        assert torch.equal(spikes, found[0][0])
        torch.testing.assert_close(slope, found[0][1])
    with pytest.raises(ValueError, match="`spike_threshold` must be positive"):
        spike_generation.MaxSpikeInner.apply(x, 2, 0.0, activation.Gaussian())


def test_sinabs_rounding():
    for name in ("Quantize", "StochasticRounding"):
        base = getattr(activation, name)

        class Mine(base):
            @staticmethod
            def backward(ctx, grad_output, base=base):
                return 3 * base.backward(ctx, grad_output)

        spikes, slope = gradient(Mine.apply)
        assert ((spikes == X.floor()) | (spikes == X.ceil())).all()
        assert torch.equal(slope, 3 * torch.arange(1.0, 7.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8])
def test_whole_numbers_as_in_sinabs(dtype):
    v = torch.tensor([0, 1, 2, 3, 5], dtype=dtype)
    for name in ("Heaviside", "Gaussian", "MultiGaussian", "SingleExponential", "PeriodicExponential"):
        got, expected = getattr(activation, name)()(v, 1.5), getattr(sinabs, name)()(v, 1.5)
        assert got.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    for name in ("SingleSpike", "MultiSpike"):
        got, expected = (getattr(m, name).apply(v, 1.5, m.Gaussian()) for m in (activation, sinabs))
        assert got.dtype == expected.dtype == torch.float32
        assert torch.equal(got, expected)
    assert torch.equal(activation.MaxSpike(2).apply(v, 1.5, activation.Gaussian()), sinabs.MaxSpike(2).apply(v, 1.5, sinabs.Gaussian()))
    got, expected = activation.Quantize.apply(v), sinabs.Quantize.apply(v)
    assert got.dtype == expected.dtype == dtype
    assert torch.equal(got, expected)
    state = {"v_mem": v}
    for name in ("MembraneReset", "MembraneSubtract"):
        ours_after, theirs_after = (getattr(m, name)()((v > 1).float(), state, 1.5)["v_mem"] for m in (activation, sinabs))
        assert torch.equal(ours_after, theirs_after)


def test_whole_numbers_as_in_spikede():
    v = torch.tensor([-2, 0, 3])
    for function in (spikede.sigmoid_surrogate, spikede.arctan_surrogate, spikede.piecewise_linear_surrogate, spikede.gaussian_surrogate):
        assert function(v).dtype == torch.float32
        assert function(v).tolist() == [0.0, 1.0, 1.0]
    assert spikede.noisy_threshold_spike(v, training=False).tolist() == [0.0, 1.0, 1.0]
    soft = spikede.noisy_threshold_spike(v, 0.5, sample=False)
    torch.testing.assert_close(soft, torch.sigmoid(v * 0.5))


def test_gaussian():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    exact = torch.exp(-((x - 0.25) ** 2) / (2 * 0.5**2)) / (0.5 * math.sqrt(2 * math.pi))
    got = activation.surrogate_gradient_fn.gaussian(x, mu=0.25, sigma=0.5)
    torch.testing.assert_close(got, exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(got, sinabs.surrogate_gradient_fn.gaussian(x, 0.25, 0.5), rtol=1e-7, atol=0)  # T-3
    sigma = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    activation.surrogate_gradient_fn.gaussian(x, 0.25, sigma).sum().backward()
    torch.testing.assert_close(sigma.grad, (exact * ((x - 0.25) ** 2 / 0.5**3 - 1 / 0.5)).sum())
    whole = activation.surrogate_gradient_fn.gaussian(torch.tensor([0, 1]), 0, 1)
    torch.testing.assert_close(whole, torch.tensor([0.39894228, 0.24197072]))
