"""Neurons of the catalogue live against SpikingJelly's, Norse's and spyx's, as their documentation maps them under "Elsewhere".

Runs in an environment with the extra `bench` (CONTRIBUTING.md). Not compared, since nothing here has their equations: SpikingJelly's PSN
family, noisy, online and rate-differentiating nodes, LIAF, STBIF, few-spike and outlier-aware nodes, inter-layer nodes, and
HalfThresholdIFNode, which is IFNode from another state; Norse's multi-compartment and correlation neurons and LIFAdExRefrac; its
recurrent cells, whose weights are a layer's here; spyx's recurrent neurons, likewise, and PSU_LIF, which is Leaky without reset.
"""

from __future__ import annotations

import math

import pytest
import torch

from spikegrad import Boxcar, FastSigmoid, nn
from spikegrad.neurons import (
    KLIF,
    Adaptive,
    AdEx,
    ComplementaryLeaky,
    ConductanceLeaky,
    ExponentialIF,
    GatedLeaky,
    IntegerLeaky,
    IntegrateAndFire,
    Izhikevich,
    Leaky,
    LeakyIntegrator,
    QuadraticIF,
    RefractoryLeaky,
    ResonateAndFire,
    Synaptic,
    Ternary,
)

pytest.importorskip("spikingjelly")
pytest.importorskip("norse")
pytest.importorskip("spyx")
import jax
import jax.numpy as jnp
import norse.torch as norse
import numpy as np
import spyx
from flax import nnx
from norse.torch.functional import coba_lif, lif_box, lif_refrac, reset
from spikingjelly.activation_based import neuron as nodes
from spikingjelly.activation_based import surrogate

SHAPE = (40, 3, 6)


def drive(mean, deviation, shape=SHAPE, seed=3):
    return mean + deviation * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def outputs_and_gradient(run, currents):
    """Outputs, and the gradient of a weighted sum of them with respect to the currents."""
    currents = currents.clone().requires_grad_()
    out = run(currents)
    return out.detach(), torch.autograd.grad((out * weights_of(out.shape)).sum(), currents)[0]


def agree(ours, theirs, currents, spiking=True, gradients=True):
    """Spikes are equal, analogue outputs to rounding; gradients to 1e-4 of the largest, or if not `gradients` certainly not."""
    (out, gradient), (their_out, their_gradient) = outputs_and_gradient(ours, currents), outputs_and_gradient(theirs, currents)
    if spiking:
        assert torch.equal(out, their_out)
        assert 0.05 < (out != 0).float().mean() < 0.95
    else:
        torch.testing.assert_close(out, their_out)
    largest = gradient.abs().max().item()
    assert largest > 0
    if gradients:
        torch.testing.assert_close(gradient, their_gradient, rtol=0, atol=1e-4 * largest)
    else:
        assert (gradient - their_gradient).abs().max() > 0.01 * largest


def layer(neuron, **options):
    module = nn.Layer(neuron, backend="reference", **options)
    return lambda currents, state=None: module(currents, state)[0]


def synapse_then(alpha, neuron):
    """A current that decays by itself, and a neuron, or several."""
    network = nn.Sequential(nn.Layer(LeakyIntegrator(alpha), backend="reference"), nn.Layer(neuron, backend="reference"))
    return lambda currents: network(currents)[0]


# SpikingJelly: spikes at the threshold, and a reset that is attached unless told otherwise.


def node(kind, **options):
    """A fresh node, since it keeps its state, over a sequence."""
    options = {"surrogate_function": surrogate.ATan(2.0), "step_mode": "m"} | options
    return lambda currents: kind(**options)(currents)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("v_reset", "kept"), [(None, "subtract"), (0.0, "zero")])
