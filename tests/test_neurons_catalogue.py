"""Every neuron of the catalogue against a second entry of it in NumPy, written from its paper; and what its documentation says of it."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spikegrad import citation, nn
from spikegrad.neurons import CATALOGUE, BalancedResonateAndFire, ConductanceLeaky, IntegerLeaky, ResonateAndFire

STEPS, BATCH, FEATURES = 60, 3, 8
RESETS = ("subtract", "zero", "none")
YES_NO = (False, True)


# The second entry: one function for each neuron, from one step to the next. It takes the numbers `p`, the options `o`, the step function of
# the spikes `fire`, the inputs of a step and the states, and returns the output, the states and the potential. The forms are chosen to
# differ from the catalogue's where mathematics leaves a choice: complex numbers for oscillations, solutions in place of recursions.


def reset(u, s, theta, how):
    return np.where(s > 0, {"subtract": u - theta, "zero": 0.0, "none": u}[how], u)


def integrate_and_fire(p, o, fire, current, v):
    u = v + current
    s = fire(u - p.threshold)
    return s, (reset(u, s, p.threshold, o.reset),), u


def leaky(p, o, fire, current, v):
    current = (1 - p.beta) * current if o.scale_input else current
    if not o.reset_delay:
        u = p.beta * v + current
        s = fire(u - p.threshold)
        return s, (reset(u, s, p.threshold, o.reset),), u
    due = fire(v - p.threshold) > 0
    u = p.beta * np.where(due & (o.reset == "zero"), 0.0, v) + current
    u = np.where(due & (o.reset == "subtract"), u - p.threshold, u)
    return fire(u - p.threshold), (u,), u


def synaptic(p, o, fire, current, i, v):
    i = p.alpha * i + current
    u = p.beta * v + ((1 - p.beta) * i if o.scale_input else i)
    if o.reset_delay:
        u = reset(u, fire(v - p.threshold), p.threshold, o.reset)
        return fire(u - p.threshold), (i, u), u
    s = fire(u - p.threshold)
    return s, (i, reset(u, s, p.threshold, o.reset)), u


def alpha(p, o, fire, current, rise, fall):
    gain = 1 - np.log(p.alpha) / np.log(p.alpha / p.beta)
    due = fire(gain * (fall + rise) - p.threshold)
    fall, rise = p.alpha * fall + current, p.beta * rise - current
    u = gain * (fall + rise)
    due = due if o.reset_delay else fire(u - p.threshold)
    fall = reset(fall, due, p.threshold / gain, o.reset)
    rise = reset(rise, due, 0.0, o.reset)
    after = gain * (fall + rise)
    return (fire(after - p.threshold), (rise, fall), after) if o.reset_delay else (due, (rise, fall), u)


def lapicque(p, o, fire, current, v):
    goal = p.resistance * current  # the potential goes there exponentially
    u = goal + (v - goal) * np.exp(-p.dt / p.resistance / p.capacitance)
    s = fire(u - p.threshold)
    return s, (reset(u, s, p.threshold, o.reset),), u


def leaky_integrator(p, o, fire, current, v):
    u = p.beta * v + (current - p.beta * current if o.scale_input else current)
    return u, (u,), u


def refractory_leaky(p, o, fire, current, v, wait):
    free = wait <= 0
    u = np.where(free, p.beta * v + ((1 - p.beta) * current if o.scale_input else current), v)
    s = np.where(free, fire(u - p.threshold), 0.0)
    return s, (reset(u, s, p.threshold, o.reset), np.where(s > 0, p.period, np.clip(wait - 1, 0, None))), u


def adaptive(p, o, fire, current, v, a):
    theta = p.threshold + p.jump * a
    u = p.beta * v + ((1 - p.beta) * current if o.scale_input else current)
    s = fire(u - theta)
    return s, (reset(u, s, theta, o.reset), p.rho * a + s), u


def adaptive_leaky(p, o, fire, current, v, w):
    s = fire(v - p.threshold)  # the spike of the step before
    w = p.beta * w + p.a * v + p.b * s
    u = p.alpha * reset(v, s, p.threshold, o.reset) + (1 - p.alpha) * (current - w)
    return fire(u - p.threshold), (u, w), u


def symplectic_adaptive_leaky(p, o, fire, current, v, w):
    u = p.alpha * v + (1 - p.alpha) * (-w + current)
    s = fire(u - p.threshold)
    v = reset(u, s, p.threshold, o.reset)
    return s, (v, p.beta * w + (1 - p.beta) * (p.gain * p.a * v + p.gain * p.b * s)), u


def quadratic_if(p, o, fire, current, v):
    u = v + (p.curvature * (v - p.rest) * (v - p.critical) + current) / p.tau
    s = fire(u - p.threshold)
    return s, (np.where(s > 0, p.reset_potential, u),), u


def exponential_if(p, o, fire, current, v):
    u = v + (p.rest - v + p.sharpness * np.exp((v - p.rheobase) / p.sharpness) + current) / p.tau
    s = fire(u - p.threshold)
    return s, (np.where(s > 0, p.reset_potential, u),), u


def adex(p, o, fire, current, v, w):
    u = v + (p.rest - v + p.sharpness * np.exp((v - p.rheobase) / p.sharpness) - w + current) / p.tau
    s = fire(u - p.threshold)
    w = w + (p.a * (v - p.rest) - w) / p.tau_w
    return s, (np.where(s > 0, p.reset_potential, u), np.where(s > 0, w + p.b, w)), u


def izhikevich(p, o, fire, current, v, w):
    u = v + p.dt * (0.04 * v**2 + 5 * v + 140 - w + current)
    w = w + p.dt * p.a * (p.b * v - w)
    s = fire(u - p.threshold)
    return s, (np.where(s > 0, p.c, u), np.where(s > 0, w + p.d, w)), u


def resonate_and_fire(p, o, fire, current, x, v):
    z = np.exp((p.damping + 1j * p.omega) * p.dt) * (x + 1j * v) + current
    s = fire(z.imag - p.threshold)
    if o.reset_phase:
        after = np.where(s > 0, 1j * p.threshold, z)
        return s, (after.real, after.imag), z.imag
    return s, (z.real, reset(z.imag, s, p.threshold, o.reset)), z.imag


def balanced_resonate_and_fire(p, o, fire, current, x, y, q):
    b = (np.sqrt(1 - (p.dt * p.omega) ** 2) - 1) / p.dt - p.offset - q
    z = (x + 1j * y) * (1 + p.dt * (b + 1j * p.omega)) + p.dt * current
    s = fire(z.real - p.threshold - q)
    return s, (z.real, z.imag, p.gamma * q + s), z.real


def balanced_harmonic(p, o, fire, current, v, y, q):
    damping = p.omega**2 * p.dt / 2 + p.offset + q
    y = y + p.dt * v
    u = v * (1 - 2 * p.dt * damping) - p.dt * p.omega**2 * y + p.dt * current
    s = fire(u - p.threshold - q)
    return s, (u, y, p.gamma * q + s), u


def gated_leaky(p, o, fire, current, conductance, v, s):
    leaked = (1 - p.alpha * (1 - p.tau)) * v * (1 - p.gamma * s) - (1 - p.alpha) * p.leak
    u = leaked + current * (1 - p.beta * (1 - conductance)) - (1 - p.gamma) * p.drop * s
    s = fire(u - p.threshold)
    return s, (u, s), u


def complementary_leaky(p, o, fire, current, v, m):
    u = (1 - 1 / p.tau) * v + current
    s = fire(u - p.threshold)
    m = m / (1 + np.exp(-u / p.tau)) + s
    return s, (np.where(s > 0, u - p.threshold - 1 / (1 + np.exp(-m)), u), m), u


def two_compartment(p, o, fire, current, d, v):
    d = d - p.dendrite * v + current
    u = v + p.soma * d
    s = fire(u - p.threshold)
    return s, (np.where((s > 0) & (o.reset == "subtract"), d - p.gamma, d), reset(u, s, p.threshold, o.reset)), u


def klif(p, o, fire, current, v):
    u = np.clip(p.k * (v + (current - v) / p.tau), 0, None)
    s = fire(u - p.threshold)
    return s, (reset(u, s, p.threshold, o.reset),), u


def integer_leaky(p, o, fire, current, v):
    u = p.beta * v + current
    whole = np.floor(u / p.threshold + 0.5) if o.spike_at_threshold else np.ceil(u / p.threshold - 0.5)
    s = np.clip(whole, 0, o.levels)
    return s, (u - p.threshold * s,), u


def sigma_delta(p, o, fire, current, sigma, sent):
    sigma = sigma + current
    u = np.clip(sigma, 0, None)
    s = np.where(fire(np.abs(u - sent) - p.threshold) > 0, u - sent, 0.0)
    return s, (sigma, sent + s), u


def ternary(p, o, fire, current, v):
    u = p.beta * v + ((1 - p.beta) * current if o.scale_input else current)
    s = np.sign(u) * fire(np.abs(u) - p.threshold)
    after = {"subtract": u - s * p.threshold, "zero": np.where(s != 0, 0.0, u), "none": u}[o.reset]
    return s, (after,), u


def conductance_leaky(p, o, fire, excitation, inhibition, v, e, i):
    e, i = p.rho_e * e + np.clip(excitation, 0, None), p.rho_i * i + np.clip(inhibition, 0, None)
    total = 1 + e + i
    # d u / d t = v_inf - u for each unit of conductance; expm1 is how far it gets in a step.
    u = v - np.expm1(-p.dt * total) * ((p.reversal_e * e + p.reversal_i * i) / total - v)
    s = fire(u - p.threshold)
    return s, (reset(u, s, p.threshold, o.reset), e, i), u


@dataclasses.dataclass
class Entry:
    """The second entry of a neuron, and with what it is compared.

    `numbers` overrides defaults, `ranges` is between what each number is drawn for every neuron of a layer. Inputs are normal, with a mean
    and a deviation for each, on a grid of 1/16, so that sums are exact and potentials land on thresholds. `exact` where arithmetic is the
    same, operation by operation. A `constant` input makes the neuron spike as it is by default.
    """

    step: Callable[..., Any]
    ranges: dict[str, tuple[float, float]]
    drive: tuple[tuple[float, float], ...] = ((0.5, 0.75),)
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    options: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    exact: bool = True
    constant: tuple[float, ...] | None = (1.5,)
    rest: Callable[[Any], dict[str, Any]] = lambda p: {}


AT = {"spike_at_threshold": YES_NO}
RESET = {"reset": RESETS} | AT
THETA = {"threshold": (0.75, 1.5)}

ENTRIES = {
    "IntegrateAndFire": Entry(integrate_and_fire, THETA, ((0.125, 0.75),), options=RESET),
    "Leaky": Entry(
        leaky,
        THETA | {"beta": (0.25, 0.875)},
        ((0.5, 3.0),),
        numbers={"beta": 0.75},
        options=RESET | {"reset_delay": YES_NO, "scale_input": YES_NO},
    ),
    "Synaptic": Entry(
        synaptic,
        THETA | {"alpha": (0.25, 0.75), "beta": (0.25, 0.75)},
        ((0.25, 2.0),),
        numbers={"alpha": 0.5, "beta": 0.75},
        options=RESET | {"reset_delay": YES_NO, "scale_input": YES_NO},
    ),
    "Alpha": Entry(
        alpha,
        THETA | {"alpha": (0.75, 0.875), "beta": (0.25, 0.625)},
        numbers={"alpha": 0.875, "beta": 0.75},
        options=RESET | {"reset_delay": YES_NO},
        exact=False,
    ),
    "Lapicque": Entry(
        lapicque,
        THETA | {"resistance": (4.0, 6.0), "capacitance": (0.001, 0.002), "dt": (0.002, 0.004)},
        ((0.25, 0.25),),
        numbers={"capacitance": 0.0015, "dt": 0.003},
        options=RESET,
        exact=False,
    ),
    "LeakyIntegrator": Entry(
        leaky_integrator, {"beta": (0.25, 0.875)}, numbers={"beta": 0.75}, options={"scale_input": YES_NO}, exact=False, constant=None
    ),
    "RefractoryLeaky": Entry(
        refractory_leaky,
        THETA | {"beta": (0.25, 0.875), "period": (0.0, 3.0)},
        ((1.0, 0.75),),
        numbers={"beta": 0.75, "period": 2.0},
        options=RESET | {"scale_input": YES_NO},
    ),
    "Adaptive": Entry(
        adaptive,
        THETA | {"beta": (0.25, 0.875), "rho": (0.5, 0.95), "jump": (0.05, 0.5)},
        ((0.75, 3.0),),
        numbers={"beta": 0.75},
        options=RESET | {"scale_input": YES_NO},
    ),
    "AdaptiveLeaky": Entry(
        adaptive_leaky,
        THETA | {"alpha": (0.5, 0.95), "beta": (0.5, 0.98), "a": (-0.1, 0.2), "b": (0.0, 1.0)},
        ((6.0, 12.0),),
        options=RESET,
        constant=(3.0,),
    ),
    "SymplecticAdaptiveLeaky": Entry(
        symplectic_adaptive_leaky,
        THETA | {"alpha": (0.8, 0.95), "beta": (0.98, 0.997), "a": (0.1, 0.9), "b": (0.1, 1.9), "gain": (30.0, 120.0)},
        ((8.0, 16.0),),
        options=RESET,
        exact=False,
        constant=(6.0,),
    ),
    "QuadraticIF": Entry(
        quadratic_if,
        THETA
        | {"tau": (2.0, 4.0), "critical": (0.5, 0.75), "curvature": (0.5, 1.5), "rest": (-0.25, 0.25), "reset_potential": (-0.5, 0.0)},
        ((0.375, 0.5),),
        options=AT,
        exact=False,
        rest=lambda p: {"v": p.rest},
    ),
    "ExponentialIF": Entry(
        exponential_if,
        THETA
        | {"tau": (2.0, 4.0), "sharpness": (0.25, 1.0), "rheobase": (0.5, 1.0), "rest": (-0.25, 0.25), "reset_potential": (-0.5, 0.0)},
        ((0.375, 0.75),),
        options=AT,
        exact=False,
        rest=lambda p: {"v": p.rest},
    ),
    "AdEx": Entry(
        adex,
        {
            "tau": (4.0, 9.0),
            "tau_w": (50.0, 150.0),
            "sharpness": (0.1, 0.5),
            "rheobase": (0.75, 1.0),
            "rest": (-0.25, 0.25),
            "a": (0.0, 0.25),
            "b": (0.0, 0.25),
            "reset_potential": (-0.5, 0.0),
            "threshold": (1.25, 1.5),
        },
        ((2.5, 2.0),),
        options=AT,
        exact=False,
        rest=lambda p: {"v": p.rest},
    ),
    "Izhikevich": Entry(
        izhikevich,
        {"a": (0.02, 0.1), "b": (0.2, 0.25), "c": (-65.0, -50.0), "d": (2.0, 8.0), "dt": (0.25, 0.5), "threshold": (25.0, 35.0)},
        ((20.0, 20.0),),
        numbers={"dt": 0.5},
        options=AT,
        exact=False,
        constant=(10.0,),
        rest=lambda p: {"v": p.c, "w": p.b * p.c},
    ),
    "ResonateAndFire": Entry(
        resonate_and_fire,
        THETA | {"damping": (-0.5, -0.1), "omega": (0.5, 1.5), "dt": (0.5, 1.0)},
        options=AT | {"reset_phase": YES_NO, "reset": RESETS},
        exact=False,
    ),
    "BalancedResonateAndFire": Entry(
        balanced_resonate_and_fire,
        THETA | {"omega": (5.0, 60.0), "offset": (0.1, 3.0), "dt": (0.005, 0.0125), "gamma": (0.5, 0.95)},
        ((8.0, 48.0),),
        options=AT,
        exact=False,
        constant=(20.0,),
    ),
    "BalancedHarmonic": Entry(
        balanced_harmonic,
        THETA | {"omega": (5.0, 50.0), "offset": (0.1, 3.0), "dt": (0.005, 0.0125), "gamma": (0.5, 0.95)},
        ((8.0, 48.0),),
        options=AT,
        exact=False,
        constant=(40.0,),
    ),
    "GatedLeaky": Entry(
        gated_leaky,
        dict.fromkeys(("alpha", "beta", "gamma", "tau", "leak", "drop", "threshold"), (0.1, 0.9)),
        ((0.5, 0.5), (0.5, 0.25)),
        options=AT,
        exact=False,
        constant=(1.5, 0.5),
    ),
    "ComplementaryLeaky": Entry(complementary_leaky, THETA | {"tau": (1.5, 4.0)}, ((0.75, 0.75),), options=AT, exact=False),
    "TwoCompartment": Entry(
        two_compartment, THETA | {"dendrite": (0.1, 0.9), "soma": (0.1, 0.9), "gamma": (0.0, 1.0)}, ((0.25, 0.5),), options=RESET
    ),
    "KLIF": Entry(klif, THETA | {"tau": (1.5, 4.0), "k": (0.75, 1.5)}, ((1.5, 1.0),), options=RESET),
    "IntegerLeaky": Entry(
        integer_leaky, THETA | {"beta": (0.0, 0.5)}, ((0.5, 1.5),), options=AT | {"levels": (1, 4)}, numbers={"threshold": 1.0}
    ),
    "SigmaDelta": Entry(sigma_delta, {"threshold": (0.1, 1.0)}, ((0.0625, 0.5),), numbers={"threshold": 0.5}, options=AT),
    "Ternary": Entry(ternary, {"threshold": (0.5, 1.0), "beta": (0.25, 0.875)}, ((0.0, 0.75),), options=RESET | {"scale_input": YES_NO}),
    "ConductanceLeaky": Entry(
        conductance_leaky,
        THETA | {"rho_e": (0.5, 0.9), "rho_i": (0.5, 0.9), "dt": (0.05, 0.2), "reversal_e": (4.0, 6.0), "reversal_i": (-2.0, -0.5)},
        ((0.5, 0.75), (0.125, 0.5)),
        options=RESET,
        exact=False,
        constant=(0.25, 0.0),
    ),
}


def built(name: str, **options: Any) -> Any:
    """The neuron with the numbers of its entry, and the options that it reads together."""
    options = {key: value for key, value in options.items() if key != "reset" or not options.get("reset_phase")}
    return CATALOGUE[name](**ENTRIES[name].numbers, **options)


def combinations(name: str) -> list[dict[str, Any]]:
    options = ENTRIES[name].options
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def drawn(name: str, steps: int = STEPS) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [np.round(16 * random.normal(mean, deviation, (steps, BATCH, FEATURES))) / 16 for mean, deviation in ENTRIES[name].drive]


def numbers_for_each(name: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {number: random.uniform(*within, FEATURES) for number, within in ENTRIES[name].ranges.items()}


def given(inputs: list[np.ndarray], dtype: torch.dtype = torch.float64) -> Any:
    tensors = tuple(torch.tensor(x, dtype=dtype) for x in inputs)
    return tensors if len(tensors) > 1 else tensors[0]


def as_tuple(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def expected(name: str, neuron: Any, inputs: list[np.ndarray], numbers: dict[str, Any]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Outputs, states after the last step, and potentials, in NumPy."""
    p = types.SimpleNamespace(**numbers)
    above = np.greater_equal if neuron.spike_at_threshold else np.greater
    rest = ENTRIES[name].rest(p)
    states = [np.zeros(inputs[0].shape[1:]) + rest.get(state, 0.0) for state in neuron.states]
    outputs, potentials = [], []
    for arriving in zip(*inputs, strict=True):
        s, states, u = ENTRIES[name].step(p, neuron, lambda x: above(x, 0).astype(float), *arriving, *states)
        outputs.append(s)
        potentials.append(u)
    return np.stack(outputs), [np.broadcast_to(x, outputs[0].shape) for x in states], np.stack(potentials)


