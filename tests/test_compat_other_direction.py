"""Our surrogates inside the real, unmodified libraries: the same spikes and gradients as with the library's own of the same family."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import math
import pickle

import numpy as np
import pytest
import torch

from spikegrad import (
    ATan,
    Boxcar,
    Circle,
    Exponential,
    FastSigmoid,
    Gaussian,
    Heaviside,
    MultiGaussian,
    PeriodicExponential,
    Sigmoid,
    StraightThrough,
    Surrogate,
    Triangle,
    from_formula,
    nn,
)
from spikegrad.compat.norse import with_surrogate
from spikegrad.compat.sinabs import activation as our_activation
from spikegrad.compat.sinabs import adapt as adapt_to_sinabs
from spikegrad.compat.snntorch.surrogate import SpikeGradient
from spikegrad.compat.spikingjelly import adapt as adapt_to_jelly

snn = pytest.importorskip("snntorch")
sinabs_layers = pytest.importorskip("sinabs.layers")
sinabs = pytest.importorskip("sinabs.activation")
jelly = pytest.importorskip("spikingjelly.activation_based")
jelly_neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
jelly_surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
norse = pytest.importorskip("norse.torch")


def drive(time=12, size=8, scale=2.0):
    return torch.randn(time, 4, size, generator=torch.Generator().manual_seed(0)).mul(scale).add(0.3).requires_grad_()


def gradients(spikes, x, layer):
    """Of a weighted sum of all spikes, with respect to the input and all parameters it depends on."""
    weights = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1))
    parameters = [p for p in layer.parameters() if p.requires_grad]
    found = torch.autograd.grad((spikes * weights).sum(), [x, *parameters], allow_unused=True)
    return [g for g in found if g is not None]


def compare(ours, theirs, tolerance=2e-5):
    """Spikes bit for bit, which must be neither all nor none, and gradients to the rounding of float32."""
    (spikes, mine), (their_spikes, peers) = ours, theirs
    assert 0 < spikes.abs().mean() < 5
    assert spikes.abs().max() > 0
    assert torch.equal(spikes, their_spikes)
    assert len(mine) == len(peers) > 0
    assert mine[0].abs().max() > 0
    for gradient, peer in zip(mine, peers, strict=True):
        torch.testing.assert_close(gradient, peer, rtol=tolerance, atol=tolerance * float(1 + peer.abs().max()))


# snnTorch

SNNTORCH = {
    "atan": (ATan(2.0), lambda: snn.surrogate.atan(2.0)),
    "fast_sigmoid": (FastSigmoid(25.0), lambda: snn.surrogate.fast_sigmoid()),
    "sigmoid": (Sigmoid(5.0), lambda: snn.surrogate.sigmoid(slope=5)),
    "spike_rate_escape": (Exponential(1.0, 25.0, 1.0), lambda: snn.surrogate.spike_rate_escape()),
    "straight_through_estimator": (StraightThrough(), lambda: snn.surrogate.straight_through_estimator()),
}
SNNTORCH_NEURONS = {
    "Leaky": lambda **how: snn.Leaky(beta=0.8, learn_beta=True, **how),
    "Synaptic": lambda **how: snn.Synaptic(alpha=0.7, beta=0.8, learn_threshold=True, reset_mechanism="zero", **how),
    "Alpha": lambda **how: snn.Alpha(alpha=0.9, beta=0.8, **how),
    "Lapicque": lambda **how: snn.Lapicque(beta=0.8, **how),
    "RLeaky": lambda **how: snn.RLeaky(beta=0.8, all_to_all=False, V=0.3, **how),
    "RSynaptic": lambda **how: snn.RSynaptic(alpha=0.7, beta=0.8, all_to_all=False, V=0.3, **how),
}


def in_snntorch(layer):
    x = drive()
    spikes = torch.stack([layer(current) for current in x])
    return spikes.detach(), gradients(spikes, x, layer)


@pytest.mark.parametrize("family", SNNTORCH)
@pytest.mark.parametrize("neuron", SNNTORCH_NEURONS)
def test_snntorch(neuron, family):
    ours, theirs = SNNTORCH[family]
    make = SNNTORCH_NEURONS[neuron]
    for spike_grad in (ours, SpikeGradient(ours)):
        layer = make(spike_grad=spike_grad, init_hidden=True)
        fresh = copy.deepcopy(layer)
        compare(in_snntorch(layer), in_snntorch(make(spike_grad=theirs(), init_hidden=True)))
        assert pickle.loads(pickle.dumps(fresh)).spike_grad == spike_grad
        assert copy.deepcopy(fresh).spike_grad == spike_grad
        torch.save(fresh, io.BytesIO())
    with pytest.raises(AttributeError, match="local object"):
        torch.save(make(spike_grad=theirs(), init_hidden=True), io.BytesIO())


def test_snntorch_at_threshold():
    """Our surrogates spike at a potential of exactly the threshold, snnTorch's do not; `SpikeGradient` makes ours do as snnTorch does."""
    at = torch.ones(1)
    spikes = [snn.Leaky(beta=0.5, spike_grad=g)(at)[0].item() for g in (snn.surrogate.atan(), SpikeGradient(ATan()), ATan())]
    assert spikes == [0, 0, 1]