class TestSpikingJellyLeaky:
    def test_if(self, v_reset, kept, detach):
        theirs = node(nodes.IFNode, v_threshold=0.75, v_reset=v_reset, detach_reset=detach)
        agree(layer(IntegrateAndFire(0.75, reset=kept, detach_reset=detach)), theirs, drive(0.2, 0.7))

    @pytest.mark.parametrize("scaled", [True, False])
    def test_lif(self, v_reset, kept, detach, scaled):
        theirs = node(nodes.LIFNode, tau=4.0, decay_input=scaled, v_threshold=0.75, v_reset=v_reset, detach_reset=detach)
        neuron = Leaky(0.75, 0.75, scale_input=scaled, reset=kept, detach_reset=detach)
        agree(layer(neuron), theirs, drive(*((1.0, 3.0) if scaled else (0.2, 0.7))))

    @pytest.mark.parametrize("scaled", [True, False])
    def test_ternary(self, v_reset, kept, detach, scaled):
        theirs = node(nodes.TernaryLIFNode, tau=4.0, decay_input=scaled, v_threshold=0.75, v_reset=v_reset, detach_reset=detach)
        neuron = Ternary(0.75, 0.75, scale_input=scaled, reset=kept, detach_reset=detach)
        agree(layer(neuron), theirs, drive(*((0.25, 3.0) if scaled else (0.0, 0.7))))

    def test_ternary_if(self, v_reset, kept, detach):
        theirs = node(nodes.TernaryIFNode, v_threshold=0.75, v_reset=v_reset, detach_reset=detach)
        agree(layer(Ternary(1.0, 0.75, reset=kept, detach_reset=detach)), theirs, drive(0.0, 0.7))

    def test_resonate_and_fire(self, v_reset, kept, detach):
        theirs = node(nodes.RAFNode, b=-0.2, omega=1.0, dt=0.75, v_threshold=0.75, v_reset=v_reset, detach_reset=detach)
        neuron = ResonateAndFire(-0.2, 1.0, 0.75, 0.75, reset_phase=False, reset=kept, detach_reset=detach)
        agree(layer(neuron), theirs, drive(0.3, 0.7))

    def test_klif(self, v_reset, kept, detach):
        """The gain, too, has the same gradient."""
        currents = drive(1.5, 1.5)
        module = nn.Layer(KLIF(4.0, 1.25, 0.75, reset=kept, detach_reset=detach), learn="k", backend="reference")
        peer = nodes.KLIFNode(
            tau=4.0, v_threshold=0.75, v_reset=v_reset, detach_reset=detach, surrogate_function=surrogate.ATan(2.0), step_mode="m"
        )
        with torch.no_grad():
            peer.k.fill_(1.25)
        for run in (lambda x: module(x)[0], peer):
            peer.reset()
            (run(currents) * weights_of(SHAPE)).sum().backward()
        gains = module.k_log.grad.item() / 1.25, peer.k.grad.item()
        assert math.isclose(*gains, rel_tol=1e-4)
        peer.reset()
        agree(lambda x: module(x)[0], peer, currents)


def test_spikingjelly_cuba():
    for v_reset, kept in ((None, "subtract"), (0.0, "zero")):

        def theirs(currents, v_reset=v_reset):
            peer = nodes.CUBALIFNode(0.5, 0.75, 0.875, v_reset, surrogate.ATan(2.0))
            return torch.stack([peer(x) for x in currents])

        agree(layer(Synaptic(0.5, 0.75, 0.875, reset=kept, detach_reset=False)), theirs, drive(0.2, 0.7))


def test_spikingjelly_non_spiking_lif():
    theirs = nodes.NonSpikingLIFNode(tau=4.0)
    agree(layer(LeakyIntegrator(0.75, scale_input=True)), lambda x: torch.stack(theirs(x)), drive(0.5, 1.0), spiking=False)


@pytest.mark.parametrize("detach", [True, False])
def test_spikingjelly_quadratic_and_exponential(detach):
    """Theirs start at the reset potential."""
    options = {"v_threshold": 1.0, "v_rest": 0.0, "v_reset": -0.25, "detach_reset": detach}
    start, currents = torch.full(SHAPE[1:], -0.25), drive(0.4, 0.6)
    theirs = node(nodes.QIFNode, tau=2.0, v_c=0.75, a0=1.5, **options)
    ours = layer(QuadraticIF(2.0, 0.75, 1.5, 0.0, -0.25, detach_reset=detach))
    agree(lambda x: ours(x, start), theirs, currents)
    theirs = node(nodes.EIFNode, tau=2.0, delta_T=0.5, theta_rh=0.75, **options)
    ours = layer(ExponentialIF(2.0, 0.5, 0.75, 0.0, -0.25, detach_reset=detach))
    agree(lambda x: ours(x, start), theirs, currents)
    assert not torch.equal(ours(currents), theirs(currents))


