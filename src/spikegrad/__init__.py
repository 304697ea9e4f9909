"""Surrogate gradients for spiking neural networks: each written once, right, and running everywhere."""

from typing import TYPE_CHECKING, Any

from spikegrad import functional as functional
from spikegrad.checking import check as check
from spikegrad.citation import cite as cite
from spikegrad.formulas import CATALOGUE as CATALOGUE
from spikegrad.formulas.compact import Boxcar as Boxcar
from spikegrad.formulas.compact import SparseFastSigmoid as SparseFastSigmoid
from spikegrad.formulas.compact import Triangle as Triangle
from spikegrad.formulas.exponential import S2NN as S2NN
from spikegrad.formulas.exponential import Exponential as Exponential
from spikegrad.formulas.exponential import Gaussian as Gaussian
from spikegrad.formulas.exponential import PeriodicExponential as PeriodicExponential
from spikegrad.formulas.exponential import Sigmoid as Sigmoid
from spikegrad.formulas.leaky import Heaviside as Heaviside
from spikegrad.formulas.leaky import LeakyStep as LeakyStep
from spikegrad.formulas.leaky import LogTailedReLU as LogTailedReLU
from spikegrad.formulas.leaky import StraightThrough as StraightThrough
from spikegrad.formulas.rational import ATan as ATan
from spikegrad.formulas.rational import Circle as Circle
from spikegrad.formulas.rational import FastSigmoid as FastSigmoid
from spikegrad.formulas.rational import InverseAbs as InverseAbs
from spikegrad.formulas.rational import NonzeroSignLog as NonzeroSignLog
from spikegrad.formulas.rational import QPseudoSpike as QPseudoSpike
from spikegrad.formulas.signed import Fourier as Fourier
from spikegrad.formulas.signed import MultiGaussian as MultiGaussian
from spikegrad.formulas.stochastic import NoisyThreshold as NoisyThreshold
from spikegrad.formulas.stochastic import StochasticLeak as StochasticLeak
from spikegrad.neuron import Neuron as Neuron
from spikegrad.neuron import State as State
from spikegrad.neuron import Step as Step
from spikegrad.ranges import Between as Between
from spikegrad.ranges import Decay as Decay
from spikegrad.ranges import Fraction as Fraction
from spikegrad.ranges import NonNegative as NonNegative
from spikegrad.ranges import Positive as Positive
from spikegrad.ranges import Unbounded as Unbounded
from spikegrad.ranges import decay as decay
from spikegrad.recorded import from_formula as from_formula
from spikegrad.state import detach as detach
from spikegrad.surrogate import Surrogate as Surrogate

if TYPE_CHECKING:
    from spikegrad.exchange import from_nir as from_nir
    from spikegrad.exchange import to_nir as to_nir
    from spikegrad.exchange import to_onnx as to_onnx
    from spikegrad.insight import SlopeSchedule as SlopeSchedule
    from spikegrad.insight import cost as cost
    from spikegrad.insight import diagnose as diagnose
    from spikegrad.insight import fluctuation_driven as fluctuation_driven
    from spikegrad.insight import match as match
    from spikegrad.insight import record as record
    from spikegrad.nn import Spikes as Spikes

_LATER = {
    **dict.fromkeys(("SlopeSchedule", "cost", "diagnose", "fluctuation_driven", "match", "record"), "insight"),
    **dict.fromkeys(("from_nir", "to_nir", "to_onnx"), "exchange"),
    "Spikes": "nn",
}
"""Names that need PyTorch, which is loaded with the first of them, and where they are."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"spikegrad.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
