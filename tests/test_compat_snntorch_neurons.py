"""snnTorch's neurons on spikegrad, live against snnTorch 1.0.0: spikes bit for bit, gradients to float32 accuracy, every option."""

from __future__ import annotations

import itertools
import statistics
import time

import pytest
import torch
from tests.conftest import pairwise
from torch import nn

from spikegrad.compat import snntorch as ours

theirs = pytest.importorskip("snntorch")
quant = pytest.importorskip("snntorch.functional.quant")

pytestmark = pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")

STEPS, BATCH, FEATURES = 25, 3, 5
NEURONS = ("Leaky", "Synaptic", "RLeaky", "RSynaptic", "Alpha", "Lapicque")
DECAYS = {
    "Leaky": {"beta": 0.85},
    "Synaptic": {"alpha": 0.7, "beta": 0.85},
    "RLeaky": {"beta": 0.85},
    "RSynaptic": {"alpha": 0.7, "beta": 0.85},
    "Alpha": {"alpha": 0.9, "beta": 0.8},
    "Lapicque": {"beta": 0.85},
}
LEARNED = {
    "Leaky": ("beta", "threshold", "graded_spikes_factor"),
    "Synaptic": ("alpha", "beta", "threshold"),
    "RLeaky": ("beta", "threshold", "recurrent"),
    "RSynaptic": ("alpha", "beta", "threshold", "recurrent"),
    "Alpha": ("beta", "threshold"),  # and alpha, with which snnTorch cannot be made: see test_what_snntorch_cannot_run
    "Lapicque": ("beta", "threshold"),
}
RESETS = ("subtract", "zero", "none")
GAIN = {"Alpha": 3.0, "Lapicque": 3.0}
"""Neurons that need stronger currents."""
DELAYED = ("Alpha", "Lapicque")
"""Neurons without an immediate reset."""


@pytest.fixture(autouse=True)
def alone():
    """One thread, since several only get in each other's way here; and snnTorch forgets the neurons that it would keep for ever."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    theirs.SpikingNeuron.instances.clear()


def drive(shape=(STEPS, 3 * BATCH, FEATURES), seed=0):
    """Three random drives, side by side: weak and strong, and one that also inhibits."""
    generator = torch.Generator().manual_seed(seed)
    currents = torch.randn(shape, generator=generator)
    mean, spread = torch.tensor([0.2, 0.6, 0.3]), torch.tensor([0.4, 0.5, 1.1])
    sizes = (1, -1, *[1] * (len(shape) - 2))
    third = shape[1] // 3
    return currents * spread.repeat_interleave(third).reshape(sizes) + mean.repeat_interleave(third).reshape(sizes)


def run(neuron, currents):
    """Every output of every step, in the style that the neuron is made for."""
    with_states = not neuron.init_hidden or neuron.output
    states = () if neuron.init_hidden else neuron.reset_mem()
    states = states if isinstance(states, tuple) else (states,)
    count, steps = len(states), []
    for current in currents.unbind(0):
        out = neuron(current, *states)
        if count:
            states = out[len(out) - count :]
        steps.append(torch.stack(out if with_states else (out,)))
    return torch.stack(steps)


def gradients(outputs, inputs):
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(7))
    return torch.autograd.grad((outputs * weights).sum(), inputs, allow_unused=True)


def compare(name, currents, **options):
    """Both libraries' neuron with these options, with the same weights, over the same currents."""
    options = {**DECAYS[name], "threshold": 0.9, **options}
    made = []
    for library in (theirs, ours):
        call = options.get("spike_grad", "atan()")
        made.append(getattr(library, name)(**{**options, "spike_grad": eval(f"surrogate.{call}", {"surrogate": library.surrogate})}))
    theirs_neuron, ours_neuron = made
    ours_neuron.load_state_dict(theirs_neuron.state_dict())
    currents = currents.clone().requires_grad_()
    peer, mine = run(theirs_neuron, currents), run(ours_neuron, currents)
    assert torch.equal(mine, peer), "outputs"
    learned = [{what: p for what, p in neuron.named_parameters() if p.requires_grad} for neuron in (theirs_neuron, ours_neuron)]
    assert learned[0].keys() == learned[1].keys()
    wanted, got = (gradients(out, [currents, *p.values()]) for out, p in zip((peer, mine), learned, strict=True))
    terms = float(wanted[0].abs().sum())
    for what, a, b in zip(("currents", *learned[0]), wanted, got, strict=True):
        assert (a is None) == (b is None), what
        if a is not None:
            # A parameter's gradient is a sum over steps and samples, whose terms may cancel: relative to the size of what is summed.
            atol = 1e-6 * (float(a.abs().max()) if what == "currents" else terms)
            torch.testing.assert_close(b, a, rtol=1e-5, atol=atol, msg=lambda text, what=what: f"{what}: {text}")
    return mine


