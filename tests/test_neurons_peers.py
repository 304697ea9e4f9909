"""Neurons of the catalogue live against snnTorch's and sinabs's, as their documentation maps them under "Elsewhere".

Not compared: snnTorch's RLeaky and RSynaptic, whose recurrent weights are a layer's here; DeltaLeaky, StateLeaky, LinearLeaky,
LeakyParallel, AssociativeLeaky and the LSTM cells, which are other neurons; its ``reset_delay=False``, which also takes off a stale reset
(`tests/test_compat_snntorch_neurons.py`). sinabs's recurrent layers, and its several spikes a step but for how they round. braintools and
braincell have no neurons with these equations. SpikingJelly, Norse and spyx: `tests/test_neurons_bench_peers.py`.
"""

from __future__ import annotations

import importlib

import pytest
import torch

from spikegrad import ATan, decay, nn
from spikegrad.neurons import Adaptive, Alpha, IntegrateAndFire, Lapicque, Leaky, LeakyIntegrator, Synaptic

snntorch = pytest.importorskip("snntorch")
sinabs = pytest.importorskip("sinabs")
layers = importlib.import_module("sinabs.layers")
activation = importlib.import_module("sinabs.activation")

RESETS = ("subtract", "zero", "none")


def drive(mean, deviation, *shape):
    return mean + deviation * torch.randn(shape or (40, 3, 6), generator=torch.Generator().manual_seed(3))


def outputs_and_gradient(run, currents):
    """Outputs, and the gradient of a weighted sum of them with respect to the currents."""
    currents = currents.clone().requires_grad_()
    out = run(currents)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    return out.detach(), torch.autograd.grad((out * weights).sum(), currents)[0]


def agree(ours, theirs, currents, spiking=True):
    """Spikes are equal, analogue outputs to rounding; gradients to 1e-4 of the largest."""
    (out, gradient), (their_out, their_gradient) = outputs_and_gradient(ours, currents), outputs_and_gradient(theirs, currents)
    if spiking:
        assert torch.equal(out, their_out)
        assert 0.05 < out.mean() < 0.95
    else:
        torch.testing.assert_close(out, their_out)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, their_gradient, rtol=0, atol=1e-4 * gradient.abs().max().item())


def layer(neuron):
    module = nn.Layer(neuron, backend="reference")
    return lambda currents: module(currents)[0]


def stepped(neuron):
    """A neuron of snnTorch over all steps, its states passed from one to the next."""

    def run(currents):
        kept = neuron.reset_mem()
        states = [torch.zeros_like(currents[0])] * (len(kept) if isinstance(kept, tuple) else 1)
        spikes = []
        for current in currents:
            spike, *states = neuron(current, *states)
            spikes.append(spike)
        return torch.stack(spikes)

    return run


# snnTorch: spikes above the threshold, a reset from the potential before, detached.

THERE = {"spike_at_threshold": False, "reset_delay": True}


def atan():
    return snntorch.surrogate.atan(alpha=2.0)


@pytest.mark.parametrize("reset", RESETS)
def test_snntorch_leaky(reset):
    theirs = snntorch.Leaky(0.75, threshold=0.875, spike_grad=atan(), reset_mechanism=reset)
    agree(layer(Leaky(0.75, 0.875, reset=reset, **THERE)), stepped(theirs), drive(0.4, 1.0))


@pytest.mark.parametrize("reset", RESETS)
def test_snntorch_synaptic(reset):
    theirs = snntorch.Synaptic(0.5, 0.75, threshold=0.875, spike_grad=atan(), reset_mechanism=reset)
    agree(layer(Synaptic(0.5, 0.75, 0.875, reset=reset, **THERE)), stepped(theirs), drive(0.2, 0.8))


@pytest.mark.parametrize("reset", ["zero", "none"])
def test_snntorch_alpha(reset):
    theirs = snntorch.Alpha(0.875, 0.75, threshold=0.5, spike_grad=atan(), reset_mechanism=reset)
    agree(layer(Alpha(0.875, 0.75, 0.5, reset=reset, **THERE)), stepped(theirs), drive(0.4, 2.0))


def test_snntorch_alpha_subtracts_otherwise():
    """It takes the threshold from the slow trace, and all of the fast one; ours takes from the slow one what makes a threshold."""
    theirs = snntorch.Alpha(0.875, 0.75, threshold=0.5, reset_mechanism="subtract")
    slow, fast, spiked = torch.tensor([3.0]), torch.tensor([-1.0]), torch.tensor([2.0])
    _, after_slow, after_fast, _ = theirs(torch.tensor([0.0]), slow, fast, spiked)
    assert (after_slow.item(), after_fast.item()) == (0.875 * 3.0 - 0.5, 0.0)