def test_every_neuron_has_a_second_entry():
    assert sorted(ENTRIES) == sorted(CATALOGUE)
    for name, cls in CATALOGUE.items():
        assert set(ENTRIES[name].ranges) == set(cls.numbers), name


@pytest.mark.parametrize("each", [False, True], ids=["one number", "a number for each neuron"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_agrees_with_its_second_entry(name, each):
    """In every option: outputs, potentials at each step and states after the last, exactly or to the rounding of other operations."""
    values, inputs = numbers_for_each(name) if each else {}, drawn(name)
    rates = []
    for options in combinations(name):
        neuron = built(name, **options)
        layer = nn.Layer(neuron, values={key: torch.tensor(value) for key, value in values.items()}, backend="reference")
        outputs, state, potentials = layer(given(inputs), record=True)
        wanted = expected(name, neuron, inputs, neuron.parameters | values)
        pairs = [(outputs, wanted[0]), (potentials, wanted[2]), *zip(as_tuple(state), wanted[1], strict=True)]
        for got, want in pairs:
            if ENTRIES[name].exact:
                np.testing.assert_array_equal(got.detach().numpy(), want, err_msg=str(options))
            else:
                np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12, atol=1e-12 * np.abs(want).max(), err_msg=str(options))
        rates.append(np.mean(wanted[0] != 0))
    if ENTRIES[name].constant is not None:
        assert min(rates) > 0.05, rates
        assert max(rates) < 0.95, rates


@pytest.mark.parametrize("name", [name for name in CATALOGUE if "spike_at_threshold" in ENTRIES[name].options])
def test_a_potential_at_the_threshold_spikes_as_told(name):
    """The threshold is set to what the potential is; that of a fired spike may depend on it, so that none has been fired before."""
    high = {"threshold": torch.full((FEATURES,), 1e9, dtype=torch.float64)}
    for at_threshold in YES_NO:
        neuron = CATALOGUE[name](**ENTRIES[name].numbers, spike_at_threshold=at_threshold)
        rising = 8.0 if name == "Izhikevich" else 1.0
        inputs = tuple(torch.full((2, FEATURES), rising, dtype=torch.float64) for _ in neuron.inputs)
        arriving = inputs if len(inputs) > 1 else inputs[0]
        _, _, u = nn.Layer(neuron, values=high, backend="reference")(arriving, record=True)
        reached = u[-1].detach() * (2.0 if name == "IntegerLeaky" else 1.0)  # whose first stair is at half a threshold
        spikes, _ = nn.Layer(neuron, values={"threshold": reached}, backend="reference")(arriving)
        assert (spikes[-1] != 0).all() == at_threshold
        assert (spikes[-1] != 0).any() == at_threshold


@pytest.mark.parametrize("name", [name for name in CATALOGUE if ENTRIES[name].constant is not None])
def test_a_constant_input_makes_the_defaults_spike(name):
    required = {key: ENTRIES[name].numbers[key] for key in ENTRIES[name].numbers if key in ("alpha", "beta")}
    constant = tuple(torch.full((300, 1), value) for value in ENTRIES[name].constant)
    spikes, state = nn.Layer(CATALOGUE[name](**required), backend="reference")(constant if len(constant) > 1 else constant[0])
    assert (spikes != 0).sum() >= (1 if name == "SigmaDelta" else 2)
    assert all(x.isfinite().all() for x in as_tuple(state))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", CATALOGUE)
def test_an_extreme_input_leaves_no_nan(name, sign):
    """A step of 1e30, in float32, whose square is infinite: all states stay finite, and so do the gradients of what comes after."""
    inputs = [torch.tensor(x, dtype=torch.float32) for x in drawn(name, 80)]
    for x in inputs[: 1 if name == "GatedLeaky" else 2]:  # whose conductances are from 0 to 1
        x[5] = sign * 1e30
    inputs = [x.requires_grad_() for x in inputs]
    for options in combinations(name)[::2]:
        layer = nn.Layer(built(name, **options), backend="reference")
        outputs, state, potentials = layer(tuple(inputs) if len(inputs) > 1 else inputs[0], record=True)
        assert all(x.isfinite().all() for x in (outputs, potentials, *as_tuple(state))), options
        gradients = torch.autograd.grad(outputs[20:].sum(), inputs)
        assert all(x.isfinite().all() for x in gradients), options


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_number_can_be_learned_unless_it_says_so(name):
    neuron, values = built(name), numbers_for_each(name)
    documented = re.findall(r"learned `(\w+)` gets no gradient", " ".join(neuron.__doc__.split()))
    for number in documented:
        with pytest.raises(ValueError, match=f"`{number}` of {name} cannot be learned"):
            nn.Layer(neuron, learn=number)
    learn = tuple(number for number in neuron.numbers if number not in documented)
    layer = nn.Layer(neuron, learn=learn, values={k: torch.tensor(v) for k, v in values.items()}, backend="reference")
    outputs, state, potentials = layer(given(drawn(name)), record=True)
    (outputs.mean() + potentials.sin().mean() + sum(x.sum() for x in as_tuple(state))).backward()
    for number in learn:
        (gradient,) = (p.grad for key, p in layer.named_parameters() if key.rpartition("_")[0] == number)
        assert gradient.isfinite().all(), number
        assert (gradient != 0).any(), number


# What is documented.

SECTIONS = ("Args", "States", "Options", "Elsewhere", "References", "Example")
LIBRARIES = ("SpikingJelly", "Norse", "sinabs", "spyx", "snnTorch", "braintools", "braincell", "lava-dl")


def sections(cls: type) -> dict[str, str]:
    text = inspect.cleandoc(cls.__doc__ or "")
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", text, flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def named(section: str) -> set[str]:
    """The names that a section explains, one or several a line."""
    lines = re.findall(r"^    (\w+(?:, \w+)*): ", section, flags=re.MULTILINE)
    return {name for line in lines for name in line.split(", ")}


def has_use_for(name: str, options: dict[str, Any]) -> bool:
    try:
        CATALOGUE[name](**ENTRIES[name].numbers, **options)
    except ValueError as error:
        return "has no use" not in str(error)
    return True


def options_read(name: str) -> set[str]:
    """What its step reads in any structure, apart from the surrogate: found by asking for another value."""
    found = set()
    for field in dataclasses.fields(CATALOGUE[name]):
        if isinstance(field.default, bool) or field.name == "reset":
            other = "none" if field.name == "reset" else not field.default
            structures = [{key: x for key, x in each.items() if key == "reset_phase"} for each in combinations(name)]
            found |= {field.name for each in structures if has_use_for(name, each | {field.name: other})}
    return found


@pytest.mark.parametrize("name", CATALOGUE)
def test_documents_everything_it_has(name):
    cls, found = CATALOGUE[name], sections(CATALOGUE[name])
    assert tuple(found) == ("", *SECTIONS)
    assert ".. math::" in found[""]
    assert named(found["Args"]) == {*cls.numbers, *(f.name for f in dataclasses.fields(cls) if f.name == "levels")}
    assert named(found["States"]) == set(cls.states)
    assert named(found["Options"]) == options_read(name)
    assert {library for library in LIBRARIES if library in found["Elsewhere"]} == set(LIBRARIES)


@pytest.mark.parametrize("name", CATALOGUE)
def test_cites_papers_that_are_there(name):
    keys = citation.references(CATALOGUE[name])
    assert keys
    assert set(keys) <= citation.bibliography().keys()
    assert all(key in CATALOGUE[name].cite() for key in keys)


@pytest.mark.parametrize("name", CATALOGUE)
def test_shows_an_example_and_steps_in_few_lines(name):
    cls = CATALOGUE[name]
    example = [line for line in sections(cls)["Example"].splitlines() if line.strip().startswith(">>>")]
    assert 3 <= len(example) <= 6
    assert f"{name}(" in sections(cls)["Example"]
    body = inspect.getsource(cls.step).splitlines()[1:]
    assert len(body) <= (14 if name == "Leaky" else 10)


# What single neurons say of themselves.


def test_conductances_keep_the_potential_between_their_levels():
    """However strong: an Euler step would leave them, and inhibition would spike."""
    strong = torch.tensor([0.0, 1.0, 30.0, 1e3, 1e6]).expand(50, 5)
    _, _, inhibited = nn.Layer(ConductanceLeaky(), backend="reference")((strong * 0, strong), record=True)
    _, _, both = nn.Layer(ConductanceLeaky(reset="none"), backend="reference")((strong, strong), record=True)
    assert inhibited.min() >= -2.0
    assert inhibited.max() <= 0.0
    assert both.min() >= -2.0
    assert both.max() <= 6.0


@pytest.mark.parametrize("name", ["ExponentialIF", "AdEx"])
def test_a_sharp_upstroke_does_not_overflow(name):
    """Just below the threshold its exponent is 190: infinite in float32, and an infinite potential would be NaN after the reset."""
    layer = nn.Layer(CATALOGUE[name](sharpness=0.001, rheobase=0.8, threshold=1.0), backend="reference")
    start = tuple(torch.full((1,), x, requires_grad=True) for x in (0.99, 0.0)[: len(layer.neuron.states)])
    spikes, state = layer(torch.zeros(5, 1), start if len(start) > 1 else start[0])
    (gradient,) = torch.autograd.grad(spikes.sum(), start[:1])
    assert spikes.ravel().tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert all(x.isfinite() for x in (*as_tuple(state), gradient))


def test_a_frequency_learned_beyond_the_boundary_stays_finite():
    layer = nn.Layer(BalancedResonateAndFire(), learn="omega", backend="reference").double()
    with torch.no_grad():
        layer.omega_log.fill_(np.log(150.0))
    currents = torch.full((20, 1), 20.0, dtype=torch.float64, requires_grad=True)
    spikes, _, u = layer(currents, record=True)
    (spikes.sum() + u.sum()).backward()
    assert u.isfinite().all()
    assert currents.grad.isfinite().all()
    assert layer.omega_log.grad.isfinite()


def test_refuses_what_makes_no_neuron():
    with pytest.raises(ValueError, match="needs `levels` of at least 1"):
        IntegerLeaky(levels=0)
    with pytest.raises(ValueError, match="has no use for `reset`"):
        ResonateAndFire(reset="subtract")
    assert ResonateAndFire(reset="subtract", reset_phase=False).reset == "subtract"
    with pytest.raises(ValueError, match="`dt \\* omega` of at most 1"):
        BalancedResonateAndFire(omega=101.0)