def test_snntorch_with_a_learned_surrogate():
    layer = snn.Leaky(beta=0.8, spike_grad=nn.Spike(ATan(), learn="slope"), init_hidden=True)
    sum(layer(current).sum() for current in drive()).backward()
    assert dict(layer.named_parameters())["spike_grad.slope_log"].grad != 0


# SpikingJelly

JELLY = {
    "ATan": (ATan(2.0), lambda: jelly_surrogate.ATan(2.0)),
    "Sigmoid": (Sigmoid(4.0), lambda: jelly_surrogate.Sigmoid(4.0)),
    "SoftSign": (FastSigmoid(2.0, 1.0), lambda: jelly_surrogate.SoftSign(2.0)),
    "PiecewiseQuadratic": (Triangle(1.0), lambda: jelly_surrogate.PiecewiseQuadratic(1.0)),
    "Erf": (Gaussian(1 / (2 * math.sqrt(2))), lambda: jelly_surrogate.Erf(2.0)),
    "Rect": (Boxcar(0.5, 1.0, closed=False), lambda: jelly_surrogate.Rect(1.0)),
}
# How a neuron is made that takes more than a step mode; how it is called, step by step (s) or on the whole sequence (m).
JELLY_ARGUMENTS = {
    "PSN": ("m", {"T": 12}),
    "MaskedPSN": ("m", {"k": 3, "T": 12, "step_mode": "m"}),
    "SlidingPSN": ("m", {"k": 3, "step_mode": "m"}),
    "GatedLIFNode": ("m", {"T": 12, "step_mode": "m"}),
    "MPBNLIFNode": ("m", {"out_features": 8, "step_mode": "m"}),
    "SimpleLIFNode": ("sm", {"tau": 2.0, "decay_input": True}),
    "SLTTLIFNode": ("s", {}),
    "OTTTLIFNode": ("s", {}),
    "CUBALIFNode": ("s", {}),
    "ILCIFNode": ("s", {"act_dim": 2, "dec_pop_dim": 4}),
    "ILCLIFNode": ("s", {"act_dim": 2, "dec_pop_dim": 4}),
    "ILCCUBALIFNode": ("s", {"act_dim": 2, "dec_pop_dim": 4}),
}
JELLY_EXCLUDED = {
    # Bases of others, without a step of their own.
    *("BaseNode", "SimpleBaseNode", "AdaptBaseNode", "MPBNBaseNode", "ILCBaseNode", "NoisyBaseNode", "NoisyILCBaseNode"),
    *("NoisyCUBALIFNode", "NoisyILCCUBALIFNode"),  # CUBALIFNode and ILCCUBALIFNode with random input
    *("FewSpikeNode", "HGNode", "OutlierAwareThresholdNode"),  # for converted networks: they are given tables
    *("ILIFNode",),  # accepts nothing but its own count of several spikes
}
JELLY_NEURONS = sorted(
    name
    for name, value in vars(jelly_neuron).items()
    if inspect.isclass(value) and "surrogate_function" in inspect.signature(value).parameters and name not in JELLY_EXCLUDED
)