def test_spikingjelly_izhikevich_has_another_parabola_and_adapts_from_the_new_potential():
    """With the roots of Izhikevich's parabola it is his neuron, where recovery does not follow the potential."""
    dt, a, root = 0.25, 0.05, math.sqrt(2.6) / 0.08
    numbers = {"tau": 1 / dt, "v_c": -62.5 + root, "a0": 0.04, "v_rest": -62.5 - root, "tau_w": 1 / (dt * a), "v_reset": -65.0}
    numbers |= {"v_threshold": 30.0, "b": 8.0, "detach_reset": True}
    mine = layer(Izhikevich(a=a, b=0.0, dt=dt))
    agree(mine, node(nodes.IzhikevichNode, **numbers), drive(80.0, 40.0, (120, 3, 6)).double())
    peer = nodes.IzhikevichNode(a=0.2, step_mode="s", **numbers)
    peer(torch.tensor([10.0]))
    new = -65.0 + dt * (0.04 * 65.0**2 - 5 * 65.0 + 140 + 10)
    assert math.isclose(peer.w.item(), dt * a * 0.2 * (new + 62.5 + root), rel_tol=1e-5)


def test_spikingjelly_gated_lif():
    """Its parameters are the logits of ours, and of the conductance of each step."""
    steps, channels = 12, 5
    currents = drive(0.6, 0.6, (steps, 2, channels, 3, 4))
    peer = nodes.GatedLIFNode(steps, channels, surrogate_function=surrogate.ATan(2.0))
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    names = {"alpha": "alpha", "beta": "beta", "gamma": "gamma", "tau": "tau", "leak": "linear_decay", "drop": "v_subreset"}
    names |= {"threshold": "v_threshold"}
    values = {ours: getattr(peer, theirs).detach().sigmoid()[:, None, None] for ours, theirs in names.items()}
    conductance = peer.conduct.detach().sigmoid()[:, None, :, None, None].expand(currents.shape)
    module = nn.Layer(GatedLeaky(), values=values, learn=("alpha", "gamma", "leak"), backend="reference")

    def theirs(x):
        peer.reset()
        return peer(x)

    agree(lambda x: module((x, conductance))[0], theirs, currents)
    for run in (lambda x: module((x, conductance))[0], theirs):
        (run(currents) * weights_of(currents.shape)).sum().backward()
    for ours, theirs in (("alpha_logit", "alpha"), ("gamma_logit", "gamma"), ("leak_logit", "linear_decay")):
        torch.testing.assert_close(getattr(module, ours).grad.ravel(), getattr(peer, theirs).grad, rtol=1e-3, atol=1e-4)


def test_spikingjelly_complementary_lif():
    theirs = node(nodes.ComplementaryLIFNode, tau=3.0, v_threshold=0.75)
    agree(layer(ComplementaryLeaky(3.0, 0.75)), theirs, drive(0.5, 0.8))
    agree(layer(ComplementaryLeaky(spike=Boxcar(width=0.5))), lambda x: nodes.ComplementaryLIFNode(step_mode="m")(x), drive(0.5, 0.8))


@pytest.mark.parametrize("detach", [True, False])
def test_spikingjelly_integer_lif(detach):
    theirs = node(nodes.ILIFNode, v_threshold=0.75, surrogate_function=surrogate.MultiLevelSpikeCount(3), detach_reset=detach)
    agree(layer(IntegerLeaky(0.25, 0.75, 3, spike=Boxcar(width=0.5), detach_reset=detach)), theirs, drive(0.5, 1.5))
    halves = torch.tensor([0.5, 1.5, 2.5])[None]
    assert layer(IntegerLeaky())(halves).tolist() == [[1.0, 2.0, 3.0]]
    assert node(nodes.ILIFNode, surrogate_function=surrogate.MultiLevelSpikeCount(4))(halves).tolist() == [[0.0, 2.0, 2.0]]


# Norse: spikes above the threshold, hard resets, attached; SuperSpike of slope 1 whatever alpha says.

