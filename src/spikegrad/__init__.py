"""Surrogate gradients for spiking neural networks: each written once, right, and running everywhere."""

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
from spikegrad.surrogate import NonNegative as NonNegative
from spikegrad.surrogate import Positive as Positive
from spikegrad.surrogate import Surrogate as Surrogate