def in_spikingjelly(layer, mode):
    x = drive()
    if mode == "m":
        spikes = layer(x)
    else:  # some change their input in place; OTTTLIFNode returns a trace beside its spikes
        steps = [layer(x[t].clone()) for t in range(len(x))]
        spikes = torch.stack([step[0] if isinstance(step, list) else step for step in steps])
    return spikes.detach(), gradients(spikes, x, layer)


@pytest.mark.parametrize("name", JELLY_NEURONS)
def test_spikingjelly(name):
    """Every neuron of its module, step by step and over the whole sequence."""
    modes, arguments = JELLY_ARGUMENTS.get(name, ("sm", {}))
    for mode in modes:
        how = arguments if len(modes) == 1 else {**arguments, "step_mode": mode}
        ours, theirs = (
            getattr(jelly_neuron, name)(surrogate_function=f, **how) for f in (adapt_to_jelly(ATan(2.0)), jelly_surrogate.ATan(2.0))
        )
        theirs.load_state_dict(ours.state_dict())
        for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert copied.surrogate_function == adapt_to_jelly(ATan(2.0))
        compare(in_spikingjelly(ours, mode), in_spikingjelly(theirs, mode))
        jelly.functional.reset_net(ours)
        jelly.functional.reset_net(theirs)
        x = drive().detach()
        with torch.no_grad():
            spikes, expected = (layer.eval()((x if mode == "m" else x[0]).clone()) for layer in (ours, theirs))
        assert torch.equal(spikes, expected)


@pytest.mark.parametrize("family", JELLY)
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("name", ["IFNode", "LIFNode"])
def test_spikingjelly_families(name, mode, family):
    ours, theirs = JELLY[family]
    for dtype in (torch.float32, torch.float64):
        out = []
        for surrogate_function in (ours, theirs()):
            layer = getattr(jelly_neuron, name)(surrogate_function=surrogate_function, step_mode=mode, detach_reset=True)
            x = drive().detach().to(dtype).requires_grad_()
            spikes = torch.stack([layer(current) for current in x]) if mode == "s" else layer(x)
            assert spikes.dtype == dtype
            out.append((spikes.detach(), gradients(spikes, x, layer)))
        compare(*out, tolerance=1e-12 if dtype == torch.float64 else 2e-5)


# sinabs

SINABS = {
    "SingleExponential": (Exponential(2.0, 2.0), lambda: sinabs.SingleExponential()),
    "Gaussian": (Gaussian(0.5), lambda: sinabs.Gaussian()),
    "MultiGaussian": (MultiGaussian(), lambda: sinabs.MultiGaussian()),
    "PeriodicExponential": (PeriodicExponential(), lambda: sinabs.PeriodicExponential()),
    "Heaviside": (Heaviside(shift=-1.0), lambda: sinabs.Heaviside()),
}
SINABS_LAYERS = {
    "LIF": lambda **how: sinabs_layers.LIF(tau_mem=4.0, **how),
    "LIF, one spike": lambda **how: sinabs_layers.LIF(tau_mem=4.0, spike_fn=sinabs.SingleSpike, **how),
    "IAF": lambda **how: sinabs_layers.IAF(spike_fn=sinabs.MaxSpike(2), **how),
    "ALIF": lambda **how: sinabs_layers.ALIF(tau_mem=4.0, tau_adapt=6.0, adapt_scale=0.0, **how),
}


def in_sinabs(layer):
    x = drive(scale=4.0)
    spikes = layer(x.transpose(0, 1))
    return spikes.detach(), gradients(spikes, x, layer)