NORSE = {"spike": FastSigmoid(slope=1.0), "spike_at_threshold": False, "detach_reset": False}
DT = 0.001
SYNAPSE, MEMBRANE = 300.0, 250.0
LIF = norse.LIFParameters(tau_syn_inv=torch.tensor(SYNAPSE), tau_mem_inv=torch.tensor(MEMBRANE), v_th=torch.tensor(0.75))


def cell(module, state=None):
    def run(currents):
        s, spikes = state, []
        for current in currents:
            spike, s = module(current, s)
            spikes.append(spike)
        return torch.stack(spikes)

    return run


def test_norse_iaf():
    theirs = cell(norse.IAFCell(norse.IAFParameters(v_th=torch.tensor(0.75))))
    agree(layer(IntegrateAndFire(0.75, reset="zero", **NORSE)), theirs, drive(0.2, 0.7))


@pytest.mark.parametrize(("method", "kept"), [(reset.reset_value, "zero"), (reset.reset_subtract, "subtract")])
def test_norse_lif_box(method, kept):
    p = lif_box.LIFBoxParameters(tau_mem_inv=torch.tensor(MEMBRANE), v_th=torch.tensor(0.75), reset_method=method)
    agree(layer(Leaky(1 - DT * MEMBRANE, 0.75, scale_input=True, reset=kept, **NORSE)), cell(norse.LIFBoxCell(p)), drive(1.0, 3.0))


def test_norse_lif():
    neuron = Synaptic(1 - DT * SYNAPSE, 1 - DT * MEMBRANE, 0.75, scale_input=True, reset="zero", **NORSE)
    agree(layer(neuron), cell(norse.LIFCell(LIF)), drive(0.5, 1.5))
    _, state = norse.LIFCell(LIF)(torch.tensor([2.0]))
    assert state.i.item() == pytest.approx((1 - DT * SYNAPSE) * 2.0)  # decayed already


def test_norse_leaky_integrators():
    box = cell(norse.LIBoxCell(norse.LIBoxParameters(tau_mem_inv=torch.tensor(MEMBRANE))))
    agree(layer(LeakyIntegrator(1 - DT * MEMBRANE, scale_input=True)), box, drive(0.5, 1.0), spiking=False)
    p = norse.LIParameters(tau_syn_inv=torch.tensor(SYNAPSE), tau_mem_inv=torch.tensor(MEMBRANE))
    ours = synapse_then(1 - DT * SYNAPSE, LeakyIntegrator(1 - DT * MEMBRANE, scale_input=True))
    agree(ours, cell(norse.LICell(p)), drive(0.5, 1.0), spiking=False)


def test_norse_refractory():
    """Its counter has a gradient by mistake: detached between steps, the neuron is ours."""
    p = lif_refrac.LIFRefracParameters(lif=LIF, rho_reset=torch.tensor(2.0))
    neuron = RefractoryLeaky(1 - DT * MEMBRANE, 2.0, 0.75, scale_input=True, reset="zero", **NORSE)
    ours, currents = synapse_then(1 - DT * SYNAPSE, neuron), drive(1.0, 2.0)
    module = norse.LIFRefracCell(p)

    def without_the_counter(currents):
        state, spikes = None, []
        for current in currents:
            spike, state = module(current, state)
            state = state._replace(rho=state.rho.detach())
            spikes.append(spike)
        return torch.stack(spikes)

    agree(ours, without_the_counter, currents)
    agree(ours, cell(module), currents, gradients=False)


def test_norse_exponential():
    p = norse.LIFExParameters(
        delta_T=torch.tensor(0.5), tau_syn_inv=torch.tensor(SYNAPSE), tau_mem_inv=torch.tensor(MEMBRANE), v_th=torch.tensor(0.75)
    )
    neuron = ExponentialIF(1 / (DT * MEMBRANE), 0.5, 0.75, 0.0, 0.0, 0.75, **NORSE)
    agree(synapse_then(1 - DT * SYNAPSE, neuron), cell(norse.LIFExCell(p)), drive(0.2, 1.0))


