"""SpikeDE's surrogates on spikegrad: ``from spikegrad.compat.spikede import surrogate`` for ``from spikeDE import surrogate``.

Only the surrogates: its neurons are differential equations that its own solvers integrate, and they take these functions.
"""

from spikegrad.compat.spikede import surrogate as surrogate
from spikegrad.compat.spikede.surrogate import ArctanSurrogate as ArctanSurrogate
from spikegrad.compat.spikede.surrogate import GaussianSurrogate as GaussianSurrogate
from spikegrad.compat.spikede.surrogate import NoisyThresholdSpikeModule as NoisyThresholdSpikeModule
from spikegrad.compat.spikede.surrogate import PiecewiseLinearSurrogate as PiecewiseLinearSurrogate
from spikegrad.compat.spikede.surrogate import SigmoidSurrogate as SigmoidSurrogate
from spikegrad.compat.spikede.surrogate import arctan_surrogate as arctan_surrogate
from spikegrad.compat.spikede.surrogate import gaussian_surrogate as gaussian_surrogate
from spikegrad.compat.spikede.surrogate import noisy_threshold_spike as noisy_threshold_spike
from spikegrad.compat.spikede.surrogate import piecewise_linear_surrogate as piecewise_linear_surrogate
from spikegrad.compat.spikede.surrogate import sigmoid_surrogate as sigmoid_surrogate