@pytest.mark.parametrize("family", SINABS)
@pytest.mark.parametrize("layer", SINABS_LAYERS)
def test_sinabs(layer, family):
    """At a threshold of 1, to which sinabs scales some of its own."""
    ours, theirs = adapt_to_sinabs(SINABS[family][0]), SINABS[family][1]
    mine = SINABS_LAYERS[layer](surrogate_grad_fn=ours)
    copies = copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))
    expected = in_sinabs(SINABS_LAYERS[layer](surrogate_grad_fn=theirs()))
    for made in (mine, *copies):
        assert made.surrogate_grad_fn == ours
        compare(in_sinabs(made), expected)


def test_sinabs_with_any_surrogate():
    """One that sinabs has not: the gradient at the threshold is its derivative there."""
    v = torch.tensor([0.2, 1.0, 2.5], requires_grad=True)
    spikes = sinabs.SingleSpike.apply(v, torch.tensor(1.5), adapt_to_sinabs(ATan(3.0)))
    assert torch.equal(torch.autograd.grad(spikes.sum(), v)[0], ATan(3.0).derivative(v.detach() - 1.5))


def test_adapted_to_sinabs_a_surrogate_is_its_derivative():
    spike = FastSigmoid(10.0)
    adapted = adapt_to_sinabs(spike)
    x = np.linspace(-1, 3, 9)
    for v in (x, x.astype(np.float32), torch.tensor(x), torch.tensor(x, dtype=torch.float16)):
        value = adapted(v, 1.5)
        assert value.dtype == v.dtype
        assert type(value) is type(v)
        tolerance = 2e-3 if v.dtype == torch.float16 else 1e-5
        np.testing.assert_allclose(np.asarray(value, float), spike.derivative(x - 1.5), rtol=tolerance)
    assert adapted(2.0, 1.5) == spike.derivative(0.5)
    # In half precision the threshold is subtracted in float32: potentials near it do not collapse.
    near = torch.tensor([8.0078125], dtype=torch.bfloat16)
    assert adapted(near, 8.001).item() == pytest.approx(spike.derivative(float(near) - 8.001), rel=1e-2)
    assert repr(adapted) == "Adapted(surrogate=FastSigmoid(slope=10.0, height=1.0))"
    for adapt in (adapt_to_sinabs, adapt_to_jelly):
        assert len({adapt(spike), adapt(FastSigmoid(10.0)), adapt(ATan())}) == 2
        with pytest.raises(TypeError, match=r"`surrogate` must be a spikegrad.Surrogate such as spikegrad.ATan\(\), got 'atan'"):
            adapt("atan")


def test_a_surrogate_as_it_is_still_goes_into_sinabs_for_one_release():
    """In our own spike functions without a word; in sinabs's with one that says what to write."""
    spike, v = ATan(3.0), torch.tensor([0.2, 1.0, 2.5], requires_grad=True)
    expected = spike.derivative(v.detach() - 1.5)
    for fire in (our_activation.SingleSpike, sinabs.SingleSpike):
        match = r"write surrogate_grad_fn=spikegrad.compat.sinabs.adapt\(ATan\(...\)\)"
        with contextlib.nullcontext() if fire is our_activation.SingleSpike else pytest.warns(DeprecationWarning, match=match):
            gradient = torch.autograd.grad(fire.apply(v, torch.tensor(1.5), spike).sum(), v)[0]
        assert torch.equal(gradient, expected)
    with pytest.warns(DeprecationWarning, match="adapt"):
        assert spike(torch.tensor(2.0), 1.5, slope=torch.tensor(4.0)) == ATan(4.0).derivative(0.5)
    assert spike(torch.tensor([1.0]), None).item() == 1
    with pytest.raises(TypeError):
        spike(torch.ones(1), threshold=1.0)