def test_norse_adaptive_exponential():
    p = norse.LIFAdExParameters(
        adaptation_current=torch.tensor(0.5),
        adaptation_spike=torch.tensor(0.25),
        delta_T=torch.tensor(0.5),
        tau_ada_inv=torch.tensor(50.0),
        tau_syn_inv=torch.tensor(SYNAPSE),
        tau_mem_inv=torch.tensor(MEMBRANE),
        v_th=torch.tensor(0.75),
        v_reset=torch.tensor(-0.25),
    )
    neuron = AdEx(1 / (DT * MEMBRANE), 1 / (DT * 50.0), 0.5, 0.75, 0.0, 0.5, 0.25, -0.25, 0.75, **NORSE)
    agree(synapse_then(1 - DT * SYNAPSE, neuron), cell(norse.LIFAdExCell(p)), drive(0.5, 1.0))


def test_norse_adaptive_threshold():
    """Its current arrives one step late."""
    p = norse.LSNNParameters(
        tau_syn_inv=torch.tensor(SYNAPSE),
        tau_mem_inv=torch.tensor(MEMBRANE),
        tau_adapt_inv=torch.tensor(50.0),
        v_th=torch.tensor(0.75),
        beta=torch.tensor(0.25),
    )
    rho = 1 - DT * 50.0
    neuron = Adaptive(1 - DT * MEMBRANE, rho, rho * 0.25, 0.75, scale_input=True, reset="zero", **NORSE)
    ours = synapse_then(1 - DT * SYNAPSE, neuron)
    agree(lambda x: ours(torch.cat([torch.zeros_like(x[:1]), x[:-1]])), cell(norse.LSNNCell(p)), drive(0.8, 1.5))


def test_norse_izhikevich():
    behaviour = norse.create_izhikevich_spiking_behavior(0.02, 0.2, -65.0, 6.0, -70.0, -70.0)
    currents = drive(60.0, 40.0, (120, 3, 6)).double()  # whose gradients grow past what float32 can tell
    ours = layer(Izhikevich(0.02, 0.2, -65.0, 6.0, 0.25, **NORSE))
    state = torch.full_like(currents[0], -70.0), torch.full_like(currents[0], -14.0)
    agree(lambda x: ours(x, state), cell(norse.IzhikevichCell(behaviour)), currents)


def test_norse_conductances_are_an_euler_step():
    """They meet in the limit of short steps: ten times shorter, ten times closer. And in the recurrent cell the input is lost."""

    def apart(dt):
        numbers = {"tau_syn_exc_inv": 0.2, "tau_syn_inh_inv": 0.4, "c_m_inv": 0.5, "g_l": 0.25, "v_rest": -1.0, "v_reset": -1.0}
        p = coba_lif.CobaLIFParameters(**numbers, e_rev_E=4.0, e_rev_I=-2.0, v_thresh=1e9)
        state = coba_lif.CobaLIFFeedForwardState(torch.full((6,), -1.0), torch.zeros(6), torch.zeros(6))
        neuron = ConductanceLeaky(1 - dt * 0.2, 1 - dt * 0.4, dt * 0.5 * 0.25, 5.0, -1.0, 1e9)
        currents = torch.zeros(round(20 / dt), 6)
        currents[0] = drive(0.0, 1.0, (6,))
        inputs = (1 - dt * 0.2) * currents.relu() / 0.25, (1 - dt * 0.4) * (-currents).relu() / 0.25
        _, _, u = nn.Layer(neuron, backend="reference")(inputs, record=True)
        theirs = []
        for current in currents:
            _, state = coba_lif.coba_lif_feed_forward_step(current, state, p, dt)
            theirs.append(state.v + 1.0)
        assert u.abs().max() > 0.1
        return (u - torch.stack(theirs)).abs().max()

    assert 8 < apart(0.5) / apart(0.05) < 12
    recurrent = norse.CobaLIFCell(3, 4)
    quiet, driven = (recurrent(torch.full((1, 3), x))[1] for x in (0.0, 100.0))
    assert torch.equal(quiet.g_e, driven.g_e)


# spyx: spikes from the potential before, hence a step late, above the threshold, attached. In JAX.

SPYX = {"spike": FastSigmoid(slope=10.0), "spike_at_threshold": False, "detach_reset": False}