def pairs(*choices):
    """Few combinations in which every two values meet."""
    return [tuple(row.values()) for row in pairwise({str(place): values for place, values in enumerate(choices)})]


def every(name, sets, combined):
    """Sets of learned parameters, with and without states in the neuron, graded spikes and quantised states."""
    graded = (1.0, 2.5) if "graded_spikes_factor" in LEARNED[name] else (None,)
    for learned, hidden, factor, quantised in combined(sets, (False, True), graded, (False, True)):
        options = {f"learn_{which}": which in learned for which in LEARNED[name]}
        options |= {"init_hidden": hidden, "output": hidden and quantised}
        options |= {} if factor is None else {"graded_spikes_factor": factor}
        if quantised:
            options["state_quant"] = quant.state_quant(num_bits=8, uniform=True, threshold=0.9, lower_limit=10, upper_limit=10)
        yield options


@pytest.mark.parametrize("inhibition", [False, True], ids=["", "inhibition"])
@pytest.mark.parametrize("delay", [True, False], ids=["delayed", "immediate"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("name", NEURONS)
def test_every_option(name, reset, delay, inhibition):
    """With nothing learned, and with everything; every two options of a neuron meet."""
    check_every(name, reset, delay, inhibition, [(), LEARNED[name]], pairs)


@pytest.mark.slow
@pytest.mark.parametrize("inhibition", [False, True], ids=["", "inhibition"])
@pytest.mark.parametrize("delay", [True, False], ids=["delayed", "immediate"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("name", NEURONS)
def test_every_option_with_every_learned_set(name, reset, delay, inhibition):
    sets = [set_ for n in range(len(LEARNED[name]) + 1) for set_ in itertools.combinations(LEARNED[name], n)]
    check_every(name, reset, delay, inhibition, sets, itertools.product)


def check_every(name, reset, delay, inhibition, sets, combined):
    if name in DELAYED and not delay:
        pytest.skip(f"{name} has no immediate reset")
    if name == "RSynaptic" and not delay:
        pytest.skip("snnTorch cannot run it: see test_what_snntorch_cannot_run")
    options = {"reset_mechanism": reset, "inhibition": inhibition}
    options |= {} if name in DELAYED else {"reset_delay": delay}
    options |= {"linear_features": FEATURES} if name.startswith("R") else {}
    rates = []
    for more in every(name, sets, combined):
        torch.manual_seed(1)
        rates.append((compare(name, GAIN.get(name, 1.0) * drive(), **options, **more)[:, 0] != 0).float().mean().item())
    assert 0.02 < min(rates) <= max(rates) < 0.98, f"the drives decide nothing: {rates}"


def test_what_snntorch_cannot_run():
    """The combinations that are left out above: snnTorch raises, ours runs."""
    for reset, inhibition, hidden in itertools.product(RESETS, (False, True), (False, True)):
        options = {**DECAYS["RSynaptic"], "linear_features": FEATURES, "reset_mechanism": reset, "reset_delay": False}
        options |= {"inhibition": inhibition, "init_hidden": hidden}
        with pytest.raises((TypeError, RuntimeError), match=r"unsupported operand|The size of tensor a \(0\) must match"):
            run(theirs.RSynaptic(**options), drive())
        assert run(ours.RSynaptic(**options), drive()).isfinite().all()
    with pytest.raises(TypeError, match=r"cannot assign .* as parameter 'alpha'"):
        theirs.Alpha(**DECAYS["Alpha"], learn_alpha=True)
    assert run(ours.Alpha(**DECAYS["Alpha"], learn_alpha=True), drive()).requires_grad


@pytest.mark.parametrize("name", ["RLeaky", "RSynaptic"])
@pytest.mark.parametrize("reset", RESETS)
def test_one_to_one_recurrence(name, reset):
    for v, learned in itertools.product((-0.5, torch.linspace(-1, 1, FEATURES)), (True, False)):
        compare(name, drive(), V=v, all_to_all=False, learn_recurrent=learned, reset_mechanism=reset, learn_beta=True)


@pytest.mark.parametrize("name", NEURONS)
def test_parameters_of_single_neurons(name):
    """Decays and thresholds that differ between neurons, learned: each has its own gradient."""
    spread = torch.linspace(0.9, 1.1, FEATURES)
    options = {key: value * spread for key, value in (*DECAYS[name].items(), ("threshold", 0.9))}
    if name == "Lapicque":
        options |= {"beta": DECAYS[name]["beta"]}  # snnTorch cannot: see test_lapicque_is_told_what_it_needs
    options |= {"linear_features": FEATURES} if name.startswith("R") else {}
    options |= {"learn_alpha": True} if "alpha" in options and name != "Alpha" else {}
    compare(name, GAIN.get(name, 1.0) * drive(), learn_beta=True, learn_threshold=True, **options)


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("spike_grad", ["fast_sigmoid(slope=25)", "sigmoid(slope=5)", "straight_through_estimator()", "heaviside()"])
def test_other_surrogates(name, spike_grad):
    """Each library with its own surrogate."""
    sizes = {"linear_features": FEATURES} if name.startswith("R") else {}
    compare(name, GAIN.get(name, 1.0) * drive(), **sizes, learn_beta=True, spike_grad=spike_grad)


def test_surrogate_disable():
    for name in NEURONS:
        sizes = {"linear_features": FEATURES} if name.startswith("R") else {}
        neuron = getattr(ours, name)(**DECAYS[name], **sizes, surrogate_disable=True, learn_threshold=True)
        peer = getattr(theirs, name)(**DECAYS[name], **sizes, surrogate_disable=True)
        peer.load_state_dict(neuron.state_dict())
        currents = (GAIN.get(name, 1.0) * drive()[0]).requires_grad_()
        spk = neuron(currents)[0]
        assert torch.equal(spk, peer(currents)[0])
        assert not (spk / neuron.graded_spikes_factor).requires_grad


def test_a_surrogate_of_snntorch_itself_works():
    """A user may keep theirs: what it returns is taken in float32, and put out in the dtype of the input."""
    neuron = ours.Leaky(0.9, spike_grad=theirs.surrogate.fast_sigmoid(slope=10))
    x = torch.full((2, 3), 1.5, dtype=torch.float64, requires_grad=True)
    spk, mem = neuron(x)
    spk.sum().backward()
    assert (spk.dtype, mem.dtype) == (torch.float64, torch.float64)
    assert torch.allclose(x.grad, torch.full_like(x, 1 / (1 + 10 * 0.5) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(700, 256, 20, 64), (64, 100, 10, 16)], ids=["large", "small"])
@pytest.mark.parametrize("name", ["Leaky", "Synaptic"])
def test_not_slower(name, sizes):
    """One training step of a network over 100 steps in time, in alternation, by processor time: the median of the ratios."""
    inputs, hidden, outputs, batch = sizes
    spikes = (torch.rand(100, batch, inputs) < 0.1).float()
    networks = []
    for library in (theirs, ours):
        torch.manual_seed(0)
        neurons = [getattr(library, name)(**DECAYS[name]) for _ in range(2)]
        networks.append((nn.Linear(inputs, hidden), neurons[0], nn.Linear(hidden, outputs), neurons[1]))

    def seconds(network):
        began = time.process_time()
        first, one, second, two = network
        states = [neuron.reset_mem() for neuron in (one, two)]
        a, b = (state if isinstance(state, tuple) else (state,) for state in states)
        potentials = []
        for step in spikes.unbind(0):
            spk, *a = one(first(step), *a)
            _, *b = two(second(spk), *b)
            potentials.append(b[-1])
        torch.stack(potentials).square().mean().backward()
        return time.process_time() - began

    for network in networks:
        seconds(network)
    ratios = [peer / mine for peer, mine in ([seconds(network) for network in networks] for _ in range(15))]
    assert torch.equal(networks[0][0].weight.grad, networks[1][0].weight.grad)
    assert statistics.median(ratios) > 1.0, ratios