def test_a_surrogate_as_it_is_still_goes_into_spikingjelly_for_one_release():
    for node, asked in ((jelly_neuron.LIFNode, False), (jelly_neuron.ComplementaryLIFNode, True)):
        found = []
        for surrogate_function in (ATan(2.0), adapt_to_jelly(ATan(2.0))):
            layer = node(surrogate_function=surrogate_function, step_mode="m").eval()
            warns = asked and isinstance(surrogate_function, Surrogate)
            with (
                pytest.warns(DeprecationWarning, match=r"spikegrad.compat.spikingjelly.adapt\(ATan") if warns else contextlib.nullcontext()
            ):
                found.append(layer(drive().detach()))
        assert torch.equal(*found)
        assert found[0].sum() > 0


def test_spikingjellys_soft_step():
    soft, x = adapt_to_jelly(ATan(2.0), spiking=False), torch.tensor([-0.5, 0.0, 2.0])
    torch.testing.assert_close(soft(x), jelly_surrogate.ATan(2.0, spiking=False)(x))
    with pytest.raises(ValueError, match="Formula has no primitive, so no soft step in place of spikes"):
        adapt_to_jelly(from_formula(lambda x: 1 / (1 + x**2)), spiking=False)


# Norse

NORSE = {
    "super": (FastSigmoid(1.0), 100.0),  # Norse 1.1.0 ignores its alpha
    "triangle": (Triangle(height=0.3), 0.3),
    "tanh": (Sigmoid(4.0, scale=1.0), 2.0),
    "circ": (Circle(0.7), 0.7),
    "heavi_erfc": (Gaussian(1 / (1.5 * math.sqrt(2)), scale=2 / 1.5), 1.5),
}
NORSE_NEURONS = [
    name
    for name, value in sorted(vars(norse).items())
    if inspect.isclass(value)
    and issubclass(value, torch.nn.Module)
    and name.startswith(("LIF", "LSNN", "IAF"))
    # These decide their spikes in their own `forward`, which nothing can be handed to.
    and name not in ("LIFCorrelation", "LIFMCRecurrentCell", "LIFMCRefracRecurrentCell")
]


def in_norse(neuron, x):
    """Two steps of a cell, so that the reset takes part, or a sequence."""
    cell = type(neuron).__name__.endswith("Cell")
    if not cell:
        spikes = neuron(x)[0]
    else:
        state, steps = None, []
        for current in x:
            step, state = neuron(current, state)
            steps.append(step)
        spikes = torch.stack(steps)
    return spikes.detach(), gradients(spikes, x, neuron)


def make_norse(name, **parameters):
    torch.manual_seed(0)
    neuron = getattr(norse, name)
    sizes = (8, 8) if "input_size" in inspect.signature(neuron).parameters else ()
    if not parameters:
        return neuron(*sizes)
    p = inspect.signature(neuron).parameters["p"].default
    nested = next((field for field in ("lif", "lif_adex") if hasattr(p, field)), None)
    p = p._replace(**{nested: getattr(p, nested)._replace(**parameters)}) if nested else p._replace(**parameters)
    return neuron(*sizes, p=p)


@pytest.mark.parametrize("name", NORSE_NEURONS)
def test_norse(name):
    untouched = {module: module.threshold for module in (norse.functional.lif, norse.functional.lsnn, norse.functional.threshold)}
    ours = make_norse(name)
    assert with_surrogate(ours, FastSigmoid(1.0)) is ours
    expected = in_norse(make_norse(name), drive(scale=60.0))
    compare(in_norse(ours, drive(scale=60.0)), expected)
    # Norse forbids connections of a neuron with itself by a hook, which a copy, of theirs too, is without.
    compare(in_norse(copy.deepcopy(ours), drive(scale=60.0)), in_norse(copy.deepcopy(make_norse(name)), drive(scale=60.0)))
    # Another surrogate takes the place of the first, and is told from it.
    with_surrogate(ours, ATan(0.1))
    assert (in_norse(ours, drive(scale=60.0))[1][0] - expected[1][0]).abs().max() > 1e-4
    assert ours.activation.surrogate == ATan(0.1)
    assert untouched == {module: module.threshold for module in untouched}