@pytest.mark.parametrize("reset", ["subtract", "none"])
def test_snntorch_lapicque_is_an_euler_step(reset):
    """Its own numbers make `Leaky`, not the exact solution."""
    resistance, capacitance, dt = 5.0, 0.5, 0.5
    theirs = snntorch.Lapicque(R=resistance, C=capacitance, time_step=dt, spike_grad=atan(), reset_mechanism=reset)
    euler = layer(Leaky(1 - dt / (resistance * capacitance), reset=reset, **THERE))
    currents = drive(0.15, 0.4)
    agree(lambda x: euler(dt / capacitance * x), stepped(theirs), currents)
    exact = nn.Layer(Lapicque(resistance, capacitance, dt, 1e9), backend="reference")(currents[:1], record=True)[2]
    assert not torch.allclose(exact, dt / capacitance * currents[:1], rtol=0.05)


def test_snntorch_lapicque_resets_to_zero_after_the_input():
    theirs = snntorch.Lapicque(R=5.0, C=0.5, time_step=0.5, reset_mechanism="zero")
    _, mem = theirs(torch.tensor([0.25]), torch.tensor([2.0]))
    assert mem.item() == 0.0


# sinabs: spikes at the threshold, a reset in the same step, attached. Time is its second dimension.


def over_time(make):
    """A fresh layer of sinabs, since it keeps its state, on a sequence whose first dimension is time."""
    return lambda currents: make()(currents.transpose(0, 1)).transpose(0, 1)


def slope(v, threshold):
    return ATan().derivative(v - threshold)


SINGLE = {"spike_fn": activation.SingleSpike, "surrogate_grad_fn": slope}


@pytest.mark.parametrize("scaled", [True, False])
def test_sinabs_lif(scaled):
    def theirs():
        return layers.LIF(tau_mem=4.0, spike_threshold=torch.tensor(0.75), norm_input=scaled, **SINGLE)

    neuron = Leaky(decay(4.0), 0.75, scale_input=scaled, detach_reset=False)
    agree(layer(neuron), over_time(theirs), drive(*((1.0, 3.0) if scaled else (0.2, 0.7))))


def test_sinabs_lif_reset_to_zero_is_detached():
    def theirs():
        return layers.LIF(tau_mem=4.0, reset_fn=activation.MembraneReset(), **SINGLE)

    agree(layer(Leaky(decay(4.0), scale_input=True, reset="zero")), over_time(theirs), drive(1.5, 3.0))


def test_sinabs_lif_with_a_synapse():
    def theirs():
        return layers.LIF(tau_mem=4.0, tau_syn=2.0, **SINGLE)

    module = layer(Synaptic(decay(2.0), decay(4.0), scale_input=True, detach_reset=False))
    agree(lambda x: module(decay(2.0) * x), over_time(theirs), drive(1.0, 3.0))


def test_sinabs_iaf():
    agree(layer(IntegrateAndFire(detach_reset=False)), over_time(lambda: layers.IAF(**SINGLE)), drive(0.2, 0.7))


@pytest.mark.parametrize("scaled", [True, False])
def test_sinabs_expleak(scaled):
    def theirs():
        return layers.ExpLeak(tau_mem=4.0, norm_input=scaled)

    agree(layer(LeakyIntegrator(decay(4.0), scale_input=scaled)), over_time(theirs), drive(0.5, 1.0), spiking=False)


class ThresholdAttached:
    """A spike of sinabs whose threshold has a gradient."""

    required_states = ("v_mem",)

    @staticmethod
    def apply(v, threshold, _):
        return ATan()(v - threshold)


def test_sinabs_alif():
    """The same, but for the gradient of the threshold, which is lost in sinabs's own spike."""
    rho = decay(20.0)

    def theirs(**options):
        return over_time(lambda: layers.ALIF(tau_mem=4.0, tau_adapt=20.0, adapt_scale=1.8, **options))

    neuron = layer(Adaptive(decay(4.0), rho, 1.8 * (1 - rho), scale_input=True, detach_reset=False))
    currents = drive(2.0, 4.0)
    agree(neuron, theirs(spike_fn=ThresholdAttached), currents)
    (spikes, gradient), (their_spikes, their_gradient) = (outputs_and_gradient(run, currents) for run in (neuron, theirs(**SINGLE)))
    assert torch.equal(spikes, their_spikes)
    assert (gradient - their_gradient).abs().max() > 0.02 * gradient.abs().max()


def test_sinabs_several_spikes_round_down():
    """MaxSpike and MultiSpike count whole thresholds, `IntegerLeaky` the nearest number."""
    lif = layers.LIF(tau_mem=4.0, norm_input=False, spike_fn=activation.MaxSpike(4), surrogate_grad_fn=slope)
    assert lif(torch.tensor([[[0.75], [1.75], [9.0]]])).ravel().tolist() == [0.0, 2.0, 4.0]
