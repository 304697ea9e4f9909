"""Surrogate gradients for spiking neural networks: each written once, right, and running everywhere."""

from spikegrad.formulas.leaky import StraightThrough as StraightThrough
from spikegrad.formulas.rational import ATan as ATan
from spikegrad.formulas.stochastic import NoisyThreshold as NoisyThreshold
from spikegrad.surrogate import Positive as Positive
from spikegrad.surrogate import Surrogate as Surrogate
