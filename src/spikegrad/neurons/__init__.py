"""The catalogue of neurons: equations, their words and their sources, nothing else."""

from __future__ import annotations

from spikegrad.neuron import Neuron
from spikegrad.neurons.adaptive import Adaptive as Adaptive
from spikegrad.neurons.adaptive import AdaptiveLeaky as AdaptiveLeaky
from spikegrad.neurons.adaptive import SymplecticAdaptiveLeaky as SymplecticAdaptiveLeaky
from spikegrad.neurons.discrete import IntegerLeaky as IntegerLeaky
from spikegrad.neurons.discrete import SigmaDelta as SigmaDelta
from spikegrad.neurons.discrete import Ternary as Ternary
from spikegrad.neurons.gated import KLIF as KLIF
from spikegrad.neurons.gated import ComplementaryLeaky as ComplementaryLeaky
from spikegrad.neurons.gated import GatedLeaky as GatedLeaky
from spikegrad.neurons.gated import TwoCompartment as TwoCompartment
from spikegrad.neurons.leaky import IntegrateAndFire as IntegrateAndFire
from spikegrad.neurons.leaky import Lapicque as Lapicque
from spikegrad.neurons.leaky import Leaky as Leaky
from spikegrad.neurons.leaky import LeakyIntegrator as LeakyIntegrator
from spikegrad.neurons.leaky import RefractoryLeaky as RefractoryLeaky
from spikegrad.neurons.nonlinear import AdEx as AdEx
from spikegrad.neurons.nonlinear import ExponentialIF as ExponentialIF
from spikegrad.neurons.nonlinear import Izhikevich as Izhikevich
from spikegrad.neurons.nonlinear import QuadraticIF as QuadraticIF
from spikegrad.neurons.resonant import BalancedHarmonic as BalancedHarmonic
from spikegrad.neurons.resonant import BalancedResonateAndFire as BalancedResonateAndFire
from spikegrad.neurons.resonant import ResonateAndFire as ResonateAndFire
from spikegrad.neurons.synaptic import Alpha as Alpha
from spikegrad.neurons.synaptic import ConductanceLeaky as ConductanceLeaky
from spikegrad.neurons.synaptic import Synaptic as Synaptic

CATALOGUE: dict[str, type[Neuron]] = {
    name: value for name, value in sorted(globals().items()) if isinstance(value, type) and value.__module__.startswith(f"{__name__}.")
}
"""Every neuron by its name."""