@pytest.mark.parametrize("method", NORSE)
def test_norse_families(method):
    surrogate, alpha = NORSE[method]
    for name in ("LIFCell", "LIFRecurrent", "LSNN", "LIFRefracCell"):
        ours = with_surrogate(make_norse(name), surrogate)
        compare(in_norse(ours, drive(scale=60.0)), in_norse(make_norse(name, method=method, alpha=torch.tensor(alpha)), drive(scale=60.0)))


def test_norse_network_and_functions():
    def network():
        torch.manual_seed(0)
        return norse.SequentialState(torch.nn.Linear(8, 8), norse.LIF(), torch.nn.Linear(8, 8), norse.IAFCell(), norse.LICell())

    ours, theirs = with_surrogate(network(), FastSigmoid(1.0)), network()
    x = drive(scale=60.0)
    (mine, _), (peer, _) = ours(x), theirs(x)
    assert torch.equal(mine, peer)
    for gradient, expected in zip(gradients(mine, x, ours), gradients(peer, x, theirs), strict=True):
        torch.testing.assert_close(gradient, expected)
    assert ours[1].activation == with_surrogate(norse.LIF(), FastSigmoid(1.0)).activation
    assert type(ours[4].activation) is type(theirs[4].activation)  # a leaky integrator does not spike

    # A step of the functional interface, whose function calls others.
    step, x = norse.functional.lif.lif_feed_forward_step, drive(scale=60.0)
    mine = with_surrogate(step, ATan(2.0))
    state = norse.LIFFeedForwardState(v=torch.zeros(8), i=torch.zeros(8))
    spikes, _ = mine(x[0] + 500, state, norse.LIFParameters())
    assert torch.equal(spikes, step(x[0] + 500, state, norse.LIFParameters())[0])
    assert pickle.loads(pickle.dumps(mine)) == copy.deepcopy(mine) == mine
    assert hash(mine) == hash(with_surrogate(mine, ATan(2.0)))
    assert mine != with_surrogate(step, ATan(3.0))
    assert repr(mine) == "with_surrogate(lif_feed_forward_step, ATan(slope=2.0))"


def test_norse_compiles():
    """Two surrogates in one function of Norse, which calls another: a compiler must not take the one for the other."""
    integral = norse.functional.lif.lif_step_integral
    state = norse.functional.lif.LIFState(z=torch.zeros(4, 8), v=torch.zeros(4, 8), i=torch.zeros(4, 8))

    def gradient(run):
        x = drive(time=3, scale=60.0)
        spikes, _ = run(x, state, torch.eye(8), torch.zeros(8, 8), norse.LIFParameters())
        return torch.autograd.grad(spikes.sum(), x)[0]

    torch._dynamo.reset()
    eager = [gradient(with_surrogate(integral, ATan(slope))) for slope in (2.0, 0.3)]
    assert (eager[0] - eager[1]).abs().max() > 1e-3
    for slope, expected in zip((2.0, 0.3), eager, strict=True):
        compiled = torch.compile(with_surrogate(integral, ATan(slope)), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(gradient(compiled), expected)


def test_norse_spikes_above_threshold():
    step = norse.functional.threshold.threshold
    assert step(torch.zeros(1), "super", 1.0).item() == 0
    cell = with_surrogate(norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1000.0))), ATan())
    assert cell(torch.ones(1))[0].item() == 0
    assert cell(torch.full((1,), 1.0001))[0].item() == 1


def test_norse_pickles_where_norse_does():
    cell = with_surrogate(norse.IAFCell(), ATan())
    assert pickle.loads(pickle.dumps(cell)).activation == cell.activation
    for plain in (norse.LIFCell(), with_surrogate(norse.LIFCell(), ATan())):
        with pytest.raises(pickle.PicklingError, match="LIFParameters"):  # Norse's own: its parameters' class cannot be found by name
            pickle.dumps(plain)


