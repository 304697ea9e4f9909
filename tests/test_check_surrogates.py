"""What a check finds wrong with a surrogate that is finite and smooth, and what it lets pass."""

from __future__ import annotations

import pytest

import spikegrad
from spikegrad import CATALOGUE, ATan, MultiGaussian, Surrogate, agreement, from_formula
from spikegrad.neurons import Leaky
from spikegrad.vocabulary import arctan, exp, sin, where

WRONG = {
    "negative": (lambda: from_formula(lambda x: -1 / (1 + x**2)), "nowhere positive"),
    "zero": (lambda: from_formula(lambda x: x * 0), "nowhere positive, at most 0: a network would learn nothing"),
    "zero by its scale": (lambda: ATan(scale=0.0), "nowhere positive"),
    "negative by its scale": (lambda: ATan(scale=-1.0), "nowhere positive"),
    "negative by its height": (lambda: from_formula(lambda x, height: height * exp(-abs(x)), height=-2.0), "nowhere positive"),
    "never above zero": (lambda: from_formula(lambda x: where(abs(x) < 1, -0.5 + 0 * x, 0 * x)), "nowhere positive"),
    "odd": (lambda: from_formula(lambda x: x * exp(-(x**2))), "does not rise on the whole: its area is"),
    "falls on the whole": (
        lambda: from_formula(lambda x: 2 * exp(-abs(x)) - exp(-abs(x) / 4)),
        "does not rise on the whole: its area is -4,",
    ),
    "another's primitive": (lambda: from_formula(lambda x: 1 / (1 + x**2), primitive=lambda x: arctan(x) / 3), "not an antiderivative"),
    "primitive with a sign": (lambda: from_formula(lambda x: 1 / (1 + x**2), primitive=lambda x: -arctan(x)), "not an antiderivative"),
    "primitive with a jump": (
        lambda: from_formula(lambda x: 1 / (1 + x**2), primitive=lambda x: arctan(x) + where(x < 0.5, 0 * x, 0.5)),
        "not an antiderivative",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_surrogate_that_does_not_stand_for_a_step_is_found(what):
    make, match = WRONG[what]
    with pytest.raises(ValueError, match=match):
        spikegrad.check(make())


def test_what_is_signed_on_purpose_passes_where_its_docstring_says_so():
    for name in CATALOGUE:
        spikegrad.check(CATALOGUE[name])
    spikegrad.check(MultiGaussian(lobe=0.5))
    spikegrad.check(MultiGaussian(lobe=1.5))  # its area is stated to be 1 - lobe
    spikegrad.check(from_formula(lambda x: exp(-abs(x)) * (1 + 2 * sin(x))))  # negative in places, and it says nothing

    class Odd(Surrogate):
        """Falls below threshold as much as it rises above.

        Facts:
            area: 0
        """

        def derivative(self, x):
            return x * exp(-(x**2))

    spikegrad.check(Odd)


def test_a_neuron_is_checked_with_its_surrogate(monkeypatch):
    monkeypatch.setattr(agreement, "find_spec", lambda name: None)
    spikegrad.check(Leaky(0.9))
    with pytest.raises(ValueError, match=r"Leaky\(.*\n- its surrogate ATan\(slope=2.0, scale=-1.0\): the derivative is nowhere positive"):
        spikegrad.check(Leaky(0.9, spike=ATan(scale=-1.0)))
