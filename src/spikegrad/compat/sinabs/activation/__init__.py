"""``sinabs.activation``: the names, defaults and argument order of sinabs 3.1.3, on spikegrad's formulas."""

from spikegrad.compat.sinabs.activation.quantize import Quantize as Quantize
from spikegrad.compat.sinabs.activation.quantize import StochasticRounding as StochasticRounding
from spikegrad.compat.sinabs.activation.reset_mechanism import MembraneReset as MembraneReset
from spikegrad.compat.sinabs.activation.reset_mechanism import MembraneSubtract as MembraneSubtract
from spikegrad.compat.sinabs.activation.spike_generation import MaxSpike as MaxSpike
from spikegrad.compat.sinabs.activation.spike_generation import MultiSpike as MultiSpike
from spikegrad.compat.sinabs.activation.spike_generation import SingleSpike as SingleSpike
from spikegrad.compat.sinabs.activation.surrogate_gradient_fn import Gaussian as Gaussian
from spikegrad.compat.sinabs.activation.surrogate_gradient_fn import Heaviside as Heaviside
from spikegrad.compat.sinabs.activation.surrogate_gradient_fn import MultiGaussian as MultiGaussian
from spikegrad.compat.sinabs.activation.surrogate_gradient_fn import PeriodicExponential as PeriodicExponential
from spikegrad.compat.sinabs.activation.surrogate_gradient_fn import SingleExponential as SingleExponential