def test_norse_refusals():
    adjoint = norse.LIFCell(norse.LIFParameters(method="adjoint"))
    with pytest.raises(ValueError, match=r"does not decide spikes by norse.torch.functional.threshold.threshold.*not 'adjoint'"):
        with_surrogate(torch.nn.Sequential(norse.LIFCell(), adjoint), ATan())
    for own in (norse.LIFMCRecurrentCell(4, 4), norse.LIFMCRefracRecurrentCell(4, 4), norse.LIFCorrelation(4, 4), norse.CobaLIFCell(4, 4)):
        network = torch.nn.Sequential(norse.LIFCell(), own)
        with pytest.raises(ValueError, match=f"{type(own).__name__} decides its spikes in its own `forward`.*one at a time"):
            with_surrogate(network, ATan())
        assert network[0].activation is norse.LIFCell().activation  # all or nothing
    for nothing in (torch.nn.Linear(2, 2), norse.LICell()):
        with pytest.raises(ValueError, match="there is no spiking neuron of Norse in"):
            with_surrogate(nothing, ATan())
    with pytest.raises(ValueError, match="does not decide spikes"):
        with_surrogate(drive, ATan())
    with pytest.raises(TypeError, match="expected a function or a module of Norse, got str"):
        with_surrogate("LIF", ATan())
    with pytest.raises(TypeError, match=r"`surrogate` must be a spikegrad.Surrogate such as spikegrad.ATan\(\), got 'super'"):
        with_surrogate(norse.LIFCell(), "super")


# brainstate

BRAINSTATE = {
    "Sigmoid": (Sigmoid(4.0), lambda b: b.Sigmoid(4.0)),
    "Arctan": (ATan(2.0), lambda b: b.Arctan(2.0)),
    "ReluGrad": (Triangle(1.0, 0.3), lambda b: b.ReluGrad()),
    "SlayerGrad": (Exponential(1.0), lambda b: b.SlayerGrad()),
}


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("family", BRAINSTATE)
def test_brainstate(family, units):
    """A neuron as brainstate's users write it, with `spk_fun`: brainstate 0.5 has none of its own. In units of millivolts too."""
    jax, brainstate = pytest.importorskip("jax"), pytest.importorskip("brainstate")
    surrogate, brainunit = pytest.importorskip("braintools").surrogate, pytest.importorskip("brainunit")
    jnp, unit = jax.numpy, brainunit.mV if units else 1.0

    class LIF(brainstate.nn.Module):
        def __init__(self, spk_fun):
            super().__init__()
            self.spk_fun = spk_fun
            self.weight = brainstate.ParamState(jnp.linspace(-1, 2, 7))
            self.V = brainstate.HiddenState(jnp.zeros(7) * unit)

        def update(self, x):
            v = 0.9 * self.V.value + x * self.weight.value * unit
            spikes = self.spk_fun((v - 1.0 * unit) / unit)
            self.V.value = v - jax.lax.stop_gradient(spikes) * unit
            return spikes

    def run(spk_fun):
        neuron = LIF(spk_fun)
        x = jax.random.normal(jax.random.key(0), (30, 7)) + 0.5
        weights = jax.random.normal(jax.random.key(1), (30, 7))

        def loss():
            spikes = brainstate.transform.for_loop(neuron.update, x)
            return (spikes * weights).sum(), spikes

        gradient = brainstate.transform.grad(loss, neuron.states(brainstate.ParamState), has_aux=True)
        found, spikes = brainstate.transform.jit(gradient)()
        return np.asarray(spikes), np.asarray(next(iter(found.values())))

    ours, theirs = BRAINSTATE[family]
    (spikes, gradient), (their_spikes, their_gradient) = run(ours), run(theirs(surrogate))
    assert 0.05 < spikes.mean() < 0.95
    np.testing.assert_array_equal(spikes, their_spikes)
    assert np.abs(gradient).max() > 0
    np.testing.assert_allclose(gradient, their_gradient, rtol=2e-5, atol=1e-5 * np.abs(gradient).max())
    neuron = LIF(ours)
    assert copy.deepcopy(neuron).spk_fun == ours


def test_every_family_is_a_surrogate():
    for table in (SNNTORCH, JELLY, SINABS, NORSE, BRAINSTATE):
        assert all(isinstance(row[0], Surrogate) for row in table.values())