def spyx_neuron(kind, late=True, **options):
    """Outputs and gradients in PyTorch of a neuron of spyx; one step more, and the first left out, where its spikes come late."""
    if "threshold" in options:
        options["activation"] = spyx.axn.superspike(10.0)
    module = kind(SHAPE[2:], rngs=nnx.Rngs(0), **options)

    def run(currents):
        def step(state, x):
            out, state = module(x, state)
            return state, out

        return jax.lax.scan(step, module.initial_state(SHAPE[1]), currents)[1]

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx, currents):
            extended = jnp.asarray(torch.cat([currents, torch.zeros_like(currents[:1])]).numpy())
            out, ctx.backwards = jax.vjp(lambda x: run(x)[1:] if late else run(x)[:-1], extended)
            return torch.from_numpy(np.array(out))

        @staticmethod
        def backward(ctx, gradient):
            return torch.from_numpy(np.array(ctx.backwards(jnp.asarray(gradient.numpy()))[0]))[:-1]

    return Bridge.apply


def test_spyx_integrate_and_fire():
    agree(layer(IntegrateAndFire(0.75, **SPYX)), spyx_neuron(spyx.nn.IF, threshold=0.75), drive(0.2, 0.7))


def test_spyx_leaky():
    neuron = Leaky(0.75, 0.875, reset_delay=True, **SPYX)
    agree(layer(neuron), spyx_neuron(spyx.nn.LIF, beta=0.75, threshold=0.875), drive(0.3, 0.8))


def test_spyx_synaptic():
    theirs = spyx_neuron(spyx.nn.CuBaLIF, alpha=0.5, beta=0.75, threshold=0.875)
    agree(layer(Synaptic(0.5, 0.75, 0.875, **SPYX)), theirs, drive(0.2, 0.8))


def test_spyx_leaky_integrator():
    agree(layer(LeakyIntegrator(0.75)), spyx_neuron(spyx.nn.LI, beta=0.75, late=False), drive(0.5, 1.0), spiking=False)


def test_spyx_adaptive():
    """Equal without leak; with one, its reset has not decayed, as in the paper."""
    rho = 0.875
    theirs = spyx_neuron(spyx.nn.ALIF, beta=1.0, gamma=rho, threshold=0.75)
    agree(layer(Adaptive(1.0, rho, 1 - rho, 0.75, **SPYX)), theirs, drive(0.2, 0.7))
    once = torch.zeros(SHAPE)
    once[0], once[1] = 1.0, 0.8
    leaking = spyx_neuron(spyx.nn.ALIF, beta=0.5, gamma=rho, threshold=0.75)
    _, _, u = nn.Layer(Adaptive(0.5, rho, 1 - rho, 0.75, **SPYX), backend="reference")(once, record=True)
    assert torch.equal(u[1], torch.full(SHAPE[1:], 0.5 * (1.0 - 0.75) + 0.8))  # fires
    assert not leaking(once)[1].any()  # 0.5 * 1.0 - 0.75 + 0.8 does not


def test_spyx_resonator_is_the_same_oscillation():
    """Without reset, and it spikes by the real part: our x."""
    module = spyx.phasor.ResonateFire((6,), lambda_init=0.2, omega_init=1.0, dt=0.75, rngs=nnx.Rngs(0))
    currents, state = drive(0.3, 0.7), module.initial_state(SHAPE[1])
    for current in currents:
        _, state = module(jnp.asarray(current.numpy()), state)
    neuron = ResonateAndFire(-0.2, 1.0, 0.75, reset_phase=False, reset="none")
    _, (x, v) = nn.Layer(neuron, backend="reference")(currents)
    np.testing.assert_allclose(x.numpy(), np.real(state), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(v.numpy(), np.imag(state), rtol=1e-4, atol=1e-5)


def test_flexsn():
    """The neuron of our benchmarks for GPUs, in SpikingJelly's compiler of steps."""
    from benchmarks import contenders, layer

    mine = contenders.ours("Leaky", contenders.FLEX.twin)
    assert "same spikes" in layer.prove(layer.TorchSide(), "Leaky", contenders.FLEX, layer.inputs((30, 2, 16)), mine)
